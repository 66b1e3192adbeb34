"""The two heads: a hidden 3x3 convolution (or more) and a linear output per branch.

Not in the paper: the number and width of the layers, and the normalisation of their input. Features
of rms 1 let the paper's inner rate of .001 adapt anything at all (layer3's own rms is about .2), so
each location's channels are standardised, without learned scale, before the head.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from meta_train.detectors.backbone import Conv, Weights


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Both branches' heads."""

    hidden_channels: int = 256
    """Channels of each hidden convolution."""

    num_hidden: int = 1
    """Hidden 3x3 convolutions, each followed by a ReLU."""

    normalise: bool = True
    """Standardise the features over channels at each location before the head."""

    def __post_init__(self) -> None:
        if self.hidden_channels < 1 or self.num_hidden < 0:
            raise ValueError(
                "a head needs hidden_channels >= 1 and num_hidden >= 0, "
                f"got {self.hidden_channels} and {self.num_hidden}"
            )


def standardise(features: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
    """Features with mean 0 and deviation 1 over the channels of each location."""
    by_location = features.permute(0, 2, 3, 1)  # (N, h, w, C)
    return F.layer_norm(by_location, by_location.shape[-1:]).permute(0, 3, 1, 2)


def head(
    conv: Conv, branch: str, features: Float[Tensor, "N C h w"], config: HeadConfig
) -> Float[Tensor, "N O h w"]:
    """One branch's output map, linear; the detector says how many channels O it has."""
    x = features
    for i in range(config.num_hidden):
        x = F.relu(conv(f"{branch}.head.hidden{i}", x, 1, 1))
    return conv(f"{branch}.head.output", x, 1, 1)


def initial_head(
    config: HeadConfig,
    branch: str,
    *,
    in_channels: int,
    out_channels: int,
    generator: torch.Generator,
) -> Weights:
    """One branch's head before meta-training: He's normal, the output N(0, .01) with bias 0."""
    weights: Weights = {}
    channels = in_channels
    for i in range(config.num_hidden):
        deviation = (2 / (channels * 9)) ** 0.5
        kernels = torch.randn((config.hidden_channels, channels, 3, 3), generator=generator)
        weights[f"{branch}.head.hidden{i}.weight"] = kernels * deviation
        weights[f"{branch}.head.hidden{i}.bias"] = torch.zeros(config.hidden_channels)
        channels = config.hidden_channels
    kernels = torch.randn((out_channels, channels, 3, 3), generator=generator)
    weights[f"{branch}.head.output.weight"] = kernels * 0.01
    weights[f"{branch}.head.output.bias"] = torch.zeros(out_channels)
    return weights
