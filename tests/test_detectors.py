"""Every row of `DETECTORS` trains, validates, goes to a file and back, and tracks."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipeline.boxes import iou
from data_pipeline.synthetic_scenes import SyntheticConfig, render_video
from eval_jobs.presets import PRESETS
from eval_jobs.tracker import OnlineTracker
from eval_jobs.tracker_config import TrackerConfig
from meta_train.checkpoint import load
from meta_train.detectors import DETECTORS
from meta_train.detectors.fcos import FcosConfig
from meta_train.train_config import TrainConfig, from_json, to_json
from meta_train.worker import Metrics, Rim, train

ROOT = Path(__file__).parents[1]
OF_THE_PAPER = {"fcos", "retina"}
KINDS = {config_class().kind: config_class for config_class in DETECTORS}


def config_of(kind: str, tiny_config: TrainConfig) -> TrainConfig:
    """Six outer steps of a detector on the tiny network."""
    return replace(tiny_config, detector=KINDS[kind](network=tiny_config.detector.network))


@pytest.mark.parametrize("kind", KINDS)
def test_a_detector_trains_goes_to_a_file_and_tracks(
    kind: str, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    config = config_of(kind, tiny_config)
    reports: list[tuple[Metrics, Path | None]] = []
    rim = Rim(scratch=tmp_path, report=lambda metrics, folder: reports.append((metrics, folder)))
    torch.set_num_threads(1)
    learner = train(config, rim)
    metrics, folder = reports[-1]
    assert folder is not None and np.isfinite(list(metrics.values())).all()
    assert "val/iou_2" in metrics

    again = load(folder)
    assert again.config == config and type(again.config.detector) is KINDS[kind]
    assert all(torch.equal(again.weights[name], w) for name, w in learner.weights.items())

    size = {"width_px": 160, "height_px": 120, "min_target_px": 24.0, "max_target_px": 36.0}
    videos = SyntheticConfig(frames_per_video=5, **size)
    frames, boxes, _ = render_video(videos, 7)
    tracker = OnlineTracker.load(folder, TrackerConfig(min_score=-1e9, update_interval_frames=2))
    tracker.start(frames[0], boxes[0])
    predictions = [tracker.follow(frame) for frame in frames[1:]]
    assert all(np.isfinite(p.box).all() and not p.lost for p in predictions)
    assert float(iou(predictions[0].box, boxes[1])) > 0
    if kind != "fcos":
        assert all(0 <= p.score <= 1 for p in predictions), "a probability"


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_comes_back_from_json_as_the_same_detector(
    kind: str, tiny_config: TrainConfig
) -> None:
    config = config_of(kind, tiny_config)
    again = from_json(to_json(config))
    assert again == config and type(again.detector) is KINDS[kind]


def test_json_of_no_detector_is_refused() -> None:
    with pytest.raises(ValueError, match="'fcos'"):
        from_json('{"detector": {"kind": "yolo"}}')


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"fcos"}))
@pytest.mark.parametrize("preset", ["quickstart", "small", "paper"])
def test_every_preset_exists_with_every_detector(kind: str, preset: str) -> None:
    usual, other = PRESETS[preset][1], PRESETS[f"{preset}-{kind}"][1]
    assert type(other.train.detector) is KINDS[kind]
    assert type(usual.train.detector) is FcosConfig
    assert other.train.detector.network == usual.train.detector.network
    alike = replace(other, train=replace(other.train, detector=usual.train.detector))
    assert alike == usual


@pytest.mark.skipif(set(KINDS) != OF_THE_PAPER, reason="this is the copy")
def test_a_third_detector_is_one_file_and_one_row(tmp_path: Path) -> None:
    """A copy of the project, with a file and a row more, passes the tests above with it."""
    skipped = shutil.ignore_patterns("__pycache__", "test_project.py")
    for name in ("data_pipeline", "meta_train", "eval_jobs", "search_spaces", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=skipped)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    detectors = tmp_path / "meta_train" / "detectors"
    shutil.move(tmp_path / "tests" / "third_detector.py", detectors / "square.py")
    table = (detectors / "__init__.py").read_text()
    row = "    RetinaConfig: Retina,\n"
    imported = "from meta_train.detectors.retina import Retina, RetinaConfig\n"
    assert table.count(row) == table.count(imported) == 1
    table = table.replace(row, row + "    SquareConfig: Square,\n")
    own = "from meta_train.detectors.square import Square, SquareConfig\n"
    (detectors / "__init__.py").write_text(table.replace(imported, imported + own))

    # Without the run-time checks of shapes, which take longer than the tests.
    options = ["-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"]
    command = [sys.executable, "-m", "pytest", *options, "-k", "square"]
    done = subprocess.run(
        [*command, "tests/test_detectors.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[1-9]\d* passed", done.stdout) and "skipped" not in done.stdout
