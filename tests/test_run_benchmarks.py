"""The script `eval_jobs/run_benchmarks.py`, run as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mlflow import MlflowClient

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


@pytest.mark.ray
def test_script_evaluates_and_logs(tmp_path: Path) -> None:
    sequence = tmp_path / "OTB" / "Deer"
    (sequence / "img").mkdir(parents=True)
    for frame in range(1, 5):
        image = np.full((60, 80, 3), 9 * frame, dtype=np.uint8)
        cv2.imwrite(str(sequence / "img" / f"{frame:04d}.jpg"), image)
    (sequence / "groundtruth_rect.txt").write_text("10,10,20,20\n" * 4)

    done = run(tmp_path, "--folder", "OTB", "--baselines", "static", "--partial")

    assert done.returncode == 0, done.stderr
    assert "1 of 100 sequences" in done.stdout
    assert "0.952" in done.stdout
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "tracking-maml"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.metrics["otb100-1of100/auc"] == pytest.approx(20 / 21)
    # Logged by the task itself.
    assert found.data.metrics["otb100_sequences/Static_box/Deer/auc"] == pytest.approx(20 / 21)


def test_script_says_what_is_missing(tmp_path: Path) -> None:
    done = run(tmp_path, "--folder", "OTB")
    assert done.returncode != 0
    assert "nothing to evaluate: give --checkpoints or --baselines" in done.stderr
