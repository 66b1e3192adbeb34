"""Detectors: what a tracker is made from. A new one is one file and one row of `DETECTORS`."""

from collections.abc import Callable
from dataclasses import Field
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from meta_train.detectors.backbone import Branch
from meta_train.detectors.fcos import Fcos, FcosConfig
from meta_train.detectors.network import NetworkConfig, Outputs
from meta_train.detectors.retina import Retina, RetinaConfig


@runtime_checkable
class Detector(Protocol):
    """What meta-learning and tracking need of a detector; it holds no weights."""

    @property
    def network(self) -> NetworkConfig:
        """Backbone and heads."""

    @property
    def out_channels(self) -> dict[Branch, int]:
        """Channels of each branch's output map."""

    def label(self, boxes: Float[Tensor, "N 4"], present: Bool[Tensor, "N"]) -> Any:
        """Labels of targets with these boxes in the crop (pixels).

        They are a NamedTuple of the detector's own: maps, (N, any, 33, 33).
        """

    def regressing(self, labels: Any) -> Float[Tensor, "N 1 33 33"]:
        """1 on the cells whose regression the loss reads, 0 on all others."""

    def losses(self, outputs: Outputs, labels: Any) -> dict[str, Float[Tensor, "N"]]:
        """Each image's weighted loss, for each branch that ``outputs`` holds."""

    def decode(self, outputs: Outputs) -> tuple[Float[Tensor, "N L 4"], Float[Tensor, "N L"]]:
        """Each cell's box in the crop (xyxy, pixels) and its raw score.

        The tracker takes scores to lie about 0 (background) to 1 (target).
        """


class _Config(Protocol):
    """What the config of a detector is: a frozen dataclass with these fields."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def kind(self) -> str:
        """The detector's name: a Literal, by which files tell the configs apart."""

    @property
    def network(self) -> NetworkConfig:
        """Backbone and heads."""


DETECTORS: dict[type, Callable[[Any], Detector]] = {
    FcosConfig: Fcos,
    RetinaConfig: Retina,
}
"""For each detector's config what builds it. Files and command lines know the detectors by it."""

if TYPE_CHECKING:
    DetectorConfig = _Config
else:
    DetectorConfig = reduce(or_, DETECTORS)


def build_detector(config: DetectorConfig) -> Detector:
    """The detector that a config describes."""
    return DETECTORS[type(config)](config)
