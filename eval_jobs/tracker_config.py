"""Algorithm 1's constants."""

import math
from dataclasses import dataclass
from typing import Literal

from eval_jobs.update_rule import DriftConfig
from meta_train.detectors.backbone import BRANCHES, Branch
from meta_train.detectors.network import Adapts

UpdateTrigger = Literal["interval", "distractor"]
"""What may ask for an online update (line 14)."""

UPDATE_TRIGGERS: tuple[UpdateTrigger, ...] = ("interval", "distractor")
"""All of them, as in the paper."""


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """Algorithm 1's constants. The defaults are the paper's, or say that they are not."""

    first_frame_steps: int = 5
    """Gradient steps on the first frame (line 3). 0 tracks with the detector as it is."""

    update_steps: int = 1
    """Gradient steps of an online update (line 15). 0 updates never."""

    update_interval_frames: int | None = 10
    """An update is due on every frame whose number, from 1, is a multiple of this (line 14), if
    ``update_triggers`` has the interval. None switches online updating off, also on distractors."""

    update_triggers: tuple[UpdateTrigger, ...] = UPDATE_TRIGGERS
    """What asks for an online update (line 14). Not in the paper: one alone; ``distractor`` learns
    only where something else looks like the target, and so not its own results all along."""

    update_branches: tuple[Branch, ...] = BRANCHES
    """The branches that an online update adapts; the first frame adapts both."""

    update_adapts: Adapts | None = "head"
    """The part that an online update changes: ``head`` leaves block-4 as the first frame made it,
    at the learned rates with 0 for those below; None: all that the first frame changes. Not in the
    paper, which does not say: at an earlier revision updates of block-4 did harm on real video."""

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
    """What holds online updates to the first frame. Not in the paper; off."""

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
        if self.drift.relearn and not self.first_frame_steps and self.update_interval_frames:
            raise ValueError(
                "drift.relearn takes the first frame's steps again: first_frame_steps must be at "
                "least 1, got 0"
            )
        choices = {"update_branches": BRANCHES, "update_triggers": UPDATE_TRIGGERS}
        for name, known in choices.items():
            chosen = getattr(self, name)
            if not chosen or not set(chosen) <= set(known):
                raise ValueError(f"{name} must be one or both of {known}, got {chosen}")
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
