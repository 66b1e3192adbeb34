"""`eval_jobs.reference_runs`: runs go from MLflow into a file and back, whole and once."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from eval_jobs.reference_runs import (
    REFERENCE_TAG,
    ReferenceRun,
    fetch_runs,
    log_runs,
    main,
    read_runs,
    without_folders,
    write_runs,
)
from meta_train.run_log import MlflowConfig, RunLog, RunLogError

METRICS = {"pair_tasks/iou": {0: 0.25, 1: 0.5, 2: 0.8125}, "otb100-8of100/auc": {0: 0.625}}


@pytest.fixture
def mlflow(database: str, tmp_path: Path) -> MlflowConfig:
    return MlflowConfig(tracking_uri=database, undelivered_dir=str(tmp_path / "undelivered"))


def a_run(run_id: str = "abc123") -> ReferenceRun:
    return ReferenceRun(
        run_id=run_id,
        name="pair tasks FCOS-MAML",
        params={"num_steps": "2"},
        tags={"kind": "pair_tasks"},
        metrics=METRICS,
    )


def log_own_run(mlflow: MlflowConfig, **values: float) -> str:
    """A finished run as any command leaves one; gives its id."""
    tags = {"kind": "pair_tasks", "run_id": "mine", "trial_id": "mine", "shards": "/home/me/a/b"}
    run_log = RunLog.start(mlflow, run_name="mine", params={"num_steps": 2}, tags=tags)
    for step, value in METRICS["pair_tasks/iou"].items():
        run_log.log_metrics({"pair_tasks/iou": value}, step=step)
    run_log.log_metrics({"otb100-8of100/auc": 0.625, "otb100-8of100/attr/OCC/auc": 0.5}, step=0)
    run_log.log_metrics(values, step=0)
    run_log.finish()
    return run_log.handle.run_id


def stored(mlflow: MlflowConfig) -> list[Run]:
    client = MlflowClient(mlflow.tracking_uri)
    experiment = client.get_experiment_by_name(mlflow.experiment)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_a_run_comes_back_from_mlflow_as_it_was_logged(mlflow: MlflowConfig) -> None:
    run_id = log_own_run(mlflow, third=1 / 3, nothing=float("nan"), endless=float("inf"))
    (found,) = fetch_runs(mlflow, [run_id, run_id], omit=["/attr/"])
    assert found == ReferenceRun(
        run_id=run_id,
        name="mine",
        params={"num_steps": "2"},
        tags={"kind": "pair_tasks", "shards": "a/b"},
        metrics=METRICS | {"third": {0: 0.333333}},
    )
    assert found.last("pair_tasks/iou") == 0.8125


def test_runs_of_a_file_are_logged_whole_and_once(mlflow: MlflowConfig, tmp_path: Path) -> None:
    file = tmp_path / "runs.json"
    write_runs([a_run("abc123"), a_run("def456")], file)
    runs = read_runs(file)
    assert runs == [a_run("abc123"), a_run("def456")]
    assert log_runs(mlflow, runs) == 2
    assert log_runs(mlflow, runs) == 0
    found = stored(mlflow)
    assert {run.data.tags[REFERENCE_TAG] for run in found} == {"abc123", "def456"}
    client = MlflowClient(mlflow.tracking_uri)
    for run in found:
        assert run.info.run_name == "pair tasks FCOS-MAML" and run.info.status == "FINISHED"
        assert run.data.params == {"num_steps": "2"} and run.data.tags["kind"] == "pair_tasks"
        history = client.get_metric_history(run.info.run_id, "pair_tasks/iou")
        assert {point.step: point.value for point in history} == METRICS["pair_tasks/iou"]


def test_a_run_is_not_logged_beside_the_one_it_was_made_of(mlflow: MlflowConfig) -> None:
    own = fetch_runs(mlflow, [log_own_run(mlflow)], omit=())
    assert log_runs(mlflow, own) == 0 and len(stored(mlflow)) == 1
    assert log_runs(mlflow, [a_run("abc123")]) == 1
    (copy,) = [run.info.run_id for run in stored(mlflow) if REFERENCE_TAG in run.data.tags]
    assert fetch_runs(mlflow, [copy], omit=()) == [a_run("abc123")]


def test_one_that_was_cut_short_is_replaced(
    mlflow: MlflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_terminated", fail)
        with pytest.raises(RunLogError, match=r"cannot log runs in MLflow at .*the disk is full"):
            log_runs(mlflow, [a_run("abc123")])
    (half,) = stored(mlflow)
    assert log_runs(mlflow, [a_run("abc123")]) == 1
    (whole,) = stored(mlflow)
    assert whole.info.status == "FINISHED" and whole.info.run_id != half.info.run_id


def test_a_run_of_another_command_goes_on_alone(mlflow: MlflowConfig) -> None:
    """One that is running may have any name and tags."""
    tags = {"kind": "pair_tasks", "run_id": "abc123"}
    RunLog.start(mlflow, run_name="pair tasks FCOS-MAML", params={}, tags=tags)
    assert log_runs(mlflow, [a_run("abc123")]) == 1
    (running,) = [run for run in stored(mlflow) if run.info.status == "RUNNING"]
    assert not running.data.metrics and REFERENCE_TAG not in running.data.tags


def content(**changes: object) -> dict[str, object]:
    return {
        "run_id": "a",
        "name": "",
        "params": {},
        "tags": {},
        "metrics": {"iou": {"0": 1}},
    } | changes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"runs\.json: a file of runs expected"),
        ("{}", "got 0 runs; at least one expected"),
        ("[1]", "Type.*Error"),
        ('[{"run_id": "a"}]', "KeyError: 'name'"),
        (json.dumps([content(), content()]), "got 2 runs; .* each with an id of its own"),
        (json.dumps([content(run_id="a'b")]), "an id of letters and digits expected"),
        (json.dumps([content(tags={"run_id": "b"})]), "tags of where it was made: run_id"),
        (json.dumps([content(metrics={"iou": {}})]), "a metric without numbers: iou"),
        (json.dumps([content(metrics={"iou": {"0": float("nan")}})]), "without numbers: iou"),
        (json.dumps([content(metrics={"i,ou": {"0": 1}})]), "a metric's name has letters"),
    ],
    ids=["cut", "none", "number", "keys", "twice", "id", "tag", "empty", "nan", "name"],
)
def test_a_file_of_something_else_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "runs.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_runs(file)


def test_what_cannot_be_done_is_said(mlflow: MlflowConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json: a file of runs expected, there is none"):
        read_runs(tmp_path / "none.json")
    with pytest.raises(RunLogError, match="cannot read run 0123 from MLflow at"):
        fetch_runs(mlflow, ["0123"], omit=())
    running = RunLog.start(mlflow, run_name="running", params={}, tags={}).handle.run_id
    with pytest.raises(ValueError, match=f"run {running}: a finished run expected, it is RUNNING"):
        fetch_runs(mlflow, [running], omit=())
    closed = MlflowConfig(tracking_uri="http://127.0.0.1:9", undelivered_dir=str(tmp_path))
    with pytest.raises(RunLogError, match=r"cannot log runs in MLflow at http://127\.0\.0\.1:9"):
        log_runs(closed, [a_run()])
    with pytest.raises(SystemExit, match="--export needs --file"):
        main(export=(running,), mlflow=mlflow)


@pytest.mark.parametrize(
    ("value", "short"),
    [
        ("/home/me/runs/MAML-0/best", "MAML-0/best"),
        ("A=/home/me/A/step-1 B=/home/me/B/step-1", "A=A/step-1 B=B/step-1"),
        ("['/home/me/shards/', 'x']", "['me/shards', 'x']"),
        ("sqlite:////home/me/mlflow.db", "me/mlflow.db"),
        ("s3://bucket/a/b/shards", "s3://bucket/a/b/shards"),
        ("http://host:5000/a/b", "http://host:5000/a/b"),
        ("runs/MAML-0/best", "runs/MAML-0/best"),
        ("1 / 3", "1 / 3"),
    ],
)
def test_paths_lose_the_machine_s_folders(value: str, short: str) -> None:
    assert without_folders(value) == short


def test_the_script_puts_runs_there_and_takes_them_out(
    mlflow: MlflowConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "runs.json", tmp_path / "out.json"
    write_runs([a_run()], file)
    main(file=file, mlflow=mlflow)
    (run,) = stored(mlflow)
    main(export=(run.info.run_id,), file=out, mlflow=mlflow)
    assert read_runs(out) == [a_run()]
    main(file=out, mlflow=mlflow)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" runs")[0] for line in said] == [
        "logged 1 of 1",
        "wrote 1",
        "logged 0 of 1",
    ]
