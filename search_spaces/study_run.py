"""From a study to its table: runs the trials and logs what they compare to.

Every trial is a flat run in MLflow; the study's own run holds the table, the plot and the address
of the page on which MLflow compares the trials.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from eval_jobs.row_tables import text_table
from meta_train.mlflow_runs import keep_mlflow_run, mlflow_run_of
from meta_train.run_log import MlflowConfig, RunLog
from search_spaces.comparison import (
    compare_url,
    comparison_figure,
    table_rows,
    trial_rows,
    verdicts,
)
from search_spaces.study import Study, Trial, study_id, trials
from search_spaces.training import absolute_storage
from search_spaces.trial_run import TrialResult
from search_spaces.tune_trials import run_trials


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a study gave."""

    study_id: str
    """The study's name and a digest of its trials."""

    trials: tuple[TrialResult, ...]
    """How each ended, in the study's order."""

    text: str
    """The table and what of it is more than spread."""

    compare_url: str
    """MLflow's page that compares the trials that ended well."""

    mlflow_run_id: str
    """The study's own run."""

    tracking_uri: str
    """Where MLflow is."""

    experiment_id: str
    """MLflow's id of the experiment."""


def run(study: Study, attach: Callable[[RunLog], None] | None = None) -> StudyResult:
    """Runs a study, or goes on with it: a finished trial is not run again.

    The caller has started Ray, with `tune_trials.DRIVER_RESOURCES`.

    Args:
        study: what to run.
        attach: logs more to the study's own run before it ends.

    Raises:
        ValueError: a variant has no data or nothing to be evaluated on, the cluster is too small
            for a trial, or no trial reports a measure.
    """
    found = trials(study)
    storage = absolute_storage(study.variants[0].config.storage)
    run_log = _open_summary(study, found, storage)
    status: Literal["FINISHED", "FAILED"] = "FAILED"
    try:
        results = run_trials(study, found)
        text = report_text(study, results, [trial.sequences.text for trial in found])
        url = _log_summary(run_log, study, results, text)
        if attach is not None:
            attach(run_log)
        status = "FAILED" if all(result.error for result in results) else "FINISHED"
    finally:
        run_log.finish(status)
    return StudyResult(
        study_id=study_id(study, found),
        trials=tuple(results),
        text=text,
        compare_url=url,
        mlflow_run_id=run_log.handle.run_id,
        tracking_uri=run_log.handle.tracking_uri,
        experiment_id=run_log.handle.experiment_id,
    )


def report_text(study: Study, results: Sequence[TrialResult], sequences: Sequence[str] = ()) -> str:
    """The table with its title, the verdicts, what was run on, what was chosen and what failed.

    Args:
        study: what was run.
        results: of its trials.
        sequences: for each trial, what says on which sequences it was tuned and reported.
    """
    labels = sorted({result.label for result in results if result.label})
    title = f"{study.title}; ours: {' | '.join(labels) or 'no trial ended well'}"
    failed = [f"failed: {each.trial_id}\n{each.error}" for each in results if each.error]
    table = text_table(table_rows(study, results), title)
    chosen = [
        f"{each.cell}, seed {each.seed}: tuning score by constant rate: "
        + ", ".join(f"{rate}: {score:.3f}" for rate, score in each.tuning.items())
        for each in results
        if each.tuning
    ]
    lines = [*verdicts(study, results), *dict.fromkeys(sequences), *chosen, *failed]
    return "\n".join([table, *lines])


def _open_summary(study: Study, found: Sequence[Trial], storage: str) -> RunLog:
    """The study's own run, continued where it exists; creates database and experiment first."""
    mlflow = study.variants[0].config.mlflow
    name = study_id(study, found)
    run_id = mlflow_run_of(storage, f"studies/{name}")
    run_log = _start(mlflow, study, name, run_id)
    if run_id is None:
        keep_mlflow_run(storage, f"studies/{name}", run_log.handle.run_id)
    return run_log


def _start(mlflow: MlflowConfig, study: Study, name: str, run_id: str | None) -> RunLog:
    seeds = list(dict.fromkeys(variant.seed for variant in study.variants))
    varying = list(dict.fromkeys(key for variant in study.variants for key in variant.params))
    return RunLog.start(
        mlflow,
        run_name=name,
        params={"cells": study.cells, "seeds": seeds, "varying": varying},
        tags={"study": study.name, "kind": "study", "run_id": f"studies/{name}"},
        run_id=run_id,
    )


def _log_summary(run_log: RunLog, study: Study, results: Sequence[TrialResult], text: str) -> str:
    """Logs tables, plot and the compare page's address, and gives the address."""
    run_log.log_table(table_rows(study, results), "tables/study.json")
    run_log.log_table(trial_rows(study, results), "tables/trials.json")
    run_log.log_text(text, "tables/study.txt")
    run_log.log_figure(comparison_figure(study, results), "plots/study.png")
    run_ids = [result.mlflow_run_id for result in results if result.mlflow_run_id]
    handle = run_log.handle
    url = compare_url(handle.tracking_uri, handle.experiment_id, run_ids)
    run_log.set_tags({"compare_url": url})
    return url
