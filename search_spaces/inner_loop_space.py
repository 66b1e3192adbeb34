"""What is searched of the inner loop: steps, learned rates, gammas and online updates."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from eval_jobs.pipeline import PipelineConfig
from eval_jobs.tracker_config import UPDATE_TRIGGERS
from meta_train.gamma_schedule import GammaConfig
from search_spaces.branch_names import NAMED_BRANCHES
from search_spaces.measures import LOSS_RATIO, benchmark_measures
from search_spaces.search import Options, Search, Space
from search_spaces.sequence_parts import TuningConfig


@dataclass(frozen=True, kw_only=True)
class InnerLoopChoice:
    """How a target is learned. The defaults are the paper's, or say that they are not."""

    num_steps: int = 4
    """Inner steps in meta-training."""

    kllr: Literal["none", "cls", "reg", "both"] = "both"
    """The branches whose rates the outer loop learns."""

    granularity: Literal["kernel", "layer", "parameter"] = "kernel"
    """What shares a rate."""

    gamma_family: Literal["paper", "uniform", "last"] = "paper"
    """What the weights of the multi-step loss anneal to."""

    annealing_share: float = 0.5
    """Share of the epochs over which they do. Not in the paper."""

    include_step_0: bool = True
    """Whether the loss before any step counts."""

    update_interval_frames: int = 10
    """Frames between online updates; 0: none."""


SPACE: Space = {
    "num_steps": Options(values=(1, 2, 4, 6)),
    "kllr": Options(values=("none", "cls", "reg", "both")),
    "granularity": Options(values=("kernel", "layer", "parameter")),
    "gamma_family": Options(values=("paper", "uniform", "last")),
    "annealing_share": Options(values=(0.0, 0.5, 1.0)),
    "include_step_0": Options(values=(True, False)),
    "update_interval_frames": Options(values=(0, 5, 10, 20)),
}
"""What each knob may be."""

Knob = Literal[
    "num_steps",
    "kllr",
    "granularity",
    "gamma_family",
    "annealing_share",
    "include_step_0",
    "update_interval_frames",
]
"""Names of `SPACE`, for the command line."""

NUM_RUNGS = 3
"""Validations of a shortened quickstart, at which ASHA may stop it."""


def configure(choice: InnerLoopChoice, base: PipelineConfig) -> PipelineConfig:
    """The base with this inner loop and these online updates."""
    train = base.train
    share, epochs = choice.annealing_share, train.outer_loop.num_epochs
    train = replace(
        train,
        inner_loop=replace(train.inner_loop, num_steps=choice.num_steps),
        rates=replace(
            train.rates,
            learned_in=NAMED_BRANCHES[choice.kllr],
            granularity=choice.granularity,
        ),
        gammas=GammaConfig(
            family=choice.gamma_family,
            annealing_epochs=share * epochs,
            include_step_0=choice.include_step_0,
        ),
    )
    tracker, interval = base.evaluation.tracker, choice.update_interval_frames or None
    evaluation = replace(
        base.evaluation,
        phases=("after",) if interval is None else ("online",),
        tracker=replace(
            tracker,
            update_interval_frames=interval,
            # Where the base has distractors alone, the interval would ask for nothing.
            update_triggers=UPDATE_TRIGGERS if interval else tracker.update_triggers,
        ),
        references=False,
    )
    return replace(base, train=train, evaluation=evaluation)


def with_rungs(base: PipelineConfig, num_rungs: int) -> PipelineConfig:
    """The base's outer steps in so many epochs, each of which ends with a validation."""
    outer = base.train.outer_loop
    share = min(1.0, outer.second_order_from_epoch / outer.num_epochs)
    outer = replace(
        outer,
        num_epochs=num_rungs,
        iterations_per_epoch=max(1, outer.num_iterations // num_rungs),
        second_order_from_epoch=round(share * num_rungs),
    )
    validation = replace(base.train.validation, every_epochs=1)
    return replace(base, train=replace(base.train, outer_loop=outer, validation=validation))


def inner_loop_search(
    base: PipelineConfig,
    tuning: TuningConfig,
    *,
    knobs: Sequence[Knob],
    seeds: tuple[int, ...],
    num_trials: int,
    num_finalists: int,
) -> Search[InnerLoopChoice]:
    """A search over these knobs, alone or jointly; the others keep the paper's values.

    Raises:
        ValueError: no knob is named, or a choice makes no valid config of this base.
    """
    return Search(
        name="search_inner_loop",
        title=f"Inner loop: {', '.join(knobs)}",
        space={name: SPACE[name] for name in knobs},
        start=InnerLoopChoice(),
        configure=configure,
        base=base,
        tuning=tuning,
        measures=(*benchmark_measures(base.evaluation), LOSS_RATIO),
        num_trials=num_trials,
        num_finalists=num_finalists,
        seeds=seeds,
    )
