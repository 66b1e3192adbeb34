"""The tensors of a checkpoint: nothing else is unpickled, and every shape is checked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.clear_errors import shortened
from meta_train.detectors.backbone import Weights
from meta_train.kernel_rates import Rates
from meta_train.learner import Learner, initial_learner
from meta_train.train_config import TrainConfig


class CheckpointError(ValueError):
    """A folder is not a whole checkpoint; the message says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """What a state file holds."""

    weights: Weights
    """theta_0, as the config's network has them."""

    rates: Rates
    """alpha, of what the config adapts."""

    optimizer: dict[str, Any]
    """Adam's state dict, or nothing."""


def require_device(device: torch.device | str) -> None:
    """Checks that this machine has a device.

    Raises:
        ValueError: it has not.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        first_line, *_ = str(error).split("\n")
        raise ValueError(
            f"device {str(device)!r}: one that this machine has expected, such as cpu or cuda; "
            f"PyTorch says: {shortened(first_line, 200)}"
        ) from error


def read_state(path: Path, config: TrainConfig, device: torch.device | str) -> State:
    """The tensors of a checkpoint, on a device.

    Raises:
        CheckpointError: the file does not load without unpickling anything else, or does not hold
            the tensors that a network of this config has.
        ValueError: this machine has no such device.
    """
    require_device(device)
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a file that torch did not write makes it raise nearly anything
        raise CheckpointError(
            f"{path}: tensors as torch saves them expected, it does not load "
            f"({type(error).__name__}: {shortened(error, 200)}). Use another checkpoint."
        ) from error
    parts = ("weights", "rates", "optimizer")
    given = set(content) if isinstance(content, dict) else set()
    if given != set(parts) or not all(isinstance(content[part], dict) for part in parts):
        raise CheckpointError(
            f"{path}: dictionaries of weights, rates and of the optimizer expected, got another "
            "content. Use another checkpoint."
        )
    blank = _blank_learner(config)
    _expect_tensors(path, "weight", content["weights"], blank.weights)
    _expect_tensors(path, "rate", content["rates"], blank.rates)
    return State(**content)


def _blank_learner(config: TrainConfig) -> Learner:
    """A learner whose tensors have a shape but no data; whatever it weighs, it takes no memory."""
    network = config.detector.network
    network = replace(network, backbone=replace(network.backbone, weights="random"))
    with torch.device("meta"):
        return initial_learner(
            replace(config.detector, network=network),
            config.rates,
            adapts=config.inner_loop.adapts,
            generator=torch.Generator("cpu"),
        )


def _expect_tensors(
    path: Path, kind: str, given: Mapping[Any, object], expected: Mapping[str, Tensor]
) -> None:
    if missing := [name for name in expected if name not in given]:
        raise CheckpointError(
            f"{path}: the {kind} {missing[0]} of the config's network expected, there is none "
            f"({len(missing)} missing). Use another checkpoint."
        )
    for name, tensor in given.items():
        wanted = f"a {kind} of shape {tuple(expected[name].shape)}" if name in expected else "none"
        is_right = (
            name in expected
            and isinstance(tensor, Tensor)
            and tensor.layout == torch.strided
            and tensor.is_floating_point()
            and tensor.shape == expected[name].shape
        )
        if not is_right:
            got = type(tensor).__name__
            if isinstance(tensor, Tensor):
                got = f"a tensor of {tensor.dtype} of shape {tuple(tensor.shape)}"
            raise CheckpointError(
                f"{path}: {wanted} expected under {shortened(repr(name), 80)}, got {got}. "
                "Use another checkpoint."
            )
