"""What a study will run, in which order, and what that costs; nothing is started."""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from eval_jobs.pipeline import PipelineConfig
from eval_jobs.row_tables import Row, text_table
from search_spaces.study import Study, Trial, trials
from search_spaces.training import absolute_storage, find_trained
from search_spaces.trial_run import finished
from search_spaces.tune_trials import grouped


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of one core, measured with two trials at a time on two cores; elsewhere a guide."""

    fixed_seconds: float
    """Of a training, whatever it does: processes, imports, first weights, plots, logging."""

    pair_seconds: float
    """Of a training pair in first order."""

    baseline_pair_seconds: float
    """Of a training pair without an inner loop."""

    validation_pair_seconds: float
    """Of a validation pair."""

    frame_seconds: float
    """Of a tracked frame without online updating."""

    updated_frame_seconds: float
    """Of a tracked frame with online updating."""


SLIM_NETWORK = Cost(
    fixed_seconds=45.0,
    pair_seconds=0.17,
    baseline_pair_seconds=0.07,
    validation_pair_seconds=0.17,
    frame_seconds=0.03,
    updated_frame_seconds=0.08,
)
"""The quickstart's."""

FULL_NETWORK = Cost(
    fixed_seconds=45.0,
    pair_seconds=0.35,
    baseline_pair_seconds=0.15,
    validation_pair_seconds=0.3,
    frame_seconds=0.1,
    updated_frame_seconds=0.25,
)
"""A whole ResNet-18 with heads of 32 channels; extrapolated, not measured in a study."""

SECOND_ORDER_FACTOR = 2.0
"""A pair in second order costs about so many in first order."""

MOST_COLUMNS = 4
"""Parameters that a plan shows in columns of their own."""


def cost_of(config: PipelineConfig) -> Cost:
    """What its network costs."""
    width = config.train.detector.network.backbone.width
    return SLIM_NETWORK if width < 64 else FULL_NETWORK


