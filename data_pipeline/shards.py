"""The Parquet schema: the contract between the CPU half and the GPU half of the project.

A folder of shards holds ``shard-00000.parquet`` ..., ``index.parquet`` with one entry per row of
all shards, and ``manifest.json``, which is written last: a folder with a manifest is complete.
A row is a chunk of one track, so that pairs of frames can be drawn inside a row. Folders are local
paths or URIs that pyarrow knows (``s3://bucket/path``).
"""

import hashlib
import json
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8
from numpy import ndarray

from data_pipeline.clear_errors import shortened
from data_pipeline.crops import CROP_SIZE_PX
from data_pipeline.manifest import (
    SCHEMA_VERSION,
    DatasetCounts,
    Manifest,
    ShardError,
    read_manifest,
    write_manifest,
)
from data_pipeline.parquet_files import read_parquet
from data_pipeline.shard_schema import ARROW_SCHEMA, INDEX_SCHEMA, checked
from data_pipeline.track_chunk import TrackChunk

__all__ = [
    "ARROW_SCHEMA",
    "INDEX_FILE",
    "INDEX_SCHEMA",
    "SCHEMA_VERSION",
    "DatasetCounts",
    "Manifest",
    "ShardError",
    "ShardWriter",
    "TrackChunk",
    "decode",
    "index_shard",
    "read_chunk",
    "read_chunks",
    "read_index",
    "read_manifest",
    "read_notes",
    "write_manifest",
]

INDEX_FILE = "index.parquet"

ROWS_PER_GROUP = 8
BYTES_PER_GROUP = 2 * 1024**2


def decode(jpeg: bytes) -> UInt8[ndarray, "263 263 3"]:
    """A crop's pixels, RGB.

    Raises:
        ShardError: the bytes are not a JPEG of a crop.
    """
    buffer = np.frombuffer(jpeg, dtype=np.uint8)
    try:
        image = cv2.imdecode(buffer, cv2.IMREAD_COLOR) if buffer.size else None
    except cv2.error:  # a size that no picture has, from a damaged header
        image = None
    if image is None or image.shape != (CROP_SIZE_PX, CROP_SIZE_PX, 3):
        got = "bytes that do not decode" if image is None else f"an image of shape {image.shape}"
        raise ShardError(
            f"a JPEG of {CROP_SIZE_PX}x{CROP_SIZE_PX} pixels expected, got {got} "
            f"({buffer.size} bytes). The shard is damaged: delete it and run "
            "data_pipeline/preprocess.py again."
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class ShardWriter:
    """Writes one shard; a context, to be used inside `atomic_output`.

    Rows are gathered into row groups of at most 8 rows and about 2 MB: what a reader loads at once.
    """

    def __init__(self, stream: Any) -> None:
        self._writer = pq.ParquetWriter(
            stream, ARROW_SCHEMA, compression="NONE", use_dictionary=False, write_statistics=False
        )
        self._rows: list[dict[str, Any]] = []
        self._num_bytes = 0
        self._digest = hashlib.sha256()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        # Also after an error: Arrow's writer would else close a stream that is closed already.
        self._writer.close()

    def write(self, chunk: TrackChunk) -> None:
        """Adds a row."""
        row = _to_row(chunk)
        images = [*chunk.centred_images, *(jpeg for view in chunk.view_images for jpeg in view)]
        num_bytes = sum(map(len, images))
        if self._rows and self._num_bytes + num_bytes > BYTES_PER_GROUP:
            self._flush()
        self._rows.append(row)
        self._num_bytes += num_bytes
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()
        text = {key: value for key, value in row.items() if not key.endswith("images")}
        self._digest.update(json.dumps(text, sort_keys=True).encode())
        for jpeg in images:
            self._digest.update(jpeg)

    def finish(self, notes: dict[str, Any]) -> None:
        """Adds the last rows; ``notes`` and a digest of the rows go into its footer as JSON."""
        self._flush()
        footer = {"digest": self._digest.hexdigest(), **notes}
        self._writer.add_key_value_metadata({"notes": json.dumps(footer)})

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=ARROW_SCHEMA))
        self._rows, self._num_bytes = [], 0


def _to_row(chunk: TrackChunk) -> dict[str, Any]:
    return {
        "dataset": chunk.dataset,
        "video": chunk.video,
        "target": chunk.target,
        "category": chunk.category,
        "is_still": chunk.is_still,
        "chunk": chunk.chunk,
        "frame_numbers": chunk.frame_numbers.tolist(),
        "centred_images": list(chunk.centred_images),
        "centred_boxes": chunk.centred_boxes.astype(np.float32).tolist(),
        "view_images": [list(images) for images in chunk.view_images],
        "view_boxes": chunk.view_boxes.astype(np.float32).tolist(),
        "other_boxes": [boxes.astype(np.float32).tolist() for boxes in chunk.other_boxes],
        "num_look_alikes": chunk.num_look_alikes,
    }


