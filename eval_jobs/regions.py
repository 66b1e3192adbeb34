"""How far a box and a polygon overlap, counted in pixels as the two VOT toolkits count.

Both round corners to whole pixels and fill a polygon row by row, its edges included, so that small
boxes overlap more than in exact geometry. `legacy_overlap` is the paper's definition: it fills
rectangles that way too. `official_overlap` is today's toolkit: w x h pixels for a rectangle.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from data_pipeline.boxes import xyxy_to_xywh


@dataclass(frozen=True)
class Window:
    """The columns and rows in which pixels are counted, the last ones included."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Number of columns; below 1 where it is empty."""
        return self.right - self.left + 1

    @property
    def height(self) -> int:
        """Number of rows; below 1 where it is empty."""
        return self.bottom - self.top + 1

    def __and__(self, other: "Window") -> "Window":
        """What lies in both."""
        return Window(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )

    def __or__(self, other: "Window") -> "Window":
        """The smallest window around both."""
        return Window(
            min(self.left, other.left),
            min(self.top, other.top),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
        )


Spans = Int[ndarray, "rows _ 2"]
"""A region's pixels in a window: for each row, first and last columns; none where first > last."""


def rectangle_corners(box: Float[ndarray, "4"]) -> Float[ndarray, "4 2"]:
    """The corners of a box in xyxy, clockwise from the top left.

    >>> rectangle_corners(np.array([1.0, 2.0, 5.0, 8.0])).tolist()
    [[1.0, 2.0], [5.0, 2.0], [5.0, 8.0], [1.0, 8.0]]
    """
    return box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)


def legacy_overlap(
    first: Float[ndarray, "corners 2"],
    second: Float[ndarray, "corners 2"],
    last_pixel: tuple[int, int] | None = None,
) -> float:
    """Overlap of two polygons as VOT's first toolkit counts it, and most trackers' code since.

    Args:
        first: corners (x, y) in pixels; of a box those of `rectangle_corners`.
        second: alike.
        last_pixel: last column and row that count; None counts everything. The code that the
            paper's figures come from takes the image's size here, and one less for EAO.

    Returns:
        Pixels in both over pixels in any; 0 where their surrounding boxes do not overlap.
    """
    regions = [first.astype(np.float32), second.astype(np.float32)]
    around = [
        Window(
            *np.floor(corners.min(0)).astype(int).tolist(),
            *np.ceil(corners.max(0)).astype(int).tolist(),
        )
        for corners in regions
    ]
    if last_pixel is not None:
        around = [window & Window(0, 0, *last_pixel) for window in around]
    # Here a window's sides are lines between pixels: touching ones share nothing. But of two
    # without extent the original code divides 0 by 0, takes it for an overlap and counts pixels.
    extents = [min(window.width, window.height) - 1 for window in (*around, around[0] & around[1])]
    if min(extents[:2]) < 0 or (max(extents[:2]) > 0 and min(extents) < 1):
        return 0.0
    window = around[0] | around[1]
    # Half a pixel is rounded away from zero, after the window's corner has become the origin.
    local = [corners - np.array([window.left, window.top]) for corners in regions]
    rounded = [np.copysign(np.floor(np.abs(corners) + 0.5), corners) for corners in local]
    return _jaccard(*(_fill(corners, window, fills_tips=False) for corners in rounded))


def official_overlap(
    predicted: Float[ndarray, "4"],
    truth: Float[ndarray, "corners 2"] | Float[ndarray, "4"],
    image_size: tuple[int, int] | None,
) -> float:
    """Overlap of a box with a polygon or another box as today's VOT toolkit counts it.

    Args:
        predicted: xyxy, pixels.
        truth: corners (x, y) of a polygon, or a box in xyxy.
        image_size: width and height; pixels outside do not count. None counts everything.
    """
    regions = [xyxy_to_xywh(box) if box.ndim == 1 else box for box in (predicted, truth)]
    regions = [region.astype(np.float32) for region in regions]
    windows = [_official_window(region) for region in regions]
    window = windows[0] | windows[1]
    # As the toolkit has it: what lies in one line overlaps all, at the image's edge nothing.
    if min(window.width, window.height) <= 1:
        return 1.0
    if image_size is not None:
        window = window & Window(0, 0, image_size[0] - 1, image_size[1] - 1)
    if min(window.width, window.height) <= 1:
        return 0.0
    spans = [
        _fill_rectangle(own, window)
        if region.ndim == 1
        else _fill(np.rint(region) - np.array([window.left, window.top]), window, fills_tips=True)
        for region, own in zip(regions, windows, strict=True)
    ]
    return _jaccard(*spans)


