"""Logging from other nodes; the Ray side of it runs in `test_three_nodes.py`."""

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from mlflow import MlflowClient
from mlflow.entities import Metric

from meta_train import placement, run_relay, run_store
from meta_train.run_log import RunHandle, RunLog
from meta_train.run_relay import RelayedLog, RunRoute, _Relay, attach, route_to

DRIVERS, ANOTHER = "a" * 56, "b" * 56
"""Ids of nodes."""


class FakeMlflow(MlflowClient):
    """Takes points; does not look whether it has them."""

    def __init__(self) -> None:
        self.points: list[Metric] = []
        self.is_down = False

    def get_metric_history(self, run_id: str, name: str) -> list[Metric]:
        if self.is_down:
            raise ConnectionError("no MLflow here")
        return [point for point in self.points if point.key == name]

    def log_batch(self, run_id: str, metrics: list[Metric]) -> None:
        self.points += metrics

    def set_terminated(self, run_id: str, status: str) -> None:
        pass

    @property
    def stored(self) -> list[tuple[str, int, float]]:
        return [(point.key, point.step, point.value) for point in self.points]


class FakeActor:
    """A relay in this process. What goes to it is pickled, as by Ray."""

    def __init__(self) -> None:
        self.relay = _Relay()
        self.is_lost = False
        self.log = SimpleNamespace(remote=self._answer)

    def _answer(self, *given: Any) -> Any:
        """As Ray's reference to an answer: whoever waits for its future keeps the CPU."""
        answer = SimpleNamespace(result=lambda timeout: self._log(*given))
        return SimpleNamespace(future=lambda: answer)

    def _log(self, *given: Any) -> None:
        if self.is_lost:
            raise ray.exceptions.ActorUnavailableError("gone for a while", None)
        self.relay.log(*pickle.loads(pickle.dumps(given)))


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMlflow:
    fake = FakeMlflow()
    monkeypatch.setattr(run_store, "MlflowClient", lambda uri: fake)
    return fake


@pytest.fixture
def handle(tmp_path: Path) -> RunHandle:
    return RunHandle(
        tracking_uri="http://127.0.0.1:5000",
        run_id="7" * 32,
        experiment_id="1",
        undelivered_dir=str(tmp_path / "undelivered"),
    )


@pytest.fixture
def elsewhere(
    mlflow: FakeMlflow, handle: RunHandle, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], RelayedLog]:
    """Gives the run as processes on another node than the relay's see it."""
    actor = FakeActor()
    route = RunRoute(handle=handle, relay=actor, relay_node=DRIVERS)
    on(ANOTHER, monkeypatch)

    def another_process() -> RelayedLog:
        run = attach(route)
        assert isinstance(run, RelayedLog)
        return run

    return another_process


def on(node: str, monkeypatch: pytest.MonkeyPatch, job: str = "01") -> None:
    """As if this process ran on that node."""
    context = SimpleNamespace(
        get_node_id=lambda: node, get_job_id=lambda: job, gcs_address="10.0.0.7:6379"
    )
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)


def test_where_there_are_other_nodes_one_relay_logs_for_them(
    handle: RunHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = SimpleNamespace(options=lambda **given: SimpleNamespace(remote=object))
    monkeypatch.setattr(ray, "remote", lambda kind: actor)
    on(DRIVERS, monkeypatch)
    monkeypatch.setattr(placement, "cluster_nodes", lambda: [{"CPU": 2.0}])
    assert route_to(handle) == RunRoute(handle=handle)
    monkeypatch.setattr(placement, "cluster_nodes", lambda: [{"CPU": 0.0}, {"CPU": 2.0}])
    route = route_to(handle)
    assert route.relay_node == DRIVERS and route.relay is not None
    assert route_to(handle).relay is route_to(replace(handle, run_id="8" * 32)).relay
    first = route_to(handle).relay
    on(DRIVERS, monkeypatch, job="02")
    assert route_to(handle).relay is not first, "another connection to Ray has another relay"


def test_a_process_beside_the_driver_logs_by_itself(
    handle: RunHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(attach(RunRoute(handle=handle)), RunLog)  # where Ray is not connected, too
    on(DRIVERS, monkeypatch)
    route = RunRoute(handle=handle, relay=object(), relay_node=DRIVERS)
    assert isinstance(attach(route), RunLog)


def test_points_of_other_nodes_are_stored_once(
    mlflow: FakeMlflow, elsewhere: Callable[[], RelayedLog]
) -> None:
    worker, task = elsewhere(), elsewhere()
    worker.log_metrics({"train/meta_loss": 2.0}, 0)
    assert mlflow.stored == [("train/meta_loss", 0, 2.0)]
    task.log_metrics({"otb100/auc": 0.5}, 0)
    again = elsewhere()
    again.log_metrics({"train/meta_loss": 9.0}, 0)
    again.log_metrics({"train/meta_loss": 1.0}, 1)
    again.close()
    assert mlflow.stored[1:] == [("otb100/auc", 0, 0.5), ("train/meta_loss", 1, 1.0)]
    with pytest.raises(ValueError, match=r"name has .* got .loss%."):
        worker.log_metrics({"loss%": 1.0}, 2)


def test_what_mlflow_did_not_take_is_delivered_by_the_driver(
    mlflow: FakeMlflow, handle: RunHandle, elsewhere: Callable[[], RelayedLog]
) -> None:
    worker = elsewhere()
    mlflow.is_down = True
    worker.log_metrics({"loss": 1.0}, 0)
    worker.close()
    mlflow.is_down = False
    assert mlflow.stored == []
    RunLog.attach(handle).finish()
    assert mlflow.stored == [("loss", 0, 1.0)]


def test_a_worker_that_ends_has_the_relay_deliver_at_once(
    mlflow: FakeMlflow, elsewhere: Callable[[], RelayedLog]
) -> None:
    worker = elsewhere()
    mlflow.is_down = True
    worker.log_metrics({"loss": 1.0}, 0)
    mlflow.is_down = False
    worker.log_metrics({"loss": 0.5}, 1)
    assert mlflow.stored == [], "MLflow is left alone for a while"
    worker.close()
    assert mlflow.stored == [("loss", 0, 1.0), ("loss", 1, 0.5)]


def test_a_relay_that_is_lost_for_a_while_loses_nothing(
    mlflow: FakeMlflow,
    elsewhere: Callable[[], RelayedLog],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = elsewhere()
    actor = worker._route.relay
    actor.is_lost = True
    for step in range(50):
        worker.log_metrics({"loss": float(step)}, step)
    assert caplog.text.count("trying later") == 1, "a relay that fails is left alone"
    actor.is_lost = False
    monkeypatch.setattr(run_relay, "RETRY_SECONDS", 0.0)
    worker._retry_at = 0.0
    worker.log_metrics({"loss": 50.0}, 50)
    assert mlflow.stored == [("loss", step, float(step)) for step in range(51)]
    actor.is_lost = True
    worker.log_metrics({"loss": 51.0}, 51)
    worker.close()
    assert "did not take steps [51]" in caplog.text


def test_a_relay_may_take_longer_than_mlflow_may() -> None:
    """The first call that fails takes its time-out and its retries', and none follows it."""
    seconds = int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])
    calls = 1 + int(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
    assert seconds * calls < run_relay.RELAY_SECONDS
