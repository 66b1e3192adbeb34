"""Files on local disk or in an object store, written whole or not at all."""

import hashlib
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pyarrow as pa
from pyarrow import fs

STALE_AFTER = timedelta(hours=1)
"""A half-written file that another machine has not touched for so long is nobody's."""


def open_folder(folder: str) -> tuple[fs.FileSystem, str]:
    """The file system of a local path or URI, and the path within it.

    Args:
        folder: a path, or a URI that pyarrow (``s3://``, ``gs://``) or else fsspec knows.

    Raises:
        ValueError: neither knows it.
    """
    if "://" not in folder:
        return fs.LocalFileSystem(), str(Path(folder).absolute())
    try:
        filesystem, path = fs.FileSystem.from_uri(folder)
    except pa.ArrowInvalid as unknown:
        try:
            found, path = fsspec.core.url_to_fs(folder)
        except (ValueError, ImportError) as error:
            raise ValueError(
                f"{folder}: a path or a URI that pyarrow or fsspec can open expected, "
                f"got: {error} (pyarrow: {unknown}). Mend the URI, or install what it names."
            ) from error
        filesystem = fs.PyFileSystem(fs.FSSpecHandler(found))
    return filesystem, path.rstrip("/")


@contextmanager
def atomic_output(filesystem: fs.FileSystem, path: str, *, run: str | None = None) -> Iterator[Any]:
    """A stream to a file that appears at ``path`` when the block ends well, and else not at all.

    Args:
        filesystem: where the file is to be.
        path: the file.
        run: the `run_token` of the run that the file belongs to; this process's where not given.
    """
    parent, _, name = path.rpartition("/")
    filesystem.create_dir(parent, recursive=True)
    partial = f"{parent}/.{name}.{run or run_token()}.{uuid4().hex}"
    try:
        with filesystem.open_output_stream(partial) as stream:
            yield stream
    except BaseException:
        if filesystem.get_file_info(partial).type != fs.FileType.NotFound:
            filesystem.delete_file(partial)
        raise
    filesystem.move(partial, path)


def exists(filesystem: fs.FileSystem, path: str) -> bool:
    """Whether there is a file at a path."""
    return bool(filesystem.get_file_info(path).type == fs.FileType.File)


def remove_partials(filesystem: fs.FileSystem, folder: str) -> None:
    """Deletes what ended runs left of `atomic_output` in a folder, and nothing of a live run.

    A run of this machine has ended when its process is gone. A file of another machine, or of this
    one before it last started, counts as left when it has not changed for an hour.
    """
    for entry in filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
        named = _PARTIAL.fullmatch(entry.base_name)
        if named and entry.type == fs.FileType.File and _is_left(entry, **named.groupdict()):
            filesystem.delete_file(entry.path)


_UNKNOWN = "0"
"""The start of a process that cannot be seen."""

_PARTIAL = re.compile(
    r"\..+\.(?P<machine>[0-9a-f]{12})-(?P<process>[0-9]+)-(?P<start>[0-9]+)\.[0-9a-f]{32}"
)


def _is_left(entry: fs.FileInfo, machine: str, process: str, start: str) -> bool:
    if machine == _machine():
        return _has_ended(int(process), start)
    return entry.mtime is not None and datetime.now(UTC) - entry.mtime > STALE_AFTER


@cache
def _token(process: int) -> str:
    return f"{_machine()}-{process}-{_started(process)}"


def run_token() -> str:
    """The name of this process among those of all machines; half-written files carry it.

    >>> run_token() == run_token()
    True
    """
    return _token(os.getpid())


@cache
def _machine() -> str:
    """Of the machine since it started, and of the container if it numbers its own processes."""
    numbering, boot = Path("/proc/self/ns/pid"), Path("/proc/sys/kernel/random/boot_id")
    parts = [
        socket.gethostname(),
        str(numbering.readlink()) if numbering.is_symlink() else "",
        boot.read_text() if boot.exists() else "",  # many machines may share a name
    ]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]


def _has_ended(process: int, start: str) -> bool:
    """Whether a process of this machine is gone; not where that cannot be told."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # there is one, of another user
        pass
    return _started(process) not in (start, _UNKNOWN)


def _started(process: int) -> str:
    """When a process started, in Linux's clock ticks; 0 where that cannot be seen.

    So it is elsewhere than on Linux, and for other users' processes where /proc hides them.
    A process that has ended, and that nobody has asked about, started never.
    """
    try:
        state, *rest = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _UNKNOWN
    return "never" if state in "ZX" else rest[18]
