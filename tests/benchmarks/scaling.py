"""Weak scaling: what an outer step costs on one worker and on several, and its all-reduce's share.

python tests/benchmarks/scaling.py                        # 1 and 2 workers, one core each; minutes
python tests/benchmarks/scaling.py --device cuda --workers 1 --pairs 1 4    # a step on this GPU
python tests/benchmarks/scaling.py --model 0.5 --gbit 25  # measures nothing: 1 to 64 GPUs, modelled

Every worker takes the same number of pairs, whatever the number of workers: random images through
the training loop's own gradient, all-reduce (gloo) and Adam step. Numbers of workers take turns;
medians over the rounds' medians. A barrier before the all-reduce tells waiting for the slowest
worker from the exchange itself.

The model: t(W) = step + 2 (W - 1) / W x bytes / bandwidth + 2 (W - 1) x latency, a ring whose
slowest link has that bandwidth, nothing overlapped, all workers equally fast.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from data_pipeline.episodes import EpisodeBatch
from meta_train import worker
from meta_train.collectives import broadcast_from_first
from meta_train.detectors.backbone import BackboneConfig, calibrate
from meta_train.detectors.fcos import FcosConfig
from meta_train.detectors.heads import HeadConfig
from meta_train.detectors.network import NetworkConfig
from meta_train.learner import initial_learner
from meta_train.outer_step import MetaGradient
from meta_train.train_config import OuterLoopConfig, TrainConfig
from meta_train.train_state import TrainState

LATENCY_SECONDS = 20e-6
"""Of one message between two machines of the model."""


class StepTimes(NamedTuple):
    """Seconds of one outer step's parts, and the bytes that are summed."""

    gradient: float
    waiting: float
    all_reduce: float
    adam: float
    num_bytes: int

    @property
    def step(self) -> float:
        """All of it."""
        return self.gradient + self.waiting + self.all_reduce + self.adam


def make_config(options: argparse.Namespace) -> TrainConfig:
    """The paper's settings at a width of the backbone."""
    backbone = BackboneConfig(width=options.width, weights="random")
    network = NetworkConfig(backbone=backbone, head=HeadConfig(hidden_channels=options.hidden))
    outer = OuterLoopConfig(precision=options.precision)
    return TrainConfig(shards="none", detector=FcosConfig(network=network), outer_loop=outer)


def random_batch(pairs: int, seed: int) -> EpisodeBatch:
    """Pairs of noise, with a target in the middle."""
    rng = np.random.default_rng(seed)

    def images(count: int) -> Any:
        return rng.integers(0, 256, (pairs, count, 263, 263, 3), dtype=np.uint8)

    def boxes(count: int) -> Any:
        corner = rng.uniform(60, 120, (pairs, count, 2))
        return np.concatenate([corner, corner + 64], axis=-1).astype(np.float32)

    present = np.ones((pairs, 1), bool)
    return EpisodeBatch(images(3), boxes(3), images(1), boxes(1), present)


def num_bytes(found: MetaGradient) -> int:
    """What one all-reduce sums: gradients, losses, and two counts."""
    fields = (found.weights, found.rates, found.query_losses)
    return 4 * (2 + sum(tensor.numel() for field in fields for tensor in field.values()))


def measure(rank: int, world: int, rendezvous: str, options: argparse.Namespace) -> StepTimes:
    """The median step of one worker."""
    torch.set_num_threads(1)
    device = torch.device(options.device)
    if world > 1:
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    config = make_config(options)
    generator = torch.Generator().manual_seed(0)
    learner = initial_learner(
        config.detector, config.rates, adapts=config.inner_loop.adapts, generator=generator
    )
    batch = random_batch(options.pairs_each, rank)
    images = torch.from_numpy(batch.query_images).flatten(0, 1).movedim(-1, -3)
    weights = broadcast_from_first(calibrate(learner.weights, images))
    learner = replace(learner, weights=weights).to(device)
    state = TrainState(config, learner, 0)
    setup = worker._setup(config, 10**9 if options.order == "second" else 0)

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    times = []
    for _ in range(options.warm_up + options.steps):
        marks = [now()]
        mine = worker._gradient(config, state.learner, batch, setup, device)
        marks.append(now())
        if world > 1:
            dist.barrier()
        marks.append(now())
        found, _ = worker._over_workers(mine, 0)
        marks.append(now())
        state.step(found, 1.0)
        marks.append(now())
        parts = [after - before for before, after in pairwise(marks)]
        times.append(StepTimes(*parts, num_bytes=num_bytes(mine)))
    if world > 1:
        dist.destroy_process_group()
    return median(times[options.warm_up :])