def _official_window(region: Float[ndarray, "..."]) -> Window:
    """The window around a polygon's rounded corners; of a rectangle (x, y, w, h) its rounded corner
    and rounded size.
    """
    if region.ndim == 2:
        return Window(
            *np.rint(region.min(0)).astype(int).tolist(),
            *np.rint(region.max(0)).astype(int).tolist(),
        )
    left, top, width, height = np.rint(region).astype(int).tolist()
    return Window(left, top, left + width - 1, top + height - 1)


def _fill(corners: Float[ndarray, "corners 2"], window: Window, *, fills_tips: bool) -> Spans:
    """The pixels of a polygon with whole corners, relative to the window's first pixel.

    A row is filled from where an edge meets it to where the next one does. A corner in the row
    belongs to two edges: its second meeting is skipped. At a tip, where that leaves nothing,
    today's toolkit fills the pixel and the first one does not.
    """
    ends = np.roll(corners, 1, axis=0)
    rows = np.arange(window.height)[:, None]
    low, high = np.minimum(corners[:, 1], ends[:, 1]), np.maximum(corners[:, 1], ends[:, 1])
    rise = ends[:, 1] - corners[:, 1]
    meets = (low <= rows) & (rows <= high) & ((rise != 0) | fills_tips)
    # In this order: what rounding leaves decides on which side of a whole number a column falls.
    share = (rows - corners[:, 1]) / np.where(rise == 0, 1.0, rise)
    columns = np.trunc(corners[:, 0] + share * (ends[:, 0] - corners[:, 0]))
    nodes = np.sort(np.where(meets, columns, np.inf), axis=1)
    num_nodes = meets.sum(axis=1)
    cursor = np.zeros(window.height, dtype=int)
    spans = np.tile(np.array([1, 0]), (window.height, len(corners) - 1, 1))
    filled_to = np.full(window.height, -1.0)
    for index in range(len(corners) - 1):
        here = (cursor == index) & (index + 1 < num_nodes)
        repeated = here & (nodes[:, index] == nodes[:, index + 1])
        if fills_tips:
            repeated &= index < num_nodes - 2
        drawn = here & ~repeated
        cursor += repeated + 2 * drawn
        first = np.maximum(nodes[drawn, index], filled_to[drawn] + 1)
        last = np.minimum(nodes[drawn, index + 1], window.width - 1)
        filled_to[drawn] = np.maximum(last, filled_to[drawn])
        spans[drawn, index] = np.stack([np.minimum(first, window.width), last], axis=1)
    return spans


def _fill_rectangle(rectangle: Window, window: Window) -> Spans:
    """The pixels of a rectangle.

    The toolkit compares its last column and row with the window's in the image, not from the
    window's corner, which matters where the window begins at a negative pixel.
    """
    first, top = max(0, rectangle.left - window.left), max(0, rectangle.top - window.top)
    last = min(window.right, rectangle.right - window.left, window.width - 1)
    bottom = min(window.bottom, rectangle.bottom - window.top, window.height - 1)
    rows = np.arange(window.height)
    inside = (rows >= top) & (rows <= bottom) & (first <= last)
    return np.where(inside[:, None, None], np.array([first, last]), np.array([1, 0]))


def _jaccard(first: Spans, second: Spans) -> float:
    """Pixels in both over pixels in any; 0 where there is none."""
    begin = np.maximum(first[:, :, None, 0], second[:, None, :, 0])
    end = np.minimum(first[:, :, None, 1], second[:, None, :, 1])
    shared = int(np.maximum(end - begin + 1, 0).sum())
    sizes = [
        int(np.maximum(spans[..., 1] - spans[..., 0] + 1, 0).sum()) for spans in (first, second)
    ]
    union = sum(sizes) - shared
    return shared / union if union else 0.0
