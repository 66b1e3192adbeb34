"""FCOS-MAML: an anchor-free detector with one centerness branch as the score (Sec. 4.1).

Shapes: N images, 33x33 cells of a 263x263 crop, L = 1089 cells in row-major order.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from meta_train.detectors.backbone import Branch
from meta_train.detectors.cells import at_least_float32, cell_centers, masked_mean
from meta_train.detectors.network import NetworkConfig, Outputs

_FEWEST_POSITIVES = 16
"""An image with fewer cells inside, or without a target, is still given negatives as for these."""


@dataclass(frozen=True, kw_only=True)
class FcosConfig:
    """FCOS-MAML."""

    LOSS_FIELDS: ClassVar = (
        "central_fraction",
        "balance_cells",
        "negatives_per_positive",
        "cls_weight",
        "reg_weight",
    )
    """Fields that matter in training alone: weights serve other values of them as well."""

    kind: Literal["fcos"] = "fcos"
    """Which detector this configures, in files."""

    network: NetworkConfig = NetworkConfig()
    """Backbone and heads."""

    central_fraction: float = 0.6
    """Part of the box, about its centre, whose cells learn to regress. Not in the paper:
    PySiamTracking's value."""

    distance_mean_px: float = 32.0
    """Subtracted from a distance before it is regressed: half of a target of usual size. Not in
    the paper."""

    distance_std_px: float = 8.0
    """Divides a distance before it is regressed. Not in the paper."""

    balance_cells: bool = True
    """Average the score's loss over the cells inside the box and over the others apart, then add.
    Not in the paper: with a plain mean, predicting nothing anywhere costs almost nothing, since
    only one cell in twenty is inside."""

    negatives_per_positive: float | None = None
    """Of the cells outside the box, only the worst count, this many for each inside: where nearly
    all are easy, look-alikes drown in a mean over all. None: all count. Not in the paper."""

    cls_weight: float = 2.0
    """Factor of the score's loss; it scales the branch's inner steps, as the rates do. Not in the
    paper."""

    reg_weight: float = 5.0
    """Factor of the regression's loss. Not in the paper."""

    def __post_init__(self) -> None:
        if not 0 < self.central_fraction <= 1:
            raise ValueError(f"central_fraction must be in (0, 1], got {self.central_fraction}")
        if not self.distance_std_px > 0:
            raise ValueError(f"distance_std_px must be positive, got {self.distance_std_px}")
        if self.negatives_per_positive is not None:
            if not self.balance_cells:
                raise ValueError("negatives_per_positive needs balance_cells, which is off")
            if not self.negatives_per_positive > 0:
                raise ValueError(
                    f"negatives_per_positive must be positive, got {self.negatives_per_positive}"
                )
        if not (self.cls_weight > 0 and self.reg_weight > 0):
            raise ValueError(
                f"loss weights must be positive, got cls {self.cls_weight}, reg {self.reg_weight}"
            )


