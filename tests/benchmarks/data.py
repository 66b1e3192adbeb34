"""Is the data ever the bottleneck? Preprocessing, loading, waiting, memory; and a large set.

python tests/benchmarks/data.py                              # the four short cases, minutes
python tests/benchmarks/data.py --cases crops --rounds 5
python tests/benchmarks/data.py --cases scale --tracks 300 --pairs 9600   # in full: 10,000, 320,000

- crops: preprocessing with Ray Data against a plain loop in one process (imread, warpAffine,
  imencode, append to a file) that writes the same JPEGs, one OpenCV thread on each side;
- batches: `stream.batches` against a torch DataLoader of the same episodes, threads against
  processes, as many of both;
- waiting: the share of its time that a training spends waiting for data;
- memory: the peak of planning, cutting and loading, each in a process of its own, for a data set
  and for one of ten times its rows;
- scale: many tracks through preprocessing and one epoch of sampling, and what the paper's full set
  would cost at these rates.

Contestants take turns, start-up is excluded, figures are medians over the rounds. Beside the clock
stands the processors' own time, which neighbours on the machine change less.
"""

import argparse
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
import numpy as np
from data_memory import measure_memory
from data_scale import measure_scale
from many_videos import make_shards, plan_of, verdict, write_videos

from data_pipeline.boxes import clip
from data_pipeline.crop_tracks import CropConfig, usable_frames, view_generator, view_window
from data_pipeline.crops import CROP_SIZE_PX, mean_color, search_window
from data_pipeline.episodes import EpisodeBatch, stack
from data_pipeline.preprocess import preprocess, write_shard
from data_pipeline.ray_session import ray_session
from data_pipeline.sampling import SamplingConfig
from data_pipeline.shard_plans import PreprocessConfig, make_plans, read_tracks
from data_pipeline.shards import read_chunks, read_index
from data_pipeline.stream import EpisodeStream, batches
from data_pipeline.tracks import read_image

CROPS_BAR = 0.85
"""Least share of one plain loop per core."""

BATCHES_BAR = 1.0
"""Least ratio to the DataLoader."""

LANES = 32


def plain_jobs(config: PreprocessConfig) -> list[tuple[str, tuple[float, ...], list[np.ndarray]]]:
    """All that the plain loop need not compute: file, border colour, and each crop's matrix."""
    jobs = []
    for track in read_tracks(config):
        for frame in usable_frames(track):
            image = read_image(track.image_files[frame])
            height, width, _ = image.shape
            box = clip(track.boxes[frame], width=float(width), height=float(height))
            windows = [search_window(box)]
            for view in range(config.crops.num_views):
                number = int(track.frame_numbers[frame])
                rng = view_generator(config.crops.seed, track, number, view)
                windows.append(view_window(windows[0], config.crops, rng))
            matrices = []
            for window in windows:
                scale = window.size_px / CROP_SIZE_PX
                offset = window.center_px - window.size_px / 2 + scale / 2 - 0.5
                matrices.append(np.array([[scale[0], 0, offset[0]], [0, scale[1], offset[1]]]))
            jobs.append((str(track.image_files[frame]), mean_color(image)[::-1], matrices))
    return jobs


def plain_loop(jobs: list, output: Path, quality: int) -> int:
    """The loop that anyone would write; the number of crops."""
    count, options = 0, [cv2.IMWRITE_JPEG_QUALITY, quality]
    with output.open("wb") as stream:
        for file, border, matrices in jobs:
            image = cv2.imread(file)
            for matrix in matrices:
                crop = cv2.warpAffine(
                    image,
                    matrix,
                    (CROP_SIZE_PX, CROP_SIZE_PX),
                    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                    borderMode=cv2.BORDER_CONSTANT,
                    borderValue=border,
                )
                stream.write(cv2.imencode(".jpg", crop, options)[1])
                count += 1
    return count


