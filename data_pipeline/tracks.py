"""`Track`: one target through one video (or one object in one still image), and its frames."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import overload

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray


class DatasetError(ValueError):
    """A dataset folder or file is not what its layout promises; the message says how to mend it."""


class MissingImagesError(DatasetError):
    """A video's folder of images is not there."""


@dataclass(frozen=True)
class VideoFrame:
    """One frame of a video file; `read_image` decodes it when it is asked for."""

    file: Path
    """The video file."""

    number: int
    """Position in it, from 0."""

    @property
    def name(self) -> str:
        """``clip.mp4#12``: how messages call it."""
        return f"{self.file.name}#{self.number}"

    @property
    def parent(self) -> Path:
        """The folder of the video file."""
        return self.file.parent

    def __str__(self) -> str:
        return f"{self.file}#{self.number}"


Frame = Path | VideoFrame
"""Where the pixels of a frame are: an image file, or a position in a video file."""


@dataclass(frozen=True)
class ImageFiles(Sequence[Path]):
    """The images of a video in one folder, in order. A path is made when it is asked for: a
    benchmark has more of them than of anything else, and most are never opened.
    """

    folder: Path
    """Holds them all."""

    names: tuple[str, ...]
    """The files' names in it."""

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, frames: int) -> Path: ...
    @overload
    def __getitem__(self, frames: slice) -> "ImageFiles": ...
    def __getitem__(self, frames: int | slice) -> "Path | ImageFiles":
        if isinstance(frames, slice):
            return ImageFiles(self.folder, self.names[frames])
        return self.folder / self.names[frames]

    def __iter__(self) -> Iterator[Path]:
        return (self.folder / name for name in self.names)


@dataclass(frozen=True, kw_only=True, eq=False)
class Track:
    """One target through one video. Holds file names and boxes, never pixels.

    Raises:
        DatasetError: frames, boxes, flags and frame numbers do not count the same.
    """

    dataset: str
    """Which reader it came from, e.g. ``"got10k"``."""

    video: str
    """The video's (or image's) name, unique within the dataset."""

    target: str = "0"
    """Which target of the video; OTB's Jogging has ``"1"`` and ``"2"``."""

    category: str = ""
    """The object's class where the dataset names one; empty where it does not."""

    image_files: Sequence[Frame]
    """One image, or position in a video file, per frame, in order."""

    boxes: Float[ndarray, "frames 4"]
    """Ground truth in the image, xyxy, pixels; NaN where a frame has none."""

    visible: Bool[ndarray, "frames"]
    """False where the target is absent, fully occluded or out of view."""

    frame_numbers: Int[ndarray, "frames"]
    """Position of each frame in the original video, so that frame distance survives thinning."""

    is_still: bool = False
    """An object in a single image (COCO): it pairs with itself."""

    attributes: tuple[str, ...] = ()
    """The benchmark's challenge tags, e.g. ``("occlusion",)``."""

    polygons: Float[ndarray, "frames 4 2"] | None = None
    """Corners as the benchmark gives them (VOT), in its own pixel coordinates; else None."""

    tags: dict[str, Bool[ndarray, "frames"]] = field(default_factory=dict)
    """Challenge tags by frame, where the benchmark has them (VOT)."""

    def __post_init__(self) -> None:
        counts = {
            "image_files": len(self.image_files),
            "boxes": len(self.boxes),
            "visible": len(self.visible),
            "frame_numbers": len(self.frame_numbers),
            **{f"tags[{name!r}]": len(flags) for name, flags in self.tags.items()},
        }
        if self.polygons is not None:
            counts["polygons"] = len(self.polygons)
        if len(set(counts.values())) != 1:
            raise DatasetError(
                f"{self.name}: one entry per frame expected everywhere, got {counts}"
            )

    @property
    def name(self) -> str:
        """``dataset/video`` or ``dataset/video.target``: how logs and result files call it."""
        suffix = "" if self.target == "0" else f".{self.target}"
        return f"{self.dataset}/{self.video}{suffix}"

    @property
    def frame_names(self) -> list[str]:
        """The name of each frame's file, or ``clip.mp4#12`` in a video file."""
        files = self.image_files
        return list(files.names) if isinstance(files, ImageFiles) else [f.name for f in files]

    def __len__(self) -> int:
        return len(self.image_files)

    def __getitem__(self, frames: slice) -> "Track":
        """A part of the track, e.g. ``track[::3]``; frame numbers stay those of the video."""
        return replace(
            self,
            image_files=self.image_files[frames],
            boxes=self.boxes[frames],
            visible=self.visible[frames],
            frame_numbers=self.frame_numbers[frames],
            polygons=None if self.polygons is None else self.polygons[frames],
            tags={name: flags[frames] for name, flags in self.tags.items()},
        )


