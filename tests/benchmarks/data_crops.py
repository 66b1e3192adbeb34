"""Preprocessing with Ray Data against a plain loop in one process that does the same work.

Ray Data takes a task for each shard, which holds about nine thousand crops at its usual size and
with 320 videos a core 2,880 here: with hundreds, starting the tasks is what would be timed.

The loop: imread, mean colour, the views drawn, warpAffine, imencode, a Parquet file. It is timed
alone, and once more as one loop per core at a time: what this machine can do at the most.
"""

import argparse
import os
import shutil
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from many_videos import plan_of, verdict, write_videos

from data_pipeline.boxes import clip
from data_pipeline.crop_tracks import CropConfig, usable_frames, view_generator, view_window
from data_pipeline.crops import CROP_SIZE_PX, search_window
from data_pipeline.preprocess import preprocess, write_shard
from data_pipeline.ray_session import ray_session
from data_pipeline.shard_plans import make_plans, read_tracks
from data_pipeline.shards import ARROW_SCHEMA, read_chunks, read_index
from data_pipeline.tracks import Track

CROPS_BAR = 0.85
"""Least share of one plain loop per core."""


def plain_loop(tracks: Sequence[Track], output: Path, config: CropConfig) -> tuple[int, float]:
    """The loop that anyone would write; the number of crops, and the seconds."""
    cv2.setNumThreads(1)
    options = [cv2.IMWRITE_JPEG_QUALITY, config.jpeg_quality]
    start, num_crops = time.perf_counter(), 0
    with pq.ParquetWriter(output, ARROW_SCHEMA, compression="NONE", use_dictionary=False) as file:
        for track in tracks:
            images, boxes = [], []
            for frame in usable_frames(track):
                image = cv2.imread(str(track.image_files[frame]))
                height, width, _ = image.shape
                border = cv2.mean(image)[:3]
                box = clip(track.boxes[frame], width=width, height=height)
                windows = [search_window(box)]
                for view in range(config.num_views):
                    number = int(track.frame_numbers[frame])
                    rng = view_generator(config.seed, track, number, view)
                    windows.append(view_window(windows[0], config, rng))
                jpegs = []
                for window in windows:
                    scale = window.size_px / CROP_SIZE_PX
                    corner = window.center_px - window.size_px / 2 + scale / 2 - 0.5
                    crop = cv2.warpAffine(
                        image,
                        np.array([[scale[0], 0, corner[0]], [0, scale[1], corner[1]]]),
                        (CROP_SIZE_PX, CROP_SIZE_PX),
                        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                        borderMode=cv2.BORDER_CONSTANT,
                        borderValue=border,
                    )
                    jpegs.append(cv2.imencode(".jpg", crop, options)[1].tobytes())
                images.append(jpegs)
                boxes.append([window.to_crop(box).tolist() for window in windows])
                num_crops += len(jpegs)
            row = {
                "dataset": track.dataset,
                "video": track.video,
                "target": track.target,
                "category": track.category,
                "is_still": track.is_still,
                "chunk": 0,
                "frame_numbers": track.frame_numbers.tolist(),
                "centred_images": [jpegs[0] for jpegs in images],
                "centred_boxes": [each[0] for each in boxes],
                "view_images": [jpegs[1:] for jpegs in images],
                "view_boxes": [each[1:] for each in boxes],
            }
            file.write_table(pa.Table.from_pylist([row], schema=ARROW_SCHEMA))
    return num_crops, time.perf_counter() - start


def loops_at_once(
    pool: ProcessPoolExecutor, parts: Sequence[Sequence[Track]], folder: Path, config: CropConfig
) -> float:
    """Crops per second of as many plain loops as there are parts, in processes of their own."""
    loops = [
        pool.submit(plain_loop, part, folder / f"plain-{number}.parquet", config)
        for number, part in enumerate(parts)
    ]
    return sum(count / seconds for count, seconds in (loop.result() for loop in loops))


def steady_rate(output: Path, in_flight: int) -> float:
    """Crops per second from when each shard was complete, without the first and the last.

    As many are left out at either end as are written at a time: what is begun when the clock
    starts is then as much as what is begun when it stops.
    """
    index = read_index(str(output)).to_pydict()
    crops: dict[str, int] = {}
    for shard, frames in zip(index["shard"], index["num_frames"], strict=True):
        crops[shard] = crops.get(shard, 0) + frames * (1 + CropConfig.num_views)
    ended = sorted(((output / shard).stat().st_mtime, count) for shard, count in crops.items())
    inner = ended[in_flight : len(ended) - in_flight]
    return sum(count for _, count in inner) / (inner[-1][0] - ended[in_flight - 1][0])


def measure_crops(options: argparse.Namespace, folder: Path) -> None:
    """Case `crops`."""
    cv2.setNumThreads(1)
    videos, cores = folder / "videos", os.cpu_count() or 1
    write_videos(videos, options.videos * cores, frames=24, width_px=640, height_px=360)
    config = plan_of(videos, folder / "in-process", min_shards=8 * cores)
    tracks = list(read_tracks(config))
    names = ("ours", "two tasks a core", "one loop", "loops", "in one thread")
    rates: dict[str, list[float]] = {name: [] for name in names}
    parts = [tracks[number::cores] for number in range(cores)]
    with ray_session("local"), ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        loops_at_once(pool, [part[:2] for part in parts], folder, config.crops)  # start-up
        for turn in range(options.rounds):
            for name, cpus in (("ours", config.cpus_per_task), ("two tasks a core", 0.5)):
                output = folder / f"{name}-{turn}"
                preprocess(replace(config, output=str(output), cpus_per_task=cpus))
                rates[name].append(steady_rate(output, round(cores / cpus)))
                if turn:  # the first is compared with the plain loop's
                    shutil.rmtree(output)
            rates["one loop"].append(loops_at_once(pool, [tracks], folder, config.crops))
            rates["loops"].append(loops_at_once(pool, parts, folder, config.crops))
            start, some = time.perf_counter(), list(make_plans(config))[:4]
            count = sum(
                write_shard(plan, str(folder / f"again-{turn}"), config.crops) for plan in some
            )
            rates["in one thread"].append(count / (time.perf_counter() - start))
    require_same_jpegs(folder / "ours-0", folder / "plain-0.parquet")
    medians = {name: statistics.median(values) for name, values in rates.items()}
    one = medians["one loop"]
    print(f"crops/s on {cores} cores, {len(tracks)} videos, {options.rounds} rounds:")
    for name, rate in medians.items():
        print(f"  {name}: {rate:.0f}, {rate / one:.2f} plain loops")
    verdict(f"crops, share of {cores} plain loops", medians["ours"] / one / cores, CROPS_BAR)
    share = medians["ours"] / medians["loops"]
    print(f"  share of what {cores} plain loops at once reach: {share:.2f}", flush=True)


def require_same_jpegs(shards: Path, plain: Path) -> None:
    """Raises unless the plain loop wrote what the shards hold."""
    theirs = pq.ParquetFile(plain).read_row_group(0).to_pylist()[0]
    index = read_index(str(shards)).to_pylist()
    entry = next(entry for entry in index if entry["video"] == theirs["video"])
    row = read_chunks(str(shards), entry["shard"], entry["row_group"])[entry["row_in_group"]]
    if (*row.centred_images,) != (*theirs["centred_images"],) or row.view_images != tuple(
        map(tuple, theirs["view_images"])
    ):
        raise AssertionError("the plain loop cut other crops")
