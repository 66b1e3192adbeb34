"""A tracker over frames as they come, until they end or somebody stops it."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from types import FrameType
from typing import TypeVar

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from data_pipeline.boxes import xywh_to_xyxy
from eval_jobs.frame_sources import FrameSource
from eval_jobs.tracker import Prediction, Tracker

Item = TypeVar("Item")


def live_run(
    tracker: Tracker,
    source: FrameSource,
    box: Sequence[float],
    is_stopped: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[UInt8[ndarray, "height width 3"], Prediction]]:
    """Each frame and what the tracker says about it; about the first, the given box.

    Args:
        tracker: started here.
        source: the frames.
        box: left, top, width and height of the target in the first frame, pixels.
        is_stopped: asked before each frame.

    Raises:
        ValueError: the box has no area or reaches outside the frame, or frames differ in size.
        DatasetError: a frame cannot be read.
    """
    for number, image in enumerate(source.frames):
        if number == 0:
            first, size = first_box(image, box), image.shape
            tracker.start(image, first)
            yield image, Prediction(box=first, score=1.0, lost=False)
        elif image.shape != size:
            raise ValueError(
                f"{source.title}: frames of one size expected, the first is {size[1]}x{size[0]} "
                f"pixels, number {number} is {image.shape[1]}x{image.shape[0]}"
            )
        else:
            yield image, tracker.follow(image)
        if is_stopped():
            return


def until_failure(items: Iterator[Item], failures: list[Exception]) -> Iterator[Item]:
    """Items until one fails, so that what came before can be kept; its error goes into the list.

    Where the very first one fails there is nothing to keep, and the error is raised.
    """
    yield from islice(items, 1)
    try:
        yield from items
    except Exception as error:
        failures.append(error)


def first_box(image: UInt8[ndarray, "height width 3"], box: Sequence[float]) -> Float[ndarray, "4"]:
    """Left, top, width and height as xyxy.

    Raises:
        ValueError: it has no area or reaches outside the frame.
    """
    height, width, _ = image.shape
    left, top, box_width, box_height = box
    fits = left >= 0 and top >= 0 and left + box_width <= width and top + box_height <= height
    if not (fits and box_width > 0 and box_height > 0):
        raise ValueError(
            "the box must be X Y WIDTH HEIGHT in pixels, its left upper corner and its size, and "
            f"lie inside the frame of {width}x{height} pixels, got {' '.join(map(str, box))}"
        )
    return xywh_to_xyxy(np.array(box, dtype=np.float64))


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Whether the user asked to stop, by Ctrl-C or a plain kill; asking again ends at once."""
    asked: list[int] = []

    def ask(number: int, _: FrameType | None) -> None:
        asked.append(number)
        restore()

    def restore() -> None:
        for each, handler in before.items():
            signal.signal(each, handler)

    before = {each: signal.signal(each, ask) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        restore()
