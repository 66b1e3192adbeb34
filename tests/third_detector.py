"""A small detector beyond the two of the paper: square boxes, two classes by softmax.

`tests/test_detectors.py` adds it to a copy of the project, as anyone would add theirs.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from meta_train.detectors.backbone import Branch
from meta_train.detectors.cells import cell_centers, masked_mean
from meta_train.detectors.network import NetworkConfig, Outputs


@dataclass(frozen=True, kw_only=True)
class SquareConfig:
    """A detector of square boxes."""

    kind: Literal["square"] = "square"
    """Which detector this configures, in files."""

    network: NetworkConfig = NetworkConfig()
    """Backbone and heads."""

    unit_px: float = 64.0
    """Side of a box whose regressed size is 0."""


class SquareLabels(NamedTuple):
    """What the two branches should say about N images."""

    inside: Float[Tensor, "N 1 33 33"]
    """1 on the cells inside the box."""

    squares: Float[Tensor, "N 3 33 33"]
    """Shift of the centre and log size, in units."""


@dataclass(frozen=True)
class Square:
    """Its functions."""

    config: SquareConfig

    @property
    def network(self) -> NetworkConfig:
        """Backbone and heads."""
        return self.config.network

    @property
    def out_channels(self) -> dict[Branch, int]:
        """Background and target; centre and size."""
        return {"cls": 2, "reg": 3}

    def label(self, boxes: Float[Tensor, "N 4"], present: Bool[Tensor, "N"]) -> SquareLabels:
        """Labels of each cell."""
        x, y = cell_centers(boxes)
        left, top, right, bottom = (edge.view(-1, 1, 1) for edge in boxes.unbind(-1))
        inside = (x > left) & (x < right) & (y > top) & (y < bottom) & present.view(-1, 1, 1)
        area = ((right - left) * (bottom - top)).clamp(min=1)
        shift_x, shift_y = (left + right) / 2 - x, (top + bottom) / 2 - y
        size = torch.log(area.sqrt() / self.config.unit_px).expand_as(shift_x)
        unit = self.config.unit_px
        squares = torch.stack([shift_x / unit, shift_y / unit, size], dim=1)
        return SquareLabels(inside.to(boxes.dtype).unsqueeze(1), squares)

    def regressing(self, labels: SquareLabels) -> Float[Tensor, "N 1 33 33"]:
        """The cells inside the box."""
        return labels.inside

    def losses(self, outputs: Outputs, labels: SquareLabels) -> dict[str, Float[Tensor, "N"]]:
        """Cross-entropy and L2."""
        result = {}
        if "cls" in outputs:
            logs = F.log_softmax(outputs["cls"], dim=1)
            picked = torch.cat([1 - labels.inside, labels.inside], dim=1)
            result["cls"] = -(logs * picked).sum(dim=1).mean(dim=(1, 2))
        if "reg" in outputs:
            error = (outputs["reg"] - labels.squares).square().mean(dim=1, keepdim=True)
            result["reg"] = masked_mean(error, labels.inside)
        return result

    def decode(self, outputs: Outputs) -> tuple[Float[Tensor, "N L 4"], Float[Tensor, "N L"]]:
        """Each cell's square and the target's probability."""
        x, y = cell_centers(outputs["reg"])
        shift_x, shift_y, size = outputs["reg"].unbind(dim=1)
        unit = self.config.unit_px
        center_x, center_y, half = x + shift_x * unit, y + shift_y * unit, size.exp() * unit / 2
        edges = [center_x - half, center_y - half, center_x + half, center_y + half]
        scores = F.softmax(outputs["cls"], dim=1)[:, 1]
        return torch.stack(edges, dim=-1).flatten(1, 2), scores.flatten(1)
