"""Result files that other trackers left, in the usual formats, as runs that can be scored.

OTB and its relatives: ``<folder>/<sequence>.txt``, a row ``x,y,w,h`` per frame with commas, tabs or
spaces between. GOT-10k: ``<folder>/<sequence>/<sequence>_001.txt``, a file per repetition, and
``<sequence>_time.txt``. Pixels count as in the benchmark's annotation files: from 1 in OTB and
LaSOT, from 0 in the others.
"""

import hashlib
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from data_pipeline.boxes import xywh_to_xyxy
from data_pipeline.clear_errors import shortened
from data_pipeline.readers.annotations import ANY_DELIMITER, read_lines, read_rows
from data_pipeline.tracks import DatasetError, Track
from eval_jobs.benchmarks import IncompleteResultsError, Selection, first_frames, sequence_name
from eval_jobs.protocols import Trajectory
from eval_jobs.results import ResultError
from eval_jobs.scores import TrackerScore, score_tracker

FIRST_PIXEL = {"otb": 1.0, "lasot": 1.0}
"""Index of an image's first pixel in a dataset's files; 0 in those of the others."""


def named_folder(text: str, *, needs_name: bool = True) -> tuple[str, Path]:
    """A name and a folder from ``NAME=FOLDER``; the name is empty where only a folder is given.

    >>> named_folder("SiamFC=boxes/siamfc")
    ('SiamFC', PosixPath('boxes/siamfc'))

    Raises:
        ValueError: there is no folder, or no name and one is needed.
    """
    name, mark, folder = text.partition("=")
    if not needs_name and (not mark or Path(text).is_dir()):
        name, folder = "", text
    local = local_folder(folder)
    if not folder or (needs_name and not name):
        raise ValueError(f"NAME=FOLDER expected, got {text!r}")
    return name, local


def local_folder(text: str) -> Path:
    """A folder of this machine.

    Raises:
        ValueError: it is a URI.
    """
    if "://" in text:
        raise ValueError(
            f"a folder of this machine expected, got the URI {text!r}. Copy it to one first; a "
            "checkpoint by eval_jobs/export_tracker.py --checkpoint URI --output FOLDER"
        )
    return Path(text)


def score_results(
    name: str, folder: Path, whole: Selection, max_frames: int | None = None
) -> TrackerScore:
    """The score of a tracker whose result files lie in a folder.

    Args:
        name: how tables and plots call the tracker.
        folder: holds its result files.
        whole: the sequences, in full: what the files are of.
        max_frames: score the first so many frames of each only.

    Raises:
        IncompleteResultsError: sequences have no file; names each.
        ResultError: a file does not parse, or is of another length than its sequence.
        ValueError: the benchmark is run with resets; such results cannot be read from files.
    """
    if whole.benchmark.resets is not None:
        raise ValueError(
            f"{whole.benchmark.title} is run with resets: results of other trackers can be read "
            "for benchmarks of one pass only"
        )
    names = whole.benchmark.sequences or tuple(map(sequence_name, whole.tracks))
    targets = Counter(name.partition(".")[0].casefold() for name in names)
    entries = list_entries(folder)
    files = {
        track.name: find_files(entries, track, is_only_target=targets[track.video.casefold()] == 1)
        for track in whole.tracks
    }
    missing = [sequence for sequence, found in files.items() if not found]
    if missing:
        raise IncompleteResultsError(
            f"{name}: a result file of each of {len(files)} sequences expected in {folder} "
            f"(<sequence>.txt, or <sequence>/<sequence>_001.txt), {len(missing)} have none: "
            f"{', '.join(missing)}"
        )
    selection = whole if max_frames is None else _cut(whole, max_frames)
    runs = [
        [read_run(file, track, num_frames=len(cut)) for file in files[track.name]]
        for track, cut in zip(whole.tracks, selection.tracks, strict=True)
    ]
    digest = hashlib.sha256(b"".join(run.boxes.tobytes() for each in runs for run in each))
    return score_tracker(name, digest.hexdigest(), selection, runs)


