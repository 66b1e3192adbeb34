"""The streamed meta-gradients against the plain unrolled graph, in float64."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from data_pipeline.episodes import EpisodeBatch
from meta_train import outer_step
from meta_train.detectors import Detector
from meta_train.detectors.backbone import BRANCHES, BackboneConfig, Branch, Weights
from meta_train.detectors.fcos import Fcos, FcosConfig
from meta_train.detectors.heads import HeadConfig
from meta_train.detectors.network import (
    NetworkConfig,
    adapted_names,
    branch_features,
    initial_weights,
    outputs,
    trunk_features,
)
from meta_train.detectors.retina import Retina, RetinaConfig
from meta_train.inner_loop import adapt, losses, mean_loss, step
from meta_train.kernel_rates import KernelRatesConfig, Rates, initial_rates, learned_names
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
DETECTORS = {
    "fcos": Fcos(FcosConfig(network=SLIM, cls_weight=2.0, reg_weight=0.5)),
    "retina": Retina(RetinaConfig(network=SLIM, prior=0.1, cls_weight=2.0, reg_weight=0.5)),
}
GAMMAS = (0.2, 0.3, 0.5)
LEARNED = KernelRatesConfig(initial=0.02)


def make_episodes(num_pairs: int = 2, num_support: int = 3) -> Episodes:
    """Random images; the second pair's query is all background."""
    rng = np.random.default_rng(3)

    def images(count: int) -> np.ndarray:
        return rng.integers(0, 256, (num_pairs, count, 263, 263, 3), dtype=np.uint8)

    def boxes(count: int) -> np.ndarray:
        corner = rng.uniform(60, 120, (num_pairs, count, 2))
        return np.concatenate([corner, corner + rng.uniform(40, 90, corner.shape)], axis=-1)

    present = np.ones((num_pairs, 1), dtype=bool)
    present[1:] = False
    support = images(num_support), boxes(num_support)
    batch = EpisodeBatch(*support, images(1), boxes(1), present)
    return to_episodes(batch, torch.device("cpu"), torch.float64)


def make_network(
    detector: Detector, adapts: str, config: KernelRatesConfig = LEARNED
) -> tuple[Weights, Rates]:
    """A network in float64 with rates large enough that second order matters.

    Biases are not 0, where ReLUs that see nothing but zeros would have no derivative. Rates that
    are learned differ from one another; the others are the constant.
    """
    generator = torch.Generator().manual_seed(0)
    weights = initial_weights(detector.network, generator)
    weights = {name: weight.double() for name, weight in weights.items()}
    for name, weight in list(weights.items()):
        if name.endswith("output.weight"):
            weights[name] = weights[name] * 20
        if name.endswith("bias"):
            weights[name] = weights[name] + 0.1 * torch.randn(weight.shape, generator=generator)
    names = adapted_names(weights, adapts, BRANCHES)
    rates = initial_rates(config, {name: weights[name] for name in names})
    for name in learned_names(config, rates):
        noise = torch.rand(rates[name].shape, generator=generator, dtype=torch.float64)
        rates[name] = rates[name] * (0.5 + noise)
    return weights, rates


