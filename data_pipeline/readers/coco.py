"""COCO's instances: every object is a track of one frame that pairs with itself."""

import json
import reprlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.boxes import xywh_to_xyxy
from data_pipeline.clear_errors import shortened
from data_pipeline.readers.annotations import VideoReader
from data_pipeline.tracks import DatasetError, Track


def read(folder: Path, split: str = "train2017", *, dataset: str = "coco") -> Iterator[Track]:
    """The objects of one split, crowds left out, image by image. Opens no image.

    Args:
        folder: holds ``annotations/instances_<split>.json`` and the images in ``<split>/``.
        split: e.g. ``train2017``.
        dataset: what the tracks call their dataset.

    Raises:
        DatasetError: the annotation file is missing or not COCO's, or names what is not there.
    """
    for image in list_videos(folder, split, dataset=dataset):
        yield from image()


def find_splits(folder: Path) -> tuple[str, ...]:
    """The splits that a folder in this layout holds; those with images, where some have them."""
    files = sorted((folder / "annotations").glob("instances_*.json"))
    splits = tuple(file.stem.removeprefix("instances_") for file in files)
    return tuple(split for split in splits if (folder / split).is_dir()) or splits


def list_videos(folder: Path, split: str, *, dataset: str = "coco") -> Iterator[VideoReader]:
    """The images of a split, the objects of each to be read when called."""
    path = folder / "annotations" / f"instances_{split}.json"
    content = _load(path)
    try:
        categories = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        files = {entry["id"]: str(entry["file_name"]) for entry in content["images"]}
        objects: dict[int, list[dict[str, Any]]] = {image: [] for image in files}
        for entry in content["annotations"]:
            if not entry.get("iscrowd", 0):
                objects[entry["image_id"]].append(entry)
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{path}: COCO's instances expected (lists 'images', 'annotations' and 'categories' "
            f"that fit each other), got {type(error).__name__}: {shortened(error, 80)}. "
            "Download it again."
        ) from error
    present = _present_files(folder / split)
    for image, name in files.items():
        if name in present:
            yield partial(
                _read_objects, objects[image], path, folder / split / name, categories, dataset
            )
        else:
            yield partial(_raise_missing, path, folder / split / name)


def _raise_missing(path: Path, image: Path) -> Iterator[Track]:
    raise DatasetError(
        f"{image}: an image named by {path.name} expected, there is none. "
        "Download it, or remove it from the annotations."
    )


def _read_objects(
    entries: list[dict[str, Any]],
    path: Path,
    image: Path,
    categories: dict[int, str],
    dataset: str,
) -> Iterator[Track]:
    for entry in entries:
        yield _read_object(entry, path, image, categories, dataset)


def _read_object(
    entry: dict[str, Any], path: Path, image: Path, categories: dict[int, str], dataset: str
) -> Track:
    try:
        box = np.array(entry["bbox"], dtype=np.float64)
        category, target = categories[entry["category_id"]], str(entry["id"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(
            f"{path}: an object with id, bbox and a known category_id expected for {image.name}, "
            f"got {_short(entry)} ({type(error).__name__}: {shortened(error, 80)}). Mend the entry."
        ) from error
    if box.shape != (4,):
        raise DatasetError(
            f"{path}: bbox of four numbers [x, y, w, h] expected for object {target}, "
            f"got {_short(entry['bbox'])}. Mend the entry."
        )
    return Track(
        dataset=dataset,
        video=image.stem,
        target=target,
        category=category,
        image_files=(image,),
        boxes=xywh_to_xyxy(box[None]),
        visible=np.array([np.isfinite(box).all()]),
        frame_numbers=np.zeros(1, dtype=np.int64),
        is_still=True,
    )


def _short(value: object) -> str:
    """A value of the file as it may stand in a message."""
    return reprlib.repr(value)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(
            f"{path}: COCO's annotation file expected, it cannot be read ({error.strerror}). "
            "Check the folder and the split's name (e.g. train2017)."
        ) from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path}: JSON expected, it does not parse ({error}). Download it again."
        ) from error
    if not isinstance(content, dict):
        raise DatasetError(
            f"{path}: a JSON object with COCO's instances expected, got a {type(content).__name__}."
            " Download it again."
        )
    return content


def _present_files(folder: Path) -> frozenset[str]:
    """Names of the files in a folder: one listing instead of one question per image."""
    if not folder.is_dir():
        raise DatasetError(
            f"{folder}: a folder of images expected, there is none. "
            "Download the split's images, or check its name (e.g. train2017)."
        )
    return frozenset(entry.name for entry in folder.iterdir())
