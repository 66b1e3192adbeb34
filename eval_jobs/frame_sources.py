"""Frames to track in, one after the other: of a video file, a folder of images, or a camera."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
from jaxtyping import UInt8
from numpy import ndarray

from data_pipeline.readers.annotations import find_images
from data_pipeline.tracks import DatasetError, VideoDecoder, VideoFrame, read_image

DEFAULT_FPS = 30.0
"""Of sources that do not say how fast they are: folders, and some cameras."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameSource:
    """Where frames come from."""

    title: str
    """How messages call it."""

    frames: Iterator[UInt8[ndarray, "height width 3"]]
    """RGB, in order, once."""

    num_frames: int | None
    """How many there are; None for a camera, which goes on until it is stopped."""

    fps: float
    """How fast they were taken."""


def open_source(source: str) -> FrameSource:
    """The frames of a source: the number of a camera, or the path of a video or a folder.

    Raises:
        DatasetError: there is no such camera, file or folder, or there is no frame in it.
    """
    path = Path(source)
    if source.isdecimal() and not path.exists():
        return _open_camera(int(source))
    if not path.exists():
        raise DatasetError(
            f"{source}: a video file, a folder of images or the number of a camera expected, "
            "there is none. Check the path."
        )
    return _open_folder(path) if path.is_dir() else _open_video(path)


def _open_folder(folder: Path) -> FrameSource:
    images = find_images(folder)
    return FrameSource(
        title=str(folder),
        frames=map(read_image, images),
        num_frames=len(images),
        fps=DEFAULT_FPS,
    )


def _open_video(file: Path) -> FrameSource:
    decoder = VideoDecoder(file)
    num_frames = decoder.count()  # what the header states is not always true
    if not num_frames:
        raise DatasetError(
            f"{file}: a video of at least one frame expected, none decodes. Convert it again, e.g. "
            "to H.264 in an mp4 file, or to a folder of images."
        )
    return FrameSource(
        title=str(file),
        frames=(read_image(VideoFrame(file, number)) for number in range(num_frames)),
        num_frames=num_frames,
        fps=_known_fps(decoder.fps),
    )


def _open_camera(index: int) -> FrameSource:
    capture = cv2.VideoCapture(index)
    if not capture.isOpened():
        raise DatasetError(
            f"camera {index}: it cannot be opened. Check that it is connected, that no other "
            "program uses it, and its number (the first one is 0)."
        )

    def frames() -> Iterator[UInt8[ndarray, "height width 3"]]:
        """Frames until nobody asks for more; `DatasetError` if the camera gives none."""
        try:
            while True:
                taken, image = capture.read()
                if not taken:
                    raise DatasetError(f"camera {index}: a frame expected, it gives none any more.")
                yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()

    return FrameSource(
        title=f"camera {index}",
        frames=frames(),
        num_frames=None,
        fps=_known_fps(capture.get(cv2.CAP_PROP_FPS)),
    )


def _known_fps(fps: float) -> float:
    """OpenCV says 0 or NaN where it does not know."""
    return fps if math.isfinite(fps) and fps > 0 else DEFAULT_FPS
