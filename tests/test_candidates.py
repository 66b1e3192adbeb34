"""`eval_jobs.candidates`: agreement with a sibling tracker's code, and the single steps."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle_tracker import select_as_the_peer

from data_pipeline.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from eval_jobs.candidates import (
    confine,
    cosine_prior,
    distractor_ratio,
    ranking,
    shape_penalties,
    smooth_shape,
)

CASES = json.loads((Path(__file__).parent / "data" / "post_processing.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"side{case['feature_size']}")
def test_post_processing_equals_the_sibling_tracker(case: dict[str, Any]) -> None:
    selected = xyxy_to_cxcywh(select_as_the_peer(case))
    np.testing.assert_allclose(selected, case["expected"]["selected_box_cxcywh"], atol=2e-3)


def test_penalty_is_one_for_the_same_shape_and_symmetric() -> None:
    last = np.array([40.0, 20.0])
    sizes = np.array([[40.0, 20.0], [80.0, 40.0], [20.0, 10.0], [20.0, 40.0]])
    same, doubled, halved, turned = shape_penalties(sizes, last, 0.2)
    assert same == pytest.approx(1.0)
    assert doubled == pytest.approx(halved) == pytest.approx(np.exp(-0.2))
    assert turned == pytest.approx(np.exp(-(4 - 1) * 0.2))


def test_candidate_without_area_is_worth_nothing() -> None:
    penalties = shape_penalties(np.array([[-5.0, 10.0], [0.0, 3.0]]), np.array([10.0, 10.0]), 0.2)
    assert penalties.tolist() == [0.0, 0.0]


def test_prior_is_not_periodic() -> None:
    prior = cosine_prior(33).reshape(33, 33)
    assert prior[16, 16] == pytest.approx(1.0)
    assert np.abs(prior[0]).max() == np.abs(prior[-1]).max() == 0.0
    np.testing.assert_allclose(prior, prior.T)


def test_prior_decides_between_equal_scores() -> None:
    scores = np.full(33 * 33, 0.5)
    assert ranking(scores, np.ones_like(scores), 0.4).argmax() == 16 * 33 + 16


def test_ranking_refuses_a_map_that_is_not_square() -> None:
    with pytest.raises(ValueError, match="square map"):
        ranking(np.zeros(10), np.ones(10), 0.4)


def test_smoothing_moves_the_size_and_keeps_the_centre() -> None:
    box = smooth_shape(np.array([10.0, 10.0, 30.0, 50.0]), np.array([0.0, 0.0, 10.0, 20.0]), 0.5)
    np.testing.assert_allclose(xyxy_to_cxcywh(box), [20.0, 30.0, 15.0, 30.0])


def test_confined_box_has_its_centre_inside_and_a_bounded_size() -> None:
    outside = cxcywh_to_xyxy(np.array([-50.0, 900.0, 2.0, 700.0]))
    box = xyxy_to_cxcywh(confine(outside, width=320, height=240, min_size_px=8.0))
    np.testing.assert_allclose(box, [0.0, 240.0, 8.0, 240.0])


def peaks(**at: float) -> np.ndarray:
    scores = np.full((33, 33), 0.01)
    for cell, value in at.items():
        row, column = map(int, cell.strip("p").split("_"))
        scores[row, column] = value
    return scores.ravel()


@pytest.mark.parametrize(
    ("second", "expected"),
    [("p16_17", 0.01 / 0.8), ("p16_24", 0.01 / 0.8), ("p16_25", 0.75), ("p30_16", 0.75)],
)
def test_distractor_counts_only_outside_the_neighbourhood(second: str, expected: float) -> None:
    """A 64 px target reaches 64 * 2.2 / 2 / 8 = 8.8 cells to each side."""
    ratio = distractor_ratio(
        peaks(p16_16=0.8, **{second: 0.6}),
        16 * 33 + 16,
        np.array([64.0, 64.0]),
        stride_px=8.0,
        neighborhood=2.2,
    )
    assert ratio == pytest.approx(expected)


def test_distractor_needs_cells_outside() -> None:
    ratio = distractor_ratio(
        peaks(p16_16=0.8), 16 * 33 + 16, np.array([300.0, 300.0]), stride_px=8.0, neighborhood=2.2
    )
    assert ratio == 0.0
