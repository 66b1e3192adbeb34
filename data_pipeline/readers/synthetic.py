"""Synthetic videos on disk, in GOT-10k's layout: written once, read like any other dataset."""

import dataclasses
import hashlib
import json
import logging
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import cv2
import numpy as np

from data_pipeline.boxes import xyxy_to_xywh
from data_pipeline.clear_errors import shortened
from data_pipeline.readers import got10k
from data_pipeline.readers.annotations import VideoReader
from data_pipeline.synthetic_scenes import SyntheticConfig, render_video
from data_pipeline.tracks import DatasetError, Track

__all__ = [
    "SyntheticConfig",
    "find_splits",
    "list_videos",
    "read",
    "render_dataset",
    "render_video",
    "video_seeds",
    "write_video",
]

logger = logging.getLogger(__name__)

RENDERER_VERSION = 2
"""Rises whenever the same config would give other videos."""

MARKER = "synthetic.json"


def read(folder: Path, split: str = "train", *, dataset: str = "synthetic") -> Iterator[Track]:
    """The tracks of ``train`` or ``val``, as `got10k.read` gives them."""
    return got10k.read(folder, split, dataset=dataset)


def find_splits(folder: Path) -> tuple[str, ...]:
    """The splits of a folder that `render_dataset` wrote; none of any other."""
    return got10k.find_splits(folder) if (folder / MARKER).is_file() else ()


def list_videos(folder: Path, split: str, *, dataset: str = "synthetic") -> Iterator[VideoReader]:
    """The videos of a split, each to be read when called."""
    return got10k.list_videos(folder, split, dataset=dataset)


def video_seeds(config: SyntheticConfig, split: str) -> list[int]:
    """One seed per video of ``train`` or ``val``; the splits share none."""
    count = {"train": config.num_train_videos, "val": config.num_val_videos}[split]
    root = np.random.SeedSequence([config.seed, zlib.crc32(split.encode())])
    return [int(seed) for seed in root.generate_state(count, dtype=np.uint64)]


def fingerprint(config: SyntheticConfig) -> str:
    """Hex digest of everything that determines the videos."""
    content = {"renderer": RENDERER_VERSION, **dataclasses.asdict(config)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_video(folder: Path, config: SyntheticConfig, video_seed: int) -> None:
    """Renders one video into a folder in GOT-10k's layout, which appears complete or not at all."""
    frames, boxes, visible = render_video(config, video_seed)
    partial = folder.with_name(f".{folder.name}.{uuid4().hex}")
    partial.mkdir(parents=True)
    for number, frame in enumerate(frames, start=1):
        image = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        options = [cv2.IMWRITE_JPEG_QUALITY, config.jpeg_quality]
        cv2.imencode(".jpg", image, options)[1].tofile(partial / f"{number:08d}.jpg")
    rows = [",".join(f"{value:.4f}" for value in box) for box in xyxy_to_xywh(boxes)]
    (partial / "groundtruth.txt").write_text("\n".join(rows) + "\n")
    (partial / "absence.label").write_text("0\n" * len(rows))
    (partial / "cover.label").write_text("".join("8\n" if seen else "0\n" for seen in visible))
    (partial / "meta_info.ini").write_text("[METAINFO]\nobject_class: synthetic\n")
    partial.rename(folder)


def render_dataset(folder: Path, config: SyntheticConfig) -> None:
    """Writes ``train/`` and ``val/`` with Ray Data; the caller has initialised Ray.

    Does nothing where the folder is complete, and goes on where it is not.

    Raises:
        DatasetError: the folder holds the videos of another config.
    """
    import ray

    folder = folder.absolute()
    if _is_complete(folder, config):
        logger.info("synthetic videos in %s are complete", folder)
        return
    seeds = {split: video_seeds(config, split) for split in ("train", "val")}
    items = [
        {"folder": str(folder / split / f"{split}_{index:06d}"), "seed": str(seed)}
        for split in seeds
        for index, seed in enumerate(seeds[split])
    ]
    _write_marker(folder, config, complete=False)
    for leftover in folder.glob("*/.*"):
        shutil.rmtree(leftover)
    items = [item for item in items if not Path(item["folder"]).exists()]
    if items:
        logger.info("rendering %d synthetic videos into %s", len(items), folder)
        blocks = min(len(items), 64)
        dataset = ray.data.from_items(items, override_num_blocks=blocks)
        dataset.map(_write_item, fn_kwargs={"config": config}).materialize()
    for split, split_seeds in seeds.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        names = [f"{split}_{index:06d}\n" for index in range(len(split_seeds))]
        (folder / split / "list.txt").write_text("".join(names))
    _write_marker(folder, config, complete=True)


def _write_item(item: dict[str, str], config: SyntheticConfig) -> dict[str, str]:
    """One video, in a worker; the seed travels as text because it may exceed a signed integer."""
    cv2.setNumThreads(1)
    write_video(Path(item["folder"]), config, int(item["seed"]))
    return item


def _is_complete(folder: Path, config: SyntheticConfig) -> bool:
    """Whether all videos of this config are there."""
    marker = folder / MARKER
    if not marker.exists():
        if folder.exists() and any(folder.iterdir()):
            raise DatasetError(
                f"{folder}: an empty folder or one with {MARKER} expected, it holds other files. "
                "Choose another folder for the synthetic videos."
            )
        return False
    try:
        found = json.loads(marker.read_text())
        same = found["fingerprint"] == fingerprint(config)
        complete = bool(found["complete"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(
            f"{marker}: the record of a rendering expected, it does not parse ({error}). "
            "Delete the folder and render again."
        ) from error
    if not same:
        raise DatasetError(
            f"{folder}: videos of this config expected, it holds those of "
            f"{shortened(found.get('config'), 500)}. "
            "Choose another folder, or delete this one."
        )
    return complete


def _write_marker(folder: Path, config: SyntheticConfig, *, complete: bool) -> None:
    content = {
        "fingerprint": fingerprint(config),
        "complete": complete,
        "config": dataclasses.asdict(config),
    }
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{MARKER}.{uuid4().hex}"
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(folder / MARKER)