def read_image(frame: Frame) -> UInt8[ndarray, "height width 3"]:
    """An image file, or a frame of a video file, as RGB.

    Raises:
        DatasetError: the file is missing or does not decode, or the video ends before the frame.
    """
    return cv2.cvtColor(read_bgr(frame), cv2.COLOR_BGR2RGB)


def read_bgr(frame: Frame) -> UInt8[ndarray, "height width 3"]:
    """As `read_image`, with the channels in OpenCV's order: for what is written as JPEG again."""
    if isinstance(frame, VideoFrame):
        return _open_video(frame.file).read_bgr(frame.number)
    try:
        encoded = np.fromfile(frame, dtype=np.uint8)
    except OSError as error:
        raise DatasetError(
            f"{frame}: cannot be read ({error.strerror}); expected an image file. "
            "Restore it or remove its frame from the annotation."
        ) from error
    image, trouble = None, f"{encoded.size} bytes"
    try:
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    except cv2.error as error:  # a size that no picture has, from a damaged header
        trouble = error.err
    if image is None:
        raise DatasetError(
            f"{frame}: does not decode as an image ({trouble}); "
            "expected JPEG or PNG. Download or convert it again."
        )
    return image


class VideoDecoder:
    """An open video file. Decodes in order: seeking in OpenCV is not exact for all codecs."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rewind()

    def read(self, number: int) -> UInt8[ndarray, "height width 3"]:
        """Frame ``number`` (from 0) as RGB; cheap where it is the next one or a later one.

        Raises:
            DatasetError: the video ends before it, or the frame does not decode.
        """
        return cv2.cvtColor(self.read_bgr(number), cv2.COLOR_BGR2RGB)

    def read_bgr(self, number: int) -> UInt8[ndarray, "height width 3"]:
        """As `read`, with the channels in OpenCV's order."""
        if number < self._next:
            self._rewind()
        while self._next < number:
            self._grab(number)
        self._grab(number)
        decoded, image = self._capture.retrieve()
        if not decoded:
            raise DatasetError(
                f"{self._file}#{number}: a frame expected, it does not decode. Convert the video "
                "again, e.g. to H.264 in an mp4 file, or to a folder of images."
            )
        return image

    def count(self) -> int:
        """How many frames the file really holds; goes through all of them, without decoding."""
        self._rewind()
        while self._capture.grab():
            self._next += 1
        return self._next

    @property
    def stated_count(self) -> int:
        """How many frames its header states; exact for most containers, not for all."""
        stated = float(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return int(stated) if math.isfinite(stated) else 0

    @property
    def fps(self) -> float:
        """Frames per second as its header states; 0 where it does not."""
        return float(self._capture.get(cv2.CAP_PROP_FPS))

    def _grab(self, wanted: int) -> None:
        if not self._capture.grab():
            raise DatasetError(
                f"{self._file}: at least {wanted + 1} frames expected, it ends after {self._next}. "
                "Remove the rows of its box file beyond that, or restore the video."
            )
        self._next += 1

    def _rewind(self) -> None:
        self._capture = cv2.VideoCapture(str(self._file))
        self._next = 0
        if not self._capture.isOpened():
            raise DatasetError(
                f"{self._file}: a video that OpenCV can open expected, it cannot. Check the path, "
                "or convert the video, e.g. to H.264 in an mp4 file."
            )


@lru_cache(maxsize=1)
def _open_video(file: Path) -> VideoDecoder:
    """The video that was read last stays open: its frames are asked for one after the other."""
    return VideoDecoder(file)


def count_frames(file: Path, expected: int) -> int:
    """Number of frames of a video file.

    Its header is believed where it agrees with ``expected``; else the frames are counted.

    Raises:
        DatasetError: the file is missing or OpenCV cannot open it.
    """
    decoder = VideoDecoder(file)
    return expected if decoder.stated_count == expected else decoder.count()
