"""Kernel-wise rates: placement, granularity, expansion."""

import pytest
import torch

from meta_train.detectors.backbone import Weights
from meta_train.kernel_rates import (
    KernelRatesConfig,
    expand,
    initial_rates,
    learned_names,
)

ADAPTED: Weights = {
    f"{branch}.head.{layer}.{part}": torch.zeros(shape if part == "weight" else shape[:1])
    for branch, out in (("cls", 1), ("reg", 4))
    for layer, shape in (("hidden0", (6, 3, 3, 3)), ("output", (out, 6, 3, 3)))
    for part in ("weight", "bias")
}


def test_a_kernel_shares_its_rate_with_its_bias() -> None:
    rates = initial_rates(KernelRatesConfig(), ADAPTED)
    assert {name: rate.shape for name, rate in rates.items()} == {
        "cls.head.hidden0": (6,),
        "cls.head.output": (1,),
        "reg.head.hidden0": (6,),
        "reg.head.output": (4,),
    }
    assert all((rate == 0.001).all() for rate in rates.values())


@pytest.mark.parametrize(("granularity", "count"), [("kernel", 17), ("layer", 4), ("parameter", 0)])
def test_granularities(granularity: str, count: int) -> None:
    rates = initial_rates(KernelRatesConfig(initial=0.01, granularity=granularity), ADAPTED)
    count = count or sum(weight.numel() for weight in ADAPTED.values())
    assert sum(rate.numel() for rate in rates.values()) == count
    expanded = expand(rates, ADAPTED)
    assert {n: r.shape for n, r in expanded.items()} == {n: w.shape for n, w in ADAPTED.items()}
    assert all(torch.allclose(rate, torch.tensor(0.01)) for rate in expanded.values())


def test_expansion_follows_output_kernels() -> None:
    rates = initial_rates(KernelRatesConfig(), ADAPTED)
    rates["reg.head.output"] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    expanded = expand(rates, ADAPTED)
    for kernel in range(4):
        assert (expanded["reg.head.output.weight"][kernel] == kernel + 1).all()
        assert expanded["reg.head.output.bias"][kernel] == kernel + 1


@pytest.mark.parametrize("granularity", ["kernel", "layer", "parameter"])
@pytest.mark.parametrize("placement", [(), ("cls",), ("reg",), ("cls", "reg")])
def test_placement_of_learned_rates(placement: tuple[str, ...], granularity: str) -> None:
    """Table 2: none, one branch, the other, both."""
    config = KernelRatesConfig(learned_in=placement, granularity=granularity)
    rates = initial_rates(config, ADAPTED)
    expected = {name for name in rates if name.partition(".")[0] in placement}
    assert set(learned_names(config, rates)) == expected
    assert len(expected) == len(rates) * len(placement) / 2


def test_config_refuses() -> None:
    with pytest.raises(ValueError, match=r"must be positive, got 0\.0"):
        KernelRatesConfig(initial=0.0)
    with pytest.raises(ValueError, match="names a branch twice"):
        KernelRatesConfig(learned_in=("cls", "cls"))
