"""Box conversions and measures."""

import doctest

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from data_pipeline import boxes

coordinates = st.floats(-500, 500, allow_nan=False)
sides = st.floats(0.5, 400, allow_nan=False)
any_box = st.tuples(coordinates, coordinates, sides, sides).map(
    lambda b: np.array([b[0], b[1], b[0] + b[2], b[1] + b[3]])
)


def test_examples_in_docstrings() -> None:
    assert doctest.testmod(boxes).failed == 0


@given(any_box)
def test_conversions_return(box: np.ndarray) -> None:
    np.testing.assert_allclose(boxes.xywh_to_xyxy(boxes.xyxy_to_xywh(box)), box, atol=1e-9)
    np.testing.assert_allclose(boxes.cxcywh_to_xyxy(boxes.xyxy_to_cxcywh(box)), box, atol=1e-9)


def test_center_and_size() -> None:
    box = np.array([10.0, 20.0, 40.0, 60.0])
    np.testing.assert_array_equal(boxes.xyxy_to_cxcywh(box), [25, 40, 30, 40])
    np.testing.assert_array_equal(boxes.xyxy_to_xywh(box), [10, 20, 30, 40])


@given(any_box, any_box)
def test_iou_is_bounded_and_symmetric(first: np.ndarray, second: np.ndarray) -> None:
    value = float(boxes.iou(first, second))
    assert 0 <= value <= 1
    assert value == float(boxes.iou(second, first))
    np.testing.assert_allclose(boxes.iou(first, first), 1)


def test_iou_of_boxes_that_do_not_meet_or_have_no_area() -> None:
    first = np.array([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    second = np.array([[5.0, 5.0, 6.0, 6.0], [0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(boxes.iou(first, second), [0, 0])


@given(any_box)
def test_clip_stays_inside(box: np.ndarray) -> None:
    clipped = boxes.clip(box, width=100.0, height=50.0)
    assert (clipped >= 0).all()
    assert (clipped[[0, 2]] <= 100).all() and (clipped[[1, 3]] <= 50).all()
    assert boxes.areas(clipped) <= boxes.areas(box) + 1e-9


def test_clip_of_a_box_outside_has_no_area() -> None:
    clipped = boxes.clip(np.array([120.0, 5.0, 130.0, 15.0]), width=100.0, height=50.0)
    assert boxes.areas(clipped) == 0


def test_has_area() -> None:
    rows = np.array(
        [[0, 0, 1, 1], [1, 1, 1, 2], [3, 0, 1, 1], [np.nan, 0, 1, 1], [0, 0, np.inf, 1]]
    )
    assert boxes.has_area(rows).tolist() == [True, False, False, False, False]
