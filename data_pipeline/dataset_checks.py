"""What can be wrong in a video of a dataset: its boxes, and the images that they lie in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from data_pipeline import boxes as box_ops
from data_pipeline.crop_tracks import CropConfig
from data_pipeline.tracks import DatasetError, Frame, Track, VideoDecoder, VideoFrame, read_image

ImageSize = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong in a dataset."""

    kind: str
    """What findings are counted by, e.g. ``box outside the image``."""

    message: str
    """Where it is, what was expected, what came and what to do."""

    severity: Literal["error", "warning"]
    """An error makes the dataset unusable; a warning says what readers of it leave out."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What came of decoding some frames of a video."""

    sizes: dict[Frame, ImageSize]
    """Of the frames that decode."""

    faults: tuple[str, ...]
    """Messages of those that do not."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxFlags:
    """Which frames of a track have which kind of box."""

    usable: Bool[ndarray, "frames"]
    """The target is visible and its box has an area, inside the image where its size is known."""

    empty: Bool[ndarray, "frames"]
    """The target is visible but its box's width or height is not positive."""

    outside: Bool[ndarray, "frames"]
    """The target is visible but its box lies wholly outside the image."""

    reaching_out: Bool[ndarray, "frames"]
    """The box lies in the image, and more than a pixel of it outside."""

    too_small: Bool[ndarray, "frames"]
    """The box is usable, and preprocessing leaves it out for its size."""


def decode_frames(frames: Sequence[Frame]) -> Decoded:
    """Decodes images; a worker's task."""
    cv2.setNumThreads(1)
    sizes: dict[Frame, ImageSize] = {}
    faults = []
    for frame in frames:
        try:
            height, width, _ = read_image(frame).shape
            sizes[frame] = (width, height)
        except DatasetError as error:
            faults.append(str(error))
    return Decoded(sizes=sizes, faults=tuple(faults))


def decode_video(frames: Sequence[VideoFrame]) -> Decoded:
    """Decodes all annotated frames of one video file, and sees that there are no others."""
    decoded = decode_frames(frames)
    file = frames[0].file
    count = 0 if decoded.faults else VideoDecoder(file).count()
    if count <= len(frames):
        return decoded
    message = (
        f"{file}: as many frames as rows in its box file expected ({len(frames)}), got {count}; "
        "its header is wrong. Add the missing rows, or convert the video again."
    )
    return Decoded(sizes=decoded.sizes, faults=(message,))


def flag_boxes(track: Track, sizes: Mapping[Frame, ImageSize], crops: CropConfig) -> BoxFlags:
    """Sorts a track's frames by what is to be said of their boxes.

    Args:
        track: boxes and flags.
        sizes: of its images as far as they are known; where only the first is known, it counts for
            all frames of the video.
        crops: gives the least size of a box.
    """
    has_area = box_ops.has_area(track.boxes)
    first = sizes.get(track.image_files[0], (np.inf, np.inf))
    limits = np.array([sizes.get(frame, first) for frame in track.image_files])
    low, high = track.boxes[:, :2], track.boxes[:, 2:]
    with np.errstate(invalid="ignore"):
        inside = ((low < limits) & (high > 0)).all(axis=1)
        beyond = ((low < -1) | (high > limits + 1)).any(axis=1)
        sides = (np.minimum(high, limits) - np.maximum(low, 0.0)).min(axis=1)
    seen = track.visible & has_area
    return BoxFlags(
        usable=seen & inside,
        empty=track.visible & ~has_area,
        outside=seen & ~inside,
        reaching_out=seen & inside & beyond,
        too_small=seen & inside & (sides < crops.smallest_px(track.is_still)),
    )


def is_hidden(track: Track) -> bool:
    """Whether a test set gives away the first box only."""
    known = np.isfinite(track.boxes).all(axis=1)
    return len(track) > 1 and bool(known[0]) and not known[1:].any()


def check_track(track: Track, flags: BoxFlags) -> list[Finding]:
    """What is wrong with the boxes of a track; at most one finding of each kind."""
    findings = []
    if flags.empty.any():
        findings.append(
            _box_finding(
                track,
                flags.empty,
                kind="box without an area",
                expected="boxes of positive width and height",
                advice="Mend the rows, or mark the frames as absent; training leaves them out.",
            )
        )
    if flags.outside.any():
        findings.append(
            _box_finding(
                track,
                flags.outside,
                kind="box outside the image",
                expected="boxes that lie in the image",
                advice="Mend the rows, or mark the frames as absent; training leaves them out.",
            )
        )
    if not track.is_still and flags.usable.any() and _is_fraction(track.boxes[flags.usable]):
        findings.append(
            _box_finding(
                track,
                flags.usable,
                kind="box in fractions of the image",
                expected="boxes in pixels",
                advice="Multiply by the image's width and height.",
                severity="error",
            )
        )
    if not track.is_still and flags.usable.sum() < 2 and not is_hidden(track):
        findings.append(
            Finding(
                kind="too few usable frames",
                message=f"{track.image_files[0].parent}: {track.name} needs at least 2 frames with "
                f"a usable box to give a pair, got {flags.usable.sum()} of {len(track)}. "
                "Mend its boxes, or leave it; training leaves it out.",
                severity="warning",
            )
        )
    return findings


def _is_fraction(boxes: Float[ndarray, "boxes 4"]) -> bool:
    return bool((np.abs(boxes) <= 1.0).all())


def _box_finding(
    track: Track,
    wrong: Bool[ndarray, "frames"],
    *,
    kind: str,
    expected: str,
    advice: str,
    severity: Literal["error", "warning"] = "warning",
) -> Finding:
    first = int(np.flatnonzero(wrong)[0])
    x, y, width, height = box_ops.xyxy_to_xywh(track.boxes[first])
    return Finding(
        kind=kind,
        message=f"{track.image_files[first]}: {expected} expected for {track.name}, got "
        f"x,y,w,h = {x:g},{y:g},{width:g},{height:g}"
        f"{f' ({wrong.sum()} frames like this)' if wrong.sum() > 1 else ''}. {advice}",
        severity=severity,
    )
