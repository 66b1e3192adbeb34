"""FCOS-MAML: labels, losses and boxes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from meta_train.detectors.cells import cell_centers
from meta_train.detectors.fcos import Fcos, FcosConfig, FcosLabels

FCOS = Fcos(FcosConfig())
ORACLE = json.loads((Path(__file__).parent / "data" / "fovea_assignment.json").read_text())
BOX = torch.tensor([[99.5, 115.5, 163.5, 147.5]])  # 64 x 32 about the centre of cell 16

boxes = st.tuples(st.floats(5, 180), st.floats(5, 180), st.floats(12, 80), st.floats(12, 80)).map(
    lambda b: torch.tensor([[b[0], b[1], b[0] + b[2], b[1] + b[3]]], dtype=torch.float64)
)


def label(box: Tensor, present: bool = True, **changes: float) -> FcosLabels:
    fcos = Fcos(replace(FCOS.config, **changes))
    return fcos.label(box, torch.tensor([present] * len(box)))


def test_labels_of_one_box_by_hand() -> None:
    """Cell centres are 3.5 + 8k: x in 107.5..155.5 and y in 123.5..139.5 lie inside."""
    found = label(BOX)
    inside = torch.zeros(33, 33)
    inside[15:18, 13:20] = 1
    assert torch.equal(found.inside[0, 0], inside)

    central = torch.zeros(33, 33)  # within 0.3 of the size: 19.2 px and 9.6 px of the centre
    central[15:18, 14:19] = 1
    assert torch.equal(found.central[0, 0], central)

    assert found.distances[0, :, 16, 16].tolist() == [0.0, -2.0, 0.0, -2.0]  # (32 - 32) / 8 ...
    assert found.distances[0, :, 15, 14].tolist() == [-2.0, -3.0, 2.0, -1.0]
    expected = (16 / 48 * 8 / 24) ** 0.5
    assert float(found.centerness[0, 0, 15, 14]) == pytest.approx(expected)
    assert float(found.centerness[0, 0, 16, 16]) == 1.0
    assert float((found.centerness * (1 - found.inside)).abs().max()) == 0


@given(box=boxes)
@settings(max_examples=40, deadline=None)
def test_centerness_falls_from_the_centre_and_is_bounded(box: Tensor) -> None:
    found = label(box)
    assert float(found.centerness.min()) >= 0 and float(found.centerness.max()) <= 1
    assert ((found.centerness > 0) == (found.inside > 0)).all()
    x, y = cell_centers(box)
    center = (box[0, :2] + box[0, 2:]) / 2
    nearest = ((x - center[0]) ** 2 + (y - center[1]) ** 2).argmin()
    assert found.central.flatten()[nearest] == 1


@given(box=boxes)
@settings(max_examples=40, deadline=None)
def test_decoding_the_labels_gives_the_box_in_every_cell(box: Tensor) -> None:
    labels = label(box)
    found, scores = FCOS.decode({"reg": labels.distances, "cls": labels.centerness})
    assert found.shape == (1, 1089, 4) and scores.shape == (1, 1089)
    torch.testing.assert_close(found, box[:, None].expand_as(found))
    assert torch.equal(scores[0].view(33, 33), labels.centerness[0, 0])


def test_boxes_of_bf16_outputs_keep_their_cells() -> None:
    """bfloat16 knows no 131.5, the centre of cell 16."""
    maps = {"reg": torch.zeros(1, 4, 33, 33).bfloat16(), "cls": torch.zeros(1, 1, 33, 33)}
    found, _ = FCOS.decode(maps)
    assert found.dtype == torch.float32
    assert found[0, 16 * 33 + 16].tolist() == [99.5, 99.5, 163.5, 163.5]


@pytest.mark.parametrize("case", ORACLE["cases"], ids=lambda case: str(case["box"]))
def test_central_cells_and_their_targets_agree_with_the_sibling_tracker(case: dict) -> None:
    """Its cells sit at 8k + 3, ours at 8k + 3.5 (pixel i covers [i, i + 1])."""
    box = torch.tensor([case["box"]], dtype=torch.float64) + 0.5
    found = label(box)
    ours = set(found.central.flatten().nonzero().flatten().tolist())
    assert ours == set(case["positives"])
    targets = found.distances[0].flatten(1).T[case["positives"]]
    torch.testing.assert_close(targets, torch.tensor(case["targets"], dtype=targets.dtype))


@pytest.mark.parametrize("aspect", [1 / 30, 6.0, 30.0])
def test_every_present_target_has_a_cell_that_regresses(aspect: float) -> None:
    half = torch.tensor([60.0, 60.0 / aspect] if aspect > 1 else [60.0 * aspect, 60.0])
    center = torch.tensor([135.0, 136.0])
    found = label(torch.cat([center - half, center + half])[None])
    assert found.central.sum() >= 1


def random_outputs(count: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "cls": torch.randn(count, 1, 33, 33, generator=generator),
        "reg": torch.randn(count, 4, 33, 33, generator=generator),
    }


def test_losses_are_l2_balanced_and_l1_on_central_cells() -> None:
    outputs, labels = random_outputs(), label(BOX)
    found = FCOS.losses(outputs, labels)
    error = (outputs["cls"] - labels.centerness) ** 2
    inside = labels.inside.bool()
    assert float(found["cls"]) == pytest.approx(
        2.0 * float(error[inside].mean() + error[~inside].mean()), rel=1e-5
    )
    central = labels.central.bool().expand(-1, 4, -1, -1)
    distance = (outputs["reg"] - labels.distances).abs()[central].mean()
    assert float(found["reg"]) == pytest.approx(5.0 * float(distance), rel=1e-5)


def test_plain_mean_of_the_scores_loss() -> None:
    fcos = Fcos(replace(FCOS.config, balance_cells=False, cls_weight=3.0))
    outputs, labels = random_outputs(), label(BOX)
    expected = 3.0 * ((outputs["cls"] - labels.centerness) ** 2).mean()
    assert float(fcos.losses(outputs, labels)["cls"]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(("present", "num_worst"), [(True, 42), (False, 32)])
def test_only_the_worst_cells_outside_count(present: bool, num_worst: int) -> None:
    """Two for each of the 21 cells inside the box; for 16 where there is no target."""
    fcos = Fcos(replace(FCOS.config, negatives_per_positive=2.0))
    labels = label(BOX, present)
    scores = torch.rand((1, 1, 33, 33), generator=torch.Generator().manual_seed(0))
    scores.requires_grad_()
    found = fcos.losses({"cls": scores}, labels)["cls"]

    error = ((scores - labels.centerness) ** 2).detach()
    worst = error[labels.inside == 0].sort(descending=True).values[:num_worst]
    inside = error[labels.inside == 1].mean() if present else 0.0
    assert float(found.detach()) == pytest.approx(float(2.0 * (inside + worst.mean())))
    (gradient,) = torch.autograd.grad(found.sum(), scores)
    assert int((gradient[labels.inside == 0] != 0).sum()) == num_worst


def test_an_absent_target_is_background_everywhere() -> None:
    outputs, labels = random_outputs(), label(BOX, present=False)
    assert labels.inside.sum() == labels.central.sum() == labels.centerness.sum() == 0
    found = FCOS.losses(outputs, labels)
    assert float(found["reg"]) == 0
    assert float(found["cls"]) == pytest.approx(2.0 * float((outputs["cls"] ** 2).mean()), rel=1e-5)


def test_each_image_has_its_own_loss_and_each_branch_its_own_entry() -> None:
    outputs = random_outputs(2)
    both = torch.cat([BOX, BOX + 40])
    together = FCOS.losses(outputs, label(both))
    for i in range(2):
        alone = FCOS.losses({b: x[i : i + 1] for b, x in outputs.items()}, label(both[i : i + 1]))
        for branch in ("cls", "reg"):
            torch.testing.assert_close(together[branch][i : i + 1], alone[branch])
    assert list(FCOS.losses({"reg": outputs["reg"]}, label(both))) == ["reg"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"central_fraction": 0.0}, r"central_fraction must be in \(0, 1\], got 0.0"),
        ({"distance_std_px": 0.0}, "distance_std_px must be positive"),
        ({"reg_weight": 0.0}, "loss weights must be positive"),
        ({"negatives_per_positive": 0.0}, "negatives_per_positive must be positive, got 0.0"),
        ({"negatives_per_positive": 3.0, "balance_cells": False}, "needs balance_cells"),
    ],
)
def test_config_refuses(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FcosConfig(**changes)
