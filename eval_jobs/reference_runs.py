"""The runs behind README's figures, in MLflow beside your own.

    python eval_jobs/reference_runs.py                               # puts them there
    python eval_jobs/reference_runs.py --file my_runs.json --export RUN_ID RUN_ID

The second command takes finished runs out of MLflow into a file, for the first one on another
machine: parameters and tags, without the folders in which paths lie, and the points of the metrics,
to six digits. A run that is there already is not logged again.
"""

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from data_pipeline.clear_errors import clear_errors
from data_pipeline.json_files import read_parsed
from data_pipeline.steady_storage import write_file
from meta_train import run_store
from meta_train.run_log import MlflowConfig, RunLogError, absolute_uri
from meta_train.undelivered import Point, expect_metric_names

logger = logging.getLogger(__name__)

REFERENCE_FILE = Path(__file__).with_suffix(".json")
"""The runs behind README's tables."""

REFERENCE_TAG = "reference_run_id"
"""Marks a run that came from such a file, by the id that it had where it was made."""

OWN_TAGS = ("run_id", "trial_id", "trained_run", "compare_url", REFERENCE_TAG)
"""Tags of a run where it was made; one from a file has none, so that no command goes on with it."""

LARGEST = 1.7e308
"""MLflow's databases store infinity as a number above."""


@dataclass(frozen=True, kw_only=True)
class ReferenceRun:
    """One finished run."""

    run_id: str
    """Its id where it was made."""

    name: str
    """As MLflow's pages call it."""

    params: Mapping[str, str]
    """Settings by name."""

    tags: Mapping[str, str]
    """Such as its kind; none of MLflow's own and of `OWN_TAGS`."""

    metrics: Mapping[str, Mapping[int, float]]
    """Values by step, by metric."""

    def __post_init__(self) -> None:
        if not self.run_id.isalnum():  # it becomes part of a question to MLflow
            raise ValueError(f"an id of letters and digits expected, got {self.run_id!r}")
        if own := [name for name in self.tags if name in OWN_TAGS]:
            raise ValueError(f"run {self.run_id}: tags of where it was made: {', '.join(own)}")
        expect_metric_names(self.metrics)
        for name, points in self.metrics.items():
            if not points or not all(map(_is_number, points.values())):
                raise ValueError(f"run {self.run_id}: a metric without numbers: {name}")

    def last(self, metric: str) -> float:
        """A metric's value at its last step.

        Raises:
            KeyError: the run has no such metric.
        """
        points = self.metrics[metric]
        return points[max(points)]


def _is_number(value: float) -> bool:
    return math.isfinite(value) and abs(value) < LARGEST


def read_runs(file: Path = REFERENCE_FILE) -> list[ReferenceRun]:
    """The runs in a file.

    Raises:
        ValueError: there is no such file, or it is not one of runs.
    """
    runs = read_parsed(
        str(file.parent.absolute()),
        file.name,
        _parse,
        expected="a file of runs",
        remedy="Restore it, or write it anew with --export.",
    )
    if runs is None:
        raise ValueError(f"{file}: a file of runs expected, there is none. Give another --file")
    return runs


def _parse(text: bytes) -> list[ReferenceRun]:
    try:
        runs = [_run(each) for each in json.loads(text)]
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if not runs or len({run.run_id for run in runs}) < len(runs):
        raise ValueError(f"got {len(runs)} runs; at least one expected, each with an id of its own")
    return runs


def _run(content: Mapping[str, Any]) -> ReferenceRun:
    return ReferenceRun(
        run_id=str(content["run_id"]),
        name=str(content["name"]),
        params={str(name): str(value) for name, value in content["params"].items()},
        tags={str(name): str(value) for name, value in content["tags"].items()},
        metrics={
            str(name): {int(step): float(value) for step, value in points.items()}
            for name, points in content["metrics"].items()
        },
    )


def write_runs(runs: Sequence[ReferenceRun], file: Path) -> None:
    """Writes a file of runs, a line each.

    Raises:
        OSError: it cannot be written.
    """
    lines = ",\n".join(json.dumps(asdict(run), sort_keys=True, allow_nan=False) for run in runs)
    write_file(str(file.parent.absolute()), file.name, f"[\n{lines}\n]\n".encode())


def fetch_runs(
    config: MlflowConfig, run_ids: Sequence[str], omit: Sequence[str]
) -> list[ReferenceRun]:
    """Finished runs as MLflow holds them; points that are no numbers are left out.

    Args:
        config: where they are.
        run_ids: MLflow's ids; one that is given twice counts once.
        omit: parts of names of metrics to leave out.

    Raises:
        RunLogError: MLflow does not answer, or knows no such run.
        ValueError: a run is not finished.
    """
    uri = absolute_uri(config.tracking_uri, Path.cwd())
    return [_fetch(uri, run_id, omit) for run_id in dict.fromkeys(run_ids)]


