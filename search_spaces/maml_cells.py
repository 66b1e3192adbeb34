"""Table 1: what meta-training gives, before and after adaptation, without online updating."""

from dataclasses import dataclass, replace
from typing import Literal

from eval_jobs.constant_rates import CONSTANT_RATES
from eval_jobs.pipeline import PipelineConfig
from eval_jobs.published import published_figures
from search_spaces.measures import benchmark_measures
from search_spaces.sequence_parts import TuningConfig
from search_spaces.study import Cell, Study, grid


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


CELLS = (
    Cell(
        name="baseline_before",
        choice=MamlChoice(method="baseline", phase="before"),
        published=published_figures(1, "FCOS baseline, before adaptation"),
    ),
    Cell(
        name="baseline_after",
        choice=MamlChoice(method="baseline", phase="after"),
        published=published_figures(1, "FCOS baseline, after adaptation"),
    ),
    Cell(
        name="baseline_after_best_rate",
        choice=MamlChoice(method="baseline", phase="after", tracking_rate="best constant"),
        published=published_figures(1, "FCOS baseline, after adaptation"),
        constant_rates=CONSTANT_RATES,
    ),
    Cell(
        name="maml_before",
        choice=MamlChoice(method="maml", phase="before"),
        published=published_figures(1, "FCOS-MAML, before adaptation"),
    ),
    Cell(
        name="maml_after",
        choice=MamlChoice(method="maml", phase="after"),
        published=published_figures(1, "FCOS-MAML, after adaptation"),
    ),
)
"""Table 1's rows, and the fair baseline: it has no learned rates, so it also adapts with the best
of several constants (not in the paper, whose figures stand beside both)."""


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
        measures=benchmark_measures(base.evaluation),
        tuning=tuning,
    )
