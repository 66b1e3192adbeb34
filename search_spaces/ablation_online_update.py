"""Table 3: online updating of no branch, of cls, of both; its interval; its cost in speed.

    python search_spaces/ablation_online_update.py            # one quickstart training, minutes
    python search_spaces/ablation_online_update.py --plan     # only says what would run
    python search_spaces/ablation_online_update.py --checkpoint runs/RUN_ID/best \\
        --benchmark otb100 --benchmark-folder OTB --partial          # a trained detector

All rows track with one checkpoint: the one that is given, that of a finished run of the same config
(launch.py's quickstart, for one), or one that is trained here. The same command goes on where it
was stopped, and tracks no finished sequence again.
"""

from dataclasses import dataclass
from typing import Annotated

import tyro

from data_pipeline.clear_errors import clear_errors
from eval_jobs.pipeline import PipelineConfig
from eval_jobs.result_files import local_folder
from search_spaces.online_update_cells import online_update_study
from search_spaces.sequence_parts import TuningConfig
from search_spaces.study import Study
from search_spaces.study_options import StudyOptions, require_no_training, the_seed
from search_spaces.study_script import plan_or_run

DEFAULTS = StudyOptions(seeds=(0,), short_pairs=0)


@dataclass(frozen=True, kw_only=True)
class OnlineUpdateOptions:
    """How the study is run."""

    study: Annotated[StudyOptions, tyro.conf.arg(name="")] = DEFAULTS
    """What all studies have."""

    checkpoint: str = ""
    """Folder of a trained detector; empty: train one, or find it."""


@clear_errors()
def main() -> None:
    """Parses the command line, runs, and prints what came out."""
    options = tyro.cli(OnlineUpdateOptions, description=__doc__)
    plan_or_run(lambda base: study_of(options, base), options.study)


def study_of(options: OnlineUpdateOptions, base: PipelineConfig) -> Study:
    """The study that the options ask for.

    Raises:
        ValueError: they hold what would go unheeded.
    """
    if options.study.tuning != TuningConfig():
        raise ValueError("this study chooses nothing, so it takes no --tuning; leave it out")
    if options.checkpoint:
        the_seed(options.study)
        local_folder(options.checkpoint)
        require_no_training(options.study, DEFAULTS)
    return online_update_study(base, options.study.seeds, options.checkpoint)


if __name__ == "__main__":
    main()
