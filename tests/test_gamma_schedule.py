"""gamma_k: the paper's values, annealing, other step counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_train.gamma_schedule import GammaConfig, gammas

families = st.sampled_from(["paper", "uniform", "last"])


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0.0, (0.2, 0.2, 0.2, 0.2, 0.2)),
        (5.0, (0.125, 0.15, 0.2, 0.25, 0.275)),
        (10.0, (0.05, 0.10, 0.20, 0.30, 0.35)),
        (19.9, (0.05, 0.10, 0.20, 0.30, 0.35)),
    ],
)
def test_the_papers_values_for_four_steps(epoch: float, expected: tuple[float, ...]) -> None:
    assert gammas(GammaConfig(), num_steps=4, epoch=epoch) == pytest.approx(expected)


@given(
    family=families,
    num_steps=st.integers(1, 20),
    epoch=st.floats(0, 30),
    annealing=st.floats(0, 20),
    first=st.booleans(),
)
def test_weights_sum_to_one_and_never_fall_below_zero(
    family: str, num_steps: int, epoch: float, annealing: float, first: bool
) -> None:
    config = GammaConfig(family=family, annealing_epochs=annealing, include_step_0=first)
    found = gammas(config, num_steps=num_steps, epoch=epoch)
    assert len(found) == num_steps + 1
    assert sum(found) == pytest.approx(1, abs=1e-9)
    assert min(found) >= 0
    assert first or found[0] == 0


@given(num_steps=st.integers(1, 20))
def test_the_papers_curve_rises_for_any_number_of_steps(num_steps: int) -> None:
    found = gammas(GammaConfig(), num_steps=num_steps, epoch=10.0)
    assert list(found) == sorted(found) and found[0] < found[-1]


def test_families() -> None:
    last = GammaConfig(family="last", annealing_epochs=0.0)
    assert gammas(last, num_steps=3, epoch=0.0) == (0, 0, 0, 1)
    uniform = GammaConfig(family="uniform", include_step_0=False)
    assert gammas(uniform, num_steps=4, epoch=7.0) == (0, 0.25, 0.25, 0.25, 0.25)


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match="annealing_epochs must not be negative"):
        GammaConfig(annealing_epochs=-1.0)
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        gammas(GammaConfig(), num_steps=0, epoch=0.0)
