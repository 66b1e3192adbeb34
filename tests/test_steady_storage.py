"""Storage that fails for a while, and storage that is full."""

import errno
import gc
import pickle
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs

from data_pipeline.steady_storage import RetryPolicy, fetch_folder, put_folder, retried, steady


class Flaky(LocalFileSystem):
    """A store whose next calls fail."""

    cachable = False
    failures: ClassVar[list[OSError]] = []

    def fail(self, times: int, code: int = errno.ECONNRESET) -> None:
        """Lets the next calls fail."""
        self.failures[:] = [OSError(code, "the store failed") for _ in range(times)]

    def _fail_if_due(self) -> None:
        if self.failures:
            raise self.failures.pop()

    def open(self, *arguments: Any, **options: Any) -> Any:
        self._fail_if_due()
        return super().open(*arguments, **options)

    def info(self, *arguments: Any, **options: Any) -> Any:
        self._fail_if_due()
        return super().info(*arguments, **options)

    def mkdir(self, *arguments: Any, **options: Any) -> Any:
        self._fail_if_due()
        return super().mkdir(*arguments, **options)


@pytest.fixture
def flaky() -> Flaky:
    return Flaky(auto_mkdir=False)


@pytest.fixture
def store(flaky: Flaky) -> fs.FileSystem:
    return fs.PyFileSystem(fs.FSSpecHandler(flaky))


@pytest.fixture
def waits() -> list[float]:
    """Seconds that were waited."""
    return []


@pytest.fixture
def policy(waits: list[float]) -> RetryPolicy:
    return RetryPolicy(num_attempts=4, first_wait_seconds=0.5, sleep=waits.append)


def test_a_call_is_tried_again_after_growing_waits(
    waits: list[float], policy: RetryPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([OSError("AWS Error SLOW_DOWN"), OSError("AWS Error NETWORK_CONNECTION"), 7])

    def call() -> Any:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert retried(call, "reading x", policy) == 7
    assert waits == [0.5, 1.0]
    assert "reading x failed (AWS Error SLOW_DOWN); attempt 2 of 4 follows in 0.5 s" in caplog.text


def test_retries_are_bounded(waits: list[float], policy: RetryPolicy) -> None:
    def call() -> None:
        raise OSError("down for good")

    with pytest.raises(OSError, match="down for good"):
        retried(call, "reading x", policy)
    assert waits == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("x"),
        PermissionError("x"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("AWS Error ACCESS_DENIED during PutObject"),
    ],
    ids=["missing", "forbidden", "full", "denied"],
)
def test_what_waiting_cannot_mend_is_raised_at_once(
    error: OSError, waits: list[float], policy: RetryPolicy
) -> None:
    def call() -> None:
        raise error

    with pytest.raises(type(error)):
        retried(call, "writing x", policy)
    assert waits == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files to store."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a").write_text("one")
    (folder / "b").write_text("two")
    return folder


def test_folders_go_out_and_come_back_through_a_passing_fault(
    folder: Path,
    tmp_path: Path,
    flaky: Flaky,
    store: fs.FileSystem,
    policy: RetryPolicy,
    waits: list[float],
) -> None:
    flaky.fail(3)
    put_folder(folder, store, str(tmp_path / "stored"), policy)
    assert waits
    waits.clear()
    flaky.fail(2)
    (tmp_path / "back").mkdir()
    fetch_folder(store, str(tmp_path / "stored"), tmp_path / "back", policy)
    assert waits == [0.5, 1.0]
    assert {path.name: path.read_text() for path in (tmp_path / "back").iterdir()} == {
        "a": "one",
        "b": "two",
    }


@pytest.mark.parametrize("code", [errno.ECONNRESET, errno.ENOSPC], ids=["down", "full"])
def test_what_could_not_be_stored_leaves_nothing(
    folder: Path,
    tmp_path: Path,
    store: fs.FileSystem,
    policy: RetryPolicy,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = LocalFileSystem.open

    def open_but_one(self: LocalFileSystem, path: str, *arguments: Any, **options: Any) -> Any:
        if Path(path).name == "b":
            raise OSError(code, "the store failed")
        return real(self, path, *arguments, **options)

    monkeypatch.setattr(LocalFileSystem, "open", open_but_one)
    (tmp_path / "before").mkdir()
    with pytest.raises(OSError, match="the store failed"):
        put_folder(folder, store, str(tmp_path / "stored"), policy)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before", "mine"]


def test_a_steady_file_system_is_the_other_one_with_retries(
    tmp_path: Path, flaky: Flaky, store: fs.FileSystem, policy: RetryPolicy, waits: list[float]
) -> None:
    filesystem, path = steady(store, policy), str(tmp_path / "deep" / "file")
    for content in (b"first", b"second"):
        flaky.fail(2)
        filesystem.create_dir(str(tmp_path / "deep"), recursive=True)
        flaky.fail(2)
        with filesystem.open_output_stream(path) as stream:
            stream.write(content)
        flaky.fail(1)
        with filesystem.open_input_stream(path) as stream:
            assert stream.read() == content
    flaky.fail(1)
    (found,) = filesystem.get_file_info(fs.FileSelector(str(tmp_path / "deep")))
    assert found.base_name == "file" and found.size == 6
    filesystem.move(path, path + "2")
    filesystem.copy_file(path + "2", path)
    filesystem.delete_file(path + "2")
    filesystem.delete_dir(str(tmp_path / "deep"))
    assert list(tmp_path.iterdir()) == []
    assert len(waits) == 11


@pytest.mark.parametrize("remote", [True, False])
def test_a_write_that_an_error_ends_changes_nothing(
    tmp_path: Path, store: fs.FileSystem, remote: bool
) -> None:
    filesystem, path = steady(store if remote else fs.LocalFileSystem()), tmp_path / "list.json"
    path.write_text("old")
    with pytest.raises(KeyError), filesystem.open_output_stream(str(path)) as stream:
        stream.write(b"half of the n")
        raise KeyError
    filesystem.open_output_stream(str(path)).write(b"never closed")
    gc.collect()
    assert path.read_text() == "old"
    try:
        raise KeyError
    except KeyError:  # an error that the write is none of
        with filesystem.open_output_stream(str(path)) as stream:
            stream.write(b"new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_was_there_is_not_deleted(
    folder: Path, tmp_path: Path, store: fs.FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_folder(folder, store, str(tmp_path / "stored"))

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fs, "copy_files", full)
    with pytest.raises(OSError, match="No space left"):
        put_folder(folder, store, str(tmp_path / "stored"))
    assert (tmp_path / "stored" / "a").read_text() == "one"


def test_a_local_file_stays_whole_until_its_successor_is(tmp_path: Path) -> None:
    filesystem = pickle.loads(pickle.dumps(steady(fs.LocalFileSystem())))
    assert filesystem == steady(fs.LocalFileSystem())
    path = tmp_path / "list.json"
    path.write_text("old")
    with filesystem.open_output_stream(str(path)) as stream:
        stream.write(b"half of the n")
        assert path.read_text() == "old", "a kill here must not cut the file short"
        stream.write(b"ew one")
    assert path.read_text() == "half of the new one"
    assert list(tmp_path.iterdir()) == [path]
