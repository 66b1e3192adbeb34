"""Kills preprocessing with SIGKILL at random moments; compares what is left with a clean run.

python tests/kill_preprocessing.py            # minutes on two cores
python tests/kill_preprocessing.py --kills 3 --seed 7 --folder F     # in parts: later calls go on

The killed run is started again with the same command until it ends. Its shards must hold the same
rows in the same order as those of a run that was left alone, and nothing half-written may remain.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path

import numpy as np

from data_pipeline.ray_session import ray_session
from data_pipeline.readers.synthetic import render_dataset
from data_pipeline.shards import read_chunks, read_index, read_manifest
from data_pipeline.synthetic_scenes import SyntheticConfig

ROOT = Path(__file__).parents[1]
NUM_SHARDS = 24
VIDEOS = SyntheticConfig(num_train_videos=60, num_val_videos=1, frames_per_video=16)


def start(videos: Path, output: Path, log: Path) -> subprocess.Popen[bytes]:
    """`preprocess.py` in a process group of its own."""
    command = [sys.executable, str(ROOT / "data_pipeline" / "preprocess.py")]
    command += ["--sources", f"synthetic:{videos}:train", "--output", str(output)]
    command += ["--min-shards", str(NUM_SHARDS)]
    with log.open("ab") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits for a run to end well."""
    code = process.wait(timeout=600)
    assert code == 0, f"exit status {code}:\n{log.read_text()[-4000:]}"


def shards_of(folder: Path) -> list[Path]:
    """The shards that stand."""
    return sorted(folder.glob("shard-*.parquet"))


def kill_after(process: subprocess.Popen[bytes], output: Path, more: int, seconds: float) -> bool:
    """Kills the whole process group a while after so many shards more; False if it ended itself."""
    wanted = len(shards_of(output)) + more
    while process.poll() is None and len(shards_of(output)) < wanted:
        time.sleep(0.02)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(2)  # Ray's processes notice that their driver is gone
        return True
    return False


def rows(folder: Path) -> list[tuple[object, ...]]:
    """All rows of all shards in the order of the index, each field as something comparable."""
    found = []
    for entry in read_index(str(folder)).to_pylist():
        chunk = read_chunks(str(folder), entry["shard"], entry["row_group"])[entry["row_in_group"]]
        found.append(tuple(comparable(getattr(chunk, field.name)) for field in fields(chunk)))
    return found


def comparable(value: object) -> object:
    """A value of a row, whose ``==`` says whether all of it is the same."""
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return tuple(map(comparable, value)) if isinstance(value, tuple) else value


def kill_often(videos: Path, clean: Path, killed: Path, *, kills: int, rng: random.Random) -> None:
    """Starts the run into ``killed`` again and again, and kills it at random moments."""
    written = [shard.stat().st_mtime for shard in shards_of(clean)]
    per_shard = (max(written) - min(written)) / NUM_SHARDS
    number = 0
    while number < kills:
        if len(shards := shards_of(killed)) > NUM_SHARDS - 6:  # too little for the next to hit
            (killed / "manifest.json").unlink(missing_ok=True)
            for shard in rng.sample(shards, k=NUM_SHARDS * 2 // 3):
                shard.unlink()
        if rng.random() < 0.2:  # while Ray starts, or the plan is made
            more, seconds = 0, rng.uniform(0, 10)
        else:  # while shards are written; a worker may be anywhere in its own
            more, seconds = rng.randint(1, 6), rng.uniform(0, 3 * per_shard)
        was_killed = kill_after(start(videos, killed, killed.parent / "log"), killed, more, seconds)
        number += was_killed
        what = f"kill {number}" if was_killed else "ended by itself"
        half = len(list(killed.glob(".shard-*")))
        print(f"{what}: {len(shards_of(killed))} shards stand, {half} half-written", flush=True)


def compare(clean: Path, killed: Path) -> int:
    """The number of rows, which are the same in both folders, as all else is."""
    manifests = [read_manifest(str(each)) for each in (clean, killed)]
    assert manifests[0].fingerprint == manifests[1].fingerprint, manifests
    one, other = rows(clean), rows(killed)
    assert len(one) == len(other), (len(one), len(other))
    assert one == other, "the rows differ"
    left = sorted(path.name for path in killed.iterdir() if path.name.startswith("."))
    assert not left, f"half-written files remain: {left}"
    extra = {path.name for path in killed.iterdir()} ^ {path.name for path in clean.iterdir()}
    assert not extra, f"the folders differ in {extra}"
    return len(one)


def main() -> None:
    """One clean run, one that is killed again and again, and the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="kept, so that a later call goes on with it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-preprocessing-") as name:
        folder = arguments.folder or Path(name)
        videos, clean, killed = (folder / each for each in ("videos", "clean", "killed"))
        log = folder / "log"
        if not (clean / "manifest.json").exists():
            with ray_session("local"):
                render_dataset(videos, VIDEOS)
            finish(start(videos, clean, log), log)
        print("the clean run stands", flush=True)
        rng = random.Random(arguments.seed)
        kill_often(videos, clean, killed, kills=arguments.kills, rng=rng)
        finish(start(videos, killed, log), log)
        num_rows = compare(clean, killed)
    print(f"after {arguments.kills} kills: {num_rows} rows, each equal to that of the clean run")


if __name__ == "__main__":
    main()
