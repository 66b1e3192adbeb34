"""Guards against drift: what an online update starts from, and what it must pass to count.

Not in the paper, whose updates always count. A tracker that follows the wrong thing adds it to its
support set and learns it, and so never comes back; the paper's own figures get worse by updating
the box branch on long sequences (Table 3, LaSOT). Each guard is off unless it is set.
"""

import math
from dataclasses import dataclass

import torch

from eval_jobs.support_set import SupportSet
from meta_train.detectors.backbone import BRANCHES, Weights
from meta_train.inner_loop import losses, mean_loss
from meta_train.learner import Learner


@dataclass(frozen=True, kw_only=True)
class DriftConfig:
    """What holds online updates to the first frame. By default nothing does, as in the paper."""

    relearn: bool = False
    """An update goes back to theta_0 and takes the first frame's number of steps on the whole
    support set: what meta-training prepared for, so that updates do not add up. In the branches
    that it adapts it changes all that the first frame changed, not ``update_adapts``; of
    ``update_steps`` only 0, for never, counts."""

    min_update_score: float | None = None
    """No update on a frame whose result has a raw score of at most this. None: on any frame."""

    rollback_factor: float | None = None
    """An update is undone after which the first frame's loss is more than so many times what it was
    when the first frame had been learned. None: none is undone."""

    pull_back: float = 0.0
    """Share of the way back to the first frame's weights that they go after each update."""

    def __post_init__(self) -> None:
        if self.min_update_score is not None and math.isnan(self.min_update_score):
            raise ValueError("min_update_score must be a number, or None, got nan")
        if self.rollback_factor is not None and not self.rollback_factor >= 1:
            raise ValueError(
                f"rollback_factor must be at least 1, or None, got {self.rollback_factor}"
            )
        if not 0 <= self.pull_back <= 1:
            raise ValueError(f"pull_back must lie in [0, 1], got {self.pull_back}")

    def allows(self, score: float) -> bool:
        """Whether a frame whose result has this raw score may ask for an update."""
        return self.min_update_score is None or score > self.min_update_score


def pulled_back(weights: Weights, first: Weights, share: float) -> Weights:
    """Weights moved by a share of the way to the first frame's: (1 - share) * w + share * w_1."""
    if share == 0:
        return weights
    return {
        name: weight if weight is first[name] else torch.lerp(weight, first[name], share)
        for name, weight in weights.items()
    }


def first_frame_loss(learner: Learner, weights: Weights, support: SupportSet) -> float:
    """The loss of weights on the samples of the first frame, both branches added."""
    features, boxes = support.first(BRANCHES)
    detector = learner.detector
    labels = detector.label(boxes, torch.ones_like(boxes[:, 0], dtype=torch.bool))
    with torch.no_grad():
        return float(mean_loss(losses(detector, weights, features, labels, learner.adapts)))


class UpdateGuard:
    """Remembers what the first frame taught, and holds the updates of one target to it."""

    def __init__(
        self, config: DriftConfig, learner: Learner, first: Weights, support: SupportSet
    ) -> None:
        """The guard of a target whose first frame was just learned."""
        self._config, self._learner, self._support = config, learner, support
        self.first = first
        self._first_loss = self._loss(first) if config.rollback_factor is not None else 0.0

    def passed(self, updated: Weights, before: Weights) -> Weights:
        """What becomes of an update: its weights, pulled back, or those before it (undone)."""
        kept = pulled_back(updated, self.first, self._config.pull_back)
        factor = self._config.rollback_factor
        # Written so that a loss that is no longer a number is undone too.
        if factor is not None and not self._loss(kept) <= factor * self._first_loss:
            return before
        return kept

    def _loss(self, weights: Weights) -> float:
        return first_frame_loss(self._learner, weights, self._support)
