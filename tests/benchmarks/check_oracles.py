"""Do our numbers equal those of the official code? Prints a line per set of cases.

Usage: ``python tests/benchmarks/check_oracles.py ORACLE_FOLDER``, with a folder of JSON files, each
of which names its ``schema``. Exit code 1 where a number differs, 2 where a file is of no known
schema or there is none. The file `index.json`, which lists the others, is passed over.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from oracle_tracker import check_geometry, check_reset_protocol
from oracle_vot import check_vot_metrics, check_vot_overlaps

from eval_jobs import server_metrics
from eval_jobs.metrics import (
    AUC,
    NORMALIZED_PRECISION_20,
    PRECISION_20,
    SUCCESS_THRESHOLDS,
    Curves,
    lasot_curves,
    mean_curves,
    otb_curves,
    overlaps,
    repair,
)

REAL_TOLERANCE = 5e-5
"""Predictions are stored with three decimals, the expected values come from the full files."""

ROUNDED_OVERLAP = 5e-5
"""How far three decimals in a box can move an overlap, for targets of a dozen pixels and more."""

EDGE_TOLERANCE = 1e-6

NOT_RUN: dict[str, Any] = {}
"""What is expected by a toolkit that a case was not given to."""


def rows(boxes: list[list[float | str | None]]) -> np.ndarray:
    """Box rows of a JSON file; null is NaN, the string ``inf`` infinite."""
    return np.array(
        [[np.nan if number is None else float(number) for number in row] for row in boxes],
        dtype=np.float64,
    )


def rounding_slack(predicted: np.ndarray, truth: np.ndarray) -> float:
    """By how much AUC may differ because the stored boxes have only three decimals.

    A frame whose overlap lies within the rounding of a threshold may fall on its other side; each
    such frame moves one of the 21 bins by one frame.
    """
    overlap = overlaps(repair(predicted, truth), truth)[1:]
    overlap = overlap[overlap > 0]
    near = np.abs(overlap[:, None] - SUCCESS_THRESHOLDS) < ROUNDED_OVERLAP
    return float(near.sum()) / (len(truth) * len(SUCCESS_THRESHOLDS))


def check_real(path: Path, oracle: dict[str, Any]) -> list[str]:
    """Public results of real trackers on OTB-100, sequence by sequence and by subset."""
    failures = []
    for tracker, entry in oracle["trackers"].items():
        expected = entry["expected"]["otb_matlab_octave"]
        curves = {
            name: otb_curves(rows(boxes), rows(oracle["gt"][name]))
            for name, boxes in entry["predictions"].items()
        }
        rounded = []
        for name, values in expected["per_sequence"].items():
            auc_error = abs(AUC.read(curves[name]) - values["success_auc"])
            precision_error = abs(PRECISION_20.read(curves[name]) - values["precision_20"])
            slack = rounding_slack(rows(entry["predictions"][name]), rows(oracle["gt"][name]))
            if auc_error > REAL_TOLERANCE + slack or precision_error > REAL_TOLERANCE:
                failures.append(
                    f"{path.name} {tracker} {name}: AUC differs by {auc_error:.2e}, "
                    f"precision by {precision_error:.2e}"
                )
            elif auc_error > REAL_TOLERANCE:
                rounded.append(f"{name} ({auc_error:.1e})")
        print(
            f"{path.name} {tracker}: {len(curves)} sequences; beyond {REAL_TOLERANCE:.0e} only "
            f"because stored boxes are rounded: {', '.join(rounded) or 'none'}"
        )
        for subset, names in oracle["subsets"].items():
            mean = mean_curves([curves[name] for name in names])
            values = expected["subsets"][subset]
            worst = max(
                abs(AUC.read(mean) - values["success_auc"]),
                abs(PRECISION_20.read(mean) - values["precision_20"]),
            )
            print(
                f"{path.name} {tracker} {subset}: AUC {AUC.read(mean):.3f} "
                f"precision {PRECISION_20.read(mean):.3f}, largest difference {worst:.1e}"
            )
            if worst > REAL_TOLERANCE:
                failures.append(f"{path.name} {tracker} {subset}: differs by {worst:.2e}")
            published = (entry["published"] or {}).get(subset)
            if published is not None and round(AUC.read(mean), 3) != published:
                failures.append(f"{path.name} {tracker} {subset}: published as {published}")
    return failures


def difference(curves: Curves, expected: dict[str, Any]) -> float:
    """Largest difference of a curve; one bin at threshold 1.0 is left out (IoU = 1 + 1e-16)."""
    worst = max(
        np.abs(curves.success - np.array(expected["success_curve"]))[:-1].max(),
        np.abs(curves.precision - np.array(expected["precision_curve"])).max(),
    )
    if "norm_precision_curve" in expected:
        normalized = np.array(expected["norm_precision_curve"])
        worst = max(worst, np.abs(curves.normalized_precision - normalized).max())
    return float(worst)


def check_edges(path: Path, oracle: dict[str, Any]) -> list[str]:
    """Made-up sequences with every kind of odd row, against three toolkits."""
    failures, checked, refused = [], 0, 0
    for case in oracle["sequences"]:
        predicted, truth = rows(case["pred"]), rows(case["gt"])
        absent = np.array(case["absent"] or np.zeros(len(truth)), dtype=bool)
        worst_of = {
            "otb_matlab_octave": lambda expected, p=predicted, t=truth: difference(
                otb_curves(p, t), expected
            ),
            "lasot_matlab_octave": lambda expected, p=predicted, t=truth, a=absent: difference(
                lasot_curves(p, t, a), expected
            ),
            "trackingnet_devkit": lambda expected, p=predicted, t=truth: trackingnet_difference(
                server_metrics.trackingnet_curves(p, t), expected
            ),
        }
        for peer, worst_against in worst_of.items():
            expected = case["expected"].get(peer, NOT_RUN)
            skipped = peer.startswith("otb") and case["name"] == "pred_partial_nan"
            if skipped or expected == NOT_RUN:
                continue
            if "error" in expected:  # of lengths that differ: ours must be an error too
                try:
                    worst_against({})
                except ValueError:
                    refused += 1
                else:
                    failures.append(f"{path.name} {case['name']} {peer}: not refused")
                continue
            checked += 1
            if (worst := worst_against(expected)) > EDGE_TOLERANCE:
                failures.append(f"{path.name} {case['name']} {peer}: differs by {worst:.2e}")
    print(
        f"{path.name}: {checked} (case, toolkit) pairs checked, {len(failures)} differ, "
        f"{refused} refused by both"
    )
    return failures


def trackingnet_difference(
    curves: server_metrics.TrackingNetCurves, expected: dict[str, float]
) -> float:
    """Largest difference of TrackingNet's three numbers, in the server's per cent."""
    pairs = {
        "success_auc_x100": server_metrics.TRACKINGNET_AUC,
        "precision_auc_0_50_x100": server_metrics.TRACKINGNET_PRECISION,
        "norm_precision_auc_0_05_x100": server_metrics.TRACKINGNET_NORMALIZED_PRECISION,
    }
    return max(abs(100 * metric.read(curves) - expected[key]) for key, metric in pairs.items())


def check_lasot(path: Path, oracle: dict[str, Any]) -> list[str]:
    """Real annotations of LaSOT with made-up predictions, by sequence and on average."""
    failures, curves = [], []
    for case in oracle["sequences"]:
        absent = np.array(case["absent"], dtype=bool)
        curves.append(lasot_curves(rows(case["pred"]), rows(case["gt"]), absent))
        worst = difference(curves[-1], case["expected"]["lasot_matlab_octave"])
        if worst > EDGE_TOLERANCE:
            failures.append(f"{path.name} {case['name']}: differs by {worst:.2e}")
    mean, expected = mean_curves(curves), oracle["aggregate"]["lasot_matlab_octave"]
    pairs = {
        "success_auc": AUC,
        "precision_20": PRECISION_20,
        "norm_precision_020": NORMALIZED_PRECISION_20,
    }
    for key, metric in pairs.items():
        if (worst := abs(metric.read(mean) - expected[key])) > EDGE_TOLERANCE:
            failures.append(f"{path.name} mean {key}: differs by {worst:.2e}")
    print(f"{path.name}: {len(curves)} sequences and their mean, {len(failures)} differ")
    return failures


def check_got10k(path: Path, oracle: dict[str, Any]) -> list[str]:
    """GOT-10k's AO and SR of trackers with one run and with several."""
    failures, checked = [], 0
    for tracker, expected in oracle["expected"]["got10k_pypi_0.1.3"].items():
        parts = {
            case["name"]: server_metrics.pool_overlaps(
                [
                    server_metrics.got10k_overlaps(
                        rows(run),
                        rows(case["gt"]),
                        np.array(case["cover"]) > 0,
                        tuple(case["image_size"]),
                    )
                    for run in case["pred"][tracker]
                ]
            )
            for case in oracle["sequences"]
        }
        whole = server_metrics.pool_overlaps(list(parts.values()))
        pairs = [("overall", whole, expected["overall"])]
        pairs += [(name, parts[name], values) for name, values in expected["per_sequence"].items()]
        names = {
            "ao": server_metrics.AO,
            "sr_050": server_metrics.SR_50,
            "sr_075": server_metrics.SR_75,
        }
        for name, frames, values in pairs:
            for key in names.keys() & values.keys():
                checked += 1
                if (worst := abs(names[key].read(frames) - values[key])) > EDGE_TOLERANCE:
                    failures.append(f"{path.name} {tracker} {name} {key}: differs by {worst:.2e}")
    print(f"{path.name}: {checked} numbers checked, {len(failures)} differ")
    return failures


CHECKS: dict[str, Callable[[Path, dict[str, Any]], list[str]]] = {
    "got10k-oracle/1": check_got10k,
    "lasot-real-gt-oracle/1": check_lasot,
    "otb100-real-oracle/1": check_real,
    "tracker-geometry-oracle/1": check_geometry,
    "tracking-ope-oracle/1": check_edges,
    "vot-ar-eao-oracle/1": check_vot_metrics,
    "vot-overlap-oracle/1": check_vot_overlaps,
    "vot-reset-protocol-oracle/1": check_reset_protocol,
}
"""What checks a file of each schema, and gives a line per difference."""


def main() -> int:
    """Checks every file of the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("oracle_folder", type=Path)
    folder = parser.parse_args().oracle_folder
    paths = sorted(path for path in folder.glob("*.json") if path.name != "index.json")
    if not paths:
        print(f"{folder}: JSON files expected, there are none here")
        return 2
    failures = []
    for path in paths:
        oracle = json.loads(path.read_text())
        if oracle.get("schema") not in CHECKS:
            print(f"{path}: one of the schemas {', '.join(CHECKS)} expected")
            return 2
        failures += CHECKS[oracle["schema"]](path, oracle)
    print("\n".join(failures) or "all numbers agree")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
