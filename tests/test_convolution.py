"""The project's convolution against PyTorch's: values, derivatives, what is not computed."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from meta_train.detectors.convolution import convolve

FORWARD_FLOPS = 2 * 2 * 5 * 5 * 4 * 3 * 9  # two images of 3 channels, four kernels


def problem(dtype: torch.dtype, *, fixed: bool) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((2, 3, 5, 5), (4, 3, 3, 3), (4,))
    x, weight, bias = (torch.randn(size, generator=generator).to(dtype) for size in sizes)
    return x.requires_grad_(not fixed), weight.requires_grad_(), bias.requires_grad_()


@pytest.mark.parametrize("fixed", [True, False], ids=["fixed input", "input with gradient"])
@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 0)])
def test_derivatives_of_both_orders(fixed: bool, stride: int, padding: int) -> None:
    x, weight, bias = problem(torch.float64, fixed=fixed)
    inputs = (weight, bias) if fixed else (x, weight, bias)

    def loss(*given: Tensor) -> Tensor:
        return convolve(*((x, *given) if fixed else given), stride, padding).square()

    expected = F.conv2d(x, weight, bias, stride, padding)
    torch.testing.assert_close(convolve(x, weight, bias, stride, padding), expected)
    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


def test_second_order_takes_no_derivative_by_a_fixed_input() -> None:
    """Forward, by kernels, and for their second derivative both once more."""

    def flops(conv: object) -> int:
        x, weight, bias = problem(torch.float32, fixed=True)
        with FlopCounterMode(display=False) as counter:
            loss = conv(x, weight, bias, 1, 1).square().sum()
            (first,) = torch.autograd.grad(loss, weight, create_graph=True)
            torch.autograd.grad(first.square().sum(), weight)
        return counter.get_total_flops()

    assert flops(convolve) == 4 * FORWARD_FLOPS
    assert flops(F.conv2d) == 5 * FORWARD_FLOPS, "PyTorch spares it by now: let F.conv2d do it all"


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_second_order_of_some_first_derivatives(wanted: tuple[int, ...]) -> None:
    def second(conv: Any) -> Any:
        inputs = problem(torch.float64, fixed=False)
        loss = conv(*inputs, 2, 0).pow(3).sum()
        first = torch.autograd.grad(loss, [inputs[i] for i in wanted], create_graph=True)
        return torch.autograd.grad(sum(each.square().sum() for each in first), inputs)

    torch.testing.assert_close(second(convolve), second(F.conv2d))


class KernelSizes(TorchDispatchMode):
    """Heights of the kernels of all convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.found.add(args[1].shape[-2])
        return func(*args, **(kwargs or {}))


def test_second_order_convolves_with_kernels_of_the_network_s_size() -> None:
    """PyTorch's convolves maps with maps, which takes longer than the derivative's own routine."""

    def sizes(conv: object) -> set[int]:
        x, weight, bias = problem(torch.float32, fixed=False)
        with KernelSizes() as kernels:
            loss = conv(x, weight, bias, 1, 1).square().sum()
            first = torch.autograd.grad(loss, [x, weight], create_graph=True)
            torch.autograd.grad(sum(each.square().sum() for each in first), [x, weight])
        return kernels.found

    assert sizes(convolve) == {3}
    assert sizes(F.conv2d) == {3, 5}, "PyTorch spares it by now: let F.conv2d do it all"


@pytest.mark.parametrize("fixed", [True, False], ids=["fixed input", "input with gradient"])
def test_exact_outputs_and_rounded_derivatives(fixed: bool) -> None:
    x, weight, bias = problem(torch.float32, fixed=fixed)
    inputs = (weight, bias) if fixed else (x, weight, bias)
    expected = F.conv2d(x, weight, bias, 1, 1)
    derivatives = torch.autograd.grad(expected.square().sum(), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = convolve(x, weight, bias, 1, 1, exact=True)
        rounded = convolve(x, weight, bias, 1, 1)
        with torch.no_grad():
            without_graph = convolve(x, weight, bias, 1, 1, exact=True)
        by = torch.autograd.grad(found.square().sum(), inputs)
    assert torch.equal(found, expected) and torch.equal(without_graph, expected)
    assert rounded.dtype == torch.bfloat16
    for one, other in zip(by, derivatives, strict=True):
        assert one.dtype == torch.float32 and not torch.equal(one, other)
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2 * float(other.abs().max()))
