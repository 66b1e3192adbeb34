"""The search window SR(I, B) of Algorithm 1 and the 263x263 crop that it cuts.

Not in the paper: the geometry is that of SiamFC's 127 px exemplar, as in the authors' sibling
trackers (microsoft/PySiamTracking): with p = (w + h) / 2 the window's side is
sqrt((w + p)(h + p)) * 263 / 127, so a square target fills 63.5 px of the crop, whatever its size.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

CROP_SIZE_PX = 263
"""Side of a crop (Sec. 4.2)."""

EXEMPLAR_SIZE_PX = 127
"""Side of the part of the crop that holds the target and its context."""

ZOOM_FACTOR = 1.08
"""Factor by which the support crop is zoomed in and out (Sec. 3)."""


@dataclass(frozen=True, eq=False)
class CropWindow:
    """A rectangle of an image that becomes a square crop; knows the way in both directions."""

    center_px: Float[ndarray, "2"]
    """Centre (x, y) in the image."""

    size_px: Float[ndarray, "2"]
    """Width and height in the image; equal unless an augmentation changed the aspect."""

    def to_crop(self, boxes_in_image: Float[ndarray, "*batch 4"]) -> Float[ndarray, "*batch 4"]:
        """Boxes of the image, in the crop's pixels."""
        corners = boxes_in_image.reshape(*boxes_in_image.shape[:-1], 2, 2)
        moved = (corners - self.center_px) * (CROP_SIZE_PX / self.size_px) + CROP_SIZE_PX / 2
        return moved.reshape(boxes_in_image.shape)

    def to_image(self, boxes_in_crop: Float[ndarray, "*batch 4"]) -> Float[ndarray, "*batch 4"]:
        """Boxes of the crop, in the image's pixels; the inverse of `to_crop`."""
        corners = boxes_in_crop.reshape(*boxes_in_crop.shape[:-1], 2, 2)
        moved = (corners - CROP_SIZE_PX / 2) * (self.size_px / CROP_SIZE_PX) + self.center_px
        return moved.reshape(boxes_in_crop.shape)


def context_size(sizes_px: Float[ndarray, "*batch 2"]) -> Float[ndarray, "*batch"]:
    """sqrt((w + p)(h + p)) with p = (w + h) / 2: the side of a target together with its context."""
    context = sizes_px.mean(axis=-1)
    return np.asarray(np.sqrt((sizes_px[..., 0] + context) * (sizes_px[..., 1] + context)))


def search_window(box_in_image: Float[ndarray, "4"]) -> CropWindow:
    """SR(I, B) (Alg. 1 lines 1 and 5): the square window about a box that is searched for it.

    Raises:
        ValueError: the box is not finite or has no area.
    """
    size = box_in_image[2:] - box_in_image[:2]
    if not np.isfinite(box_in_image).all() or (size <= 0).any():
        raise ValueError(
            f"a search window needs a box (x1, y1, x2, y2) with area, got {box_in_image}"
        )
    side = float(context_size(size)) * CROP_SIZE_PX / EXEMPLAR_SIZE_PX
    return CropWindow(box_in_image[:2] + size / 2, np.array([side, side]))


def mean_color(image: UInt8[ndarray, "height width 3"]) -> tuple[float, float, float]:
    """Mean of each channel: what a crop shows where its window leaves the image."""
    first, second, third, _ = cv2.mean(image)
    return first, second, third


def cut(
    image: UInt8[ndarray, "height width 3"],
    window: CropWindow,
    border: tuple[float, float, float] | None = None,
) -> UInt8[ndarray, "263 263 3"]:
    """The window's pixels, resampled to 263x263 (bilinear).

    Args:
        image: its channels in any order.
        window: may reach outside the image, even entirely.
        border: colour outside the image; its mean where not given. Pass it when one frame is cut
            more than once.
    """
    scale = window.size_px / CROP_SIZE_PX
    corner = window.center_px - window.size_px / 2
    # warpAffine works on pixel indices, whose centres lie half a pixel inside.
    offset = corner + scale / 2 - 0.5
    crop_to_image = np.array([[scale[0], 0.0, offset[0]], [0.0, scale[1], offset[1]]])
    return cv2.warpAffine(
        image,
        crop_to_image,
        (CROP_SIZE_PX, CROP_SIZE_PX),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=mean_color(image) if border is None else border,
    )


def zoom_window(factor: float, shift_px: tuple[float, float] = (0.0, 0.0)) -> CropWindow:
    """The window of a 263x263 crop that, cut from it, shows it ``factor`` times larger.

    Args:
        factor: above 1 zooms in; below 1 zooms out and shows the border colour around.
        shift_px: by how much the content moves, in pixels of the result.

    Raises:
        ValueError: the factor is not positive.
    """
    if factor <= 0:
        raise ValueError(f"a zoom factor must be positive, got {factor}")
    side = CROP_SIZE_PX / factor
    center = CROP_SIZE_PX / 2 - np.array(shift_px, dtype=np.float64) / factor
    return CropWindow(center, np.array([side, side]))


def zooms(
    crop: UInt8[ndarray, "263 263 3"], box_in_crop: Float[ndarray, "4"]
) -> tuple[UInt8[ndarray, "3 263 263 3"], Float[ndarray, "3 4"]]:
    """The support of one image: the crop zoomed by 1/1.08, 1 and 1.08 (Sec. 3, Alg. 1 line 2)."""
    windows = [zoom_window(factor) for factor in (1 / ZOOM_FACTOR, 1.0, ZOOM_FACTOR)]
    border = mean_color(crop)
    images = np.stack([cut(crop, window, border) for window in windows])
    return images, np.stack([window.to_crop(box_in_crop) for window in windows])
