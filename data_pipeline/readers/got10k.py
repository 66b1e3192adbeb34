"""GOT-10k's folder layout, also the one to bring your own image folders in."""

from collections.abc import Iterator
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from data_pipeline.boxes import xywh_to_xyxy
from data_pipeline.tracks import DatasetError, Track

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def read(folder: Path, split: str = "train", *, dataset: str = "got10k") -> Iterator[Track]:
    """The tracks of one split, in the order of its ``list.txt``. Opens no image.

    A frame counts as visible unless ``absence.label`` is 1 or ``cover.label`` is 0 there; either
    file may be missing. Boxes (x, y, w, h, 0-based) become xyxy.

    Args:
        folder: the dataset's folder.
        split: its sub-folder, ``train`` or ``val``; ``test``, whose ground truth holds the first
            box only, gives NaN boxes after it.
        dataset: what the tracks call their dataset.

    Raises:
        DatasetError: files are missing, do not parse, or do not fit each other.
    """
    list_file = folder / split / "list.txt"
    names = _lines(list_file, "one video name per line")
    if not names:
        raise DatasetError(
            f"{list_file}: at least one video name expected, the file is empty. "
            "List the split's video folders, one per line."
        )
    for name in names:
        if Path(name).name != name or name in (".", ".."):
            raise DatasetError(
                f"{list_file}: plain folder names expected, got {name!r}. "
                "Put the video's folder beside the list."
            )
        yield _read_video(folder / split / name, dataset, only_first_box=split == "test")


def _read_video(folder: Path, dataset: str, *, only_first_box: bool) -> Track:
    images = find_images(folder)
    boxes = read_boxes(folder / "groundtruth.txt")
    if only_first_box and len(boxes) == 1:
        missing = np.full((len(images) - 1, 4), np.nan)
        boxes = np.concatenate([boxes, missing])
    _expect_count(folder / "groundtruth.txt", len(boxes), len(images), "boxes")
    visible = ~_read_labels(folder / "absence.label", len(images), default=0).astype(bool)
    visible &= _read_labels(folder / "cover.label", len(images), default=8) > 0
    return Track(
        dataset=dataset,
        video=folder.name,
        category=_read_category(folder / "meta_info.ini"),
        image_files=images,
        boxes=boxes,
        visible=np.asarray(visible & np.isfinite(boxes).all(axis=1), dtype=bool),
        frame_numbers=np.arange(len(images)),
    )


def find_images(folder: Path) -> tuple[Path, ...]:
    """The image files of a folder, by name.

    Raises:
        DatasetError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise DatasetError(
            f"{folder}: a folder of images expected, there is none. "
            "Check the dataset's path, or download what is missing."
        )
    images = tuple(sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES))
    if not images:
        raise DatasetError(
            f"{folder}: images ({', '.join(IMAGE_SUFFIXES)}) expected, none found. "
            "Extract the video's frames into it."
        )
    return images


def read_boxes(path: Path) -> Float[ndarray, "frames 4"]:
    """Boxes of a file with one ``x,y,w,h`` row per frame, as xyxy; NaN rows stay NaN.

    Raises:
        DatasetError: the file is missing or a row is not four numbers with commas between.
    """
    rows = []
    for number, line in enumerate(_lines(path, "one x,y,w,h row per frame"), start=1):
        try:
            row = [float(field) for field in line.split(",")]
        except ValueError:
            row = []
        if len(row) != 4:
            raise DatasetError(
                f"{path}, line {number}: four numbers 'x,y,w,h' with commas between expected, "
                f"got {line!r}. Rewrite the row."
            )
        rows.append(row)
    return xywh_to_xyxy(np.array(rows, dtype=np.float64).reshape(-1, 4))


def _read_labels(path: Path, count: int, default: int) -> ndarray:
    """One whole number per frame; the default for all where there is no such file."""
    if not path.is_file():
        return np.full(count, default)
    lines = _lines(path, "one whole number per frame")
    try:
        labels = np.array([int(line) for line in lines])
    except ValueError as error:
        raise DatasetError(
            f"{path}: one whole number per line expected ({error}). Mend or delete the file."
        ) from error
    _expect_count(path, len(labels), count, "labels")
    return labels


def _expect_count(path: Path, got: int, num_images: int, what: str) -> None:
    if got != num_images:
        raise DatasetError(
            f"{path}: as many {what} as images expected ({num_images}), got {got}. "
            "Restore the missing images or rows; the two must agree."
        )


def _read_category(path: Path) -> str:
    """``object_class`` of ``meta_info.ini``; empty where the file does not name it."""
    parser = ConfigParser(interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
    except (ConfigParserError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path}: an ini file with a section [METAINFO] expected, got: {error}. "
            "Mend or delete the file."
        ) from error
    return parser.get("METAINFO", "object_class", fallback="").strip()


def _lines(path: Path, expected: str) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path}: a text file with {expected} expected, it cannot be read ({error}). "
            "Check the path and the layout (GOT-10k: <split>/list.txt, <split>/<video>/"
            "groundtruth.txt), or download it again."
        ) from error
    return [line.strip() for line in text.splitlines() if line.strip()]
