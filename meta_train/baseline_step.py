"""The gradient of the baseline of Table 1: the same detector, trained without an inner loop."""

from typing import Any

import torch

from meta_train.detectors import Detector
from meta_train.detectors.backbone import Weights
from meta_train.inner_loop import losses, mean_loss
from meta_train.kernel_rates import Rates
from meta_train.outer_step import (
    Episodes,
    MetaGradient,
    OuterStep,
    boundary_features,
    label_episodes,
    learned_weights,
)


def batch_gradient(
    detector: Detector, weights: Weights, rates: Rates, episodes: Episodes, setup: OuterStep
) -> MetaGradient:
    """The gradient of the ordinary loss on all images of each pair: Table 1's baseline.

    Not in the paper: that all four images count alike. ``rates`` and ``setup.gammas`` play no part.
    """
    learned = learned_weights(weights, setup.learns)
    leaves = {name: weights[name].detach().requires_grad_() for name in learned}
    fixed = {name: weight.detach() for name, weight in weights.items()}
    images = torch.cat([episodes.query_images, episodes.support_images], dim=1)
    features = boundary_features(
        detector, fixed | leaves, images, setup.adapts, exact=setup.exact_backbone
    )
    pairs, per_pair = images.shape[:2]
    query_labels, support_labels = label_episodes(detector, episodes)
    labels = _pair_by_pair(query_labels, support_labels, pairs)
    flat = {branch: x.flatten(0, 1) for branch, x in features.items()}
    by_branch = losses(
        detector, fixed | leaves, flat, labels, setup.adapts, exact=setup.exact_backbone
    )
    total = mean_loss(by_branch) * pairs
    found = torch.autograd.grad(total, list(leaves.values()))
    return MetaGradient(
        weights=dict(zip(learned, found, strict=True)),
        rates={},
        query_losses={b: each.detach().sum().view(1) / per_pair for b, each in by_branch.items()},
        num_pairs=total.new_full((), pairs),
    )


def _pair_by_pair(query: Any, support: Any, pairs: int) -> Any:
    """Labels in the images' order: each pair's query images, then its support images."""

    def merged(q: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        by_pair = [x.reshape(pairs, -1, *x.shape[1:]) for x in (q, s)]
        return torch.cat(by_pair, dim=1).flatten(0, 1)

    return type(query)(*(merged(q, s) for q, s in zip(query, support, strict=True)))
