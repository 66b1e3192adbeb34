"""Is the data ever the bottleneck? Preprocessing, loading, waiting, memory; and a large set.

python tests/benchmarks/data.py                              # the four short cases, ten minutes
python tests/benchmarks/data.py --cases crops --rounds 5
python tests/benchmarks/data.py --cases scale --tracks 300 --pairs 9600   # in full: 10,000, 320,000

- crops: preprocessing with Ray Data against a plain loop in one process that writes the same JPEGs
  (imread, warpAffine, imencode, Parquet), one OpenCV thread on each side;
- batches: `stream.batches` against a torch DataLoader of the same episodes, threads against
  processes, as many of both;
- waiting: the share of its time that a training spends waiting for data;
- memory: the peak of planning, cutting and loading, each in a process of its own, for a data set
  and for one of ten times its rows;
- scale: many tracks through preprocessing, an epoch of pairs drawn from the shards, a part of them
  decoded and augmented, and what the paper's full set would cost at these rates.

Contestants take turns, start-up is excluded, figures are medians over the rounds.
"""

import argparse
import logging
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
from data_crops import measure_crops
from data_memory import measure_memory
from data_scale import measure_scale
from many_videos import make_shards, verdict

from data_pipeline.episodes import EpisodeBatch, stack
from data_pipeline.sampling import SamplingConfig
from data_pipeline.stream import EpisodeStream, batches

BATCHES_BAR = 1.0
"""Least ratio to the DataLoader."""

LANES = 32


def torch_batches(stream: EpisodeStream, workers: int) -> Iterator[EpisodeBatch]:
    """The same batches from a DataLoader; a worker makes its lanes' part, so none reads twice."""
    import torch
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info

    class Lanes(IterableDataset):
        def __iter__(self) -> Iterator[EpisodeBatch]:
            cv2.setNumThreads(1)
            rank, count = get_worker_info().id, 0
            while True:
                episodes = [stream.episode(lane, count) for lane in range(rank, LANES, workers)]
                yield stack(episodes)[:-1]
                count += 1

    source = iter(DataLoader(Lanes(), batch_size=None, num_workers=workers))
    while True:
        parts = [next(source) for _ in range(workers)]
        yield EpisodeBatch(*(torch.cat(field).numpy() for field in zip(*parts, strict=True)))


def cpu_seconds() -> float:
    """Processor time of this process and of the workers that it started (Linux)."""
    seconds = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def measure_batches(options: argparse.Namespace, folder: Path) -> None:
    """Case `batches`."""
    shards, workers = make_shards(folder, 32, 24), options.workers
    sampling, lanes = SamplingConfig(), range(LANES)

    def stream() -> EpisodeStream:
        return EpisodeStream(shards, sampling, split="train", seed=0)

    peers = {
        "ours": batches(stream(), lanes, num_threads=workers),
        "DataLoader": torch_batches(stream(), workers),
    }
    firsts = [next(source) for source in peers.values()]
    assert sorted(i.tobytes() for i in firsts[0].query_images) == sorted(
        i.tobytes() for i in firsts[1].query_images
    ), "the two make other episodes"
    wall: dict[str, list[float]] = {name: [] for name in peers}
    cpu: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(options.rounds):
        for name, source in peers.items():
            for _ in islice(source, 4):  # made while the other had its turn
                pass
            start, started_cpu = time.perf_counter(), cpu_seconds()
            for _ in islice(source, options.num_batches):
                pass
            wall[name].append(options.num_batches * LANES / (time.perf_counter() - start))
            cpu[name].append(options.num_batches * LANES / (cpu_seconds() - started_cpu))
    peers["ours"].close()
    rates = {name: statistics.median(values) for name, values in wall.items()}
    own = {name: statistics.median(values) for name, values in cpu.items()}
    for name in peers:
        print(f"{name}: {rates[name]:.0f} pairs/s by the clock, {own[name]:.0f} per CPU second")
    verdict("batches, by the clock", rates["ours"] / rates["DataLoader"], BATCHES_BAR)
    print(f"batches, by the processors' own time: {own['ours'] / own['DataLoader']:.2f}")


def measure_waiting(options: argparse.Namespace, folder: Path) -> None:
    """Case `waiting`: the quickstart's network and batch."""
    import torch

    from eval_jobs.presets import PRESETS
    from meta_train.train_config import ValidationConfig
    from meta_train.worker import Rim, train

    torch.set_num_threads(1)
    config = PRESETS["quickstart"][1].train
    outer = replace(config.outer_loop, num_epochs=1, iterations_per_epoch=options.steps)
    config = replace(
        config,
        shards=make_shards(folder, 32, 8),
        outer_loop=outer,
        validation=ValidationConfig(num_pairs=1, batch_pairs=1),
        log_every=1,
    )
    found: list[float] = []

    def log(values: dict[str, float], iteration: int) -> None:
        if iteration > 1 and "speed/data_wait_share" in values:  # the first step waits for start-up
            found.append(values["speed/data_wait_share"])

    train(config, Rim(scratch=folder, log=log))
    share = statistics.median(found)
    print(f"waiting for data: median {share:.1%}, most {max(found):.1%} of a step ({outer=})")


CASES: dict[str, Callable[[argparse.Namespace, Path], None]] = {
    "crops": measure_crops,
    "batches": measure_batches,
    "waiting": measure_waiting,
    "memory": measure_memory,
    "scale": measure_scale,
}


def main() -> None:
    """Runs the cases that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    short = [name for name in CASES if name != "scale"]
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=short)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--videos", type=int, default=320, help="crops: for each core")
    parser.add_argument("--workers", type=int, default=2, help="batches: threads, or processes")
    parser.add_argument("--num-batches", type=int, default=10, help="batches: a turn's")
    parser.add_argument("--steps", type=int, default=8, help="waiting: outer steps")
    parser.add_argument("--rows", type=int, default=200, help="memory: rows, and ten times as many")
    parser.add_argument("--tracks", type=int, default=10_000, help="scale")
    parser.add_argument("--pairs", type=int, default=320_000, help="scale: pairs of an epoch")
    parser.add_argument("--pairs-made", type=int, default=9_600, help="scale: decoded, to time it")
    parser.add_argument("--folder", type=Path, help="scale: kept, and a later call goes on with it")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for name in options.cases:
        with tempfile.TemporaryDirectory(prefix=f"data-{name}-") as scratch:
            kept = options.folder if name == "scale" else None  # others would time what is there
            CASES[name](options, kept or Path(scratch))


if __name__ == "__main__":
    main()
