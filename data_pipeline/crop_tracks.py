"""One track -> its chunks: which frames are kept, and the crops that are cut from them."""

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from numpy.random import Generator

from data_pipeline import boxes as box_ops
from data_pipeline.crops import CROP_SIZE_PX, CropWindow, cut, mean_color, search_window
from data_pipeline.look_alikes import boxes_at
from data_pipeline.shards import TrackChunk
from data_pipeline.tracks import DatasetError, Frame, Track, read_bgr

_CHUNKS_IN_TURN = 8
"""Most chunks that share a stretch of a track; its crops are in memory together."""


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """What is cut from each frame, and which frames are left out.

    Not in the paper: views, steps and smallest sizes are those of the authors' sibling trackers
    (microsoft/PySiamTracking); the chunk is our choice.
    """

    num_views: int = 2
    """Moved and scaled views per frame, beside the centred one."""

    seed: int = 0
    """The views are drawn from it."""

    jpeg_quality: int = 90
    """Of the crops."""

    frames_per_chunk: int = 64
    """Most frames of one track in a row of a shard. Up to eight rows share a stretch of the track,
    each with every so many-th frame of it: a pair's two frames come from one row."""

    view_shift_px: float = 64.0
    """A view moves the target by up to this many crop pixels, along each axis."""

    view_scale: float = 0.18
    """A view scales width and height by exp(uniform(-view_scale, view_scale)), each by itself."""

    min_box_px: float = 10.0
    """A frame is dropped where the clipped box's shorter side is below this."""

    min_still_box_px: float = 4.0
    """The same for objects in still images (COCO)."""

    on_broken_image: Literal["raise", "skip"] = "raise"
    """Whether an image that cannot be read ends the run, or is left out and listed."""

    def __post_init__(self) -> None:
        for name in ("num_views", "frames_per_chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("seed", "view_shift_px", "view_scale"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("min_box_px", "min_still_box_px"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must lie in 1..100, got {self.jpeg_quality}")
        if self.on_broken_image not in ("raise", "skip"):
            raise ValueError(f"on_broken_image must be raise or skip, got {self.on_broken_image!r}")

    def smallest_px(self, is_still: bool) -> float:
        """Least shorter side of a box that is kept, of a still or a video."""
        return self.min_still_box_px if is_still else self.min_box_px


@dataclass(kw_only=True)
class DropReport:
    """What was left out, gathered while tracks are cropped."""

    reasons: Counter[str] = field(default_factory=Counter)
    """Frames left out, by reason, e.g. ``box too small``."""

    broken_images: list[str] = field(default_factory=list)
    """Messages of the images that could not be read."""


class FrameSource:
    """Reads images and keeps the last one: the objects of a still image follow each other.

    Channels stay in OpenCV's order, B, G, R: an image is decoded only to be encoded again.
    """

    def __init__(self) -> None:
        self._frame: Frame | None = None
        self._image: UInt8[ndarray, "height width 3"] | None = None

    def read(self, frame: Frame) -> UInt8[ndarray, "height width 3"]:
        """The image, BGR."""
        if self._image is None or frame != self._frame:
            self._image, self._frame = read_bgr(frame), frame
        return self._image


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameCrops:
    """What is stored of one frame of a track."""

    centred_image: bytes
    """JPEG of the crop about the box."""

    centred_box: Float[ndarray, "4"]
    """The box in it."""

    view_images: tuple[bytes, ...]
    """JPEGs of the moved and scaled views."""

    view_boxes: Float[ndarray, "views 4"]
    """The box in each."""

    other_boxes: Float[ndarray, "others 4"]
    """Other objects of the target's category, in the centred crop."""


def thin(track: Track, step: int) -> Track:
    """Every ``step``-th frame of a track, from its first; frame numbers stay those of the video."""
    return track[::step]


def usable_frames(track: Track) -> Int[ndarray, "usable"]:
    """Positions of the frames that show the target and have a box; needs no image."""
    return np.flatnonzero(track.visible & box_ops.has_area(track.boxes))