def reference(
    detector: Detector,
    weights: Weights,
    rates: Rates,
    episodes: Episodes,
    setup: OuterStep,
) -> tuple[Weights, Rates]:
    """Gradients of the unrolled graph by the learned weights and by all rates."""
    leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    alpha = {name: rate.clone().requires_grad_() for name, rate in rates.items()}
    loss = unrolled_meta_loss(detector, leaves, alpha, episodes, setup)
    names = learned_weights(weights, setup.learns)
    found = torch.autograd.grad(loss, [leaves[name] for name in names] + list(alpha.values()))
    by_weights = dict(zip(names, found, strict=False))
    return by_weights, dict(zip(alpha, found[len(names) :], strict=True))


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal names, and values that differ by less than 1e-12 of the largest."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        scale = value.abs().max().clamp(min=1e-3)
        assert ((found[name] - value).abs().max() / scale) < 1e-12, name


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("adapts", ["head", "head+block4"])
@pytest.mark.parametrize("second_order", [False, True], ids=["first", "second"])
def test_every_learned_tensor_equals_the_unrolled_graph(
    second_order: bool, adapts: str, name: str
) -> None:
    """Order x what adapts x detector, for trunk, block-4, heads and rates learned in any branch."""
    detector, episodes = DETECTORS[name], make_episodes(num_pairs=1, num_support=2)
    weights, rates = make_network(detector, adapts)
    setup = OuterStep(gammas=GAMMAS, adapts=adapts, learns="all", second_order=second_order)
    found = meta_gradient(detector, weights, rates, episodes, setup)
    by_weights, by_rates = reference(detector, weights, rates, episodes, setup)
    assert_close(found.weights, by_weights)
    learned_in: tuple[Branch, ...]
    for learned_in in ((), ("cls",), ("reg",), BRANCHES):
        layers = learned_names(KernelRatesConfig(learned_in=learned_in), rates)
        assert {layer.partition(".")[0] for layer in layers} == set(learned_in)
        assert_close(
            {layer: found.rates[layer] for layer in layers},
            {layer: by_rates[layer] for layer in layers},
        )


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("second_order", [False, True], ids=["first", "second"])
@pytest.mark.parametrize(
    ("adapts", "learns"),
    [("head", "head"), ("head+block4", "head+block4")],
)
def test_what_is_frozen_changes_nothing_for_the_rest(
    second_order: bool, adapts: str, learns: str, name: str
) -> None:
    """Two pairs; where nothing before the boundary learns, first order goes by entry maps."""
    detector, episodes = DETECTORS[name], make_episodes(num_support=1)
    weights, rates = make_network(detector, adapts)
    setup = OuterStep(gammas=GAMMAS, adapts=adapts, learns=learns, second_order=second_order)
    found = meta_gradient(detector, weights, rates, episodes, setup)
    by_weights, by_rates = reference(detector, weights, rates, episodes, setup)
    assert_close(found.weights, by_weights)
    assert_close(found.rates, by_rates)


@pytest.mark.parametrize(
    ("learns", "second_order"), [("head", False), ("head+block4", True)], ids=["first", "second"]
)
@pytest.mark.parametrize("granularity", ["layer", "parameter"])
def test_other_granularities_equal_the_unrolled_graph(
    granularity: str, learns: str, second_order: bool
) -> None:
    detector, episodes = DETECTORS["fcos"], make_episodes(num_support=1)
    config = KernelRatesConfig(initial=0.02, granularity=granularity)
    weights, rates = make_network(detector, "head", config)
    setup = OuterStep(gammas=GAMMAS, adapts="head", learns=learns, second_order=second_order)
    found = meta_gradient(detector, weights, rates, episodes, setup)
    by_weights, by_rates = reference(detector, weights, rates, episodes, setup)
    assert_close(found.weights, by_weights)
    assert_close(found.rates, by_rates)


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("adapts", ["head", "head+block4"])
@pytest.mark.parametrize("granularity", ["kernel", "layer", "parameter"])
def test_no_rate_exists_that_is_never_used(granularity: str, adapts: str, name: str) -> None:
    """Each layer's rates move the loss, and each adapted weight has exactly one rate."""
    detector, episodes = DETECTORS[name], make_episodes(num_pairs=1, num_support=1)
    config = KernelRatesConfig(initial=0.02, granularity=granularity)
    weights, rates = make_network(detector, adapts, config)
    setup = OuterStep(gammas=(0.0, 1.0), adapts=adapts, learns="head", second_order=False)
    found = meta_gradient(detector, weights, rates, episodes, setup).rates
    assert {layer for layer, slope in found.items() if slope.abs().max() == 0} == set()
    adapted = adapted_names(weights, adapts, BRANCHES)
    used = {weight if weight in rates else weight.rpartition(".")[0] for weight in adapted}
    assert used == set(rates)


