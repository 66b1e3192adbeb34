"""The arithmetic of convolutions: a setting of a run."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["fp32", "tf32", "bf16", "bf16-all"]
"""Of the convolutions; weights and sums stay in fp32."""


def rounding(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """Runs a block's convolutions in a precision.

    In ``bf16`` those of the backbone must be told to keep their outputs exact (see `convolve`).
    TF32 exists on NVIDIA's GPUs only; elsewhere it is fp32.
    """
    if precision in ("bf16", "bf16-all"):
        # Its cache would keep every inner step's weights of every pair until the batch is done.
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
    if device.type != "cuda":
        return nullcontext()
    cudnn = torch.backends.cudnn
    return cudnn.flags(  # the others as they are; left out, they would be reset
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=precision == "tf32",
    )
