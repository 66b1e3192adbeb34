"""Retina-MAML: one 64x64 anchor per cell, scored by focal loss (Sec. 4.1).

Shapes: N images, 33x33 cells of a 263x263 crop, L = 1089 cells in row-major order.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from meta_train.detectors.backbone import MAP_SIZE, Branch
from meta_train.detectors.cells import at_least_float32, cell_centers, masked_mean
from meta_train.detectors.network import NetworkConfig, Outputs
from meta_train.detectors.torchvision_ops import box_convert, box_iou, sigmoid_focal_loss

_LARGEST_LOG_SIZE = math.log(1000 / 16)
"""Bound of a regressed log size, torchvision's: above it exp soon overflows."""


@dataclass(frozen=True, kw_only=True)
class RetinaConfig:
    """Retina-MAML."""

    LOSS_FIELDS: ClassVar = (
        "positive_iou",
        "negative_iou",
        "balance",
        "focusing",
        "cls_weight",
        "reg_weight",
    )
    """Fields that matter in training alone: weights serve other values of them as well."""

    kind: Literal["retina"] = "retina"
    """Which detector this configures, in files."""

    network: NetworkConfig = NetworkConfig()
    """Backbone and heads."""

    anchor_px: float = 64.0
    """Side of the anchor; a square target is 63.5 px wide in the crop."""

    positive_iou: float = 0.5
    """Anchors that overlap the target more are positive."""

    negative_iou: float = 0.3
    """Anchors that overlap it less are background; those between take no part."""

    prior: float = 0.01
    """Score of a cell whose output is 0: RetinaNet's first bias, as a constant, so that few cells
    are positive before anything is learned. Not in the paper: its value."""

    balance: float = 0.25
    """Weight of the positive anchors in the focal loss (its alpha), against 1 - balance. Not in the
    paper: RetinaNet's value."""

    focusing: float = 2.0
    """Exponent of the focal loss (its gamma). Not in the paper: RetinaNet's value."""

    center_std: float = 0.1
    """Divides the regressed shift of the centre, in anchors. Not in the paper: Fast R-CNN's."""

    size_std: float = 0.2
    """Divides the regressed log size. Not in the paper: Fast R-CNN's value."""

    cls_weight: float = 2.0
    """Factor of the score's loss; it scales the branch's inner steps, as the rates do. Not in the
    paper."""

    reg_weight: float = 5.0
    """Factor of the regression's loss. Not in the paper."""

    def __post_init__(self) -> None:
        if not self.anchor_px > 0:
            raise ValueError(f"anchor_px must be positive, got {self.anchor_px}")
        if not 0 < self.negative_iou <= self.positive_iou < 1:
            raise ValueError(
                "0 < negative_iou <= positive_iou < 1 expected, got negative_iou "
                f"{self.negative_iou} and positive_iou {self.positive_iou}"
            )
        if not (0 < self.prior < 1 and 0 < self.balance < 1):
            raise ValueError(
                f"prior and balance must lie in (0, 1), got {self.prior} and {self.balance}"
            )
        if not self.focusing >= 0:
            raise ValueError(f"focusing must not be negative, got {self.focusing}")
        if not (self.center_std > 0 and self.size_std > 0):
            raise ValueError(
                "center_std and size_std must be positive, "
                f"got {self.center_std} and {self.size_std}"
            )
        if not (self.cls_weight > 0 and self.reg_weight > 0):
            raise ValueError(
                f"loss weights must be positive, got cls {self.cls_weight}, reg {self.reg_weight}"
            )


class RetinaLabels(NamedTuple):
    """What the two branches should say about N images."""

    positive: Float[Tensor, "N 1 33 33"]
    """1 on the anchors that match the target; at least one where it overlaps any."""

    counted: Float[Tensor, "N 1 33 33"]
    """1 on the positive anchors and on the background, 0 on those between."""

    offsets: Float[Tensor, "N 4 33 33"]
    """(dx / w, dy / h, log w, log h) of the target against each positive anchor, normalised; 0
    elsewhere."""


