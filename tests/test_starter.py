"""The tracker that comes with the project, and how it was taken out of a run."""

from pathlib import Path

import numpy as np
import torch

from data_pipeline.boxes import iou
from data_pipeline.synthetic_scenes import SyntheticConfig, render_video
from eval_jobs.export_tracker import export_tracker
from eval_jobs.starter import STARTER
from eval_jobs.tracker import OnlineTracker
from meta_train.checkpoint import load


def test_the_starter_is_small_and_names_no_machine() -> None:
    assert sum(path.stat().st_size for path in STARTER.iterdir()) < 5e6
    found = load(STARTER)
    assert found.config.shards == "" and found.optimizer == {}
    assert found.config.detector.network.backbone.weights == "random", "nothing was downloaded"


def test_the_starter_follows_what_it_has_not_seen() -> None:
    """A video of another seed than any it was trained on; a box that stays fails on it."""
    torch.set_num_threads(1)
    frames, boxes, _ = render_video(SyntheticConfig(frames_per_video=8), 987_654)
    tracker = OnlineTracker.load(STARTER)
    tracker.start(frames[0], boxes[0])
    found = np.array(
        [
            iou(tracker.follow(frame).box, box)
            for frame, box in zip(frames[1:], boxes[1:], strict=True)
        ]
    )
    stays = np.array([iou(boxes[0], box) for box in boxes[1:]])
    assert found.mean() > max(0.5, stays.mean() + 0.1)


def test_an_export_tracks_alike_and_leaves_the_run_behind(
    slim_checkpoint: Path, tmp_path: Path
) -> None:
    exported, original = (
        load(export_tracker(slim_checkpoint, tmp_path / "mine")),
        load(slim_checkpoint),
    )
    assert exported.config.detector == original.config.detector
    for one, other in ((exported.weights, original.weights), (exported.rates, original.rates)):
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
