"""Files of ours that a disk or a stranger spoilt: each is refused by an error that names it.

The rows are what `fuzz_readers` found; datasets' rows are in `test_reader_faults`.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data_pipeline.json_files import StoredFileError
from data_pipeline.manifest import read_manifest
from data_pipeline.preprocess import PreprocessConfig, SourceConfig, _claim_folder
from data_pipeline.shard_schema import ARROW_SCHEMA, INDEX_SCHEMA, checked
from data_pipeline.shards import (
    ShardError,
    TrackChunk,
    _to_chunk,
    decode,
    index_shard,
    read_chunks,
    read_index,
    read_notes,
)
from data_pipeline.stream import EpisodeStream
from data_pipeline.tracks import DatasetError, read_image
from eval_jobs import pipeline
from meta_train import checkpoint as checkpoints
from meta_train.checkpoint import CheckpointError, load_learner
from meta_train.learner import initial_learner
from meta_train.mlflow_runs import keep_mlflow_run, mlflow_run_of
from meta_train.train_config import TrainConfig
from meta_train.train_state import TrainState
from meta_train.trained_runs import trained_runs
from meta_train.trainer import run_config
from meta_train.undelivered import UndeliveredFolder

DEEP = b"[" * 100_000


def huge_png() -> bytes:
    """An image whose header says that it has 10^10 pixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        check = zlib.crc32(kind + content)
        png += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
    return png


def test_an_image_of_a_size_that_none_has_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "frame.png").write_bytes(huge_png())
    with pytest.raises(DatasetError, match=r"frame\.png: does not decode"):
        read_image(tmp_path / "frame.png")
    with pytest.raises(ShardError, match="a JPEG of 263x263 pixels expected"):
        decode(huge_png())


def rows(**columns: list[Any]) -> pa.Table:
    """A row of a shard, with some columns of another content."""
    jpeg = cv2.imencode(".jpg", np.zeros((263, 263, 3), np.uint8))[1].tobytes()
    box = [1.0, 2.0, 3.0, 4.0]
    table = pa.Table.from_pylist(
        [
            {
                "dataset": "coco",
                "video": "one",
                "target": "0",
                "category": "",
                "is_still": True,
                "chunk": 0,
                "frame_numbers": [0],
                "centred_images": [jpeg],
                "centred_boxes": [box],
                "view_images": [[jpeg]],
                "view_boxes": [[box]],
                "other_boxes": [[]],
                "num_look_alikes": 0,
            }
        ],
        schema=ARROW_SCHEMA,
    )
    for name, values in columns.items():
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.array(values))
    return table


ROWS = {
    "a column is missing": rows().drop_columns("view_boxes"),
    "another type": rows(chunk=["0"]),
    "a null": rows().set_column(1, ARROW_SCHEMA.field("video"), pa.array([None], pa.string())),
    "a null in a list": rows().set_column(
        6, ARROW_SCHEMA.field("frame_numbers"), pa.array([[None]], pa.list_(pa.int32()))
    ),
    "no text": rows().set_column(
        1, ARROW_SCHEMA.field("video"), pa.array([b"\xff"]).view(pa.string())
    ),
    "fewer views": rows().set_column(
        9, ARROW_SCHEMA.field("view_images"), pa.array([[[]]], pa.list_(pa.list_(pa.binary())))
    ),
}


@pytest.mark.parametrize("damage", ROWS)
def test_a_shard_with_other_columns(tmp_path: Path, damage: str) -> None:
    pq.write_table(ROWS[damage].replace_schema_metadata(ARROW_SCHEMA.metadata), tmp_path / "x")
    with pytest.raises(ShardError, match=f"^{tmp_path}/x: "):
        index_shard(str(tmp_path), "x")
        read_chunks(str(tmp_path), "x", 0)


def test_what_arrow_says_at_length_is_shortened_with_a_sign() -> None:
    column = pa.array([b"\xff"]).view(pa.string())
    for _ in range(9):
        column = pa.ListArray.from_arrays([0, 1], column)
    with pytest.raises(ShardError, match=r"List child array.*\.\.\. \(\d+ characters\)"):
        checked(pa.table({"nested": column}), "x", pa.schema([]))


