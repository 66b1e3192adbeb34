"""Runs OpenCV's trackers over OTB's sequences and writes their result files. Needs no PyTorch.

KCF and CSRT are in opencv-contrib-python, which cannot be installed beside this project's OpenCV.
So this script runs in an environment of its own, and the files are scored with all others:

    python3 -m venv peers && peers/bin/pip install opencv-contrib-python jaxtyping pyarrow
    peers/bin/python tests/benchmarks/opencv_peers.py --folder OTB --output peer_boxes
    python eval_jobs/run_benchmarks.py --folder OTB --checkpoints runs/RUN_ID/best \\
        --results KCF=peer_boxes/KCF CSRT=peer_boxes/CSRT MIL=peer_boxes/MIL

A file holds a row ``x,y,w,h`` per frame, pixels counted from 1. Files that exist are kept. Prints
each tracker's speed, the first frame and reading images excluded, on one thread.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy import ndarray

sys.path.insert(0, str(Path(__file__).parents[2]))  # the project is not installed in there

from data_pipeline.boxes import xyxy_to_xywh
from data_pipeline.readers.otb import read
from data_pipeline.tracks import Track, read_image

TRACKERS = ("KCF", "CSRT", "MIL")


def find_tracker(name: str) -> Callable[[], Any]:
    """What makes one of OpenCV's trackers; they stand in ``cv2`` or in ``cv2.legacy``.

    Raises:
        SystemExit: this build of OpenCV has none of that name.
    """
    for module in (cv2, getattr(cv2, "legacy", None)):
        found = getattr(module, f"Tracker{name}", None)
        if found is not None:
            return found.create
    raise SystemExit(
        f"OpenCV {cv2.__version__} here has no tracker {name}: run this with an environment's "
        "Python that has opencv-contrib-python (and no other OpenCV), or leave it out of --trackers"
    )


def follow(create: Callable[[], Any], track: Track) -> tuple[ndarray, float]:
    """One pass over a sequence: boxes xyxy, and seconds over the frames after the first.

    Trackers take and give whole pixels. A box that was not found repeats the one before.
    """
    tracker = create()
    first = track.boxes[0].astype(np.float64)
    image = cv2.cvtColor(read_image(track.image_files[0]), cv2.COLOR_RGB2BGR)
    height, width, _ = image.shape
    near = np.clip(np.rint(first[:2]), 0, [width - 1, height - 1])
    far = np.maximum(np.clip(np.rint(first[2:]), 0, [width, height]), near + 1)
    tracker.init(image, tuple(map(int, (*near, *(far - near)))))
    boxes, seconds = [first], 0.0
    for path in track.image_files[1:]:
        image = cv2.cvtColor(read_image(path), cv2.COLOR_RGB2BGR)
        begin = time.perf_counter()
        found, (x, y, w, h) = tracker.update(image)
        seconds += time.perf_counter() - begin
        is_box = found and w > 0 and h > 0
        boxes.append(np.array([x, y, x + w, y + h], np.float64) if is_box else boxes[-1])
    return np.stack(boxes), seconds


def write_result(path: Path, boxes: ndarray) -> None:
    """A sequence's file, whole or not at all."""
    rows = xyxy_to_xywh(boxes) + np.array([1.0, 1.0, 0.0, 0.0])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    np.savetxt(partial, rows, fmt="%.4f", delimiter=",")
    partial.replace(path)


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and runs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="OTB's sequences")
    parser.add_argument("--output", type=Path, required=True, help="takes a folder per tracker")
    parser.add_argument("--trackers", nargs="+", default=TRACKERS, help="KCF, CSRT, MIL, ...")
    options = parser.parse_args(arguments)
    creators = {name: find_tracker(name) for name in options.trackers}
    cv2.setNumThreads(1)
    tracks = list(read(options.folder))
    for name, create in creators.items():
        frames, seconds = 0, 0.0
        for track in tracks:
            suffix = "" if track.target == "0" else f".{track.target}"
            path = options.output / name / f"{track.video}{suffix}.txt"
            if path.is_file():
                continue
            boxes, spent = follow(create, track)
            write_result(path, boxes)
            frames, seconds = frames + len(track) - 1, seconds + spent
        speed = f", {frames / seconds:.1f} frames a second" if frames else ", nothing left to run"
        print(f"{name}: {len(tracks)} sequences in {options.output / name}{speed}", flush=True)


if __name__ == "__main__":
    main()
