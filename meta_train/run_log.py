"""What a run leaves in MLflow: parameters, curves, tables and pictures.

The driver calls `RunLog.start` before anything fans out, since processes that create a database at
once break it; workers and evaluation tasks call `RunLog.attach` with its handle, or `run_relay`'s
on other nodes than its own. Run ids are always explicit, so a restart continues the same run.

Trouble with MLflow never stops training. What cannot be delivered waits, in memory and on disk, and
goes out with a later call. Before anything is sent again the stored history is read, so that a step
is stored once, whatever was killed or timed out on the way.
"""

import dataclasses
import io
import json
import logging
import os
import sys
import time
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import cv2
from jaxtyping import UInt8
from matplotlib.figure import Figure
from numpy import ndarray

from data_pipeline.uris import expect_no_secret
from meta_train import run_store
from meta_train.undelivered import Point, UndeliveredFolder, expect_metric_names

RETRY_SECONDS = 30.0
"""How long MLflow is left alone after it failed."""

RunStatus = typing.Literal["FINISHED", "FAILED", "KILLED"]

log = logging.getLogger(__name__)


class RunLogError(RuntimeError):
    """A run cannot be started or continued in MLflow."""


@dataclass(frozen=True, kw_only=True)
class MlflowConfig:
    """Where runs are logged."""

    tracking_uri: str = field(
        default_factory=lambda: os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    )
    """A database (``sqlite:///file``) or a server (``http://host:port``); MLFLOW_TRACKING_URI where
    it is set. A relative file lies in the folder where the script starts, and a bare ``mlflow ui``
    there shows the runs."""

    experiment: str = "tracking-maml"
    """The experiment's name."""

    artifact_location: str | None = None
    """Folder or object store for files; beside a SQLite database, or the server's own, if None."""

    undelivered_dir: str = "runs/undelivered"
    """Where points and files wait on disk while MLflow does not take them."""

    def __post_init__(self) -> None:
        expect_no_secret(self.tracking_uri, "tracking_uri")
        expect_no_secret(self.artifact_location or "", "artifact_location")
        if urlsplit(self.tracking_uri).scheme in ("", "file"):
            raise ValueError(
                "tracking_uri must be a database or a server, such as sqlite:///mlflow.db or "
                f"http://127.0.0.1:5000 (MLflow 3 has no plain folders), got {self.tracking_uri!r}"
            )
        if not self.experiment:
            raise ValueError("experiment must be a name, got an empty string")


@dataclass(frozen=True, kw_only=True)
class RunHandle:
    """What another process needs to log to a run; small and picklable."""

    tracking_uri: str
    """Absolute."""

    run_id: str
    """MLflow's id of the run."""

    experiment_id: str
    """MLflow's id of the experiment."""

    undelivered_dir: str
    """Absolute; where this run's undelivered points and files wait."""


def absolute_uri(tracking_uri: str, folder: Path) -> str:
    """The URI with a relative SQLite file resolved against a folder; others as they are.

    >>> absolute_uri("sqlite:///mlflow.db", Path("/home/me"))
    'sqlite:////home/me/mlflow.db'
    """
    prefix = "sqlite:///"
    if not tracking_uri.startswith(prefix):
        return tracking_uri
    return prefix + str(folder.absolute() / tracking_uri.removeprefix(prefix))


def flatten_config(config: object, prefix: str = "") -> dict[str, object]:
    """A nested dataclass as flat parameters: ``{"inner_loop.num_steps": 4, ...}``.

    A field that is a union of dataclasses also gives its own name the class that was chosen.

    Raises:
        ValueError: not a dataclass instance.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ValueError(f"expected a dataclass instance, got {type(config).__name__}")
    flat: dict[str, object] = {}
    for entry in dataclasses.fields(config):
        value, name = getattr(config, entry.name), prefix + entry.name
        if dataclasses.is_dataclass(value) and len(typing.get_args(entry.type)) > 1:
            flat[name] = type(value).__name__
        flat |= _flatten_value(value, name)
    return flat


def _flatten_value(value: object, name: str) -> dict[str, object]:
    """One field's parameters; sequences of dataclasses are numbered."""
    if dataclasses.is_dataclass(value):
        return flatten_config(value, f"{name}.")
    if isinstance(value, list | tuple) and any(map(dataclasses.is_dataclass, value)):
        flat: dict[str, object] = {}
        for index, item in enumerate(value):
            flat |= _flatten_value(item, f"{name}.{index}")
        return flat
    return {name: value}


