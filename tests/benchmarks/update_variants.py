"""Ways of online updating on validation videos, each played there and back from both ends.

    python tests/benchmarks/update_variants.py --folder GOT10K_LAYOUT \\
        --checkpoints runs/maml-0/step-00001200 runs/maml-1/step-00001200 \\
        --device cuda --processes 12

For choosing a way without touching what the report uses. The folder holds a ``val`` part in
GOT-10k's layout, of videos that training left out. Few and short videos tell little; played there
and back, from their first frame and from their last, they give each tracker twice the length and
every target two starts. ``--stride 3`` takes every third frame, so that targets move and change
faster; ``--part 0.6`` follows the middle of each target, which a tracker is apt to take for the
whole. A variant's number is the mean over all runs of the success plot's AUC, over frames with a
box, the given one left out; MLflow gets it too.
"""

import argparse
import multiprocessing
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from data_pipeline.boxes import xyxy_to_xywh
from data_pipeline.tracks import Track
from eval_jobs.benchmarks import find_benchmark, select
from eval_jobs.metrics import SUCCESS_THRESHOLDS, overlaps
from eval_jobs.protocols import one_pass
from eval_jobs.results import file_name
from eval_jobs.tracker import OnlineTracker
from eval_jobs.tracker_config import TrackerConfig
from eval_jobs.update_rule import DriftConfig
from meta_train.run_log import MlflowConfig, RunLog, RunStatus

RELEARN = TrackerConfig(min_update_gap_frames=10, drift=DriftConfig(relearn=True))
RELEARN_CLS = replace(RELEARN, update_branches=("cls",))
VARIANTS = {
    "no updates": TrackerConfig(update_interval_frames=None),
    "heads": TrackerConfig(),
    "heads, cls": TrackerConfig(update_branches=("cls",)),
    "heads, cls, distractors": TrackerConfig(
        update_branches=("cls",), update_triggers=("distractor",)
    ),
    "relearn": RELEARN,
    "relearn, cls": RELEARN_CLS,
    "relearn, cls, sure": replace(
        RELEARN_CLS, drift=DriftConfig(relearn=True, min_update_score=0.5)
    ),
    "relearn, cls, half-way": replace(RELEARN_CLS, drift=DriftConfig(relearn=True, pull_back=0.5)),
}
"""What is compared, by name."""


def middle(boxes: Float[ndarray, "frames 4"], part: float) -> Float[ndarray, "frames 4"]:
    """The boxes' middles: width and height are this part of theirs."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    half_sizes = (boxes[:, 2:] - boxes[:, :2]) / 2 * part
    return np.concatenate([centers - half_sizes, centers + half_sizes], axis=1)


def there_and_back(track: Track, *, rounds: int, stride: int, part: float) -> Iterator[Track]:
    """The video played on and back, and back and on, each from the first frame with a box and as
    often as ``rounds`` says.
    """
    count = len(track)
    for order in (range(0, count, stride), range(count - 1, -1, -stride)):
        frames = list(order)
        while frames and not np.isfinite(track.boxes[frames[0]]).all():
            frames = frames[1:]
        if not frames:
            raise ValueError(f"{track.video}: no frame that is played has a box; lower --stride")
        frames += frames[-2::-1]
        frames += frames[1:] * (rounds - 1)
        yield replace(
            track,
            image_files=[track.image_files[frame] for frame in frames],
            boxes=middle(track.boxes[frames], part),
            visible=track.visible[frames],
            frame_numbers=np.arange(len(frames)),
        )


def run(checkpoint: str, variant: str, track: Track, device: str) -> tuple[float, int]:
    """AUC and number of updates."""
    torch.set_num_threads(1)
    tracker = OnlineTracker.load(checkpoint, VARIANTS[variant], device=device)
    found = one_pass(tracker, track)
    has_box = np.isfinite(track.boxes).all(axis=1)
    has_box[0] = False
    overlap = overlaps(xyxy_to_xywh(found.boxes[has_box]), xyxy_to_xywh(track.boxes[has_box]))
    assert found.updated is not None
    return float((overlap[:, None] > SUCCESS_THRESHOLDS).mean()), int(found.updated.sum())


def main() -> None:
    """Runs all and prints a line for each variant as soon as it is complete."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--checkpoints", nargs="+", required=True)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=1, help="how often there and back")
    parser.add_argument("--stride", type=int, default=1, help="of so many frames one is played")
    parser.add_argument("--part", type=float, default=1.0, help="of a target's sides is followed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    for name in ("rounds", "stride"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    if not 0 < options.part <= 1:
        parser.error(f"--part must lie in (0, 1], got {options.part}")
    selection = select(find_benchmark("got10k_layout"), options.folder, partial=True)
    playing = {name: getattr(options, name) for name in ("rounds", "stride", "part")}
    tracks = [each for track in selection.tracks for each in there_and_back(track, **playing)]
    run_log = RunLog.start(
        MlflowConfig(),
        run_name="update variants",
        params={
            "folder": options.folder,
            "checkpoints": " ".join(options.checkpoints),
            **playing,
            "device": options.device,
        },
        tags={"kind": "update_variants"},
    )
    status: RunStatus = "FAILED"
    try:
        compare(options, tracks, run_log)
        status = "FINISHED"
    finally:
        run_log.finish(status)


def compare(options: argparse.Namespace, tracks: list[Track], run_log: RunLog) -> None:
    """Runs each variant of each checkpoint on all tracks."""
    num_runs = len(tracks) * len(options.checkpoints)
    print(f"{num_runs} runs of each variant, {sum(map(len, tracks))} frames for each checkpoint")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, mp_context=context) as pool:
        running = {
            pool.submit(run, checkpoint, variant, track, options.device): (variant, checkpoint)
            for variant in options.variants
            for checkpoint in options.checkpoints
            for track in tracks
        }
        scores: dict[str, list[float]] = defaultdict(list)
        updates: dict[str, int] = defaultdict(int)
        by_checkpoint: dict[tuple[str, str], list[float]] = defaultdict(list)
        for future in as_completed(running):
            variant, checkpoint = running[future]
            auc, count = future.result()
            scores[variant].append(auc)
            updates[variant] += count
            by_checkpoint[variant, checkpoint].append(auc)
            if len(scores[variant]) == num_runs:
                each = [float(np.mean(by_checkpoint[variant, c])) for c in options.checkpoints]
                own = f"update_variants/{file_name(variant)}"
                found = {"auc": float(np.mean(each)), "updates": float(updates[variant])}
                run_log.log_metrics({f"{own}/{key}": value for key, value in found.items()}, step=0)
                print(
                    f"{variant:24} AUC {np.mean(scores[variant]):.3f} "
                    f"({', '.join(f'{auc:.3f}' for auc in each)}), {updates[variant]} updates",
                    flush=True,
                )


if __name__ == "__main__":
    main()
