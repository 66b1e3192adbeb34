"""The meta-gradient behind the boundary of what adapts, pair by pair, from given features.

Shapes: P pairs, Q query images of each, K inner steps.
"""

import logging
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from meta_train.cuda_graphs import GRAPHS, Found, Work, in_turn
from meta_train.detectors import Detector
from meta_train.detectors.backbone import BRANCHES, Weights, channels_last
from meta_train.detectors.network import Adapts, Features, adapted_names, entry_maps
from meta_train.inner_loop import converged, losses
from meta_train.kernel_rates import Rates, shaped
from meta_train.task_gradient import (
    Gammas,
    Loss,
    Task,
    carrying,
    first_order,
    first_order_by_maps,
    gradients_by,
    second_order,
)

logger = logging.getLogger(__name__)

Learns = Literal["head", "head+block4", "all"]
"""The part of the network whose first weights the outer loop learns."""


@dataclass(frozen=True, kw_only=True)
class OuterStep:
    """What one meta-gradient depends on besides weights, rates and data."""

    gammas: tuple[float, ...]
    """gamma_0..gamma_K of Eqn. 4; their number sets the number of inner steps."""

    adapts: Adapts
    """The part that the inner loop changes."""

    learns: Learns
    """The part that the outer loop changes."""

    second_order: bool
    """Differentiate through the inner gradients, or take them as constants (first order)."""

    exact_backbone: bool = False
    """Under autocast, round only the derivatives of trunk and block-4 (see `convolve`)."""

    diverges_at: float = math.inf
    """A pair whose support loss grew to this many times its first value is left out, like one
    whose query loss is not finite."""

    cuda_graphs: bool = False
    """On a GPU, launch a pair's work as one graph (`meta_train.cuda_graphs`). Changes nothing of
    what is computed but the order in which pairs are added up."""


class BoundaryGradient(NamedTuple):
    """Sums over the pairs whose inner loop did not diverge."""

    weights: Weights
    """By theta_0, for each weight that adapts."""

    rates: Rates
    """By alpha."""

    query: list[Tensor]
    """By each branch's query features, where they carry a gradient: (P, Q, C, h, w)."""

    support: list[Tensor]
    """By each branch's support features, likewise; in second order only."""

    query_losses: dict[str, Float[Tensor, "steps"]]
    """Each branch's query loss at theta_0..theta_K."""

    num_pairs: Float[Tensor, ""]
    """How many pairs that is."""