def steady_rate(output: Path) -> float:
    """Crops per second between the first and the last shards, from when each was complete."""
    index = read_index(str(output)).to_pydict()
    crops: dict[str, int] = {}
    for shard, frames in zip(index["shard"], index["num_frames"], strict=True):
        crops[shard] = crops.get(shard, 0) + frames * (1 + CropConfig.num_views)
    ended = sorted(((output / shard).stat().st_mtime, count) for shard, count in crops.items())
    cores = os.cpu_count() or 1
    inner = ended[cores : len(ended) - cores]
    return sum(count for _, count in inner) / (inner[-1][0] - ended[cores - 1][0])


def measure_crops(options: argparse.Namespace, folder: Path) -> None:
    """Case `crops`."""
    cv2.setNumThreads(1)
    videos, cores = folder / "videos", os.cpu_count() or 1
    write_videos(videos, options.videos, frames=24, width_px=640, height_px=360)
    config = plan_of(videos, folder / "in-process")  # tasks of about a second
    jobs = plain_jobs(config)
    ours_wall, theirs_wall, ours_cpu, theirs_cpu = [], [], [], []
    with ray_session("local"):
        for turn in range(options.rounds):
            output = folder / f"shards-{turn}"
            written = preprocess(replace(config, output=str(output))).images_written
            ours_wall.append(steady_rate(output))
            wall, cpu = time.perf_counter(), time.thread_time()
            count = plain_loop(jobs, folder / "plain.bin", config.crops.jpeg_quality)
            theirs_wall.append(count / (time.perf_counter() - wall))
            assert count == written, f"{count} crops in the plain loop, {written} in the shards"
            theirs_cpu.append(count / (time.thread_time() - cpu))
            cpu = time.thread_time()
            for plan in make_plans(replace(config, output=str(folder / f"cpu-{turn}"))):
                write_shard(plan, str(folder / f"cpu-{turn}"), config.crops)
            ours_cpu.append(count / (time.thread_time() - cpu))
    require_same_jpegs(folder / "shards-0", folder / "plain.bin")
    ours, theirs = statistics.median(ours_wall), statistics.median(theirs_wall)
    print(f"crops/s: Ray Data on {cores} cores {ours:.0f}, plain loop {theirs:.0f}")
    verdict(f"crops, by the clock, share of {cores} plain loops", ours / theirs / cores, CROPS_BAR)
    share = statistics.median(ours_cpu) / statistics.median(theirs_cpu)
    print(f"crops, by the thread's own time, one worker's share of a plain loop: {share:.2f}")


def require_same_jpegs(shards: Path, plain: Path) -> None:
    """Raises unless the plain loop wrote what the shards hold."""
    index = read_index(str(shards)).to_pylist()
    first = next(entry for entry in index if entry["video"] == "video_000000")
    rows = read_chunks(str(shards), first["shard"], first["row_group"])
    row = rows[first["row_in_group"]]
    ours = b"".join(row.centred_images[0:1] + row.view_images[0])
    with plain.open("rb") as stream:
        if stream.read(len(ours)) != ours:
            raise AssertionError("the plain loop cut other crops")


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
    parser.add_argument("--videos", type=int, default=96, help="crops: videos of 24 frames")
    parser.add_argument("--workers", type=int, default=2, help="batches: threads, or processes")
    parser.add_argument("--num-batches", type=int, default=10, help="batches: a turn's")
    parser.add_argument("--steps", type=int, default=8, help="waiting: outer steps")
    parser.add_argument("--rows", type=int, default=200, help="memory: rows, and ten times as many")
    parser.add_argument("--tracks", type=int, default=10_000, help="scale")
    parser.add_argument("--pairs", type=int, default=320_000, help="scale: pairs of an epoch")
    options = parser.parse_args()
    for name in options.cases:
        with tempfile.TemporaryDirectory(prefix=f"data-{name}-") as folder:
            CASES[name](options, Path(folder))


if __name__ == "__main__":
    main()
