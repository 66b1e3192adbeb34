"""What the benchmarks of the data share: videos, shards, verdicts.

Videos cost little: a few are rendered, the others are hard links to their images.

A benchmark may also ask for tracks whose images there are not at all, where only their names and
boxes matter.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline.preprocess import _make_manifest, _write_index, write_shard
from data_pipeline.readers import READERS
from data_pipeline.readers.synthetic import video_seeds, write_video
from data_pipeline.shard_plans import PreprocessConfig, SourceConfig, make_plans
from data_pipeline.shards import write_manifest
from data_pipeline.synthetic_scenes import SyntheticConfig
from data_pipeline.tracks import Track


def write_videos(
    folder: Path, count: int, *, frames: int, width_px: int, height_px: int, rendered: int = 8
) -> None:
    """``count`` videos in GOT-10k's layout, ``train``; each has boxes and a name of its own."""
    config = SyntheticConfig(
        num_train_videos=min(count, rendered),
        frames_per_video=frames,
        width_px=width_px,
        height_px=height_px,
        max_target_px=height_px / 3,
        min_target_px=height_px / 5,
    )
    names = [f"video_{number:06d}" for number in range(count)]
    for number, seed in enumerate(video_seeds(config, "train")):
        write_video(folder / "train" / names[number], config, seed)
    for number in range(config.num_train_videos, count):
        original = folder / "train" / names[number % config.num_train_videos]
        copy = folder / "train" / names[number]
        copy.mkdir()
        for file in original.iterdir():
            os.link(file, copy / file.name)
    (folder / "train" / "list.txt").write_text("\n".join(names) + "\n")


def imagine(num_tracks: int, num_frames: int) -> str:
    """Registers a reader of tracks without images, in this process; its name."""

    def read(folder: Path, split: str) -> Iterator[Track]:
        for number in range(num_tracks):
            video = folder / split / f"video_{number:06d}"
            corner = np.random.default_rng(number).uniform(0, 99, (num_frames, 2))
            yield Track(
                dataset="imagined",
                video=video.name,
                image_files=tuple(video / f"{frame:08d}.jpg" for frame in range(num_frames)),
                boxes=np.hstack([corner, corner + 50]),
                visible=np.ones(num_frames, dtype=bool),
                frame_numbers=np.arange(num_frames),
            )

    READERS["imagined"] = read
    return "imagined"


def plan_of(videos: Path, output: Path, *, min_shards: int = 16) -> PreprocessConfig:
    """A preprocessing of rendered videos."""
    source = SourceConfig(reader="got10k", folder=videos)
    return PreprocessConfig(sources=(source,), output=str(output), min_shards=min_shards)


def make_shards(folder: Path, videos: int, frames: int) -> str:
    """Shards of small videos, written by this process."""
    write_videos(folder / "videos", videos, frames=frames, width_px=160, height_px=120)
    config = plan_of(folder / "videos", folder / "shards")
    write_shards(config)
    return config.output


def write_shards(config: PreprocessConfig) -> None:
    """All shards and their index, without Ray."""
    plans = make_plans(config)
    for plan in plans:
        write_shard(plan, config.output, config.crops)
    _write_index(config.output, plans.shards)
    write_manifest(config.output, _make_manifest(config, plans.shards))


def verdict(name: str, value: float, bar: float, *, at_most: bool = False) -> None:
    """Prints a ratio beside its bar."""
    reached = value <= bar if at_most else value >= bar
    print(f"{name}: {value:.2f} (bar {bar:.2f}) {'reached' if reached else 'MISSED'}", flush=True)
