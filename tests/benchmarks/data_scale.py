"""Many tracks through preprocessing and one epoch of sampling; the cost of the paper's full set."""

import argparse
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from many_videos import write_videos
from rich.progress import track

from data_pipeline.crop_tracks import CropConfig
from data_pipeline.episodes import PairOrigin
from data_pipeline.preprocess import preprocess
from data_pipeline.ray_session import ray_session
from data_pipeline.sampling import SamplingConfig, shares
from data_pipeline.shard_plans import PreprocessConfig, SourceConfig
from data_pipeline.stream import EpisodeStream, batches
from data_pipeline.synthetic_scenes import SyntheticConfig, render_video
from data_pipeline.tracks import read_image

FRAMES, WIDTH_PX, HEIGHT_PX, LANES = 3, 160, 120, 32


class FullSet(NamedTuple):
    """One of the paper's datasets, as its authors describe it, after frames are thinned out."""

    tracks: int
    frames: int
    """Frames kept, each once per target: what is cut."""
    images: int
    """Files that are opened."""
    megapixels: float
    """Of an image; an assumption, since the sizes vary."""


PAPER_SET = {
    "COCO train2017": FullSet(850_000, 850_000, 118_000, 0.3),
    "GOT-10k": FullSet(9_335, 1_400_000, 1_400_000, 2.1),
    "LaSOT, 1 of 3": FullSet(1_120, 940_000, 940_000, 0.9),
    "TrackingNet, 1 of 10": FullSet(30_132, 1_420_000, 1_420_000, 0.9),
}
"""Rounded; an upper bound, since frames that the filters drop are counted."""


def measure_scale(options: argparse.Namespace, folder: Path) -> None:
    """Case `scale`: what happened, and what the full set would cost at this rate."""
    if not (folder / "videos" / "train" / "list.txt").exists():
        start = time.perf_counter()
        write_videos(
            folder / "videos", options.tracks, frames=FRAMES, width_px=WIDTH_PX, height_px=HEIGHT_PX
        )
        print(
            f"{options.tracks} videos laid out in {time.perf_counter() - start:.0f} s", flush=True
        )
    source = SourceConfig(reader="got10k", folder=folder / "videos")
    config = PreprocessConfig(sources=(source,), output=str(folder / "shards"), min_shards=64)
    with ray_session("local"):
        report = preprocess(config)
    counts = report.manifest.counts["got10k"]
    if counts.tracks != options.tracks:
        raise AssertionError(f"{options.tracks} tracks expected, got {counts.tracks}")
    crops_per_second = report.images_written / report.seconds  # of this call
    files = len(list((folder / "shards").iterdir()))
    print(
        f"preprocessing: {counts.tracks} tracks, {counts.images} crops, "
        f"{report.manifest.bytes / 1e9:.2f} GB in {files} files, {report.seconds:.0f} s, "
        f"{crops_per_second:.0f} crops/s with start-up",
        flush=True,
    )
    pairs_per_second = _sample(config.output, options.pairs, options.pairs_made)
    if crops_per_second:
        bytes_per_crop = report.manifest.bytes / counts.images
        _extrapolate(crops_per_second, bytes_per_crop, pairs_per_second, _decoding(folder))


def _sample(shards: str, num_pairs: int, num_made: int) -> float:
    """Draws an epoch, and makes a part of it; prints what was drawn; pairs made per second."""
    workers = os.cpu_count() or 1
    start = time.perf_counter()
    stream = EpisodeStream(shards, SamplingConfig(), split="train", seed=0)
    drawn: Counter[PairOrigin] = Counter()
    with ThreadPoolExecutor(workers) as pool:
        for count in track(range(num_pairs // LANES), "an epoch of sampling"):
            pairs = pool.map(lambda lane, count=count: stream.draw(lane, count), range(LANES))
            drawn.update(pair.origin for pair in pairs)
    seconds = time.perf_counter() - start
    print(f"sampling: {drawn.total()} pairs drawn and their rows read in {seconds:.0f} s")
    for name, share in shares(drawn).items():
        print(f"  {name} {share:.3f}")
    source = batches(stream, range(LANES), num_threads=workers)
    next(source)
    start = time.perf_counter()
    for _ in islice(source, num_made // LANES):
        pass
    rate = num_made / (time.perf_counter() - start)
    source.close()
    print(f"loading: {num_made} of them decoded and augmented, {rate:.0f} pairs/s", flush=True)
    return rate


def _decoding(folder: Path) -> float:
    """Seconds per megapixel of reading a JPEG file."""
    import cv2

    cv2.setNumThreads(1)
    config = SyntheticConfig(
        num_train_videos=1,
        frames_per_video=1,
        width_px=1280,
        height_px=720,
        min_target_px=100.0,
        max_target_px=200.0,
    )
    frames, _, _ = render_video(config, 0)
    path = folder / "large.jpg"
    cv2.imwrite(str(path), frames[0], [cv2.IMWRITE_JPEG_QUALITY, 90])
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        read_image(path)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) / (1.280 * 0.720)


def _extrapolate(
    crops_per_second: float, bytes_per_crop: float, pairs_per_second: float, decoding: float
) -> None:
    """The paper's full set, at the rates measured: a line per dataset, and the sums."""
    cores, views = os.cpu_count() or 1, 1 + CropConfig.num_views
    small = WIDTH_PX * HEIGHT_PX / 1e6 * decoding  # its decoding is in the measured rate
    hours, num_bytes = [], []
    print(f"extrapolated to the paper's set, on these {cores} cores ({decoding * 1e3:.0f} ms/Mpx):")
    for name, part in PAPER_SET.items():
        decode = part.images * part.megapixels * decoding - part.frames * small
        seconds = part.frames * views / crops_per_second + decode / cores
        hours.append(seconds / 3600)
        num_bytes.append(part.frames * views * bytes_per_crop)
        print(
            f"  {name}: {part.tracks} tracks, {part.images} image files, {part.frames * views} "
            f"crops, {num_bytes[-1] / 1e9:.0f} GB, {hours[-1]:.1f} h"
        )
    shards = sum(num_bytes) / PreprocessConfig.max_shard_bytes
    print(
        f"  in all: {sum(part.images for part in PAPER_SET.values())} image files read, "
        f"{sum(num_bytes) / 1e9:.0f} GB in {shards:.0f} shards, {sum(hours):.1f} h; an epoch of "
        f"320,000 pairs takes {320_000 / pairs_per_second / 3600:.1f} h to load at least"
    )
