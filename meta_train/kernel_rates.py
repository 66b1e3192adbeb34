"""Kernel-wise learnable learning rates (KLLR): alpha of Eqn. 5, one per output kernel.

Shapes: O output channels of a convolution.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from meta_train.detectors.backbone import BRANCHES, Branch, Weights

Rates = dict[str, Tensor]
"""Inner-loop rates: under a layer's name (``cls.head.output``), or under a weight's name where each
parameter has its own."""


@dataclass(frozen=True, kw_only=True)
class KernelRatesConfig:
    """The learning rates of the inner loop."""

    initial: float = 0.001
    """Value that every rate starts from (Sec. 4.2), and keeps where it is not learned."""

    learned_in: tuple[Branch, ...] = BRANCHES
    """Branches whose rates the outer loop learns; the others keep the constant (Table 2)."""

    granularity: Literal["kernel", "layer", "parameter"] = "kernel"
    """What shares a rate: an output kernel and its bias (the paper), a layer, or nothing
    (Meta-SGD)."""

    def __post_init__(self) -> None:
        if not self.initial > 0:
            raise ValueError(f"the initial inner-loop rate must be positive, got {self.initial}")
        if len(set(self.learned_in)) != len(self.learned_in):
            raise ValueError(f"learned_in names a branch twice: {self.learned_in}")


def initial_rates(config: KernelRatesConfig, adapted: Weights) -> Rates:
    """Rates of the adapted weights, all at their initial value.

    Args:
        config: value and granularity.
        adapted: the weights that the inner loop changes, and no others: a rate that is never used
            would never learn.
    """
    rates: Rates = {}
    for name, weight in adapted.items():
        if config.granularity == "parameter":
            rates[name] = torch.full_like(weight, config.initial)
        else:
            count = len(weight) if config.granularity == "kernel" else 1
            rates[_layer(name)] = weight.new_full((count,), config.initial)
    return rates


def learned_names(config: KernelRatesConfig, rates: Rates) -> list[str]:
    """Names of the rates that the outer loop learns."""
    prefixes = tuple(f"{branch}." for branch in config.learned_in)
    return [name for name in rates if name.startswith(prefixes)]


def rate_of(rates: Rates, name: str, weight: Tensor) -> Float[Tensor, "*broadcasts"]:
    """The rates of one weight (alpha of Eqn. 5), in a shape that broadcasts over the weight's."""
    if name in rates:
        return rates[name]
    return rates[_layer(name)].view(-1, *[1] * (weight.dim() - 1))


def shaped(rates: Rates, adapted: Weights) -> Weights:
    """alpha of Eqn. 5: for each adapted weight its rates, in a shape that broadcasts over it."""
    return {name: rate_of(rates, name, weight) for name, weight in adapted.items()}


def expand(rates: Rates, adapted: Weights) -> Weights:
    """alpha of Eqn. 5: for each adapted weight a tensor of its own shape."""
    return {name: rate.expand_as(adapted[name]) for name, rate in shaped(rates, adapted).items()}


def _layer(weight_name: str) -> str:
    return weight_name.rpartition(".")[0]
