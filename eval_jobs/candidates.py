"""From candidate boxes to the tracked box: lines 10-12 of Algorithm 1, and its distractors.

Not in the paper: it names "shape penalty function and cosine window function ... as suggested in
SiamRPN"; the forms and constants are those of the authors' sibling trackers (PySiamTracking).

Everything here is NumPy on the L = 33 * 33 candidates of one frame, in row-major order of the map.
Shapes: L candidates, side x side cells.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from data_pipeline.crops import context_size


def shape_penalties(
    sizes: Float[ndarray, "L 2"], last_size: Float[ndarray, "2"], strength: float
) -> Float[ndarray, "L"]:
    """exp(-(s * r - 1) * k): what a change of scale and aspect costs (Alg. 1 line 10).

    s and r are the factors, taken above 1, by which the size with context and the aspect ratio
    differ from the last box's; k is ``strength``. A candidate without area gets 0.

    Args:
        sizes: width and height of each candidate.
        last_size: of the last box, in the same pixels.
        strength: 0 switches the penalty off.
    """
    has_area = np.all(sizes > 0, axis=1)
    safe = np.where(has_area[:, None], sizes, last_size)
    scale_change = _above_one(context_size(safe) / context_size(last_size))
    aspect_change = _above_one((safe[:, 0] / safe[:, 1]) / (last_size[0] / last_size[1]))
    return np.where(has_area, np.exp(-(scale_change * aspect_change - 1.0) * strength), 0.0)


@lru_cache(maxsize=8)
def cosine_prior(side: int) -> Float[ndarray, "L"]:
    """Outer product of two Hann windows over the map, 1 in the middle and 0 at the border."""
    window = np.hanning(side)
    prior = np.outer(window, window).ravel()
    prior.setflags(write=False)
    return prior


def ranking(
    scores: Float[ndarray, "L"], penalties: Float[ndarray, "L"], window_weight: float
) -> Float[ndarray, "L"]:
    """What the choice is made by: penalised scores mixed with the cosine prior (Alg. 1 line 10).

    Args:
        scores: raw scores of the detector.
        penalties: of `shape_penalties`.
        window_weight: share of the prior.

    Raises:
        ValueError: the scores are not those of a square map.
    """
    side = round(len(scores) ** 0.5)
    if side * side != len(scores):
        raise ValueError(f"one score per cell of a square map expected, got {len(scores)}")
    return scores * penalties * (1.0 - window_weight) + cosine_prior(side) * window_weight


def smooth_shape(
    box: Float[ndarray, "4"], last_box: Float[ndarray, "4"], rate: float
) -> Float[ndarray, "4"]:
    """The box with its size moved from the last box's towards its own (Alg. 1 line 12).

    The centre is kept.

    Args:
        box: the chosen candidate, xyxy in the image.
        last_box: the box of the frame before, alike.
        rate: share of the new size; 1 keeps it as it is.
    """
    center = (box[:2] + box[2:]) / 2
    size = (1.0 - rate) * (last_box[2:] - last_box[:2]) + rate * (box[2:] - box[:2])
    return np.concatenate([center - size / 2, center + size / 2])


def confine(
    box: Float[ndarray, "4"], *, width: int, height: int, min_size_px: float
) -> Float[ndarray, "4"]:
    """The box with its centre moved into the image and its size kept within [min_size_px, image].

    Not in the paper; PySiamTracking. An image smaller than ``min_size_px`` bounds the size too.
    """
    image = np.array([width, height], dtype=np.float64)
    center = np.clip((box[:2] + box[2:]) / 2, 0.0, image)
    size = np.clip(box[2:] - box[:2], np.minimum(min_size_px, image), image)
    return np.concatenate([center - size / 2, center + size / 2])


def distractor_ratio(
    scores: Float[ndarray, "L"],
    winner: int,
    target_size_px: Float[ndarray, "2"],
    *,
    stride_px: float,
    neighborhood: float,
) -> float:
    """Highest raw score outside the winner's neighbourhood over the winner's (Alg. 1 line 14).

    Not in the paper: that the neighbourhood is ``neighborhood`` target sizes wide and high, and
    centred at the winner's cell.

    Args:
        scores: raw scores of the map.
        winner: index of the chosen cell.
        target_size_px: the target's width and height in the crop.
        stride_px: distance of two cells in the crop.
        neighborhood: side of what belongs to the winner, in target sizes.

    Returns:
        0 where the neighbourhood covers the map; infinity where the winner's score is not positive
        while another one is.
    """
    side = round(len(scores) ** 0.5)
    row, column = divmod(winner, side)
    cells = np.arange(side)
    reach = target_size_px * neighborhood / 2 / stride_px
    far_columns = np.abs(cells - column) > reach[0]
    far_rows = np.abs(cells - row) > reach[1]
    outside = (far_rows[:, None] | far_columns[None, :]).ravel()
    sidelobe = float(scores[outside].max(initial=0.0))
    if sidelobe <= 0:
        return 0.0
    peak = float(scores[winner])
    return sidelobe / peak if peak > 0 else float("inf")


def _above_one(ratio: Float[ndarray, "L"]) -> Float[ndarray, "L"]:
    """max(r, 1 / r)."""
    return np.maximum(ratio, 1.0 / ratio)
