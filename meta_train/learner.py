"""`Learner`: what meta-training produces and tracking starts from."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from meta_train.detectors import Detector, DetectorConfig, build_detector
from meta_train.detectors.backbone import BRANCHES, Weights
from meta_train.detectors.network import (
    Adapts,
    Features,
    Outputs,
    adapted_names,
    branch_features,
    initial_weights,
    outputs,
    trunk_features,
)
from meta_train.inner_loop import adapt
from meta_train.kernel_rates import KernelRatesConfig, Rates, initial_rates


@dataclass(frozen=True, kw_only=True, eq=False)
class Learner:
    """A detector, the weights it starts from and the rate at which each kernel learns."""

    config: DetectorConfig
    """The detector."""

    adapts: Adapts
    """The part that gradient steps change; ``rates`` are for it."""

    weights: Weights
    """theta_0."""

    rates: Rates
    """alpha."""

    @property
    def detector(self) -> Detector:
        """The detector's labels, losses and boxes."""
        return build_detector(self.config)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights["trunk.conv1.weight"].device

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Learner":
        """The same learner elsewhere, or in another precision."""
        return replace(
            self,
            weights={name: weight.to(device, dtype) for name, weight in self.weights.items()},
            rates={name: rate.to(device, dtype) for name, rate in self.rates.items()},
        )

    def features(self, images: UInt8[Tensor, "N 3 H W"]) -> Features:
        """Features of RGB crops at the boundary of what adapts, without a graph."""
        with torch.no_grad():
            shared = trunk_features(self.weights, images)
            return branch_features(self.detector.network, self.weights, shared, self.adapts)

    def outputs(self, weights: Weights, features: Features) -> Outputs:
        """The output maps under (adapted) weights, without a graph."""
        with torch.no_grad():
            return outputs(self.detector.network, weights, features, self.adapts)

    def adapt(
        self, weights: Weights, features: Features, labels: Any, *, num_steps: int
    ) -> Weights:
        """GD_k (Eqn. 5) from given weights; only the branches in ``features`` change."""
        return adapt(
            self.detector,
            weights,
            self.rates,
            features,
            labels,
            num_steps=num_steps,
            adapts=self.adapts,
        )


def initial_learner(
    config: DetectorConfig,
    rates: KernelRatesConfig,
    *,
    adapts: Adapts,
    generator: torch.Generator,
) -> Learner:
    """A learner before meta-training.

    Args:
        config: the detector.
        rates: first values and granularity of the rates.
        adapts: the part that gradient steps change.
        generator: draws whatever starts random.
    """
    out_channels = build_detector(config).out_channels
    weights = initial_weights(config.network, generator, out_channels)
    adapted = {name: weights[name] for name in adapted_names(weights, adapts, BRANCHES)}
    return Learner(
        config=config, adapts=adapts, weights=weights, rates=initial_rates(rates, adapted)
    )
