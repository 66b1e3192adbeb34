import json
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas
import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient

from meta_train import run_log, run_store
from meta_train.run_log import MlflowConfig, RunLog, RunLogError, absolute_uri, flatten_config
from meta_train.undelivered import Point, UndeliveredFolder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> MlflowConfig:
    """One SQLite store for the module: making its tables takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    return MlflowConfig(
        tracking_uri=f"sqlite:///{folder}/mlflow.db", undelivered_dir=str(folder / "undelivered")
    )


def start(
    store: MlflowConfig, params: dict[str, object] | None = None, run_id: str | None = None
) -> RunLog:
    return RunLog.start(store, run_name="r", params=params or {}, tags={}, run_id=run_id)


def stored(run: RunLog, name: str) -> list[tuple[int, float]]:
    client = MlflowClient(run.handle.tracking_uri)
    history = client.get_metric_history(run.handle.run_id, name)
    return sorted((point.step, point.value) for point in history)


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Call with True: MLflow refuses points; with False: it takes them again, at once."""
    send = run_store.send_points

    def refuse(*_: object) -> None:
        raise ConnectionError("no MLflow here")

    def switch(down: bool) -> None:
        monkeypatch.setattr(run_store, "send_points", refuse if down else send)
        monkeypatch.setattr(run_log, "RETRY_SECONDS", 1000.0 if down else 0.0)

    return switch


def test_a_run_has_its_parameters_points_files_and_status(store: MlflowConfig) -> None:
    run = start(store, {"num_steps": 4, "long": "x" * 7000})
    run.log_metrics({"train/meta_loss": 1.5, "train/grad": 2.0}, step=0)
    run.log_metrics({"train/meta_loss": 0.5}, step=20)
    run.set_tags({"study": "kllr"})
    figure = Figure()
    figure.subplots().plot([0, 1])
    run.log_figure(figure, "plots/success.png")
    run.log_image(np.zeros((8, 9, 3), dtype=np.uint8), "crops/first.png")
    run.log_table([{"name": "Basketball", "auc": 0.5}], "tables/otb.json")
    run.log_table([{"name": "Bolt", "auc": 0.25}], "tables/vot.json")
    run.log_dict({"a": 1}, "config.json")
    run.finish()

    client = MlflowClient(store.tracking_uri)
    found = client.get_run(run.handle.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params["num_steps"] == "4"
    assert "7000 characters" in found.data.params["long"]
    assert found.data.tags["study"] == "kllr"
    assert stored(run, "train/meta_loss") == [(0, 1.5), (20, 0.5)]
    tables = json.loads(found.data.tags["mlflow.loggedArtifacts"])
    assert [table["path"] for table in tables] == ["tables/otb.json", "tables/vot.json"]
    folder = Path(client.download_artifacts(run.handle.run_id, ""))
    table = pandas.read_json(folder / "tables/otb.json", orient="split")
    assert table.to_dict("records") == [{"name": "Basketball", "auc": 0.5}]
    assert (folder / "params/long.txt").read_text() == "x" * 7000
    assert (folder / "plots/success.png").stat().st_size > 1000
    assert (folder / "crops/first.png").read_bytes().startswith(b"\x89PNG")
    beside = Path(store.tracking_uri.removeprefix("sqlite:///")).parent
    assert folder.is_relative_to(beside), "a bare `mlflow ui` must find the files"


def test_a_resumed_run_is_the_same_run_with_each_step_once(store: MlflowConfig) -> None:
    first = start(store, {"rate": 0.1, "workers": 1})
    for step in range(4):
        first.log_metrics({"loss": float(step)}, step)

    second = start(store, {"rate": 0.1, "workers": 2, "new": "x" * 7000}, first.handle.run_id)
    for step in range(2, 6):
        second.log_metrics({"loss": 100.0 + step}, step)
    second.finish("FAILED")

    assert second.handle == first.handle
    assert stored(second, "loss") == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 104), (5, 105)]
    found = MlflowClient(store.tracking_uri).get_run(first.handle.run_id)
    assert found.data.params["workers"] == "1"
    assert {name: tag for name, tag in found.data.tags.items() if name.startswith("resumed.")} == {
        "resumed.workers": "2"
    }
    assert found.info.status == "FAILED"


def test_a_driver_killed_before_it_noted_its_run_finds_it_again(store: MlflowConfig) -> None:
    tags = {"run_id": "quickstart-7"}
    killed = RunLog.start(store, run_name="r", params={"a": 1}, tags=tags)
    again = RunLog.start(store, run_name="r", params={"a": 1}, tags=tags)
    assert again.handle == killed.handle
    again.finish()
    assert RunLog.start(store, run_name="r", params={}, tags=tags).handle != killed.handle
    other = RunLog.start(store, run_name="r", params={}, tags={"run_id": "quickstart-8"})
    assert other.handle.run_id != killed.handle.run_id


def test_a_worker_logs_to_the_drivers_run_from_its_handle(store: MlflowConfig) -> None:
    driver = start(store)
    worker = RunLog.attach(pickle.loads(pickle.dumps(driver.handle)))
    worker.log_metrics({"loss": 1.0}, 0)
    worker.log_metrics({"loss": 2.0}, 0)
    worker.close()
    restarted = RunLog.attach(driver.handle)
    restarted.log_metrics({"loss": 3.0}, 0)
    restarted.log_metrics({"loss": 4.0}, 1)
    restarted.close()
    assert stored(driver, "loss") == [(0, 1.0), (1, 4.0)]


