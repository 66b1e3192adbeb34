"""`Learner`: what meta-training produces and tracking starts from."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from meta_train.detectors import Detector, DetectorConfig, build_detector
from meta_train.detectors.backbone import BRANCHES, Weights
from meta_train.detectors.cells import window_around
from meta_train.detectors.network import (
    Adapts,
    Features,
    Outputs,
    adapted_names,
    branch_features,
    initial_weights,
    outputs,
    reach_in_cells,
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

    def partial(self, weights: Weights, adapts: Adapts) -> "Learner":
        """A learner that goes on from given weights and changes a part of what this one changes.

        Not in the paper: its rates are this one's, with 0 for those below. These were learned with
        the steps of all weights beside them; where a part steps alone they climb its loss.
        """
        rates = {name: rate.clamp(min=0) for name, rate in self.rates.items()}
        return replace(self, weights=weights, adapts=adapts, rates=rates)

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
        """GD_k (Eqn. 5) from given weights; only the branches in ``features`` change.

        The branches share nothing that adapts, so each descends alone; and the regression's loss
        reads the cells of the target only, so it runs over these and what they look at: the same
        gradient up to rounding, for a fraction of the map. The kernels that change take the layout
        of their features.
        """
        for branch, x in features.items():
            names = adapted_names(weights, self.adapts, (branch,))
            laid_out = {name: _laid_out_as(x, weights[name]) for name in names}
            weights = weights | laid_out
            part, its_labels = {branch: x}, labels
            if branch == "reg":
                part, its_labels = self._around_targets(x, labels)
            weights = adapt(
                self.detector,
                weights,
                self.rates,
                part,
                its_labels,
                num_steps=num_steps,
                adapts=self.adapts,
            )
        return weights

    def _around_targets(self, x: Tensor, labels: Any) -> tuple[Features, Any]:
        """The part of the regression's features and labels that its loss depends on."""
        reach = reach_in_cells(self.detector.network, self.adapts)
        rows, columns = window_around(self.detector.regressing(labels), reach)
        cut = _laid_out_as(x, x[:, :, rows, columns])
        return {"reg": cut}, type(labels)(*(each[:, :, rows, columns] for each in labels))


def _laid_out_as(like: Tensor, tensor: Tensor) -> Tensor:
    """A tensor of four dimensions in the memory layout of another one; others as they are."""
    if tensor.ndim != 4:
        return tensor
    if like.is_contiguous(memory_format=torch.channels_last):
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.contiguous()


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
