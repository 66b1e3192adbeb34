"""Gradient descent on a support set: GD_k of Eqn. 1 with the rates of Eqn. 5.

The same `adapt` meets a target offline (4 steps), on its first frame (5) and online (1).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from meta_train.detectors import Detector
from meta_train.detectors.backbone import Weights
from meta_train.detectors.network import Adapts, Features, adapted_names, outputs
from meta_train.kernel_rates import Rates, expand


@dataclass(frozen=True, kw_only=True)
class InnerLoopConfig:
    """How a detector learns one target during meta-training."""

    num_steps: int = 4
    """Gradient steps on the support set; K of Eqn. 4."""

    adapts: Adapts = "head"
    """The part that the steps change: "a subset of trainable layers" (Fig. 4). Not in the paper:
    which subset; heads alone fit its speeds."""

    diverges_at: float = 100.0
    """A training pair whose support loss has grown to this many times its first value before the
    last step is left out of the outer step, and counted in ``train/diverged_pairs``; of the
    validation alike, in ``val/diverged_pairs``. Not in the paper: a rate that suits most pairs is
    too large for some, and one of them would outweigh all others of its batch. ``inf``: none is."""

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}")
        if not self.diverges_at > 1:
            raise ValueError(f"diverges_at must be above 1, got {self.diverges_at}")


def losses(
    detector: Detector,
    weights: Weights,
    features: Features,
    labels: Any,
    adapts: Adapts,
    *,
    exact: bool = False,
) -> dict[str, Float[Tensor, "N"]]:
    """Each image's loss in each branch, from the boundary of what adapts onwards.

    ``exact``: block-4 under autocast, as in `outputs`.
    """
    maps = outputs(detector.network, weights, features, adapts, exact=exact)
    return detector.losses(maps, labels)


def mean_loss(by_branch: dict[str, Float[Tensor, "N"]]) -> Float[Tensor, ""]:
    """The loss of a set of images: branches added, images averaged (Eqn. 1 and 2)."""
    return torch.stack([loss.mean() for loss in by_branch.values()]).sum()


def converged(
    query_losses: Tensor,
    first: Float[Tensor, ""],
    last: Float[Tensor, ""],
    diverges_at: float,
) -> Bool[Tensor, ""]:
    """Whether a pair's inner loop stayed within bounds (`InnerLoopConfig.diverges_at`).

    Args:
        query_losses: after each step.
        first: the support loss before the first step.
        last: that before the last one.
        diverges_at: how many times the first the last may be.
    """
    return query_losses.isfinite().all() & ~(last > diverges_at * first)


def step(adapted: Weights, gradients: Iterable[Tensor], rates: Weights) -> Weights:
    """theta_{k+1} = theta_k - alpha * gradient (Eqn. 5).

    Args:
        adapted: theta_k, the weights that change.
        gradients: of the support loss, in the order of ``adapted``.
        rates: alpha, expanded to the weights' shapes.
    """
    return {
        name: weight - rates[name] * gradient
        for (name, weight), gradient in zip(adapted.items(), gradients, strict=True)
    }


def adapt(
    detector: Detector,
    weights: Weights,
    rates: Rates,
    features: Features,
    labels: Any,
    *,
    num_steps: int,
    adapts: Adapts,
) -> Weights:
    """theta_K: the network after K steps of gradient descent on a support set (Eqn. 1 and 5).

    Args:
        detector: gives the loss.
        weights: theta_0, the whole network; not changed.
        rates: alpha.
        features: of the support images at the boundary of what adapts; only the branches in it
            adapt.
        labels: of the support images.
        num_steps: K; 0 gives the weights as they came.
        adapts: the part that changes.

    Returns:
        The whole network, without a graph; what did not adapt is shared with ``weights``.
    """
    names = adapted_names(weights, adapts, tuple(features))
    adapted = {name: weights[name].detach() for name in names}
    fixed_rates = {name: rate.detach() for name, rate in expand(rates, adapted).items()}
    for _ in range(num_steps):
        adapted = {name: weight.requires_grad_() for name, weight in adapted.items()}
        with torch.enable_grad():
            loss = mean_loss(losses(detector, weights | adapted, features, labels, adapts))
        gradients = torch.autograd.grad(loss, list(adapted.values()))
        adapted = {
            name: weight.detach() for name, weight in step(adapted, gradients, fixed_rates).items()
        }
    return weights | adapted