@pytest.mark.parametrize("name", DETECTORS)
def test_first_order_is_second_order_with_the_inner_gradients_detached(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, episodes = DETECTORS[name], make_episodes(num_pairs=1, num_support=2)
    weights, rates = make_network(detector, "head+block4")
    setup = OuterStep(gammas=GAMMAS, adapts="head+block4", learns="all", second_order=False)
    found = meta_gradient(detector, weights, rates, episodes, setup)

    def detached(adapted: Weights, gradients: Iterable[Tensor], alpha: Weights) -> Weights:
        return step(adapted, [gradient.detach() for gradient in gradients], alpha)

    monkeypatch.setattr(outer_step, "step", detached)
    second = replace(setup, second_order=True)
    by_weights, by_rates = reference(detector, weights, rates, episodes, second)
    assert_close(found.weights, by_weights)
    assert_close(found.rates, by_rates)


@pytest.mark.parametrize("num_hidden", [0, 2])
def test_heads_of_other_depths_equal_the_unrolled_graph(num_hidden: int) -> None:
    """In first order by entry maps: of the output layer itself, or of the first of two."""
    network = replace(SLIM, head=HeadConfig(hidden_channels=3, num_hidden=num_hidden))
    detector, episodes = Fcos(FcosConfig(network=network)), make_episodes(num_support=1)
    weights, rates = make_network(detector, "head")
    setup = OuterStep(gammas=GAMMAS, adapts="head", learns="head", second_order=False)
    found = meta_gradient(detector, weights, rates, episodes, setup)
    by_weights, by_rates = reference(detector, weights, rates, episodes, setup)
    assert_close(found.weights, by_weights)
    assert_close(found.rates, by_rates)


@pytest.mark.parametrize(
    ("how", "learns", "second_order"),
    [("grows", "head", False), ("grows", "all", True), ("not finite", "all", False)],
)
def test_a_pair_that_diverges_is_left_out(how: str, learns: str, second_order: bool) -> None:
    """The gradient is that of the other pair alone."""
    detector, episodes = DETECTORS["fcos"], make_episodes(num_support=1)
    weights, rates = make_network(detector, "head")
    setup = OuterStep(gammas=GAMMAS, adapts="head", learns=learns, second_order=second_order)
    pairs = [Episodes(*(field[i : i + 1] for field in episodes)) for i in range(2)]
    if how == "grows":
        growths = [support_growth(detector, weights, rates, pair) for pair in pairs]
        kept = growths.index(min(growths))
        setup = replace(setup, diverges_at=sum(growths) / 2)
    else:
        kept = 0
        boxes = episodes.support_boxes.clone()
        boxes[1] = torch.nan
        episodes = episodes._replace(support_boxes=boxes)
    found = meta_gradient(detector, weights, rates, episodes, setup)
    alone = meta_gradient(detector, weights, rates, pairs[kept], setup)
    assert found.num_pairs == alone.num_pairs == 1
    for field in ("weights", "rates", "query_losses"):
        assert_close(getattr(found, field), getattr(alone, field))
    everything = replace(setup, diverges_at=0.0)
    assert meta_gradient(detector, weights, rates, pairs[0], everything).num_pairs == 0


def support_growth(detector: Detector, weights: Weights, rates: Rates, pair: Episodes) -> float:
    """A support loss after one step over that before."""
    shared = trunk_features(weights, pair.support_images[0])
    features = branch_features(detector.network, weights, shared, "head")
    labels = label_episodes(detector, pair)[1]
    after = adapt(detector, weights, rates, features, labels, num_steps=1, adapts="head")
    before, after = (
        mean_loss(losses(detector, theta, features, labels, "head")) for theta in (weights, after)
    )
    return float(after / before)


def test_the_orders_differ() -> None:
    detector, episodes = DETECTORS["fcos"], make_episodes()
    weights, rates = make_network(detector, "head")
    first = OuterStep(gammas=GAMMAS, adapts="head", learns="head", second_order=False)
    second = replace(first, second_order=True)
    one = meta_gradient(detector, weights, rates, episodes, first).weights
    two = meta_gradient(detector, weights, rates, episodes, second).weights
    assert any((one[n] - two[n]).norm() > 0.01 * two[n].norm() for n in one)


@pytest.mark.parametrize("name", DETECTORS)
def test_rate_gradient_has_its_closed_form(name: str) -> None:
    """One step, last-step loss: d loss / d rate = -<query, support gradient> per kernel."""
    detector, episodes = DETECTORS[name], make_episodes(num_pairs=1)
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


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("adapts", ["head", "head+block4"])
def test_second_order_agrees_with_finite_differences(adapts: str, name: str) -> None:
    """Along one random direction through all weights, and one through all rates.

    The step is small: a ReLU between the two points would change an inner gradient by a jump.
    """
    detector, episodes = DETECTORS[name], make_episodes(num_pairs=1, num_support=1)
    weights, rates = make_network(detector, adapts)
    setup = OuterStep(gammas=GAMMAS, adapts=adapts, learns="all", second_order=True)
    found = meta_gradient(detector, weights, rates, episodes, setup)
    for gradients, tensors in ((found.weights, weights), (found.rates, rates)):
        eps, direction = 1e-9, directions(tensors)
        ends = []
        for sign in (1, -1):
            moved = {n: t + sign * eps * direction[n] for n, t in tensors.items()}
            point = (moved, rates) if tensors is weights else (weights, moved)
            theta, alpha = weights_with_grad(point[0]), point[1]
            ends.append(float(unrolled_meta_loss(detector, theta, alpha, episodes, setup).detach()))
        slope = (ends[0] - ends[1]) / (2 * eps)
        expected = sum(float((gradients[n] * direction[n]).sum()) for n in tensors)
        assert abs(slope - expected) < 2e-5 * max(1.0, abs(expected))


def directions(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A random direction of length 1 in each tensor."""
    generator = torch.Generator().manual_seed(5)
    drawn = {n: torch.randn(t.shape, generator=generator).double() for n, t in tensors.items()}
    return {name: each / each.norm() for name, each in drawn.items()}


class Streamed(torch.autograd.Function):
    """The unrolled meta-loss, with the streamed meta-gradient for its backward pass."""

    @staticmethod
    def forward(ctx, problem, names, *values):  # type: ignore[no-untyped-def]
        detector, weights, rates, episodes, setup = problem
        given = dict(zip(names, (value.detach() for value in values), strict=True))
        weights = weights | {name: given[name] for name in names if name in weights}
        rates = rates | {name: given[name] for name in names if name in rates}
        ctx.names = names
        ctx.problem = detector, weights, rates, episodes, setup
        with torch.enable_grad():
            theta = weights_with_grad(weights)
            return unrolled_meta_loss(detector, theta, rates, episodes, setup).detach()

    @staticmethod
    def backward(ctx, scale):  # type: ignore[no-untyped-def]
        with torch.enable_grad():
            gradient = meta_gradient(*ctx.problem)
        found = gradient.weights | gradient.rates
        return None, None, *(scale * found[name] for name in ctx.names)


@pytest.mark.parametrize("name", DETECTORS)
def test_gradcheck_through_second_order(name: str) -> None:
    """Entry by entry: both output biases and all their layers' rates."""
    detector, episodes = DETECTORS[name], make_episodes(num_pairs=1, num_support=1)
    weights, rates = make_network(detector, "head")
    setup = OuterStep(gammas=(0.3, 0.7), adapts="head", learns="head", second_order=True)
    problem = (detector, weights, rates, episodes, setup)
    names = ["reg.head.output.bias", "cls.head.output.bias", "cls.head.hidden0", "reg.head.output"]
    values = [(weights | rates)[name].clone().requires_grad_() for name in names]

    def loss(*given: Tensor) -> Tensor:
        return Streamed.apply(problem, names, *given)

    assert torch.autograd.gradcheck(loss, values, eps=1e-7, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", DETECTORS)
def test_losses_have_the_second_derivatives_that_second_order_needs(name: str) -> None:
    detector, episodes = DETECTORS[name], make_episodes(num_pairs=1)
    _, labels = label_episodes(detector, episodes)
    generator = torch.Generator().manual_seed(2)
    maps = [
        torch.randn(3, count, 33, 33, generator=generator, dtype=torch.float64).requires_grad_()
        for count in detector.out_channels.values()
    ]

    def loss(*maps: Tensor) -> Tensor:
        found = detector.losses(dict(zip(BRANCHES, maps, strict=True)), labels)
        return torch.stack([found[branch].square().sum() for branch in BRANCHES])

    assert torch.autograd.gradcheck(loss, maps, eps=1e-7, atol=1e-6, fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, maps, eps=1e-7, atol=1e-5, fast_mode=True)


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
