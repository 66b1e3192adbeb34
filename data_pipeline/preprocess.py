"""Script: dataset folders -> shards of crops, with Ray Data; a killed run goes on where it was."""

import dataclasses
import hashlib
import json
import logging
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.crop_tracks import (
    CropConfig,
    DropReport,
    FrameSource,
    crop_track,
    thin,
    usable_frames,
)
from data_pipeline.readers import READERS
from data_pipeline.shards import (
    INDEX_FILE,
    SCHEMA_VERSION,
    DatasetCounts,
    Manifest,
    ShardError,
    ShardWriter,
    decode,
    index_shard,
    read_chunks,
    read_index,
    read_manifest,
    read_notes,
    write_manifest,
)
from data_pipeline.storage import atomic_output, exists, open_folder, remove_partials
from data_pipeline.tracks import DatasetError, Track

logger = logging.getLogger(__name__)

PLAN_FILE = "plan.json"
TYPICAL_CROP_BYTES = 19_000


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


@dataclass(frozen=True, kw_only=True)
class PreprocessReport:
    """What came out of a run."""

    manifest: Manifest
    """What the folder holds."""

    dropped: dict[str, int]
    """How many frames were left out, by reason."""

    broken_images: tuple[str, ...]
    """Messages of the images that could not be read, where these are skipped."""

    images_written: int
    """Crops cut by this run; fewer than the folder's where it went on from another."""

    seconds: float
    """Duration of this run."""


def preprocess(config: PreprocessConfig) -> PreprocessReport:
    """Writes the shards, the index and, last, the manifest. The caller has initialised Ray.

    Shards that an earlier run of the same plan has written are kept. The output is the same
    whatever the number of workers.

    Raises:
        DatasetError: a dataset folder is not as its reader expects it.
        ShardError: the output folder holds the shards of another plan.
    """
    start = time.perf_counter()
    plans = make_plans(config)
    filesystem, path = open_folder(config.output)
    _claim_folder(config, plans[0].fingerprint)
    shards = [plan.shard for plan in plans]
    images_written = 0
    if not exists(filesystem, f"{path}/manifest.json"):
        remove_partials(filesystem, path)
        images_written = _write_shards(config, plans)
        _write_index(config.output, shards)
        write_manifest(config.output, _make_manifest(config, shards))
        _write_contact_sheet(config.output)
    notes = [read_notes(config.output, shard) for shard in shards]
    return PreprocessReport(
        manifest=read_manifest(config.output),
        dropped=dict(sum((Counter(note["dropped"]) for note in notes), Counter())),
        broken_images=tuple(message for note in notes for message in note["broken_images"]),
        images_written=images_written,
        seconds=time.perf_counter() - start,
    )


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


def _claim_folder(config: PreprocessConfig, fingerprint: str) -> None:
    """Notes in the output folder whose shards it holds; another plan's folder is an error."""
    filesystem, path = open_folder(config.output)
    if not exists(filesystem, f"{path}/{PLAN_FILE}"):
        with atomic_output(filesystem, f"{path}/{PLAN_FILE}") as stream:
            stream.write(json.dumps({"fingerprint": fingerprint}).encode())
        return
    with filesystem.open_input_stream(f"{path}/{PLAN_FILE}") as stream:
        found = stream.read()
    if json.loads(found).get("fingerprint") != fingerprint:
        raise ShardError(
            f"{config.output}: an empty folder or shards of the same plan expected, it holds those "
            "of other sources or settings. Choose another output folder, or delete this one."
        )


def _write_shards(config: PreprocessConfig, plans: list[ShardPlan]) -> int:
    """All shards that are not there yet, one Ray task each; the number of crops written."""
    import ray

    # A plan travels as an object of Ray's store: Arrow has no column for it.
    settings = {
        "plans": [ray.put(plan) for plan in plans],
        "output": config.output,
        "config": config.crops,
    }
    dataset = ray.data.range(len(plans), override_num_blocks=len(plans))
    dataset = dataset.map(_write_planned_shard, fn_kwargs=settings)
    images = 0
    for count, row in enumerate(dataset.iter_rows(), start=1):
        images += int(row["images"])
        logger.info("%d of %d shards, last %s", count, len(plans), row["shard"])
    return images


def _write_planned_shard(
    row: dict[str, Any], plans: list[Any], output: str, config: CropConfig
) -> dict[str, Any]:
    """The task of a worker: its plan's shard."""
    import ray

    cv2.setNumThreads(1)
    plan = ray.get(plans[row["id"]])
    return {"shard": plan.shard, "images": write_shard(plan, output, config)}


