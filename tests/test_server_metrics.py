"""`eval_jobs.server_metrics`: agreement with GOT-10k's and TrackingNet's code."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval_jobs.server_metrics import (
    AO,
    SR_50,
    SR_75,
    TRACKINGNET_AUC,
    TRACKINGNET_NORMALIZED_PRECISION,
    TRACKINGNET_PRECISION,
    got10k_overlaps,
    mean_trackingnet_curves,
    pool_overlaps,
    trackingnet_curves,
)

DATA = Path(__file__).parent / "data"
GOT10K = json.loads((DATA / "got10k.json").read_text())["sequences"]
EDGES = json.loads((DATA / "ope_edge_cases.json").read_text())["sequences"]
BOX = [10.0, 10.0, 20.0, 20.0]


def rows(boxes: list[list[float | None]]) -> np.ndarray:
    return np.array([[np.nan if x is None else float(x) for x in row] for row in boxes])


@pytest.mark.parametrize("case", GOT10K, ids=lambda case: case["name"])
def test_got10k_sequences_score_as_in_its_toolkit(case: dict[str, Any]) -> None:
    frames = pool_overlaps(
        [
            got10k_overlaps(
                rows(run),
                rows(case["truth"]),
                np.array(case["cover"]) > 0,
                tuple(case["image_size"]),
            )
            for run in case["runs"]
        ]
    )
    assert len(frames.overlaps) == (np.array(case["cover"][1:]) > 0).sum()
    assert AO.read(frames) == pytest.approx(case["expected"]["ao"], abs=1e-6)
    assert SR_50.read(frames) == pytest.approx(case["expected"]["sr_050"], abs=1e-6)


def test_got10k_pools_frames_and_leaves_out_the_first_and_the_absent() -> None:
    truth = np.tile(BOX, (4, 1))
    visible = np.array([True, True, True, False])
    half = truth + np.array([0.0, 0.0, 20.0, 0.0])
    long = got10k_overlaps(truth, truth, visible, (100, 100))
    short = got10k_overlaps(half[:2], truth[:2], visible[:2], (100, 100))
    assert [len(long.overlaps), len(short.overlaps)] == [2, 1]
    together = pool_overlaps([long, short])
    assert AO.read(together) == pytest.approx((1 + 1 + 0.5) / 3)
    assert SR_50.read(together) == pytest.approx(2 / 3)  # 0.5 itself is no success
    assert SR_75.read(together) == pytest.approx(2 / 3)


def test_got10k_frame_without_a_box_overlaps_nothing() -> None:
    truth = np.tile(BOX, (3, 1))
    predicted = truth.copy()
    predicted[2] = np.nan
    frames = got10k_overlaps(predicted, truth, np.ones(3, dtype=bool), (100, 100))
    assert frames.overlaps.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("case", EDGES, ids=lambda case: case["name"])
def test_trackingnet_scores_as_its_server(case: dict[str, Any]) -> None:
    curves = trackingnet_curves(rows(case["predicted"]), rows(case["truth"]))
    expected = case["trackingnet"]
    ours = {
        "success_auc_x100": 100 * TRACKINGNET_AUC.read(curves),
        "precision_auc_0_50_x100": 100 * TRACKINGNET_PRECISION.read(curves),
        "norm_precision_auc_0_05_x100": 100 * TRACKINGNET_NORMALIZED_PRECISION.read(curves),
    }
    assert ours == pytest.approx(expected, abs=1e-6)


def test_trackingnet_gives_a_perfect_tracker_everything() -> None:
    truth = np.tile(BOX, (3, 1))
    curves = mean_trackingnet_curves([trackingnet_curves(truth + 0.4, truth)] * 2)
    assert TRACKINGNET_AUC.read(curves) == 1.0  # rounded boxes are the same


@pytest.mark.parametrize("count", [0, 2, 4])
def test_another_number_of_boxes_is_an_error_never_cut(count: int) -> None:
    truth = np.tile(BOX, (3, 1))
    with pytest.raises(ValueError, match=f"got {count} boxes for 3 annotations"):
        got10k_overlaps(np.ones((count, 4)), truth, np.ones(3, dtype=bool), (9, 9))


def test_trackingnet_cuts_boxes_and_counts_missing_ones_as_misses() -> None:
    truth = np.tile(BOX, (4, 1))
    longer = trackingnet_curves(np.tile(BOX, (5, 1)), truth)
    shorter = trackingnet_curves(truth[:3], truth)
    for metric in (TRACKINGNET_AUC, TRACKINGNET_PRECISION, TRACKINGNET_NORMALIZED_PRECISION):
        assert [metric.read(longer), metric.read(shorter)] == pytest.approx([1, 0.75])
    with pytest.raises(ValueError, match="got 0 and 4"):
        trackingnet_curves(truth[:0], truth)


@pytest.mark.filterwarnings("error")
def test_sequence_without_a_counted_frame_has_no_number_and_adds_none() -> None:
    truth = np.tile(BOX, (2, 1))
    visible = np.ones(2, dtype=bool)
    single = got10k_overlaps(truth[:1], truth[:1], visible[:1], (100, 100))
    unseen = got10k_overlaps(truth, truth, ~visible, (100, 100))
    for nothing in (single, unseen):
        assert np.isnan([AO.read(nothing), SR_50.read(nothing), SR_75.read(nothing)]).all()
    whole = got10k_overlaps(truth, truth, visible, (100, 100))
    assert AO.read(pool_overlaps([single, whole, unseen])) == 1.0
