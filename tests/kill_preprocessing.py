"""Kills preprocessing with SIGKILL at random moments; compares what is left with a clean run.

python tests/kill_preprocessing.py            # minutes on two cores
python tests/kill_preprocessing.py --kills 3 --seed 7

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

from data_pipeline.readers.synthetic import render_dataset
from data_pipeline.shards import read_chunks, read_index, read_manifest
from data_pipeline.synthetic_scenes import SyntheticConfig

ROOT = Path(__file__).parents[1]
NUM_SHARDS = 24
VIDEOS = SyntheticConfig(num_train_videos=60, num_val_videos=1, frames_per_video=20)


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


def kill_after(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Kills the whole process group after a time; False if it had ended by itself."""
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
        values = (getattr(chunk, field.name) for field in fields(chunk))
        found.append(tuple(v.tobytes() if isinstance(v, np.ndarray) else v for v in values))
    return found


def main() -> None:
    """One clean run, one that is killed again and again, and the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="kill-preprocessing-") as name:
        folder = Path(name)
        render_dataset(folder / "videos", VIDEOS)
        clean, killed, log = folder / "clean", folder / "killed", folder / "log"
        began = time.monotonic()
        finish(start(folder / "videos", clean, log), log)
        whole = time.monotonic() - began
        print(f"a clean run took {whole:.0f} s", flush=True)
        kills = 0
        while kills < arguments.kills:
            seconds = rng.uniform(0.2, 0.95) * whole
            was_killed = kill_after(start(folder / "videos", killed, log), seconds)
            shards = sorted(killed.glob("shard-*.parquet"))
            kills += was_killed
            what = f"kill {kills} after {seconds:.1f} s" if was_killed else "ended by itself"
            print(f"{what}: {len(shards)} shards stand", flush=True)
            if len(shards) == NUM_SHARDS:  # nothing would be left for the next kill to hit
                (killed / "manifest.json").unlink(missing_ok=True)
                for shard in rng.sample(shards, k=NUM_SHARDS * 2 // 3):
                    shard.unlink()
        finish(start(folder / "videos", killed, log), log)
        manifests = [read_manifest(str(each)) for each in (clean, killed)]
        assert manifests[0].fingerprint == manifests[1].fingerprint, manifests
        one, other = rows(clean), rows(killed)
        assert len(one) == len(other), (len(one), len(other))
        assert one == other, "the rows differ"
        left = sorted(path.name for path in killed.iterdir() if path.name.startswith("."))
        assert not left, f"half-written files remain: {left}"
        extra = {path.name for path in killed.iterdir()} ^ {path.name for path in clean.iterdir()}
        assert not extra, f"the folders differ in {extra}"
    print(f"after {kills} kills: {len(one)} rows, each equal to that of the clean run")


if __name__ == "__main__":
    main()
