"""Runs a study's trials on Ray Tune over Ray Train.

Trials that share a training form a group, which is one trial of Tune's: its driver trains once, or
finds the training done, and then tracks for each of them. Train's workers and the evaluation's
tasks hold the CPUs and GPUs, the driver one `TUNE_DRIVER` and no CPU. With a CPU of their own, as
many drivers as there are CPUs would wait for workers that never get one. No more groups start than
the cluster can train at once.
"""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from meta_train.placement import cluster_nodes, require_room, runs_that_fit
from meta_train.train_config import ScalingConfig
from search_spaces.study import Study, Trial, study_id
from search_spaces.training import absolute_storage, train_once, with_absolute_paths
from search_spaces.trial_run import (
    StudySettings,
    TrialResult,
    finished,
    given_checkpoint,
    run_trial,
)

logger = logging.getLogger(__name__)

TUNE_DRIVER = "tune_driver"
"""Custom resource of which the driver of a trial holds one."""

DRIVER_RESOURCES = {TUNE_DRIVER: 64.0}
"""What a local Ray must offer for a study, as cluster.yaml's head does."""

Group = tuple[Trial, ...]
"""Trials with one training."""


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
        groups = grouped([_ready(trial) for trial in missing])
        failed = _run_groups(study, groups, storage, slots)
        for trial in missing:
            result = finished(storage, trial.trial_id)
            results[trial.trial_id] = result or _failure(trial, failed)
    return [result for trial in trials if (result := results[trial.trial_id]) is not None]


def grouped(trials: Sequence[Trial]) -> list[Group]:
    """The trials by what they train, in the order in which each training comes first."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.training, []).append(trial)
    return [tuple(group) for group in groups.values()]


def concurrent_trials(scaling: ScalingConfig) -> int:
    """How many trials the connected cluster can train at once.

    Raises:
        ValueError: not one, or the cluster lacks `TUNE_DRIVER`.
    """
    nodes = cluster_nodes(scaling)
    drivers = int(sum(node.get(TUNE_DRIVER, 0.0) for node in nodes))
    if drivers < 1:
        raise ValueError(
            f"the Ray cluster offers no {TUNE_DRIVER!r}, which each trial's driver holds one of; "
            "start it with that resource, as cluster.yaml does"
        )
    require_room(scaling)
    return min(runs_that_fit(nodes, scaling), drivers)


def _ready(trial: Trial) -> Trial:
    """The trial with its data made and its paths absolute; a given checkpoint's training config
    takes the place of one that is not used.
    """
    variant = trial.variant
    config = with_absolute_paths(variant.config, trains=not variant.checkpoint)
    checkpoint = variant.checkpoint
    if checkpoint:
        train, given = given_checkpoint(checkpoint)
        config, checkpoint = replace(config, train=train), given.best
    return replace(trial, variant=replace(variant, config=config, checkpoint=checkpoint))


def _run_groups(study: Study, groups: Sequence[Group], storage: str, slots: int) -> dict[str, str]:
    """Runs the groups on Tune, and gives what stopped those trials that failed, by their ids."""
    from ray import tune

    driver = tune.with_parameters(
        _drive,
        settings=StudySettings(
            name=study.name,
            tuning=study.tuning and study.tuning.resolved(),
            own_settings=study.own_settings,
        ),
        groups=tuple(groups),
    )
    trials = [trial for group in groups for trial in group]
    logger.info("%d trials to run on %d trainings, %d at a time", len(trials), len(groups), slots)
    grid = tune.Tuner(
        tune.with_resources(driver, {TUNE_DRIVER: 1}),
        param_space={"group": tune.grid_search(list(range(len(groups))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=slots),
        run_config=tune.RunConfig(
            # Tune's own state resumes nothing here, since each trial does so by itself.
            name=f"{study_id(study, trials)}-{time.strftime('%Y%m%d-%H%M%S')}",
            storage_path=f"{storage}/tune",
            verbose=0,
        ),
    ).fit()
    failed: dict[str, str] = {}
    for result in grid:
        group = groups[result.config["group"]]
        if result.error is not None:
            failed |= {trial.trial_id: cause_of(result.error) for trial in group}
        failed |= json.loads((result.metrics or {}).get("failed", "{}"))
    return failed


def _failure(trial: Trial, failed: dict[str, str]) -> TrialResult:
    return TrialResult(
        trial_id=trial.trial_id,
        cell=trial.variant.cell,
        seed=trial.variant.seed,
        metrics={},
        error=failed.get(trial.trial_id, "did not end; Ray Tune gave no error"),
    )


def _drive(config: dict[str, Any], settings: StudySettings, groups: Sequence[Group]) -> None:
    """The driver of a group, in a process of its own: trains once, then tracks for each trial."""
    from ray import tune
    from ray.tune.integration.ray_train import TuneReportCallback

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    group = groups[config["group"]]
    first = group[0].variant
    if first.checkpoint:
        trained = given_checkpoint(first.checkpoint)[1]
    else:
        tags = {"study": settings.name, "seed": str(first.seed)}
        trained = train_once(first.config, tags=tags, callbacks=(TuneReportCallback(),))
    failed = {}
    for trial in group:
        try:
            run_trial(trial, trained, settings)
        except Exception as error:  # one trial's failure must not lose the group's others
            logger.exception("%s failed", trial.trial_id)
            failed[trial.trial_id] = f"{type(error).__name__}: {error}"
    tune.report({"failed": json.dumps(failed)})


def cause_of(error: BaseException) -> str:
    """The innermost error's type and message, out of Ray's wrapping of tracebacks in text."""
    cause = getattr(error, "cause", None) or error.__cause__
    if isinstance(cause, BaseException):
        return cause_of(cause)
    lines = str(error).strip().splitlines()
    for index in reversed(range(len(lines))):
        if _names_error(lines[index]):
            return "\n".join(lines[index:])
    return f"{type(error).__name__}: {lines[-1] if lines else '(no message)'}"


def _names_error(line: str) -> bool:
    """Whether a line of a traceback is its end, such as ``ValueError: ...``."""
    name = line.partition(":")[0]
    return ":" in line and name.replace(".", "").isidentifier() and name.endswith("Error")
