"""OTB-2013, OTB-50, OTB-100: a folder per sequence, ``img/`` and ``groundtruth_rect.txt``."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from data_pipeline.boxes import xywh_to_xyxy
from data_pipeline.readers.got10k import find_images
from data_pipeline.tracks import DatasetError, Track

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
        files = sorted(sequence.glob("groundtruth_rect*.txt"))
        if not files:
            raise DatasetError(
                f"{sequence / 'groundtruth_rect.txt'}: the sequence's boxes expected, there is no "
                "such file. Unpack the sequence again."
            )
        for path in files:
            yield _read_target(sequence, path, dataset)


def _read_target(sequence: Path, path: Path, dataset: str) -> Track:
    matched = re.fullmatch(r"groundtruth_rect(?:\.(\d+))?\.txt", path.name)
    if matched is None:
        raise DatasetError(
            f"{path}: groundtruth_rect.txt or groundtruth_rect.<number>.txt expected. "
            "Rename or remove the file."
        )
    rows = read_boxes(path)
    images, numbers = _official_frames(sequence)
    if len(rows) > len(images) and len(rows) == len(find_images(sequence / "img")):
        rows = rows[numbers]  # boxes for all frames, also for those left out (David, Tiger1)
    if len(rows) != len(images):
        raise DatasetError(
            f"{path}: a box for each of {len(images)} images expected, got {len(rows)}. "
            "Restore the missing images or rows."
        )
    valid = np.isfinite(rows).all(axis=1) & (np.nan_to_num(rows) > 0).all(axis=1)
    corners = rows - np.array([1.0, 1.0, 0.0, 0.0])
    return Track(
        dataset=dataset,
        video=sequence.name,
        target=matched.group(1) or "0",
        image_files=images,
        boxes=np.where(valid[:, None], xywh_to_xyxy(corners), np.nan),
        visible=np.asarray(valid, dtype=bool),
        frame_numbers=numbers,
    )


def _official_frames(sequence: Path) -> tuple[tuple[Path, ...], ndarray]:
    """The images that the benchmark evaluates and their 0-based positions in the video."""
    images = find_images(sequence / "img")
    if sequence.name not in FRAME_RANGES:
        return images, np.arange(len(images))
    first, last = FRAME_RANGES[sequence.name]
    by_number = {int(image.stem): image for image in images if image.stem.isdecimal()}
    missing = [number for number in range(first, last + 1) if number not in by_number]
    if missing:
        raise DatasetError(
            f"{sequence / 'img'}: images {first} to {last} expected (the official range of "
            f"{sequence.name}), {len(missing)} are missing, the first is {missing[0]}. "
            "Unpack the sequence again."
        )
    chosen = tuple(by_number[number] for number in range(first, last + 1))
    return chosen, np.arange(first - 1, last)


def read_boxes(path: Path) -> Float[ndarray, "frames 4"]:
    """The rows x, y, w, h of a ground-truth file as they stand; commas, tabs or spaces between.

    Raises:
        DatasetError: the file cannot be read, is empty, or a row is not four numbers.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path}: a text file of boxes expected, it cannot be read ({error}). Unpack it again."
        ) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = [float(field) for field in re.split(r"[,\s]+", line.strip())]
        except ValueError:
            row = []
        if len(row) != 4:
            raise DatasetError(
                f"{path}, line {number}: four numbers 'x,y,w,h' (commas, tabs or spaces between) "
                f"expected, got {line.strip()!r}. Mend the row."
            )
        rows.append(row)
    if not rows:
        raise DatasetError(
            f"{path}: one box per frame expected, the file is empty. Unpack it again."
        )
    return np.array(rows, dtype=np.float64)
