"""Runs a study on Ray Tune over Ray Train.

A trial's driver trains and evaluates; Train's workers and the evaluation's tasks hold the CPUs and
GPUs, the driver one `TUNE_DRIVER` and no CPU. With a CPU of their own, as many drivers as there are
CPUs would wait for workers that never get one. No more trials start than the cluster can train at
once.
"""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from data_pipeline.storage import atomic_output, exists, open_folder
from eval_jobs import pipeline
from eval_jobs.pipeline import Outcome, PipelineConfig
from meta_train.run_log import absolute_uri
from meta_train.train_config import ScalingConfig, resolved
from search_spaces.study import Study, Trial, study_id

logger = logging.getLogger(__name__)

TUNE_DRIVER = "tune_driver"
"""Custom resource of which the driver of a trial holds one."""

DRIVER_RESOURCES = {TUNE_DRIVER: 64.0}
"""What a local Ray must offer for a study, as cluster.yaml's head does."""

_RESULT_FILE = "trial.json"


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """How a trial ended."""

    trial_id: str
    """Its id."""

    cell: str
    """Of the study's table."""

    seed: int
    """Of its draws."""

    metrics: dict[str, float]
    """The best validation, and ``<phase>/<metric>`` of each phase; empty if it failed."""

    label: str = ""
    """The benchmark, its protocol and how much of it was run."""

    mlflow_run_id: str = ""
    """Its run; empty where it failed before there was one."""

    seconds: float = 0.0
    """From start to end; of the last attempt where there were several."""

    error: str = ""
    """What stopped it: type and message."""

    @property
    def error_type(self) -> str:
        """What stopped it, in a word."""
        return self.error.partition(":")[0].rpartition(".")[2]


_RESULT = TypeAdapter(TrialResult)


def finished(storage: str, trial_id: str) -> TrialResult | None:
    """The result of a trial that ended well; None where there is none."""
    filesystem, root = open_folder(storage)
    try:
        with filesystem.open_input_stream(f"{root}/{trial_id}/{_RESULT_FILE}") as stream:
            return _RESULT.validate_json(stream.read())
    except FileNotFoundError:
        return None


def run_trials(study: Study, trials: Sequence[Trial]) -> list[TrialResult]:
    """Runs the trials that are not finished, and gives the results of all in their order.

    The caller has started Ray, with `DRIVER_RESOURCES`, and created the MLflow experiment. A trial
    that fails does not stop the others.

    Raises:
        ValueError: the cluster cannot run a single trial; it says what is missing.
    """
    storage = absolute_storage(study.variants[0].config.storage)
    results = {trial.trial_id: finished(storage, trial.trial_id) for trial in trials}
    missing = [trial for trial in trials if results[trial.trial_id] is None]
    logger.info("%d of %d trials are finished", len(trials) - len(missing), len(trials))
    if missing:
        slots = min(concurrent_trials(trial.variant.config.train.scaling) for trial in missing)
        failed = _run_missing(study, _with_data(missing, storage), storage, slots)
        for trial in missing:
            result = finished(storage, trial.trial_id)
            results[trial.trial_id] = result or failed[trial.trial_id]
    return [result for trial in trials if (result := results[trial.trial_id]) is not None]


