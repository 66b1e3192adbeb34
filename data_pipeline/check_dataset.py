"""Script: what a dataset folder holds, what is wrong with it, and how to mend it."""

import logging
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data_pipeline import boxes as box_ops
from data_pipeline.clear_errors import clear_errors
from data_pipeline.crop_tracks import CropConfig
from data_pipeline.dataset_checks import (
    Decoded,
    Finding,
    ImageSize,
    check_track,
    decode_frames,
    decode_video,
    flag_boxes,
)
from data_pipeline.dataset_report import DatasetReport, SplitReport, describe
from data_pipeline.readers import LAYOUTS, Layout
from data_pipeline.readers.annotations import VideoReader
from data_pipeline.tracks import DatasetError, Frame, Track, VideoFrame

SAMPLED_VIDEOS = 500
"""Where not all images are decoded: one of each of so many videos, evenly spread."""

FRAMES_PER_TASK = 64
"""Images that a worker decodes in one go."""

TASKS_AHEAD = 4
"""Tasks that wait for each worker; so memory does not grow with the dataset."""

MAX_BAD_SHARE = 0.1
"""More boxes without an area or outside the image than this: they are in another format."""

MAX_SHARE_REACHING_OUT = 0.5
"""The same for boxes of which a part lies outside the image."""

CROPS = CropConfig()
"""Which boxes are too small for preprocess.py, unless it is told otherwise."""


def _find_splits(layout: Layout, folder: Path) -> tuple[str, ...]:
    """The splits that a folder has in a layout; none where it breaks the layout's rules."""
    try:
        return layout.find_splits(folder)
    except DatasetError:
        return ()


def recognise(folder: Path) -> str:
    """The reader whose layout a folder is in.

    Raises:
        DatasetError: it is in none; the message shows them all, and where one was found nearby.
    """
    if not folder.is_dir():
        got = "it is a file" if folder.exists() else "there is none"
        raise DatasetError(f"{folder}: a dataset's folder expected, {got}. Check the path.")
    for name, layout in LAYOUTS.items():
        if _find_splits(layout, folder):
            return name
    inner = sorted(path for path in folder.iterdir() if path.is_dir())[:50]
    nearby = [
        f"; {path} is in the layout of {name}"
        for path in (*inner, folder.parent)
        for name, layout in LAYOUTS.items()
        if (splits := _find_splits(layout, path)) and (path in inner or folder.name in splits)
    ]
    inside = sorted(path.name for path in folder.iterdir())
    names = ", ".join(inside[:8]) + (f", ... ({len(inside)} entries)" if len(inside) > 8 else "")
    shapes = "\n".join(f"    {name}: {layout.shape}" for name, layout in LAYOUTS.items())
    raise DatasetError(
        f"{folder}: one of the layouts below expected, got a folder with {names or 'nothing'}"
        f"{''.join(nearby[:1])}. Arrange the files like one of them, or name its reader to see "
        f"what is missing.\n{shapes}"
    )


def check_dataset(
    folder: Path,
    *,
    reader: str | None = None,
    splits: Sequence[str] = (),
    deep: bool = False,
    num_workers: int = 0,
) -> DatasetReport:
    """Looks at a dataset's annotations and at some or all of its images.

    Args:
        folder: the dataset.
        reader: one of `READERS`; recognised by the layout where None.
        splits: which of its splits; all that it holds where empty.
        deep: decode every image, not only one of each of `SAMPLED_VIDEOS` videos.
        num_workers: processes that decode; 0 for this one.

    Raises:
        ValueError: there is no such reader, or no such number of processes.
    """
    if num_workers < 0:
        raise ValueError(f"num_workers must be at least 0 (none but this one), got {num_workers}")
    if reader is not None and reader not in LAYOUTS:
        raise ValueError(f"reader must be one of {', '.join(sorted(LAYOUTS))}, got {reader!r}")
    try:
        name = reader or recognise(folder)
        layout = LAYOUTS[name]
        found = tuple(splits) or layout.find_splits(folder)
        if not found:
            raise DatasetError(
                f"{folder}: the layout of {name} expected ({layout.shape}), it is not there. "
                "Check the path, or arrange the files like that."
            )
    except DatasetError as error:
        finding = Finding(kind="unknown layout", message=str(error), severity="error")
        return DatasetReport(folder=folder, reader=reader or "", splits=(), findings=(finding,))
    with _processes(num_workers) as executor:
        decoding = Decoding(executor=executor, deep=deep)
        reports = tuple(check_split(folder, layout, split, decoding) for split in found)
    return DatasetReport(folder=folder, reader=name, splits=reports)