def gradient_from_boundary(
    detector: Detector, weights: Weights, rates: Rates, tasks: Task, setup: OuterStep
) -> BoundaryGradient:
    """The meta-gradient from given features of all pairs at the boundary of what adapts.

    Args:
        detector: gives the loss.
        weights: theta_0, the whole network, without a graph.
        rates: alpha.
        tasks: features (P, N, C, h, w) in each branch, and labels of the images one after another.
        setup: gammas, order, and what adapts.
    """
    adapts = setup.adapts
    names = adapted_names(weights, adapts, BRANCHES)
    rate_leaves = {name: rate.detach().requires_grad_() for name, rate in rates.items()}
    theta_0 = channels_last({name: weights[name] for name in names})
    shaped_rates = shaped(rate_leaves, theta_0)
    alpha = {name: rate.detach() for name, rate in shaped_rates.items()}
    num_pairs, dtype = len(next(iter(tasks.query.values()))), theta_0[names[0]].dtype

    queries = {branch: _cut(x).flatten(0, 1) for branch, x in tasks.query.items()}
    leaves = {name: weight.detach().requires_grad_() for name, weight in theta_0.items()}
    by_maps = not (setup.second_order or carrying(queries) or rates.keys() & theta_0.keys())
    one_pair = _OnePair(
        detector, adapts, setup.exact_backbone, setup.second_order, by_maps, setup.diverges_at
    )
    starts = one_pair.entry(leaves, queries) if by_maps else {}
    starts = {name: start.to(dtype) for name, start in starts.items()}
    entries = {f"{layer}.{kind}" for layer in _layers(starts) for kind in ("weight", "bias")}
    pairs = [_one(tasks, starts, pair, num_pairs) for pair in range(num_pairs)]
    over_pairs = _over_pairs(setup, detector, theta_0[names[0]].device)
    (by_theta, by_alpha), found = over_pairs(one_pair, (theta_0, alpha, setup.gammas), pairs)
    share = found.counts.to(dtype)
    deeper = {name: leaves[name] for name in by_theta}
    first_gamma = setup.gammas[0] * share
    start = _at_start(one_pair.loss, deeper, starts, queries, tasks.query_labels, first_gamma)
    _add(by_theta, start.weights)
    if by_maps:
        first = {name: leaf for name, leaf in leaves.items() if name in entries}
        by_theta |= _by_entries(first, starts, start, found.maps)
    by_rate = torch.autograd.grad(list(shaped_rates.values()), list(rate_leaves.values()), by_alpha)
    by_step = found.losses.flatten(1).t().contiguous().sum(dim=1).view(found.losses.shape[1:])
    return BoundaryGradient(
        weights={name: by_theta[name] for name in names},
        rates=dict(zip(rates, by_rate, strict=True)),
        query=[
            each.add_(first.view(each.shape))
            for first, each in zip(start.query, found.query, strict=True)
        ],
        support=found.support,
        query_losses={
            branch: torch.cat([(share * start.query_losses[branch]).sum().view(1), losses])
            for branch, losses in zip(tasks.query, by_step, strict=True)
        },
        num_pairs=share.sum(),
    )


class _PairRows(NamedTuple):
    """What belongs to one pair; as part of what was found for all pairs, stacked."""

    losses: Float[Tensor, "*P branches steps"]
    """Each branch's query loss after each step."""

    counts: Bool[Tensor, "*P"]
    """Whether the inner loop stayed within bounds; all else is 0 where it did not."""

    query: list[Tensor]
    """As in `TaskGradient`, like the rest."""

    support: list[Tensor]

    maps: list[Tensor]


@dataclass(frozen=True)
class _OnePair:
    """The work on one pair as a function of tensors alone (`meta_train.cuda_graphs.Work`)."""

    detector: Detector
    adapts: Adapts
    exact: bool
    second_order: bool
    by_maps: bool
    diverges_at: float

    def loss(self, adapted: Weights, features: Features, labels: Any) -> dict[str, Tensor]:
        """`Loss` of the detector."""
        return losses(self.detector, adapted, features, labels, self.adapts, exact=self.exact)

    def entry(self, adapted: Weights, features: Features) -> Weights:
        """`entry_maps` of what adapts."""
        return entry_maps(adapted, features, self.adapts, exact=self.exact)

    def __call__(
        self, common: tuple[Weights, Weights, Gammas], pair: tuple[Task, Weights]
    ) -> Found:
        """Adds up: the gradients by theta_0, as far as maps do not stand for them, and by alpha."""
        theta_0, alpha, gammas = common
        task, starts = pair
        if self.by_maps:
            part = first_order_by_maps(self.loss, self.entry, theta_0, alpha, task, starts, gammas)
        else:
            follow = second_order if self.second_order else first_order
            part = follow(self.loss, theta_0, alpha, task, gammas)
        query = torch.stack([loss for each in part.query_losses.values() for loss in each])
        first, *_, last = [part.support_losses[0], *part.support_losses]
        counts = converged(query, first, last, self.diverges_at)
        by_branch = query.view(len(part.query_losses), -1)
        found = [*part.weights.values(), *part.alpha, *part.query, *part.support, *part.maps]
        for tensor in (*found, by_branch):
            tensor.masked_fill_(~counts, 0.0)
        rows = _PairRows(by_branch, counts, part.query, part.support, part.maps)
        return Found((part.weights, part.alpha), rows)