def _to_chunk(row: dict[str, Any], where: str) -> TrackChunk:
    num_frames = len(row["frame_numbers"])
    try:
        views = np.array(row["view_boxes"], dtype=np.float32)
        return TrackChunk(
            dataset=row["dataset"],
            video=row["video"],
            target=row["target"],
            category=row["category"],
            is_still=row["is_still"],
            chunk=row["chunk"],
            frame_numbers=np.array(row["frame_numbers"], dtype=np.int32),
            centred_images=tuple(row["centred_images"]),
            centred_boxes=np.array(row["centred_boxes"], dtype=np.float32).reshape(-1, 4),
            view_images=tuple(tuple(images) for images in row["view_images"]),
            view_boxes=views.reshape(num_frames, -1, 4),
            other_boxes=tuple(
                np.array(boxes, dtype=np.float32).reshape(-1, 4)
                for boxes in row.get("other_boxes", ())
            ),
        )
    except (TypeError, ValueError) as error:  # nulls within lists, lists of different lengths
        raise ShardError(f"{where}: {shortened(error, 500)}") from error


def read_chunks(folder: str, shard: str, row_group: int) -> list[TrackChunk]:
    """The rows of one row group.

    Raises:
        ShardError: the shard is missing, cut short, or of another schema.
    """
    rows = _read_group(folder, shard, row_group).to_pylist()
    return [_to_chunk(row, f"{folder}/{shard}") for row in rows]


def read_chunk(folder: str, shard: str, row_group: int, row: int) -> TrackChunk:
    """One row of a row group; takes no time for the others.

    Raises:
        ShardError: as `read_chunks`, or there is no such row.
    """
    group = _read_group(folder, shard, row_group)
    if not 0 <= row < group.num_rows:
        raise ShardError(
            f"{folder}/{shard}: row group {row_group} holds {group.num_rows} rows, the index "
            f"expects row {row}. Run data_pipeline/preprocess.py again."
        )
    return _to_chunk(group.slice(row, 1).to_pylist()[0], f"{folder}/{shard}")


def _read_group(folder: str, shard: str, row_group: int) -> pa.Table:
    def read(file: Any) -> pa.Table:
        if not 0 <= row_group < file.num_row_groups:
            raise ShardError(
                f"{folder}/{shard}: row group {row_group} expected, the shard has "
                f"{file.num_row_groups}. The index does not fit it: run "
                "data_pipeline/preprocess.py again."
            )
        return file.read_row_group(row_group)

    return checked(read_parquet(folder, shard, read), f"{folder}/{shard}", ARROW_SCHEMA)


def read_notes(folder: str, shard: str) -> dict[str, Any]:
    """What the footer of a shard says about it: a digest of its rows, and counts."""
    notes = read_parquet(folder, shard, lambda file: file.metadata.metadata.get(b"notes"))
    if notes is None:
        raise ShardError(
            f"{folder}/{shard}: notes in the footer expected, there are none. It is no work of "
            "data_pipeline/preprocess.py: remove it and run that again."
        )
    try:
        content = json.loads(notes)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ShardError(
            f"{folder}/{shard}: notes in the footer expected, they do not parse. The shard is "
            "damaged: delete it and manifest.json, and run data_pipeline/preprocess.py again."
        )
    return content


def index_shard(folder: str, shard: str) -> pa.Table:
    """The index entries of one shard, read from its small columns."""
    shared = [name for name in INDEX_SCHEMA.names if name in ARROW_SCHEMA.names]
    columns = [*shared, "frame_numbers"]
    small = pa.schema([ARROW_SCHEMA.field(name) for name in columns])

    def read(file: Any) -> list[pa.Table]:
        groups = range(file.num_row_groups)
        return [file.read_row_group(group, columns=columns) for group in groups]

    entries = []
    for group, table in enumerate(read_parquet(folder, shard, read)):
        table = checked(table, f"{folder}/{shard}", small)
        for position, row in enumerate(table.to_pylist()):
            row["num_frames"] = len(row.pop("frame_numbers"))
            entries.append({"shard": shard, "row_group": group, "row_in_group": position, **row})
    return pa.Table.from_pylist(entries, schema=INDEX_SCHEMA)


def read_index(folder: str) -> pa.Table:
    """One entry per row of all shards (`INDEX_SCHEMA`), in the shards' order."""
    found = read_parquet(folder, INDEX_FILE, lambda file: file.read())
    table = checked(found, f"{folder}/{INDEX_FILE}", INDEX_SCHEMA)
    if not table.num_rows:
        raise ShardError(
            f"{folder}/{INDEX_FILE}: an entry per row of the shards expected, there is none. Run "
            "data_pipeline/preprocess.py again, with sources that hold usable tracks."
        )
    return table