def crop_track(
    track: Track,
    config: CropConfig,
    source: FrameSource,
    drops: DropReport,
    others: Sequence[Track] = (),
) -> Iterator[TrackChunk]:
    """The chunks of a track; a long one becomes chunks of nearly equal length.

    Chunks of one stretch take its frames in turn, so that each reaches over all of it. A chunk of a
    video that keeps fewer than two frames is dropped: no pair can be drawn from it.

    Args:
        track: thinned already where frames are to be skipped.
        config: what is cut and what is left out.
        source: gives the images.
        drops: is told what was left out.
        others: other targets of the same video and category (`look_alikes.siblings`).

    Raises:
        DatasetError: an image cannot be read, and ``on_broken_image`` is ``raise``.
    """
    usable = usable_frames(track)
    drops.reasons["target invisible"] += int((~track.visible).sum())
    drops.reasons["no box"] += int(track.visible.sum()) - len(usable)
    numbers = count()
    longest = _CHUNKS_IN_TURN * config.frames_per_chunk
    for stretch in np.array_split(usable, -(-len(usable) // longest) or 1):
        crops = [_crop_frame(track, int(i), config, source, drops, others) for i in stretch]
        num_chunks = -(-len(stretch) // config.frames_per_chunk) or 1
        for first in range(num_chunks):
            part = zip(stretch[first::num_chunks], crops[first::num_chunks], strict=True)
            kept = {int(index): crop for index, crop in part if crop is not None}
            number = next(numbers)
            if len(kept) >= (1 if track.is_still else 2):
                yield _to_chunk(track, number, kept)
            else:
                drops.reasons["frame without a partner"] += len(kept)


def _to_chunk(track: Track, number: int, crops: dict[int, FrameCrops]) -> TrackChunk:
    return TrackChunk(
        dataset=track.dataset,
        video=track.video,
        target=track.target,
        category=track.category,
        is_still=track.is_still,
        chunk=number,
        frame_numbers=track.frame_numbers[list(crops)].astype(np.int32),
        centred_images=tuple(crop.centred_image for crop in crops.values()),
        centred_boxes=np.stack([crop.centred_box for crop in crops.values()]).astype(np.float32),
        view_images=tuple(crop.view_images for crop in crops.values()),
        view_boxes=np.stack([crop.view_boxes for crop in crops.values()]).astype(np.float32),
        other_boxes=tuple(crop.other_boxes.astype(np.float32) for crop in crops.values()),
    )


def _crop_frame(
    track: Track,
    index: int,
    config: CropConfig,
    source: FrameSource,
    drops: DropReport,
    others: Sequence[Track],
) -> FrameCrops | None:
    """The crops of one frame, or None (and a reason) where it is left out."""
    try:
        image = source.read(track.image_files[index])
    except DatasetError as error:
        if config.on_broken_image == "raise":
            raise
        drops.reasons["broken image"] += 1
        drops.broken_images.append(str(error))
        return None
    height, width, _ = image.shape
    box = box_ops.clip(
        track.boxes[index].astype(np.float64), width=float(width), height=float(height)
    )
    if (box[2:] - box[:2]).min() < config.smallest_px(track.is_still):
        drops.reasons["box too small"] += 1
        return None
    border = mean_color(image)
    windows = [search_window(box)]
    frame_number = int(track.frame_numbers[index])
    for view in range(config.num_views):
        rng = view_generator(config.seed, track, frame_number, view)
        windows.append(view_window(windows[0], config, rng))
    jpegs = [encode(cut(image, window, border), config.jpeg_quality) for window in windows]
    boxes = np.stack([window.to_crop(box) for window in windows])
    return FrameCrops(
        centred_image=jpegs[0],
        centred_box=boxes[0],
        view_images=tuple(jpegs[1:]),
        view_boxes=boxes[1:],
        other_boxes=windows[0].to_crop(
            boxes_at(others, frame_number, width=float(width), height=float(height))
        ),
    )


def view_generator(seed: int, track: Track, frame_number: int, view: int) -> Generator:
    """The generator of one view: depends on nothing but the run's seed and the view's name."""
    name = zlib.crc32(f"{track.dataset}/{track.video}.{track.target}".encode())
    return np.random.default_rng([seed, name, frame_number, view])


def view_window(centred: CropWindow, config: CropConfig, rng: Generator) -> CropWindow:
    """A window that shows the target of a centred one moved and scaled, each axis by itself."""
    scale = np.exp(rng.uniform(-config.view_scale, config.view_scale, 2))
    shift_px = rng.uniform(-config.view_shift_px, config.view_shift_px, 2)
    size_px = centred.size_px / scale
    return CropWindow(centred.center_px - shift_px * size_px / CROP_SIZE_PX, size_px)


def encode(crop: UInt8[ndarray, "263 263 3"], quality: int) -> bytes:
    """A crop (BGR) as JPEG; `shards.decode` is the way back, to RGB."""
    return cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
