"""How benchmarks score: what is measured on a sequence, and which metrics are read from it.

A `Scoring` is data: `measure` looks at one sequence, `pool` puts sequences together, and the
metrics read numbers from either.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from data_pipeline.boxes import xyxy_to_xywh
from data_pipeline.tracks import Track, read_image
from eval_jobs import server_metrics, vot_metrics
from eval_jobs.metrics import (
    AUC,
    NORMALIZED_PRECISION_20,
    PRECISION_20,
    Curves,
    Measured,
    Metric,
    lasot_curves,
    mean_curves,
    otb_curves,
    to_official,
)
from eval_jobs.protocols import Trajectory, same_result


@dataclass(frozen=True, kw_only=True)
class Scoring(Generic[Measured]):
    """A benchmark's rules."""

    measure: Callable[[Sequence[Trajectory], Track], Measured]
    """What the repetitions over a sequence amount to."""

    pool: Callable[[Sequence[Measured]], Measured]
    """What sequences amount to together."""

    metrics: tuple[Metric[Measured], ...]
    """What is read from it, the most important first; empty where a server has the ground truth."""


@dataclass(frozen=True, kw_only=True)
class HiddenTruth:
    """Nothing can be measured here: a server has the ground truth."""


def score_otb(predicted: Float[ndarray, "frames 4"], track: Track) -> Curves:
    """OTB's curves over all frames; a frame without valid ground truth counts as OTB counts it."""
    return otb_curves(to_official(predicted), _official_truth(track))


def score_lasot(predicted: Float[ndarray, "frames 4"], track: Track) -> Curves:
    """LaSOT's curves: frames in which the target is absent are no hits, but they count."""
    return lasot_curves(to_official(predicted), _official_truth(track), ~track.visible)


def score_visible(predicted: Float[ndarray, "frames 4"], track: Track) -> Curves:
    """OTB's curves over the frames in which the target is visible; others are not counted.

    Raises:
        ValueError: the number of boxes is not that of the frames.
    """
    if len(predicted) != len(track):
        raise ValueError(f"{track.name}: {len(track)} boxes expected, got {len(predicted)}")
    seen = track.visible.copy()
    seen[0] = True
    return otb_curves(to_official(predicted[seen]), to_official(track.boxes[seen]))


def measure_vot(runs: Sequence[Trajectory], track: Track) -> vot_metrics.VotRuns:
    """The repetitions with resets over one sequence; equal ones are measured once.

    Raises:
        ValueError: a run was made without resets.
    """
    truth = track.boxes if track.polygons is None else track.polygons
    size = image_size(track)
    measured: list[vot_metrics.ResetRun] = []
    for index, run in enumerate(runs):
        if run.codes is None:
            raise ValueError(f"{track.name}: runs with resets expected, got a one-pass run")
        twin = next((k for k in range(index) if same_result([runs[k], run])), None)
        measured.append(
            vot_metrics.measure_reset_run(run.codes, run.boxes, truth.astype(np.float64), size)
            if twin is None
            else measured[twin]
        )
    return vot_metrics.VotRuns(sequences=(tuple(measured),))


def image_size(track: Track) -> tuple[int, int]:
    """Width and height of a sequence's images, from the first one."""
    height, width, _ = read_image(track.image_files[0]).shape
    return width, height


def _official_truth(track: Track) -> Float[ndarray, "frames 4"]:
    """The annotation in OTB's form; frames without a box have four zeros, as in LaSOT's files."""
    return np.nan_to_num(to_official(track.boxes), nan=0.0)


def _curves_of(
    score: Callable[[Float[ndarray, "frames 4"], Track], Curves],
) -> Callable[[Sequence[Trajectory], Track], Curves]:
    """The mean curves of a sequence's repetitions, for one-pass evaluation mostly a single one."""
    return lambda runs, track: mean_curves([score(run.boxes, track) for run in runs])


def _measure_got10k(runs: Sequence[Trajectory], track: Track) -> server_metrics.FrameOverlaps:
    truth, size = xyxy_to_xywh(track.boxes), image_size(track)
    return server_metrics.pool_overlaps(
        [
            server_metrics.got10k_overlaps(xyxy_to_xywh(run.boxes), truth, track.visible, size)
            for run in runs
        ]
    )


def _measure_trackingnet(
    runs: Sequence[Trajectory], track: Track
) -> server_metrics.TrackingNetCurves:
    truth = xyxy_to_xywh(track.boxes)
    return server_metrics.mean_trackingnet_curves(
        [server_metrics.trackingnet_curves(xyxy_to_xywh(run.boxes), truth) for run in runs]
    )


OTB = Scoring(measure=_curves_of(score_otb), pool=mean_curves, metrics=(AUC, PRECISION_20))
LASOT = Scoring(
    measure=_curves_of(score_lasot),
    pool=mean_curves,
    metrics=(AUC, NORMALIZED_PRECISION_20, PRECISION_20),
)
VISIBLE = Scoring(measure=_curves_of(score_visible), pool=mean_curves, metrics=(AUC, PRECISION_20))
GOT10K = Scoring(
    measure=_measure_got10k,
    pool=server_metrics.pool_overlaps,
    metrics=(server_metrics.AO, server_metrics.SR_50, server_metrics.SR_75),
)
TRACKINGNET = Scoring(
    measure=_measure_trackingnet,
    pool=server_metrics.mean_trackingnet_curves,
    metrics=(
        server_metrics.TRACKINGNET_AUC,
        server_metrics.TRACKINGNET_NORMALIZED_PRECISION,
        server_metrics.TRACKINGNET_PRECISION,
    ),
)
VOT2018 = Scoring(
    measure=measure_vot, pool=vot_metrics.pool_vot_runs, metrics=vot_metrics.VOT2018_METRICS
)
HIDDEN: Scoring[Any] = Scoring(
    measure=lambda runs, track: HiddenTruth(), pool=lambda parts: HiddenTruth(), metrics=()
)
