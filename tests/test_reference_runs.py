"""`eval_jobs.reference_runs`: runs go from MLflow into a file and back, whole and once."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from eval_jobs.reference_runs import (
    REFERENCE_TAG,
    ReferenceRun,
    fetch_runs,
    log_runs,
    main,
    read_runs,
    write_runs,
)
from meta_train.run_log import MlflowConfig, RunLog

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


def test_a_run_comes_back_from_mlflow_as_it_was_logged(mlflow: MlflowConfig) -> None:
    run_log = RunLog.start(
        mlflow, run_name="mine", params={"num_steps": 2}, tags={"kind": "pair_tasks"}
    )
    for step in range(3):
        run_log.log_metrics({"pair_tasks/iou": METRICS["pair_tasks/iou"][step]}, step=step)
    run_log.log_metrics({"otb100-8of100/auc": 0.625, "otb100-8of100/attr/OCC/auc": 0.5}, step=0)
    run_log.finish()
    run_id = run_log.handle.run_id
    (found,) = fetch_runs(mlflow, [run_id], omit=["/attr/"])
    assert found == ReferenceRun(
        run_id=run_id,
        name="mine",
        params={"num_steps": "2"},
        tags={"kind": "pair_tasks"},
        metrics=METRICS,
    )
    assert found.last("pair_tasks/iou") == 0.8125


def test_runs_of_a_file_are_logged_whole_and_once(mlflow: MlflowConfig, tmp_path: Path) -> None:
    file = tmp_path / "runs.json"
    write_runs([a_run("abc123"), a_run("def456")], file)
    runs = read_runs(file)
    assert runs == [a_run("abc123"), a_run("def456")]
    assert log_runs(mlflow, runs) == 2
    assert log_runs(mlflow, runs) == 0
    client = MlflowClient(mlflow.tracking_uri)
    experiment = client.get_experiment_by_name(mlflow.experiment)
    assert experiment is not None
    stored = client.search_runs([experiment.experiment_id])
    assert {run.data.tags[REFERENCE_TAG] for run in stored} == {"abc123", "def456"}
    for run in stored:
        assert run.info.run_name == "pair tasks FCOS-MAML" and run.info.status == "FINISHED"
        assert run.data.params == {"num_steps": "2"}
        history = client.get_metric_history(run.info.run_id, "pair_tasks/iou")
        assert {point.step: point.value for point in history} == METRICS["pair_tasks/iou"]


def test_one_that_was_cut_short_is_logged_again(mlflow: MlflowConfig) -> None:
    RunLog.start(mlflow, run_name="cut", params={}, tags={REFERENCE_TAG: "abc123"})
    assert log_runs(mlflow, [a_run("abc123")]) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"runs\.json: a file of runs expected"),
        ("[1]", "Type.*Error"),
        ('[{"run_id": "a"}]', "KeyError: 'name'|KeyError: 'metrics'"),
        (
            json.dumps(
                [{"run_id": "a'b", "name": "", "params": {}, "tags": {}, "metrics": {}}],
            ),
            "an id of letters and digits expected",
        ),
        (
            json.dumps(
                [{"run_id": "a", "name": "", "params": {}, "tags": {}, "metrics": {"iou": {}}}],
            ),
            "metrics without a point: iou",
        ),
    ],
    ids=["cut", "numbers", "keys", "id", "empty metric"],
)
def test_a_file_of_something_else_is_refused(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "runs.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_runs(file)


def test_no_file_and_no_run_are_said(mlflow: MlflowConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json: a file of runs expected, there is none"):
        read_runs(tmp_path / "none.json")
    with pytest.raises(ValueError, match="run 0123 cannot be read from MLflow"):
        fetch_runs(mlflow, ["0123"], omit=())


def test_the_script_takes_runs_out_and_puts_them_back(
    mlflow: MlflowConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "runs.json"
    write_runs([a_run()], file)
    main(file=file, mlflow=mlflow)
    client = MlflowClient(mlflow.tracking_uri)
    experiment = client.get_experiment_by_name(mlflow.experiment)
    assert experiment is not None
    (stored,) = client.search_runs([experiment.experiment_id])
    out = tmp_path / "out.json"
    main(export=(stored.info.run_id,), file=out, mlflow=mlflow)
    assert read_runs(out)[0].metrics == METRICS
    assert capsys.readouterr().out.startswith("logged 1 of 1 runs")
