"""Storage that fails for a while: bounded retries with back-off, and files that appear whole.

An object store may refuse calls for seconds, and a process may be killed in the middle of a write.
What cannot get better by waiting (a full disk, a missing file, a refused permission) is raised at
once.
"""

import errno
import io
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs

from data_pipeline.storage import atomic_output, open_folder

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LASTING_KINDS = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
_FULL = {errno.ENOSPC, errno.EDQUOT}
_LASTING_CODES = _FULL | {errno.EROFS, errno.ENAMETOOLONG, errno.EINVAL}
_LASTING_WORDS = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT")


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How long a storage that fails is waited for."""

    num_attempts: int = 7
    """Calls in all."""

    first_wait_seconds: float = 1.0
    """Before the second; each later wait is twice the one before (63 s in all)."""

    sleep: Callable[[float], None] = time.sleep
    """What waits."""


PATIENCE = RetryPolicy()
"""With a storage, where a caller says nothing else."""


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def may_pass(error: OSError) -> bool:
    """Whether it makes sense to try again after an error.

    >>> may_pass(OSError("AWS Error SLOW_DOWN")), may_pass(OSError("AWS Error ACCESS_DENIED"))
    (True, False)
    """
    lasting = isinstance(error, _LASTING_KINDS) or error.errno in _LASTING_CODES
    return not lasting and not any(word in str(error) for word in _LASTING_WORDS)


def retried(call: Callable[[], T], what: str, policy: RetryPolicy | None = None) -> T:
    """What a call gives, which is repeated while it fails in a way that may pass.

    Raises:
        OSError: what the last attempt raised, or one that will not pass.
    """
    policy = policy or PATIENCE
    wait = policy.first_wait_seconds
    for attempt in range(1, policy.num_attempts):
        try:
            return call()
        except OSError as error:
            if not may_pass(error):
                raise
            logger.warning(
                "%s failed (%s); attempt %d of %d follows in %g s",
                *(what, error, attempt + 1, policy.num_attempts, wait),
            )
        policy.sleep(wait)
        wait *= 2
    return call()


class StorageError(OSError):
    """A disk or object store does not answer, again and again; says nothing about the files."""


def answered(call: Callable[[], T], where: str, policy: RetryPolicy | None = None) -> T:
    """As `retried`, for files that a user knows by name.

    Raises:
        StorageError: every attempt failed in a way that might have passed.
        OSError: one that will not pass, such as a file that is not there.
    """
    try:
        return retried(call, where, policy)
    except OSError as error:
        if not may_pass(error):
            raise
        attempts = (policy or PATIENCE).num_attempts
        raise StorageError(
            f"{where}: storage that answers expected, {attempts} attempts failed, the last with: "
            f"{error}. Check the network, the address and the access rights, and start again; "
            "what is written already is kept."
        ) from error


def read_file(folder: str, name: str) -> bytes | None:
    """A small file of a folder, a path or URI; None where there is none.

    Raises:
        StorageError: the storage does not answer, again and again.
    """
    filesystem, path = open_folder(folder)

    def attempt() -> bytes:
        with filesystem.open_input_stream(f"{path}/{name}") as stream:
            return bytes(stream.read())

    try:
        return answered(attempt, f"{folder}/{name}")
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_file(folder: str, name: str, content: bytes) -> None:
    """Writes a small file of a folder, a path or URI; it appears whole or not at all.

    Raises:
        StorageError: the storage does not answer, again and again.
        OSError: it is full, or cannot be written to.
    """
    filesystem, path = open_folder(folder)

    def attempt() -> None:
        with atomic_output(filesystem, f"{path}/{name}") as stream:
            stream.write(content)

    answered(attempt, f"{folder}/{name}")


def put_folder(
    folder: Path,
    filesystem: fs.FileSystem,
    target: str,
    policy: RetryPolicy | None = None,
) -> None:
    """Copies a local folder into a storage; where that fails for good, a new one is taken away.

    Where there is a folder of that name already, its files are replaced one by one, so that a
    failure leaves a mix of both.

    Raises:
        OSError: the storage failed longer than the policy waits, or is full.
    """
    found = retried(partial(filesystem.get_file_info, target), f"looking at {target}", policy)
    try:
        retried(partial(filesystem.create_dir, target, recursive=True), f"making {target}", policy)
        copy = partial(fs.copy_files, str(folder), target, destination_filesystem=filesystem)
        retried(copy, f"writing {target}", policy)
    except OSError:
        try:
            if found.type == fs.FileType.NotFound:
                filesystem.delete_dir(target)
        except OSError as error:
            logger.warning("%s is not whole and was not removed: %s", target, error)
        raise


def fetch_folder(
    filesystem: fs.FileSystem,
    source: str,
    folder: Path | str,
    policy: RetryPolicy | None = None,
) -> None:
    """Copies a folder out of a storage.

    Raises:
        OSError: the storage failed longer than the policy waits.
    """
    copy = partial(fs.copy_files, source, str(folder), source_filesystem=filesystem)
    retried(copy, f"reading {source}", policy)


def steady(
    filesystem: fs.FileSystem,
    policy: RetryPolicy | None = None,
) -> fs.FileSystem:
    """A file system whose calls are retried, and whose written files appear whole or not at all.

    What is written to a file is held in memory until the file is closed: for small files, such as
    Ray Train's list of checkpoints, which a kill would otherwise cut short. One that an error
    closes, or that nobody closes, is not written.

    Raises, from each of its calls:
        StorageError: the storage does not answer, again and again.
    """
    return fs.PyFileSystem(_Steady(filesystem, policy))


def open_steady(folder: str) -> tuple[fs.FileSystem, str]:
    """As `open_folder`, with a file system that is `steady`."""
    filesystem, path = open_folder(folder)
    return steady(filesystem), path


class _Steady(fs.FileSystemHandler):  # type: ignore[misc]
    """Forwards every call of a file system to another one."""

    def __init__(self, inner: fs.FileSystem, policy: RetryPolicy | None) -> None:
        self.inner, self.policy = inner, policy

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Steady) and self.inner == other.inner

    def __hash__(self) -> int:
        return hash(self.inner.type_name)

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        call = partial(getattr(self.inner, name), *arguments, **options)
        return answered(call, f"{arguments[0]}", self.policy)

    def get_type_name(self) -> str:
        return f"steady+{self.inner.type_name}"

    def normalize_path(self, path: str) -> Any:
        return self.inner.normalize_path(path)

    def get_file_info(self, paths: list[str]) -> Any:
        return self._call("get_file_info", paths)

    def get_file_info_selector(self, selector: fs.FileSelector) -> Any:
        return self._call("get_file_info", selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        self._call("create_dir", path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self._call("delete_dir", path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self._call("delete_dir_contents", path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        self._call("delete_dir_contents", "", accept_root_dir=True)

    def delete_file(self, path: str) -> None:
        self._call("delete_file", path)

    def move(self, src: str, dest: str) -> None:
        self._call("move", src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self._call("copy_file", src, dest)

    def open_input_stream(self, path: str) -> Any:
        return self._call("open_input_stream", path)

    def open_input_file(self, path: str) -> Any:
        return self._call("open_input_file", path)

    def open_output_stream(self, path: str, metadata: object) -> Any:
        return pa.PythonFile(_WholeFile(partial(self._write, path)), mode="w")

    def open_append_stream(self, path: str, metadata: object) -> Any:
        raise NotImplementedError(f"{path}: a file is written whole, never appended to")

    def _write(self, path: str, content: bytes) -> None:
        def attempt() -> None:
            if isinstance(self.inner, fs.LocalFileSystem):
                with atomic_output(self.inner, path) as stream:
                    stream.write(content)
            else:  # an object store shows a file when it is complete
                with self.inner.open_output_stream(path) as stream:
                    stream.write(content)

        answered(attempt, path, self.policy)


class _WholeFile(io.BytesIO):
    """Collects what is written, and hands it over when it is closed, unless an error closes it."""

    def __init__(self, commit: Callable[[bytes], None]) -> None:
        super().__init__()
        self._commit = commit
        self._handled = sys.exception()  # by the code around, which is no error of the writing

    def close(self) -> None:
        if not self.closed:
            content = self.getvalue()
            super().close()
            if sys.exception() in (None, self._handled):
                self._commit(content)

    def __del__(self) -> None:
        super().close()
