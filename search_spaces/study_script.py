"""What every study's script does once it has its study or search: plan, run, print."""

import logging
from collections.abc import Callable
from typing import Any

from data_pipeline.clear_errors import clear_errors
from data_pipeline.ray_session import ray_session
from eval_jobs.pipeline import PipelineConfig
from search_spaces.plan import plan_texts
from search_spaces.search import Search, SearchKind
from search_spaces.search_run import run_whole_search, search_plan
from search_spaces.study import Study
from search_spaces.study_options import StudyOptions, base_config, each_benchmark
from search_spaces.study_run import run
from search_spaces.trial_run import TrialResult
from search_spaces.tune_trials import DRIVER_RESOURCES


def plan_or_run(study_of: Callable[[PipelineConfig], Study], options: StudyOptions) -> None:
    """Prints the plan, and unless that is all, runs the study and prints what came out.

    With several benchmarks there is a study for each; they share their trainings.

    Args:
        study_of: makes the study of a base config.
        options: the base config, whether only to plan, and where to run.

    Raises:
        SystemExit: a choice, the data, a benchmark or the cluster will not do, and nothing was
            started; or trials failed.
    """
    log_to_terminal()
    with clear_errors(ValueError):
        studies = [study_of(base_config(each)) for each in each_benchmark(options)]
        for text in plan_texts(studies):
            print(text, flush=True)
    if options.plan:
        return
    ended: list[TrialResult] = []
    with clear_errors(ValueError), ray_session(options.address, DRIVER_RESOURCES):
        for study in studies:
            result = run(study)
            print(result.text)
            print(f"compare in MLflow (mlflow ui)   {result.compare_url}", flush=True)
            ended += result.trials
    if failed := sum(bool(trial.error) for trial in ended):
        raise SystemExit(
            f"{failed} of {len(ended)} trials failed, see above; the same command tries them again"
        )


def plan_or_search(
    search_of: Callable[[PipelineConfig], Search[Any]],
    kind: SearchKind,
    options: StudyOptions,
    *,
    trained: bool,
) -> None:
    """Prints the plan, and unless that is all, runs the search and prints what came out.

    Args:
        search_of: makes the search of a base config.
        kind: how.
        options: the base config, whether only to plan, and where to run.
        trained: all choices track with one detector.

    Raises:
        SystemExit: the space, a choice, the data, a benchmark or the cluster will not do, and
            nothing was started; or no choice ended well.
    """
    log_to_terminal()
    with clear_errors(ValueError):
        search = search_of(base_config(options))
        print(search_plan(search, kind, trained=trained), flush=True)
    if options.plan:
        return
    with clear_errors(ValueError), ray_session(options.address, DRIVER_RESOURCES):
        result = run_whole_search(search, kind, trained=trained)
    print(result.text)
    print(
        f"compare in MLflow (mlflow ui)   tried: {result.compare_url}\n"
        f"                                finalists: {result.finals_url}"
    )


def log_to_terminal() -> None:
    """Lines of progress, with the time."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
