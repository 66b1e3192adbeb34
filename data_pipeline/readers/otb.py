"""OTB-2013, OTB-50, OTB-100: a folder per sequence, ``img/`` and ``groundtruth_rect.txt``."""

import logging
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from data_pipeline.boxes import xywh_to_xyxy
from data_pipeline.readers.annotations import (
    ANY_DELIMITER,
    VideoReader,
    expect_count,
    find_images,
    is_finite,
    read_lines,
    read_rows,
)
from data_pipeline.tracks import DatasetError, ImageFiles, Track

logger = logging.getLogger(__name__)

FRAME_RANGES: dict[str, tuple[int, int]] = {
    "BlurCar1": (247, 988),
    "BlurCar3": (3, 359),
    "BlurCar4": (18, 397),
    "David": (300, 770),
    "Diving": (1, 215),
    "Football1": (1, 74),
    "Freeman3": (1, 460),
    "Freeman4": (1, 283),
    "Tiger1": (6, 354),
}
"""First and last frame (1-based image numbers) of the sequences of which a part is evaluated."""

_RANGES_BY_ANY_CASE = {name.casefold(): frames for name, frames in FRAME_RANGES.items()}


def read(folder: Path, split: str = "", *, dataset: str = "otb") -> Iterator[Track]:
    """The sequences of a folder by name, each target a track. Opens no image.

    Boxes are those of the file, in our convention: a 1-based corner x is the pixel edge x - 1.
    A frame counts as visible where all four numbers are positive, as the official code has it;
    other rows are NaN.

    Args:
        folder: holds the sequences' folders.
        split: a sub-folder of it; OTB itself has none.
        dataset: what the tracks call their dataset.

    Raises:
        DatasetError: files are missing, do not parse, or do not fit each other.
    """
    for video in list_videos(folder, split, dataset=dataset):
        yield from video()


def find_splits(folder: Path) -> tuple[str, ...]:
    """One split without a name if a folder is in this layout, and none if it is in another."""
    if not folder.is_dir():
        return ()
    truths = (_truth_files(entry) for entry in folder.iterdir() if (entry / "img").is_dir())
    return ("",) if any(truths) else ()


def list_videos(folder: Path, split: str, *, dataset: str = "otb") -> Iterator[VideoReader]:
    """The sequences by name, each to be read when called."""
    root = folder / split
    if not root.is_dir():
        raise DatasetError(
            f"{root}: a folder of OTB sequences expected, there is none. Check the path."
        )
    sequences = sorted(entry for entry in root.iterdir() if (entry / "img").is_dir())
    if not sequences:
        raise DatasetError(
            f"{root}: sequences in OTB's layout expected (<name>/img/0001.jpg, "
            "<name>/groundtruth_rect.txt), none found. Unpack the sequences into it."
        )
    for sequence in sequences:
        yield partial(_read_sequence, sequence, dataset)


def _truth_files(sequence: Path) -> list[Path]:
    return sorted(sequence.glob("groundtruth_rect*.txt"))


def _read_sequence(sequence: Path, dataset: str) -> Iterator[Track]:
    files = _truth_files(sequence)
    if not files:
        raise DatasetError(
            f"{sequence / 'groundtruth_rect.txt'}: the sequence's boxes expected, there is no "
            "such file. Unpack the sequence again."
        )
    for path in files:
        if len(files) > 1 and not read_lines(path, "one x,y,w,h row per frame"):
            logger.info("%s is empty: not a target (Human4 is shipped so)", path)
        else:
            yield _read_target(sequence, path, dataset)


def _read_target(sequence: Path, path: Path, dataset: str) -> Track:
    matched = re.fullmatch(r"groundtruth_rect(?:\.(\d+))?\.txt", path.name)
    if matched is None:
        raise DatasetError(
            f"{path}: groundtruth_rect.txt or groundtruth_rect.<number>.txt expected, got "
            f"{path.name}. Rename or remove the file."
        )
    rows = read_rows(path, "x,y,w,h", delimiter=ANY_DELIMITER)
    images, numbers = _official_frames(sequence)
    if len(rows) > len(images) and len(rows) == len(find_images(sequence / "img")):
        rows = rows[numbers]  # boxes for all frames, also for those left out (David, Tiger1)
    expect_count(path, len(rows), len(images), "boxes")
    valid = is_finite(rows) & (np.nan_to_num(rows) > 0).all(axis=1)
    corners = rows - np.array([1.0, 1.0, 0.0, 0.0])
    return Track(
        dataset=dataset,
        video=sequence.name,
        target=matched.group(1) or "0",
        image_files=images,
        boxes=np.where(valid[:, None], xywh_to_xyxy(corners), np.nan),
        visible=valid,
        frame_numbers=numbers,
    )


def _official_frames(sequence: Path) -> tuple[ImageFiles, Int[ndarray, "frames"]]:
    """The images that the benchmark evaluates and their 0-based positions in the video."""
    images = find_images(sequence / "img")
    if sequence.name.casefold() not in _RANGES_BY_ANY_CASE:
        return images, np.arange(len(images))
    first, last = _RANGES_BY_ANY_CASE[sequence.name.casefold()]
    stems = {name.rpartition(".")[0]: name for name in images.names}
    by_number = {int(stem): name for stem, name in stems.items() if stem.isdecimal()}
    missing = [number for number in range(first, last + 1) if number not in by_number]
    if missing:
        raise DatasetError(
            f"{sequence / 'img'}: images {first} to {last} expected (the official range of "
            f"{sequence.name}), {len(missing)} are missing, the first is {missing[0]}. "
            "Unpack the sequence again."
        )
    chosen = tuple(by_number[number] for number in range(first, last + 1))
    return ImageFiles(images.folder, chosen), np.arange(first - 1, last)