def _fetch(uri: str, run_id: str, omit: Sequence[str]) -> ReferenceRun:
    try:
        client = run_store.MlflowClient(uri)
        run = client.get_run(run_id)
        names = [name for name in run.data.metrics if not any(part in name for part in omit)]
        histories = {name: client.get_metric_history(run_id, name) for name in sorted(names)}
    except Exception as error:  # whatever a database or a server may raise
        raise RunLogError(f"cannot read run {run_id} from MLflow at {uri}: {error}") from error
    if run.info.status != "FINISHED":
        raise ValueError(f"run {run_id}: a finished run expected, it is {run.info.status}")
    metrics = {
        name: {p.step: float(f"{p.value:.6g}") for p in points if _is_number(p.value)}
        for name, points in histories.items()
    }
    return ReferenceRun(
        run_id=run.data.tags.get(REFERENCE_TAG, run_id),
        name=run.info.run_name or run_id,
        params={name: without_folders(value) for name, value in run.data.params.items()},
        tags={
            name: without_folders(value)
            for name, value in run.data.tags.items()
            if name not in OWN_TAGS and "mlflow." not in name
        },
        metrics={name: points for name, points in metrics.items() if points},
    )


def without_folders(value: str) -> str:
    """A parameter's value in which absolute paths on one machine have only their last two parts.

    >>> without_folders("MAML-0=/home/me/runs/MAML-0/best s3://bucket/far/away/shards")
    'MAML-0=MAML-0/best s3://bucket/far/away/shards'
    """
    part = r"[^\s',/]+"
    path = rf"(?<![\w./-])(?:file://|sqlite:///)?/(?:{part}/)*({part}/{part})/?(?!{part})"
    return re.sub(path, r"\1", value)


def log_runs(config: MlflowConfig, runs: Sequence[ReferenceRun]) -> int:
    """Logs those runs that are not in the experiment yet, and gives their number.

    A run that an earlier call left half logged is replaced.

    Raises:
        RunLogError: MLflow does not take them.
    """
    uri = absolute_uri(config.tracking_uri, Path.cwd())
    try:
        client, experiment_id = run_store.open_experiment(
            uri, config.experiment, config.artifact_location
        )
        return sum(_log(client, experiment_id, run) for run in runs)
    except Exception as error:  # whatever a database or a server may raise
        raise RunLogError(f"cannot log runs in MLflow at {uri}: {error}") from error


def _log(client: run_store.MlflowClient, experiment_id: str, run: ReferenceRun) -> bool:
    """Logs a run; False if it is there."""
    for wanted in (f"tags.{REFERENCE_TAG} = '{run.run_id}'", f"attributes.run_id = '{run.run_id}'"):
        for found in client.search_runs([experiment_id], wanted):
            if found.info.status == "FINISHED":
                return False
            if REFERENCE_TAG in found.data.tags:
                client.delete_run(found.info.run_id)
    tags = {**run.tags, REFERENCE_TAG: run.run_id}
    new = client.create_run(experiment_id, tags=tags, run_name=run.name)
    run_store.send_params(client, new.info.run_id, run.params)
    points = [
        Point(name, value, new.info.start_time, step)
        for name, at_steps in run.metrics.items()
        for step, value in at_steps.items()
    ]
    run_store.send_points(client, new.info.run_id, points)
    client.set_terminated(new.info.run_id)
    logger.info("logged %s", run.name)
    return True


@clear_errors(ValueError, RunLogError, OSError)
def main(
    export: tuple[str, ...] = (),
    omit: tuple[str, ...] = ("train/", "/attr/"),
    file: Path | None = None,
    mlflow: MlflowConfig = MlflowConfig(),  # noqa: B008
) -> None:
    """Logs the runs of a file, or writes runs to one.

    Args:
        export: ids of runs in MLflow, which the file shall hold from now on, and no others.
        omit: parts of names; metrics with one of them are not exported.
        file: of runs; those behind README's figures where not given.
        mlflow: where runs are logged, or taken from.
    """
    if export:
        if file is None:
            raise ValueError("--export needs --file: the file that shall hold these runs")
        runs = fetch_runs(mlflow, export, omit)
        write_runs(runs, file)
        print(f"wrote {len(runs)} runs to {file}")
        return
    runs = read_runs(file or REFERENCE_FILE)
    count = log_runs(mlflow, runs)
    print(f"logged {count} of {len(runs)} runs, the others were there; compare them by `mlflow ui`")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    tyro.cli(main)
