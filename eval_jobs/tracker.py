"""The online tracker: Algorithm 1, each of its lines findable by its number.

tracker = OnlineTracker.load("runs/RUN_ID/best")
tracker.start(first_frame, box)
boxes = [tracker.follow(frame).box for frame in frames]
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from data_pipeline.crops import cut, search_window, zooms
from eval_jobs.candidates import (
    confine,
    distractor_ratio,
    ranking,
    shape_penalties,
    smooth_shape,
)
from eval_jobs.support_set import SupportSet
from eval_jobs.tracker_config import TrackerConfig
from eval_jobs.tracker_input import check_box, check_image
from eval_jobs.update_rule import UpdateGuard
from meta_train.checkpoint import load_learner
from meta_train.detectors.backbone import BRANCHES, STRIDE_PX, Branch, Weights, channels_last
from meta_train.detectors.network import Features, adapted_names
from meta_train.learner import Learner

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """Where a tracker sees its target in one frame."""

    box: Float[ndarray, "4"]
    """xyxy in the image, pixels."""

    score: float
    """How sure it is: the detector's raw score of this box, or its highest one where ``lost``."""

    lost: bool
    """The target was not found, and the box is that of the frame before."""

    updated: bool = False
    """The tracker learned from this frame on; an update that a guard undid does not count."""


@runtime_checkable
class Tracker(Protocol):
    """What follows one target through a video."""

    def start(self, image: UInt8[ndarray, "height width 3"], box: Float[ndarray, "4"]) -> None:
        """Takes up the target in this box (xyxy, pixels) and forgets any other."""

    def follow(self, image: UInt8[ndarray, "height width 3"]) -> Prediction:
        """The target in the next frame."""


class TrackingError(RuntimeError):
    """A tracker was used in the wrong order, or its network broke down."""


