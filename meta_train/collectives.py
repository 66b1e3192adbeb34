"""What training processes tell each other: one flat buffer per outer step.

Without a process group every function is the identity, so one process runs the same code.
"""

import hashlib
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from meta_train.detectors.backbone import Weights

T = TypeVar("T")


def sum_over_workers(tensors: list[Tensor]) -> list[Tensor]:
    """Element-wise sums over all workers, in one all-reduce of one buffer."""
    if not _is_distributed():
        return tensors
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    dist.all_reduce(flat)
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def broadcast_from_first(weights: Weights) -> Weights:
    """The first worker's tensors, on every worker."""
    if not _is_distributed():
        return weights
    flat = torch.cat([tensor.detach().flatten() for tensor in weights.values()])
    dist.broadcast(flat, src=0)
    parts = torch.split(flat, [tensor.numel() for tensor in weights.values()])
    return {
        name: part.view(weights[name].shape).clone()
        for name, part in zip(weights, parts, strict=True)
    }


def choice_of_first(value: T) -> T:
    """What the first worker passes, on every worker."""
    if not _is_distributed():
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


def require_equal(weights: Weights, iteration: int) -> None:
    """Compares a digest of the weights over all workers.

    Raises:
        RuntimeError: they have drifted apart, so no checkpoint of them would be right.
    """
    if not _is_distributed():
        return
    digest = hashlib.sha256()
    for tensor in weights.values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    gathered: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, digest.hexdigest())
    if len(set(gathered)) != 1:
        raise RuntimeError(
            f"the workers' weights differ after outer step {iteration}: {gathered}. One of them "
            "computed something else; restart from the last checkpoint and check its hardware."
        )


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
