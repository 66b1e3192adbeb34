"""The loop that every training process runs. Ray, MLflow and storage come in as callables."""

import logging
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data_pipeline.episodes import EpisodeBatch, PairOrigin
from data_pipeline.sampling import shares
from data_pipeline.stream import EpisodeStream, batches
from meta_train import checkpoint as checkpoints
from meta_train.baseline_step import batch_gradient
from meta_train.collectives import require_equal, sum_over_workers
from meta_train.gamma_schedule import gammas
from meta_train.learner import Learner
from meta_train.meter import Meter
from meta_train.outer_step import (
    Episodes,
    MetaGradient,
    OuterStep,
    added,
    meta_gradient,
    to_episodes,
)
from meta_train.precision import rounding
from meta_train.train_config import TrainConfig
from meta_train.train_state import TrainState
from meta_train.validation import validate, validation_stream

logger = logging.getLogger(__name__)

Metrics = dict[str, float]

_MOST_FAILURES = 3
"""Outer steps in a row without a finite gradient that end a run."""

_AGAINST_DIVERGENCE = "Lower the outer rates or the loss weights (they set the first inner rates)"


class DivergedError(FloatingPointError):
    """The run diverged. The same steps would diverge again, so there is nothing to try again."""


@dataclass(frozen=True, kw_only=True)
class Rim:
    """What a training process reaches outside through. Every worker calls ``report`` alike."""

    rank: int = 0
    """This worker's number."""

    world_size: int = 1
    """How many workers there are."""

    device: torch.device = torch.device("cpu")
    """Where it computes."""

    scratch: Path
    """A local folder for checkpoints on their way out."""

    log: Callable[[Metrics, int], None] = lambda metrics, iteration: None
    """Takes a point of the curves; called on rank 0 only."""

    report: Callable[[Metrics, Path | None], None] = lambda metrics, folder: None
    """Takes the state of the run and, on rank 0, the folder of a checkpoint."""

    notices: Callable[[], int] = lambda: 0
    """How often this worker was told that its machine is about to be taken away."""

    progress: Callable[[int, str], None] = lambda iteration, text: None
    """Takes the number of steps done; called on rank 0 only."""

    batches: Callable[[EpisodeStream, Sequence[int], int], Generator[EpisodeBatch, None, None]] = (
        lambda stream, lanes, start: batches(stream, lanes, start=start)
    )
    """This worker's batches without end, from a stream, the worker's lanes and the first one."""

    stops: Callable[[int], bool] = lambda iteration: False
    """Whether to stop after so many outer steps, with a checkpoint, to go on another time."""


def train(
    config: TrainConfig,
    rim: Rim,
    *,
    resume: Path | None = None,
    init_from: Path | str | None = None,
) -> Learner:
    """Meta-trains a detector to the end of its config.

    Args:
        config: the run.
        rim: the way out.
        resume: a checkpoint of this run, to go on from.
        init_from: a checkpoint of another run, whose weights and rates this one starts from.

    Returns:
        The learner after the last outer step, or after that at which the rim stopped it.

    Raises:
        ValueError: the workers cannot share a batch equally.
        CheckpointError: a checkpoint does not load or does not fit.
        ShardError: the shards do not read.
        DivergedError: several gradients in a row, or the weights, are not finite.
    """
    outer = config.outer_loop
    if outer.batch_pairs % rim.world_size:
        raise ValueError(
            f"a batch of {outer.batch_pairs} pairs expected that {rim.world_size} workers share "
            "equally; train on a number of workers that divides it"
        )
    stream = EpisodeStream(config.shards, config.sampling, split="train", seed=config.seed)
    state = TrainState.start(config, stream, rim.device, resume=resume, init_from=init_from)
    held_out = validation_stream(config.shards, config.sampling)
    lanes = range(rim.rank, outer.batch_pairs, rim.world_size)
    source = rim.batches(stream, lanes, state.iteration)
    drawn: Counter[PairOrigin] = Counter()  # rank 0's lanes stand for all: they are drawn alike
    meter = Meter(outer.batch_pairs, rim.device)
    notices = _Notices(is_late=_is_late(rim.device))
    left_out = torch.zeros((), device=rim.device)  # pairs, since the last point of the curves
    try:
        while state.iteration < outer.num_iterations:
            setup = _setup(config, state.iteration)
            batch = meter.waiting(source)
            drawn.update(batch.origins)
            mine = _gradient(config, state.learner, batch, setup, rim.device)
            found, num_notices = _over_workers(mine, rim.notices())
            norms = state.step(found, outer.decay(state.iteration))
            left_out += outer.batch_pairs - found.num_pairs
            epoch_ends = state.iteration % outer.iterations_per_epoch == 0
            is_logged = state.iteration % config.log_every == 0 or epoch_ends
            if is_logged:
                _require_progress(state)
            if rim.rank == 0 and is_logged:
                point = _point(found, setup, norms, state.learner, config) | meter.read()
                point["train/epoch"] = state.iteration / outer.iterations_per_epoch
                point["train/diverged_pairs"] = float(left_out)
                left_out.zero_()
                rim.log(point, state.iteration)
                rim.progress(state.iteration, f"meta-loss {point['train/meta_loss']:.3f}")
            if rim.rank == 0 and epoch_ends:
                rim.log(shares(drawn), state.iteration)
                drawn.clear()
            metrics = {}
            if epoch_ends and _validates(config, state.iteration):
                metrics = _validate(config, state, held_out, rim)
                meter.restart()
            is_warned = notices.are_new(num_notices)
            stops = rim.stops(state.iteration)
            saves = stops or epoch_ends or is_warned
            if saves or state.iteration % config.checkpoint_every == 0:
                _report(config, state, rim, metrics)
                notices.heed()
            if stops:
                break
    finally:
        source.close()
    return state.learner


