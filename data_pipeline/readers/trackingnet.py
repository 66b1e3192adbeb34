"""TrackingNet: chunks ``TRAIN_0`` to ``TRAIN_11`` and ``TEST``, with ``anno`` and ``frames``."""

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
    hide_later_boxes,
    is_finite,
    read_rows,
)
from data_pipeline.tracks import DatasetError, Track

TRAINING_CHUNKS = tuple(f"TRAIN_{number}" for number in range(12))


def read(folder: Path, split: str = "train", *, dataset: str = "trackingnet") -> Iterator[Track]:
    """The tracks of one split, chunk by chunk. Opens no image.

    Frames are ordered by number (``0.jpg``, ``1.jpg``, ... ``10.jpg``). The dataset has no flags of
    absence. Boxes (x, y, w, h, 0-based) become xyxy.

    Args:
        folder: holds the chunks.
        split: ``train`` for all twelve chunks, ``test``, or chunks such as ``TRAIN_0,TRAIN_3``.
            The test set's annotation holds the first box only; NaN boxes follow it.
        dataset: what the tracks call their dataset.

    Raises:
        DatasetError: chunks or files are missing, do not parse, or do not fit each other.
    """
    for video in list_videos(folder, split, dataset=dataset):
        yield from video()


def find_splits(folder: Path) -> tuple[str, ...]:
    """The splits that a folder in this layout holds; the chunks where not all are there."""
    chunks = tuple(name for name in TRAINING_CHUNKS if (folder / name).is_dir())
    train = ("train",) if chunks == TRAINING_CHUNKS else chunks
    return train + (("test",) if (folder / "TEST").is_dir() else ())


def list_videos(folder: Path, split: str, *, dataset: str = "trackingnet") -> Iterator[VideoReader]:
    """The videos of a split, each to be read when called."""
    for chunk in _chunks(folder, split):
        for path in _annotation_files(chunk):
            yield partial(_read_video, path, dataset, hidden=chunk.name == "TEST")


def _chunks(folder: Path, split: str) -> list[Path]:
    """The folders of a split's chunks."""
    names = TRAINING_CHUNKS if split.lower() == "train" else tuple(split.upper().split(","))
    if unknown := [name for name in names if not re.fullmatch(r"TRAIN_([0-9]|1[01])|TEST", name)]:
        raise DatasetError(
            f"{folder}: split train, test, or chunks such as TRAIN_0,TRAIN_3 expected, got "
            f"{unknown[0]!r}. Name another split."
        )
    if missing := [name for name in names if not (folder / name).is_dir()]:
        raise DatasetError(
            f"{folder}: the folders of {len(names)} chunks expected, {', '.join(missing)} not "
            "there. Download them, or name as split the chunks that you have, "
            "such as TRAIN_0,TRAIN_3."
        )
    return [folder / name for name in names]


def _annotation_files(chunk: Path) -> list[Path]:
    """The annotation files of a chunk, by name; each has its folder of frames and the reverse."""
    files = sorted((chunk / "anno").glob("*.txt"))
    if not files:
        raise DatasetError(
            f"{chunk / 'anno'}: annotation files <video>.txt expected, there are none. "
            "Download the chunk's annotation."
        )
    if not (chunk / "frames").is_dir():
        raise DatasetError(
            f"{chunk / 'frames'}: the folder of the videos' frames expected, there is none. "
            "Unpack each of zips/<video>.zip into frames/<video>."
        )
    names = {path.stem for path in files}
    frames = {path.name for path in (chunk / "frames").iterdir() if not path.name.startswith(".")}
    if extra := sorted(frames - names):
        raise DatasetError(
            f"{chunk / 'anno' / extra[0]}.txt: an annotation for each folder of frames expected, "
            f"{len(extra)} have none. Download the chunk's annotation again, or remove the frames."
        )
    return files


def _read_video(path: Path, dataset: str, *, hidden: bool) -> Iterator[Track]:
    images = find_images(path.parent.parent / "frames" / path.stem)
    boxes = xywh_to_xyxy(read_rows(path, "x,y,w,h"))
    if hidden:
        boxes = hide_later_boxes(boxes, len(images))
    expect_count(path, len(boxes), len(images), "boxes")
    yield Track(
        dataset=dataset,
        video=path.stem,
        image_files=images,
        boxes=boxes,
        visible=is_finite(boxes),
        frame_numbers=np.arange(len(images)),
    )
