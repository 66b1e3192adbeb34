"""Convolutions whose derivatives cost and round no more than they must.

Two habits of autograd's own convolution are mended here:

- differentiated twice, it computes a derivative by its input also where the input wants none, as
  features at the boundary of what adapts do: a sixth of a second-order step on the heads;
- under autocast it rounds its output, which decides anew which ReLUs are 0: the gradient's error
  grows with the square root of the rounding. With ``exact`` only the derivatives are rounded.

Shapes: N images, C and O channels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def convolve(
    x: Float[Tensor, "N C h w"],
    weight: Float[Tensor, "O C i j"],
    bias: Float[Tensor, "O"],
    stride: int,
    padding: int,
    *,
    exact: bool = False,
) -> Float[Tensor, "N O H W"]:
    """What `torch.nn.functional.conv2d` gives, and derivatives of first and second order.

    Args:
        x: images or features; a constant unless it requires a gradient.
        weight: kernels.
        bias: one for each kernel.
        stride: in both directions.
        padding: on all four sides.
        exact: under autocast, compute the output in its own precision and round its derivatives.
    """
    device = x.device.type
    rounds = device != "meta" and torch.is_autocast_enabled(device)  # meta knows no autocast
    exact = exact and rounds
    differs = torch.is_grad_enabled() and (
        (weight.requires_grad and not x.requires_grad)
        or (exact and (weight.requires_grad or x.requires_grad))
    )
    if differs:
        dtype = torch.get_autocast_dtype(device) if rounds else weight.dtype
        y: Tensor = _Convolution.apply(x, weight, bias, stride, padding, dtype, exact)
        return y
    if exact:
        with torch.autocast(device, enabled=False):
            return F.conv2d(x, weight, bias, stride, padding)
    return F.conv2d(x, weight, bias, stride, padding)


class _Convolution(torch.autograd.Function):
    """The convolution; derivatives in a given dtype, the output too unless it is exact."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        """The output."""
        x, weight, bias, ctx.stride, ctx.padding, ctx.dtype, exact = args
        ctx.save_for_backward(x, weight)
        with _plain(x):
            if not exact:
                x, weight, bias = (tensor.to(ctx.dtype) for tensor in (x, weight, bias))
            return F.conv2d(x, weight, bias, ctx.stride, ctx.padding)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """By input, kernels and biases, with a graph where one is asked for."""
        x, weight = ctx.saved_tensors
        needs_x, *needs_weights = ctx.needs_input_grad[:3]
        with _plain(x):
            given, inputs, kernels = (t.to(ctx.dtype) for t in (grads[0], x, weight))
            if needs_x:
                found = _backward(
                    given, inputs, kernels, ctx.stride, ctx.padding, [needs_x, *needs_weights]
                )
            else:
                by_kernels = _KernelGradient.apply(given, inputs, kernels, ctx.stride, ctx.padding)
                found = None, *by_kernels
            by = [
                each.to(weight.dtype) if each is not None and needed else None
                for each, needed in zip(found, ctx.needs_input_grad, strict=False)
            ]
        return *by, None, None, None, None


class _KernelGradient(torch.autograd.Function):
    """The derivative by kernels and biases, of which the derivative is the convolution again."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        """By kernels and biases, from the derivative by the output and a constant input."""
        given, x, kernels, ctx.stride, ctx.padding = args
        ctx.save_for_backward(x)
        return _backward(given, x, kernels, ctx.stride, ctx.padding, [False, True, True])[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """It is linear in what it is given, so its transpose takes no other values."""
        (x,), (by_kernels, by_biases) = ctx.saved_tensors, grads
        with _plain(x):
            by_given = F.conv2d(x, by_kernels, by_biases, ctx.stride, ctx.padding)
        return by_given, None, None, None, None


def _plain(like: Tensor) -> Any:
    """No autocast; casts stand where they are meant."""
    device = like.device.type
    return torch.autocast("cpu" if device == "meta" else device, enabled=False)


def _backward(
    given: Tensor, x: Tensor, kernels: Tensor, stride: int, padding: int, needed: list[bool]
) -> Any:
    """Derivatives by input, kernels and biases, those that are needed."""
    both = [1, 1]
    return torch.ops.aten.convolution_backward(
        given,
        x,
        kernels,
        [len(kernels)],
        [stride, stride],
        [padding, padding],
        both,
        False,
        [0, 0],
        1,
        needed,
    )
