"""`eval_jobs.vot_metrics`: agreement with both toolkits, and small runs by hand."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval_jobs.protocols import FAILED, INITIALIZED, SKIPPED, TRACKED
from eval_jobs.vot_metrics import (
    VOT2018_METRICS,
    ResetRun,
    VotRuns,
    measure_reset_run,
    official_accuracy,
    official_eao_curve,
    official_robustness,
    paper_accuracy,
    paper_eao,
    paper_eao_curve,
    paper_robustness,
    pool_vot_runs,
    settled,
)

sys.path.append(str(Path(__file__).parent / "benchmarks"))
from oracle_vot import metric_differences

CASES = json.loads((Path(__file__).parent / "data" / "vot.json").read_text())["metrics"]
LETTERS = {"1": INITIALIZED, "2": FAILED, "0": SKIPPED, "T": TRACKED}


def run(letters: str, overlap: float = 0.5) -> ResetRun:
    """A run with the same overlap on each tracked frame."""
    codes = np.array([LETTERS[letter] for letter in letters])
    overlaps = np.where(codes == TRACKED, overlap, np.nan)
    return ResetRun(
        codes=codes, overlaps=overlaps, inner_overlaps=overlaps, official_overlaps=overlaps
    )


def measured(*runs: ResetRun) -> VotRuns:
    return VotRuns(sequences=(runs,))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_numbers_are_those_of_both_toolkits(case: dict[str, Any]) -> None:
    differences = metric_differences(case)
    assert len(differences) > 20
    assert max(differences.values()) < 1e-6


def test_burn_in_counts_the_start() -> None:
    codes = run("1TTTT2000" + "01TTTTT").codes
    assert settled(codes, 3).tolist() == [False] * 3 + [True] * 7 + [False] * 3 + [True] * 3


def test_accuracy_averages_repetitions_before_frames() -> None:
    late = "1" + "T" * 11
    both = measured(run(late, 0.4), run(late, 0.8))
    assert paper_accuracy(both) == pytest.approx(0.6)
    failing = measured(run(late, 0.4), run("12000" + "01" + "T" * 5, 0.8))
    assert paper_accuracy(failing) == pytest.approx(0.4)  # the other has no frame after burn-in
    assert official_accuracy(failing) == pytest.approx((0.4 + 0.0) / 2)
    assert np.isnan(paper_accuracy(measured(run("1TT"))))


def test_robustness_is_failures_in_100_frames() -> None:
    whole = VotRuns(
        sequences=(
            (run("1TTT200001" + "T" * 30), run("1" + "T" * 39)),
            (run("1" + "T" * 9), run("1" + "T" * 9)),
        )
    )
    assert paper_robustness(whole) == pytest.approx(100 * 0.5 / 50)
    failures = 0.5 * 40 / 50
    assert official_robustness(whole) == pytest.approx(np.exp(-30 * failures / 25))


def test_expected_overlap_by_hand() -> None:
    """Two fragments: 1TT then zeros for ever, and 1TTT up to the end."""
    failing = measured(run("1TT200001TTT", 0.6))
    curve = paper_eao_curve(failing)
    assert len(curve) == 12
    assert curve[2] == pytest.approx(0.6)
    assert curve[3] == pytest.approx((0.6 * 2 / 3 + 0.6) / 2)
    assert curve[4] == pytest.approx(0.6 * 2 / 4)  # only the failed one is that long
    today = official_eao_curve(failing)
    assert len(today) == 4
    assert today[3] == pytest.approx((0.6 * 2 / 3 + 0.6) / 2)
    assert paper_eao(failing, (3, 4)) == pytest.approx(curve[2:4].mean())
    assert np.isnan(paper_eao(failing))  # shorter than 100 frames


def test_a_restart_behind_the_sequence_weighs_as_in_the_legacy_code() -> None:
    """Of the first run's 7 frames and the one behind them, 7 of 8 have a weight."""
    failing, whole = measured(run("1T20000")), measured(run("1TTTT", 1.0))
    curve = paper_eao_curve(pool_vot_runs([failing, whole]))
    assert curve[0] == 1.0
    weight = 7 / 8
    assert curve[1] == pytest.approx((weight * 0.5 + 1) / (weight + 1))
    assert curve[3] == pytest.approx((weight * 0.5 / 3 + 1) / (weight + 1))


def test_repetitions_share_a_sequence_s_weight() -> None:
    """Three equal runs over one sequence weigh as much as a single run over another."""
    many = measured(*[run("1TTT", 0.9)] * 3)
    single = measured(run("1TTT", 0.3))
    assert paper_eao_curve(pool_vot_runs([many, single]))[3] == pytest.approx(0.6)


def test_lengths_must_agree() -> None:
    truth = np.tile([0.0, 0.0, 9.0, 9.0], (4, 1))
    with pytest.raises(ValueError, match="3 codes and 4 boxes for 4 annotations"):
        measure_reset_run(np.array([1, 3, 3]), truth, truth, (20, 20))


def test_metrics_say_which_definition_they_follow() -> None:
    for metric in VOT2018_METRICS:
        assert ("paper" in metric.unit) != ("today" in metric.unit)
        assert metric.name.startswith("official_") == ("today" in metric.unit)
    down = [metric.name for metric in VOT2018_METRICS if not metric.higher_is_better]
    assert down == ["robustness"]