def _is_late(device: torch.device) -> bool:
    """Whether the host runs ahead of a device, and would have to wait for a step's numbers."""
    return device.type == "cuda"


class _Notices:
    """All workers' notices. Where the device is late, each step's are read after the next one."""

    def __init__(self, *, is_late: bool) -> None:
        self._is_late = is_late
        self._known = self._heeded = 0
        self._before: Callable[[], int] = lambda: 0

    def are_new(self, total: Tensor) -> bool:
        """Takes the number after a step; whether more are known than were heeded."""
        this = _arriving(total)
        self._known = (self._before if self._is_late else this)()
        self._before = this
        return self._known > self._heeded

    def heed(self) -> None:
        """Those that are known have been acted on."""
        self._heeded = self._known


def _arriving(number: Tensor) -> Callable[[], int]:
    """Starts to copy a number off its device; the call waits for that, and for nothing later."""
    if number.device.type != "cuda":
        return lambda: int(number)
    host = number.to("cpu", non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()

    def read() -> int:
        arrived.synchronize()
        return int(host)

    return read


def _setup(config: TrainConfig, iteration: int) -> OuterStep:
    """Gammas and order of the gradient at an iteration."""
    outer, inner = config.outer_loop, config.inner_loop
    epoch = iteration / outer.iterations_per_epoch
    return OuterStep(
        gammas=gammas(config.gammas, num_steps=inner.num_steps, epoch=epoch),
        adapts=inner.adapts,
        learns=outer.learns,
        second_order=epoch >= outer.second_order_from_epoch,
        exact_backbone=outer.precision == "bf16",
        diverges_at=inner.diverges_at,
        cuda_graphs=config.scaling.cuda_graphs,
    )


def _gradient(
    config: TrainConfig,
    learner: Learner,
    batch: EpisodeBatch,
    setup: OuterStep,
    device: torch.device,
) -> MetaGradient:
    """The gradient of this worker's part of the batch, as sums over its pairs."""
    dtype = learner.weights["trunk.conv1.weight"].dtype
    episodes = to_episodes(batch, device, dtype)
    compute = meta_gradient if config.outer_loop.method == "maml" else batch_gradient
    size = config.outer_loop.pairs_at_once
    with rounding(config.outer_loop.precision, device):
        parts = [
            compute(
                learner.detector,
                learner.weights,
                learner.rates,
                Episodes(*(field[at : at + size] for field in episodes)),
                setup,
            )
            for at in range(0, len(episodes.query_present), size)
        ]
    return added(parts)


def _over_workers(mine: MetaGradient, notices: int) -> tuple[MetaGradient, Tensor]:
    """All workers' gradients and notices added up; so all save a checkpoint at the same step."""
    fields = (mine.weights, mine.rates, mine.query_losses)
    # In one order of memory, in which their norm is computed, however many workers there are.
    tensors = [tensor.contiguous() for field in fields for tensor in field.values()]
    notices_here = mine.num_pairs.new_full((), notices)
    *sums, num_pairs, num_notices = sum_over_workers([*tensors, mine.num_pairs, notices_here])
    total = iter(sums)
    weights, rates, query_losses = ({name: next(total) for name in field} for field in fields)
    return MetaGradient(weights, rates, query_losses, num_pairs), num_notices


def _point(
    found: MetaGradient,
    setup: OuterStep,
    norms: dict[str, Tensor],
    learner: Learner,
    config: TrainConfig,
) -> Metrics:
    """One point of the training curves: losses by inner step, gradient norms, rates by layer."""
    by_step = {
        branch: (values / found.num_pairs).tolist() for branch, values in found.query_losses.items()
    }
    totals = [sum(step) for step in zip(*by_step.values(), strict=True)]
    weights = setup.gammas if len(totals) > 1 else (1.0,)
    meta_loss = sum(gamma * total for gamma, total in zip(weights, totals, strict=True))
    point = {"train/meta_loss": meta_loss}
    point |= {f"train/grad_norm_{kind}": float(norm) for kind, norm in norms.items()}
    if config.outer_loop.method == "baseline":  # of query and support images alike
        point |= {f"train/loss_{branch}": values[0] for branch, values in by_step.items()}
    else:
        for branch, values in by_step.items():
            point |= {f"train/query_loss_{branch}_{k}": value for k, value in enumerate(values)}
        for layer, rate in learner.rates.items():
            point[f"rates/{layer}/mean"] = float(rate.mean())
            if rate.numel() > 1:
                point[f"rates/{layer}/std"] = float(rate.std())
                point[f"rates/{layer}/min"] = float(rate.min())
                point[f"rates/{layer}/max"] = float(rate.max())
    return point


def _validates(config: TrainConfig, iteration: int) -> bool:
    epoch = iteration // config.outer_loop.iterations_per_epoch
    last = iteration == config.outer_loop.num_iterations
    return last or epoch % config.validation.every_epochs == 0


def _validate(config: TrainConfig, state: TrainState, held_out: EpisodeStream, rim: Rim) -> Metrics:
    lanes = range(rim.rank, config.validation.batch_pairs, rim.world_size)
    steps = config.inner_loop.num_steps
    precision = config.outer_loop.precision
    with rounding(precision if precision == "bf16-all" else "fp32", rim.device):
        metrics = validate(
            state.learner,
            held_out,
            config.validation,
            num_steps=steps,
            diverges_at=config.inner_loop.diverges_at,
            lanes=lanes,
        )
    if rim.rank == 0:
        rim.log(metrics, state.iteration)
        logger.info(
            "outer step %d: held-out query loss %.4f -> %.4f, overlap at the peak %.3f -> %.3f "
            "(before -> after %d inner steps; %d pairs that diverged left out)",
            state.iteration,
            metrics["val/query_loss_0"],
            metrics[f"val/query_loss_{steps}"],
            metrics["val/iou_0"],
            metrics[f"val/iou_{steps}"],
            *(steps, metrics["val/diverged_pairs"]),
        )
    return metrics


def _require_progress(state: TrainState) -> None:
    """One batch may blow up in its inner loop; several in a row mean that there is no way back."""
    if state.most_failures >= _MOST_FAILURES:
        raise DivergedError(
            f"up to outer step {state.iteration}, {state.most_failures} in a row had no finite "
            f"gradient, or no pair whose inner loop did not diverge: the run diverged. "
            f"{_AGAINST_DIVERGENCE}, and start again"
        )


def _report(config: TrainConfig, state: TrainState, rim: Rim, metrics: Metrics) -> None:
    """Hands over a checkpoint (rank 0) and the metrics (every rank)."""
    _require_progress(state)
    tensors = state.learner.weights | state.learner.rates
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise DivergedError(
            f"the weights are not finite after outer step {state.iteration}: the run diverged. "
            f"{_AGAINST_DIVERGENCE}, and start a new run (--init-from the last checkpoint)"
        )
    require_equal(tensors, state.iteration)
    folder = None
    if rim.rank == 0:
        folder = rim.scratch / f"step-{state.iteration:08d}"
        checkpoints.save(state.checkpoint(), folder)
    rim.report(metrics | {"iteration": float(state.iteration)}, folder)