class FcosLabels(NamedTuple):
    """What the two branches should say about N images."""

    centerness: Float[Tensor, "N 1 33 33"]
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) inside the box, 0 elsewhere."""

    inside: Float[Tensor, "N 1 33 33"]
    """1 on the cells inside the box."""

    distances: Float[Tensor, "N 4 33 33"]
    """Left, top, right, bottom distances of each cell to the box, normalised."""

    central: Float[Tensor, "N 1 33 33"]
    """1 on the cells that regress; at least one where there is a target."""


@dataclass(frozen=True)
class Fcos:
    """The functions of FCOS-MAML; plays the role `meta_train.detectors.Detector`."""

    config: FcosConfig

    @property
    def network(self) -> NetworkConfig:
        """Backbone and heads."""
        return self.config.network

    @property
    def out_channels(self) -> dict[Branch, int]:
        """Centerness; left, top, right and bottom distances."""
        return {"cls": 1, "reg": 4}

    def label(self, boxes: Float[Tensor, "N 4"], present: Bool[Tensor, "N"]) -> FcosLabels:
        """Labels of each cell, from the target's box in the crop and whether it is there."""
        x, y = cell_centers(boxes)
        present_map = present.view(-1, 1, 1).to(boxes.dtype)
        left, top, right, bottom = (edge.view(-1, 1, 1) for edge in boxes.unbind(-1))
        distances = torch.stack([x - left, y - top, right - x, bottom - y], dim=1)  # (N, 4, 33, 33)
        inside = (distances.amin(dim=1) > 0) * present_map

        horizontal, vertical = distances[:, 0::2], distances[:, 1::2]
        ratio = _min_over_max(horizontal) * _min_over_max(vertical)
        centerness = torch.sqrt(ratio.clamp(min=0)) * inside

        off_center = torch.maximum(
            (x - (left + right) / 2).abs() / (right - left),
            (y - (top + bottom) / 2).abs() / (bottom - top),
        )
        nearest = off_center == off_center.amin(dim=(1, 2), keepdim=True)
        central = ((off_center < self.config.central_fraction / 2) | nearest) * present_map
        normalised = (distances - self.config.distance_mean_px) / self.config.distance_std_px
        return FcosLabels(
            centerness.unsqueeze(1), inside.unsqueeze(1), normalised, central.unsqueeze(1)
        )

    def regressing(self, labels: FcosLabels) -> Float[Tensor, "N 1 33 33"]:
        """The central cells of the box."""
        return labels.central

    def losses(self, outputs: Outputs, labels: FcosLabels) -> dict[str, Float[Tensor, "N"]]:
        """Each image's weighted loss for each branch in ``outputs`` (Sec. 4.2): L2 and L1."""
        result = {}
        if "cls" in outputs:
            result["cls"] = self.config.cls_weight * self._score_loss(outputs["cls"], labels)
        if "reg" in outputs:
            error = (outputs["reg"] - labels.distances).abs().mean(dim=1, keepdim=True)
            result["reg"] = self.config.reg_weight * masked_mean(error, labels.central)
        return result

    def _score_loss(
        self, scores: Float[Tensor, "N 1 33 33"], labels: FcosLabels
    ) -> Float[Tensor, "N"]:
        error = (scores - labels.centerness) ** 2
        if not self.config.balance_cells:
            return error.mean(dim=(1, 2, 3))
        outside = 1 - labels.inside
        if self.config.negatives_per_positive is not None:
            positives = labels.inside.sum(dim=(1, 2, 3)).clamp(min=_FEWEST_POSITIVES)
            outside = _worst(error, outside, self.config.negatives_per_positive * positives)
        return masked_mean(error, labels.inside) + masked_mean(error, outside)

    def decode(self, outputs: Outputs) -> tuple[Float[Tensor, "N L 4"], Float[Tensor, "N L"]]:
        """Each cell's box in the crop (xyxy, pixels) and its raw score, the centerness."""
        reg = at_least_float32(outputs["reg"])
        x, y = cell_centers(reg)
        distances = reg * self.config.distance_std_px + self.config.distance_mean_px
        left, top, right, bottom = distances.unbind(dim=1)  # each (N, 33, 33)
        boxes = torch.stack([x - left, y - top, x + right, y + bottom], dim=-1)
        return boxes.flatten(1, 2), outputs["cls"].flatten(1)


def _min_over_max(pair: Float[Tensor, "N 2 33 33"]) -> Float[Tensor, "N 33 33"]:
    """min / max of two opposite distances; negative outside the box."""
    largest = pair.amax(dim=1)
    return pair.amin(dim=1) / torch.where(largest > 0, largest, torch.ones_like(largest))


def _worst(
    values: Float[Tensor, "N 1 33 33"],
    mask: Float[Tensor, "N 1 33 33"],
    count: Float[Tensor, "N"],
) -> Float[Tensor, "N 1 33 33"]:
    """The part of a mask under which the values are each image's ``count`` largest."""
    masked = values.detach().masked_fill(mask <= 0, -1.0).flatten(1)
    rank = masked.argsort(dim=1, descending=True).argsort(dim=1)
    return (rank < count.unsqueeze(1)).view_as(mask) * mask