def median(times: list[StepTimes]) -> StepTimes:
    """Part by part."""
    *parts, sizes = zip(*times, strict=True)
    return StepTimes(*(statistics.median(part) for part in parts), num_bytes=sizes[0])


def one_round(world: int, options: argparse.Namespace) -> StepTimes:
    """The median over the workers of one group, each a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(max_workers=world, mp_context=spawn) as pool,
    ):
        rendezvous = f"file://{folder}/rendezvous"
        started = [pool.submit(measure, n, world, rendezvous, options) for n in range(world)]
        return median([each.result() for each in started])


def report(rounds: dict[int, list[StepTimes]], options: argparse.Namespace) -> None:
    """A row for each number of workers."""
    fewest = rounds[min(rounds)]
    alone = median(fewest)
    print(
        f"\nwidth {options.width}, {options.precision}, {options.order} order, "
        f"{options.pairs_each} pairs for each worker; {alone.num_bytes / 1e6:.2f} MB all-reduced"
    )
    print("workers  step ms  gradient  waiting  all-reduce  Adam  its share  efficiency (range)")
    for world, found in rounds.items():
        middle = median(found)
        ratios = [one.step / other.step for one, other in zip(fewest, found, strict=True)]
        print(
            f"{world:7d} {middle.step * 1e3:8.1f} {middle.gradient * 1e3:9.1f} "
            f"{middle.waiting * 1e3:8.1f} {middle.all_reduce * 1e3:11.2f} {middle.adam * 1e3:5.1f} "
            f"{middle.all_reduce / middle.step:10.2%} "
            f"{statistics.median(ratios):11.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        )


def all_reduce_seconds(world: int, num_bytes: float, gbit: float) -> float:
    """Of a ring, by the model.

    >>> round(all_reduce_seconds(2, 1e9, gbit=8.0), 2)
    1.0
    """
    ring = 2 * (world - 1) / world * num_bytes / (gbit / 8 * 1e9)
    return ring + 2 * (world - 1) * LATENCY_SECONDS


def model(options: argparse.Namespace) -> None:
    """The modelled efficiency of 1 to 64 workers."""
    config = make_config(options)
    generator = torch.Generator().manual_seed(0)
    learner = initial_learner(
        config.detector, config.rates, adapts=config.inner_loop.adapts, generator=generator
    )
    state = TrainState(config, learner, 0)
    parameters = [p for group in state.adam.param_groups for p in group["params"]]
    size = 4 * sum(parameter.numel() for parameter in parameters)
    print(f"\nmodel: a step of {options.model} s, {size / 1e6:.2f} MB, {options.gbit:g} Gbit/s")
    print("workers  all-reduce ms  efficiency")
    for world in (1, 2, 4, 8, 16, 32, 64):
        exchange = all_reduce_seconds(world, size, options.gbit)
        print(
            f"{world:7d} {exchange * 1e3:14.1f} {options.model / (options.model + exchange):11.3f}"
        )


def main() -> None:
    """Parses the command line, measures or models, and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--pairs", type=int, nargs="+", default=[1])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=HeadConfig().hidden_channels)
    parser.add_argument("--order", choices=("first", "second"), default="first")
    parser.add_argument("--precision", choices=("fp32", "bf16", "bf16-all"), default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--model", type=float, help="seconds of one worker's step")
    parser.add_argument("--gbit", type=float, default=25.0, help="bandwidth of the slowest link")
    options = parser.parse_args()
    if options.model:
        model(options)
        return
    for pairs in options.pairs:
        options.pairs_each = pairs
        rounds: dict[int, list[StepTimes]] = {world: [] for world in options.workers}
        for _ in range(options.rounds):
            for world in options.workers:
                rounds[world].append(one_round(world, options))
        report(rounds, options)


if __name__ == "__main__":
    main()
