"""`eval_jobs.metrics`: agreement with the official toolkits, and what they never say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from eval_jobs.metrics import (
    AUC,
    NORMALIZED_PRECISION_20,
    PRECISION_20,
    SUCCESS_THRESHOLDS,
    lasot_curves,
    mean_curves,
    otb_curves,
    overlaps,
    repair,
    to_official,
)

DATA = Path(__file__).parent / "data"
REAL = json.loads((DATA / "otb_real_results.json").read_text())["sequences"]
EDGES = json.loads((DATA / "ope_edge_cases.json").read_text())["sequences"]


def rows(boxes: list[list[float | None]]) -> np.ndarray:
    return np.array([[np.nan if x is None else float(x) for x in row] for row in boxes])


@pytest.mark.parametrize("case", REAL, ids=lambda case: case["name"])
def test_published_results_score_as_in_the_official_code(case: dict[str, Any]) -> None:
    for result in case["trackers"].values():
        curves = otb_curves(rows(result["predicted"]), rows(case["truth"]))
        assert AUC.read(curves) == pytest.approx(result["success_auc"], abs=5e-5)
        assert PRECISION_20.read(curves) == pytest.approx(result["precision_20"], abs=5e-5)


@pytest.mark.parametrize("case", EDGES, ids=lambda case: case["name"])
def test_odd_rows_score_as_in_the_official_code(case: dict[str, Any]) -> None:
    predicted, truth = rows(case["predicted"]), rows(case["truth"])
    absent = np.array(case["absent"] or [0] * len(truth), dtype=bool)
    curves = {
        "otb_matlab_octave": otb_curves(predicted, truth),
        "lasot_matlab_octave": lasot_curves(predicted, truth, absent),
    }
    assert case["expected"]
    for toolkit, expected in case["expected"].items():
        mine = curves[toolkit]
        # At threshold 1 the toolkit may see an overlap of 1 + 1e-16.
        np.testing.assert_allclose(mine.success[:-1], expected["success_curve"][:-1], atol=1e-6)
        assert PRECISION_20.read(mine) == pytest.approx(expected["precision_20"], abs=1e-6)
        if "norm_precision_020" in expected:
            value = NORMALIZED_PRECISION_20.read(mine)
            assert value == pytest.approx(expected["norm_precision_020"], abs=1e-6)


def test_perfect_tracker_scores_20_of_21() -> None:
    truth = np.tile([10.0, 20.0, 30.0, 40.0], (5, 1))
    curves = otb_curves(truth, truth)
    assert AUC.read(curves) == pytest.approx(20 / 21)
    assert PRECISION_20.read(curves) == 1.0


def test_first_row_is_the_ground_truth_and_bad_rows_repeat() -> None:
    truth = np.tile([10.0, 10.0, 5.0, 5.0], (5, 1))
    predicted = np.array(
        [
            [90.0, 90.0, 5.0, 5.0],
            [np.nan, 1.0, 5.0, 5.0],
            [12.0, 10.0, 5.0, 5.0],
            [1.0, 1.0, 0.0, 5.0],
            [1.0, 1.0, 5.0, -2.0],
        ]
    )
    # Row 1 repeats the tracker's own row 0: only then does that become the ground truth.
    expected = [truth[0], predicted[0], predicted[2], predicted[2], predicted[2]]
    np.testing.assert_array_equal(repair(predicted, truth), expected)


def test_frames_without_valid_truth_are_missed_overlaps_and_hit_centres() -> None:
    truth = np.array([[10.0, 10.0, 5.0, 5.0], [0.0, 0.0, 0.0, 0.0]])
    curves = otb_curves(truth + np.array([0.0, 0.0, 1.0, 1.0]), truth)
    assert curves.success[0] == 0.5
    assert curves.precision[0] == 1.0


def test_absent_frames_leave_the_hits_and_stay_in_the_count() -> None:
    truth = np.tile([10.0, 10.0, 5.0, 5.0], (4, 1))
    curves = lasot_curves(truth, truth, np.array([False, False, False, True]))
    assert curves.success[0] == curves.precision[0] == curves.normalized_precision[0] == 0.75


@pytest.mark.parametrize("count", [0, 2, 4])
def test_another_number_of_boxes_is_an_error_never_cut(count: int) -> None:
    with pytest.raises(ValueError, match=f"got {count} boxes for 3 annotations"):
        otb_curves(np.ones((count, 4)), np.ones((3, 4)))


def test_lasot_cuts_what_follows_the_last_annotation_and_asks_for_the_rest() -> None:
    truth, absent = np.tile([10.0, 10.0, 5.0, 5.0], (3, 1)), np.zeros(3, dtype=bool)
    longer = np.concatenate([truth, [[90.0, 90.0, 5.0, 5.0]]])
    assert AUC.read(lasot_curves(longer, truth, absent)) == pytest.approx(20 / 21)
    with pytest.raises(ValueError, match="got 2 boxes for 3 annotations"):
        lasot_curves(truth[:2], truth, absent)


def test_sequences_weigh_the_same_however_long() -> None:
    truth = np.tile([10.0, 10.0, 5.0, 5.0], (100, 1))
    lost = truth + np.array([50.0, 0.0, 0.0, 0.0])
    mean = mean_curves([otb_curves(lost, truth), otb_curves(truth[:2], truth[:2])])
    assert mean.success[0] == pytest.approx((0.01 + 1.0) / 2)
    with pytest.raises(ValueError, match="at least one sequence"):
        mean_curves([])


BOXES = arrays(
    np.float64, (6, 4), elements=st.floats(1.0, 200.0, allow_nan=False, allow_infinity=False)
)


@given(predicted=BOXES, truth=BOXES)
def test_curves_are_monotone_and_bounded(predicted: np.ndarray, truth: np.ndarray) -> None:
    curves = otb_curves(predicted, truth)
    assert (np.diff(curves.success) <= 0).all()
    assert (np.diff(curves.precision) >= 0).all()
    for curve in (curves.success, curves.precision, curves.normalized_precision):
        assert curve.min() >= 0
        assert curve.max() <= 1
    overlap = overlaps(predicted, truth)
    assert (overlap >= 0).all()
    assert (overlap <= 1 + 1e-12).all()
    np.testing.assert_allclose(overlap, overlaps(truth, predicted))


def test_official_rows_count_pixels_from_one() -> None:
    np.testing.assert_array_equal(
        to_official(np.array([[0.0, 4.0, 10.0, 24.0]])), [[1.0, 5.0, 10.0, 20.0]]
    )


def test_thresholds_are_the_official_ones() -> None:
    assert len(SUCCESS_THRESHOLDS) == 21
    np.testing.assert_allclose(np.diff(SUCCESS_THRESHOLDS), 0.05)