@contextmanager
def _processes(count: int) -> Iterator[Executor | None]:
    """A pool of processes; none where this one does the work."""
    if not count:
        yield None
        return
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as executor:
        yield executor


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoding:
    """Which images are decoded, and who does it."""

    executor: Executor | None
    """Worker processes, or None for this one."""

    deep: bool
    """Every image, or the first of a video."""

    def start(self, frames: tuple[Frame, ...]) -> list["Future[Decoded]"]:
        """The tasks that decode a video's frames; a video file is one task."""
        of_file = tuple(frame for frame in frames if isinstance(frame, VideoFrame))
        if self.deep and of_file:
            return [self._submit(partial(decode_video, of_file))]
        frames = frames if self.deep else frames[:1]
        starts = range(0, len(frames), FRAMES_PER_TASK)
        parts = (frames[start : start + FRAMES_PER_TASK] for start in starts)
        return [self._submit(partial(decode_frames, part)) for part in parts]

    def _submit(self, task: Callable[[], Decoded]) -> "Future[Decoded]":
        if self.executor is not None:
            return self.executor.submit(task)
        done: Future[Decoded] = Future()
        done.set_result(task())
        return done


def check_split(folder: Path, layout: Layout, split: str, decoding: Decoding) -> SplitReport:
    """Looks at one split, video by video; each fault is one finding and hides no other."""
    report = SplitReport(split=split)
    try:
        videos = list(layout.list_videos(folder, split))
    except DatasetError as error:
        if (others := _find_splits(layout, folder)) and split not in others:
            error = DatasetError(
                f"{folder}: one of the splits that it holds expected ({', '.join(others)}), got "
                f"{split!r}. Name one of them, or mend this: {error}"
            )
        report.add(_annotation_finding(error))
        return report
    report.num_videos = len(videos)
    every = 1 if decoding.deep else -(-len(videos) // SAMPLED_VIDEOS)
    names: Counter[str] = Counter()
    pending: deque[tuple[list[Track], list[Future[Decoded]]]] = deque()
    with Progress(*_COLUMNS, transient=True) as progress:
        for number, video in progress.track(enumerate(videos), len(videos), description=split):
            tracks = _read_video(video, report)
            names.update(track.name for track in tracks)
            frames = tuple(dict.fromkeys(frame for track in tracks for frame in track.image_files))
            report.num_images += len(frames)
            pending.append((tracks, decoding.start(frames) if number % every == 0 else []))
            while pending and (
                all(task.done() for task in pending[0][1])
                or sum(len(tasks) for _, tasks in pending) > TASKS_AHEAD * (os.cpu_count() or 1)
            ):
                _add_video(report, *pending.popleft())
        for tracks, tasks in pending:
            _add_video(report, tracks, tasks)
    for finding in _overall_findings(folder / split, report, names):
        report.add(finding)
    return report


_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(),
)


def _read_video(video: VideoReader, report: SplitReport) -> list[Track]:
    """The tracks of a video; none, and a finding, where it cannot be read."""
    try:
        return list(video())
    except DatasetError as error:
        report.add(_annotation_finding(error))
        return []


def _annotation_finding(error: DatasetError) -> Finding:
    return Finding(kind="files or annotation", message=str(error), severity="error")