class RunLog:
    """One run in MLflow, as one process sees it. Not for several threads at once."""

    def __init__(self, handle: RunHandle) -> None:
        """Opens nothing yet; see `start` and `attach`."""
        self.handle = handle
        self._client: run_store.MlflowClient | None = None
        self._stored: dict[str, set[int]] = {}  # steps of each name whose history was read
        self._points: dict[tuple[str, int], Point] = {}
        self._tags: dict[str, str] = {}
        self._files: dict[str, bytes] = {}
        self._tables: set[str] = set()
        self._retry_at = 0.0
        self._disk = UndeliveredFolder(Path(handle.undelivered_dir))

    @classmethod
    def start(
        cls,
        config: MlflowConfig,
        *,
        run_name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        run_id: str | None = None,
    ) -> "RunLog":
        """A new run, or with ``run_id`` the same one continued; for the driver, before it fans out.

        Creates the database and the experiment where they are missing. A continued run keeps the
        parameters that it started with; one that differs now is logged as a tag ``resumed.<name>``.
        Without ``run_id``, an unfinished run of the same tag goes on: its driver died too early.

        Raises:
            RunLogError: MLflow does not answer, or does not know ``run_id``.
        """
        uri = absolute_uri(config.tracking_uri, Path.cwd())
        values = {name: str(value) for name, value in params.items()}
        try:
            client, experiment_id = run_store.open_experiment(
                uri, config.experiment, config.artifact_location
            )
            if run_id is None and "run_id" in tags:
                run_id = run_store.find_running(client, experiment_id, "run_id", tags["run_id"])
            if run_id is None:
                source = {"mlflow.source.name": Path(sys.argv[0]).name}
                run = client.create_run(experiment_id, tags={**source, **tags}, run_name=run_name)
            else:
                client.update_run(run_id, status="RUNNING")
                run = client.get_run(run_id)
            new = {name: values[name] for name in values.keys() - run.data.params.keys()}
            run_store.send_params(client, run.info.run_id, new)
        except Exception as error:
            which = "a new run" if run_id is None else f"the run {run_id}"
            raise RunLogError(f"cannot open {which} in MLflow at {uri}: {error}") from error
        handle = RunHandle(
            tracking_uri=uri,
            run_id=run.info.run_id,
            experiment_id=run.info.experiment_id,
            undelivered_dir=str(Path(config.undelivered_dir).absolute() / run.info.run_id),
        )
        run_log = cls(handle)
        if run_id is not None:
            old = run.data.params
            changed = {
                f"resumed.{name}": values[name]
                for name in values.keys() & old.keys()
                if run_store.stored_value(values[name]) != old[name]
            }
            run_log.set_tags({**tags, **changed})
        return run_log

    @classmethod
    def attach(cls, handle: RunHandle) -> "RunLog":
        """The run of a handle, for a worker or a task; MLflow is first called when it logs."""
        return cls(handle)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Stores one point per name; a step that a name already has is skipped.

        Raises:
            ValueError: a name that MLflow does not take.
        """
        time_ms = int(time.time() * 1000)
        expect_metric_names(values)
        new = {
            (name, step): Point(name, float(value), time_ms, step)
            for name, value in values.items()
            if step not in self._stored.get(name, ()) and (name, step) not in self._points
        }
        self._points |= new
        if not self.deliver():
            self._disk.append(new.values())

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags; a later value replaces an earlier one."""
        self._tags |= tags
        self.deliver()

    def log_text(self, text: str, artifact_file: str) -> None:
        """Stores a text file."""
        self._log_file(text.encode(), artifact_file)

    def log_dict(self, values: Mapping[str, object], artifact_file: str) -> None:
        """Stores a mapping as a JSON file."""
        self._log_file(json.dumps(values, indent=2, default=str).encode(), artifact_file)

    def log_table(self, rows: Sequence[Mapping[str, object]], artifact_file: str) -> None:
        """Stores rows, which share their columns, as a table that MLflow's pages show.

        Raises:
            ValueError: the file is not a ``.json``, or the rows differ in their columns.
        """
        if not artifact_file.endswith(".json"):
            raise ValueError(f"a table's file must end in .json, got {artifact_file!r}")
        columns = list(rows[0]) if rows else []
        for index, row in enumerate(rows):
            if list(row) != columns:
                raise ValueError(f"row {index} has columns {list(row)}, the first has {columns}")
        table = {"columns": columns, "data": [list(row.values()) for row in rows]}
        self._tables.add(artifact_file)
        self._log_file(json.dumps(table, default=str).encode(), artifact_file)

    def log_figure(self, figure: Figure, artifact_file: str) -> None:
        """Stores a figure in the format that the file's suffix names."""
        data = io.BytesIO()
        figure.savefig(data, format=Path(artifact_file).suffix[1:], bbox_inches="tight")
        self._log_file(data.getvalue(), artifact_file)

    def log_image(self, image: UInt8[ndarray, "height width 3"], artifact_file: str) -> None:
        """Stores an RGB image in the format that the file's suffix names."""
        _, data = cv2.imencode(Path(artifact_file).suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self._log_file(data.tobytes(), artifact_file)

    def close(self) -> None:
        """Tries a last time to deliver; what is left stays on disk for the driver's `finish`."""
        if self.deliver(at_once=True):
            return
        self._disk.write_files(self._files)
        left = f"{len(self._points)} points, {len(self._files)} files and tags {self._tags}"
        log.error(
            "MLflow did not take %s of run %s: points and files wait in %s, and are delivered when "
            "the run is resumed",
            *(left, self.handle.run_id, self._disk.folder),
        )

    def finish(self, status: RunStatus = "FINISHED") -> None:
        """Delivers what this and other processes left on this disk, and ends the run."""
        self._points = {(p.name, p.step): p for p in self._disk.read_points()} | self._points
        self._files = self._disk.read_files() | self._files
        self.close()
        if not self._is_delivered():
            return
        self._disk.remove()
        try:
            self._connect().set_terminated(self.handle.run_id, status)
        except Exception as error:
            log.error("MLflow did not mark run %s %s: %s", self.handle.run_id, status, error)

    def deliver(self, *, at_once: bool = False) -> bool:
        """Sends what waits; False if something still does. Trouble is logged, never raised.

        Args:
            at_once: also while MLflow is left alone after a failure.
        """
        if self._is_delivered():
            return True
        if time.monotonic() < self._retry_at and not at_once:
            return False
        try:
            self._send(self._connect())
        except Exception as error:  # whatever a database, a server or an object store may raise
            self._client, self._stored = None, {}
            self._retry_at = time.monotonic() + RETRY_SECONDS
            log.warning("MLflow at %s failed, trying later: %s", self.handle.tracking_uri, error)
            return False
        self._disk.forget_own_points()
        return True

    def _is_delivered(self) -> bool:
        return not (self._points or self._tags or self._files)

    def _connect(self) -> run_store.MlflowClient:
        """The client, opened where it is not."""
        if self._client is None:
            self._client = run_store.MlflowClient(self.handle.tracking_uri)
        return self._client

    def _send(self, client: run_store.MlflowClient) -> None:
        """Sends points, tags and files, and forgets each as it is taken."""
        run_id = self.handle.run_id
        for name in {point.name for point in self._points.values()} - self._stored.keys():
            self._stored[name] = run_store.stored_steps(client, run_id, name)
        new = [
            point for point in self._points.values() if point.step not in self._stored[point.name]
        ]
        run_store.send_points(client, run_id, new)
        for point in new:
            self._stored[point.name].add(point.step)
        self._points = {}
        if self._tags:
            run_store.send_tags(client, run_id, self._tags)
        self._tags = {}
        for name, data in list(self._files.items()):
            run_store.send_file(client, run_id, name, data)
            if name in self._tables:
                run_store.mark_as_table(client, run_id, name)
            del self._files[name]

    def _log_file(self, data: bytes, artifact_file: str) -> None:
        """Queues a file and tries to deliver; a later file of the same name replaces it."""
        self._files[artifact_file] = data
        self.deliver()
