"""bf16: the meta-gradient that it gives is, as a whole and in each part, that of fp32."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from data_pipeline.episodes import stack
from data_pipeline.stream import EpisodeStream
from meta_train import worker
from meta_train.detectors import DETECTORS
from meta_train.detectors.backbone import BackboneConfig
from meta_train.detectors.heads import HeadConfig
from meta_train.detectors.network import NetworkConfig
from meta_train.train_config import TrainConfig
from meta_train.train_state import TrainState

FLOORS = {
    "": 0.9999,
    "cls.head.": 0.9999,
    "reg.head.": 0.9999,
    "rates of ": 0.9999,
    "cls.block4.": 0.9998,
    "reg.block4.": 0.9998,
}
"""Least cosine of the whole meta-gradient and of its parts."""


def by_part(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each part's tensors as one vector."""
    return {
        part: torch.cat([t.double().flatten() for n, t in tensors.items() if n.startswith(part)])
        for part in FLOORS
    }


@pytest.mark.parametrize("iteration", [0, 4], ids=["first order", "second order"])
@pytest.mark.parametrize("adapts", ["head", "head+block4"])
@pytest.mark.parametrize("detector", DETECTORS, ids=lambda kind: kind.__name__)
def test_bf16_gradients_are_those_of_fp32(
    tiny_config: TrainConfig, detector: type, adapts: str, iteration: int
) -> None:
    """Cosines above .9999; where the backbone's outputs are rounded too, it is visibly less."""
    torch.set_num_threads(1)
    backbone, head = BackboneConfig(width=8, weights="random"), HeadConfig(hidden_channels=16)
    network = NetworkConfig(backbone=backbone, head=head)
    outer = replace(tiny_config.outer_loop, learns="head+block4")
    config = replace(
        tiny_config,
        detector=detector(network=network),
        inner_loop=replace(tiny_config.inner_loop, adapts=adapts),
        outer_loop=outer,
    )
    source = EpisodeStream(config.shards, config.sampling, split="train", seed=0)
    start = TrainState.start(config, source, torch.device("cpu"), resume=None, init_from=None)
    batch = stack([source.episode(lane, 0) for lane in range(2)])
    compares = adapts == "head" and iteration == 0
    found = {}
    for precision in ("fp32", "bf16", "bf16-all") if compares else ("fp32", "bf16"):
        rounded = replace(config, outer_loop=replace(outer, precision=precision))
        setup = worker._setup(rounded, iteration)
        gradient = worker._gradient(rounded, start.learner, batch, setup, torch.device("cpu"))
        tensors = gradient.weights | {f"rates of {n}": rate for n, rate in gradient.rates.items()}
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
        found[precision] = by_part(tensors)
    exact = found.pop("fp32")
    cosines = {
        precision: {
            part: float(torch.cosine_similarity(vector, exact[part], dim=0))
            for part, vector in parts.items()
        }
        for precision, parts in found.items()
    }
    near = cosines["bf16"]
    assert {part: near[part] for part in near if near[part] <= FLOORS[part]} == {}
    assert min(near.values()) < 1 - 1e-7, "bf16 took part"
    if compares:
        assert 0.95 < min(cosines["bf16-all"].values()) < 0.995 < min(near.values())
