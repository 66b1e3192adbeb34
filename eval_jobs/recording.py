"""What tracking leaves on disk: a video with the boxes drawn into it, and a CSV file of the boxes.

Both are whole or not there: they grow in a hidden file beside their place and are put there when
tracking ends, be it at the last frame, because somebody stopped it, or at one that cannot be read.
"""

import csv
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from data_pipeline.boxes import xyxy_to_xywh
from data_pipeline.tracks import VideoDecoder
from eval_jobs.tracker import Prediction

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
"""Of a video file by its suffix; both are in every build of OpenCV."""

CSV_COLUMNS = ("frame", "x", "y", "width", "height", "score", "lost")
"""Frames count from 0; the box is its left upper corner and size in pixels; lost is 0 or 1."""

FOUND_COLOR = (0, 255, 0)
LOST_COLOR = (255, 0, 0)


class RecordingError(OSError):
    """A video cannot be written, or what was written is not all there."""


@dataclass(frozen=True, kw_only=True)
class RecordingConfig:
    """What is written, and where."""

    video: Path | None = None
    """A video with the boxes drawn into it, ``.mp4`` or ``.avi``; none if None."""

    table: Path | None = None
    """A CSV file with a row per frame; none if None."""

    fps: float | None = None
    """Of the video; as fast as the source if None."""

    def __post_init__(self) -> None:
        if self.video is None and self.table is None:
            raise ValueError("nothing to write: give a video (--output), a table (--csv), or both")
        if self.video is not None and self.video.suffix.lower() not in CODECS:
            raise ValueError(
                f"the video must be one of {', '.join(CODECS)}, got {str(self.video)!r}"
            )
        for path in (self.video, self.table):
            if path is not None and path.is_dir():
                raise ValueError(f"{path}: a file to write expected, it is a folder")
        if self.video and self.table and self.video.resolve() == self.table.resolve():
            raise ValueError(f"two files expected, got {self.video} for the video and the table")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ValueError(f"fps must be positive, got {self.fps}")


class Recorder:
    """Takes frame after frame; see `recording`."""

    def __init__(self, video: "VideoFile | None", table: IO[str] | None) -> None:
        """A recorder that has seen no frame."""
        self.num_frames = 0
        self._video = video
        self._rows = None if table is None else csv.writer(table, lineterminator="\n")
        if self._rows is not None:
            self._rows.writerow(CSV_COLUMNS)

    def add(self, image: UInt8[ndarray, "height width 3"], prediction: Prediction) -> None:
        """Writes one frame (RGB) and what the tracker says about it.

        Raises:
            OSError: the disk is full, or the video cannot be written.
        """
        if self._rows is not None:
            box = [f"{number:.3f}" for number in xyxy_to_xywh(prediction.box)]
            self._rows.writerow(
                [self.num_frames, *box, f"{prediction.score:.4f}", int(prediction.lost)]
            )
        if self._video is not None:
            self._video.add(annotate(image, prediction, self.num_frames))
        self.num_frames += 1


@contextmanager
def recording(config: RecordingConfig, source_fps: float) -> Iterator[Recorder]:
    """A recorder; what it took is in its place when the block ends, and gone where that raised.

    Raises:
        OSError: something cannot be written.
    """
    with ExitStack() as stack:
        video, table = None, None
        if config.table is not None:
            place = stack.enter_context(_put_in_place(config.table))
            table = stack.enter_context(place.open("w", encoding="utf-8", newline=""))
        if config.video is not None:
            place = stack.enter_context(_put_in_place(config.video))
            fps = source_fps if config.fps is None else config.fps
            video = stack.enter_context(VideoFile(place, fps))
        yield Recorder(video, table)


class VideoFile:
    """A video file that grows; checked when it is closed."""

    def __init__(self, path: Path, fps: float) -> None:
        """Opens nothing yet: the first frame says how large it is."""
        self._path = path
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None
        self._num_frames = 0

    def __enter__(self) -> "VideoFile":
        return self

    def add(self, image: UInt8[ndarray, "height width 3"]) -> None:
        """Writes one frame (RGB), as large as the first.

        Raises:
            RecordingError: OpenCV cannot write such a file there.
        """
        if self._writer is None:
            height, width, _ = image.shape
            codec = cv2.VideoWriter.fourcc(*CODECS[self._path.suffix.lower()])
            self._writer = cv2.VideoWriter(str(self._path), codec, self._fps, (width, height))
            if not self._writer.isOpened():
                raise RecordingError(
                    f"{self._path}: a video of {width}x{height} pixels cannot be written. Check "
                    "that the folder can be written to, or take another format "
                    f"({', '.join(CODECS)})."
                )
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self._num_frames += 1

    def __exit__(self, kind: object, *_: object) -> None:
        """Closes the file; unless something failed before, as many frames as came are in it.

        Raises:
            RecordingError: frames are missing, as on a full disk, of which OpenCV says nothing.
        """
        if self._writer is None:
            return
        self._writer.release()
        if kind is not None:
            return
        found = VideoDecoder(self._path).stated_count
        if found != self._num_frames:
            raise RecordingError(
                f"{self._path}: {self._num_frames} frames expected in the video, {found} were "
                "written. Is the disk full?"
            )


def annotate(
    image: UInt8[ndarray, "height width 3"], prediction: Prediction, number: int
) -> UInt8[ndarray, "height width 3"]:
    """A frame (RGB) with the box, red where the target is lost, and the score written above it."""
    drawn = np.ascontiguousarray(image).copy()
    color = LOST_COLOR if prediction.lost else FOUND_COLOR
    height, width, _ = image.shape
    scale = max(0.4, min(height, width) / 700)
    thickness = max(1, round(2 * scale))
    left, top, right, bottom = (round(float(edge)) for edge in prediction.box)
    cv2.rectangle(drawn, (left, top), (right, bottom), color, thickness)
    state = "lost" if prediction.lost else f"{prediction.score:.2f}"
    above = (max(left, 2), max(top - 4, round(24 * scale)))
    for text, place in ((state, above), (f"#{number}", (4, height - 6))):
        for outline, ink in ((thickness + 2, (0, 0, 0)), (thickness, color)):
            cv2.putText(drawn, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, outline)
    return drawn


@contextmanager
def _put_in_place(path: Path) -> Iterator[Path]:
    """A hidden file beside a path, put there when the block ends well and removed otherwise.

    Raises:
        RecordingError: no file can be written there; before the block begins.
    """
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise RecordingError(
            f"{path}: a file that can be written expected ({error.strerror}). Give another place"
        ) from error
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
