"""Table 1: what meta-training gives, before and after adaptation, without online updating."""

from dataclasses import dataclass, replace
from typing import Literal

from eval_jobs.pipeline import PipelineConfig
from search_spaces.constant_rates import CONSTANT_RATES
from search_spaces.sequence_parts import TuningConfig
from search_spaces.study import Cell, Measure, Published, Study, grid


@dataclass(frozen=True, kw_only=True)
class MamlChoice:
    """What Table 1 varies."""

    method: Literal["baseline", "maml"]
    """How the detector is trained: on all four images of each pair, or by meta-learning."""

    phase: Literal["before", "after"]
    """Tracking before or after adaptation to the first frame."""

    tracking_rate: Literal["trained", "best constant"] = "trained"
    """The inner-loop rates while tracking: those of training (the baseline's stay at their initial
    value), or the constant that is best on the tuning sequences."""


def _figures(otb: float, vot: float, lasot: float, trackingnet: float) -> Published:
    return {
        "OTB-100 AUC": (otb,),
        "VOT-18 EAO": (vot,),
        "LaSOT AUC": (lasot,),
        "TrackingNet AUC": (trackingnet,),
    }


CELLS = (
    Cell(
        name="baseline_before",
        choice=MamlChoice(method="baseline", phase="before"),
        published=_figures(0.460, 0.137, 0.391, 0.601),
    ),
    Cell(
        name="baseline_after",
        choice=MamlChoice(method="baseline", phase="after"),
        published=_figures(0.487, 0.174, 0.391, 0.634),
    ),
    Cell(
        name="baseline_after_best_rate",
        choice=MamlChoice(method="baseline", phase="after", tracking_rate="best constant"),
        published=_figures(0.487, 0.174, 0.391, 0.634),
        constant_rates=CONSTANT_RATES,
    ),
    Cell(
        name="maml_before",
        choice=MamlChoice(method="maml", phase="before"),
        published=_figures(0.464, 0.162, 0.387, 0.626),
    ),
    Cell(
        name="maml_after",
        choice=MamlChoice(method="maml", phase="after"),
        published=_figures(0.671, 0.341, 0.511, 0.743),
    ),
)
"""Table 1's rows, and the fair baseline: it has no learned rates, so it also adapts with the best
of several constants (not in the paper, whose figures stand beside both)."""

MEASURES = (
    Measure(name="tracking/auc", title="AUC", higher_is_better=True),
    Measure(name="tracking/precision_20", title="precision at 20 px", higher_is_better=True),
)
"""Of tracking without online updating."""


def configure(choice: MamlChoice, base: PipelineConfig) -> PipelineConfig:
    """The base trained by this method, over as many outer steps, and tracking without updating."""
    outer = replace(base.train.outer_loop, method=choice.method)
    tracker = replace(base.evaluation.tracker, update_interval_frames=None)
    evaluation = replace(base.evaluation, phases=(choice.phase,), tracker=tracker, references=False)
    return replace(base, train=replace(base.train, outer_loop=outer), evaluation=evaluation)


def maml_study(base: PipelineConfig, seeds: tuple[int, ...], tuning: TuningConfig) -> Study:
    """Table 1 over a base config: each method is trained once with each seed.

    Raises:
        ValueError: a cell makes no valid config of this base.
    """
    return Study(
        name="ablation_maml",
        title="Table 1, meta-training",
        variants=grid(CELLS, configure, base, seeds),
        measures=MEASURES,
        tuning=tuning,
    )