def _cut(whole: Selection, max_frames: int) -> Selection:
    tracks = tuple(first_frames(track, max_frames) for track in whole.tracks)
    return replace(whole, tracks=tracks, max_frames=max_frames)


def list_entries(folder: Path) -> dict[str, list[Path]]:
    """What could be results in a folder: text files, without their suffix, and folders, by their
    names in lower case.

    Raises:
        ResultError: the folder is missing.
    """
    if not folder.is_dir():
        raise ResultError(f"{folder}: a folder of result files expected, there is none")
    entries: dict[str, list[Path]] = defaultdict(list)
    for entry in sorted(folder.iterdir()):
        if not entry.name.startswith("."):
            is_text = entry.suffix == ".txt"
            entries[(entry.stem if is_text else entry.name).casefold()].append(entry)
    return entries


def find_files(
    entries: dict[str, list[Path]], track: Track, *, is_only_target: bool = False
) -> list[Path]:
    """The result files of a sequence, one per repetition; none where there is none.

    Upper and lower case are alike, and Jogging.1 may be called Jogging-1 or Jogging_1. Where the
    benchmark has no other target of the video, Human4.2 may be called Human4, as got10k calls it.

    Raises:
        ResultError: two files or folders could be the sequence's.
    """
    aliases = {sequence_name(track).casefold()}
    if track.target != "0":
        aliases |= {f"{track.video}{mark}{track.target}".casefold() for mark in "-_"}
    if is_only_target:
        aliases.add(track.video.casefold())
    candidates = sorted(entry for alias in aliases for entry in entries.get(alias, ()))
    found = [[entry] for entry in candidates if entry.suffix == ".txt"]
    found += [
        sorted(entry.glob(f"{entry.name}_[0-9][0-9][0-9].txt"))
        for entry in candidates
        if entry.suffix != ".txt" and entry.is_dir()
    ]
    if len(found) > 1:
        names = ", ".join(str(path) for files in found for path in files)
        raise ResultError(
            f"{track.name}: results in one file or folder expected, there are {names}. Remove "
            "those that do not belong to it."
        )
    return found[0] if found else []


def read_run(path: Path, track: Track, *, num_frames: int) -> Trajectory:
    """One run over a sequence from a result file.

    Scores are NaN and no frame is lost, since such files do not say; seconds are NaN where there
    is no file of times beside it.

    Args:
        path: a row ``x,y,w,h`` per frame.
        track: the whole sequence.
        num_frames: how many of them, from the first, are taken.

    Raises:
        ResultError: the file does not parse, or is of another length than the sequence.
    """
    try:
        rows = read_rows(path, "x,y,w,h", delimiter=ANY_DELIMITER)
        seconds = _read_seconds(path, len(rows))
    except DatasetError as error:
        raise ResultError(f"{track.name}: {error}") from error
    if len(rows) != len(track):
        raise ResultError(
            f"{track.name}: {path} must have a row for each of {len(track)} frames, "
            f"it has {len(rows)}"
        )
    first = FIRST_PIXEL.get(track.dataset, 0.0)
    boxes = xywh_to_xyxy(rows - np.array([first, first, 0.0, 0.0]))
    return Trajectory(
        boxes=boxes[:num_frames],
        scores=np.full(num_frames, np.nan),
        lost=np.zeros(num_frames, dtype=bool),
        seconds=seconds[:num_frames],
    )


def _read_seconds(path: Path, num_frames: int) -> Float[ndarray, "frames"]:
    """Seconds per frame from GOT-10k's file of times; the first column where it has several.

    Raises:
        DatasetError: it holds something else, or not one row per frame.
    """
    times = path.with_name(f"{path.parent.name}_time.txt")
    if not times.is_file():
        return np.full(num_frames, np.nan)
    lines = read_lines(times, "seconds per frame")
    try:
        seconds = np.array([float(line.split(",")[0]) for line in lines])
    except ValueError as error:
        raise DatasetError(
            f"{times}: seconds, a row per frame, expected ({shortened(error, 80)})"
        ) from error
    if len(seconds) != num_frames:
        raise DatasetError(
            f"{times}: seconds of each of {num_frames} frames expected, got {len(seconds)}"
        )
    return seconds
