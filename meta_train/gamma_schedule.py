"""gamma_k: how much the query loss after each inner step counts in the meta-loss (Eqn. 4)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

PAPER_GAMMAS = (0.05, 0.10, 0.20, 0.30, 0.35)
"""The weights that the paper anneals to, for steps 0 to 4 (Sec. 4.2)."""


@dataclass(frozen=True, kw_only=True)
class GammaConfig:
    """The weights of the multi-step loss."""

    family: Literal["paper", "uniform", "last"] = "paper"
    """What the weights anneal to: the paper's, equal ones, or the last step alone (plain MAML)."""

    annealing_epochs: float = 10.0
    """Epochs over which the weights go, linearly, from equal to their final values. Not in the
    paper, which says "gradually". 0: final from the start."""

    include_step_0: bool = True
    """Count the loss before any step: "crucial for stabilizing the gradients" (Sec. 3)."""

    def __post_init__(self) -> None:
        if not self.annealing_epochs >= 0:
            raise ValueError(f"annealing_epochs must not be negative, got {self.annealing_epochs}")


def gammas(config: GammaConfig, *, num_steps: int, epoch: float) -> tuple[float, ...]:
    """gamma_0..gamma_K at a (fractional) epoch; they sum to 1.

    Not in the paper: for another number of steps than 4, its final weights are read as a curve over
    the relative step k / K and sampled anew.

    >>> gammas(GammaConfig(), num_steps=4, epoch=0.0)
    (0.2, 0.2, 0.2, 0.2, 0.2)
    >>> gammas(GammaConfig(), num_steps=4, epoch=10.0)
    (0.05, 0.1, 0.2, 0.3, 0.35)
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    counts = np.ones(num_steps + 1)
    counts[0] = config.include_step_0
    progress = min(epoch / config.annealing_epochs, 1.0) if config.annealing_epochs else 1.0
    start = counts / counts.sum()
    final = _final(config.family, num_steps) * counts
    final /= final.sum()
    mixed = start + progress * (final - start)
    return tuple(round(float(gamma), 12) for gamma in mixed)


def _final(family: str, num_steps: int) -> np.ndarray:
    if family == "last":
        return np.eye(num_steps + 1)[-1]
    if family == "uniform":
        return np.ones(num_steps + 1)
    relative = np.linspace(0, 1, num_steps + 1)
    return np.interp(relative, np.linspace(0, 1, len(PAPER_GAMMAS)), PAPER_GAMMAS)
