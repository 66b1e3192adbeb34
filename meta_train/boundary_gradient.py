"""The meta-gradient behind the boundary of what adapts, pair by pair, from given features.

Shapes: P pairs, Q query images of each, K inner steps.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from meta_train.detectors import Detector
from meta_train.detectors.backbone import BRANCHES, Weights, channels_last
from meta_train.detectors.network import Adapts, Features, adapted_names, entry_maps
from meta_train.inner_loop import converged, losses
from meta_train.kernel_rates import Rates, shaped
from meta_train.task_gradient import (
    Loss,
    Task,
    TaskGradient,
    carrying,
    first_order,
    first_order_by_maps,
    gradients_by,
    second_order,
)

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

    def loss(adapted: Weights, features: Features, labels: Any) -> dict[str, Tensor]:
        return losses(
            detector, weights | adapted, features, labels, adapts, exact=setup.exact_backbone
        )

    def entry(adapted: Weights, features: Features) -> Weights:
        return entry_maps(adapted, features, adapts, exact=setup.exact_backbone)

    queries = {branch: _cut(x).flatten(0, 1) for branch, x in tasks.query.items()}
    leaves = {name: weight.detach().requires_grad_() for name, weight in theta_0.items()}
    by_maps = not (setup.second_order or carrying(queries) or rates.keys() & theta_0.keys())
    starts = {n: x.to(dtype) for n, x in entry(leaves, queries).items()} if by_maps else {}
    entries = {f"{layer}.{kind}" for layer in _layers(starts) for kind in ("weight", "bias")}
    by_theta = {n: torch.zeros_like(w) for n, w in theta_0.items() if n not in entries}
    by_alpha = [torch.zeros_like(rate) for rate in alpha.values()]
    parts, counted = [], []
    for pair in range(num_pairs):
        task = _one(tasks, pair, num_pairs)
        if by_maps:
            mine = {name: _rows(start.detach(), pair, num_pairs) for name, start in starts.items()}
            part = first_order_by_maps(loss, entry, theta_0, alpha, task, mine, setup.gammas)
        else:
            follow = second_order if setup.second_order else first_order
            part = follow(loss, theta_0, alpha, task, setup.gammas)
        counts = _converged(part, setup.diverges_at)
        _drop_unless(counts, part)
        _add(by_theta, part.weights)
        torch._foreach_add_(by_alpha, part.alpha)
        parts.append(part._replace(weights={}, alpha=[]))
        counted.append(counts)
    share = torch.stack(counted).to(dtype)
    deeper = {name: leaves[name] for name in by_theta}
    start = _at_start(loss, deeper, starts, queries, tasks.query_labels, setup.gammas[0] * share)
    _add(by_theta, start.weights)
    if by_maps:
        first = {name: leaf for name, leaf in leaves.items() if name in entries}
        by_theta |= _by_entries(first, starts, start, parts)
    by_rate = torch.autograd.grad(list(shaped_rates.values()), list(rate_leaves.values()), by_alpha)
    return BoundaryGradient(
        weights={name: by_theta[name] for name in names},
        rates=dict(zip(rates, by_rate, strict=True)),
        query=[
            torch.stack(each).add_(first.view(num_pairs, -1, *first.shape[1:]))
            for first, *each in zip(start.query, *(part.query for part in parts), strict=True)
        ],
        support=[torch.stack(each) for each in zip(*(p.support for p in parts), strict=True)],
        query_losses={
            branch: torch.stack([(share * first).sum(), *_summed(branch, parts)])
            for branch, first in start.query_losses.items()
        },
        num_pairs=share.sum(),
    )


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


def _by_entries(
    weights: Weights, starts: Weights, start: _Start, parts: list[TaskGradient]
) -> Weights:
    """The entry layers' kernel gradients, once for all pairs and steps."""
    by_starts = [
        torch.cat([part.maps[i] for part in parts]) + each for i, each in enumerate(start.maps)
    ]
    found = torch.autograd.grad(list(starts.values()), list(weights.values()), by_starts)
    return dict(zip(weights, found, strict=True))


def _add(sums: Weights, found: Weights) -> None:
    """Adds in place; there is nothing to add where a head is its output layer alone."""
    if sums:
        torch._foreach_add_(list(sums.values()), [found[name] for name in sums])


def _layers(maps: Weights) -> list[str]:
    return [name.removesuffix(".map") for name in maps]


def _converged(part: TaskGradient, diverges_at: float) -> Bool[Tensor, ""]:
    """Whether a pair's inner loop stayed within bounds."""
    query = torch.stack([loss for losses in part.query_losses.values() for loss in losses])
    first, *_, last = [part.support_losses[0], *part.support_losses]
    return converged(query, first, last, diverges_at)


def _drop_unless(counts: Bool[Tensor, ""], part: TaskGradient) -> None:
    """Puts 0 in the place of all that a diverged pair found, in the tensors that it owns."""
    found = [*part.weights.values(), *part.alpha, *part.query, *part.support, *part.maps]
    found += [loss for losses in part.query_losses.values() for loss in losses]
    for tensor in found:
        tensor.masked_fill_(~counts, 0.0)


def _summed(branch: str, parts: list[TaskGradient]) -> list[Tensor]:
    """A branch's query loss after each step, summed over the pairs."""
    by_step = zip(*(part.query_losses[branch] for part in parts), strict=True)
    return [torch.stack(each).sum() for each in by_step]


def _cut(features: Tensor) -> Tensor:
    """The same values, cut from their graph; a leaf where that graph wants gradients."""
    return features.detach().requires_grad_(features.requires_grad)


def _rows(tensor: Tensor, pair: int, num_pairs: int) -> Tensor:
    """A pair's images of all pairs', one after another."""
    return tensor.reshape(num_pairs, -1, *tensor.shape[1:])[pair]


def _one(tasks: Task, pair: int, num_pairs: int) -> Task:
    """One pair's task, its features cut from their graph."""

    def rows(labels: Any) -> Any:
        return type(labels)(*(_rows(field, pair, num_pairs) for field in labels))

    return Task(
        {branch: _cut(x[pair]) for branch, x in tasks.support.items()},
        rows(tasks.support_labels),
        {branch: _cut(x[pair]) for branch, x in tasks.query.items()},
        rows(tasks.query_labels),
    )
