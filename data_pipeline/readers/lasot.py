"""LaSOT: a folder per category, in it one per video with ``img`` and three annotation files."""

import logging
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from data_pipeline.boxes import xywh_to_xyxy
from data_pipeline.readers.annotations import (
    VideoReader,
    expect_count,
    find_images,
    is_finite,
    natural_order,
    read_flags,
    read_rows,
)
from data_pipeline.readers.lasot_videos import TEST_VIDEOS, TRAINING_VIDEOS
from data_pipeline.tracks import DatasetError, Track

logger = logging.getLogger(__name__)

OFFICIAL_VIDEOS = {"train": TRAINING_VIDEOS, "test": TEST_VIDEOS}


def read(folder: Path, split: str = "train", *, dataset: str = "lasot") -> Iterator[Track]:
    """The tracks of the official train or test list that a folder holds. Opens no image.

    A frame counts as visible unless ``full_occlusion.txt`` or ``out_of_view.txt`` has a 1 there.
    Boxes are 1-based as in OTB: a corner x of the file is the pixel edge x - 1.

    Args:
        folder: holds ``<category>/<category>-<number>`` (or, as the archive of the test set does,
            ``<category>-<number>``).
        split: ``train`` (1,120 videos) or ``test`` (280); a warning says how many are missing.
        dataset: what the tracks call their dataset.

    Raises:
        DatasetError: no video of the split is there, a video is unknown to LaSOT, or files are
            missing, do not parse, or do not fit each other.
    """
    for video in list_videos(folder, split, dataset=dataset):
        yield from video()


def find_splits(folder: Path) -> tuple[str, ...]:
    """The splits of which a folder in this layout holds videos; none if it is in another."""
    found = set(_find_videos(folder)) if folder.is_dir() else set()
    return tuple(split for split, names in OFFICIAL_VIDEOS.items() if found.intersection(names))


def list_videos(folder: Path, split: str, *, dataset: str = "lasot") -> Iterator[VideoReader]:
    """The videos of a split by category and number, each to be read when called."""
    if split not in OFFICIAL_VIDEOS:
        raise DatasetError(f"{folder}: split train or test expected, got {split!r}. Name one.")
    if not folder.is_dir():
        raise DatasetError(
            f"{folder}: a folder of LaSOT's categories expected, there is none. Check the path."
        )
    found = _find_videos(folder)
    if unknown := sorted(set(found) - set(TRAINING_VIDEOS) - set(TEST_VIDEOS)):
        raise DatasetError(
            f"{found[unknown[0]]}: one of LaSOT's 1,400 videos expected (airplane-1 to zebra-20), "
            f"{len(unknown)} are none of them. Move them out of the folder; videos of your own "
            "are read by own_videos."
        )
    names = [name for name in OFFICIAL_VIDEOS[split] if name in found]
    if not names:
        raise DatasetError(
            f"{folder}: videos of LaSOT's {split} list expected (<category>/<category>-<number>/"
            "img), none found. Unpack the categories into it."
        )
    if len(names) < (expected := len(OFFICIAL_VIDEOS[split])):
        logger.warning("LaSOT %s in %s: %d of %d videos", split, folder, len(names), expected)
    for name in names:
        yield partial(_read_video, found[name], dataset)


def _find_videos(folder: Path) -> dict[str, Path]:
    """The folders of videos by name, whether they lie in categories or beside each other."""
    found: dict[str, Path] = {}
    for path in sorted([*folder.glob("*-*"), *folder.glob("*/*-*")], key=natural_order):
        if not re.fullmatch(r"[A-Za-z]+-[0-9]+", path.name) or not (path / "img").is_dir():
            continue
        if path.name in found:
            raise DatasetError(
                f"{path}: each video once expected, it also lies in {found[path.name]}. "
                "Remove one of them."
            )
        found[path.name] = path
    return found


def _read_video(folder: Path, dataset: str) -> Iterator[Track]:
    images = find_images(folder / "img")
    rows = read_rows(folder / "groundtruth.txt", "x,y,w,h")
    expect_count(folder / "groundtruth.txt", len(rows), len(images), "boxes")
    absent = read_flags(folder / "full_occlusion.txt", len(images))
    absent |= read_flags(folder / "out_of_view.txt", len(images))
    boxes = xywh_to_xyxy(rows - np.array([1.0, 1.0, 0.0, 0.0]))
    yield Track(
        dataset=dataset,
        video=folder.name,
        category=folder.name.rpartition("-")[0],
        image_files=images,
        boxes=boxes,
        visible=~absent & is_finite(boxes),
        frame_numbers=np.arange(len(images)),
    )
