"""Detectors: what a tracker is made from. A new one is one file and one row of `DETECTORS`."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from meta_train.detectors.fcos import Fcos, FcosConfig
from meta_train.detectors.network import NetworkConfig, Outputs


@runtime_checkable
class Detector(Protocol):
    """What meta-learning and tracking need of a detector; it holds no weights."""

    @property
    def network(self) -> NetworkConfig:
        """Backbone and heads."""

    def label(self, boxes: Float[Tensor, "N 4"], present: Bool[Tensor, "N"]) -> Any:
        """Labels, in the detector's own form, of targets with these boxes in the crop (pixels)."""

    def losses(self, outputs: Outputs, labels: Any) -> dict[str, Float[Tensor, "N"]]:
        """Each image's weighted loss, for each branch that ``outputs`` holds."""

    def decode(self, outputs: Outputs) -> tuple[Float[Tensor, "N L 4"], Float[Tensor, "N L"]]:
        """Each cell's box in the crop (xyxy, pixels) and its raw score."""


DetectorConfig = FcosConfig

DETECTORS: dict[type, Callable[[Any], Detector]] = {FcosConfig: Fcos}


def build_detector(config: DetectorConfig) -> Detector:
    """The detector that a config describes."""
    return DETECTORS[type(config)](config)
