"""The readers of datasets and shards, each with valid files to spoil: rows of `fuzz_readers`."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from conftest import SMALL_DATASETS, make_own_videos, write_images
from fuzz_inputs import spoilt
from hypothesis import strategies as st

from data_pipeline import preprocess
from data_pipeline.manifest import DatasetCounts, Manifest, read_manifest, write_manifest
from data_pipeline.readers import LAYOUTS, READERS, synthetic
from data_pipeline.sampling import SamplingConfig
from data_pipeline.shards import (
    INDEX_FILE,
    ShardWriter,
    TrackChunk,
    index_shard,
    read_chunks,
    read_notes,
)
from data_pipeline.stream import EpisodeStream
from data_pipeline.synthetic_scenes import SyntheticConfig
from data_pipeline.tracks import VideoDecoder, read_image

Files = Mapping[Path, st.SearchStrategy[bytes]]
"""What may be written over each of some files."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One reader: how its files are made, which are spoilt and how, and what reads them."""

    make: Callable[[Path], Files]
    """Writes valid files into an empty folder."""

    read: Callable[[Path], object]
    """Reads all that the folder holds."""

    seal: Callable[[Path], None] = lambda folder: None
    """Makes checksums fit what was written, so that the readers behind them are reached."""


def all_of(*paths: Path) -> Files:
    return {path: spoilt(path.read_bytes()) for path in paths}


def _dataset(name: str) -> Target:
    """A dataset's annotations, lists and tags, by way of the reader and of what finds splits."""
    write, split = SMALL_DATASETS[name]

    def make(folder: Path) -> Files:
        write(folder)
        texts = [path for path in folder.rglob("*.*") if path.suffix not in (".jpg", ".avi")]
        return all_of(*texts, *folder.glob("*/sequence"))

    def read(folder: Path) -> None:
        LAYOUTS[name].find_splits(folder)
        for _ in READERS[name](folder, split):
            pass

    return Target(make=make, read=read)


def _make_marker(folder: Path) -> Files:
    synthetic._write_marker(folder, SyntheticConfig(), complete=True)
    return all_of(folder / synthetic.MARKER)


def _make_images(folder: Path) -> Files:
    write_images(folder, 1)
    noise = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "noise.png"), noise)
    cv2.imwrite(str(folder / "noise.jpg"), noise)
    return all_of(*folder.iterdir())