def _over_pairs(
    setup: OuterStep, detector: Detector, device: torch.device
) -> Callable[[Work, Any, list[Any]], Found]:
    """How the pairs' work is launched."""
    if not setup.cuda_graphs or device.type != "cuda":
        return in_turn
    return GRAPHS.replayed if _compares_by_value(type(detector)) else in_turn


@cache
def _compares_by_value(kind: type) -> bool:
    """Whether a captured graph can be told to be another detector's or this one's."""
    by_identity = vars(object)["__eq__"]
    if getattr(kind, "__eq__", by_identity) is not by_identity and issubclass(kind, Hashable):
        return True
    logger.warning(
        "CUDA graphs are not used for %s: its objects compare by identity, so that a graph cannot "
        "be found again. Make it a frozen dataclass, as the other detectors are",
        kind.__name__,
    )
    return False


class _Start(NamedTuple):
    """Derivatives of all pairs' query losses at theta_0."""

    weights: Weights
    """By the weights given."""

    maps: list[Tensor]
    """By the entry maps, where they were given."""

    query: list[Tensor]
    """By the query features that carry a gradient, pair after pair."""

    query_losses: dict[str, Float[Tensor, "P"]]
    """Each pair's loss in each branch."""


def _at_start(
    loss: Loss,
    weights: Weights,
    starts: Weights,
    queries: Features,
    labels: Any,
    shares: Float[Tensor, "P"],
) -> _Start:
    """theta_0 is common to all pairs, so their query losses there are one ordinary batch."""
    maps = {name: start.detach().requires_grad_() for name, start in starts.items()}
    by_branch = {
        branch: each.view(len(shares), -1).mean(dim=1)
        for branch, each in loss(weights | maps, queries, labels).items()
    }
    total = (shares * torch.stack(list(by_branch.values())).sum(dim=0)).sum()
    inputs = [*weights.values(), *maps.values(), *carrying(queries)]
    found = gradients_by(total, inputs)
    at, end = len(weights), len(weights) + len(maps)
    return _Start(
        weights=dict(zip(weights, found, strict=False)),
        maps=found[at:end],
        query=found[end:],
        query_losses={branch: each.detach() for branch, each in by_branch.items()},
    )


def _by_entries(weights: Weights, starts: Weights, start: _Start, maps: list[Tensor]) -> Weights:
    """The entry layers' kernel gradients, for all pairs and steps at once."""
    by_starts = [each.flatten(0, 1) + first for each, first in zip(maps, start.maps, strict=True)]
    found = torch.autograd.grad(list(starts.values()), list(weights.values()), by_starts)
    return dict(zip(weights, found, strict=True))


def _add(sums: Weights, found: Weights) -> None:
    """Adds in place; there is nothing to add where a head is its output layer alone."""
    if sums:
        torch._foreach_add_(list(sums.values()), [found[name] for name in sums])


def _layers(maps: Weights) -> list[str]:
    return [name.removesuffix(".map") for name in maps]


def _cut(features: Tensor) -> Tensor:
    """The same values, cut from their graph; a leaf where that graph wants gradients."""
    return features.detach().requires_grad_(features.requires_grad)


def _rows(tensor: Tensor, pair: int, num_pairs: int) -> Tensor:
    """A pair's images of all pairs', one after another."""
    return tensor.reshape(num_pairs, -1, *tensor.shape[1:])[pair]


def _one(tasks: Task, starts: Weights, pair: int, num_pairs: int) -> tuple[Task, Weights]:
    """One pair's task and its query's entry maps, cut from their graph."""

    def rows(labels: Any) -> Any:
        return type(labels)(*(_rows(field, pair, num_pairs) for field in labels))

    task = Task(
        {branch: _cut(x[pair]) for branch, x in tasks.support.items()},
        rows(tasks.support_labels),
        {branch: _cut(x[pair]) for branch, x in tasks.query.items()},
        rows(tasks.query_labels),
    )
    return task, {name: _rows(start.detach(), pair, num_pairs) for name, start in starts.items()}