def write_shard(plan: ShardPlan, output: str, config: CropConfig) -> int:
    """Writes the shard of one plan, unless a complete one is there; the number of new crops."""
    filesystem, path = open_folder(output)
    if _is_written(output, plan):
        return 0
    drops, source, images = DropReport(), FrameSource(), 0
    with atomic_output(filesystem, f"{path}/{plan.shard}") as stream:
        writer = ShardWriter(stream)
        for track in plan.tracks:
            for chunk in crop_track(track, config, source, drops):
                writer.write(chunk)
                images += len(chunk.frame_numbers) * (1 + config.num_views)
        writer.close(
            {
                "plan": plan.fingerprint,
                "dropped": {reason: count for reason, count in drops.reasons.items() if count},
                "broken_images": drops.broken_images,
            }
        )
    return images


def _is_written(output: str, plan: ShardPlan) -> bool:
    filesystem, path = open_folder(output)
    if not exists(filesystem, f"{path}/{plan.shard}"):
        return False
    try:
        return bool(read_notes(output, plan.shard)["plan"] == plan.fingerprint)
    except ShardError as error:
        logger.warning("writing a shard again: %s", error)
        return False


def _write_index(output: str, shards: list[str]) -> None:
    filesystem, path = open_folder(output)
    index = pa.concat_tables([index_shard(output, shard) for shard in shards])
    with atomic_output(filesystem, f"{path}/{INDEX_FILE}") as stream:
        pq.write_table(index, stream)


def _make_manifest(config: PreprocessConfig, shards: list[str]) -> Manifest:
    filesystem, path = open_folder(config.output)
    digests = [read_notes(config.output, shard)["digest"] for shard in shards]
    content = json.dumps([SCHEMA_VERSION, digests])
    return Manifest(
        schema_version=SCHEMA_VERSION,
        num_views=config.crops.num_views,
        jpeg_quality=config.crops.jpeg_quality,
        seed=config.crops.seed,
        counts=_count(read_index(config.output), config.crops.num_views),
        bytes=sum(filesystem.get_file_info(f"{path}/{shard}").size for shard in shards),
        fingerprint=hashlib.sha256(content.encode()).hexdigest(),
    )


def _count(index: pa.Table, num_views: int) -> dict[str, DatasetCounts]:
    counts = {}
    for dataset in sorted(index["dataset"].unique().to_pylist()):
        rows = index.filter(pa.compute.equal(index["dataset"], dataset))
        frames = int(pa.compute.sum(rows["num_frames"]).as_py())
        counts[dataset] = DatasetCounts(
            videos=len(rows["video"].unique()),
            tracks=rows.group_by(["video", "target"]).aggregate([]).num_rows,
            rows=rows.num_rows,
            frames=frames,
            images=frames * (1 + num_views),
        )
    return counts


def _write_contact_sheet(output: str, num_rows: int = 12) -> None:
    """``contact_sheet.jpg``: per line, a centred crop and its views from two rows, with boxes."""
    filesystem, path = open_folder(output)
    index = read_index(output)
    picks = np.linspace(0, index.num_rows - 1, min(2 * num_rows, index.num_rows)).astype(int)
    strips = []
    for entry in index.take(picks).to_pylist():
        chunk = read_chunks(output, entry["shard"], entry["row_group"])[entry["row_in_group"]]
        jpegs = (chunk.centred_images[0], *chunk.view_images[0])
        boxes = (chunk.centred_boxes[0], *chunk.view_boxes[0])
        strips.append(np.hstack([_with_box(*pair) for pair in zip(jpegs, boxes, strict=True)]))
    if len(strips) % 2:
        strips.append(np.zeros_like(strips[0]))
    sheet = np.vstack([np.hstack(strips[i : i + 2]) for i in range(0, len(strips), 2)])
    encoded = cv2.imencode(".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1]
    with atomic_output(filesystem, f"{path}/contact_sheet.jpg") as stream:
        stream.write(encoded.tobytes())


def _with_box(jpeg: bytes, box: np.ndarray) -> np.ndarray:
    corners = np.rint(box).astype(int)
    left_top, right_bottom = corners[:2].tolist(), corners[2:].tolist()
    return cv2.rectangle(decode(jpeg), left_top, right_bottom, (255, 255, 0), 2)
