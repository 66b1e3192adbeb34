"""Table 2: kernel-wise learnable rates (KLLR) in no branch, in one, in both."""

from dataclasses import dataclass, replace
from typing import Literal

from eval_jobs.constant_rates import CONSTANT_RATES
from eval_jobs.pipeline import PipelineConfig
from eval_jobs.published import published_figures
from eval_jobs.tracker_config import UPDATE_TRIGGERS
from search_spaces.branch_names import NAMED_BRANCHES
from search_spaces.measures import LOSS_RATIO, benchmark_measures
from search_spaces.sequence_parts import TuningConfig
from search_spaces.study import Cell, Study, grid


@dataclass(frozen=True, kw_only=True)
class KernelRatesChoice:
    """What Table 2 varies."""

    kllr: Literal["none", "cls", "reg", "both"]
    """The branches whose rates the outer loop learns; the others keep the constant."""

    tracking_rate: Literal["trained", "best constant"] = "trained"
    """The inner-loop rates while tracking: those of training, or the constant that is best on the
    tuning sequences."""


_NONE = published_figures(2, "FCOS-MAML, rates learned in no branch")
_ONE_BRANCH = published_figures(
    2, "FCOS-MAML, rates learned in one branch", "FCOS-MAML, rates learned in the other branch"
)
"""Both middle rows of Table 2: our copy of it does not show which one is cls and which reg."""

_BOTH = published_figures(2, "FCOS-MAML, rates learned in both branches")

CELLS = (
    Cell(name="none", choice=KernelRatesChoice(kllr="none"), published=_NONE),
    Cell(
        name="none_best_rate",
        choice=KernelRatesChoice(kllr="none", tracking_rate="best constant"),
        published=_NONE,
        constant_rates=CONSTANT_RATES,
    ),
    Cell(name="cls", choice=KernelRatesChoice(kllr="cls"), published=_ONE_BRANCH),
    Cell(name="reg", choice=KernelRatesChoice(kllr="reg"), published=_ONE_BRANCH),
    Cell(name="both", choice=KernelRatesChoice(kllr="both"), published=_BOTH),
)
"""Table 2's rows, and a fair chance for the first: its rate was never learned, so it also tracks
with the best of several (not in the paper, whose figures stand beside both)."""


def configure(choice: KernelRatesChoice, base: PipelineConfig) -> PipelineConfig:
    """The base with learned rates in these branches; online updates are asked for as in the paper,
    and change the branches that the base updates.
    """
    rates = replace(base.train.rates, learned_in=NAMED_BRANCHES[choice.kllr])
    tracker = replace(base.evaluation.tracker, update_triggers=UPDATE_TRIGGERS)
    return replace(
        base,
        train=replace(base.train, rates=rates),
        evaluation=replace(base.evaluation, phases=("online",), tracker=tracker, references=False),
    )


def kernel_rates_study(base: PipelineConfig, seeds: tuple[int, ...], tuning: TuningConfig) -> Study:
    """Table 2 over a base config: each cell is meta-trained and evaluated with each seed.

    Raises:
        ValueError: a cell makes no valid config of this base.
    """
    return Study(
        name="ablation_kllr",
        title="Table 2, kernel-wise learnable rates, online updating",
        variants=grid(CELLS, configure, base, seeds),
        measures=(*benchmark_measures(base.evaluation), LOSS_RATIO),
        tuning=tuning,
    )
