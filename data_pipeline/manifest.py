"""What a folder of shards says about itself: schema version, counts and a fingerprint."""

import dataclasses
import json
from dataclasses import dataclass

from data_pipeline.clear_errors import shortened
from data_pipeline.steady_storage import read_file, write_file

SCHEMA_VERSION = 2
"""Rises whenever the columns or their meaning change."""

READABLE_VERSIONS = (1, 2)
"""Versions that can still be read; the first does not know the other objects in a crop."""

MANIFEST_FILE = "manifest.json"


class ShardError(ValueError):
    """A folder of shards is not what the schema promises; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class DatasetCounts:
    """How much of one dataset a folder of shards holds."""

    videos: int
    """Videos, or images of a dataset of stills."""

    tracks: int
    """Targets."""

    rows: int
    """Chunks."""

    frames: int
    """Frames, each once per target."""

    images: int
    """JPEGs: frames times (1 + views)."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a complete folder of shards holds."""

    schema_version: int
    """`SCHEMA_VERSION` of the code that wrote it."""

    num_views: int
    """Moved views per frame, beside the centred one."""

    jpeg_quality: int
    """Of the crops."""

    seed: int
    """From which the views were drawn."""

    counts: dict[str, DatasetCounts]
    """By dataset."""

    bytes: int
    """Size of all shards."""

    fingerprint: str
    """Hex digest of the rows' content: equal for equal rows in equal shards."""


def read_manifest(folder: str) -> Manifest:
    """What a folder of shards holds.

    Raises:
        ShardError: there is no manifest, or one of another schema version.
        StorageError: storage does not give it, again and again.
    """
    text = read_file(folder, MANIFEST_FILE)
    if text is None:
        raise ShardError(
            f"{folder}/{MANIFEST_FILE}: the manifest of complete shards expected, there is none. "
            "Either the path is wrong or the preprocessing has not ended: run "
            "data_pipeline/preprocess.py with this output folder (again); it goes on where it was."
        )
    try:
        content = json.loads(text)
        version = content["schema_version"]
        counts = content["counts"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ShardError(
            f"{folder}/{MANIFEST_FILE}: a manifest expected, it does not parse "
            f"({type(error).__name__}: {shortened(error, 300)}). "
            "Run data_pipeline/preprocess.py again."
        ) from error
    expect_version(f"{folder}/{MANIFEST_FILE}", version)
    try:
        content["counts"] = {name: DatasetCounts(**entry) for name, entry in counts.items()}
        return Manifest(**content)
    except (TypeError, AttributeError) as error:
        raise ShardError(
            f"{folder}/{MANIFEST_FILE}: the fields of Manifest expected ({shortened(error, 300)}). "
            "Run data_pipeline/preprocess.py again into a new folder."
        ) from error


def write_manifest(folder: str, manifest: Manifest) -> None:
    """Ends the writing of a folder of shards."""
    text = json.dumps(dataclasses.asdict(manifest), indent=2) + "\n"
    write_file(folder, MANIFEST_FILE, text.encode())


def expect_version(path: str, version: object) -> None:
    """Raises `ShardError` unless a file was written with a schema that can be read."""
    if str(version) not in map(str, READABLE_VERSIONS):
        raise ShardError(
            f"{path}: schema version {' or '.join(map(str, READABLE_VERSIONS))} expected, got "
            f"{version}. The shards were written by another version of this project: run "
            "data_pipeline/preprocess.py again into a new folder."
        )
