"""Table 3: what online updating gives and costs, on one trained detector."""

from dataclasses import dataclass, replace
from typing import Literal

from eval_jobs.pipeline import PipelineConfig
from meta_train.detectors.backbone import BRANCHES, Branch
from search_spaces.study import Cell, Measure, Published, Study, grid


@dataclass(frozen=True, kw_only=True)
class OnlineUpdateChoice:
    """What Table 3 varies, and the interval."""

    branches: Literal["none", "cls", "both"]
    """The branches that online updates adapt."""

    interval_frames: int = 10
    """Frames between updates that no distractor asked for; the paper's is 10."""


_BRANCHES: dict[str, tuple[Branch, ...]] = {"cls": ("cls",), "both": BRANCHES}


def _figures(otb: float, vot: float, trackingnet: float, lasot: float, fps: float) -> Published:
    return {
        "OTB-100 AUC": (otb,),
        "VOT-18 EAO": (vot,),
        "TrackingNet AUC": (trackingnet,),
        "LaSOT AUC": (lasot,),
        "FPS on a P100": (fps,),
    }


_PUBLISHED = {
    "none": _figures(0.671, 0.341, 0.743, 0.511, 85.0),
    "cls": _figures(0.690, 0.394, 0.747, 0.523, 58.0),
    "both": _figures(0.704, 0.392, 0.757, 0.496, 42.0),
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

MEASURES = (
    Measure(name="tracking/auc", title="AUC", higher_is_better=True),
    Measure(name="tracking/fps", title="frames/s", higher_is_better=True),
)
"""Quality and speed."""


def configure(choice: OnlineUpdateChoice, base: PipelineConfig) -> PipelineConfig:
    """The base with these online updates; its training is the same for all choices."""
    evaluation = base.evaluation
    if choice.branches == "none":
        tracker = replace(evaluation.tracker, update_interval_frames=None)
        evaluation = replace(evaluation, phases=("after",), tracker=tracker)
    else:
        tracker = replace(
            evaluation.tracker,
            update_interval_frames=choice.interval_frames,
            update_branches=_BRANCHES[choice.branches],
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
        measures=MEASURES,
        own_settings=True,
    )
