"""Searches the inner loop: steps, learned rates, gammas, online updates; alone or jointly.

    python search_spaces/search_inner_loop.py                        # all knobs jointly, minutes
    python search_spaces/search_inner_loop.py --kind grid --knobs num_steps     # one knob alone
    python search_spaces/search_inner_loop.py --plan                 # only says what would run
    python search_spaces/search_inner_loop.py --preset small --shards SHARDS --num-trials 40 \\
        --benchmark otb100 --benchmark-folder OTB --partial          # real data

Each trial meta-trains. TPE suggests, ASHA stops what falls behind on the tuning sequences; the best
are then compared with the paper's settings over several seeds, on other sequences. The same command
goes on where it was stopped.
"""

from dataclasses import dataclass
from typing import Annotated, get_args

import tyro

from data_pipeline.clear_errors import clear_errors
from eval_jobs.pipeline import PipelineConfig
from search_spaces.inner_loop_space import (
    NUM_RUNGS,
    InnerLoopChoice,
    Knob,
    inner_loop_search,
    with_rungs,
)
from search_spaces.search import Search, SearchKind
from search_spaces.sequence_parts import TuningConfig
from search_spaces.study_options import StudyOptions
from search_spaces.study_script import plan_or_search


@dataclass(frozen=True, kw_only=True)
class InnerLoopOptions:
    """How the search is run."""

    study: Annotated[StudyOptions, tyro.conf.arg(name="")] = StudyOptions(
        tuning=TuningConfig(max_sequences=3)
    )
    """What all studies have."""

    kind: SearchKind = "tpe"
    """Optuna's TPE with ASHA, or every combination of the knobs, none stopped early."""

    knobs: tuple[Knob, ...] = get_args(Knob)
    """What varies."""

    num_trials: int = 6
    """Choices that TPE tries."""

    num_finalists: int = 1
    """Choices that are reported on, beside the starting point."""


@clear_errors()
def main() -> None:
    """Parses the command line, runs, and prints what came out."""
    options = tyro.cli(InnerLoopOptions, description=__doc__)
    plan_or_search(
        lambda base: search_of(options, base), options.kind, options.study, trained=False
    )


def search_of(options: InnerLoopOptions, base: PipelineConfig) -> Search[InnerLoopChoice]:
    """The search that the options ask for."""
    if options.study.is_quickstart:
        base = with_rungs(base, NUM_RUNGS)
    return inner_loop_search(
        base,
        options.study.tuning,
        knobs=options.knobs,
        seeds=options.study.seeds,
        num_trials=options.num_trials,
        num_finalists=options.num_finalists,
    )


if __name__ == "__main__":
    main()
