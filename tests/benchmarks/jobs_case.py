"""Evaluation on Ray, with single-threaded workers, against loops over the sequences."""

import logging
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import ray
import torch
from tracking_case import make_learner, ratio

from data_pipeline.readers.synthetic import render_dataset
from data_pipeline.synthetic_scenes import SyntheticConfig
from eval_jobs.benchmarks import find_benchmark, select
from eval_jobs.jobs import evaluate
from eval_jobs.protocols import one_pass
from eval_jobs.tracker import TrackerConfig
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


def seconds_of_loop(spec: OnlineSpec, videos: Path, num_threads: int) -> float:
    """One sequence after the other in this process."""
    torch.set_num_threads(num_threads)
    cv2.setNumThreads(num_threads)
    begin = time.perf_counter()
    tracker = spec.build()
    for track in select(BENCHMARK, videos).tracks:
        one_pass(tracker, track)
    return time.perf_counter() - begin


def seconds_on_ray(spec: OnlineSpec, videos: Path, output: Path) -> float:
    """Everything that an evaluation does: tasks, result files, scores."""
    begin = time.perf_counter()
    evaluate([spec], BENCHMARK, videos, output)
    return time.perf_counter() - begin


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
        one, every, on_ray = [], [], []
        for number in range(rounds):
            one.append(seconds_of_loop(spec, videos, 1))
            every.append(seconds_of_loop(spec, videos, num_workers))
            on_ray.append(seconds_on_ray(spec, videos, folder / f"results{number}"))
        ray.shutdown()
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])
    over_one, over_every = ratio(one, on_ray), ratio(every, on_ray)
    print(
        f"jobs: {num_videos} videos of {num_frames} frames, width {width}: a loop of one thread "
        f"{statistics.median(one):.1f} s, of {num_workers} threads {statistics.median(every):.1f} "
        f"s, {num_workers} workers on Ray {statistics.median(on_ray):.1f} s: {over_one:.2f} times "
        f"(at least {ONE_THREAD_BAR}) and {over_every:.2f} times (at least {ALL_THREADS_BAR}) as "
        "fast"
    )
    return over_one >= ONE_THREAD_BAR and over_every >= ALL_THREADS_BAR
