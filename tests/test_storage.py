"""Storage: URIs, half-written files and whose they are, faults that pass and faults that last."""

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from data_pipeline import preprocess, steady_storage, storage
from data_pipeline.contact_sheet import CONTACT_SHEET_FILE, write_contact_sheet
from data_pipeline.crop_tracks import CropConfig
from data_pipeline.manifest import MANIFEST_FILE, write_manifest
from data_pipeline.preprocess import PLAN_FILE, PreprocessConfig, SourceConfig, write_shard
from data_pipeline.shard_plans import ShardPlan
from data_pipeline.shards import INDEX_FILE, ShardError, read_chunks, read_index, read_manifest
from data_pipeline.steady_storage import RetryPolicy, StorageError
from data_pipeline.storage import (
    atomic_output,
    open_folder,
    remove_partials,
    run_token,
)


class Faulty(LocalFileSystem):
    """A disk that fails as an object store does: at first, or for ever."""

    protocol = "faulty"
    cachable = False
    faults_left = 0

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if Faulty.faults_left > 0:
            Faulty.faults_left -= 1
            raise OSError(f"AWS Error SLOW_DOWN for {path}")
        return super()._open(path, mode, **options)


fsspec.register_implementation("faulty", Faulty, clobber=True)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nobody waits; the seconds that would have been waited."""
    seconds: list[float] = []
    policy = RetryPolicy(num_attempts=5, first_wait_seconds=0.5, sleep=seconds.append)
    monkeypatch.setattr(steady_storage, "PATIENCE", policy)
    monkeypatch.setattr(Faulty, "faults_left", 0)
    return seconds


def test_a_fault_that_passes_is_no_damage(tiny_shards: str, waits: list[float]) -> None:
    for read in (
        lambda folder: read_index(folder),
        lambda folder: read_manifest(folder),
        lambda folder: [c.video for c in read_chunks(folder, "shard-00000.parquet", 0)],
    ):
        Faulty.faults_left = 4
        assert read(f"faulty://{tiny_shards}") == read(tiny_shards)
        assert Faulty.faults_left == 0
    assert waits[-2:] == [0.5, 1.0], "the file is asked for twice in an attempt, the manifest once"


def test_a_fault_that_lasts_names_storage_and_not_the_shard(
    tiny_shards: str, waits: list[float]
) -> None:
    for read in (read_index, read_manifest):
        waits.clear()
        Faulty.faults_left = 1000
        with pytest.raises(StorageError, match=r"storage that answers expected, 5 .*SLOW_DOWN"):
            read(f"faulty://{tiny_shards}")
        assert waits == [0.5, 1.0, 2.0, 4.0]


def test_damage_is_told_at_once(tmp_path: Path, tiny_shards: str, waits: list[float]) -> None:
    (tmp_path / INDEX_FILE).write_bytes((Path(tiny_shards) / INDEX_FILE).read_bytes()[:-9])
    for folder in (f"faulty://{tmp_path}", str(tmp_path)):
        Faulty.faults_left = 0
        with pytest.raises(ShardError, match="cut short or damaged"):
            read_index(folder)
    with pytest.raises(ShardError, match="there is none"):
        read_index(f"faulty://{tmp_path}/nowhere")
    (tmp_path / "folder" / INDEX_FILE).mkdir(parents=True)
    with pytest.raises(ShardError, match="a whole Parquet file expected"):
        read_index(str(tmp_path / "folder"))
    assert not waits


def test_a_shard_is_written_through_a_passing_fault(
    tmp_path: Path, tiny_shards: str, waits: list[float]
) -> None:
    plan = ShardPlan(shard="shard-00000.parquet", fingerprint="a", tracks=())
    Faulty.faults_left = 2
    assert write_shard(plan, f"faulty://{tmp_path}/out", CropConfig()) == 0
    assert waits == [0.5, 1.0]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [plan.shard]


def test_the_small_files_are_written_and_read_through_passing_faults(
    tmp_path: Path, tiny_shards: str, waits: list[float]
) -> None:
    """All that a run of preprocessing does beside its shards."""
    out = shutil.copytree(tiny_shards, tmp_path / "out")
    for name in (PLAN_FILE, INDEX_FILE, CONTACT_SHEET_FILE, MANIFEST_FILE):
        (out / name).unlink(missing_ok=True)
    shards, folder = sorted(path.name for path in out.glob("shard-*")), f"faulty://{out}"
    config = PreprocessConfig(
        sources=(SourceConfig(reader="coco", folder=tmp_path),), output=folder
    )
    for step in (
        lambda: preprocess._claim_folder(config, "a plan"),
        lambda: preprocess._write_index(folder, shards),
        lambda: write_contact_sheet(folder),
        lambda: write_manifest(folder, read_manifest(tiny_shards)),
    ):
        Faulty.faults_left = 3
        waits.clear()
        step()
        assert Faulty.faults_left == 0 and waits
    assert read_index(folder) == read_index(tiny_shards)
    assert read_manifest(folder) == read_manifest(tiny_shards)


def test_any_uri_of_pyarrow_or_fsspec(tmp_path: Path) -> None:
    for folder in ("memory://bucket/shards/", f"file://{tmp_path}", f"local://{tmp_path}"):
        filesystem, path = open_folder(folder)
        with atomic_output(filesystem, f"{path}/deep/x") as stream:
            stream.write(b"content")
        with filesystem.open_input_stream(f"{path}/deep/x") as stream:
            assert stream.read() == b"content"
    with pytest.raises(ValueError, match=r"ftpx://a: a path or a URI .* expected, got: Protocol"):
        open_folder("ftpx://a")


def leave_half(folder: Path, run: str, name: str = "shard-00000.parquet") -> Path:
    """A file as a killed run leaves it."""
    path = folder / f".{name}.{run}.{'0' * 32}"
    path.write_bytes(b"half")
    return path


def test_partials_of_live_runs_stay_and_those_of_ended_ones_go(tmp_path: Path) -> None:
    machine, process, start = run_token().split("-")
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    ) as other:
        alive = f"{machine}-{other.pid}-{storage._started(other.pid)}"
        mine, theirs = leave_half(tmp_path, run_token()), leave_half(tmp_path, alive)
        reused = leave_half(tmp_path, f"{machine}-{process}-{int(start) - 1}")
        foreign, old = (leave_half(tmp_path, f"{n:012x}-{process}-{start}") for n in range(2))
        hours_ago = (datetime.now(UTC) - timedelta(hours=2)).timestamp()
        for path in (old, mine, theirs):
            os.utime(path, (hours_ago, hours_ago))
        (tmp_path / ".keep").write_text("a file of somebody else's")
        remove_partials(*open_folder(str(tmp_path)))
        assert {path.name for path in tmp_path.iterdir()} == {
            mine.name,
            theirs.name,
            foreign.name,
            ".keep",
        }
        assert not reused.exists(), "a later process may have the number of an earlier one"
        other.communicate()
    remove_partials(*open_folder(str(tmp_path)))
    assert not theirs.exists()


def test_a_process_that_cannot_be_seen_counts_as_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc may hide other users' processes, and signals to them are refused."""

    def refuse(process: int, number: int) -> None:
        raise PermissionError if process == 1234 else ProcessLookupError

    machine = run_token().split("-")[0]
    hidden, *_ = (
        leave_half(tmp_path, f"{machine}-{process}-77") for process in (1234, 1235, 10**30)
    )
    monkeypatch.setattr(os, "kill", refuse)
    monkeypatch.setattr(storage, "_started", lambda process: storage._UNKNOWN)
    remove_partials(*open_folder(str(tmp_path)))
    assert list(tmp_path.iterdir()) == [hidden]


def test_machines_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = storage._machine.__wrapped__
    mine = machine()
    monkeypatch.setattr(Path, "read_text", lambda path: "another boot")
    assert machine() != mine


def test_a_write_in_progress_survives_the_clean_up_of_another_run(tmp_path: Path) -> None:
    filesystem, path = open_folder(str(tmp_path))
    with atomic_output(filesystem, f"{path}/x.parquet") as stream:
        stream.write(b"first half, ")
        script = "import sys; from data_pipeline.storage import *; "
        script += "remove_partials(*open_folder(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", script, path], check=True)
        stream.write(b"second half")
    assert (tmp_path / "x.parquet").read_bytes() == b"first half, second half"
