"""Peak memory of planning, cutting and loading, for a data set and one of ten times its rows.

Run as a script with a name, a folder of shards and a number of rows, it is one of the processes.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from many_videos import imagine, plan_of, verdict, write_shards, write_videos

from data_pipeline.sampling import SamplingConfig
from data_pipeline.shard_plans import PreprocessConfig, SourceConfig, make_plans
from data_pipeline.stream import EpisodeStream, batches

MEMORY_BAR = 1.10
"""Largest ratio of the peaks."""

LANES = 32


def plan_only(shards: str, rows: int) -> None:
    """Plans imagined tracks of 50 frames, twenty for each row."""
    source = SourceConfig(reader=imagine(rows * 20, 50), folder=Path("/imagined"))
    for plan in make_plans(PreprocessConfig(sources=(source,), output=shards)):
        assert plan.tracks


def cut_only(shards: str, rows: int) -> None:
    """Writes all shards of a folder's videos, one after the other, as a worker does."""
    write_shards(
        plan_of(Path(shards).parent / "videos", Path(shards), min_shards=max(rows // 20, 1))
    )


def load_only(shards: str, rows: int) -> None:
    """Loads batches."""
    stream = EpisodeStream(shards, SamplingConfig(), split="train", seed=0)
    for _ in islice(batches(stream, range(LANES)), 12):
        pass


CHILDREN: dict[str, Callable[[str, int], None]] = {
    "planning": plan_only,
    "cutting": cut_only,
    "loading": load_only,
}


def run_child(name: str, shards: str, rows: int) -> None:
    """Prints the process's peak of memory before and after a part of the work, in MB (Linux)."""

    def peak() -> float:
        # Not getrusage's: that one starts at the peak of the process that started this one.
        status = Path("/proc/self/status").read_text()
        return float(status.partition("VmHWM:")[2].split()[0]) / 1024

    before = peak()
    CHILDREN[name](shards, rows)
    print(before, peak(), flush=True)
    os._exit(0)  # the stream's threads need not end first


def measure_memory(options: argparse.Namespace, folder: Path) -> None:
    """Case `memory`."""
    sizes = (options.rows, 10 * options.rows)
    for rows in sizes:
        write_videos(folder / str(rows) / "videos", rows, frames=2, width_px=96, height_px=72)
    for name in CHILDREN:
        peaks = []
        for rows in sizes:
            shards = str(folder / str(rows) / "shards")
            command = [sys.executable, __file__, name, shards, str(rows)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            peaks.append([float(number) for number in output.split()])
        (before, one), (_, ten) = peaks
        print(
            f"{name}: {one:.0f} MB, with 10x the rows {ten:.0f} MB ({before:.0f} MB at the start)"
        )
        verdict(f"memory, {name}", ten / one, MEMORY_BAR, at_most=True)


if __name__ == "__main__":
    run_child(sys.argv[1], sys.argv[2], int(sys.argv[3]))
