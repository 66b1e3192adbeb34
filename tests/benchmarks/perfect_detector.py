"""Ground truth behind the interface of a detector: for tests of Algorithm 1 itself.

Used by the tracker's tests and by `follow_ground_truth.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from data_pipeline.crops import search_window
from eval_jobs.tracker import OnlineTracker, Prediction
from eval_jobs.tracker_config import TrackerConfig
from meta_train.detectors.backbone import BackboneConfig
from meta_train.detectors.cells import cell_centers
from meta_train.detectors.fcos import Fcos, FcosConfig
from meta_train.detectors.heads import HeadConfig
from meta_train.detectors.network import Adapts, NetworkConfig, Outputs
from meta_train.kernel_rates import KernelRatesConfig
from meta_train.learner import Learner, initial_learner

SMALL_FCOS = FcosConfig(
    network=NetworkConfig(
        backbone=BackboneConfig(width=2, weights="random"), head=HeadConfig(hidden_channels=4)
    )
)


def small_learner(seed: int = 0, adapts: Adapts = "head") -> Learner:
    """An untrained learner with the paper's maps and next to no channels."""
    return initial_learner(
        SMALL_FCOS,
        KernelRatesConfig(),
        adapts=adapts,
        generator=torch.Generator().manual_seed(seed),
    )


@dataclass
class PerfectDetector:
    """Says at each cell what its labels say: the centerness as the score, and the true box.

    A cell outside the target has score 0 and a box of the last size about itself, as a detector has
    that takes the background for nothing. Where there is no target no cell is inside one. All else
    (features, labels, losses, gradient descent) is that of a real, small FCOS-MAML.
    """

    true_box: ndarray = field(default_factory=lambda: np.full(4, np.nan))
    """The target in the current frame, xyxy in the image; NaN where it is not there."""

    last_box: ndarray = field(default_factory=lambda: np.zeros(4))
    """The tracker's box of the frame before: the search window is about it."""

    distractor: float = 0.0
    """Score of a cell in the corner of the map."""

    factor: float = 1.0
    """Multiplies the target's scores."""

    config: FcosConfig = SMALL_FCOS

    @property
    def network(self) -> NetworkConfig:
        return self.config.network

    @property
    def out_channels(self) -> dict[Any, int]:
        return Fcos(self.config).out_channels

    def label(self, boxes: Tensor, present: Tensor) -> Any:
        return Fcos(self.config).label(boxes, present)

    def regressing(self, labels: Any) -> Tensor:
        return Fcos(self.config).regressing(labels)

    def losses(self, outputs: Outputs, labels: Any) -> dict[str, Tensor]:
        return Fcos(self.config).losses(outputs, labels)

    def decode(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        window = search_window(self.last_box)
        is_there = bool(np.isfinite(self.true_box).all())
        box = torch.as_tensor(window.to_crop(self.true_box if is_there else self.last_box))[None]
        labels = self.label(box, torch.tensor([is_there]))
        x, y = cell_centers(box)
        cells = torch.stack(torch.broadcast_tensors(x, y), dim=-1).view(-1, 2)
        last = torch.as_tensor(window.to_crop(self.last_box))
        half_size = (last[2:] - last[:2]) / 2
        background = torch.cat([cells - half_size, cells + half_size], dim=1)
        inside = labels.inside.view(-1, 1) > 0
        boxes = torch.where(inside, box, background)[None]
        scores = labels.centerness * self.factor
        scores[0, 0, 2, 2] = max(float(scores[0, 0, 2, 2]), self.distractor)
        return boxes, scores.flatten(1)


class PerfectTracker:
    """`OnlineTracker`, every line of it, over a perfect detector; plays the role `Tracker`.

    Must be used within `perfect_detectors`.
    """

    def __init__(self, detector: PerfectDetector, config: TrackerConfig | None = None) -> None:
        self.detector = detector
        self.online = OnlineTracker(small_learner(), config)

    def start(self, image: ndarray, box: ndarray) -> None:
        self.detector.true_box = self.detector.last_box = box
        self.online.start(image, box)

    def follow(self, image: ndarray) -> Prediction:
        """Where the target is; the detector must have been told before."""
        prediction = self.online.follow(image)
        self.detector.last_box = prediction.box
        return prediction


@contextmanager
def perfect_detectors() -> Iterator[PerfectDetector]:
    """Puts one perfect detector in the place of all detectors that learners build."""
    detector = PerfectDetector()
    with patch("meta_train.learner.build_detector", lambda config: detector):
        yield detector
