"""Convolutions whose derivatives cost and round no more than they must.

Habits of autograd's own convolution are mended here:

- differentiated twice, it computes a derivative by its input also where the input wants none, as
  features at the boundary of what adapts do: a sixth of a second-order step on the heads;
- differentiated twice, it computes that by the kernels as a convolution whose kernel is as large as
  the map, which takes longer than the derivative's own routine: a tenth of a step where all adapts;
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
    learns = weight.requires_grad or (exact and x.requires_grad)
    if learns and torch.is_grad_enabled():
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
        needed = list(ctx.needs_input_grad[:3])
        with _plain(x):
            given, inputs, kernels = (t.to(ctx.dtype) for t in (grads[0], x, weight))
            found = _Gradient.apply(given, inputs, kernels, ctx.stride, ctx.padding, needed)
            like = x, weight, weight
            by = [g if g is None else g.to(t.dtype) for g, t in zip(found, like, strict=True)]
        return *by, None, None, None, None


class _Gradient(torch.autograd.Function):
    """The derivatives by input, kernels and biases: bilinear, so that theirs are convolutions."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        """Those that are needed, from the derivative by the output."""
        given, x, kernels, ctx.stride, ctx.padding, needed = args
        ctx.shape = given.shape
        ctx.set_materialize_grads(False)
        moves = ctx.needs_input_grad[1]  # of a constant input the second derivative needs x alone
        ctx.save_for_backward(given if moves else None, x, kernels if moves else None)
        return _backward(given, x, kernels, ctx.stride, ctx.padding, needed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        """By what was given, by input and by kernels."""
        given, x, kernels = ctx.saved_tensors
        by_x, by_kernels, by_biases = grads
        needs_given, needs_x, needs_kernels, *_ = ctx.needs_input_grad
        place = ctx.stride, ctx.padding
        for_given = for_x = for_kernels = None
        with _plain(x):
            if by_kernels is not None and needs_x:
                for_x, *_ = _backward(given, x, by_kernels, *place, [True, False, False])
            if by_x is not None and needs_kernels:
                _, for_kernels, _ = _backward(given, by_x, kernels, *place, [False, True, False])
            if needs_given:
                if by_kernels is not None:
                    for_given = F.conv2d(x, by_kernels, by_biases, *place)
                elif by_biases is not None:
                    for_given = by_biases.view(-1, 1, 1).expand(ctx.shape)
                if by_x is not None:
                    moved = F.conv2d(by_x, kernels, None, *place)
                    for_given = moved if for_given is None else for_given + moved
        return for_given, for_x, for_kernels, None, None, None


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
