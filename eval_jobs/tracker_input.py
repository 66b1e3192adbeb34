"""What every tracker refuses to be given."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray


def check_image(image: object) -> None:
    """Refuses what is not an RGB image of bytes.

    Raises:
        ValueError: another type or shape.
    """
    if not isinstance(image, ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
        found = f"{image.dtype} {image.shape}" if isinstance(image, ndarray) else type(image)
        raise ValueError(
            "a frame must be an RGB image, uint8, (height, width, 3) "
            f"(OpenCV reads BGR: convert it), got {found}"
        )


def check_box(box: Float[ndarray, "4"] | Sequence[float]) -> Float[ndarray, "4"]:
    """A first box as four floats.

    Raises:
        ValueError: not four finite numbers x1 < x2, y1 < y2.
    """
    numbers = np.array(box, dtype=np.float64)
    good = numbers.shape == (4,) and np.isfinite(numbers).all()
    if not good or not (numbers[2:] > numbers[:2]).all():
        raise ValueError(
            f"the first box must be x1, y1, x2, y2 in pixels with x1 < x2 and y1 < y2, got {box!r}"
        )
    return numbers
