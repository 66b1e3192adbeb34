"""What a run will cost, before anything of it starts: parameters, operations, memory, time.

Operations and memory are counted on tensors without data (torch's ``meta`` device), at the run's
own sizes and in fp32 (bf16 holds less); time comes from one timed outer step on this machine, in
the run's precision: of one pair, or of as many as CUDA graphs work on at one time.
"""

import time
from dataclasses import dataclass, replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from data_pipeline.crops import CROP_SIZE_PX
from meta_train.baseline_step import batch_gradient
from meta_train.cuda_graphs import NUM_LANES
from meta_train.gamma_schedule import gammas
from meta_train.learner import Learner, initial_learner
from meta_train.live_memory import LiveMemory
from meta_train.outer_step import Episodes, OuterStep, learned_weights, meta_gradient
from meta_train.precision import rounding
from meta_train.train_config import TrainConfig

_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Order:
    """What one order of the meta-gradient costs."""

    num_steps: int
    """Outer steps of the run that use it."""

    flops_per_pair: float
    """Multiplications and additions of convolutions, counted apart."""

    peak_bytes: int
    """Tensors alive at one time in an outer step, at the run's ``pairs_at_once``, in fp32."""

    pair_seconds: float
    """Of one pair on this machine, estimated from the timed step by operations."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run's size and cost."""

    num_weights: dict[str, int]
    """Entries of the weights by part: ``trunk``, ``block4``, ``head``."""

    num_learned: int
    """Entries of the weights that the outer loop learns."""

    num_rates: int
    """Rates of the inner loop."""

    orders: dict[str, Order]
    """``first`` and ``second``, those that the run uses."""

    batch_pairs: int
    """Pairs in an outer step, over all workers."""

    num_workers: int
    """Training processes, which share a batch."""

    @property
    def hours(self) -> float:
        """All outer steps, if each worker is as fast as this machine; data and validation apart."""
        pairs = self.batch_pairs / self.num_workers
        seconds = sum(o.num_steps * o.pair_seconds * pairs for o in self.orders.values())
        return seconds / 3600

    def text(self) -> str:
        """A line for each of these."""
        parts = ", ".join(f"{part} {count / 1e6:.2f}" for part, count in self.num_weights.items())
        total = sum(self.num_weights.values())
        lines = [
            f"weights        {total / 1e6:.2f} million ({parts}); "
            f"the outer loop learns {self.num_learned / 1e6:.2f}",
            f"rates          {self.num_rates}",
        ]
        for name, order in self.orders.items():
            lines.append(
                f"{name:6} order   {order.num_steps} outer steps of {self.batch_pairs} pairs; "
                f"{order.flops_per_pair / 1e9:.1f} GFLOP and {order.pair_seconds:.2f} s a pair "
                f"here; {order.peak_bytes / _GIB:.2f} GiB of tensors in a worker"
            )
        lines.append(
            f"outer steps    {self.hours:.1f} hours, with {self.num_workers} worker(s) as fast as "
            "this machine; data, validation and evaluation come on top"
        )
        return "\n".join(lines)


def plan(config: TrainConfig, device: torch.device) -> Plan:
    """What a run with this config costs; takes two small outer steps on ``device``."""
    outer = config.outer_loop
    learner = random_learner(config)
    num_second = max(
        0, outer.num_iterations - round(outer.second_order_from_epoch * outer.iterations_per_epoch)
    )
    num_steps = {"first": outer.num_iterations - num_second, "second": num_second}
    if outer.method == "baseline":
        num_steps = {"first": outer.num_iterations}
    used = [name for name, count in num_steps.items() if count]
    flops = {name: _flops(config, learner, name) for name in used}
    timed = used[0]
    share = min(outer.batch_pairs // config.scaling.num_workers, outer.pairs_at_once)
    with_graphs = device.type == "cuda" and config.scaling.cuda_graphs
    num_timed = min(share, NUM_LANES) if with_graphs else 1
    seconds_per_flop = _seconds(config, learner.to(device), timed, num_timed) / flops[timed]
    weights = learner.weights
    return Plan(
        num_weights={
            part: sum(w.numel() for n, w in weights.items() if part in n.split("."))
            for part in ("trunk", "block4", "head")
        },
        num_learned=sum(weights[name].numel() for name in learned_weights(weights, outer.learns)),
        num_rates=sum(rate.numel() for rate in learner.rates.values()),
        orders={
            name: Order(
                num_steps=num_steps[name],
                flops_per_pair=flops[name],
                peak_bytes=peak_bytes(config, learner, name, share),
                pair_seconds=flops[name] * seconds_per_flop,
            )
            for name in used
        },
        batch_pairs=outer.batch_pairs,
        num_workers=config.scaling.num_workers,
    )


def random_learner(config: TrainConfig) -> Learner:
    """A learner of the config's sizes; its weights are drawn, whatever the config starts from."""
    network = config.detector.network
    random = replace(network, backbone=replace(network.backbone, weights="random"))
    return initial_learner(
        replace(config.detector, network=random),
        config.rates,
        adapts=config.inner_loop.adapts,
        generator=torch.Generator().manual_seed(config.seed),
    )


def take_step(config: TrainConfig, learner: Learner, order: str, num_pairs: int) -> None:
    """One outer step on blank images, in the run's precision."""
    outer, inner = config.outer_loop, config.inner_loop
    setup = OuterStep(
        gammas=gammas(config.gammas, num_steps=inner.num_steps, epoch=0.0),
        adapts=inner.adapts,
        learns=outer.learns,
        second_order=order == "second",
        exact_backbone=outer.precision == "bf16",
        cuda_graphs=config.scaling.cuda_graphs,
    )
    compute = meta_gradient if outer.method == "maml" else batch_gradient
    episodes = _blank_episodes(num_pairs, learner.device)
    precision = "fp32" if learner.device.type == "meta" else outer.precision  # knows no autocast
    with rounding(precision, learner.device):
        compute(learner.detector, learner.weights, learner.rates, episodes, setup)


def _blank_episodes(num_pairs: int, device: torch.device) -> Episodes:
    """Grey images with a box in the middle: three to learn from, one to judge by."""
    middle = torch.tensor([100.0, 100.0, 164.0, 164.0], device=device)

    def images(count: int) -> torch.Tensor:
        size = (num_pairs, count, CROP_SIZE_PX, CROP_SIZE_PX, 3)
        return torch.full(size, 128, dtype=torch.uint8, device=device).movedim(-1, -3)

    return Episodes(
        images(3),
        middle.expand(num_pairs, 3, 4),
        images(1),
        middle.expand(num_pairs, 1, 4),
        torch.ones(num_pairs, 1, dtype=torch.bool, device=device),
    )


def _flops(config: TrainConfig, learner: Learner, order: str) -> float:
    """Of one pair."""
    with FlopCounterMode(display=False) as counter:
        take_step(config, learner.to("meta"), order, 1)
    return float(counter.get_total_flops())


def peak_bytes(config: TrainConfig, learner: Learner, order: str, num_pairs: int) -> int:
    """The most bytes that tensors hold at one time in an outer step of so many pairs."""
    blank = learner.to("meta")
    with LiveMemory() as memory:
        take_step(config, blank, order, num_pairs)
    return memory.peak_bytes


def _seconds(config: TrainConfig, learner: Learner, order: str, num_pairs: int) -> float:
    """Of a pair in a step of so many, after a first step that loads what is needed."""
    for _ in range(2):
        before = time.perf_counter()
        take_step(config, learner, order, num_pairs)
        if learner.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - before
    return seconds / num_pairs
