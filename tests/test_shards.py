"""The Parquet contract: what is written comes back, and damage is named."""

import gc
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline import manifest as manifest_module
from data_pipeline.shards import (
    ARROW_SCHEMA,
    ROWS_PER_GROUP,
    DatasetCounts,
    Manifest,
    ShardError,
    ShardWriter,
    TrackChunk,
    decode,
    index_shard,
    read_chunks,
    read_index,
    read_manifest,
    read_notes,
    write_manifest,
)
from data_pipeline.storage import atomic_output, open_folder

MANIFEST = Manifest(
    schema_version=2,
    num_views=2,
    jpeg_quality=90,
    seed=3,
    counts={"got10k": DatasetCounts(videos=1, tracks=1, rows=2, frames=6, images=18)},
    bytes=1234,
    fingerprint="ab" * 32,
)


def make_jpeg(side: int = 263, value: int = 90) -> bytes:
    image = np.zeros((side, side, 3), np.uint8)
    image[..., 2] = value  # red, in OpenCV's order
    return cv2.imencode(".jpg", image)[1].tobytes()


def make_chunk(number: int = 0, num_frames: int = 3, image_bytes: int = 0) -> TrackChunk:
    rng = np.random.default_rng(number)
    jpeg = make_jpeg() + bytes(image_bytes)
    return TrackChunk(
        dataset="got10k",
        video=f"video_{number}",
        target="0",
        category="fox",
        is_still=False,
        chunk=number,
        frame_numbers=np.arange(num_frames, dtype=np.int32) * 3,
        centred_images=(jpeg,) * num_frames,
        centred_boxes=rng.random((num_frames, 4), dtype=np.float32),
        view_images=((jpeg, jpeg[:-1]),) * num_frames,
        view_boxes=rng.random((num_frames, 2, 4), dtype=np.float32),
        other_boxes=tuple(rng.random((i % 3, 4), dtype=np.float32) for i in range(num_frames)),
    )


def write(folder: Path | str, chunks: list[TrackChunk], shard: str = "shard-00000.parquet") -> str:
    filesystem, path = open_folder(str(folder))
    with atomic_output(filesystem, f"{path}/{shard}") as stream, ShardWriter(stream) as writer:
        for chunk in chunks:
            writer.write(chunk)
        writer.finish({"plan": "p"})
    return shard


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_shard_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="half-way"),
        atomic_output(*open_folder(str(tmp_path / "shard.parquet"))) as stream,
        ShardWriter(stream) as writer,
    ):
        writer.write(make_chunk())
        raise RuntimeError("half-way")
    gc.collect()
    assert not list(tmp_path.iterdir())


def assert_equal(first: TrackChunk, second: TrackChunk) -> None:
    for name in TrackChunk.__dataclass_fields__:
        one, other = getattr(first, name), getattr(second, name)
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
        elif name == "other_boxes":
            for mine, its in zip(one, other, strict=True):
                np.testing.assert_array_equal(mine, its)
        else:
            assert one == other, name


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_chunks_come_back(tmp_path: Path, scheme: str) -> None:
    folder = f"{scheme}{tmp_path}/deep/folder"
    chunks = [make_chunk(number, num_frames=number + 1) for number in range(3)]
    shard = write(folder, chunks)
    for one, other in zip(read_chunks(folder, shard, 0), chunks, strict=True):
        assert_equal(one, other)
    assert [path.name for path in (tmp_path / "deep" / "folder").iterdir()] == [shard]


def test_row_groups_are_small(tmp_path: Path) -> None:
    light = [make_chunk(number) for number in range(ROWS_PER_GROUP + 1)]
    heavy = [make_chunk(100 + number, image_bytes=200_000) for number in range(3)]
    shard = write(tmp_path, light + heavy)
    index = index_shard(str(tmp_path), shard).to_pylist()
    places = [(entry["row_group"], entry["row_in_group"]) for entry in index]
    assert places == [(0, i) for i in range(8)] + [(1, 0), (1, 1), (2, 0), (3, 0)]
    for entry, chunk in zip(index, light + heavy, strict=True):
        rows = read_chunks(str(tmp_path), shard, entry["row_group"])
        assert_equal(rows[entry["row_in_group"]], chunk)
        assert entry["num_frames"] == 3 and entry["video"] == chunk.video


def test_images_are_stored_as_they_are(tmp_path: Path) -> None:
    """No compression on top of JPEG: a shard is hardly larger than its images."""
    shard = write(tmp_path, [make_chunk(image_bytes=100_000)])
    images = 9 * (len(make_jpeg()) + 100_000)
    assert images < (tmp_path / shard).stat().st_size < images + 20_000


def test_digest_depends_on_content_only(tmp_path: Path) -> None:
    notes = [
        read_notes(str(tmp_path), write(tmp_path, chunks, f"{name}.parquet"))
        for name, chunks in {
            "a": [make_chunk(0)],
            "b": [make_chunk(0)],
            "c": [make_chunk(0, image_bytes=1)],
            "d": [replace(make_chunk(0), category="dog")],
        }.items()
    ]
    digests = [note["digest"] for note in notes]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert notes[0]["plan"] == "p"


