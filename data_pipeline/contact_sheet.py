"""A picture of what is in a folder of shards: crops with their boxes, to be looked at."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from data_pipeline.shards import TrackChunk, decode, read_chunks, read_index
from data_pipeline.steady_storage import write_file

CONTACT_SHEET_FILE = "contact_sheet.jpg"


def write_contact_sheet(folder: str, num_rows: int = 24) -> None:
    """Writes ``contact_sheet.jpg``: rows from all datasets, each centred and in its views."""
    index = read_index(folder)
    datasets = index["dataset"].to_numpy(zero_copy_only=False)
    names = sorted(set(datasets))
    strips = []
    for name in names:
        members = np.flatnonzero(datasets == name)
        count = min(-(-num_rows // len(names)), len(members))
        picks = members[np.linspace(0, len(members) - 1, count).astype(int)]
        for entry in index.take(picks).to_pylist():
            chunks = read_chunks(folder, entry["shard"], entry["row_group"])
            strips.append(_strip(chunks[entry["row_in_group"]]))
    if not strips:
        return
    if len(strips) % 2:
        strips.append(np.zeros_like(strips[0]))
    sheet = np.vstack([np.hstack(strips[i : i + 2]) for i in range(0, len(strips), 2)])
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1]
    write_file(folder, CONTACT_SHEET_FILE, jpeg.tobytes())


def _strip(chunk: TrackChunk) -> UInt8[ndarray, "263 width 3"]:
    """The middle frame of a chunk: its centred crop and its views, side by side."""
    middle = len(chunk.frame_numbers) // 2
    jpegs = (chunk.centred_images[middle], *chunk.view_images[middle])
    boxes = (chunk.centred_boxes[middle], *chunk.view_boxes[middle])
    return np.hstack([_with_box(*pair) for pair in zip(jpegs, boxes, strict=True)])


def _with_box(jpeg: bytes, box: Float[ndarray, "4"]) -> UInt8[ndarray, "263 263 3"]:
    corners = np.rint(box).astype(int)
    left_top, right_bottom = corners[:2].tolist(), corners[2:].tolist()
    return cv2.rectangle(decode(jpeg), left_top, right_bottom, (255, 255, 0), 2)
