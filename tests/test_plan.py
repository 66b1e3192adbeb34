"""What a run costs, counted before it starts."""

from dataclasses import replace

import torch

from meta_train.live_memory import LiveMemory
from meta_train.plan import plan
from meta_train.train_config import OuterLoopConfig, ScalingConfig, TrainConfig


def test_live_memory_is_the_most_that_lived_at_once() -> None:
    with LiveMemory() as memory:
        a = torch.empty(1000, device="meta")
        b = a + 1
        del a
        view = b.view(10, 100)  # no bytes of its own
        c = view * 2
        del b, view, c
        torch.empty(1500, device="meta")
    assert memory.peak_bytes == 2 * 1000 * 4


def test_live_memory_counts_what_a_graph_keeps() -> None:
    x = torch.ones(1000, device="meta", requires_grad=True)
    with LiveMemory() as memory:
        y = x.exp().exp().exp()  # each keeps its result
        torch.autograd.grad(y.sum(), x)
    assert memory.peak_bytes >= 4 * 1000 * 4


def test_a_plan_counts_the_run(tiny_config: TrainConfig) -> None:
    torch.set_num_threads(1)
    found = plan(tiny_config, torch.device("cpu"))
    assert {name: order.num_steps for name, order in found.orders.items()} == {
        "first": 3,
        "second": 3,
    }
    first, second = found.orders["first"], found.orders["second"]
    assert 1.5 * first.flops_per_pair < second.flops_per_pair < 4 * first.flops_per_pair
    assert second.peak_bytes >= first.peak_bytes > 0  # tiny: the images decide
    assert found.num_learned == sum(found.num_weights.values())  # it learns all
    assert found.num_rates == 2 * 4 + 1 + 4  # kernels of two hidden layers and two outputs
    seconds = 3 * 2 * (first.pair_seconds + second.pair_seconds)
    assert abs(found.hours * 3600 - seconds) < 1e-6 * seconds
    text = found.text()
    assert "first  order   3 outer steps of 2 pairs" in text and "second order" in text


def test_workers_share_the_cost(tiny_config: TrainConfig) -> None:
    alone = replace(tiny_config, outer_loop=OuterLoopConfig(num_epochs=1, method="baseline"))
    shared = replace(alone, scaling=ScalingConfig(num_workers=4, cpus_per_worker=1))
    one, four = (plan(config, torch.device("cpu")) for config in (alone, shared))
    assert list(four.orders) == ["first"]
    pair_seconds = four.orders["first"].pair_seconds
    assert abs(four.hours - 10_000 * 8 * pair_seconds / 3600) < 1e-9
    assert four.orders["first"].peak_bytes < one.orders["first"].peak_bytes
