"""The tracker that comes with the project, and how it was taken out of a run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipeline.boxes import iou
from data_pipeline.synthetic_scenes import SyntheticConfig, render_video
from eval_jobs.export_tracker import export_tracker, main
from eval_jobs.starter import STARTER
from eval_jobs.tracker import OnlineTracker
from meta_train.checkpoint import CheckpointError, load, save


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


def test_an_export_replaces_nothing_but_an_export(slim_checkpoint: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    export_tracker(slim_checkpoint, mine)
    export_tracker(slim_checkpoint, mine)
    (mine / "dog.mp4").write_text("a video")
    of_a_run = save(replace(load(slim_checkpoint), optimizer={"state": {}}), tmp_path / "last")
    for output, content in (
        (of_a_run, "it holds a run's checkpoint"),
        (mine, "it holds dog.mp4"),
        (mine / "dog.mp4", "a file"),
    ):
        with pytest.raises(CheckpointError, match=f"an earlier export, expected; .*{content}"):
            export_tracker(slim_checkpoint, output)
    assert (mine / "dog.mp4").read_text() == "a video"


def test_an_export_can_have_one_rate_for_all_kernels(slim_checkpoint: Path, tmp_path: Path) -> None:
    main(str(slim_checkpoint), str(tmp_path / "mine"), constant_rate=0.25)
    found, before = load(tmp_path / "mine"), load(slim_checkpoint)
    assert found.rates.keys() == before.rates.keys()
    assert all(bool((rate == 0.25).all()) for rate in found.rates.values())
    with pytest.raises(SystemExit, match="error: a constant inner-loop rate must be positive, got"):
        main(str(slim_checkpoint), str(tmp_path / "mine"), constant_rate=float("nan"))


def test_exports_that_fail_name_what_was_given(
    slim_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        SystemExit, match=r"error: .*file/mine: a folder that can be written expected"
    ):
        main(str(slim_checkpoint), str(tmp_path / "file" / "mine"))
    with pytest.raises(SystemExit, match="error: checkpoint: a URI without credentials expected"):
        main("s3://user:secret@bucket/best", str(tmp_path / "mine"))
    with pytest.raises(SystemExit, match="error: --output: a folder of this machine expected"):
        main(str(slim_checkpoint), "s3://bucket/mine")

    def unreachable(_: str) -> None:
        raise OSError("no such bucket")

    monkeypatch.setattr("meta_train.checkpoint.open_folder", unreachable)
    with pytest.raises(SystemExit, match=r"error: s3://bucket/best: .* \(no such bucket\)"):
        main("s3://bucket/best", str(tmp_path / "mine"))
