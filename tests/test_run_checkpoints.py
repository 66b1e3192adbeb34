"""Checkpoints in a run's folder: only whole ones are believed."""

import errno
import logging
from pathlib import Path

import pytest
import torch
from pyarrow import fs

from meta_train.checkpoint import Checkpoint, CheckpointError, require_whole, save
from meta_train.run_checkpoints import (
    StoredCheckpoint,
    copy_whole,
    download,
    newest_whole,
    upload,
)
from meta_train.train_config import TrainConfig

LOCAL = fs.LocalFileSystem()


def make_checkpoint(iteration: int) -> Checkpoint:
    weights = {"a": torch.full((3,), float(iteration))}
    return Checkpoint(
        config=TrainConfig(shards="x"),
        weights=weights,
        rates={},
        optimizer={},
        iteration=iteration,
    )


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> fs.FileSystem:
    """A file system in whose root lie the checkpoints."""
    (tmp_path / "run").mkdir()
    if request.param == "local":
        return LOCAL
    return fs.PyFileSystem(fs.FSSpecHandler(pytest.importorskip("fsspec").filesystem("file")))


@pytest.fixture
def stored(store: fs.FileSystem, tmp_path: Path) -> list[StoredCheckpoint]:
    """Of steps 9, 6 and 3, newest first."""
    found = []
    for iteration in (9, 6, 3):
        folder = save(make_checkpoint(iteration), tmp_path / f"step-{iteration}")
        found.append(StoredCheckpoint(store, str(tmp_path / "run" / f"checkpoint_{iteration}")))
        upload(folder, found[-1])
    return found


def step_of(found: tuple[StoredCheckpoint, Path] | None) -> int:
    assert found is not None
    return require_whole(found[1])


def test_the_newest_is_taken(stored: list[StoredCheckpoint], tmp_path: Path) -> None:
    found = newest_whole(stored, tmp_path)
    assert found is not None and found[0] == stored[0] and step_of(found) == 9


@pytest.mark.parametrize("damage", ["cut short", "without its list", "flipped", "gone"])
def test_one_that_is_not_whole_is_passed_over_for_the_one_before(
    stored: list[StoredCheckpoint], tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(stored[0].path)
    state = folder / "state.pt"
    content = state.read_bytes()
    if damage == "cut short":
        state.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        state.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "without its list":
        (folder / "checkpoint.json").unlink()
    else:
        stored[0].filesystem.delete_dir(str(folder))
    with caplog.at_level(logging.WARNING):
        assert step_of(newest_whole(stored, tmp_path)) == 6
    assert "checkpoint_9" in caplog.text
    assert "goes back to the checkpoint before" in caplog.text


def test_where_none_is_whole_the_run_starts_again_and_says_so(
    stored: list[StoredCheckpoint], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for each in stored:
        (Path(each.path) / "config.json").unlink()
    assert newest_whole(stored, tmp_path) is None
    assert "starts from the first step" in caplog.text
    assert newest_whole([], tmp_path) is None


def test_what_is_there_already_is_not_written_again(
    stored: list[StoredCheckpoint], tmp_path: Path
) -> None:
    best = StoredCheckpoint(stored[0].filesystem, str(tmp_path / "run" / "best"))
    times = []
    for source in (stored[1], stored[1], stored[2]):
        copy_whole(source, best)
        times.append((tmp_path / "run" / "best" / "state.pt").stat().st_mtime_ns)
    assert times[0] == times[1] < times[2] and require_whole(Path(best.path)) == 3


def test_a_full_storage_is_named_and_keeps_what_it_holds(
    stored: list[StoredCheckpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    new = StoredCheckpoint(stored[0].filesystem, str(tmp_path / "run" / "checkpoint_12"))
    folder = save(make_checkpoint(12), tmp_path / "step-12")
    monkeypatch.setattr(fs, "copy_files", full)
    with pytest.raises(CheckpointError, match=r"checkpoint_12: no space left.*Earlier checkpoints"):
        upload(folder, new)
    monkeypatch.undo()
    assert not Path(new.path).exists()
    assert [step_of((each, download(each, tmp_path))) for each in stored] == [9, 6, 3]
