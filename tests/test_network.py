"""Heads and network: what runs before the boundary, what after it, and which weights adapt."""

import pytest
import torch

from meta_train.detectors.backbone import BRANCHES, BackboneConfig, folded
from meta_train.detectors.heads import HeadConfig, head, initial_head, standardise
from meta_train.detectors.network import (
    NetworkConfig,
    adapted_names,
    branch_features,
    initial_weights,
    outputs,
    trunk_features,
)

SLIM = NetworkConfig(
    backbone=BackboneConfig(width=2, weights="random"), head=HeadConfig(hidden_channels=4)
)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_maps_are_the_same_wherever_the_boundary_lies() -> None:
    weights = initial_weights(SLIM, generator())
    images = torch.randint(0, 256, (2, 3, 263, 263), generator=generator(), dtype=torch.uint8)
    shared = trunk_features(weights, images)
    found = {
        adapts: outputs(SLIM, weights, branch_features(SLIM, weights, shared, adapts), adapts)
        for adapts in ("head", "head+block4")
    }
    assert found["head"]["cls"].shape == (2, 1, 33, 33)
    assert found["head"]["reg"].shape == (2, 4, 33, 33)
    for branch in BRANCHES:
        torch.testing.assert_close(found["head"][branch], found["head+block4"][branch])


def test_branches_are_independent() -> None:
    weights = initial_weights(SLIM, generator())
    images = torch.randint(0, 256, (1, 3, 263, 263), generator=generator(), dtype=torch.uint8)
    shared = trunk_features(weights, images)
    changed = {n: w * 2 if n.startswith("reg.") else w for n, w in weights.items()}
    one, other = (
        outputs(SLIM, w, branch_features(SLIM, w, shared, "head"), "head")
        for w in (weights, changed)
    )
    assert torch.equal(one["cls"], other["cls"])
    assert not torch.equal(one["reg"], other["reg"])
    features = branch_features(SLIM, weights, shared, "head")
    assert list(outputs(SLIM, weights, {"cls": features["cls"]}, "head")) == ["cls"]


def test_features_are_standardised_at_each_location() -> None:
    x = torch.randn(2, 16, 5, 5, generator=generator()) * 7 + 3
    found = standardise(x)
    torch.testing.assert_close(found.mean(1), torch.zeros(2, 5, 5), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.var(1, correction=0), torch.ones(2, 5, 5), rtol=1e-3, atol=0)
    torch.testing.assert_close(found, standardise(5 * x + 1), rtol=1e-3, atol=1e-4)


def test_standardising_is_a_choice() -> None:
    plain = NetworkConfig(
        backbone=SLIM.backbone, head=HeadConfig(hidden_channels=4, normalise=False)
    )
    weights = initial_weights(plain, generator())
    shared = torch.rand(1, 4, 33, 33, generator=generator())
    features = branch_features(plain, weights, shared, "head")["cls"]
    torch.testing.assert_close(
        standardise(features), branch_features(SLIM, weights, shared, "head")["cls"]
    )


@pytest.mark.parametrize("num_hidden", [0, 1, 2])
def test_a_head_is_hidden_layers_and_a_linear_output(num_hidden: int) -> None:
    config = HeadConfig(hidden_channels=5, num_hidden=num_hidden)
    weights = initial_head(config, "reg", in_channels=6, out_channels=4, generator=generator())
    assert len(weights) == 2 * (num_hidden + 1)
    x = torch.randn(2, 6, 33, 33, generator=generator())
    assert head(folded(weights), "reg", x, config).shape == (2, 4, 33, 33)
    shifted = dict(weights)
    shifted["reg.head.output.bias"] = weights["reg.head.output.bias"] - 100
    assert (head(folded(shifted), "reg", x, config) < -50).all(), "no ReLU after the output"


def test_a_head_starts_near_zero() -> None:
    config = HeadConfig()
    weights = initial_head(config, "cls", in_channels=256, out_channels=1, generator=generator())
    assert float(weights["cls.head.output.weight"].std()) == pytest.approx(0.01, rel=0.1)
    deviation = float(weights["cls.head.hidden0.weight"].std())
    assert deviation == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    assert not weights["cls.head.output.bias"].any()


def test_which_weights_adapt() -> None:
    weights = initial_weights(SLIM, generator())
    heads = adapted_names(weights, "head", BRANCHES)
    assert set(heads) == {
        f"{branch}.head.{layer}.{part}"
        for branch in BRANCHES
        for layer in ("hidden0", "output")
        for part in ("weight", "bias")
    }
    assert all(name.startswith("cls.head.") for name in adapted_names(weights, "head", ("cls",)))
    both = adapted_names(weights, "head+block4", BRANCHES)
    assert set(both) == {name for name in weights if not name.startswith("trunk.")}


def test_head_config_refuses() -> None:
    with pytest.raises(ValueError, match="got 0 and 1"):
        HeadConfig(hidden_channels=0)
