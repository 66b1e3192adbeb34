"""Table 3: what online updating gives and costs, on one trained detector."""

from dataclasses import dataclass, replace
from typing import Literal

from eval_jobs.pipeline import PipelineConfig
from eval_jobs.published import published_figures
from eval_jobs.tracker_config import UPDATE_TRIGGERS
from search_spaces.branch_names import NAMED_BRANCHES
from search_spaces.measures import SPEED, benchmark_measures
from search_spaces.study import Cell, Study, grid


@dataclass(frozen=True, kw_only=True)
class OnlineUpdateChoice:
    """What Table 3 varies, and the interval."""

    branches: Literal["none", "cls", "both"]
    """The branches that online updates adapt."""

    interval_frames: int = 10
    """Frames between updates that no distractor asked for; the paper's is 10."""


_PUBLISHED = {
    "none": published_figures(3, "FCOS-MAML, no online updating"),
    "cls": published_figures(3, "FCOS-MAML, online updating of cls"),
    "both": published_figures(3, "FCOS-MAML, online updating of cls and reg"),
}

CELLS = (
    Cell(name="none", choice=OnlineUpdateChoice(branches="none"), published=_PUBLISHED["none"]),
    Cell(name="cls", choice=OnlineUpdateChoice(branches="cls"), published=_PUBLISHED["cls"]),
    Cell(name="both", choice=OnlineUpdateChoice(branches="both"), published=_PUBLISHED["both"]),
    *(
        Cell(
            name=f"both_every_{interval}",
            choice=OnlineUpdateChoice(branches="both", interval_frames=interval),
        )
        for interval in (5, 20)
    ),
)
"""Table 3's rows, and other intervals (not in the paper)."""


def configure(choice: OnlineUpdateChoice, base: PipelineConfig) -> PipelineConfig:
    """The base with these online updates, asked for as in the paper; all share its training."""
    evaluation = base.evaluation
    if choice.branches == "none":
        tracker = replace(evaluation.tracker, update_interval_frames=None)
        evaluation = replace(evaluation, phases=("after",), tracker=tracker)
    else:
        tracker = replace(
            evaluation.tracker,
            update_interval_frames=choice.interval_frames,
            update_branches=NAMED_BRANCHES[choice.branches],
            update_triggers=UPDATE_TRIGGERS,
        )
        evaluation = replace(evaluation, phases=("online",), tracker=tracker)
    return replace(base, evaluation=replace(evaluation, references=False))


def online_update_study(
    base: PipelineConfig, seeds: tuple[int, ...], checkpoint: str = ""
) -> Study:
    """Table 3 over a base config, which is trained once with each seed.

    Args:
        base: what all cells share.
        seeds: of the training; they count nothing where a checkpoint is given.
        checkpoint: a trained detector to take instead; empty: train one, or find it.

    Raises:
        ValueError: a cell makes no valid config of this base.
    """
    return Study(
        name="ablation_online_update",
        title="Table 3, online updating",
        variants=grid(
            CELLS, configure, base, seeds[:1] if checkpoint else seeds, checkpoint=checkpoint
        ),
        measures=(*benchmark_measures(base.evaluation), SPEED),
        own_settings=True,
    )
