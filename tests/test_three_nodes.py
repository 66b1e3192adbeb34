"""The whole way over a Ray cluster of three nodes: in a process of its own, beside other tests'."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the work was done."""
    folder = tmp_path_factory.mktemp("three")
    command = [sys.executable, "tests/work_on_three_nodes.py", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-9000:]
    return folder


@pytest.fixture(scope="module")
def work(folder: Path) -> Any:
    """What the command says of it."""
    return json.loads((folder / "work.json").read_text())


@pytest.mark.ray
@pytest.mark.cluster
def test_preprocessing_training_a_study_and_an_evaluation_use_both_workers_nodes(work: Any) -> None:
    def nodes(stage: str, kind: str) -> set[str]:
        return set(work["stages"][stage][kind])

    workers = nodes("preprocessing", "_write_planned_shard")
    assert len(workers) == 2 and work["head"] not in workers
    assert nodes("study", "RayTrainWorker") == workers
    assert nodes("study", "run_and_log") == workers
    assert nodes("evaluation", "run_and_log") == workers


@pytest.mark.ray
@pytest.mark.cluster
def test_all_of_it_ends_well(work: Any) -> None:
    assert [(trial["cell"], trial["error"]) for trial in work["trials"]] == [
        ("none", ""),
        ("cls", ""),
    ]
    assert all(0 <= trial["metrics"]["tracking/auc"] <= 1 for trial in work["trials"])
    assert {trial["trained_run"] for trial in work["trials"]} == {work["trained"]["run_id"]}
    (scores,) = work["scores"]
    assert 0 <= scores["auc"] <= 1


@pytest.mark.ray
@pytest.mark.cluster
def test_nodes_that_do_not_reach_mlflow_log_through_the_drivers(work: Any, folder: Path) -> None:
    for stage in ("study", "evaluation"):
        assert set(work["stages"][stage]["_Relay"]) == {work["head"]}
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tracking-maml")
    (training,) = client.search_runs([experiment.experiment_id], "tags.kind = 'train'")
    curve = client.get_metric_history(training.info.run_id, "train/meta_loss")
    assert [point.step for point in curve] == [1, 2, 3, 4, 5, 6]
    trials = [trial["mlflow_run_id"] for trial in work["trials"]]
    for run_id in [*trials, work["evaluation_run"]]:
        logged = client.get_run(run_id)
        assert logged.info.status == "FINISHED"
        by_sequence = [name for name in logged.data.metrics if "_sequences/" in name]
        assert len([name for name in by_sequence if name.endswith("/auc")]) == 3
    assert not list((folder / "left").rglob("*.jsonl")), "nothing waits to be delivered"
