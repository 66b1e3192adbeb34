"""Retina-MAML: assignment, losses and boxes, against torchvision's own matcher and coder."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_iou, sigmoid_focal_loss

from meta_train.detectors.retina import Retina, RetinaConfig, RetinaLabels

RETINA = Retina(RetinaConfig())
CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))
BOX = torch.tensor([[99.5, 99.5, 163.5, 163.5]], dtype=torch.float64)  # the anchor of cell 16, 16

boxes = st.tuples(st.floats(0, 220), st.floats(0, 220), st.floats(8, 160), st.floats(8, 160)).map(
    lambda b: torch.tensor([[b[0], b[1], b[0] + b[2], b[1] + b[3]]], dtype=torch.float64)
)


def label(box: Tensor, present: bool = True) -> RetinaLabels:
    return RETINA.label(box, torch.tensor([present] * len(box)))


def anchors() -> Tensor:
    """64x64 about each cell's centre, 8k + 3.5, row by row."""
    centers = torch.arange(33, dtype=torch.float64) * 8 + 3.5
    y, x = torch.meshgrid(centers, centers, indexing="ij")
    return torch.stack([x - 32, y - 32, x + 32, y + 32], dim=-1).view(-1, 4)


def random_outputs(count: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = {"cls": (count, 1, 33, 33), "reg": (count, 4, 33, 33)}
    return {
        branch: torch.randn(size, generator=generator, dtype=torch.float64)
        for branch, size in shape.items()
    }


def test_labels_of_one_box_by_hand() -> None:
    """IoU of two 64x64 boxes k cells apart: (64 - 8k) / (64 + 8k), .6 at two cells, .45 at 3."""
    found = label(BOX)
    row = found.positive[0, 0, 16]
    assert row.nonzero().flatten().tolist() == [14, 15, 16, 17, 18]
    ignored = (found.counted[0, 0, 16] == 0).nonzero().flatten().tolist()
    assert ignored == [12, 13, 19, 20], "1/3 at 4 cells is above .3, 3/13 at 5 cells below"
    assert found.offsets[0, :, 16, 16].tolist() == [0, 0, 0, 0]
    expected = torch.tensor([-8 / 64 / 0.1, 8 / 64 / 0.1, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(found.offsets[0, :, 15, 17], expected)
    assert (found.offsets * (1 - found.positive)).abs().max() == 0


@given(box=boxes)
@settings(max_examples=40, deadline=None)
def test_assignment_and_targets_agree_with_torchvision(box: Tensor) -> None:
    found = label(box)
    overlap = box_iou(box, anchors())
    matches = Matcher(0.5, 0.3, allow_low_quality_matches=True)(overlap)
    on_the_edge = ((overlap - 0.5).abs() < 1e-9) | ((overlap - 0.3).abs() < 1e-9)
    ties = (overlap - overlap.amax()).abs() < 1e-12
    clear = ~(on_the_edge | ties)[0]
    positive, counted = found.positive.flatten().bool(), found.counted.flatten().bool()
    assert torch.equal(positive[clear], (matches >= 0)[clear])
    assert torch.equal(counted[clear], (matches != Matcher.BETWEEN_THRESHOLDS)[clear])
    assert positive[overlap.argmax()]
    targets = CODER.encode_single(box.expand(33 * 33, 4), anchors())
    torch.testing.assert_close(found.offsets[0].flatten(1).T[positive], targets[positive])


@pytest.mark.parametrize("aspect", [1 / 30, 1 / 6, 2.3, 6.0, 30.0])
def test_every_present_target_has_a_positive_anchor(aspect: float) -> None:
    half = torch.tensor([32 * aspect**0.5, 32 / aspect**0.5], dtype=torch.float64)
    center = torch.tensor([135.0, 136.0], dtype=torch.float64)
    box = torch.cat([center - half, center + half])[None]
    assert box_iou(box, anchors()).max() < 0.5
    found = label(box)
    assert found.positive.sum() >= 1
    decoded, _ = RETINA.decode({"reg": found.offsets, "cls": found.positive})
    chosen = decoded[0][found.positive.flatten().bool()]
    torch.testing.assert_close(chosen, box.expand_as(chosen))


@given(box=boxes)
@settings(max_examples=20, deadline=None)
def test_boxes_come_back_from_their_targets(box: Tensor) -> None:
    maps = random_outputs()
    found, scores = RETINA.decode(maps)
    expected = CODER.decode_single(maps["reg"][0].flatten(1).T, anchors())
    torch.testing.assert_close(found[0], expected)
    labels = label(box)
    decoded, _ = RETINA.decode({"reg": labels.offsets, "cls": maps["cls"]})
    chosen = decoded[0][labels.positive.flatten().bool()]
    torch.testing.assert_close(chosen, box.expand_as(chosen))
    assert found.shape == (1, 1089, 4) and scores.shape == (1, 1089)


def test_scores_are_probabilities_that_start_at_the_prior() -> None:
    maps = {"cls": torch.zeros(2, 1, 33, 33), "reg": torch.zeros(2, 4, 33, 33)}
    found, scores = RETINA.decode(maps)
    torch.testing.assert_close(scores, torch.full((2, 1089), 0.01))
    torch.testing.assert_close(found[1], anchors().float())
    maps["cls"][0, 0, 3, 5] = 50.0
    _, scores = RETINA.decode(maps)
    assert float(scores[0, 3 * 33 + 5]) == 1.0


def test_a_wild_size_stays_finite_and_bf16_boxes_keep_their_pixels() -> None:
    maps = {"cls": torch.zeros(1, 1, 33, 33), "reg": torch.full((1, 4, 33, 33), 1e4)}
    found, _ = RETINA.decode(maps)
    assert found.isfinite().all()
    low, scores = RETINA.decode({b: torch.zeros_like(x).bfloat16() for b, x in maps.items()})
    torch.testing.assert_close(low[0], anchors().float())
    assert scores.dtype == torch.float32


def test_losses_are_focal_over_counted_anchors_and_smooth_l1_on_positive_ones() -> None:
    outputs, labels = random_outputs(), label(BOX)
    found = RETINA.losses(outputs, labels)
    logits = (outputs["cls"] + math.log(0.01 / 0.99)).flatten()
    positive, counted = labels.positive.flatten(), labels.counted.flatten().bool()
    focal = sigmoid_focal_loss(logits[counted], positive[counted], reduction="sum")
    torch.testing.assert_close(found["cls"][0], 2.0 * focal / positive.sum())
    chosen = positive.bool()
    error = (outputs["reg"][0].flatten(1) - labels.offsets[0].flatten(1))[:, chosen].abs()
    smooth = torch.where(error < 1, error**2 / 2, error - 0.5).mean()
    torch.testing.assert_close(found["reg"][0], 5.0 * smooth)


@pytest.mark.parametrize("box", [BOX, torch.zeros(1, 4, dtype=torch.float64)])
def test_an_absent_target_is_background_everywhere(box: Tensor) -> None:
    outputs, labels = random_outputs(), label(box, present=False)
    assert labels.positive.sum() == labels.offsets.abs().sum() == 0
    assert labels.counted.min() == 1
    found = RETINA.losses(outputs, labels)
    assert float(found["reg"]) == 0 and found["cls"].isfinite().all()


def test_a_target_that_touches_no_anchor_is_background() -> None:
    assert label(BOX + 400).positive.sum() == 0


def test_each_image_has_its_own_loss_and_each_branch_its_own_entry() -> None:
    outputs, both = random_outputs(2), torch.cat([BOX, BOX + 40])
    together = RETINA.losses(outputs, label(both))
    for i in range(2):
        alone = RETINA.losses({b: x[i : i + 1] for b, x in outputs.items()}, label(both[i : i + 1]))
        for branch in ("cls", "reg"):
            torch.testing.assert_close(together[branch][i : i + 1], alone[branch])
    assert list(RETINA.losses({"reg": outputs["reg"]}, label(both))) == ["reg"]


def test_the_prior_starts_where_a_bias_would() -> None:
    """A constant in the logits gives the loss of a network whose output bias starts there."""
    outputs, labels = random_outputs(), label(BOX)
    even = Retina(replace(RETINA.config, prior=0.5))
    biased = {"cls": outputs["cls"] + math.log(0.01 / 0.99)}
    found, expected = RETINA.losses(outputs, labels)["cls"], even.losses(biased, labels)["cls"]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"anchor_px": 0.0}, "anchor_px must be positive, got 0.0"),
        ({"negative_iou": 0.6}, "negative_iou 0.6 and positive_iou 0.5"),
        ({"prior": 1.0}, r"prior and balance must lie in \(0, 1\)"),
        ({"focusing": -1.0}, "focusing must not be negative"),
        ({"size_std": 0.0}, "center_std and size_std must be positive"),
        ({"reg_weight": 0.0}, "loss weights must be positive"),
    ],
)
def test_config_refuses(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetinaConfig(**changes)


def test_bf16_outputs_lose_no_gradient_of_the_background() -> None:
    """1 - p rounds to steps of 1/256 in bf16; most of the background's gradient would be lost."""
    labels = label(BOX)
    background = (labels.counted - labels.positive).bool()
    gradients = []
    for dtype in (torch.bfloat16, torch.float32):
        maps = (random_outputs()["cls"] * 0.5 - 3).to(torch.bfloat16).to(dtype).requires_grad_()
        loss = RETINA.losses({"cls": maps}, labels)["cls"].sum()
        (gradient,) = torch.autograd.grad(loss, maps)
        gradients.append(gradient[background].float())
    rounded, exact = gradients
    assert float((rounded - exact).norm() / exact.norm()) < 0.01
