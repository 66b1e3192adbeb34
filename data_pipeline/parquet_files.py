"""Reading a Parquet file of ours: a damaged file is told from storage that does not answer."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from data_pipeline.manifest import ShardError, expect_version
from data_pipeline.steady_storage import answered
from data_pipeline.storage import open_folder

Result = TypeVar("Result")


def read_parquet(folder: str, name: str, read: Callable[[Any], Result]) -> Result:
    """What ``read`` takes from an open `pyarrow.parquet.ParquetFile` of a folder.

    A file counts as damaged only when all of its bytes came and do not parse; any other fault is
    storage's, and passes or not (`answered`).

    Raises:
        ShardError: there is no such file, it is of another schema version, or damaged.
        StorageError: storage did not give its bytes, again and again.
    """
    filesystem, path = open_folder(folder)
    where = f"{folder}/{name}"
    return answered(lambda: _read_once(filesystem, f"{path}/{name}", where, read), where)


def _read_once(
    filesystem: fs.FileSystem, path: str, where: str, read: Callable[[Any], Result]
) -> Result:
    """One attempt; an `OSError` where storage did not do its part."""
    try:
        with filesystem.open_input_file(path) as stream:
            return _parse(stream, where, read)
    except FileNotFoundError as error:
        # Some file systems also say so where they could not look.
        if filesystem.get_file_info(path).is_file:
            raise OSError(f"{where} is there and was not found") from error
        raise ShardError(
            f"{where}: a Parquet file expected, there is none. Run data_pipeline/preprocess.py "
            "with this output folder (again)."
        ) from error
    except (pa.ArrowException, OSError) as fault:
        if filesystem.get_file_info(path).is_file:
            content = _read_all(filesystem, path)
            with suppress(pa.ArrowException, OSError):
                return _parse(pa.BufferReader(content), where, read)
        raise ShardError(
            f"{where}: a whole Parquet file expected, it cannot be read ({fault}). It is cut "
            "short or damaged: delete it and manifest.json, and run "
            "data_pipeline/preprocess.py again."
        ) from fault


def _parse(stream: Any, where: str, read: Callable[[Any], Result]) -> Result:
    with pq.ParquetFile(stream) as file:
        metadata = file.schema_arrow.metadata or {}
        expect_version(where, metadata.get(b"schema_version", b"none").decode(errors="replace"))
        return read(file)


def _read_all(filesystem: fs.FileSystem, path: str) -> bytes:
    """All bytes of a file; an `OSError` where fewer come than it has."""
    with filesystem.open_input_stream(path) as stream:
        content: bytes = stream.read()
    if len(content) != (size := filesystem.get_file_info(path).size):
        raise OSError(f"{len(content)} of {size} bytes came")
    return content
