"""The meta-loss (Eqn. 2-4) and its gradient, in first and in second order.

`unrolled_meta_loss` is Eqn. 4 written down: one graph through all inner steps. `meta_gradient`
gives the same gradient without that graph, pair by pair and step by step:

- whatever does not adapt runs once per image, up to the boundary of what adapts; the gradients that
  arrive there flow back through it once, at the end;
- theta_0 is common to all pairs, so its query loss is one ordinary batch;
- first order frees each step's graph at once; second order keeps one local graph per step and goes
  back through them by Hessian-vector products.

Shapes: P pairs, N images, K inner steps.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from data_pipeline.episodes import EpisodeBatch
from meta_train.boundary_gradient import Learns, OuterStep, gradient_from_boundary
from meta_train.detectors import Detector
from meta_train.detectors.backbone import BRANCHES, Weights, channels_last
from meta_train.detectors.network import (
    Adapts,
    Features,
    adapted_names,
    branch_features,
    trunk_features,
)
from meta_train.inner_loop import losses, mean_loss, step
from meta_train.kernel_rates import Rates, expand
from meta_train.task_gradient import Task

__all__ = [
    "Episodes",
    "Learns",
    "MetaGradient",
    "OuterStep",
    "added",
    "boundary_features",
    "label_episodes",
    "learned_weights",
    "meta_gradient",
    "to_episodes",
    "unrolled_meta_loss",
]


class Episodes(NamedTuple):
    """P episodes as tensors: a pair of images each, the first zoomed three ways."""

    support_images: UInt8[Tensor, "P S 3 H W"]
    support_boxes: Float[Tensor, "P S 4"]
    query_images: UInt8[Tensor, "P Q 3 H W"]
    query_boxes: Float[Tensor, "P Q 4"]
    query_present: Bool[Tensor, "P Q"]


class MetaGradient(NamedTuple):
    """Sums over pairs, so that shares of a batch add up; divide by ``num_pairs`` for the mean."""

    weights: Weights
    """d meta-loss / d theta_0, for each weight that the outer loop learns."""

    rates: Rates
    """d meta-loss / d alpha, for each rate."""

    query_losses: dict[str, Float[Tensor, "steps"]]
    """Each branch's query loss at theta_0..theta_K, summed over pairs."""

    num_pairs: Float[Tensor, ""]
    """How many pairs that is: those whose inner loop did not diverge. On the device, like the rest,
    so that no step waits for it."""


def to_episodes(batch: EpisodeBatch, device: torch.device, dtype: torch.dtype) -> Episodes:
    """A batch of episodes as tensors, boxes in the network's precision."""

    def image(array: Any) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True).movedim(-1, -3)

    def box(array: Any) -> Tensor:
        return torch.from_numpy(array).to(device, dtype, non_blocking=True)

    return Episodes(
        image(batch.support_images),
        box(batch.support_boxes),
        image(batch.query_images),
        box(batch.query_boxes),
        torch.from_numpy(batch.query_present).to(device, non_blocking=True),
    )


def learned_weights(weights: Weights, learns: Learns) -> list[str]:
    """Names of the weights whose start the outer loop learns."""
    if learns == "all":
        return list(weights)
    parts = (".head.", ".block4.") if learns == "head+block4" else (".head.",)
    return [name for name in weights if any(part in name for part in parts)]


def unrolled_meta_loss(
    detector: Detector, weights: Weights, rates: Rates, episodes: Episodes, setup: OuterStep
) -> Float[Tensor, ""]:
    """Eqn. 4 as it stands, summed over pairs, with its whole graph: the reference for the tests."""
    total = weights["trunk.conv1.weight"].new_zeros(())
    for pair in range(len(episodes.support_images)):
        images = torch.cat([episodes.support_images[pair], episodes.query_images[pair]])
        shared = trunk_features(weights, images)
        features = branch_features(detector.network, weights, shared, setup.adapts)
        num_support = len(episodes.support_images[pair])
        support = {branch: x[:num_support] for branch, x in features.items()}
        query = {branch: x[num_support:] for branch, x in features.items()}
        one = Episodes(*(field[pair : pair + 1] for field in episodes))
        query_labels, support_labels = label_episodes(detector, one)

        names = adapted_names(weights, setup.adapts, tuple(features))
        adapted = {name: weights[name] for name in names}
        alpha = expand(rates, adapted)
        for k, gamma in enumerate(setup.gammas):
            theta = weights | adapted
            by_branch = losses(detector, theta, query, query_labels, setup.adapts)
            total = total + gamma * mean_loss(by_branch)
            if k == len(setup.gammas) - 1:
                break
            loss = mean_loss(losses(detector, theta, support, support_labels, setup.adapts))
            gradients = torch.autograd.grad(
                loss, list(adapted.values()), create_graph=setup.second_order, retain_graph=True
            )
            adapted = step(adapted, gradients, alpha)
    return total


