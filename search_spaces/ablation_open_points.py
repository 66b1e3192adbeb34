"""Settles what the paper leaves open, by held-out pair tasks: no benchmark is looked at.

    python search_spaces/ablation_open_points.py --points head      # synthetic videos, minutes
    python search_spaces/ablation_open_points.py --preset small --shards SHARDS --seeds 0 \\
        --iterations-per-epoch 50 --look-alikes             # real data, 25 trainings, CPU-hours
    python search_spaces/ablation_open_points.py ... --plan         # only says what that costs

Each trial trains the preset with one thing changed, and is compared with the preset itself by the
overlap at the score's peak before and after adaptation, on videos that training leaves out. The
same command goes on where it was stopped.
"""

from dataclasses import dataclass
from typing import Annotated, get_args

import tyro

from data_pipeline.clear_errors import clear_errors
from eval_jobs.pipeline import PipelineConfig
from search_spaces.open_points import Point, open_points_study
from search_spaces.study import Study
from search_spaces.study_options import StudyOptions, require_no_tracking
from search_spaces.study_script import plan_or_run


@dataclass(frozen=True, kw_only=True)
class OpenPointsOptions:
    """How the study is run."""

    study: Annotated[StudyOptions, tyro.conf.arg(name="")] = StudyOptions(seeds=(0,))
    """What all studies have; options of tracking are refused."""

    points: tuple[Point, ...] = get_args(Point)
    """What is compared."""

    look_alikes: bool = False
    """Also compare by the tasks that show a look-alike; the shards must hold such (COCO's do)."""


@clear_errors()
def main() -> None:
    """Parses the command line, runs, and prints what came out."""
    options = tyro.cli(OpenPointsOptions, description=__doc__)
    plan_or_run(lambda base: study_of(options, base), options.study)


def study_of(options: OpenPointsOptions, base: PipelineConfig) -> Study:
    """The study that these options ask for, of a base config.

    Raises:
        ValueError: an option or a cell will not do.
    """
    require_no_tracking(options.study)
    return open_points_study(
        base, options.study.seeds, points=options.points, look_alikes=options.look_alikes
    )


if __name__ == "__main__":
    main()
