"""The best constant rate of a detector without learned ones: what makes its comparison fair.

Not in the paper. A baseline has no learned rates, so how well it adapts hangs on the constant that
stands in for them. It gets the best of several, chosen on tuning sequences.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from meta_train import checkpoint as checkpoints
from meta_train.checkpoint import content_digest
from meta_train.kernel_rates import Rates

logger = logging.getLogger(__name__)

CONSTANT_RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01)
"""About the paper's .001, in steps of three."""


def constant(rates: Rates, value: float) -> Rates:
    """The same rates, all of one value."""
    return {name: torch.full_like(each, value) for name, each in rates.items()}


def with_constant_rate(checkpoint: Path, rate: float, storage: Path) -> Path:
    """A copy of a checkpoint whose inner-loop rates all have one value.

    It is written once, so that its trackers' results are found again.

    Args:
        checkpoint: its folder.
        rate: of every kernel, in the first frame and online.
        storage: takes the copy, in ``constant_rates``.

    Raises:
        ValueError: the rate is not positive.
        CheckpointError: the checkpoint does not load.
    """
    if not rate > 0:
        raise ValueError(f"a constant inner-loop rate must be positive, got {rate}")
    target = storage / "constant_rates" / f"{content_digest(checkpoint)}-{rate:g}"
    if not (target / "checkpoint.json").is_file():
        loaded = checkpoints.load(checkpoint)
        changed = replace(loaded, rates=constant(loaded.rates, rate), optimizer={})
        checkpoints.save(changed, target)
    return target


def best_rate(scores: Mapping[float, float]) -> float:
    """The rate with the highest score; NaN stands for one at which adaptation diverged.

    Raises:
        ValueError: adaptation diverged at all of them.
    """
    finite = {rate: score for rate, score in scores.items() if math.isfinite(score)}
    if not finite:
        raise ValueError(
            f"adaptation diverged at all constant rates {list(scores)}; try smaller ones"
        )
    best = max(finite, key=lambda rate: finite[rate])
    if len(scores) > 1 and best in (min(scores), max(scores)):
        logger.warning("the best constant rate, %g, is at the edge of %s", best, list(scores))
    return best