def test_decode_gives_rgb() -> None:
    crop = decode(make_jpeg(value=200))
    np.testing.assert_allclose(crop[5, 5], [200, 0, 0], atol=3)


@pytest.mark.parametrize(
    ("jpeg", "message"),
    [(b"", "0 bytes"), (b"junk", "do not decode"), (make_jpeg(side=20), r"\(20, 20, 3\)")],
)
def test_decode_names_what_came(jpeg: bytes, message: str) -> None:
    with pytest.raises(ShardError, match=message):
        decode(jpeg)


def test_counts_of_a_chunk_must_agree() -> None:
    with pytest.raises(ShardError, match="'centred_images': 2"):
        replace(make_chunk(), centred_images=make_chunk().centred_images[:2])
    with pytest.raises(ShardError, match=r"views \[1, 2\]"):
        replace(make_chunk(), view_images=((b"x",),) * 3)


def test_manifest_comes_back(tmp_path: Path) -> None:
    write_manifest(str(tmp_path), MANIFEST)
    assert read_manifest(str(tmp_path)) == MANIFEST


def test_missing_manifest_says_the_run_has_not_ended(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"manifest\.json.*there is none.*has not ended"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "does not parse"),
        ("[]", "does not parse"),
        ("{}", "does not parse"),
        ('{"schema_version": 99, "counts": {}}', "schema version 1 or 2 expected, got 99"),
        ('{"schema_version": 1, "counts": {}}', "fields of Manifest expected"),
        ('{"schema_version": 1, "counts": []}', "fields of Manifest expected"),
        (
            '{"schema_version": 1, "counts": {}, "%s": 0}' % ("x" * 3000),
            "fields of Manifest expected",
        ),
    ],
)
def test_broken_manifest(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ShardError, match=message) as raised:
        read_manifest(str(tmp_path))
    assert len(str(raised.value)) < 1000


def test_another_schema_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = write(tmp_path, [make_chunk()])
    monkeypatch.setattr(manifest_module, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(manifest_module, "READABLE_VERSIONS", (3,))
    with pytest.raises(ShardError, match=r"schema version 3 expected, got 2.*new folder"):
        read_chunks(str(tmp_path), shard, 0)


def test_shards_of_the_first_version_know_no_others(tmp_path: Path) -> None:
    shard = write(tmp_path, [make_chunk()])
    table = pq.read_table(tmp_path / shard)
    old = table.drop_columns(["other_boxes", "num_look_alikes"])
    pq.write_table(old.replace_schema_metadata({"schema_version": "1"}), tmp_path / shard)
    (chunk,) = read_chunks(str(tmp_path), shard, 0)
    assert chunk.other_boxes == () and chunk.num_look_alikes == 0
    assert len(chunk.look_alikes(0, 0)) == 0

    place = table.column_names.index("num_look_alikes")
    odd = table.set_column(place, "num_look_alikes", pa.array([[[]]]))
    pq.write_table(odd.replace_schema_metadata({"schema_version": "1"}), tmp_path / shard)
    with pytest.raises(ShardError, match=r"got others \(num_look_alikes\)"):
        index_shard(str(tmp_path), shard)


def test_a_foreign_parquet_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(ARROW_SCHEMA.remove_metadata().empty_table(), tmp_path / "x.parquet")
    with pytest.raises(ShardError, match="schema version 1 or 2 expected, got none"):
        read_chunks(str(tmp_path), "x.parquet", 0)


@pytest.mark.parametrize("size", [0, 3, 200, -9])
def test_a_shard_cut_short_is_named(tmp_path: Path, size: int) -> None:
    shard = write(tmp_path, [make_chunk()])
    content = (tmp_path / shard).read_bytes()
    (tmp_path / shard).write_bytes(content[:size])
    with pytest.raises(ShardError, match=r"shard-00000\.parquet.*cut short or damaged.*delete"):
        read_chunks(str(tmp_path), shard, 0)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    shard = write(tmp_path, [make_chunk()])
    with pytest.raises(ShardError, match="row group 7 expected, the shard has 1"):
        read_chunks(str(tmp_path), shard, 7)
    with pytest.raises(ShardError, match=r"gone\.parquet.*there is none"):
        read_chunks(str(tmp_path), "gone.parquet", 0)
    with pytest.raises(ShardError, match=r"index\.parquet.*there is none"):
        read_index(str(tmp_path))


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    filesystem, path = open_folder(str(tmp_path))
    with (
        pytest.raises(RuntimeError, match="stop"),
        atomic_output(filesystem, f"{path}/x.parquet") as stream,
    ):
        stream.write(b"half")
        raise RuntimeError("stop")
    assert not list(tmp_path.iterdir())
