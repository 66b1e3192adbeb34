"""What the readers share: lists of images, files of boxes, flags and names, checked counts."""

import os
import re
import string
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float
from numpy import ndarray

from data_pipeline.clear_errors import shortened
from data_pipeline.tracks import DatasetError, ImageFiles, MissingImagesError, Track

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

VideoReader = Callable[[], Iterator[Track]]
"""One video of a dataset, found but not read: its tracks come when it is called."""


def find_images(folder: Path) -> ImageFiles:
    """The image files of a folder in the order of their numbers: ``2.jpg`` before ``10.jpg``.

    Raises:
        DatasetError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise MissingImagesError(
            f"{folder}: a folder of images expected, there is none. "
            "Check the dataset's path, or download what is missing."
        )
    names = os.listdir(folder)  # noqa: PTH208 names, not a path for each
    shapes = _shapes(names)
    image_shapes = set(filter(is_image, shapes))
    if not image_shapes:
        raise DatasetError(
            f"{folder}: images ({', '.join(IMAGE_SUFFIXES)}) expected, none found. "
            "Extract the video's frames into it."
        )
    if len(image_shapes) < len(shapes):
        names = [name for name in names if is_image(name)]
    alike = len(image_shapes) == 1  # then the natural order is the plain one
    names.sort(key=None if alike else lambda name: natural_order(Path(name)))
    return ImageFiles(folder, tuple(names))


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image; hidden files are none."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


_DIGITS_TO_ZERO = str.maketrans("123456789", "000000000")


def _shapes(names: list[str]) -> set[str]:
    """What files' names look like with each digit as 0: the frames of a video mostly all alike.

    >>> _shapes(["0001.jpg", "0002.jpg"])
    {'0000.jpg'}
    """
    return set("/".join(names).translate(_DIGITS_TO_ZERO).split("/"))


def natural_order(path: Path) -> tuple[str | int, ...]:
    """A key that sorts names by the numbers in them.

    >>> natural_order(Path("frame_10.jpg"))
    ('frame_', 10, '.jpg')
    """
    parts = re.split(r"([0-9]+)", path.name)
    return tuple(int(part) if number % 2 else part for number, part in enumerate(parts))


def read_text(path: Path, expected: str) -> str:
    """A text file.

    Raises:
        DatasetError: it cannot be read; the message says what was expected in it.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path}: a text file with {expected} expected, it cannot be read ({error}). "
            "Check the path and the dataset's layout, or download it again."
        ) from error


def read_lines(path: Path, expected: str) -> list[str]:
    """The lines of a text file that are not empty, without space around them."""
    return [line.strip() for line in read_text(path, expected).splitlines() if line.strip()]


def read_names(list_file: Path) -> list[str]:
    """The names of the folders that lie beside a list, one per line.

    Raises:
        DatasetError: the list is missing, empty, or holds what is not a plain name.
    """
    names = read_lines(list_file, "one video name per line")
    if not names:
        raise DatasetError(
            f"{list_file}: at least one video name expected, the file is empty. "
            "List the video folders beside it, one per line."
        )
    for name in names:
        if Path(name).name != name or name in (".", "..") or not is_file_name(name):
            raise DatasetError(
                f"{list_file}: plain folder names expected, got {shortened(name, 80)!r}. "
                "Put the video's folder beside the list."
            )
    return names


def is_file_name(name: str) -> bool:
    """Whether a file system can hold a file of this name."""
    return "\0" not in name and len(name.encode(errors="replace")) <= 255


