"""GOT-10k's folder layout: a list and a folder per video in each split."""

from collections.abc import Iterator
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from data_pipeline.boxes import xywh_to_xyxy
from data_pipeline.clear_errors import shortened
from data_pipeline.readers.annotations import (
    VideoReader,
    expect_count,
    find_images,
    hide_later_boxes,
    is_finite,
    read_lines,
    read_names,
    read_rows,
)
from data_pipeline.tracks import DatasetError, Track

SPLITS = ("train", "val", "test")


def read(folder: Path, split: str = "train", *, dataset: str = "got10k") -> Iterator[Track]:
    """The tracks of one split, in the order of its ``list.txt``. Opens no image.

    A frame counts as visible unless ``absence.label`` is 1 or ``cover.label`` is 0 there; either
    file may be missing. ``val``, which is scored, goes by ``cover.label`` alone where it exists, as
    the official code does. Boxes (x, y, w, h, 0-based) become xyxy.

    Args:
        folder: the dataset's folder.
        split: its sub-folder, ``train`` or ``val``; ``test``, whose ground truth holds the first
            box only, gives NaN boxes after it.
        dataset: what the tracks call their dataset.

    Raises:
        DatasetError: files are missing, do not parse, or do not fit each other.
    """
    for video in list_videos(folder, split, dataset=dataset):
        yield from video()


def find_splits(folder: Path) -> tuple[str, ...]:
    """The splits that a folder in this layout holds; none if it is in another."""
    return tuple(split for split in SPLITS if (folder / split / "list.txt").is_file())


def list_videos(folder: Path, split: str, *, dataset: str = "got10k") -> Iterator[VideoReader]:
    """The videos of a split, each to be read when called."""
    for name in read_names(folder / split / "list.txt"):
        yield partial(_read_video, folder / split / name, dataset, split)


def _read_video(folder: Path, dataset: str, split: str) -> Iterator[Track]:
    images = find_images(folder)
    boxes = xywh_to_xyxy(read_rows(folder / "groundtruth.txt", "x,y,w,h"))
    if split == "test":
        boxes = hide_later_boxes(boxes, len(images))
    expect_count(folder / "groundtruth.txt", len(boxes), len(images), "boxes")
    visible = _read_labels(folder / "cover.label", len(images), default=8) > 0
    present = _read_labels(folder / "absence.label", len(images), default=0) == 0
    if split != "val" or not (folder / "cover.label").is_file():
        visible &= present
    yield Track(
        dataset=dataset,
        video=folder.name,
        category=_read_category(folder / "meta_info.ini"),
        image_files=images,
        boxes=boxes,
        visible=visible & is_finite(boxes),
        frame_numbers=np.arange(len(images)),
    )


def _read_labels(path: Path, count: int, default: int) -> Int[ndarray, "frames"]:
    """One whole number per frame; the default for all where there is no such file."""
    if not path.is_file():
        return np.full(count, default)
    lines = read_lines(path, "one whole number per frame")
    try:
        labels = np.array([int(line) for line in lines], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise DatasetError(
            f"{path}: one whole number per line expected ({error}). Mend or delete the file."
        ) from error
    expect_count(path, len(labels), count, "labels")
    return labels


def _read_category(path: Path) -> str:
    """``object_class`` of ``meta_info.ini``; empty where the file does not name it."""
    parser = ConfigParser(interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
    except (ConfigParserError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path}: an ini file with a section [METAINFO] expected, got: "
            f"{shortened(error, 300)}. Mend or delete the file."
        ) from error
    return parser.get("METAINFO", "object_class", fallback="").strip()
