"""Which tracks go into which shard: settled before a single image is opened."""

import dataclasses
import hashlib
import json
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from data_pipeline.crop_tracks import CropConfig, thin, usable_frames
from data_pipeline.manifest import SCHEMA_VERSION
from data_pipeline.readers import READERS
from data_pipeline.track_spool import TrackSpool
from data_pipeline.tracks import DatasetError, Track
from data_pipeline.uris import expect_no_secret

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

    cpus_per_task: float = 1.0
    """Share of a core that Ray counts for a task, which needs about 300 MB of memory. Where reading
    waits for the disk or the network, several tasks a core may be faster."""

    def __post_init__(self) -> None:
        expect_no_secret(self.output, "output")
        if not self.sources:
            raise ValueError("sources must name at least one dataset, got none")
        if not self.cpus_per_task > 0:
            raise ValueError(f"cpus_per_task must be positive, got {self.cpus_per_task}")
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
    """The tracks of all sources, thinned.

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


class ShardPlans:
    """The plans of all shards, in order. The tracks lie on disk until their plan is asked for."""

    def __init__(
        self, spool: TrackSpool, shards: Int[ndarray, "tracks"], *, fingerprint: str
    ) -> None:
        """Takes the tracks, and for each the number of its shard; see `make_plans`."""
        self._spool = spool
        self._members = np.argsort(shards, kind="stable")
        numbers, self._starts = np.unique(shards[self._members], return_index=True)
        self.fingerprint = fingerprint
        self.shards = [f"shard-{number:05d}.parquet" for number in numbers]

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, position: int) -> ShardPlan:
        """The plan of one shard, its tracks read from disk."""
        shard = self.shards[position]
        first, end = (*self._starts, len(self._members))[position : position + 2]
        tracks = tuple(self._spool.read(int(track)) for track in self._members[first:end])
        return ShardPlan(shard=shard, fingerprint=self.fingerprint, tracks=tracks)

    def __iter__(self) -> Iterator[ShardPlan]:
        return (self[position] for position in range(len(self)))

    def close(self) -> None:
        """Frees the disk."""
        self._spool.close()


def make_plans(config: PreprocessConfig) -> ShardPlans:
    """Which tracks go to which shard: by a hash of the video's name, stable over runs.

    Goes through the annotations once. In memory stay a few numbers per track, whatever its length.

    Raises:
        DatasetError: a source is not as its reader expects it, has no track, or is named twice.
    """
    spool, names, videos, num_frames = TrackSpool(), array("Q"), array("q"), 0
    for track in read_tracks(config):
        spool.add(track)
        names.append(_short_digest(track.name))
        videos.append(zlib.crc32(f"{track.dataset}/{track.video}".encode()))
        num_frames += len(usable_frames(track))
    _require_unique(spool, np.asarray(names))
    num_images = num_frames * (1 + config.crops.num_views)
    by_size = -(-num_images * TYPICAL_CROP_BYTES // config.max_shard_bytes)
    num_shards = max(config.min_shards, by_size)
    fingerprint = _fingerprint(config, num_shards, iter(spool))
    return ShardPlans(spool, np.asarray(videos) % num_shards, fingerprint=fingerprint)


def _short_digest(name: str) -> int:
    """Eight bytes in place of a name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def _require_unique(spool: TrackSpool, digests: ndarray) -> None:
    """Raises if two tracks have one name; those with one digest are compared by name."""
    _, inverse, counts = np.unique(digests, return_inverse=True, return_counts=True)
    suspects = np.flatnonzero(counts[inverse] > 1)
    found = Counter(spool.read(int(track)).name for track in suspects)
    if twice := [name for name, count in found.items() if count > 1]:
        raise DatasetError(
            f"{twice[0]}: each track once expected, got {found[twice[0]]} of that name "
            f"({len(twice)} names are not unique). Give each dataset's split once."
        )


def _fingerprint(config: PreprocessConfig, num_shards: int, tracks: Iterator[Track]) -> str:
    """Hex digest of all that determines the shards, the images' pixels excepted."""
    crops = dataclasses.asdict(config.crops)
    crops["on_broken_image"] = "raise"  # the shards' notes tell what was left out
    settings = {"schema": SCHEMA_VERSION, "shards": num_shards, **crops}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for track in tracks:
        text = [track.name, track.category, track.is_still, track.frame_names]
        digest.update(json.dumps(text).encode())
        for values in (track.boxes, track.visible, track.frame_numbers):
            digest.update(np.ascontiguousarray(values).tobytes())
        if len(usable_frames(track)) > config.crops.frames_per_chunk:
            digest.update(b"its chunks take frames in turn")  # until 2026-11 they did not
    return digest.hexdigest()
