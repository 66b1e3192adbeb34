"""Searches a trained tracker's penalties, window, thresholds and updates, without training.

    python search_spaces/search_tracker.py                          # minutes, after the quickstart;
                                         # else its training of some minutes comes first
    python search_spaces/search_tracker.py --plan                   # only says what would run
    python search_spaces/search_tracker.py --checkpoint runs/RUN_ID/best --num-trials 300 \\
        --benchmark otb100 --benchmark-folder OTB --partial          # a trained detector, real data

All trials track with one checkpoint: the one that is given, that of a finished run of the same
config (launch.py's quickstart, for one), or one that is trained first. Trajectories are kept, so
the same constants are never tracked twice. TPE suggests, ASHA stops after a few sequences what
falls behind; the best are compared with the starting point on other sequences. The same command
goes on where it was stopped.
"""

from dataclasses import dataclass
from typing import Annotated, get_args

import tyro

from data_pipeline.clear_errors import clear_errors
from eval_jobs.pipeline import PipelineConfig
from eval_jobs.result_files import local_folder
from search_spaces.search import Search
from search_spaces.study_options import StudyOptions, require_no_training, the_seed
from search_spaces.study_script import plan_or_search
from search_spaces.tracker_space import Knob, TrackerChoice, tracker_search

DEFAULTS = StudyOptions(seeds=(0,), short_pairs=0)


@dataclass(frozen=True, kw_only=True)
class TrackerSearchOptions:
    """How the search is run."""

    study: Annotated[StudyOptions, tyro.conf.arg(name="")] = DEFAULTS
    """What all studies have."""

    checkpoint: str = ""
    """Folder of a trained detector; empty: train one, or find it."""

    knobs: tuple[Knob, ...] = get_args(Knob)
    """What varies. Sixteen trials say little about all of them: name a few, or try hundreds."""

    num_trials: int = 16
    """Choices to try."""

    num_finalists: int = 2
    """Choices that are reported on, beside the starting point."""


@clear_errors()
def main() -> None:
    """Parses the command line, runs, and prints what came out."""
    options = tyro.cli(TrackerSearchOptions, description=__doc__)
    plan_or_search(lambda base: search_of(options, base), "tpe", options.study, trained=True)


def search_of(options: TrackerSearchOptions, base: PipelineConfig) -> Search[TrackerChoice]:
    """The search that the options ask for.

    Raises:
        ValueError: they hold what would go unheeded, or the checkpoint is a URI.
    """
    if options.checkpoint:
        require_no_training(options.study, DEFAULTS)
    return tracker_search(
        base,
        options.study.tuning,
        knobs=options.knobs,
        seed=the_seed(options.study),
        num_trials=options.num_trials,
        num_finalists=options.num_finalists,
        checkpoint=str(local_folder(options.checkpoint).absolute()) if options.checkpoint else "",
    )


if __name__ == "__main__":
    main()
