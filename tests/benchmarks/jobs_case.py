"""Evaluation on Ray, with single-threaded workers, against loops over the sequences.

The ceiling is as many plain processes as there are workers, each with a loop over its share.
"""

import logging
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import ray
import torch
from tracking_case import make_learner, ratio, seconds_of

from data_pipeline.readers.synthetic import render_dataset
from data_pipeline.synthetic_scenes import SyntheticConfig
from eval_jobs.benchmarks import find_benchmark, select
from eval_jobs.jobs import evaluate
from eval_jobs.protocols import one_pass
from eval_jobs.tracker_config import TrackerConfig
from eval_jobs.tracker_specs import OnlineSpec
from meta_train.checkpoint import Checkpoint, save
from meta_train.train_config import TrainConfig

ONE_THREAD_BAR = 1.7
"""How many times faster than a loop of one thread two workers are at least."""

ALL_THREADS_BAR = 1.0
"""The same of a loop that has as many threads as there are workers."""

BENCHMARK = find_benchmark("synthetic")


def write_checkpoint(folder: Path, width: int, hidden_channels: int) -> Path:
    """An untrained network."""
    learner = make_learner(width, hidden_channels, "head")
    checkpoint = Checkpoint(
        config=replace(TrainConfig(), detector=learner.config),
        weights=learner.weights,
        rates=learner.rates,
        optimizer={},
        iteration=0,
    )
    return save(checkpoint, folder)


def loop(spec: OnlineSpec, videos: Path, num_threads: int, share: slice = slice(None)) -> None:
    """One sequence after the other, of all or of a share of them, in this process."""
    torch.set_num_threads(num_threads)
    cv2.setNumThreads(num_threads)
    tracker = spec.build()
    for track in select(BENCHMARK, videos).tracks[share]:
        one_pass(tracker, track)


def loop_at_once(
    pool: ProcessPoolExecutor, num_workers: int, spec: OnlineSpec, videos: Path
) -> None:
    """A loop of one thread in each process, each over its share of the sequences."""
    shares = [slice(worker, None, num_workers) for worker in range(num_workers)]
    for running in [pool.submit(loop, spec, videos, 1, share) for share in shares]:
        running.result()


def measure_jobs(
    rounds: int,
    width: int,
    hidden_channels: int,
    num_workers: int,
    num_videos: int,
    num_frames: int,
) -> bool:
    """Prints the comparison; whether it is as it should be."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = folder / "videos"
        made = SyntheticConfig(
            num_train_videos=0, num_val_videos=num_videos, frames_per_video=num_frames
        )
        ray.init(address="local", num_cpus=num_workers, logging_level=logging.WARNING)
        render_dataset(videos, made)
        spec = OnlineSpec(
            name="tracker",
            checkpoint=write_checkpoint(folder / "best", width, hidden_channels),
            config=TrackerConfig(min_score=-1e9, add_threshold=-1e9, distractor_ratio=1e9),
        )
        evaluate([spec], BENCHMARK, videos, folder / "warm", max_frames=2)  # start-up
        one, every, on_ray, ceiling = [], [], [], []
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(num_workers, mp_context=spawn) as pool:
            list(pool.map(time.sleep, [1.0] * num_workers))  # start-up: each imports everything
            for number in range(rounds):
                results = folder / f"results{number}"
                one.append(seconds_of(lambda: loop(spec, videos, 1)))
                every.append(seconds_of(lambda: loop(spec, videos, num_workers)))
                ceiling.append(seconds_of(lambda: loop_at_once(pool, num_workers, spec, videos)))
                on_ray.append(
                    seconds_of(lambda to=results: evaluate([spec], BENCHMARK, videos, to))
                )
        ray.shutdown()
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])
    over_one, over_every, share = (ratio(each, on_ray) for each in (one, every, ceiling))
    print(
        f"jobs: {num_videos} videos of {num_frames} frames, width {width}: a loop of one thread "
        f"{statistics.median(one):.1f} s, of {num_workers} threads {statistics.median(every):.1f} "
        f"s, {num_workers} workers on Ray {statistics.median(on_ray):.1f} s: {over_one:.2f} times "
        f"(at least {ONE_THREAD_BAR}) and {over_every:.2f} times (at least {ALL_THREADS_BAR}) as "
        f"fast; {num_workers} plain processes {statistics.median(ceiling):.1f} s, of whose speed "
        f"Ray's workers have {share:.2f}"
    )
    return over_one >= ONE_THREAD_BAR and over_every >= ALL_THREADS_BAR
