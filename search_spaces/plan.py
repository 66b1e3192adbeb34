"""What a study will run, in which order, and what that costs; nothing is started."""

from dataclasses import dataclass

from eval_jobs.report import Row, text_table
from search_spaces.study import Study, Trial, trials
from search_spaces.tune_trials import absolute_storage, finished


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of one core, measured with two trials at a time on two cores; elsewhere a guide."""

    fixed_seconds: float
    """Of a trial, whatever it does: processes, imports, first weights, plots, logging."""

    pair_seconds: float
    """Of a training pair in first order."""

    validation_pair_seconds: float
    """Of a validation pair."""

    frame_seconds: float
    """Of a tracked frame with online updating."""


SLIM_NETWORK = Cost(
    fixed_seconds=45.0, pair_seconds=0.17, validation_pair_seconds=0.17, frame_seconds=0.08
)
"""The quickstart's."""

FULL_NETWORK = Cost(
    fixed_seconds=45.0, pair_seconds=0.35, validation_pair_seconds=0.3, frame_seconds=0.25
)
"""A whole ResNet-18 with heads of 32 channels; extrapolated, not measured in a study."""

SECOND_ORDER_FACTOR = 2.0
"""A pair in second order costs about so many in first order."""


def trial_seconds(trial: Trial, cost: Cost) -> float:
    """What a trial costs in CPU-seconds, roughly."""
    config = trial.variant.config
    outer, validation = config.train.outer_loop, config.train.validation
    second = max(0, outer.num_epochs - outer.second_order_from_epoch)
    epochs = outer.num_epochs - second + SECOND_ORDER_FACTOR * second
    pairs = epochs * outer.iterations_per_epoch * outer.batch_pairs
    num_validations = -(-outer.num_epochs // validation.every_epochs)
    return (
        cost.fixed_seconds
        + cost.pair_seconds * pairs
        + cost.validation_pair_seconds * validation.num_pairs * num_validations
        + cost.frame_seconds * trial.num_frames * len(config.evaluation.phases)
    )


def plan_text(study: Study) -> str:
    """The trials in their order with their cost, and the sum over those that are still to run.

    Raises:
        ValueError: a variant has no data, or nothing to be evaluated on.
    """
    found = trials(study)
    storage = absolute_storage(study.variants[0].config.storage)
    is_finished = [finished(storage, trial.trial_id) is not None for trial in found]
    costs = [trial_seconds(trial, _cost(trial)) for trial in found]
    left = sum(cost for cost, ended in zip(costs, is_finished, strict=True) if not ended)
    rows = [
        _row(order, trial, cost, ended)
        for order, (trial, cost, ended) in enumerate(
            zip(found, costs, is_finished, strict=True), start=1
        )
    ]
    scaling = found[0].variant.config.train.scaling
    devices = f"{scaling.num_workers} x {scaling.cpus_per_worker} CPUs"
    if scaling.use_gpu:
        devices += " and a GPU each: GPU-hours were not measured, the pairs tell the proportions"
    return (
        text_table(rows, study.title)
        + f"To run: {is_finished.count(False)} of {len(found)} trials, about {left / 60:.0f} "
        f"CPU-minutes ({left / 3600:.1f} CPU-hours). A trial trains on {devices}."
    )


def _cost(trial: Trial) -> Cost:
    width = trial.variant.config.train.detector.network.backbone.width
    return SLIM_NETWORK if width < 64 else FULL_NETWORK


def _row(order: int, trial: Trial, seconds: float, ended: bool) -> Row:
    variant = trial.variant
    outer = variant.config.train.outer_loop
    return {
        "order": order,
        "trial": trial.trial_id,
        **{name: str(value) for name, value in variant.params.items()},
        "seed": variant.seed,
        "pairs": outer.num_iterations * outer.batch_pairs,
        "frames": trial.num_frames * len(variant.config.evaluation.phases),
        "CPU-minutes": round(seconds / 60, 1),
        "state": "finished" if ended else "to run",
    }
