"""Which tracks go into which shard: settled before a single image is opened."""

import dataclasses
import hashlib
import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_pipeline.crop_tracks import CropConfig, thin, usable_frames
from data_pipeline.manifest import SCHEMA_VERSION
from data_pipeline.readers import READERS
from data_pipeline.tracks import DatasetError, Track

TYPICAL_CROP_BYTES = 19_000
"""Size of a crop at quality 90: from it follows the number of shards."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One dataset folder to read."""

    reader: str
    """A name in `readers.READERS`, e.g. ``got10k``."""

    folder: Path
    """The dataset's folder."""

    split: str = "train"
    """Which part of it, as the reader names it."""

    frame_step: int = 1
    """Keep one frame of this many (Sec. 4.2: LaSOT 3, TrackingNet 10)."""

    def __post_init__(self) -> None:
        if self.reader not in READERS:
            raise ValueError(f"reader must be one of {sorted(READERS)}, got {self.reader!r}")
        if self.frame_step < 1:
            raise ValueError(f"frame_step must be at least 1, got {self.frame_step}")


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """Which datasets become which shards."""

    sources: tuple[SourceConfig, ...]
    """The datasets; any number of them in one call."""

    output: str
    """Folder of the shards: a path or a URI (``s3://bucket/path``) that every worker reaches."""

    crops: CropConfig = field(default_factory=CropConfig)
    """What is cut from each frame."""

    max_shard_bytes: int = 128 * 1024**2
    """About the largest size of a shard."""

    min_shards: int = 16
    """At least this many shards, so that small datasets are cut in parallel, too."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources must name at least one dataset, got none")
        for name in ("max_shard_bytes", "min_shards"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """All that a worker needs to write one shard."""

    shard: str
    """File name."""

    fingerprint: str
    """Of the whole plan."""

    tracks: tuple[Track, ...]
    """In the order in which they are written."""


def parse_source(text: str) -> SourceConfig:
    """A source written as ``reader:folder:split`` or ``reader:folder:split:frame_step``.

    >>> parse_source("coco:/data/coco:train2017").split
    'train2017'
    """
    reader, folder, split, step = (*text.split(":"), "1", "", "")[:4]
    if text.count(":") not in (2, 3) or not step.isdecimal():
        raise ValueError(
            "a source 'reader:folder:split' or 'reader:folder:split:frame_step' expected, "
            f"got {text!r}"
        )
    return SourceConfig(reader=reader, folder=Path(folder), split=split, frame_step=int(step))


def read_tracks(config: PreprocessConfig) -> Iterator[Track]:
    """The tracks of all sources, thinned, without those that cannot give a row.

    Raises:
        DatasetError: a source has no track at all.
    """
    for source in config.sources:
        count = 0
        for track in READERS[source.reader](Path(source.folder).absolute(), source.split):
            count += 1
            yield thin(track, source.frame_step)
        if not count:
            raise DatasetError(
                f"{source.folder}: tracks expected, the {source.reader} reader found none in split "
                f"{source.split!r}. Check the folder and the split."
            )


def make_plans(config: PreprocessConfig) -> list[ShardPlan]:
    """Which tracks go to which shard: by a hash of the video's name, stable over runs."""
    tracks = list(read_tracks(config))
    names = Counter(track.name for track in tracks)
    if twice := [name for name, count in names.items() if count > 1]:
        raise DatasetError(
            f"{twice[0]}: each track once expected, got {names[twice[0]]} of that name "
            f"({len(twice)} names are not unique). Give each dataset's split once."
        )
    num_images = sum(len(usable_frames(track)) for track in tracks) * (1 + config.crops.num_views)
    by_size = -(-num_images * TYPICAL_CROP_BYTES // config.max_shard_bytes)
    num_shards = max(config.min_shards, by_size)
    members: dict[int, list[Track]] = defaultdict(list)
    for track in tracks:
        members[zlib.crc32(f"{track.dataset}/{track.video}".encode()) % num_shards].append(track)
    fingerprint = _fingerprint(config, num_shards, tracks)
    return [
        ShardPlan(shard=f"shard-{i:05d}.parquet", fingerprint=fingerprint, tracks=tuple(members[i]))
        for i in sorted(members)
    ]


def _fingerprint(config: PreprocessConfig, num_shards: int, tracks: list[Track]) -> str:
    """Hex digest of all that determines the shards, the images' pixels excepted."""
    settings = {"schema": SCHEMA_VERSION, "shards": num_shards, **dataclasses.asdict(config.crops)}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for track in tracks:
        files = [file.name for file in track.image_files]
        text = [track.name, track.category, track.is_still, files]
        digest.update(json.dumps(text).encode())
        for array in (track.boxes, track.visible, track.frame_numbers):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
