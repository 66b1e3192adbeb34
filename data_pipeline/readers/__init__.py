"""Readers: one file per dataset, each with ``read(folder, split)`` that yields tracks lazily."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from data_pipeline.readers import coco, got10k, otb, synthetic
from data_pipeline.tracks import Track


class Reader(Protocol):
    """Yields the tracks of one split of a dataset's folder without opening an image."""

    def __call__(self, folder: Path, split: str) -> Iterator[Track]:
        """The tracks in a fixed order; `DatasetError` where the folder is not as it should be."""
        ...


READERS: dict[str, Reader] = {
    "coco": coco.read,
    "got10k": got10k.read,
    "otb": otb.read,
    "synthetic": synthetic.read,
}
"""Every dataset that can be read, by name."""
