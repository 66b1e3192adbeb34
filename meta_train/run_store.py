"""The calls to MLflow that `run_log` makes: stateless, and they raise what MLflow raises.

Plain `MlflowClient` with explicit run ids. No other module imports MLflow, so the settings below
come before its import.
"""

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A server that is down costs a training step these seconds, not MLflow's own two minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")

from mlflow import MlflowClient as MlflowClient
from mlflow.entities import Metric, Param, RunTag

from meta_train.undelivered import Point

MAX_VALUE_CHARS = 6000
"""Longest parameter that MLflow stores."""

MAX_POINTS_PER_CALL, MAX_PARAMS_PER_CALL = 1000, 100
"""Most that one `log_batch` takes."""

LOGGED_TABLES_TAG = "mlflow.loggedArtifacts"
"""The tag from which MLflow's pages know that an artifact is a table."""


def open_experiment(
    uri: str, experiment: str, artifact_location: str | None
) -> tuple[MlflowClient, str]:
    """A client and the experiment's id; creates the database and the experiment if need be."""
    if not uri.startswith("sqlite:///"):
        return _find_or_create(uri, experiment, artifact_location)
    folder = Path(uri.removeprefix("sqlite:///")).parent
    folder.mkdir(parents=True, exist_ok=True)
    beside = (folder / "mlartifacts" / experiment).as_uri()
    with _one_at_a_time(folder):
        return _find_or_create(uri, experiment, artifact_location or beside)


def _find_or_create(
    uri: str, experiment: str, artifact_location: str | None
) -> tuple[MlflowClient, str]:
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    if found is not None:
        return client, found.experiment_id
    return client, client.create_experiment(experiment, artifact_location)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, since processes that create one SQLite database break it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def find_running(client: MlflowClient, experiment_id: str, tag: str, value: str) -> str | None:
    """The id of an unfinished run that has this value of a tag; None where none has."""
    wanted = f"tags.`{tag}` = '{value}' and attributes.status = 'RUNNING'"
    found = client.search_runs([experiment_id], wanted, max_results=1)
    return found[0].info.run_id if found else None


def stored_steps(client: MlflowClient, run_id: str, name: str) -> set[int]:
    """The steps at which MLflow holds a point of a metric; none where it has no such metric."""
    return {point.step for point in client.get_metric_history(run_id, name)}


def stored_value(value: str) -> str:
    """A parameter's value as MLflow can hold it: one that is too long names the file it is in."""
    if len(value) <= MAX_VALUE_CHARS:
        return value
    return f"{value[:100]}... ({len(value)} characters, in full among the artifacts in params/)"


def send_params(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    """Stores parameters; one that is too long also as a text file."""
    params = [Param(name, stored_value(value)) for name, value in values.items()]
    for first in range(0, len(params), MAX_PARAMS_PER_CALL):
        client.log_batch(run_id, params=params[first : first + MAX_PARAMS_PER_CALL])
    for name, value in values.items():
        if len(value) > MAX_VALUE_CHARS:
            send_file(client, run_id, f"params/{name}.txt", value.encode())


def send_points(client: MlflowClient, run_id: str, points: Sequence[Point]) -> None:
    """Stores metric points."""
    metrics = [Metric(point.name, point.value, point.time_ms, point.step) for point in points]
    for first in range(0, len(metrics), MAX_POINTS_PER_CALL):
        client.log_batch(run_id, metrics=metrics[first : first + MAX_POINTS_PER_CALL])


def send_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Sets tags."""
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def send_file(client: MlflowClient, run_id: str, artifact_file: str, data: bytes) -> None:
    """Stores a file among the run's artifacts."""
    name = Path(artifact_file)
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / name.name
        local.write_bytes(data)
        parent = None if name.parent == Path() else name.parent.as_posix()
        client.log_artifact(run_id, str(local), parent)


def mark_as_table(client: MlflowClient, run_id: str, artifact_file: str) -> None:
    """Makes MLflow's pages show a JSON file as a table."""
    tables = json.loads(client.get_run(run_id).data.tags.get(LOGGED_TABLES_TAG, "[]"))
    entry = {"path": artifact_file, "type": "table"}
    if entry not in tables:
        client.set_tag(run_id, LOGGED_TABLES_TAG, json.dumps([*tables, entry]))
