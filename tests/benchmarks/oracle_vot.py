"""VOT's overlaps and metrics against both toolkits: for `check_oracles.py` and the tests."""

from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.boxes import xywh_to_xyxy
from eval_jobs import vot_metrics
from eval_jobs.protocols import TRACKED
from eval_jobs.regions import legacy_overlap, official_overlap, rectangle_corners
from eval_jobs.vot_metrics import VotRuns, measure_reset_run, pool_vot_runs

FLOAT32_TOLERANCE = 1e-5
"""One toolkit computes overlaps in single precision."""

TOLERANCE = 1e-6


def region(numbers: list[float]) -> np.ndarray:
    """``x, y, w, h`` as a box in xyxy, eight numbers as the corners of a polygon."""
    values = np.array(numbers, dtype=np.float64)
    return xywh_to_xyxy(values) if len(values) == 4 else values.reshape(4, 2)


def corners(numbers: list[float]) -> np.ndarray:
    """The corners of either."""
    found = region(numbers)
    return rectangle_corners(found) if found.ndim == 1 else found


def overlaps_of(case: dict[str, Any]) -> dict[str, float]:
    """Our overlaps of a case, called as its expected ones are."""
    width, height = case["image_size"]
    first, second = corners(case["a"]), corners(case["b"])
    box, truth = region(case["a"]), region(case["b"])
    return {
        "pysot_region_unbounded": legacy_overlap(first, second),
        "pysot_region_bounded_wh": legacy_overlap(first, second, (width, height)),
        "pysot_region_bounded_wh_minus_1": legacy_overlap(first, second, (width - 1, height - 1)),
        "vot_toolkit_0.9.0_unbounded": official_overlap(box, truth, None),
        "vot_toolkit_0.9.0_bounded": official_overlap(box, truth, (width, height)),
    }


def measured_sequence(case: dict[str, Any]) -> VotRuns:
    """What we measure on a result file of the toolkits: one run over one sequence."""
    result = case["trajectory"]
    codes = np.array([TRACKED if len(row) == 4 else int(row[0]) for row in result])
    boxes = np.array([region(row) if len(row) == 4 else [np.nan] * 4 for row in result])
    truth = np.array([region(row) for row in case["gt"]])
    run = measure_reset_run(codes, boxes, truth, tuple(case["image_size"]))
    return VotRuns(sequences=((run,),))


def metric_differences(case: dict[str, Any]) -> dict[str, float]:
    """How far each of our numbers is from the toolkits', and what may be; NaN must be NaN."""
    parts = [measured_sequence(sequence) for sequence in case["sequences"]]
    whole, lengths = pool_vot_runs(parts), tuple(case["eao_interval"])
    paper, official = case["expected"]["pysot"], case["expected"]["vot_toolkit_0.9.0"]
    curve = vot_metrics.official_eao_curve(whole)
    pairs = {
        "eao": (vot_metrics.paper_eao(whole, lengths), paper["eao"]),
        "accuracy": (vot_metrics.paper_accuracy(whole), paper["accuracy"]),
        "robustness": (
            vot_metrics.paper_robustness(whole),
            paper["robustness_failures_per_100_frames"],
        ),
        "official_eao": (vot_metrics.official_eao(whole, lengths), official["eao"]),
        "official_accuracy": (vot_metrics.official_accuracy(whole), official["accuracy"]),
        "official_robustness": (vot_metrics.official_robustness(whole), official["ar_point"][0]),
    }
    pairs |= {
        f"official_eao_curve[{index}]": pair
        for index, pair in enumerate(zip(curve.tolist(), official["eao_curve"], strict=True))
    }
    for sequence, part in zip(case["sequences"], parts, strict=True):
        name = sequence["name"]
        theirs, today = paper["per_sequence"][name], official["per_sequence"][name]
        own = vot_metrics.official_accuracy(part), vot_metrics.official_robustness(part)
        pairs[f"{name} accuracy"] = (vot_metrics.paper_accuracy(part), theirs["accuracy"])
        pairs[f"{name} official_accuracy"] = (own[0], today["accuracy"])
        pairs[f"{name} official_robustness"] = (own[1], today["ar_point"][0])
    return {name: _distance(ours, theirs) for name, (ours, theirs) in pairs.items()}


def _distance(ours: float, theirs: float | None) -> float:
    """0 where both are NaN, which the files write as null; infinite where only one is."""
    expected = np.nan if theirs is None else theirs
    if np.isnan(ours) or np.isnan(expected):
        return 0.0 if np.isnan(ours) and np.isnan(expected) else np.inf
    return abs(ours - expected)


def check_vot_overlaps(path: Path, oracle: dict[str, Any]) -> list[str]:
    """Overlaps of boxes and polygons, with and without the image's limits."""
    failures, checked = [], 0
    for number, case in enumerate(oracle["cases"]):
        for name, overlap in overlaps_of(case).items():
            checked += 1
            allowed = FLOAT32_TOLERANCE if name.startswith("pysot") else TOLERANCE
            if (worst := _distance(overlap, case["expected"][name])) > allowed:
                failures.append(
                    f"{path.name} case {number} ({case['note']}) {name}: differs by {worst:.2e}"
                )
    print(f"{path.name}: {checked} overlaps checked, {len(failures)} differ")
    return failures


def check_vot_metrics(path: Path, oracle: dict[str, Any]) -> list[str]:
    """Accuracy, robustness and EAO in both definitions, by sequence and together."""
    failures, checked = [], 0
    for case in oracle["cases"]:
        differences = metric_differences(case)
        checked += len(differences)
        failures += [
            f"{path.name} {case['name']} {name}: differs by {worst:.2e}"
            for name, worst in differences.items()
            if worst > TOLERANCE
        ]
    print(f"{path.name}: {checked} numbers checked, {len(failures)} differ")
    return failures