class OnlineTracker:
    """Algorithm 1: a meta-trained detector that adapts to its target on the first frame and on."""

    def __init__(self, learner: Learner, config: TrackerConfig | None = None) -> None:
        """A tracker without a target yet.

        Args:
            learner: the meta-trained detector with its weights theta and rates alpha.
            config: the algorithm's constants; the paper's where not given.

        Raises:
            ValueError: updates should change more than the checkpoint has rates for.
        """
        self.config = TrackerConfig() if config is None else config
        if self.config.update_adapts not in (None, "head", learner.adapts):
            raise ValueError(
                "update_adapts must be None, 'head' or what the checkpoint adapts "
                f"({learner.adapts!r}), got {self.config.update_adapts!r}"
            )
        self._learner = replace(learner, weights=channels_last(learner.weights))
        self._online = self._learner
        self._support: SupportSet | None = None
        self._guard: UpdateGuard | None = None
        self._weights: Weights = self._learner.weights
        self._before_update = self._weights
        self._box = np.zeros(4)
        self._frame_number = 0
        self._last_update = 0

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        config: TrackerConfig | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> "OnlineTracker":
        """The tracker of a checkpoint's folder or URI.

        Raises:
            CheckpointError: the folder is missing or is no whole checkpoint.
            ValueError: this machine has no such device.
        """
        return cls(load_learner(checkpoint, device), config)

    def start(
        self,
        image: UInt8[ndarray, "height width 3"],
        box: Float[ndarray, "4"] | Sequence[float],
    ) -> None:
        """Takes up the target in the first frame (lines 1-3); whatever came before is forgotten.

        Args:
            image: RGB.
            box: the target, xyxy, pixels; may reach outside the image.

        Raises:
            ValueError: the image is not RGB bytes, or the box has no area.
        """
        check_image(image)
        first_box = check_box(box)
        window = search_window(first_box)
        search_image = cut(image, window)  # line 1
        images, boxes_in_crop = zooms(search_image, window.to_crop(first_box))  # line 2
        boxes = self._to_device(boxes_in_crop)
        self._online, self._weights = self._learner, self._learner.weights
        support = SupportSet(self._features(images), boxes, max_samples=self.config.max_support)
        num_steps = self.config.first_frame_steps
        self._weights = self._descend(self._weights, support, num_steps, BRANCHES)  # line 3
        part = None if self.config.drift.relearn else self.config.update_adapts
        if part is not None and part != self._learner.adapts:
            self._online = self._learner.partial(self._weights, part)
            support = SupportSet(self._features(images), boxes, max_samples=self.config.max_support)
        self._support = support
        self._guard = UpdateGuard(self.config.drift, self._online, self._weights, support)
        self._box = first_box
        self._frame_number = 1
        self._before_update, self._last_update = self._weights, 1

    def follow(self, image: UInt8[ndarray, "height width 3"]) -> Prediction:
        """The target in the next frame (lines 5-16).

        Raises:
            ValueError: the image is not RGB bytes.
            TrackingError: `start` was not called, or what the first frame taught gives no numbers.
        """
        if self._support is None or self._guard is None:
            raise TrackingError("follow was called before start: give the first frame and its box")
        check_image(image)
        config = self.config
        self._frame_number += 1  # line 4
        window = search_window(self._box)
        features = self._features(cut(image, window)[None])
        candidates, scores = self._detect_finite(features, self._guard.first)  # line 5
        if (scores < config.min_score).all():  # line 6
            last = self._box.copy()
            return Prediction(box=last, score=float(scores.max()), lost=True)  # lines 7-8
        last_in_crop = window.to_crop(self._box)
        penalties = shape_penalties(
            candidates[:, 2:] - candidates[:, :2],
            last_in_crop[2:] - last_in_crop[:2],
            config.penalty_strength,
        )
        ranks = ranking(scores, penalties, config.window_weight)  # line 10
        winner = int(ranks.argmax())
        chosen = window.to_image(candidates[winner])  # line 11
        height, width, _ = image.shape
        self._box = confine(
            smooth_shape(chosen, self._box, config.shape_rate),  # line 12
            width=width,
            height=height,
            min_size_px=config.min_size_px,
        )
        box_in_crop = window.to_crop(self._box)
        score = float(scores[winner])
        if score > config.add_threshold:  # line 13
            self._support.add(features, self._to_device(box_in_crop[None]))
        before = self._weights
        if self._update_is_due(scores, winner, box_in_crop):  # line 14
            updated = self._update(self._support)  # line 15
            self._weights = self._guard.passed(updated, before)
        if is_updated := self._weights is not before:
            self._before_update, self._last_update = before, self._frame_number
        return Prediction(box=self._box.copy(), score=score, lost=False, updated=is_updated)

    def _update_is_due(
        self, scores: Float[ndarray, "L"], winner: int, box_in_crop: Float[ndarray, "4"]
    ) -> bool:
        """Whether the frame's number or a distractor asks for an update (line 14)."""
        config = self.config
        if config.update_interval_frames is None or config.update_steps == 0:
            return False
        if not config.drift.allows(float(scores[winner])):
            return False
        if self._frame_number - self._last_update < config.min_update_gap_frames:
            return False
        is_on_interval = self._frame_number % config.update_interval_frames == 0
        if is_on_interval and "interval" in config.update_triggers:
            return True
        if "distractor" not in config.update_triggers:
            return False
        ratio = distractor_ratio(
            scores,
            winner,
            box_in_crop[2:] - box_in_crop[:2],
            stride_px=float(STRIDE_PX),
            neighborhood=config.distractor_neighborhood,
        )
        return ratio > config.distractor_ratio

    def _update(self, support: SupportSet) -> Weights:
        """The weights after an online update, of the branches that it adapts."""
        config, begin = self.config, self._weights
        num_steps = config.update_steps
        if config.drift.relearn:
            theta_0 = self._learner.weights
            names = adapted_names(theta_0, self._learner.adapts, config.update_branches)
            begin = begin | {name: theta_0[name] for name in names}
            num_steps = config.first_frame_steps
        return self._descend(begin, support, num_steps, config.update_branches)

    def _features(self, crops: UInt8[ndarray, "N 263 263 3"]) -> Features:
        """Crops at the boundary of what adapts from here on, for both branches."""
        images = torch.from_numpy(crops).to(self._learner.device).permute(0, 3, 1, 2)
        return self._online.features(images)

    def _detect(self, features: Features) -> tuple[Float[ndarray, "L 4"], Float[ndarray, "L"]]:
        """Each cell's box in the crop and its raw score (line 5)."""
        maps = self._online.outputs(self._weights, features)
        boxes, scores = self._learner.detector.decode(maps)
        return boxes[0].double().cpu().numpy(), scores[0].double().cpu().numpy()

    def _detect_finite(
        self, features: Features, first: Weights
    ) -> tuple[Float[ndarray, "L 4"], Float[ndarray, "L"]]:
        """As `_detect`. Not in the paper: updates that give no numbers are undone, last first."""
        for weights in (self._weights, self._before_update, first):
            self._weights = weights
            found = self._detect(features)
            if all(bool(np.isfinite(array).all()) for array in found):
                return found
            logger.warning("frame %d: the last update gives no numbers", self._frame_number)
        raise TrackingError(
            f"frame {self._frame_number}: the detector's scores or boxes are not finite; its "
            "gradient descent on the first frame diverged. Use smaller rates or fewer steps."
        )

    def _descend(
        self, begin: Weights, support: SupportSet, num_steps: int, branches: tuple[Branch, ...]
    ) -> Weights:
        """The weights after gradient descent on the support set (Eqn. 1)."""
        features, boxes = support.samples(branches)
        labels = self._learner.detector.label(boxes, torch.ones_like(boxes[:, 0], dtype=torch.bool))
        return self._online.adapt(begin, features, labels, num_steps=num_steps)

    def _to_device(self, boxes: Float[ndarray, "N 4"]) -> Float[Tensor, "N 4"]:
        return torch.as_tensor(boxes, dtype=torch.float32, device=self._learner.device)
