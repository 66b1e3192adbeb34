"""Readers: one file per dataset, each with ``read(folder, split)`` that yields tracks lazily."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from data_pipeline.readers import (
    coco,
    got10k,
    lasot,
    otb,
    own_videos,
    synthetic,
    trackingnet,
    vot,
)
from data_pipeline.readers.annotations import VideoReader
from data_pipeline.tracks import Track


class Reader(Protocol):
    """Yields the tracks of one split of a dataset's folder without opening an image."""

    def __call__(self, folder: Path, split: str) -> Iterator[Track]:
        """The tracks in a fixed order; `DatasetError` where the folder is not as it should be."""
        ...


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the folder of a dataset looks, and how to go through it video by video."""

    shape: str
    """The files that make it known, for messages."""

    find_splits: Callable[[Path], tuple[str, ...]]
    """The splits that a folder holds; none where it is in another layout."""

    list_videos: Callable[[Path, str], Iterator[VideoReader]]
    """The videos of a split, each to be read when called, so that one fault hides no other."""


READERS: dict[str, Reader] = {
    "coco": coco.read,
    "got10k": got10k.read,
    "lasot": lasot.read,
    "otb": otb.read,
    "own_videos": own_videos.read,
    "synthetic": synthetic.read,
    "trackingnet": trackingnet.read,
    "vot": vot.read,
}
"""Every dataset that can be read, by name."""

LAYOUTS: dict[str, Layout] = {
    "coco": Layout(
        shape="annotations/instances_<split>.json, <split>/<image>.jpg",
        find_splits=coco.find_splits,
        list_videos=coco.list_videos,
    ),
    "synthetic": Layout(
        shape="synthetic.json, and as got10k",
        find_splits=synthetic.find_splits,
        list_videos=synthetic.list_videos,
    ),
    "got10k": Layout(
        shape="<split>/list.txt, <split>/<video>/groundtruth.txt, <split>/<video>/00000001.jpg",
        find_splits=got10k.find_splits,
        list_videos=got10k.list_videos,
    ),
    "trackingnet": Layout(
        shape="TRAIN_0/anno/<video>.txt, TRAIN_0/frames/<video>/0.jpg",
        find_splits=trackingnet.find_splits,
        list_videos=trackingnet.list_videos,
    ),
    "lasot": Layout(
        shape="<category>/<category>-<number>/groundtruth.txt and img/00000001.jpg",
        find_splits=lasot.find_splits,
        list_videos=lasot.list_videos,
    ),
    "vot": Layout(
        shape="list.txt, <sequence>/groundtruth.txt, <sequence>/color/00000001.jpg",
        find_splits=vot.find_splits,
        list_videos=vot.list_videos,
    ),
    "otb": Layout(
        shape="<sequence>/groundtruth_rect.txt, <sequence>/img/0001.jpg",
        find_splits=otb.find_splits,
        list_videos=otb.list_videos,
    ),
    "own_videos": Layout(
        shape="<video>.mp4 or <video>/1.jpg, with <video>.txt beside it",
        find_splits=own_videos.find_splits,
        list_videos=own_videos.list_videos,
    ),
}
"""The layouts of `READERS`, the more particular ones first: a folder is of the first that fits."""