def meta_gradient(
    detector: Detector, weights: Weights, rates: Rates, episodes: Episodes, setup: OuterStep
) -> MetaGradient:
    """The gradient of Eqn. 4 for theta_0 and alpha, summed over the pairs.

    Exact in both orders: it equals the gradient of `unrolled_meta_loss`.
    """
    adapted = adapted_names(weights, setup.adapts, BRANCHES)
    learned = learned_weights(weights, setup.learns)
    upstream = [name for name in learned if name not in adapted]  # learned, before the boundary
    fixed = channels_last({name: weight.detach() for name, weight in weights.items()})
    leaves = {name: fixed[name].clone().requires_grad_() for name in upstream}
    adapts, exact, both = setup.adapts, setup.exact_backbone, fixed | leaves
    query = boundary_features(detector, both, episodes.query_images, adapts, exact=exact)
    with torch.set_grad_enabled(setup.second_order):
        support = boundary_features(detector, both, episodes.support_images, adapts, exact=exact)
    query_labels, support_labels = label_episodes(detector, episodes)
    tasks = Task(support, support_labels, query, query_labels)
    found = gradient_from_boundary(detector, fixed, rates, tasks, setup)
    gradients = dict(found.weights)
    if upstream:
        ends = [x for x in (*query.values(), *support.values()) if x.requires_grad]
        by_upstream = torch.autograd.grad(ends, list(leaves.values()), found.query + found.support)
        gradients |= dict(zip(upstream, by_upstream, strict=True))
    return MetaGradient(
        weights={name: gradients[name] for name in learned},
        rates=found.rates,
        query_losses=found.query_losses,
        num_pairs=found.num_pairs,
    )


def added(parts: list[MetaGradient]) -> MetaGradient:
    """Gradients of shares of a batch, as the gradient of the batch.

    Every other one first, as two workers share a batch: where each part is a pair, they and a
    single worker add up in the same order and so, on the CPU, train alike, bit for bit.
    """
    if len(parts) == 1:
        return parts[0]
    one, other = added(parts[0::2]), added(parts[1::2])

    def field(name: str) -> dict[str, Tensor]:
        first, second = getattr(one, name), getattr(other, name)
        return {key: first[key] + second[key] for key in first}

    return MetaGradient(
        weights=field("weights"),
        rates=field("rates"),
        query_losses=field("query_losses"),
        num_pairs=one.num_pairs + other.num_pairs,
    )


def label_episodes(detector: Detector, episodes: Episodes) -> tuple[Any, Any]:
    """Labels of all query images and of all support images, (P * Q) and (P * S)."""
    support = episodes.support_boxes.flatten(0, 1)
    return (
        detector.label(episodes.query_boxes.flatten(0, 1), episodes.query_present.flatten()),
        detector.label(support, torch.ones(len(support), dtype=torch.bool, device=support.device)),
    )


def boundary_features(
    detector: Detector,
    weights: Weights,
    images: UInt8[Tensor, "P N 3 H W"],
    adapts: Adapts,
    *,
    exact: bool = False,
) -> Features:
    """Features of all images at the boundary of what adapts: (P, N, C, h, w) in each branch.

    ``exact``: under autocast, as in `convolve`.
    """
    shared = trunk_features(weights, images.flatten(0, 1), exact=exact)
    features = branch_features(detector.network, weights, shared, adapts, exact=exact)
    pairs, count = images.shape[:2]
    return {branch: x.reshape(pairs, count, *x.shape[1:]) for branch, x in features.items()}
