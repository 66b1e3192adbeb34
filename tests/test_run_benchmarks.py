"""The script `eval_jobs/run_benchmarks.py`, run as a user runs it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from eval_jobs.run_benchmarks import main

SCRIPT = Path(__file__).parents[1] / "eval_jobs" / "run_benchmarks.py"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=folder,
        env=os.environ | {"COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def write_sequence(folder: Path, name: str = "Deer") -> None:
    """Four frames of OTB."""
    (folder / name / "img").mkdir(parents=True)
    for frame in range(1, 5):
        image = np.full((60, 80, 3), 9 * frame, dtype=np.uint8)
        cv2.imwrite(str(folder / name / "img" / f"{frame:04d}.jpg"), image)
    (folder / name / "groundtruth_rect.txt").write_text("10,10,20,20\n" * 4)


def finished_run(folder: Path) -> Run:
    """The only run in a folder's database."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "tracking-maml"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    return found


@pytest.mark.ray
def test_script_evaluates_and_logs(tmp_path: Path) -> None:
    write_sequence(tmp_path / "OTB")

    done = run(tmp_path, "--folder", "OTB", "--baselines", "static", "--partial")

    assert done.returncode == 0, done.stderr
    assert "1 of 100 sequences" in done.stdout
    assert "0.952" in done.stdout
    metrics = finished_run(tmp_path).data.metrics
    assert metrics["otb100-1of100/auc"] == pytest.approx(20 / 21)
    # Logged by the task itself.
    assert metrics["otb100_sequences/Static_box/Deer/auc"] == pytest.approx(20 / 21)


def test_results_of_others_are_scored_on_several_benchmarks_without_ray(
    tmp_path: Path, database: str, run_script: Callable[..., Any]
) -> None:
    write_sequence(tmp_path / "OTB")
    for name, rows in {"siamfc": "10 10 20 20\n" * 4, "lazy": "10\t10\t20\t40\n" * 4}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "Deer.txt").write_text(rows)
    options = "--folder OTB --partial --benchmark otb100 otb50 --results SiamFC=siamfc Lazy=lazy"

    done = run_script(SCRIPT, tmp_path, *options.split())

    assert done.returncode == 0, done.stderr
    (row,) = [
        line
        for line in done.stdout.splitlines()
        if "SiamFC" in line and "0.952" in line and "0.582" in line
    ]
    assert "Table 4" in row  # ours and the paper's figures share a row
    assert "low resolution" in done.stdout
    metrics = finished_run(tmp_path).data.metrics
    assert metrics["otb100-1of100/auc"] == pytest.approx(20 / 21)
    assert metrics["otb50-1of50/Lazy/attr/LR/auc"] < 0.7
    assert not any(name.startswith("speed/") for name in metrics)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to evaluate: give --checkpoints, --baselines or --results"),
        ({"folder": (Path("A"), Path("B"))}, "one folder, or one for each of 1 benchmarks"),
        ({"results": ("a=b", "a=c")}, "trackers need different names, got a, a"),
        (
            {"checkpoints": ("a=b",), "phases": ()},
            "--phases: at least one of before, after, online",
        ),
        ({"results": ("siamfc",)}, "NAME=FOLDER expected, got 'siamfc'"),
        ({"benchmark": ("otb",)}, "unknown benchmark 'otb'; there are otb2013"),
    ],
)
def test_wrong_options_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        main(**{"folder": (Path("OTB"),), **arguments})


def test_what_is_missing_is_said_before_there_is_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_sequence(tmp_path / "OTB")
    with pytest.raises(SystemExit, match=r"error: OTB-100 .* lacks 99: .*--partial"):
        main(folder=(Path("OTB"),), baselines=("static",))
    with pytest.raises(SystemExit, match=r"error: .*nowhere/checkpoint\.json: not found"):
        main(folder=(Path("OTB"),), checkpoints=("nowhere",), partial=True)
    assert {path.name for path in tmp_path.iterdir()} == {"OTB"}
