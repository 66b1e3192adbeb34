"""`eval_jobs.regions`: agreement with both VOT toolkits, and what any overlap must be."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval_jobs.regions import legacy_overlap, official_overlap, rectangle_corners

sys.path.append(str(Path(__file__).parent / "benchmarks"))
from oracle_vot import overlaps_of

CASES = json.loads((Path(__file__).parent / "data" / "vot.json").read_text())["overlaps"]

boxes = st.tuples(
    st.integers(0, 60), st.integers(0, 60), st.integers(2, 40), st.integers(2, 40)
).map(lambda b: np.array([b[0], b[1], b[0] + b[2], b[1] + b[3]], dtype=np.float64))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['note']}-{case['a']}")
def test_overlaps_are_those_of_the_toolkits(case: dict[str, Any]) -> None:
    assert overlaps_of(case) == pytest.approx(case["expected"], abs=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "official", "bounded"),
    [
        ([99, 10, 20, 20], [99, 10, 20, 20], 1.0, 0.0),
        ([10, 74, 20, 20], [15, 74, 20, 20], 0.6, 0.0),
        ([-19, 10, 20, 20], [-19, 12, 20, 20], 9 / 11, 0.0),
        ([10, 10, 1, 20], [10, 15, 1, 20], 1.0, 1.0),
        ([10, 10, 0, 0], [10, 10, 1, 1], 1.0, 1.0),
        ([10, 10, 2, 20], [10, 15, 2, 20], 0.6, 0.6),
    ],
)
def test_one_line_of_pixels_overlaps_as_in_today_s_toolkit(
    a: list[float], b: list[float], official: float, bounded: float
) -> None:
    """What vot-toolkit's own function gives, in an image of 100x75."""
    expected = {"vot_toolkit_0.9.0_unbounded": official, "vot_toolkit_0.9.0_bounded": bounded}
    found = overlaps_of({"a": a, "b": b, "image_size": [100, 75]})
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("a", "b", "by_size", "by_last_pixel"),
    [
        ([100, 12, 20, 20], [100, 10, 20, 20], 19 / 23, 0.0),
        ([99, 12, 20, 20], [99, 10, 20, 20], 19 / 23, 19 / 23),
        ([50, -20, 20, 20], [52, -20, 20, 20], 19 / 23, 19 / 23),
        ([100, 12, 20, 20], [90, 10, 20, 20], 0.0, 0.0),
    ],
)
def test_regions_without_extent_in_the_image_overlap_as_in_the_legacy_code(
    a: list[float], b: list[float], by_size: float, by_last_pixel: float
) -> None:
    """What region.c gives, in an image of 100x75: 0 / 0 of their surrounding boxes is no 0."""
    expected = {
        "pysot_region_bounded_wh": by_size,
        "pysot_region_bounded_wh_minus_1": by_last_pixel,
    }
    found = overlaps_of({"a": a, "b": b, "image_size": [100, 75]})
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_legacy_counts_both_borders_and_today_s_toolkit_one() -> None:
    first, second = np.array([10.0, 10.0, 30.0, 30.0]), np.array([15.0, 15.0, 35.0, 35.0])
    legacy = legacy_overlap(rectangle_corners(first), rectangle_corners(second))
    assert legacy == pytest.approx(16**2 / (2 * 21**2 - 16**2))
    assert official_overlap(first, second, None) == pytest.approx(15**2 / (2 * 20**2 - 15**2))


@given(first=boxes, second=boxes)
def test_overlap_is_symmetric_bounded_and_one_with_itself(
    first: np.ndarray, second: np.ndarray
) -> None:
    one, other = rectangle_corners(first), rectangle_corners(second)
    overlap = legacy_overlap(one, other, (80, 90))
    assert 0 <= overlap <= 1
    assert overlap == legacy_overlap(other, one, (80, 90))
    assert legacy_overlap(one, one) == official_overlap(first, first, None) == 1


@given(box=boxes, shift=st.integers(-5, 50))
def test_rectangle_as_a_box_and_as_rolled_corners_is_the_same(box: np.ndarray, shift: int) -> None:
    corners = rectangle_corners(box)
    other = rectangle_corners(box + shift)
    turned = np.roll(corners, 1, axis=0)
    assert legacy_overlap(corners, other) == legacy_overlap(turned, other)
    assert legacy_overlap(corners, other) == legacy_overlap(corners[::-1], other)


def test_what_lies_outside_the_image_does_not_count() -> None:
    inside, leaving = np.array([0.0, 0.0, 30.0, 30.0]), np.array([-10.0, -10.0, 30.0, 30.0])
    assert official_overlap(leaving, rectangle_corners(inside), (31, 31)) > 0.9
    assert legacy_overlap(rectangle_corners(leaving), rectangle_corners(inside), (320, 240)) == 1
    assert legacy_overlap(rectangle_corners(leaving), rectangle_corners(inside)) < 0.6
    beyond = np.array([400.0, 300.0, 420.0, 320.0])
    assert official_overlap(beyond, rectangle_corners(inside), (320, 240)) == 0
    assert legacy_overlap(rectangle_corners(beyond), rectangle_corners(beyond), (320, 240)) == 0
