"""Files on local disk or in an object store, written whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from pyarrow import fs


def open_folder(folder: str) -> tuple[fs.FileSystem, str]:
    """The file system of a local path or URI, and the path within it."""
    if "://" in folder:
        filesystem, path = fs.FileSystem.from_uri(folder)
        return filesystem, path
    return fs.LocalFileSystem(), str(Path(folder).absolute())


@contextmanager
def atomic_output(filesystem: fs.FileSystem, path: str) -> Iterator[Any]:
    """A stream to a file that appears at ``path`` when the block ends well, and else not at all."""
    parent, _, name = path.rpartition("/")
    filesystem.create_dir(parent, recursive=True)
    partial = f"{parent}/.{name}.{uuid4().hex}"
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
    """Deletes what killed runs left of `atomic_output` in a folder."""
    for entry in filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
        if entry.base_name.startswith(".") and entry.type == fs.FileType.File:
            filesystem.delete_file(entry.path)
