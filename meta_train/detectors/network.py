"""The network both detectors share: trunk, block-4 per branch, head per branch (Fig. 4).

The inner loop adapts its last part only. `features` runs the network up to the boundary of what
adapts and `outputs` runs the rest, so that whatever does not adapt is computed once per image.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from meta_train.detectors.backbone import (
    BRANCHES,
    BackboneConfig,
    Branch,
    Weights,
    block4,
    folded,
    initial_backbone,
    prepare,
    trunk,
)
from meta_train.detectors.heads import HeadConfig, head, initial_head, standardise

Adapts = Literal["head", "head+block4"]
"""The part of the network that gradient descent on the support set changes."""

Features = dict[str, Tensor]
"""For each branch ("cls", "reg") the input of its adapted part: (N, C, 33, 33)."""

Outputs = dict[str, Tensor]
"""For each branch its output map, (N, O, 33, 33); most detectors' ``cls`` has O = 1, ``reg`` 4."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Backbone and heads."""

    backbone: BackboneConfig = BackboneConfig()
    """The feature extractor."""

    head: HeadConfig = HeadConfig()
    """The two heads on top of it."""


def initial_weights(
    config: NetworkConfig,
    generator: torch.Generator,
    out_channels: Mapping[Branch, int] = MappingProxyType({"cls": 1, "reg": 4}),
) -> Weights:
    """Every weight of the network, before meta-training.

    Args:
        config: backbone and heads.
        generator: draws whatever starts random.
        out_channels: of each branch's output map; a score and a box where not given.
    """
    weights = initial_backbone(config.backbone, generator)
    for branch in BRANCHES:
        weights |= initial_head(
            config.head,
            branch,
            in_channels=config.backbone.out_channels,
            out_channels=out_channels[branch],
            generator=generator,
        )
    return weights


def trunk_features(weights: Weights, images: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, "N C h w"]:
    """The trunk's output: what comes before anything that may adapt."""
    return trunk(folded(weights), prepare(images, weights["trunk.conv1.weight"].dtype))


def branch_features(
    config: NetworkConfig, weights: Weights, shared: Float[Tensor, "N C h w"], adapts: Adapts
) -> Features:
    """The trunk's output brought to the boundary of what adapts."""
    if adapts == "head+block4":
        return dict.fromkeys(BRANCHES, shared)
    return {branch: _head_input(config, weights, branch, shared) for branch in BRANCHES}


def outputs(config: NetworkConfig, weights: Weights, features: Features, adapts: Adapts) -> Outputs:
    """The output map of each branch that ``features`` holds."""
    result: Outputs = {}
    for branch, x in features.items():
        if adapts == "head+block4":
            x = _head_input(config, weights, branch, x)
        result[branch] = head(folded(weights), branch, x, config.head)
    return result


def _head_input(config: NetworkConfig, weights: Weights, branch: str, shared: Tensor) -> Tensor:
    x = block4(folded(weights), branch, shared)
    return standardise(x) if config.head.normalise else x


def adapted_names(weights: Weights, adapts: Adapts, branches: tuple[str, ...]) -> list[str]:
    """Names of the weights that gradient descent on the support set changes."""
    parts = ("head", "block4") if adapts == "head+block4" else ("head",)
    prefixes = tuple(f"{branch}.{part}." for branch in branches for part in parts)
    return [name for name in weights if name.startswith(prefixes)]
