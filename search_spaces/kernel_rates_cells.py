"""Table 2: kernel-wise learnable rates (KLLR) in no branch, in one, in both."""

from dataclasses import dataclass, replace
from typing import Literal

from eval_jobs.pipeline import PipelineConfig
from meta_train.detectors.backbone import BRANCHES, Branch
from search_spaces.constant_rates import CONSTANT_RATES
from search_spaces.sequence_parts import TuningConfig
from search_spaces.study import Cell, Measure, Published, Study, grid


@dataclass(frozen=True, kw_only=True)
class KernelRatesChoice:
    """What Table 2 varies."""

    kllr: Literal["none", "cls", "reg", "both"]
    """The branches whose rates the outer loop learns; the others keep the constant."""

    tracking_rate: Literal["trained", "best constant"] = "trained"
    """The inner-loop rates while tracking: those of training, or the constant that is best on the
    tuning sequences."""


KLLR_BRANCHES: dict[str, tuple[Branch, ...]] = {
    "none": (),
    "cls": ("cls",),
    "reg": ("reg",),
    "both": BRANCHES,
}
"""What the names of Table 2's rows stand for."""

_NONE: Published = {
    "OTB-100 AUC": (0.628,),
    "VOT-18 EAO": (0.313,),
    "LaSOT AUC": (0.490,),
    "TrackingNet AUC": (0.733,),
}
_ONE_BRANCH: Published = {
    "OTB-100 AUC": (0.661, 0.676),
    "VOT-18 EAO": (0.368, 0.315),
    "LaSOT AUC": (0.502, 0.504),
    "TrackingNet AUC": (0.737, 0.744),
}
"""Both middle rows of Table 2: our copy of it does not show which one is cls and which reg."""

_BOTH: Published = {
    "OTB-100 AUC": (0.704,),
    "VOT-18 EAO": (0.392,),
    "LaSOT AUC": (0.523,),
    "TrackingNet AUC": (0.757,),
}

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

MEASURES = (
    Measure(name="online/auc", title="AUC, online updating", higher_is_better=True),
    Measure(
        name="val/query_loss_ratio", title="query loss, after / before", higher_is_better=False
    ),
)
"""The paper's measure, and how much of the held-out loss adaptation leaves."""


def configure(choice: KernelRatesChoice, base: PipelineConfig) -> PipelineConfig:
    """The base with learned rates in these branches, and online updating as in Table 2."""
    rates = replace(base.train.rates, learned_in=KLLR_BRANCHES[choice.kllr])
    return replace(
        base,
        train=replace(base.train, rates=rates),
        evaluation=replace(base.evaluation, phases=("online",), references=False),
    )


def kernel_rates_study(base: PipelineConfig, seeds: tuple[int, ...], tuning: TuningConfig) -> Study:
    """Table 2 over a base config: each cell is meta-trained and evaluated with each seed.

    Raises:
        ValueError: a cell makes no valid config of this base.
    """
    return Study(
        name="ablation_kllr",
        title="Table 2, kernel-wise learnable rates",
        variants=grid(CELLS, configure, base, seeds),
        measures=MEASURES,
        tuning=tuning,
    )
