"""An outer step never waits for the device: nothing in it copies a value to the host.

What is left is the reading of a point of the curves, every ``log_every`` steps, and of the notice
of the step before, which the device has passed.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from data_pipeline.episodes import stack
from data_pipeline.stream import EpisodeStream
from meta_train import worker
from meta_train.detectors import DETECTORS
from meta_train.plan import random_learner, take_step
from meta_train.train_config import TrainConfig
from meta_train.train_state import TrainState

WAITING = {
    "_local_scalar_dense",  # .item(), float(), bool(), int()
    "nonzero",  # boolean indexing, torch.where(mask)
    "masked_select",
    "unique_consecutive",
    "_unique2",
    "equal",
    "is_nonzero",
    "allclose",
    "_assert_async",
}
"""Operations that must know values before they can go on."""


class Waits(TorchDispatchMode):
    """Collects the operations that would make the host wait for a device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self._device = device

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        masked = name in ("index", "index_put", "index_put_") and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        )
        if name in WAITING or masked or _copies_to_host(name, args, kwargs or {}):
            tensors = [each for each in tree_leaves(args) if isinstance(each, torch.Tensor)]
            if any(tensor.device.type == self._device for tensor in tensors):
                self.names.append(name)
        return func(*args, **(kwargs or {}))


def _copies_to_host(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """A copy from the (pretended) device, ``meta`` here, to the CPU, or a tensor's repetition."""
    if name == "_to_copy":
        target = kwargs.get("device")
        return target is not None and torch.device(target).type == "cpu" != args[0].device.type
    return name == "repeat_interleave" and len(args) == 1


def test_the_counter_sees_what_waits() -> None:
    x = torch.arange(4.0)
    with Waits("cpu") as waits:
        float(x[0])
        x[x > 1]
        x[x > 1] = torch.ones(2)
        x.nonzero()
        bool((x > 0).all())
        x + 1
    assert len(waits.names) == 5


@pytest.mark.parametrize("kind", DETECTORS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("iteration", [0, 3], ids=["first order", "second order"])
@pytest.mark.parametrize("adapts", ["head", "head+block4"])
def test_no_host_synchronisation_in_an_outer_step(
    tiny_config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    kind: type,
    iteration: int,
    adapts: str,
) -> None:
    """As a worker takes it: from a batch to Adam's step, with the sums over two workers."""
    config = replace(
        tiny_config,
        detector=kind(network=tiny_config.detector.network),
        inner_loop=replace(tiny_config.inner_loop, adapts=adapts),
    )
    reduced = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", reduced.append)
    source = EpisodeStream(config.shards, config.sampling, split="train", seed=0)
    batch = stack([source.episode(lane, 0) for lane in range(2)])
    device = torch.device("meta")  # which has no values to wait for
    state = TrainState(config, random_learner(config).to(device), iteration)
    with Waits("meta") as waits:
        setup = worker._setup(config, iteration)
        mine = worker._gradient(config, state.learner, batch, setup, device)
        found, _ = worker._over_workers(mine, 0)
        state.step(found, decay=1.0)
    assert waits.names == []
    assert len(reduced) == 1, "one flat buffer"
    assert state.iteration == iteration + 1


@pytest.mark.parametrize("method", ["maml", "baseline"])
def test_no_host_synchronisation_in_bf16(tiny_config: TrainConfig, method: str) -> None:
    outer = replace(tiny_config.outer_loop, precision="bf16", method=method)
    config = replace(tiny_config, outer_loop=outer)
    with Waits("cpu") as waits:
        take_step(config, random_learner(config), "first", 1)
    assert waits.names == []