def training_seconds(config: PipelineConfig) -> float:
    """What its training costs in CPU-seconds, roughly."""
    cost, outer, validation = cost_of(config), config.train.outer_loop, config.train.validation
    second = max(0, outer.num_epochs - outer.second_order_from_epoch)
    epochs = outer.num_epochs - second + SECOND_ORDER_FACTOR * second
    pair_seconds = cost.pair_seconds
    if outer.method == "baseline":
        epochs, pair_seconds = outer.num_epochs, cost.baseline_pair_seconds
    num_validations = -(-outer.num_epochs // validation.every_epochs)
    return (
        cost.fixed_seconds
        + pair_seconds * epochs * outer.iterations_per_epoch * outer.batch_pairs
        + cost.validation_pair_seconds * validation.num_pairs * num_validations
    )


def tracking_seconds(trial: Trial) -> float:
    """What its tracking costs in CPU-seconds, roughly, choosing a constant rate included."""
    config, sequences = trial.variant.config, trial.sequences
    cost, phases = cost_of(config), config.evaluation.phases
    per_frame = dict.fromkeys(phases, cost.frame_seconds)
    if config.evaluation.tracker.update_interval_frames is not None and "online" in phases:
        per_frame["online"] = cost.updated_frame_seconds
    seconds = sum(per_frame.values(), 0.0) * sequences.report.num_frames
    if trial.variant.constant_rates and sequences.tuning is not None:
        tries = len(trial.variant.constant_rates) * sequences.tuning.num_frames
        seconds += tries * per_frame[phases[0]]
    return seconds


def plan_text(study: Study) -> str:
    """The trials in their order with their cost, and the sum over those that are still to run.

    Raises:
        ValueError: a variant has no data, or nothing to be evaluated on.
    """
    (text,) = plan_texts([study])
    return text


def plan_texts(studies: Sequence[Study]) -> Iterator[str]:
    """The plans of studies that run one after the other: each training is counted once.

    Raises:
        ValueError: as `plan_text`.
    """
    counted: frozenset[str] = frozenset()
    for study in studies:
        found = trials(study)
        yield _plan_text(study, found, counted)
        counted |= {trial.training for trial in found}


def _plan_text(study: Study, found: Sequence[Trial], counted: Set[str]) -> str:
    """The plan of a study before which others train what is counted."""
    storage = absolute_storage(study.variants[0].config.storage)
    ended = {trial.trial_id for trial in found if finished(storage, trial.trial_id) is not None}
    rows, left, num_trainings, order = [], 0.0, 0, 0
    params = _params_shown(study)
    for group in grouped(found):
        training, state = _training(group, ended, counted)
        num_trainings += training > 0
        for trial in group:
            order += 1
            seconds = 0.0 if trial.trial_id in ended else training + tracking_seconds(trial)
            rows.append(
                _row(order, trial, params[trial.variant.cell], seconds, _state(trial, ended, state))
            )
            left += seconds
            if seconds:
                training, state = 0.0, "to run, on the training above"
    sequences = dict.fromkeys(trial.sequences.text for trial in found)
    return (
        text_table(rows, study.title)
        + "\n".join(sequences)
        + f"\nTo run: {len(found) - len(ended)} of {len(found)} trials on {num_trainings} "
        f"trainings, {cost_text(left, found[0].variant.config)}"
    )


def cost_text(seconds: float, config: PipelineConfig) -> str:
    """A sum of seconds in words, and what a training takes up."""
    scaling = config.train.scaling
    devices = f"{scaling.num_workers} x {scaling.cpus_per_worker} CPUs"
    amount = f"about {seconds / 60:.0f} CPU-minutes ({seconds / 3600:.1f} CPU-hours), estimated"
    if scaling.use_gpu:
        devices += " and a GPU each"
        amount = (
            f"about {seconds / 3600:.1f} GPU-hours, if a GPU is no faster than the core on which "
            "the costs were measured"
        )
    return f"{amount}. A training takes {devices}."


def _training(group: Sequence[Trial], ended: Set[str], counted: Set[str]) -> tuple[float, str]:
    """What a group's training still costs, and what is said of its first trial."""
    variant = group[0].variant
    if all(trial.trial_id in ended for trial in group):
        return 0.0, "finished"
    if variant.checkpoint:
        return 0.0, "to run, on the checkpoint given"
    known = find_trained(variant.config)
    if known is not None:
        return 0.0, f"to run, on {known.run_id}"
    if group[0].training in counted:
        return 0.0, "to run, on a training of the plan above"
    return training_seconds(variant.config), "to train and run"


def _state(trial: Trial, ended: Set[str], otherwise: str) -> str:
    return "finished" if trial.trial_id in ended else otherwise


def _params_shown(study: Study) -> dict[str, Row]:
    """Each cell's parameters, by its name: what varies, or all that differs from the first cell in
    one column, where the columns would be too many to read.
    """
    found = {variant.cell: variant.params for variant in study.variants}
    start, *others = found.values()
    varied = [name for name in start if any(each[name] != start[name] for each in others)]
    if len(varied) <= MOST_COLUMNS:
        return {cell: {name: str(each[name]) for name in varied} for cell, each in found.items()}
    changes = {
        cell: ", ".join(f"{name} {each[name]}" for name in varied if each[name] != start[name])
        for cell, each in found.items()
    }
    return {cell: {"changes": text or "-"} for cell, text in changes.items()}


def _row(order: int, trial: Trial, params: Row, seconds: float, state: str) -> Row:
    variant, sequences = trial.variant, trial.sequences
    outer = variant.config.train.outer_loop
    tuning = 0 if sequences.tuning is None else sequences.tuning.num_frames
    device = "GPU" if variant.config.train.scaling.use_gpu else "CPU"
    return {
        "order": order,
        "trial": trial.trial_id,
        **params,
        "seed": variant.seed,
        "pairs": 0 if variant.checkpoint else outer.num_iterations * outer.batch_pairs,
        "frames": sequences.report.num_frames * len(variant.config.evaluation.phases)
        + tuning * len(variant.constant_rates),
        f"{device}-minutes": f"{seconds / 60:.1f}",
        "state": state,
    }
