"""The columns of our Parquet files, and whether a table that was read has them."""

import pyarrow as pa

from data_pipeline.clear_errors import shortened
from data_pipeline.manifest import SCHEMA_VERSION, ShardError

_BOX = pa.list_(pa.float32(), 4)

ARROW_SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("video", pa.string()),
        ("target", pa.string()),
        ("category", pa.string()),
        ("is_still", pa.bool_()),
        ("chunk", pa.int32()),
        ("frame_numbers", pa.list_(pa.int32())),
        ("centred_images", pa.list_(pa.binary())),
        ("centred_boxes", pa.list_(_BOX)),
        ("view_images", pa.list_(pa.list_(pa.binary()))),
        ("view_boxes", pa.list_(pa.list_(_BOX))),
        ("other_boxes", pa.list_(pa.list_(_BOX))),
        ("num_look_alikes", pa.int32()),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)
"""Columns of a shard; images are JPEG files, boxes xyxy in the crop's pixels."""

INDEX_SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("row_group", pa.int32()),
        ("row_in_group", pa.int32()),
        ("dataset", pa.string()),
        ("video", pa.string()),
        ("target", pa.string()),
        ("chunk", pa.int32()),
        ("num_frames", pa.int32()),
        ("is_still", pa.bool_()),
        ("category", pa.string()),
        ("num_look_alikes", pa.int32()),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)
"""Columns of the index: where each row of the shards lies, and what it is."""

_NOT_IN_VERSION_1 = frozenset({"other_boxes", "num_look_alikes"})


def checked(table: pa.Table, where: str, schema: pa.Schema) -> pa.Table:
    """A table that was read, if it has the columns of a schema, and no nulls in them.

    One of version 1 need not have those that came later; where it has, they are checked.

    Raises:
        ShardError: it has not, or what it holds is not what its types say (text that is no UTF-8).
    """
    first_version = (table.schema.metadata or {}).get(b"schema_version") == b"1"
    absent = _NOT_IN_VERSION_1 - set(table.column_names) if first_version else set()
    expected = [field for field in schema if field.name not in absent]
    wrong = [field.name for field in expected if field.name not in table.column_names]
    wrong = wrong or [field.name for field in expected if table[field.name].type != field.type]
    wrong = wrong or [field.name for field in expected if table[field.name].null_count]
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        wrong = wrong or [shortened(error, 200)]
    if wrong:
        raise ShardError(
            f"{where}: the columns that data_pipeline/preprocess.py writes expected, without gaps, "
            f"got others ({wrong[0]}). The file is damaged or of another kind: delete it and "
            "manifest.json, and run data_pipeline/preprocess.py again."
        )
    return table