@dataclass(frozen=True)
class Retina:
    """The functions of Retina-MAML; plays the role `meta_train.detectors.Detector`."""

    config: RetinaConfig

    def __post_init__(self) -> None:
        import torchvision  # noqa: F401  (seconds, which are not to fall into the first frame's)

    @property
    def network(self) -> NetworkConfig:
        """Backbone and heads."""
        return self.config.network

    @property
    def out_channels(self) -> dict[Branch, int]:
        """One score and one box per cell."""
        return {"cls": 1, "reg": 4}

    @torch.no_grad()
    def label(self, boxes: Float[Tensor, "N 4"], present: Bool[Tensor, "N"]) -> RetinaLabels:
        """Labels of each anchor, from the target's box in the crop and whether it is there.

        Not in the paper: a target of aspect 2.3 or more overlaps no anchor by .5, so the best
        anchor of a target is always positive, as torchvision's matcher does it for low-quality
        matches. A target that touches no anchor is background everywhere.
        """
        overlap = box_iou(boxes, self._anchors(boxes)).view(-1, 1, MAP_SIZE, MAP_SIZE)
        best = overlap.amax(dim=(2, 3), keepdim=True)
        there = present.view(-1, 1, 1, 1)
        matches = (overlap > self.config.positive_iou) | ((overlap == best) & (overlap > 0))
        positive = matches & there
        background = (overlap < self.config.negative_iou) | ~there
        offsets = torch.where(positive, self._encode(boxes), boxes.new_zeros(()))
        return RetinaLabels(
            positive.to(boxes.dtype), (positive | background).to(boxes.dtype), offsets
        )

    def regressing(self, labels: RetinaLabels) -> Float[Tensor, "N 1 33 33"]:
        """The anchors that match the target."""
        return labels.positive

    def losses(self, outputs: Outputs, labels: RetinaLabels) -> dict[str, Float[Tensor, "N"]]:
        """Each image's weighted loss for each branch in ``outputs``: focal and smooth L1.

        Not in the paper: the focal loss is summed and divided by the number of positive anchors, as
        RetinaNet's; smooth L1 is the mean over positive anchors and coordinates.
        """
        result = {}
        if "cls" in outputs:
            result["cls"] = self.config.cls_weight * self._score_loss(outputs["cls"], labels)
        if "reg" in outputs:
            error = F.smooth_l1_loss(outputs["reg"], labels.offsets, reduction="none")
            per_cell = error.mean(dim=1, keepdim=True)
            result["reg"] = self.config.reg_weight * masked_mean(per_cell, labels.positive)
        return result

    def _score_loss(
        self, outputs: Float[Tensor, "N 1 33 33"], labels: RetinaLabels
    ) -> Float[Tensor, "N"]:
        config = self.config
        per_cell = sigmoid_focal_loss(
            self._logits(at_least_float32(outputs)),
            labels.positive,
            alpha=config.balance,
            gamma=config.focusing,
        )
        num_positive = labels.positive.sum(dim=(1, 2, 3)).clamp(min=1)
        return (per_cell * labels.counted).sum(dim=(1, 2, 3)) / num_positive

    def decode(self, outputs: Outputs) -> tuple[Float[Tensor, "N L 4"], Float[Tensor, "N L"]]:
        """Each cell's box in the crop (xyxy, pixels) and its raw score, a probability."""
        side = self.config.anchor_px
        reg = at_least_float32(outputs["reg"])
        x, y = cell_centers(reg)
        shift = reg[:, :2] * self.config.center_std * side
        size = (reg[:, 2:] * self.config.size_std).clamp(max=_LARGEST_LOG_SIZE).exp() * side
        center_x, center_y = x + shift[:, 0], y + shift[:, 1]
        cxcywh = torch.stack([center_x, center_y, size[:, 0], size[:, 1]], dim=-1)  # (N, 33, 33, 4)
        scores = torch.sigmoid(self._logits(at_least_float32(outputs["cls"])))
        return box_convert(cxcywh.flatten(1, 2), "cxcywh", "xyxy"), scores.flatten(1)

    def _anchors(self, like: Tensor) -> Float[Tensor, "L 4"]:
        """Each cell's anchor, xyxy in the crop."""
        x, y = cell_centers(like)
        side = torch.full_like(x, self.config.anchor_px)
        cxcywh = torch.stack([x, y, side, side], dim=-1).view(-1, 4)
        return box_convert(cxcywh, "cxcywh", "xyxy")

    def _encode(self, boxes: Float[Tensor, "N 4"]) -> Float[Tensor, "N 4 33 33"]:
        """(dx / w, dy / h, log w, log h) of boxes against each anchor, normalised."""
        side = self.config.anchor_px
        x, y = cell_centers(boxes)
        columns = box_convert(boxes, "xyxy", "cxcywh").unbind(-1)
        center_x, center_y, width, height = (column.view(-1, 1, 1) for column in columns)
        shift = torch.stack([center_x - x, center_y - y], dim=1) / side
        size = torch.log(torch.stack([width, height], dim=1) / side).expand_as(shift)
        return torch.cat([shift / self.config.center_std, size / self.config.size_std], dim=1)

    def _logits(self, outputs: Tensor) -> Tensor:
        """The score's logits: an output of 0 means ``prior``."""
        return outputs + math.log(self.config.prior / (1 - self.config.prior))