def _read_images(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        read_image(path)


def _make_video(folder: Path) -> Files:
    make_own_videos(folder)
    return all_of(folder / "race.avi")


def _read_video(folder: Path) -> None:
    decoder = VideoDecoder(folder / "race.avi")
    decoder.count()
    decoder.read(0)
    decoder.read(2)
    for _ in READERS["own_videos"](folder, ""):
        pass


def _chunk(video: str, num_frames: int = 3) -> TrackChunk:
    jpeg = cv2.imencode(".jpg", np.full((263, 263, 3), 90, np.uint8))[1].tobytes()
    return TrackChunk(
        dataset="synthetic",
        video=video,
        target="0",
        category="cat",
        is_still=False,
        chunk=0,
        frame_numbers=np.arange(num_frames),
        centred_images=(jpeg,) * num_frames,
        centred_boxes=np.tile([100.0, 100.0, 160.0, 160.0], (num_frames, 1)),
        view_images=((jpeg,),) * num_frames,
        view_boxes=np.tile([100.0, 100.0, 160.0, 160.0], (num_frames, 1, 1)),
    )


SHARD = "shard-00000.parquet"


@st.composite
def _odd_table(draw: st.DrawFn, table: pa.Table) -> bytes:
    """A Parquet file of ours with a column missing, null, or of other types or values."""
    name = draw(st.sampled_from(table.column_names))
    place, column = table.column_names.index(name), table[name].to_pylist()
    odd = st.sampled_from([None, -1, 2**31 - 1, 2**62, "x", b"\xff", "../x", 0.5, float("nan"), []])
    changed = draw(
        st.sampled_from(
            [
                [None] * len(column),
                [draw(odd)] * len(column),
                [[draw(odd)]] * len(column),
                [[[draw(odd)]]] * len(column),
                [[*each, *each] if isinstance(each, list) else each for each in column],
                [each[:1] if isinstance(each, list) else each for each in column],
                [[] if isinstance(each, list) else each for each in column],
                column[::-1],
            ]
        )
    )
    if draw(st.booleans()):
        table = table.drop_columns(name)
    else:
        try:
            array = pa.array(changed, type=draw(st.sampled_from([None, table.schema[place].type])))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            array = pa.array(changed)
        table = table.set_column(place, name, array)
    version = draw(st.sampled_from([b"1", b"1", b"1", b"1", b"2", b"\xff"]))
    notes = draw(st.sampled_from([b"{}", b"[]", b"{", b"\xff", b'"x"', b"[" * 100_000]))
    table = table.replace_schema_metadata({b"schema_version": version, b"notes": notes})
    sink = io.BytesIO()
    pq.write_table(table.slice(0, draw(st.integers(0, 4))), sink)
    return sink.getvalue()


def _make_shards(folder: Path) -> tuple[pa.Table, pa.Table]:
    with (folder / SHARD).open("wb") as stream, ShardWriter(stream) as writer:
        for number in range(4):
            writer.write(_chunk(f"video_{number}"))
        writer.finish({"dropped": {}, "broken_images": []})
    index = index_shard(str(folder), SHARD)
    pq.write_table(index, folder / INDEX_FILE)
    return pq.read_table(folder / SHARD), index


def _make_shard(folder: Path) -> Files:
    rows, _ = _make_shards(folder)
    valid = (folder / SHARD).read_bytes()
    return {folder / SHARD: st.one_of(spoilt(valid), spoilt(valid), _odd_table(rows))}


def _make_index(folder: Path) -> Files:
    _, index = _make_shards(folder)
    valid = (folder / INDEX_FILE).read_bytes()
    return {folder / INDEX_FILE: st.one_of(spoilt(valid), _odd_table(index))}


def _read_shard(folder: Path) -> None:
    read_notes(str(folder), SHARD)
    index_shard(str(folder), SHARD)
    read_chunks(str(folder), SHARD, 0)
    _read_index(folder)


def _read_index(folder: Path) -> None:
    config = SamplingConfig(val_fraction=0.0, rows_per_block=2, pairs_per_block=2)
    stream = EpisodeStream(str(folder), config, split="train", seed=0)
    for count in range(2):
        stream.episode(0, count)


def make_manifest(folder: Path) -> Files:
    """A valid manifest of shards."""
    counts = {"coco": DatasetCounts(videos=8, tracks=8, rows=8, frames=8, images=24)}
    manifest = Manifest(
        schema_version=2,
        num_views=2,
        jpeg_quality=90,
        seed=0,
        counts=counts,
        bytes=1000,
        fingerprint="0" * 64,
    )
    write_manifest(str(folder), manifest)
    return all_of(folder / "manifest.json")


def _make_plan(folder: Path) -> Files:
    _read_plan(folder)
    return all_of(*folder.iterdir())


def _read_plan(folder: Path) -> None:
    source = preprocess.SourceConfig(reader="coco", folder=folder)
    config = preprocess.PreprocessConfig(output=str(folder), sources=(source,))
    preprocess._claim_folder(config, "f" * 64)


DATA_TARGETS: dict[str, Target] = {
    **{f"{name} annotations": _dataset(name) for name in SMALL_DATASETS},
    "synthetic marker": Target(
        make=_make_marker, read=lambda folder: synthetic._is_complete(folder, SyntheticConfig())
    ),
    "image files": Target(make=_make_images, read=_read_images),
    "video files": Target(make=_make_video, read=_read_video),
    "shard": Target(make=_make_shard, read=_read_shard),
    "shard index": Target(make=_make_index, read=_read_index),
    "shard manifest": Target(make=make_manifest, read=lambda folder: read_manifest(str(folder))),
    "shard plan": Target(make=_make_plan, read=_read_plan),
}
"""Datasets, images, videos and shards, by name."""
