"""Scoring all of OTB-100 for one tracker: ours against got10k's code on the same files."""

import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from tracking_case import ratio

from data_pipeline.readers.otb import FRAME_RANGES
from eval_jobs.benchmarks import find_benchmark, select
from eval_jobs.otb_sequences import OTB100
from eval_jobs.result_files import score_results
from eval_jobs.scores import TrackerScore

SPEED_BAR = 3.0
"""How many times faster than got10k at least."""

TOLERANCE = 1e-6
"""How far a score may be from got10k's."""

LENGTHS = """
    725 350 602 659 393 252 291 140 120 471 537 252 71 1350 3872 1145 892 812 476 707 362 74 326
    460 283 500 166 307 307 313 1336 1741 100 1490 164 228 365 351 366 400 81 392 175 945 1345 349
    365 569 412 500 597 142 408 99 334 742 585 357 380 493 631 698 293 1161 1020 913 3059 472 327
    347 225 150 215 127 113 1500 767 1128 1698 667 713 792 250 128 305 122 84 134 1000 1918 1997
    160 435 473 473 376 271 124 472 271
"""
"""Frames of OTB-100's sequences, in the order of `OTB100`."""


def made_up_boxes(length: int, rng: np.random.Generator) -> tuple[ndarray, ndarray]:
    """A target's walk through an image and a tracker that loses it now and then; ``x, y, w, h``."""
    centers = np.clip(200 + rng.normal(0, 3, (length, 2)).cumsum(axis=0), 60, 340)
    sizes = np.clip(50 + rng.normal(0, 0.6, (length, 2)).cumsum(axis=0), 15, 100)
    off = rng.normal(0, 4, (length, 2)) + rng.normal(0, 1, (length, 2)).cumsum(axis=0)
    truth = np.concatenate([centers - sizes / 2, sizes], axis=1).round()
    said = np.concatenate([truth[:, :2] + off, sizes * rng.normal(1, 0.1, (length, 2))], axis=1)
    return truth, said.round(3)


def boxes_of(oracle: Path | None) -> dict[str, tuple[ndarray, ndarray]]:
    """Truth and a tracker's boxes of each sequence of OTB-100: made up, or of a file of real ones.

    Numbers below 1 in the annotation are raised to 1: the official code takes such a frame for one
    without a target, got10k's does not.
    """
    if oracle is None:
        rng = np.random.default_rng(0)
        lengths = map(int, LENGTHS.split())
        return {
            name: made_up_boxes(length, rng) for name, length in zip(OTB100, lengths, strict=True)
        }
    content = json.loads(oracle.read_text())
    said = next(iter(content["trackers"].values()))["predictions"]
    by_alias = {name.casefold().replace("-", "."): name for name in content["gt"]}
    names = {name: by_alias[name.casefold()] for name in OTB100}
    return {
        name: (np.maximum(np.array(content["gt"][theirs], float), 1.0), np.array(said[theirs]))
        for name, theirs in names.items()
    }


def write_files(folder: Path, boxes: dict[str, tuple[ndarray, ndarray]]) -> None:
    """OTB's layout with empty images, and a result file per sequence as got10k names it."""
    results = folder / "results" / "tracker"
    results.mkdir(parents=True)
    for name, (truth, said) in boxes.items():
        video, _, target = name.partition(".")
        images = folder / "otb" / video / "img"
        if not images.is_dir():
            images.mkdir(parents=True)
            first = 1 if video == "David" else FRAME_RANGES.get(video, (1, 0))[0]
            last = 770 if video == "David" else first + len(truth) - 1
            for number in range(first, last + 1):
                (images / f"{number:04d}.jpg").touch()
        suffix = f".{target}" if target else ""
        np.savetxt(images.parent / f"groundtruth_rect{suffix}.txt", truth, "%.3f", delimiter=",")
        if video == "Human4":
            (images.parent / "groundtruth_rect.1.txt").touch()
        shown = video if video == "Human4" else name
        np.savetxt(results / f"{shown}.txt", said, "%.3f", delimiter=",")


def score_ours(folder: Path) -> tuple[float, float, TrackerScore]:
    """Seconds to read the benchmark, seconds to score the tracker's files on it, and the scores."""
    begin = time.perf_counter()
    selection = select(find_benchmark("otb100"), folder / "otb")
    read = time.perf_counter()
    score = score_results("tracker", folder / "results" / "tracker", selection)
    return read - begin, time.perf_counter() - read, score


def ask(peer: "subprocess.Popen[str]") -> dict[str, Any]:
    """The peer's next answer."""
    assert peer.stdin is not None and peer.stdout is not None
    if peer.poll() is None:
        peer.stdin.write("go\n")
        peer.stdin.flush()
        if line := peer.stdout.readline():
            answer: dict[str, Any] = json.loads(line)
            return answer
    raise SystemExit("scoring: got10k's process ended; what it says stands above")


def measure_scoring(peer_python: Path | None, oracle: Path | None, rounds: int) -> bool:
    """Prints the comparison; whether it is as it should be."""
    if peer_python is None:
        print("scoring: left out, --peer-python names no Python that has got10k")
        return True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        boxes = boxes_of(oracle)
        write_files(folder, boxes)
        script = Path(__file__).with_name("got10k_scoring.py")
        command = [peer_python, script, folder / "otb", folder / "results", "tracker"]
        reading, ours, theirs = [], [], []
        peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(rounds + 1):  # the first is start-up
            read, scored, score = score_ours(folder)
            answer = ask(peer)
            reading.append(read)
            ours.append(scored)
            theirs.append(answer["seconds"])
        peer.communicate()
    worst = max(
        abs(score.values["auc"] - answer["auc"]),
        abs(score.values["precision_20"] - answer["precision_20"]),
    )
    for each in score.sequences:
        named = "Human4" if each.sequence == "Human4.2" else each.sequence
        pairs = zip(each.values.values(), answer["sequences"][named], strict=True)
        worst = max(worst, *(abs(mine - other) for mine, other in pairs))
    faster = ratio(theirs[1:], ours[1:])
    whole = ratio(theirs[1:], [sum(pair) for pair in zip(reading[1:], ours[1:], strict=True)])
    num_frames = sum(len(truth) for truth, _ in boxes.values())
    print(
        f"scoring: OTB-100, {num_frames} frames: a tracker's files "
        f"{statistics.median(ours[1:]):.2f} s, the benchmark's, read once for all trackers, "
        f"{statistics.median(reading[1:]):.2f} s; "
        f"got10k, which reads both for each tracker, {statistics.median(theirs[1:]):.2f} s: "
        f"{faster:.1f} times as fast (at least {SPEED_BAR}), {whole:.1f} times with the "
        f"benchmark's files; AUC {score.values['auc']:.4f}, "
        f"largest difference of any sequence {worst:.1e}"
    )
    return faster >= SPEED_BAR and worst <= TOLERANCE
