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


def trunk_features(
    weights: Weights, images: UInt8[Tensor, "N 3 H W"], *, exact: bool = False
) -> Float[Tensor, "N C h w"]:
    """The trunk's output: what comes before anything that may adapt. ``exact``: see `convolve`."""
    conv = folded(weights, exact=exact)
    return trunk(conv, prepare(images, weights["trunk.conv1.weight"].dtype))


def branch_features(
    config: NetworkConfig,
    weights: Weights,
    shared: Float[Tensor, "N C h w"],
    adapts: Adapts,
    *,
    exact: bool = False,
) -> Features:
    """The trunk's output brought to the boundary of what adapts. ``exact``: see `convolve`."""
    if adapts == "head+block4":
        return dict.fromkeys(BRANCHES, shared)
    return {branch: _head_input(config, weights, branch, shared, exact) for branch in BRANCHES}


def outputs(
    config: NetworkConfig,
    weights: Weights,
    features: Features,
    adapts: Adapts,
    *,
    exact: bool = False,
) -> Outputs:
    """The output map of each branch that ``features`` holds. ``exact``: block-4 as in `convolve`;
    the heads' outputs round like all else under autocast.
    """
    result: Outputs = {}
    for branch, x in features.items():
        if adapts == "head+block4":
            x = _head_input(config, weights, branch, x, exact)
        result[branch] = head(folded(weights), branch, x, config.head)
    return result


def entry_maps(
    weights: Weights, features: Features, adapts: Adapts, *, exact: bool = False
) -> Weights:
    """Outputs of the adapted layers that read the features, under ``LAYER.map`` (see `folded`).

    They are linear in these layers' weights, and the features are the same at every inner step.
    ``exact``: as in `outputs`.
    """
    maps = {}
    conv = folded(weights, exact=exact and adapts == "head+block4")
    for branch, x in features.items():
        for layer in _entries(weights, branch, adapts):
            side = weights[f"{layer}.weight"].shape[-1]
            maps[f"{layer}.map"] = conv(layer, x, 1, side // 2)
    return maps


def _entries(weights: Weights, branch: str, adapts: Adapts) -> list[str]:
    """The layers of a branch that read its features."""
    if adapts == "head+block4":
        return [f"{branch}.block4.0.{layer}" for layer in ("downsample", "conv1")]
    hidden = f"{branch}.head.hidden0"
    return [hidden if f"{hidden}.weight" in weights else f"{branch}.head.output"]


def _head_input(
    config: NetworkConfig, weights: Weights, branch: str, shared: Tensor, exact: bool
) -> Tensor:
    x = block4(folded(weights, exact=exact), branch, shared)
    return standardise(x) if config.head.normalise else x


def adapted_names(weights: Weights, adapts: Adapts, branches: tuple[str, ...]) -> list[str]:
    """Names of the weights that gradient descent on the support set changes."""
    parts = ("head", "block4") if adapts == "head+block4" else ("head",)
    prefixes = tuple(f"{branch}.{part}." for branch in branches for part in parts)
    return [name for name in weights if name.startswith(prefixes)]


def reach_in_cells(config: NetworkConfig, adapts: Adapts) -> int:
    """How far, in cells, an output of the adapted part looks: a cell for each 3x3 convolution."""
    in_head = config.head.num_hidden + 1
    return in_head + 4 if adapts == "head+block4" else in_head
