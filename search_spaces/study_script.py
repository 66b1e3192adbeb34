"""What every study's script does once it has its study or search: plan, run, print."""

import logging
from typing import Any

from data_pipeline.ray_session import ray_session
from search_spaces.plan import plan_text
from search_spaces.search import Search, SearchKind
from search_spaces.search_run import run_whole_search, search_plan
from search_spaces.study import Study
from search_spaces.study_options import StudyOptions
from search_spaces.study_run import run
from search_spaces.tune_trials import DRIVER_RESOURCES


def plan_or_run(study: Study, options: StudyOptions) -> None:
    """Prints the plan, and unless that is all, runs the study and prints what came out.

    Args:
        study: what to run.
        options: whether only to plan, and where to run.
    """
    log_to_terminal()
    print(plan_text(study), flush=True)
    if options.plan:
        return
    with ray_session(options.address, DRIVER_RESOURCES):
        result = run(study)
    print(result.text)
    print(f"compare in MLflow (mlflow ui)   {result.compare_url}")


def plan_or_search(
    search: Search[Any], kind: SearchKind, options: StudyOptions, *, trained: bool
) -> None:
    """Prints the plan, and unless that is all, runs the search and prints what came out.

    Args:
        search: what to search.
        kind: how.
        options: whether only to plan, and where to run.
        trained: all choices track with one detector.
    """
    log_to_terminal()
    print(search_plan(search, kind, trained=trained), flush=True)
    if options.plan:
        return
    with ray_session(options.address, DRIVER_RESOURCES):
        result = run_whole_search(search, kind, trained=trained)
    print(result.text)
    print(
        f"compare in MLflow (mlflow ui)   tried: {result.compare_url}\n"
        f"                                finalists: {result.finals_url}"
    )


def log_to_terminal() -> None:
    """Lines of progress, with the time."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
