"""Do our metrics give the numbers of the official code? Prints a line per set of cases.

Usage: ``python tests/benchmarks/check_oracles.py ORACLE_FOLDER``, with the folder that holds
``otb100_real_*.json`` and ``ope_edge_cases_*.json``. Exit code 1 where a number differs.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from eval_jobs.metrics import (
    AUC,
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


def check_real(path: Path) -> list[str]:
    """Public results of real trackers on OTB-100, sequence by sequence and by subset."""
    oracle = json.loads(path.read_text())
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


def check_edges(path: Path) -> list[str]:
    """Made-up sequences with every kind of odd row, against the OTB and the LaSOT toolkit."""
    failures, checked, refused = [], 0, 0
    for case in json.loads(path.read_text())["sequences"]:
        predicted, truth = rows(case["pred"]), rows(case["gt"])
        if len(predicted) != len(truth):  # ours is an error; the toolkits cut or fail
            refused += 1
            continue
        absent = np.array(case["absent"] or np.zeros(len(truth)), dtype=bool)
        computed = {
            "otb_matlab_octave": otb_curves(predicted, truth),
            "lasot_matlab_octave": lasot_curves(predicted, truth, absent),
        }
        for peer, curves in computed.items():
            expected = case["expected"].get(peer, {"error": "not run"})
            skipped = peer.startswith("otb") and case["name"] == "pred_partial_nan"
            if "error" in expected or skipped:
                continue
            checked += 1
            if (worst := difference(curves, expected)) > EDGE_TOLERANCE:
                failures.append(f"{path.name} {case['name']} {peer}: differs by {worst:.2e}")
    print(
        f"{path.name}: {checked} (case, toolkit) pairs checked, {len(failures)} differ, "
        f"{refused} refused because lengths differ"
    )
    return failures


def main() -> int:
    """Checks every file of the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("oracle_folder", type=Path)
    folder = parser.parse_args().oracle_folder
    real = sorted(folder.glob("otb100_real_*.json"))
    edges = sorted(folder.glob("ope_edge_cases_*.json"))
    if not real and not edges:
        print(f"{folder}: no otb100_real_*.json and no ope_edge_cases_*.json here")
        return 2
    failures = [line for path in real for line in check_real(path)]
    failures += [line for path in edges for line in check_edges(path)]
    print("\n".join(failures) or "all numbers agree")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
