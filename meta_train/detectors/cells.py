"""The cells of the 33x33 map: where they lie in the crop, and means over some of them.

Shapes: N images.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from meta_train.detectors.backbone import MAP_SIZE, STRIDE_PX


def cell_centers(like: Tensor) -> tuple[Float[Tensor, "33 33"], Float[Tensor, "33 33"]]:
    """x and y of the cells of the map, in crop pixels: cell k sits on the pixel 8k + 3."""
    steps = torch.arange(MAP_SIZE, device=like.device, dtype=like.dtype)
    centers = steps * STRIDE_PX + 3.5
    return centers.expand(MAP_SIZE, -1), centers.unsqueeze(1).expand(-1, MAP_SIZE)


def masked_mean(
    values: Float[Tensor, "N 1 h w"], mask: Float[Tensor, "N 1 h w"]
) -> Float[Tensor, "N"]:
    """Mean over the masked cells of each image; 0 where none is masked."""
    return (values * mask).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3)).clamp(min=1)


def at_least_float32(maps: Tensor) -> Tensor:
    """The same values in float32 or finer: bfloat16 holds whole pixels only up to 256."""
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


def window_around(mask: Float[Tensor, "N 1 side side"], margin: int) -> tuple[slice, slice]:
    """Rows and columns of the smallest window with all marked cells and so many more to each side.

    It ends at the map's border, and is the whole map where no cell is marked. Waits for the device.
    """
    marked = (mask > 0).any(dim=0)[0]
    sides = []
    for line in (marked.any(dim=1), marked.any(dim=0)):
        found = line.nonzero().flatten().tolist() or [0, len(line) - 1]
        sides.append(slice(max(found[0] - margin, 0), min(found[-1] + margin + 1, len(line))))
    return sides[0], sides[1]