def test_an_outage_delays_points_and_loses_none(
    store: MlflowConfig, outage: Callable[[bool], None]
) -> None:
    run = start(store)
    run.log_metrics({"loss": 0.0}, 0)
    outage(True)
    run.log_metrics({"loss": 1.0, "other": 7.0}, 1)
    run.log_metrics({"loss": 2.0}, 2)
    run.log_metrics({"loss": 2.5}, 2)
    assert stored(run, "loss") == [(0, 0.0)]
    outage(False)
    run._retry_at = 0.0
    run.log_metrics({"loss": 3.0}, 3)
    assert stored(run, "loss") == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)]
    assert stored(run, "other") == [(1, 7.0)]


def test_a_call_that_failed_after_it_stored_is_not_sent_again(
    store: MlflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, send, sent = start(store), run_store.send_points, []

    def store_then_time_out(client: MlflowClient, run_id: str, points: list[Point]) -> None:
        sent.extend(points)
        send(client, run_id, points)
        raise TimeoutError("no answer")

    monkeypatch.setattr(run_store, "send_points", store_then_time_out)
    run.log_metrics({"loss": 1.0}, 1)
    run.finish()
    assert len(sent) == 1
    assert stored(run, "loss") == [(1, 1.0)]


def test_what_a_killed_worker_could_not_deliver_is_delivered_by_the_driver(
    store: MlflowConfig, outage: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    driver = start(store)
    outage(True)
    killed = RunLog.attach(driver.handle)
    killed.log_metrics({"loss": 1.0}, 1)
    closed = RunLog.attach(driver.handle)
    closed.log_metrics({"loss": 2.0}, 2)
    closed.log_text("hello", "notes/a.txt")
    closed.close()
    assert "1 points, 1 files" in caplog.text
    outage(False)
    driver.finish()
    assert stored(driver, "loss") == [(1, 1.0), (2, 2.0)]
    notes = MlflowClient(store.tracking_uri).list_artifacts(driver.handle.run_id, "notes")
    assert [note.path for note in notes] == ["notes/a.txt"]
    assert not Path(driver.handle.undelivered_dir).exists()


def log_fifty_points(uri: str, folder: Path) -> None:
    """As a worker whose server is at an address; all points are then left in the folder."""
    handle = run_log.RunHandle(
        tracking_uri=uri, run_id="0" * 32, experiment_id="1", undelivered_dir=str(folder)
    )
    run = RunLog.attach(handle)
    for step in range(50):
        run.log_metrics({"loss": 0.5}, step)
    assert len(UndeliveredFolder(folder).read_points()) == 50


def test_a_server_that_is_down_costs_no_exception_and_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log_fifty_points("http://127.0.0.1:1", tmp_path / "undelivered")
    assert caplog.text.count("failed, trying later") == 1


def test_a_server_that_never_answers_delays_one_step_by_its_time_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        log_fifty_points(address, tmp_path / "undelivered")
    assert caplog.text.count("failed, trying later") == 1


def test_a_cut_line_of_undelivered_points_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = UndeliveredFolder(tmp_path)
    point = Point("loss", float("inf"), 17, 3)
    folder.append([point])
    (tmp_path / "other.jsonl").write_text('{"name": "loss", "val' + "u" * 99)
    assert folder.read_points() == [point]
    assert "no metric point: b'{" in caplog.text and "u... (123 characters)" in caplog.text


def test_a_disk_that_fails_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    UndeliveredFolder(tmp_path / "file").append([Point("loss", 1.0, 17, 3)])
    assert "not written" in caplog.text


def test_an_unknown_run_id_is_refused(store: MlflowConfig) -> None:
    with pytest.raises(RunLogError, match="cannot open the run 0123"):
        start(store, run_id="0123")


def test_wrong_names_are_refused(store: MlflowConfig) -> None:
    run = start(store)
    with pytest.raises(ValueError, match="metric's name"):
        run.log_metrics({"loss%": 1.0}, 0)
    with pytest.raises(ValueError, match="row 1 has columns"):
        run.log_table([{"a": 1}, {"b": 1}], "t.json")
    with pytest.raises(ValueError, match="no plain folders"):
        MlflowConfig(tracking_uri="./mlruns")


def test_processes_that_create_one_database_at_once_all_get_a_run(tmp_path: Path) -> None:
    code = (
        "from meta_train.run_log import *;"
        "RunLog.start(MlflowConfig(), run_name='r', params={}, tags={}).finish()"
    )
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment)
        for _ in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert len(client.search_runs(["1"])) == 2


def test_only_a_relative_database_moves() -> None:
    assert absolute_uri("sqlite:///a/b.db", Path("/x")) == "sqlite:////x/a/b.db"
    assert absolute_uri("sqlite:////a/b.db", Path("/x")) == "sqlite:////a/b.db"
    assert absolute_uri("http://127.0.0.1:5000", Path("/x")) == "http://127.0.0.1:5000"


@dataclass(frozen=True, kw_only=True)
class Small:
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Large:
    size: tuple[int, int] = (2, 3)


@dataclass(frozen=True, kw_only=True)
class Tree:
    detector: Small | Large
    inner: Small
    parts: tuple[Small | Large, ...]
    note: str | None = None


def test_a_nested_config_becomes_flat_parameters() -> None:
    assert flatten_config(Tree(detector=Large(), inner=Small(), parts=(Small(), Large()))) == {
        "detector": "Large",
        "detector.size": (2, 3),
        "inner.rate": 0.5,
        "parts.0.rate": 0.5,
        "parts.1.size": (2, 3),
        "note": None,
    }
    with pytest.raises(ValueError, match="dataclass instance"):
        flatten_config({"a": 1})