@pytest.mark.parametrize("notes", [b"{", b"[]", b"\xff", DEEP])
def test_a_shard_whose_notes_do_not_parse(tmp_path: Path, notes: bytes) -> None:
    metadata = {**ARROW_SCHEMA.metadata, b"notes": notes}
    pq.write_table(rows().replace_schema_metadata(metadata), tmp_path / "x")
    with pytest.raises(ShardError, match=f"{tmp_path}/x: notes .* do not parse"):
        read_notes(str(tmp_path), "x")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (INDEX_SCHEMA.empty_table(), "there is none"),
        (INDEX_SCHEMA.empty_table().drop_columns("row_group"), "row_group"),
        (INDEX_SCHEMA.empty_table().replace_schema_metadata({"schema_version": b"\xff"}), "schema"),
    ],
)
def test_an_index_of_other_columns_or_of_nothing(
    tmp_path: Path, table: pa.Table, message: str
) -> None:
    pq.write_table(table, tmp_path / "index.parquet")
    with pytest.raises(ShardError, match=rf"index\.parquet: .*{message}"):
        read_index(str(tmp_path))


def test_a_crop_that_does_not_decode_is_named_by_folder_and_row(
    tiny_shards: str, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = EpisodeStream(tiny_shards, tiny_config.sampling, split="train", seed=0)
    monkeypatch.setattr("data_pipeline.stream.read_chunk", lambda *_: read_broken())
    with pytest.raises(ShardError, match=f"^{tiny_shards}: coco/one, chunk 0: a JPEG"):
        stream.episode(0, 0)


def read_broken() -> TrackChunk:
    """A row whose crop is none."""
    row = rows().to_pylist()[0] | {"centred_images": [b"no JPEG"]}
    return _to_chunk(row, "x")


@pytest.mark.parametrize("content", [DEEP, b"[]", b"\xff"])
def test_a_folder_of_shards_whose_plan_or_manifest_is_damaged(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ShardError, match=r"manifest\.json: a manifest expected"):
        read_manifest(str(tmp_path))
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(StoredFileError, match=r"plan\.json: a JSON object expected"):
        _claim_folder(PreprocessConfig(output=str(tmp_path), sources=SOURCES), "a fingerprint")


SOURCES = (SourceConfig(reader="coco", folder=Path("somewhere")),)


@pytest.fixture
def saved(tmp_path: Path, tiny_config: TrainConfig) -> Path:
    """A checkpoint before the first step."""
    learner = initial_learner(
        tiny_config.detector,
        tiny_config.rates,
        adapts=tiny_config.inner_loop.adapts,
        generator=torch.Generator().manual_seed(0),
    )
    return checkpoints.save(TrainState(tiny_config, learner, 0).checkpoint(), tmp_path / "run/best")


def reseal(folder: Path, content: object) -> None:
    """Puts a state file into a checkpoint, with a digest that fits."""
    torch.save(content, folder / "state.pt")
    manifest = json.loads((folder / "checkpoint.json").read_text())
    digest = hashlib.sha256((folder / "state.pt").read_bytes()).hexdigest()
    manifest["sha256"]["state.pt"] = digest
    (folder / "checkpoint.json").write_text(json.dumps(manifest))


class Evil:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return print, ("code of a stranger",)


STATES: dict[str, Callable[[dict[str, Any]], object]] = {
    "code": lambda state: state | {"weights": Evil()},
    "a list": lambda state: [state],
    "no rates": lambda state: {"weights": state["weights"], "optimizer": {}},
    "no weights": lambda state: state | {"weights": None},
    "a weight is missing": lambda state: state | {"weights": {}},
    "a weight too many": lambda state: state | {"weights": state["weights"] | {"x": torch.ones(1)}},
    "a weight is text": lambda state: state | {"weights": dict.fromkeys(state["weights"], "x")},
    "of other shapes": lambda state: (
        state | {"rates": dict.fromkeys(state["rates"], torch.ones(1).expand(10**6, 10**6))}
    ),
    "whole numbers": lambda state: (
        state | {"rates": {name: rate.long() for name, rate in state["rates"].items()}}
    ),
}


@pytest.mark.parametrize("damage", STATES)
def test_a_checkpoint_whose_digests_fit_and_whose_tensors_do_not(
    saved: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reseal(saved, STATES[damage](torch.load(saved / "state.pt", weights_only=True)))
    with pytest.raises(CheckpointError, match=r"best/state\.pt: "):
        load_learner(saved)
    assert "code of a stranger" not in capsys.readouterr().out


@pytest.mark.parametrize("optimizer", [{}, {"state": 7, "param_groups": []}])
def test_a_run_does_not_go_on_with_another_optimizer(
    saved: Path, tiny_config: TrainConfig, optimizer: dict[str, object]
) -> None:
    state = torch.load(saved / "state.pt", weights_only=True)
    reseal(saved, state | {"optimizer": optimizer})
    with pytest.raises(CheckpointError, match=r"best: Adam's state"):
        resume(tiny_config, saved)


def test_a_run_does_not_go_on_with_moments_of_another_shape(
    saved: Path, tiny_config: TrainConfig
) -> None:
    state = torch.load(saved / "state.pt", weights_only=True)
    moments = {"step": torch.ones(()), "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}
    reseal(saved, state | {"optimizer": state["optimizer"] | {"state": {0: moments}}})
    with pytest.raises(CheckpointError, match="another shape"):
        resume(tiny_config, saved)


def resume(config: TrainConfig, folder: Path) -> TrainState:
    stream = EpisodeStream(config.shards, config.sampling, split="train", seed=0)
    return TrainState.start(config, stream, torch.device("cpu"), resume=folder, init_from=None)


@pytest.mark.parametrize(
    "manifest",
    [
        DEEP.decode(),
        '{"format_version": 1, "iteration": 3, "sha256": ["state.pt", "config.json"]}',
        '{"format_version": 1, "iteration": -1, "sha256": {"state.pt": "", "config.json": ""}}',
    ],
)
def test_a_checkpoint_with_a_manifest_of_another_kind(saved: Path, manifest: str) -> None:
    (saved / "checkpoint.json").write_text(manifest)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: "):
        load_learner(saved)


@pytest.mark.parametrize("content", [b"", DEEP, b"[]", b"\xff", b'{"x": 1}'])
def test_the_small_files_of_a_run(saved: Path, content: bytes) -> None:
    storage = str(saved.parent.parent)
    keep_mlflow_run(storage, "run", "an id")
    assert mlflow_run_of(storage, "run") == "an id"
    readers: dict[str, Callable[[], object]] = {
        "mlflow_run.json": lambda: mlflow_run_of(storage, "run"),
        "config.json": lambda: run_config(storage, "run"),
        "evaluation.json": lambda: pipeline._read_evaluation(storage, "run"),
        "result.json": lambda: trained_runs(storage),
    }
    for name, read in readers.items():
        if (name, content) == ("evaluation.json", b'{"x": 1}'):
            continue  # all of its fields have defaults, and one too many is left out
        (saved.parent / name).write_bytes(content)
        with pytest.raises(StoredFileError, match=f"run/{name}: "):
            read()
        (saved.parent / name).unlink()


def test_points_that_mlflow_would_refuse_are_left_out(tmp_path: Path) -> None:
    """One of them would hold up all others, for good."""
    lines = [
        b'{"name": "loss", "value": 0.5, "time_ms": 17, "step": 3}',
        b'{"name": "loss", "value": "x", "time_ms": 17, "step": 4}',
        b'{"name": 7, "value": 0.5, "time_ms": 17, "step": 5}',
        b'{"name": "a,b", "value": 0.5, "time_ms": 17, "step": 6}',
        b'{"name": "loss", "value": 0.5, "time_ms": 17, "step": 1e3}',
        b'{"name": "loss", "value": 0.5, "time_ms": 9223372036854775808, "step": 7}',
        b"\xff",
        DEEP,
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    assert [point.step for point in UndeliveredFolder(tmp_path).read_points()] == [3]
