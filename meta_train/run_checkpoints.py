"""Checkpoints on their way between a training process and its run's folder.

A run's folder is local, or in an object store that may fail for a while. What is found there is
believed only when its digests agree: a checkpoint that was cut short is passed over for the one
before.
"""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs

from data_pipeline.steady_storage import is_full, put_folder
from meta_train.checkpoint import (
    CheckpointError,
    content_digest,
    fetch,
    full_disk,
    named,
    require_whole,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredCheckpoint:
    """A folder in a storage, of which nothing is known yet."""

    filesystem: pyarrow.fs.FileSystem
    """Of the storage."""

    path: str
    """In it."""


def upload(folder: Path, target: StoredCheckpoint) -> None:
    """Stores a local checkpoint, as `put_folder` does.

    Raises:
        CheckpointError: the storage is full.
        OSError: it failed for longer than is waited for.
    """
    try:
        put_folder(folder, target.filesystem, target.path)
    except OSError as error:
        if is_full(error):
            raise full_disk(target.path) from error
        raise


def download(source: StoredCheckpoint, scratch: Path) -> Path:
    """A checkpoint as a local folder, checked; the folder itself where it is local.

    Raises:
        CheckpointError: it is not whole.
        OSError: the storage failed for longer than is waited for.
    """
    folder = Path(source.path)
    if not isinstance(source.filesystem, pyarrow.fs.LocalFileSystem):
        folder = scratch / folder.name
        folder.mkdir(parents=True, exist_ok=True)
        fetch(source.filesystem, source.path, folder)
    with named(folder, source.path):
        require_whole(folder)
    return folder


def copy_whole(source: StoredCheckpoint, target: StoredCheckpoint) -> None:
    """Copies a checkpoint, checked on the way; one that is there already is left as it is.

    Raises:
        CheckpointError: it is not whole, or the storage is full.
        OSError: the storage failed for longer than is waited for.
    """
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
        folder = download(source, Path(scratch))
        if not _holds(target, content_digest(folder)):
            upload(folder, target)


def _holds(target: StoredCheckpoint, digest: str) -> bool:
    """Whether there is a whole checkpoint of this content."""
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
        try:
            return content_digest(download(target, Path(scratch))) == digest
        except CheckpointError:
            return False


def newest_whole(
    candidates: Sequence[StoredCheckpoint], scratch: Path
) -> tuple[StoredCheckpoint, Path] | None:
    """The first checkpoint that is whole, and its local folder; None where none is.

    Args:
        candidates: newest first.
        scratch: where those that are not local are copied to.

    Raises:
        OSError: the storage failed for longer than is waited for.
    """
    for number, candidate in enumerate(candidates):
        try:
            return candidate, download(candidate, scratch)
        except CheckpointError as error:
            left = len(candidates) - number - 1
            then = "goes back to the checkpoint before" if left else "starts from the first step"
            logger.warning("%s The run %s.", error, then)
    return None
