"""The learner: features once, adaptation of chosen branches, moves between precisions."""

from dataclasses import replace

import pytest
import torch

from meta_train.detectors import DETECTORS, Detector, DetectorConfig, build_detector
from meta_train.detectors.backbone import BRANCHES, BackboneConfig
from meta_train.detectors.cells import window_around
from meta_train.detectors.fcos import Fcos, FcosConfig
from meta_train.detectors.heads import HeadConfig
from meta_train.detectors.network import NetworkConfig, adapted_names
from meta_train.detectors.retina import RetinaConfig
from meta_train.inner_loop import InnerLoopConfig, adapt, mean_loss
from meta_train.kernel_rates import KernelRatesConfig
from meta_train.learner import Learner, initial_learner

SLIM = FcosConfig(
    network=NetworkConfig(
        backbone=BackboneConfig(width=2, weights="random"), head=HeadConfig(hidden_channels=4)
    )
)


def make_learner(adapts: str = "head") -> Learner:
    return initial_learner(
        SLIM,
        KernelRatesConfig(initial=0.01),
        adapts=adapts,
        generator=torch.Generator().manual_seed(0),
    )


def crops(count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, 263, 263), generator=generator, dtype=torch.uint8)


BOXES = torch.tensor([[100.0, 100.0, 163.0, 163.0]]).expand(3, -1)
PRESENT = torch.ones(3, dtype=torch.bool)


def test_every_detector_plays_its_role() -> None:
    for config_class, build in DETECTORS.items():
        assert isinstance(build(config_class()), Detector)
    assert build_detector(SLIM) == Fcos(SLIM)


@pytest.mark.parametrize("adapts", ["head", "head+block4"])
def test_rates_are_for_what_adapts_and_for_nothing_else(adapts: str) -> None:
    learner = make_learner(adapts)
    names = adapted_names(learner.weights, adapts, BRANCHES)
    assert set(learner.rates) == {name.rpartition(".")[0] for name in names}


@pytest.mark.parametrize("adapts", ["head", "head+block4"])
def test_adaptation_learns_the_support(adapts: str) -> None:
    learner = make_learner(adapts)
    features = learner.features(crops())
    labels = learner.detector.label(BOXES, PRESENT)

    def loss(weights: dict[str, torch.Tensor]) -> float:
        by_branch = learner.detector.losses(learner.outputs(weights, features), labels)
        return float(mean_loss(by_branch))

    before = {name: weight.clone() for name, weight in learner.weights.items()}
    adapted = learner.adapt(learner.weights, features, labels, num_steps=5)
    assert loss(adapted) < 0.98 * loss(learner.weights)
    assert all(torch.equal(learner.weights[name], before[name]) for name in before), "as it was"
    assert not any(w.requires_grad for w in (*adapted.values(), *learner.weights.values()))
    by_ones = learner.weights
    for _ in range(5):
        by_ones = learner.adapt(by_ones, features, labels, num_steps=1)
    assert all(torch.equal(adapted[name], by_ones[name]) for name in adapted), "5 = 1+1+1+1+1"


def test_only_the_branches_that_are_given_adapt() -> None:
    learner = make_learner()
    labels = learner.detector.label(BOXES, PRESENT)
    features = {"cls": learner.features(crops())["cls"]}
    adapted = learner.adapt(learner.weights, features, labels, num_steps=2)
    changed = {n for n, w in adapted.items() if not torch.equal(w, learner.weights[n])}
    assert changed == set(adapted_names(learner.weights, "head", ("cls",)))
    unchanged = learner.adapt(learner.weights, features, labels, num_steps=0)
    assert all(torch.equal(unchanged[name], w) for name, w in learner.weights.items())


def test_a_negative_rate_climbs() -> None:
    """Rates are free to change sign."""
    learner = make_learner()
    features, labels = learner.features(crops()), learner.detector.label(BOXES, PRESENT)
    down = learner.adapt(learner.weights, features, labels, num_steps=1)
    mirrored = replace(learner, rates={name: -rate for name, rate in learner.rates.items()})
    up = mirrored.adapt(learner.weights, features, labels, num_steps=1)
    for name, weight in learner.weights.items():
        torch.testing.assert_close(up[name] - weight, weight - down[name], rtol=1e-3, atol=1e-6)


def test_features_and_outputs_carry_no_graph_yet_can_feed_one() -> None:
    learner = make_learner()
    features = learner.features(crops())
    assert not any(x.requires_grad or x.is_inference() for x in features.values())
    assert not any(x.requires_grad for x in learner.outputs(learner.weights, features).values())


def test_moving_to_another_precision() -> None:
    double = make_learner().to("cpu", torch.float64)
    assert {x.dtype for x in (*double.weights.values(), *double.rates.values())} == {torch.float64}
    assert double.features(crops(1))["cls"].dtype == torch.float64
    assert double.device == torch.device("cpu")


def test_inner_loop_config_refuses() -> None:
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        InnerLoopConfig(num_steps=0)


@pytest.mark.parametrize(
    "config", [SLIM, RetinaConfig(network=SLIM.network)], ids=["fcos", "retina"]
)
@pytest.mark.parametrize("adapts", ["head", "head+block4"])
@pytest.mark.parametrize(
    "boxes",
    [
        [[100.0, 100.0, 163.0, 163.0], [90.0, 120.0, 140.0, 180.0]],
        [[-20.0, 200.0, 50.0, 270.0], [-30.0, 190.0, 60.0, 280.0]],  # at the map's border
    ],
    ids=["inside", "border"],
)
def test_descent_over_the_target_s_cells_equals_that_over_the_whole_map(
    config: DetectorConfig, adapts: str, boxes: list[list[float]]
) -> None:
    learner = initial_learner(
        config,
        KernelRatesConfig(initial=0.01),
        adapts=adapts,
        generator=torch.Generator().manual_seed(0),
    ).to("cpu", torch.float64)
    features = learner.features(crops(2))
    labels = learner.detector.label(torch.tensor(boxes, dtype=torch.float64), PRESENT[:2])
    found = learner.adapt(learner.weights, features, labels, num_steps=3)
    expected = adapt(
        learner.detector,
        learner.weights,
        learner.rates,
        features,
        labels,
        num_steps=3,
        adapts=learner.adapts,
    )
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-9, atol=1e-12)
    assert not torch.equal(found["reg.head.output.bias"], learner.weights["reg.head.output.bias"])


def test_window_around_cells_stays_on_the_map() -> None:
    mask = torch.zeros(2, 1, 33, 33)
    assert window_around(mask, 2) == (slice(0, 33), slice(0, 33))
    mask[0, 0, 1, 20] = mask[1, 0, 5, 31] = 1
    rows, columns = window_around(mask, 2)
    assert (rows.start, rows.stop) == (0, 8)
    assert mask[..., rows, columns].shape == (2, 1, 8, 15)