def read_rows(
    path: Path, expected: str, *, counts: tuple[int, ...] = (4,), delimiter: str = ","
) -> Float[ndarray, "rows columns"]:
    """The rows of a text file of numbers.

    Args:
        path: the file; empty lines in it do not count.
        expected: a row as it should be, e.g. ``x,y,w,h``: stands in the messages.
        counts: how many numbers a row may have; all rows must have as many as the first.
        delimiter: what stands between two numbers: a comma, or `ANY_DELIMITER`.

    Raises:
        DatasetError: the file cannot be read, holds no row, or a row is not such numbers.
    """
    text = read_text(path, f"one {expected} row per frame")
    quickly = _parse_at_once(text, counts, "," if delimiter == "," else ",\t ")
    if quickly is not None:
        return quickly
    rows: list[list[float]] = []
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if not line:
            continue
        try:
            row = [float(field) for field in re.split(delimiter, line)]
        except ValueError:
            row = []
        allowed = (len(rows[0]),) if rows else counts
        if len(row) not in allowed:
            raise DatasetError(
                f"{path}, line {number}: {_in_words(allowed)} numbers '{expected}' with "
                f"{_delimiter_in_words(delimiter)} between expected, got {shortened(line, 80)!r}. "
                "Rewrite the row."
            )
        rows.append(row)
    if not rows:
        raise DatasetError(
            f"{path}: one {expected} row per frame expected, the file is empty. Restore it."
        )
    return np.array(rows, dtype=np.float64)


_IN_NUMBERS = (string.ascii_letters + string.digits + "+-.").encode()


def _parse_at_once(
    text: str, counts: tuple[int, ...], separators: str
) -> Float[ndarray, "rows columns"] | None:
    """Rows of equally many numbers, a single separator, always the same, between; None of others.

    Arrow reads a number as `float` does, or refuses it.
    """
    body = text.strip()
    between = f"{body}\n".encode().translate(None, _IN_NUMBERS)  # b",,,\n,,,\n,,,\n"
    row, num_rows = between[: between.index(b"\n")], between.count(b"\n")
    separator = row[:1].decode(errors="replace")
    if len(row) + 1 not in counts or separator not in separators:
        return None
    if between != (row[:1] * len(row) + b"\n") * num_rows:
        return None
    fields = pc.split_pattern(pa.array([body.replace("\n", separator)]), separator).values
    try:
        return np.array(fields.cast(pa.float64())).reshape(num_rows, -1)
    except pa.ArrowInvalid:
        return None


ANY_DELIMITER = r"\s*,\s*|\s+"
"""Commas, tabs or spaces."""


def _delimiter_in_words(delimiter: str) -> str:
    return "commas" if delimiter == "," else "commas, tabs or spaces"


def _in_words(counts: tuple[int, ...]) -> str:
    words = {4: "four", 8: "eight"}
    return " or ".join(words[count] for count in counts)


def read_flags(path: Path, count: int) -> Bool[ndarray, "frames"]:
    """Flags 0 or 1, one per frame, in one line with commas between or a line each.

    Raises:
        DatasetError: the file is missing, holds something else, or not ``count`` flags.
    """
    fields = [
        field.strip()
        for line in read_lines(path, "one flag (0 or 1) per frame")
        for field in line.rstrip(",").split(",")
    ]
    if wrong := [field for field in fields if field not in ("0", "1")]:
        raise DatasetError(
            f"{path}: flags 0 or 1 with commas between expected, got {shortened(wrong[0], 80)!r}. "
            "Mend the file, or download it again."
        )
    expect_count(path, len(fields), count, "flags")
    return np.array(fields) == "1"


def expect_count(path: Path, got: int, num_images: int, what: str) -> None:
    """Raises `DatasetError` unless a file has one entry per image."""
    if got != num_images:
        raise DatasetError(
            f"{path}: as many {what} as images expected ({num_images}), got {got}. "
            "Restore the missing images or rows; the two must agree."
        )


def hide_later_boxes(
    boxes: Float[ndarray, "boxes 4"], num_frames: int
) -> Float[ndarray, "frames 4"]:
    """The one box that a test set gives away, followed by NaN; other boxes as they are."""
    if len(boxes) != 1:
        return boxes
    return np.concatenate([boxes, np.full((num_frames - 1, 4), np.nan)])


def is_finite(boxes: Float[ndarray, "frames 4"]) -> Bool[ndarray, "frames"]:
    """Which rows hold no NaN."""
    return np.asarray(np.isfinite(boxes).all(axis=1), dtype=bool)
