"""Failures to be looked at: a sequence's frames with both boxes, over its overlap and scores.

A strip shows frames spread over the sequence and more of them about the onset, the frame at which
the tracker first loses its target; below them the overlap and the score of every frame, with marks
where the tracker learned and where it said that it was lost.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import ndarray

from data_pipeline.boxes import iou
from data_pipeline.tracks import Track, read_image
from eval_jobs.protocols import Trajectory

FAILED_BELOW = 0.2
"""A frame with less overlap is one on which the tracker follows something else."""

TRUTH_COLOR = (255, 220, 0)
FOUND_COLOR = (0, 255, 0)
LOST_COLOR = (255, 0, 0)


@dataclass(frozen=True, kw_only=True)
class StripConfig:
    """What a strip shows."""

    num_frames: int = 24
    """Frames in it, the first among them."""

    num_columns: int = 8
    """Frames in a row."""

    frame_width_px: int = 240
    """Width of a frame in it."""

    def __post_init__(self) -> None:
        for name in ("num_frames", "num_columns", "frame_width_px"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def frame_overlaps(track: Track, trajectory: Trajectory) -> Float[ndarray, "frames"]:
    """The overlap with the truth on each frame; NaN where there is no truth to see."""
    overlap = iou(trajectory.boxes, np.nan_to_num(track.boxes.astype(np.float64)))
    known = track.visible & np.isfinite(track.boxes).all(axis=1)
    return np.where(known, overlap, np.nan)


def onset(overlap: Float[ndarray, "frames"]) -> int | None:
    """The first frame at which the tracker follows something else; None where it never does.

    >>> onset(np.array([1.0, 0.8, np.nan, 0.1, 0.9])), onset(np.array([1.0, 0.5]))
    (3, None)
    """
    failed = np.flatnonzero(overlap < FAILED_BELOW)
    return int(failed[0]) if len(failed) else None


def frames_to_show(overlap: Float[ndarray, "frames"], count: int) -> Int[ndarray, "shown"]:
    """Which frames a strip shows, in order: half of them just before and at the onset.

    >>> frames_to_show(np.array([1.0] * 50 + [0.0] * 50), 8)
    array([ 0, 33, 47, 48, 49, 50, 66, 99])
    """
    last = len(overlap) - 1
    first_failure = onset(overlap)
    about = []
    if first_failure is not None:
        begin = max(0, first_failure - count // 2 + 1)
        about = list(range(begin, first_failure + 1))[-(count // 2) :]
    spread = np.linspace(0, last, max(count - len(about), 1)).round()
    return np.unique(np.concatenate([spread, about]).astype(int))


def strip_figure(
    track: Track, trajectory: Trajectory, config: StripConfig, *, title: str
) -> Figure:
    """Frames of a sequence with both boxes, over the curves of all frames.

    Args:
        track: the sequence.
        trajectory: a run over it in one pass.
        config: what is shown.
        title: stands above it.

    Raises:
        DatasetError: an image cannot be read.
    """
    overlap = frame_overlaps(track, trajectory)
    shown = frames_to_show(overlap, config.num_frames)
    tiles = [_tile(track, trajectory, overlap, int(frame), config) for frame in shown]
    sheet = _sheet(tiles, config.num_columns)
    width = 16.0
    height = width * sheet.shape[0] / sheet.shape[1]
    figure = Figure(figsize=(width, height + 3.4), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(height, 3.0))
    above.imshow(sheet)
    above.set_axis_off()
    above.set_title(title)
    _draw_curves(below, trajectory, overlap, shown)
    return figure


def _tile(
    track: Track,
    trajectory: Trajectory,
    overlap: Float[ndarray, "frames"],
    frame: int,
    config: StripConfig,
) -> UInt8[ndarray, "height width 3"]:
    """One frame: true box, predicted box, and its numbers."""
    image = read_image(track.image_files[frame])
    scale = config.frame_width_px / image.shape[1]
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    found = LOST_COLOR if trajectory.lost[frame] else FOUND_COLOR
    for box, color in ((track.boxes[frame], TRUTH_COLOR), (trajectory.boxes[frame], found)):
        if np.isfinite(box).all():
            left, top, right, bottom = (round(float(edge) * scale) for edge in box)
            cv2.rectangle(small, (left, top), (right, bottom), color, 2)
    texts = [f"#{frame + 1}", f"IoU {overlap[frame]:.2f}"]
    texts += [f"s {trajectory.scores[frame]:.2f}"] if np.isfinite(trajectory.scores[frame]) else []
    if trajectory.updated is not None and trajectory.updated[frame]:
        texts.append("update")
    for outline, ink in ((3, (0, 0, 0)), (1, (255, 255, 255))):
        place = (3, small.shape[0] - 5)
        cv2.putText(small, "  ".join(texts), place, cv2.FONT_HERSHEY_SIMPLEX, 0.38, ink, outline)
    return small


def _sheet(
    tiles: list[UInt8[ndarray, "_ _ 3"]], num_columns: int
) -> UInt8[ndarray, "height width 3"]:
    """The tiles row by row, black where the last row has none."""
    tiles = tiles + [np.zeros_like(tiles[0])] * (-len(tiles) % num_columns)
    rows = [np.hstack(tiles[i : i + num_columns]) for i in range(0, len(tiles), num_columns)]
    return np.vstack(rows)


def _draw_curves(
    axes: Axes,
    trajectory: Trajectory,
    overlap: Float[ndarray, "frames"],
    shown: Int[ndarray, "shown"],
) -> None:
    frames = np.arange(1, len(overlap) + 1)
    axes.plot(frames, overlap, color="C0", label="overlap with the truth")
    if np.isfinite(trajectory.scores).any():
        axes.plot(frames, trajectory.scores, color="C1", lw=0.8, label="score")
    marks = {"lost": (trajectory.lost, "red", "x"), "update": (trajectory.updated, "C2", "|")}
    for name, (flags, color, marker) in marks.items():
        if flags is not None and flags.any():
            places = frames[flags]
            axes.plot(places, np.full(len(places), -0.05), marker, color=color, label=name)
    axes.plot(shown + 1, np.full(len(shown), 1.04), "v", color="grey", ms=3, label="shown above")
    axes.set(xlim=(1, len(overlap)), ylim=(-0.1, 1.08), xlabel="frame")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=5, loc="lower left")


def write_png(figure: Figure, path: Path) -> None:
    """Writes a strip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
