"""Graphs of one pair's work, replayed for all pairs: against the same work done in turn.

Without a GPU, a lane stands in that keeps a graph's habits: fixed memory in and out, and nothing
but replays after the first call.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from meta_train import boundary_gradient, cuda_graphs, plan, worker
from meta_train.boundary_gradient import BoundaryGradient, OuterStep, gradient_from_boundary
from meta_train.cuda_graphs import Found, Graphs, in_turn
from meta_train.detectors.backbone import BRANCHES, BackboneConfig
from meta_train.detectors.fcos import Fcos, FcosConfig
from meta_train.detectors.heads import HeadConfig
from meta_train.detectors.network import (
    NetworkConfig,
    adapted_names,
    branch_features,
    initial_weights,
)
from meta_train.detectors.retina import Retina, RetinaConfig
from meta_train.kernel_rates import KernelRatesConfig, initial_rates
from meta_train.task_gradient import Task
from meta_train.train_config import ScalingConfig, TrainConfig

SLIM = NetworkConfig(
    backbone=BackboneConfig(width=2, weights="random"), head=HeadConfig(hidden_channels=4)
)
DETECTORS = {
    "fcos": Fcos(FcosConfig(network=SLIM, negatives_per_positive=3.0)),
    "retina": Retina(RetinaConfig(network=SLIM, prior=0.1)),
}
GAMMAS = (0.2, 0.3, 0.5)


class FixedMemory:
    """A lane on the CPU. Work is given to it between `begin` and `end` alone."""

    def __init__(self, device: torch.device) -> None:
        self.num_recorded = self.num_replayed = 0
        self.is_open = False

    def active(self) -> AbstractContextManager[Any]:
        assert self.is_open
        return nullcontext()

    def begin(self) -> None:
        assert not self.is_open
        self.is_open = True

    def end(self) -> None:
        assert self.is_open
        self.is_open = False

    def record(self, once: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
        self.num_recorded += 1
        rows = once()

        def replay() -> None:
            self.num_replayed += 1
            with torch.enable_grad():
                again = once()
            for row, new in zip(rows, again, strict=True):
                row.copy_(new)

        return replay, rows


class Lanes:
    """Opens lanes and remembers them."""

    def __init__(self) -> None:
        self.opened: list[FixedMemory] = []

    def __call__(self, device: torch.device) -> FixedMemory:
        self.opened.append(FixedMemory(device))
        return self.opened[-1]


def problem(name: str, adapts: str, seed: int = 0, num_pairs: int = 2) -> tuple[Any, ...]:
    """Detector, weights, rates and tasks of a few pairs with random features at the boundary."""
    detector, generator = DETECTORS[name], torch.Generator().manual_seed(seed)
    weights = initial_weights(detector.network, generator)
    weights = {key: weight.double() for key, weight in weights.items()}
    adapted = {key: weights[key] for key in adapted_names(weights, adapts, BRANCHES)}
    rates = initial_rates(KernelRatesConfig(initial=0.02 / (1 + seed)), adapted)

    def features(count: int) -> dict[str, Tensor]:
        shared = torch.randn(num_pairs * count, 4, 33, 33, generator=generator, dtype=torch.float64)
        found = branch_features(detector.network, weights, shared, adapts)
        return {branch: x.unflatten(0, (num_pairs, count)) for branch, x in found.items()}

    def labels(count: int) -> Any:
        corner = (
            torch.rand(num_pairs * count, 2, generator=generator, dtype=torch.float64) * 60 + 60
        )
        present = torch.arange(num_pairs * count) != 1
        return detector.label(torch.cat([corner, corner + 64], dim=1), present)

    return detector, weights, rates, Task(features(1), labels(1), features(1), labels(1))


def carrying(tasks: Task) -> Task:
    """The same tasks, with features that want gradients."""

    def wanting(features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {branch: x.detach().requires_grad_() for branch, x in features.items()}

    return tasks._replace(support=wanting(tasks.support), query=wanting(tasks.query))


def assert_same(found: BoundaryGradient, expected: BoundaryGradient) -> None:
    """Equal to the last bit."""
    ours, theirs = (tree_leaves(tuple(each)) for each in (found, expected))
    assert len(ours) == len(theirs)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("name", "adapts", "second_order", "carries", "num_lanes"),
    [
        ("fcos", "head", False, False, 2),
        ("retina", "head", False, True, 1),
        ("retina", "head", True, True, 2),
        ("fcos", "head+block4", False, True, 1),
    ],
)
def test_replays_give_what_turns_give(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    adapts: str,
    second_order: bool,
    carries: bool,
    num_lanes: int,
) -> None:
    """By entry maps where nothing carries a gradient. Also at a second outer step with other
    weights, rates, gammas and data, from one capture.
    """
    lanes = Lanes()
    graphs = Graphs(lanes, num_lanes)
    base = OuterStep(gammas=GAMMAS, adapts=adapts, learns="all", second_order=second_order)
    for seed, gammas in enumerate((GAMMAS, (0.1, 0.1, 0.8))):
        setup = replace(base, gammas=gammas)
        detector, weights, rates, tasks = problem(name, adapts, seed=seed)
        tasks = carrying(tasks) if carries else tasks
        expected = gradient_from_boundary(detector, weights, rates, tasks, setup)
        with monkeypatch.context() as patched:
            patched.setattr(boundary_gradient, "in_turn", graphs.replayed)
            found = gradient_from_boundary(detector, weights, rates, tasks, setup)
        assert_same(found, expected)
    assert found.num_pairs == 2
    replays = [(lane.num_recorded, lane.num_replayed) for lane in lanes.opened]
    assert replays == [(1, 4 // num_lanes)] * num_lanes
    assert caplog.messages == []


@dataclass(frozen=True)
class Squares:
    """Work of which all is easily known."""

    breaks: bool = False

    def __call__(self, common: tuple[Tensor, float], item: Tensor) -> Found:
        if self.breaks:
            raise RuntimeError("called a synchronizing CUDA operation\nsecond line")
        weight, gamma = common
        return Found([gamma * weight * item], [item * item, item > 1])


def items(count: int) -> list[Tensor]:
    """Powers of two: their sum tells that each is in it once."""
    return [torch.full((2,), 2.0**i) for i in range(count)]


def test_several_lanes_take_each_item_once() -> None:
    """Fewer items than lanes, as many, a number that lanes divide and some that they do not."""
    lanes = Lanes()
    graphs = Graphs(lanes, 4)
    for count in (2, 7, 1, 4, 8, 5):
        found = graphs.replayed(Squares(), (torch.tensor(2.0), 0.5), items(count))
        assert found.sums[0].tolist() == [2.0**count - 1] * 2
        assert found.rows[0].tolist() == [[4.0**i] * 2 for i in range(count)]
        assert found.rows[1].tolist() == [[i > 0] * 2 for i in range(count)]
        assert not any(lane.is_open for lane in lanes.opened)
    assert [(lane.num_recorded, lane.num_replayed) for lane in lanes.opened] == [
        (1, 1 + 2 + 1 + 1 + 2 + 2),
        (1, 1 + 2 + 1 + 2 + 1),
        (1, 2 + 1 + 2 + 1),
        (1, 1 + 1 + 2 + 1),
    ]


def test_results_outlive_the_next_call() -> None:
    graphs = Graphs(FixedMemory, 1)
    kept = graphs.replayed(Squares(), (torch.tensor(2.0), 1.0), items(2))
    graphs.replayed(Squares(), (torch.tensor(7.0), 1.0), [torch.ones(2)])
    assert kept.sums[0].tolist() == [6.0, 6.0]
    assert kept.rows[0].tolist() == [[1.0, 1.0], [4.0, 4.0]]


def test_other_sizes_are_captured_anew_and_few_are_kept() -> None:
    lanes = Lanes()
    graphs = Graphs(lanes, 1)

    def take(size: int, dtype: torch.dtype = torch.float32) -> None:
        graphs.replayed(Squares(), (torch.tensor(2.0), 1.0), [torch.ones(size, dtype=dtype)])

    take(1)
    take(1, torch.float64)
    assert lanes.opened[0].num_recorded == 2
    for size in (1, 2, 3, 4, 5, 5, 2):
        take(size)
    assert lanes.opened[0].num_recorded == 2 + 4
    take(1)  # the oldest, and gone
    assert lanes.opened[0].num_recorded == 2 + 5


def test_what_cannot_be_captured_is_done_in_turn_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Refusing(FixedMemory):
        def record(self, once: Callable[[], list[Tensor]]) -> Any:
            try:
                Squares(breaks=True)((torch.ones(1), 1.0), torch.ones(1))
            finally:
                raise RuntimeError("capture invalidated")  # as the end of a broken capture does

    graphs = Graphs(Refusing, 2)
    for _ in range(2):
        found = graphs.replayed(Squares(), (torch.tensor(2.0), 1.0), items(2))
        assert found.sums[0].tolist() == [6.0, 6.0]
    (message,) = caplog.messages
    assert "CUDA graphs are not used for Squares(breaks=False)" in message
    assert message.endswith("(RuntimeError: called a synchronizing CUDA operation)")


def test_a_detector_that_compares_by_identity_has_no_graphs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Own(Fcos):
        __eq__ = object.__eq__
        __hash__ = object.__hash__

    setup = OuterStep(
        gammas=GAMMAS, adapts="head", learns="all", second_order=False, cuda_graphs=True
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            how = boundary_gradient._over_pairs(setup, Own(FcosConfig()), torch.device("cuda"))
            assert how is in_turn
    (message,) = caplog.messages
    assert "Own: its objects compare by identity" in message
    known = boundary_gradient._over_pairs(setup, DETECTORS["fcos"], torch.device("cuda"))
    assert known == cuda_graphs.GRAPHS.replayed
    off = replace(setup, cuda_graphs=False)
    assert boundary_gradient._over_pairs(off, DETECTORS["fcos"], torch.device("cuda")) is in_turn


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_the_setting_reaches_the_outer_step(
    monkeypatch: pytest.MonkeyPatch, cuda_graphs: bool
) -> None:
    """Of a run, and of its plan."""
    config = TrainConfig(
        detector=DETECTORS["fcos"].config, scaling=ScalingConfig(cuda_graphs=cuda_graphs)
    )
    assert worker._setup(config, 0).cuda_graphs == cuda_graphs
    planned: list[OuterStep] = []
    monkeypatch.setattr(plan, "meta_gradient", lambda *args: planned.append(args[-1]))
    plan.take_step(config, plan.random_learner(config), "first", 1)
    assert [setup.cuda_graphs for setup in planned] == [cuda_graphs]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("adapts", ["head", "head+block4"])
@pytest.mark.parametrize("second_order", [False, True], ids=["first", "second"])
def test_graphs_on_a_gpu(
    caplog: pytest.LogCaptureFixture, second_order: bool, adapts: str, name: str
) -> None:
    """Eleven pairs, eight at a time; in float64, where the order of sums makes no difference."""
    detector, weights, rates, tasks = problem(name, adapts, num_pairs=11)
    tasks = carrying(tasks)
    on_gpu = tree_map(
        lambda x: x.detach().cuda().requires_grad_(x.requires_grad), (weights, rates, tasks)
    )
    eager = OuterStep(gammas=GAMMAS, adapts=adapts, learns="all", second_order=second_order)
    for gammas in (GAMMAS, (0.1, 0.1, 0.8)):
        setup = replace(eager, gammas=gammas)
        expected = gradient_from_boundary(detector, *on_gpu, setup)
        found = gradient_from_boundary(detector, *on_gpu, replace(setup, cuda_graphs=True))
        for a, b in zip(
            tree_leaves(tuple(found)),
            tree_leaves(tuple(expected)),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert caplog.messages == []
