"""VOT's short-term sets of 2013 to 2019: ``list.txt``, a folder per sequence, polygons."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from data_pipeline.boxes import cxcywh_to_xyxy, xywh_to_xyxy
from data_pipeline.clear_errors import shortened
from data_pipeline.readers.annotations import (
    VideoReader,
    expect_count,
    find_images,
    is_file_name,
    is_finite,
    read_lines,
    read_names,
    read_rows,
)
from data_pipeline.tracks import DatasetError, Track

TAG_SUFFIXES = (".tag", ".label")


def read(folder: Path, split: str = "", *, dataset: str = "vot") -> Iterator[Track]:
    """The sequences of ``list.txt``, in its order. Opens no image.

    A row of eight numbers is a polygon, of which `box_around` makes the box; one of four (VOT-2013)
    is a box x, y, w, h, and the track has no polygons.

    Args:
        folder: holds ``list.txt`` and ``<sequence>/groundtruth.txt``; the images lie where the
            sequence's file ``sequence`` says (``channels.color=color/%08d.jpg``), else in
            ``<sequence>/color``, else in ``<sequence>``.
        split: a sub-folder of it; VOT itself has none.
        dataset: what the tracks call their dataset.

    Raises:
        DatasetError: files are missing, do not parse, or do not fit each other.
    """
    for video in list_videos(folder, split, dataset=dataset):
        yield from video()


def find_splits(folder: Path) -> tuple[str, ...]:
    """One split without a name if a folder is in this layout, and none if it is in another."""
    if not (folder / "list.txt").is_file():
        return ()
    sequences = [folder / name for name in read_names(folder / "list.txt")]
    return ("",) if any(_looks_like_vot(sequence) for sequence in sequences) else ()


def _looks_like_vot(sequence: Path) -> bool:
    """Whether a folder is VOT's and not GOT-10k's, which has as much in common with it."""
    if (sequence / "sequence").is_file() or (sequence / "color").is_dir():
        return True
    truth = sequence / "groundtruth.txt"
    return truth.is_file() and any(
        line.count(",") == 7 for line in read_lines(truth, "a polygon per frame")[:1]
    )


def list_videos(folder: Path, split: str, *, dataset: str = "vot") -> Iterator[VideoReader]:
    """The sequences, each to be read when called."""
    for name in read_names(folder / split / "list.txt"):
        yield partial(_read_sequence, folder / split / name, dataset)


def box_around(polygons: Float[ndarray, "frames 4 2"]) -> Float[ndarray, "frames 4"]:
    """The axis-aligned box of the polygon's area about its centre, xyxy.

    VOT's corners name pixels, so a box from pixel 3 to pixel 7 is 5 wide and spans [3, 8].
    Not in the paper: the conversion of the most used toolkit (pysot).

    Args:
        polygons: corners (x, y) in order around the target; NaN gives NaN.
    """
    low, high = polygons.min(axis=1), polygons.max(axis=1)
    sides = np.linalg.norm(np.diff(polygons[:, :3], axis=1), axis=2)
    extent = high - low
    area = extent.prod(axis=1)
    ratio = np.divide(sides.prod(axis=1), area, out=np.zeros_like(area), where=area != 0)
    size = np.sqrt(ratio)[:, None] * extent + 1.0
    return cxcywh_to_xyxy(np.concatenate([polygons.mean(axis=1) + 0.5, size], axis=1))


def _read_sequence(folder: Path, dataset: str) -> Iterator[Track]:
    images = find_images(_image_folder(folder))
    truth = folder / "groundtruth.txt"
    rows = read_rows(truth, "x1,y1,x2,y2,x3,y3,x4,y4", counts=(8, 4))
    expect_count(truth, len(rows), len(images), "regions")
    polygons = rows.reshape(-1, 4, 2) if rows.shape[1] == 8 else None
    boxes = xywh_to_xyxy(rows) if polygons is None else box_around(polygons)
    tags = _read_tags(folder, len(images))
    yield Track(
        dataset=dataset,
        video=folder.name,
        image_files=images,
        boxes=boxes,
        visible=is_finite(boxes),
        frame_numbers=np.arange(len(images)),
        attributes=tuple(name for name, flags in tags.items() if flags.any()),
        polygons=polygons,
        tags=tags,
    )


def _image_folder(sequence: Path) -> Path:
    """Where the images of a sequence lie."""
    description = sequence / "sequence"
    if not description.is_file():
        return sequence / "color" if (sequence / "color").is_dir() else sequence
    lines = read_lines(description, "lines key=value")
    entries = dict(line.partition("=")[::2] for line in lines)
    pattern = PurePosixPath(entries.get("channels.color", "color/%08d.jpg"))
    if pattern.is_absolute() or ".." in pattern.parts or not all(map(is_file_name, pattern.parts)):
        raise DatasetError(
            f"{description}: channels.color within the sequence's folder expected, got "
            f"'{shortened(pattern, 80)}'. Write it as color/%08d.jpg and put the images there."
        )
    return sequence / pattern.parent


def _read_tags(folder: Path, num_frames: int) -> dict[str, Bool[ndarray, "frames"]]:
    """The challenge tags by name; a file that ends early is off from there, as in VOT's toolkit."""
    tags = {}
    for path in sorted(path for path in folder.iterdir() if path.suffix in TAG_SUFFIXES):
        lines = read_lines(path, "one tag (0 or 1) per frame")
        if wrong := [line for line in lines if line not in ("0", "1")]:
            raise DatasetError(
                f"{path}: one tag 0 or 1 per line expected, got {shortened(wrong[0], 80)!r}. "
                "Mend or delete the file."
            )
        if len(lines) > num_frames:
            raise DatasetError(
                f"{path}: at most {num_frames} tags expected, one per image, got {len(lines)}. "
                "Mend or delete the file."
            )
        tags[path.stem] = np.array([*lines, *["0"] * (num_frames - len(lines))]) == "1"
    return tags
