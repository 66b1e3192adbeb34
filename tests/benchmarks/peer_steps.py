"""The outer step as users of `higher` and of `torchopt` write it, on the same network as ours.

Both follow their library's MAML example: one pair after another, the meta-loss summed over the
inner steps, one backward call for each pair. Each takes the cheapest way to first order that it
has: higher detaches the inner gradients in its callback, torchopt's functional interface takes
gradients without a graph.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meta_train.detectors import Detector
from meta_train.detectors.backbone import BRANCHES, Weights, block4, prepare, trunk
from meta_train.detectors.heads import head, standardise
from meta_train.detectors.network import Features, adapted_names
from meta_train.inner_loop import mean_loss
from meta_train.kernel_rates import Rates, rate_of
from meta_train.outer_step import OuterStep, learned_weights


class Pair(NamedTuple):
    """One pair as a peer's network takes it: images, or features in each branch."""

    support: Tensor | Features
    support_labels: Any
    query: Tensor | Features
    query_labels: Any


class Gradient(NamedTuple):
    """Sums over pairs, for each learned weight and each rate."""

    weights: Weights
    rates: Rates


class Convolution(nn.Module):
    """A convolution whose stride and padding come with the call."""

    def __init__(self, weight: Tensor, bias: Tensor, learns: bool) -> None:
        super().__init__()
        kernels = weight.detach().clone(memory_format=torch.channels_last)
        self.weight = nn.Parameter(kernels, requires_grad=learns)
        self.bias = nn.Parameter(bias.detach().clone(), requires_grad=learns)

    def forward(self, x: Tensor, stride: int, padding: int) -> Tensor:
        """The convolution."""
        return F.conv2d(x, self.weight, self.bias, stride, padding)


class Network(nn.Module):
    """The detector's network as an ordinary module, from images or from the heads' features."""

    def __init__(self, detector: Detector, weights: Weights, learned: list[str]) -> None:
        super().__init__()
        self._config = detector.network
        names = dict.fromkeys(name.rpartition(".")[0] for name in weights)
        self.layers = nn.ModuleDict(
            {
                name.replace(".", "/"): Convolution(
                    weights[f"{name}.weight"], weights[f"{name}.bias"], f"{name}.weight" in learned
                )
                for name in names
            }
        )

    def forward(self, x: Tensor | Features) -> dict[str, Tensor]:
        """Output maps of both branches."""

        def conv(name: str, x: Tensor, stride: int, padding: int) -> Tensor:
            return self.layers[name.replace(".", "/")](x, stride, padding)

        if isinstance(x, Tensor):
            shared = trunk(conv, prepare(x, torch.float32))
            x = {branch: block4(conv, branch, shared) for branch in BRANCHES}
            if self._config.head.normalise:
                x = {branch: standardise(each) for branch, each in x.items()}
        return {b: head(conv, b, each, self._config.head) for b, each in x.items()}

    def name_of(self, name: str) -> str:
        """The name, in this module, of one of our weights."""
        layer, _, kind = name.rpartition(".")
        return f"layers.{layer.replace('.', '/')}.{kind}"


def higher_gradient(
    detector: Detector, weights: Weights, rates: Rates, pairs: list[Pair], setup: OuterStep
) -> Gradient:
    """`higher.innerloop_ctx`, the rates as overridden learning rates."""
    import higher

    network, alpha, names = _parts(detector, weights, rates, setup)
    own = dict(network.named_parameters())
    groups = [{"params": [own[network.name_of(name)]]} for name in names]
    sgd = torch.optim.SGD(groups, lr=1.0)
    detach = None if setup.second_order else _detached
    for pair in pairs:
        learning_rates = [rate_of(alpha, name, weights[name]) for name in names]
        with higher.innerloop_ctx(
            network, sgd, copy_initial_weights=False, override={"lr": learning_rates}
        ) as (fast, optimizer):
            total = torch.zeros(())
            for k, gamma in enumerate(setup.gammas):
                total = total + gamma * _loss(detector, fast(pair.query), pair.query_labels)
                if k < len(setup.gammas) - 1:
                    inner = _loss(detector, fast(pair.support), pair.support_labels)
                    optimizer.step(inner, grad_callback=detach)
            total.backward()
    return _collected(network, weights, alpha, setup)


def torchopt_gradient(
    detector: Detector, weights: Weights, rates: Rates, pairs: list[Pair], setup: OuterStep
) -> Gradient:
    """torchopt's functional interface; the rates are a gradient transformation."""
    import torchopt

    network, alpha, names = _parts(detector, weights, rates, setup)
    own = dict(network.named_parameters())
    theta_0 = {network.name_of(name): own[network.name_of(name)] for name in names}
    for pair in pairs:
        learning_rates = [rate_of(alpha, name, weights[name]) for name in names]
        optimizer = torchopt.base.GradientTransformation(
            init=lambda params: torchopt.base.EmptyState(),
            update=lambda updates, state, params=None, inplace=True, rates=learning_rates: (
                [-rate * update for rate, update in zip(rates, updates, strict=True)],
                state,
            ),
        )
        adapted = theta_0
        state = optimizer.init(list(theta_0.values()))
        total = torch.zeros(())
        for k, gamma in enumerate(setup.gammas):
            maps = torch.func.functional_call(network, own | adapted, (pair.query,))
            total = total + gamma * mean_loss(detector.losses(maps, pair.query_labels))
            if k < len(setup.gammas) - 1:
                maps = torch.func.functional_call(network, own | adapted, (pair.support,))
                inner = mean_loss(detector.losses(maps, pair.support_labels))
                values = list(adapted.values())
                found = torch.autograd.grad(
                    inner, values, create_graph=setup.second_order, retain_graph=setup.second_order
                )
                updates, state = optimizer.update(list(found), state, inplace=False)
                moved = torchopt.apply_updates(values, updates, inplace=False)
                adapted = dict(zip(adapted, moved, strict=True))
        total.backward()
    return _collected(network, weights, alpha, setup)


PEERS: dict[str, Callable[..., Gradient]] = {
    "higher": higher_gradient,
    "torchopt": torchopt_gradient,
}
"""Each peer's outer step, by the name of its package."""


def _parts(
    detector: Detector, weights: Weights, rates: Rates, setup: OuterStep
) -> tuple[Network, Rates, list[str]]:
    """The module, the rates as leaves, and the names of what adapts."""
    network = Network(detector, weights, learned_weights(weights, setup.learns))
    alpha = {name: rate.detach().clone().requires_grad_() for name, rate in rates.items()}
    return network, alpha, adapted_names(weights, setup.adapts, BRANCHES)


def _loss(detector: Detector, maps: dict[str, Tensor], labels: Any) -> Tensor:
    return mean_loss(detector.losses(maps, labels))


def _detached(gradients: list[Tensor | None]) -> list[Tensor | None]:
    return [None if each is None else each.detach() for each in gradients]


def _collected(network: Network, weights: Weights, alpha: Rates, setup: OuterStep) -> Gradient:
    own = dict(network.named_parameters())
    learned = learned_weights(weights, setup.learns)
    return Gradient(
        {name: own[network.name_of(name)].grad for name in learned},
        {name: rate.grad for name, rate in alpha.items()},
    )
