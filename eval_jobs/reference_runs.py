"""The runs behind README's figures of real video, in MLflow beside your own.

    python eval_jobs/reference_runs.py                          # puts them there
    python eval_jobs/reference_runs.py --export RUN_ID RUN_ID   # takes runs from there into a file

`reference_runs.json` holds them as they were logged: parameters, tags and the points of their
metrics. What is there already is not logged again.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from data_pipeline.clear_errors import clear_errors
from data_pipeline.json_files import read_parsed
from data_pipeline.steady_storage import write_file
from meta_train import run_store
from meta_train.run_log import MlflowConfig, RunLog, absolute_uri

logger = logging.getLogger(__name__)

REFERENCE_FILE = Path(__file__).with_suffix(".json")
"""The runs behind README's tables."""

REFERENCE_TAG = "reference_run_id"
"""Marks a run that came from such a file, by the id that it had where it was made."""

NUM_DIGITS = 6
"""Significant digits of a metric's value in a file."""


@dataclass(frozen=True, kw_only=True)
class ReferenceRun:
    """One run as MLflow held it."""

    run_id: str
    """Its id where it was made."""

    name: str
    """As MLflow's pages call it."""

    params: Mapping[str, str]
    """Settings by name."""

    tags: Mapping[str, str]
    """Such as its kind; none of MLflow's own."""

    metrics: Mapping[str, Mapping[int, float]]
    """Values by step, by metric."""

    def last(self, metric: str) -> float:
        """A metric's value at its last step.

        Raises:
            KeyError: the run has no such metric.
        """
        points = self.metrics[metric]
        return points[max(points)]


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
        return [_run(each) for each in json.loads(text)]
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _run(content: Mapping[str, Any]) -> ReferenceRun:
    metrics = {
        str(name): {int(step): float(value) for step, value in points.items()}
        for name, points in content["metrics"].items()
    }
    if empty := [name for name, points in metrics.items() if not points]:
        raise ValueError(f"metrics without a point: {', '.join(empty)}")
    run_id = str(content["run_id"])
    if not run_id.isalnum():  # it becomes part of a question to MLflow
        raise ValueError(f"an id of letters and digits expected, got {run_id!r}")
    return ReferenceRun(
        run_id=run_id,
        name=str(content["name"]),
        params={str(name): str(value) for name, value in content["params"].items()},
        tags={str(name): str(value) for name, value in content["tags"].items()},
        metrics=metrics,
    )


def write_runs(runs: Sequence[ReferenceRun], file: Path) -> None:
    """Writes a file of runs, a line each.

    Raises:
        OSError: it cannot be written.
    """
    lines = ",\n".join(json.dumps(asdict(run), sort_keys=True) for run in runs)
    write_file(str(file.parent.absolute()), file.name, f"[\n{lines}\n]\n".encode())


def fetch_runs(
    config: MlflowConfig, run_ids: Sequence[str], omit: Sequence[str]
) -> list[ReferenceRun]:
    """Runs as MLflow holds them.

    Args:
        config: where they are.
        run_ids: MLflow's ids.
        omit: parts of names of metrics to leave out.

    Raises:
        ValueError: MLflow knows no such run, or does not answer.
    """
    uri = absolute_uri(config.tracking_uri, Path.cwd())
    client = run_store.MlflowClient(uri)
    return [_fetch(client, uri, run_id, omit) for run_id in run_ids]


def _fetch(
    client: run_store.MlflowClient, uri: str, run_id: str, omit: Sequence[str]
) -> ReferenceRun:
    try:
        run = client.get_run(run_id)
        names = [name for name in run.data.metrics if not any(part in name for part in omit)]
        histories = {name: client.get_metric_history(run_id, name) for name in sorted(names)}
    except Exception as error:  # whatever a database or a server may raise
        raise ValueError(f"run {run_id} cannot be read from MLflow at {uri}: {error}") from error
    return ReferenceRun(
        run_id=run_id,
        name=run.info.run_name or run_id,
        params=dict(run.data.params),
        tags={name: value for name, value in run.data.tags.items() if "mlflow." not in name},
        metrics={
            name: {point.step: float(f"{point.value:.{NUM_DIGITS}g}") for point in points}
            for name, points in histories.items()
        },
    )


def log_runs(config: MlflowConfig, runs: Sequence[ReferenceRun]) -> int:
    """Logs those runs that are not in the experiment yet, and gives their number.

    Raises:
        RunLogError: MLflow does not answer.
    """
    uri = absolute_uri(config.tracking_uri, Path.cwd())
    client, experiment_id = run_store.open_experiment(
        uri, config.experiment, config.artifact_location
    )
    new = [run for run in runs if not _is_there(client, experiment_id, run)]
    for run in new:
        tags = {**run.tags, REFERENCE_TAG: run.run_id}
        run_log = RunLog.start(config, run_name=run.name, params=run.params, tags=tags)
        for step in sorted({step for points in run.metrics.values() for step in points}):
            at_step = {name: each[step] for name, each in run.metrics.items() if step in each}
            run_log.log_metrics(at_step, step=step)
        run_log.finish()
        logger.info("logged %s", run.name)
    return len(new)


def _is_there(client: run_store.MlflowClient, experiment_id: str, run: ReferenceRun) -> bool:
    """Whether it was logged to its end; one that was cut short does not count."""
    wanted = f"tags.{REFERENCE_TAG} = '{run.run_id}' and attributes.status = 'FINISHED'"
    return bool(client.search_runs([experiment_id], wanted, max_results=1))


@clear_errors(ValueError)
def main(
    export: tuple[str, ...] = (),
    omit: tuple[str, ...] = ("train/", "/attr/"),
    file: Path = REFERENCE_FILE,
    mlflow: MlflowConfig = MlflowConfig(),  # noqa: B008
) -> None:
    """Logs the runs of a file, or writes runs to it.

    Args:
        export: ids of runs in MLflow, which the file shall hold from now on, and no others.
        omit: parts of names; metrics with one of them are not exported.
        file: of runs.
        mlflow: where runs are logged, or taken from.
    """
    if export:
        runs = fetch_runs(mlflow, export, omit)
        write_runs(runs, file)
        print(f"wrote {len(runs)} runs to {file}")
        return
    runs = read_runs(file)
    count = log_runs(mlflow, runs)
    print(f"logged {count} of {len(runs)} runs, the others were there; compare them by `mlflow ui`")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    tyro.cli(main)