def concurrent_trials(scaling: ScalingConfig) -> int:
    """How many trials the connected cluster can train at once.

    Raises:
        ValueError: not one, or the cluster lacks `TUNE_DRIVER`.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    drivers = int(sum(node.get(TUNE_DRIVER, 0.0) for node in nodes))
    if drivers < 1:
        raise ValueError(
            f"the Ray cluster offers no {TUNE_DRIVER!r}, which each trial's driver holds one of; "
            "start it with that resource, as cluster.yaml does"
        )
    count = trials_that_fit(nodes, scaling)
    if count < 1:
        raise ValueError(
            f"a trial trains on {scaling.num_workers} workers with {scaling.cpus_per_worker} CPUs"
            f"{' and a GPU' if scaling.use_gpu else ''} each, and the Ray cluster cannot place "
            f"them: its nodes have {nodes}. Ask for fewer workers or CPUs, or add nodes."
        )
    return min(count, drivers)


def trials_that_fit(nodes: Sequence[dict[str, float]], scaling: ScalingConfig) -> int:
    """How many trials can train at once on nodes with these resources; a worker stays on one node.

    >>> trials_that_fit([{"CPU": 2.0}, {"CPU": 3.0}], ScalingConfig(cpus_per_worker=2))
    2
    """
    workers = 0
    for node in nodes:
        fitting = int(node.get("CPU", 0.0)) // scaling.cpus_per_worker
        workers += min(fitting, int(node.get("GPU", 0.0))) if scaling.use_gpu else fitting
    return workers // scaling.num_workers


def absolute_storage(storage: str) -> str:
    """The storage as other processes, which run in other folders, can find it."""
    return storage if "://" in storage else str(Path(storage).absolute())


def trial_metrics(config: PipelineConfig, outcome: Outcome) -> dict[str, float]:
    """The numbers of a trial: the best checkpoint's validation, and each phase's on the benchmark.

    Raises:
        ValueError: it was not evaluated.
    """
    phases = config.evaluation.phases
    if len(outcome.scores) < len(phases):
        raise ValueError(
            f"scores of the phases {phases} expected, got {len(outcome.scores)}: is "
            "evaluation.folder set?"
        )
    metrics = {name: value for name, value in outcome.train.metrics.items() if "/" in name}
    for phase, score in zip(phases, outcome.scores, strict=False):
        metrics |= {f"{phase}/{name}": value for name, value in score.values.items()}
        metrics[f"{phase}/fps"] = score.fps
    return metrics


def _with_data(trials: Sequence[Trial], storage: str) -> list[Trial]:
    """The trials with their synthetic videos made, once for all, and with absolute paths."""
    ready = []
    for trial in trials:
        config = pipeline.with_data(trial.variant.config, storage)
        folder, mlflow = config.evaluation.folder, config.mlflow
        config = replace(
            config,
            train=resolved(config.train),
            storage=storage,
            evaluation=replace(config.evaluation, folder=str(Path(folder).absolute())),
            mlflow=replace(
                mlflow,
                tracking_uri=absolute_uri(mlflow.tracking_uri, Path.cwd()),
                undelivered_dir=str(Path(mlflow.undelivered_dir).absolute()),
            ),
        )
        ready.append(replace(trial, variant=replace(trial.variant, config=config)))
    return ready


def _run_missing(
    study: Study, trials: Sequence[Trial], storage: str, slots: int
) -> dict[str, TrialResult]:
    """Runs the trials on Tune, and gives the results of those that failed by their ids."""
    from ray import tune

    driver = tune.with_parameters(
        _drive, study=study.name, trials={trial.trial_id: trial for trial in trials}
    )
    logger.info("%d trials to run, %d at a time", len(trials), slots)
    grid = tune.Tuner(
        tune.with_resources(driver, {TUNE_DRIVER: 1}),
        param_space={"trial_id": tune.grid_search([trial.trial_id for trial in trials])},
        tune_config=tune.TuneConfig(max_concurrent_trials=slots),
        run_config=tune.RunConfig(
            # Tune's own state resumes nothing here, since each trial does so by itself.
            name=f"{study_id(study, trials)}-{time.strftime('%Y%m%d-%H%M%S')}",
            storage_path=f"{storage}/tune",
            verbose=0,
        ),
    ).fit()
    errors = {
        result.config["trial_id"]: _cause(result.error)
        for result in grid
        if result.error is not None
    }
    unknown = "did not end; Ray Tune gave no error"
    return {
        trial.trial_id: TrialResult(
            trial_id=trial.trial_id,
            cell=trial.variant.cell,
            seed=trial.variant.seed,
            metrics={},
            error=errors.get(trial.trial_id, unknown),
        )
        for trial in trials
    }


def _drive(config: dict[str, Any], study: str, trials: dict[str, Trial]) -> None:
    """The driver of one trial, in a process of its own: trains, evaluates, keeps the result."""
    from ray import tune
    from ray.tune.integration.ray_train import TuneReportCallback

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    trial = trials[config["trial_id"]]
    variant, started = trial.variant, time.monotonic()
    storage = variant.config.storage
    filesystem, root = open_folder(storage)
    outcome = pipeline.run(
        variant.config,
        trial.trial_id,
        resume=exists(filesystem, f"{root}/{trial.trial_id}/config.json"),
        tags={
            "study": study,
            "trial_id": trial.trial_id,
            "cell": variant.cell,
            "seed": str(variant.seed),
        },
        params=dict(variant.params),
        callbacks=(TuneReportCallback(),),
    )
    result = TrialResult(
        trial_id=trial.trial_id,
        cell=variant.cell,
        seed=variant.seed,
        metrics=trial_metrics(variant.config, outcome),
        label=f"{outcome.scores[0].selection.benchmark.title}, {outcome.scores[0].label}",
        mlflow_run_id=outcome.mlflow_run_id,
        seconds=time.monotonic() - started,
    )
    with atomic_output(filesystem, f"{root}/{trial.trial_id}/{_RESULT_FILE}") as stream:
        stream.write(json.dumps(asdict(result), indent=1).encode())
    logger.info("%s ended after %.0f s", trial.trial_id, result.seconds)
    tune.report(result.metrics)


def _cause(error: BaseException) -> str:
    """The innermost error's type and message, out of Ray's wrapping of tracebacks in text."""
    cause = getattr(error, "cause", None) or error.__cause__
    if isinstance(cause, BaseException):
        return _cause(cause)
    lines = str(error).strip().splitlines()
    for index in reversed(range(len(lines))):
        if _names_error(lines[index]):
            return "\n".join(lines[index:])
    return f"{type(error).__name__}: {lines[-1] if lines else '(no message)'}"


def _names_error(line: str) -> bool:
    """Whether a line of a traceback is its end, such as ``ValueError: ...``."""
    name = line.partition(":")[0]
    return ":" in line and name.replace(".", "").isidentifier() and name.endswith("Error")
