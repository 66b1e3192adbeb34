"""The streamed meta-gradients against the plain unrolled graph, in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from data_pipeline.episodes import EpisodeBatch
from meta_train.detectors import Detector
from meta_train.detectors.backbone import BackboneConfig, Weights
from meta_train.detectors.fcos import Fcos, FcosConfig
from meta_train.detectors.heads import HeadConfig
from meta_train.detectors.network import NetworkConfig, adapted_names, initial_weights
from meta_train.inner_loop import adapt
from meta_train.kernel_rates import KernelRatesConfig, Rates, initial_rates
from meta_train.outer_step import (
    Episodes,
    OuterStep,
    label_episodes,
    learned_weights,
    meta_gradient,
    to_episodes,
    unrolled_meta_loss,
)

SLIM = NetworkConfig(
    backbone=BackboneConfig(width=2, weights="random"), head=HeadConfig(hidden_channels=4)
)
DETECTORS = {"fcos": Fcos(FcosConfig(network=SLIM, cls_weight=2.0, reg_weight=0.5))}
GAMMAS = (0.1, 0.2, 0.3, 0.4)


def make_episodes(num_pairs: int = 2, dtype: torch.dtype = torch.float64) -> Episodes:
    """Random images; the last query is all background."""
    rng = np.random.default_rng(3)

    def images(count: int) -> np.ndarray:
        return rng.integers(0, 256, (num_pairs, count, 263, 263, 3), dtype=np.uint8)

    def boxes(count: int) -> np.ndarray:
        corner = rng.uniform(60, 120, (num_pairs, count, 2))
        return np.concatenate([corner, corner + rng.uniform(40, 90, corner.shape)], axis=-1)

    present = np.ones((num_pairs, 1), dtype=bool)
    present[-1] = False
    batch = EpisodeBatch(images(3), boxes(3), images(1), boxes(1), present)
    return to_episodes(batch, torch.device("cpu"), dtype)


def make_network(
    detector: Detector, adapts: str, granularity: str = "kernel"
) -> tuple[Weights, Rates]:
    """A network in float64 with rates large enough that second order matters."""
    generator = torch.Generator().manual_seed(0)
    weights = initial_weights(detector.network, generator)
    weights = {name: weight.double() for name, weight in weights.items()}
    for name in weights:
        if name.endswith("output.weight"):
            weights[name] = weights[name] * 20
    names = adapted_names(weights, adapts, ("cls", "reg"))
    config = KernelRatesConfig(initial=0.02, granularity=granularity)
    rates = initial_rates(config, {name: weights[name] for name in names})
    noise = {n: torch.rand(r.shape, generator=generator, dtype=r.dtype) for n, r in rates.items()}
    return weights, {name: rate * (0.5 + noise[name]) for name, rate in rates.items()}


def reference(
    detector: Detector, weights: Weights, rates: Rates, episodes: Episodes, setup: OuterStep
) -> tuple[Weights, Rates]:
    """Gradients of the unrolled graph."""
    leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    alpha = {name: rate.clone().requires_grad_() for name, rate in rates.items()}
    loss = unrolled_meta_loss(detector, leaves, alpha, episodes, setup)
    names = learned_weights(weights, setup.learns)
    found = torch.autograd.grad(loss, [leaves[n] for n in names] + list(alpha.values()))
    return dict(zip(names, found, strict=False)), dict(zip(alpha, found[len(names) :], strict=True))


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal names, and values that differ by less than 1e-12 of the largest."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        scale = value.abs().max().clamp(min=1e-3)
        assert ((found[name] - value).abs().max() / scale) < 1e-12, name


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("second_order", [False, True], ids=["first", "second"])
@pytest.mark.parametrize(
    ("adapts", "learns"),
    [
        ("head", "head"),
        ("head", "head+block4"),
        ("head", "all"),
        ("head+block4", "head+block4"),
        ("head+block4", "all"),
    ],
)
def test_every_learned_tensor_equals_the_unrolled_graph(
    name: str, second_order: bool, adapts: str, learns: str
) -> None:
    detector, episodes = DETECTORS[name], make_episodes()
    weights, rates = make_network(detector, adapts)
    setup = OuterStep(gammas=GAMMAS, adapts=adapts, learns=learns, second_order=second_order)
    found = meta_gradient(detector, weights, rates, episodes, setup)
    by_weights, by_rates = reference(detector, weights, rates, episodes, setup)
    assert_close(found.weights, by_weights)
    assert_close(found.rates, by_rates)
    assert all(rate.abs().max() > 0 for rate in found.rates.values()), "a rate that is never used"


@pytest.mark.parametrize("granularity", ["layer", "parameter"])
def test_other_granularities_equal_the_unrolled_graph(granularity: str) -> None:
    detector, episodes = DETECTORS["fcos"], make_episodes()
    weights, rates = make_network(detector, "head", granularity)
    setup = OuterStep(gammas=GAMMAS, adapts="head", learns="head+block4", second_order=True)
    found = meta_gradient(detector, weights, rates, episodes, setup)
    by_weights, by_rates = reference(detector, weights, rates, episodes, setup)
    assert_close(found.weights, by_weights)
    assert_close(found.rates, by_rates)


def test_the_orders_differ() -> None:
    detector, episodes = DETECTORS["fcos"], make_episodes()
    weights, rates = make_network(detector, "head")
    first = OuterStep(gammas=GAMMAS, adapts="head", learns="head", second_order=False)
    second = replace(first, second_order=True)
    one = meta_gradient(detector, weights, rates, episodes, first).weights
    two = meta_gradient(detector, weights, rates, episodes, second).weights
    assert any((one[n] - two[n]).norm() > 0.01 * two[n].norm() for n in one)


def test_rate_gradient_has_its_closed_form() -> None:
    """One step, last-step loss: d loss / d rate = -<query, support gradient> per kernel."""
    detector, episodes = DETECTORS["fcos"], make_episodes(num_pairs=1)
    episodes = episodes._replace(query_present=torch.ones_like(episodes.query_present))
    weights, rates = make_network(detector, "head")
    setup = OuterStep(gammas=(0.0, 1.0), adapts="head", learns="head", second_order=False)
    found = meta_gradient(detector, weights, rates, episodes, setup).rates

    support_setup = replace(setup, gammas=(1.0,))
    as_query = Episodes(
        episodes.support_images,
        episodes.support_boxes,
        episodes.support_images,
        episodes.support_boxes,
        torch.ones(1, 3, dtype=torch.bool),
    )
    g_0 = meta_gradient_at(detector, weights, rates, as_query, support_setup)
    theta_1 = dict(weights)
    for name, gradient in g_0.items():
        rate = rates[name.rpartition(".")[0]]
        theta_1[name] = weights[name] - rate.view(-1, *[1] * (gradient.dim() - 1)) * gradient
    g_1 = meta_gradient_at(detector, theta_1, rates, episodes, support_setup)
    for layer, rate_gradient in found.items():
        expected = (
            sum(-(g_1[name] * g_0[name]).flatten(1).sum(1) for name in (f"{layer}.weight",))
            - g_1[f"{layer}.bias"] * g_0[f"{layer}.bias"]
        )
        torch.testing.assert_close(rate_gradient, expected, rtol=1e-10, atol=1e-12)


def meta_gradient_at(
    detector: Detector, weights: Weights, rates: Rates, episodes: Episodes, setup: OuterStep
) -> Weights:
    """The plain gradient of the query loss, without any inner step."""
    leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    loss = unrolled_meta_loss(detector, leaves, rates, episodes, setup)
    names = learned_weights(weights, "head")
    return dict(zip(names, torch.autograd.grad(loss, [leaves[n] for n in names]), strict=True))


def test_rates_agree_with_finite_differences() -> None:
    detector, episodes = DETECTORS["fcos"], make_episodes(num_pairs=1)
    weights, rates = make_network(detector, "head")
    setup = OuterStep(gammas=GAMMAS, adapts="head", learns="head", second_order=True)
    found = meta_gradient(detector, weights, rates, episodes, setup).rates
    eps = 1e-7
    for layer in ("cls.head.hidden0", "reg.head.output"):
        shifted = []
        for sign in (1, -1):
            moved = rates | {layer: rates[layer] + sign * eps * torch.eye(len(rates[layer]))[0]}
            loss = unrolled_meta_loss(detector, weights_with_grad(weights), moved, episodes, setup)
            shifted.append(float(loss))
        slope = (shifted[0] - shifted[1]) / (2 * eps)
        assert abs(slope - float(found[layer][0])) < 1e-5 * max(1.0, abs(slope))


def weights_with_grad(weights: Weights) -> Weights:
    """Leaves, since the unrolled loss differentiates by what it is given."""
    return {name: weight.clone().requires_grad_() for name, weight in weights.items()}


def test_query_losses_are_those_of_the_adapted_network() -> None:
    detector, episodes = DETECTORS["fcos"], make_episodes(num_pairs=2)
    weights, rates = make_network(detector, "head")
    one_hot = OuterStep(gammas=(0.0, 0.0, 1.0), adapts="head", learns="head", second_order=False)
    found = meta_gradient(detector, weights, rates, episodes, one_hot).query_losses
    total = unrolled_meta_loss(detector, weights_with_grad(weights), rates, episodes, one_hot)
    torch.testing.assert_close(found["cls"][2] + found["reg"][2], total.detach())
    assert found["cls"].shape == (3,)


def test_inner_loop_with_one_rate_equals_sgd() -> None:
    from meta_train.detectors.network import branch_features, outputs, trunk_features

    detector, episodes = DETECTORS["fcos"], make_episodes(num_pairs=1)
    weights, rates = make_network(detector, "head")
    rates = {name: torch.full_like(rate, 0.01) for name, rate in rates.items()}
    shared = trunk_features(weights, episodes.support_images[0])
    features = branch_features(detector.network, weights, shared, "head")
    labels = label_episodes(detector, episodes)[1]
    found = adapt(detector, weights, rates, features, labels, num_steps=4, adapts="head")

    names = adapted_names(weights, "head", ("cls", "reg"))
    leaves = {name: weights[name].clone().requires_grad_() for name in names}
    sgd = torch.optim.SGD(leaves.values(), lr=0.01)
    for _ in range(4):
        sgd.zero_grad()
        maps = outputs(detector.network, weights | leaves, features, "head")
        by_branch = detector.losses(maps, labels)
        (by_branch["cls"].mean() + by_branch["reg"].mean()).backward()
        sgd.step()
    for name in names:
        torch.testing.assert_close(found[name], leaves[name].detach(), rtol=1e-12, atol=1e-14)
    unchanged = [name for name in weights if name not in names]
    assert all(found[name] is weights[name] for name in unchanged)