def _add_video(
    report: SplitReport, tracks: Sequence[Track], tasks: Sequence["Future[Decoded]"]
) -> None:
    """Adds a video's counts and findings to a report, once its images are decoded."""
    sizes: dict[Frame, ImageSize] = {}
    for decoded in (task.result() for task in tasks):
        sizes.update(decoded.sizes)
        for message in decoded.faults:
            report.add(Finding(kind="unreadable image", message=message, severity="error"))
    report.image_sizes.update(sizes.values())
    for track in tracks:
        flags = flag_boxes(track, sizes, CROPS)
        report.num_tracks += 1
        report.num_frames += len(track)
        report.num_visible += int(track.visible.sum())
        report.num_usable += int(flags.usable.sum())
        report.num_reaching_out += int(flags.reaching_out.sum())
        report.num_too_small += int(flags.too_small.sum())
        if flags.usable.any():
            areas = box_ops.areas(track.boxes[flags.usable])
            report.box_sizes_px.append(float(np.median(np.sqrt(areas))))
        for finding in check_track(track, flags):
            report.add(finding)


def _overall_findings(folder: Path, report: SplitReport, names: Counter[str]) -> Iterator[Finding]:
    """What only the whole split shows."""
    for name in [name for name, count in names.items() if count > 1]:
        yield Finding(
            kind="name given twice",
            message=f"{folder}: each track once expected, got {names[name]} called {name}. "
            "Rename all but one, or remove them from the list.",
            severity="error",
        )
    if report.num_tracks and not report.num_usable:
        yield Finding(
            kind="nothing to use",
            message=f"{folder}: at least one visible target with a box in its image expected, got "
            f"none in {report.num_frames} frames. Mend the boxes.",
            severity="error",
        )
    if report.num_too_small:
        yield Finding(
            kind="box too small",
            message=f"{folder}: boxes with a shorter side of at least {CROPS.min_box_px:g} px in "
            f"videos and {CROPS.min_still_box_px:g} px in stills expected, got "
            f"{report.num_too_small} of {report.num_usable} below that. To track in, they are "
            "good; for training, preprocess.py leaves them out. Lower its --crops.min-box-px or "
            "--crops.min-still-box-px to keep them.",
            severity="warning",
        )
    bad = report.num_visible - report.num_usable
    reaching_out = report.num_reaching_out
    if bad > MAX_BAD_SHARE * report.num_visible or (
        reaching_out > MAX_SHARE_REACHING_OUT * report.num_usable
    ):
        yield Finding(
            kind="boxes in another format",
            message=f"{folder}: boxes x,y,w,h in pixels of the images expected, got "
            f"{bad} of {report.num_visible} without an area or outside, {reaching_out} reaching "
            "out. Are they corners x1,y1,x2,y2, or for images of another size? Convert them.",
            severity="error",
        )


@clear_errors(ValueError)
def main(
    folder: Path,
    reader: str | None = None,
    split: tuple[str, ...] = (),
    deep: bool = False,
    num_workers: int | None = None,
) -> bool:
    """Says what a dataset folder holds, what is wrong with it, and how to mend it.

    Ends with exit code 0 only if the dataset can be used.

    Args:
        folder: the dataset.
        reader: which reader it is for; by default recognised by the layout.
        split: which of its splits, e.g. train val; by default all that it holds.
        deep: decode every image, in parallel.
        num_workers: processes that decode with --deep; one per core where not given, 0 for none.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if num_workers is None:
        num_workers = os.cpu_count() or 1
    report = check_dataset(
        folder.absolute(),
        reader=reader,
        splits=split,
        deep=deep,
        num_workers=num_workers if deep else 0,
    )
    print(describe(report))
    return report.is_usable


if __name__ == "__main__":
    import tyro

    # By its import name: the processes that decode must find what this script uses.
    from data_pipeline import check_dataset as script

    sys.exit(0 if tyro.cli(script.main) else 1)
