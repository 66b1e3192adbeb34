"""The online tracker: Algorithm 1, each of its lines findable by its number.

tracker = OnlineTracker.load("runs/RUN_ID/best")
tracker.start(first_frame, box)
boxes = [tracker.follow(frame).box for frame in frames]
"""

import logging
import math
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
from eval_jobs.tracker_input import check_box, check_image
from eval_jobs.update_rule import DriftConfig, UpdateGuard
from meta_train.checkpoint import load_learner
from meta_train.detectors.backbone import BRANCHES, STRIDE_PX, Branch, Weights, channels_last
from meta_train.detectors.network import Adapts, Features
from meta_train.learner import Learner

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """Algorithm 1's constants. The defaults are the paper's, or say that they are not."""

    first_frame_steps: int = 5
    """Gradient steps on the first frame (line 3). 0 tracks with the detector as it is."""

    update_steps: int = 1
    """Gradient steps of an online update (line 15). 0 updates never."""

    update_interval_frames: int | None = 10
    """An update is due on every frame whose number, from 1, is a multiple of this (line 14). None
    switches online updating off, also on distractors."""

    update_branches: tuple[Branch, ...] = BRANCHES
    """The branches that an online update adapts; the first frame adapts both."""

    update_adapts: Adapts | None = "head"
    """The part that an online update changes: ``head`` leaves block-4 as the first frame made it,
    at the learned rates with 0 for those below; None: all that the first frame changes. Not in the
    paper, which does not say: on real video updates of block-4 do harm (README)."""

    min_score: float = 0.1
    """Where all raw scores are below, the last box is kept (line 6)."""

    add_threshold: float = 0.5
    """A result whose raw score is above enters the support set (line 13). Not in the paper: its
    value, and that the score is the raw one."""

    max_support: int = 30
    """Most samples in the support set, the three of the first frame among them."""

    distractor_ratio: float = 0.7
    """A second peak above this share of the winner's raw score is a distractor (line 14)."""

    distractor_neighborhood: float = 2.2
    """Side of what belongs to the winner's peak, in target sizes. Not in the paper."""

    min_update_gap_frames: int = 1
    """Fewest frames from one update to the next, whatever asks for it; one that was undone does not
    count. Not in the paper: 1 is no limit; more keeps look-alikes that stay in sight from asking
    for an update on each frame."""

    drift: DriftConfig = DriftConfig()
    """What an online update must pass. Not in the paper; off."""

    penalty_strength: float = 0.2
    """k of the shape penalty (line 10). Not in the paper; PySiamTracking."""

    window_weight: float = 0.40
    """Share of the cosine prior (line 10). Not in the paper; PySiamTracking."""

    shape_rate: float = 0.5
    """Share of the new size in the smoothed one (line 12); 1 does not smooth. Not in the paper;
    PySiamTracking."""

    min_size_px: float = 8.0
    """Least width and height of a box in the image. Not in the paper; PySiamTracking."""

    def __post_init__(self) -> None:
        counts = {"first_frame_steps": self.first_frame_steps, "update_steps": self.update_steps}
        for name, count in counts.items():
            if count < 0:
                raise ValueError(f"{name} must not be negative, got {count}")
        if self.update_interval_frames is not None and self.update_interval_frames < 1:
            raise ValueError(
                "update_interval_frames must be at least 1, or None for no online updating, "
                f"got {self.update_interval_frames}"
            )
        if not self.update_branches or not set(self.update_branches) <= set(BRANCHES):
            raise ValueError(
                f"update_branches must be one or both of {BRANCHES}, got {self.update_branches}"
            )
        shares = {"window_weight": self.window_weight, "shape_rate": self.shape_rate}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {share}")
        if self.max_support < 3:
            raise ValueError(
                f"max_support must be at least 3, the first frame's samples, got {self.max_support}"
            )
        if self.min_update_gap_frames < 1:
            raise ValueError(
                f"min_update_gap_frames must be at least 1, got {self.min_update_gap_frames}"
            )
        for name in ("penalty_strength", "distractor_ratio", "distractor_neighborhood"):
            if not getattr(self, name) >= 0:  # so that NaN fails
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if math.isnan(self.min_score) or math.isnan(self.add_threshold):
            got = f"{self.min_score} and {self.add_threshold}"
            raise ValueError(f"min_score and add_threshold must be numbers, got {got}")
        if not self.min_size_px > 0:
            raise ValueError(f"min_size_px must be positive, got {self.min_size_px}")


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
        self._weights = self._descend(support, self.config.first_frame_steps, BRANCHES)  # line 3
        part = self.config.update_adapts
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
            self._weights = self._descend(  # line 15
                self._support, config.update_steps, config.update_branches
            )
            self._weights = self._guard.passed(self._weights, before)
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
        if self._frame_number % config.update_interval_frames == 0:
            return True
        ratio = distractor_ratio(
            scores,
            winner,
            box_in_crop[2:] - box_in_crop[:2],
            stride_px=float(STRIDE_PX),
            neighborhood=config.distractor_neighborhood,
        )
        return ratio > config.distractor_ratio

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
        self, support: SupportSet, num_steps: int, branches: tuple[Branch, ...]
    ) -> Weights:
        """The weights after gradient descent on the support set (Eqn. 1)."""
        features, boxes = support.samples(branches)
        labels = self._learner.detector.label(boxes, torch.ones_like(boxes[:, 0], dtype=torch.bool))
        return self._online.adapt(self._weights, features, labels, num_steps=num_steps)

    def _to_device(self, boxes: Float[ndarray, "N 4"]) -> Float[Tensor, "N 4"]:
        return torch.as_tensor(boxes, dtype=torch.float32, device=self._learner.device)
