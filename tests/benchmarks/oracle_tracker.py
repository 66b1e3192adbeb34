"""Post-processing, labels and resets against other trackers' code: for `check_oracles.py` and the
tests.
"""

import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from oracle_vot import corners

from data_pipeline.boxes import cxcywh_to_xyxy, xywh_to_xyxy, xyxy_to_cxcywh
from data_pipeline.crops import context_size
from data_pipeline.tracks import Track
from eval_jobs.candidates import confine, ranking, shape_penalties, smooth_shape
from eval_jobs.protocols import TRACKED, supervised
from eval_jobs.tracker import Prediction
from meta_train.detectors.fcos import Fcos, FcosConfig

SELECTED_BOX_TOLERANCE_PX = 2e-3
"""The other tracker computes in single precision."""


def select_as_the_peer(case: dict[str, Any]) -> np.ndarray:
    """Post-processing of one case with our functions in the peer's order, and its geometry."""
    last_box = cxcywh_to_xyxy(np.array(case["last_box_cxcywh"]))
    last_size = last_box[2:] - last_box[:2]
    side_px = float(context_size(last_size)) * case["x_size"] / case["z_size"]
    scale = side_px / case["x_size"]
    cells = 3.0 + case["stride"] * np.arange(case["feature_size"])
    x, y = np.meshgrid(cells, cells)
    distances = np.array(case["deltas"]) * case["target_std"] + case["target_mean"]
    centers = np.stack([x.ravel(), y.ravel()], axis=1)
    boxes = np.concatenate([centers - distances[:, :2], centers + distances[:, 2:]], axis=1)
    boxes = (boxes - case["x_size"] / 2) * scale + np.tile((last_box[:2] + last_box[2:]) / 2, 2)

    scores = np.array(case["scores"])
    penalties = shape_penalties(boxes[:, 2:] - boxes[:, :2], last_size, float(case["penalty_k"]))
    winner = int(ranking(scores, penalties, case["window_weight"]).argmax())
    if scores[winner] * penalties[winner] < case["min_score_threshold"]:
        return last_box
    box = smooth_shape(boxes[winner], last_box, case["linear_inter_rate"])
    width, height = case["image_size"]
    return confine(box, width=width, height=height, min_size_px=float(case["min_box_size"]))


def check_geometry(path: Path, oracle: dict[str, Any]) -> list[str]:
    """The box that post-processing selects, and which cells learn a box and what."""
    failures = []
    for number, case in enumerate(oracle["post_processing"]):
        selected = xyxy_to_cxcywh(select_as_the_peer(case))
        worst = np.abs(selected - case["expected"]["selected_box_cxcywh"]).max()
        if worst > SELECTED_BOX_TOLERANCE_PX:
            failures.append(f"{path.name} post-processing {number}: differs by {worst:.2e} px")
    for number, case in enumerate(oracle["fovea_assignment"]):
        # The peer's cells sit at 8k + 3, ours at 8k + 3.5: pixel i covers [i, i + 1].
        box = torch.tensor([case["gt_xyxy"]], dtype=torch.float64) + 0.5
        fcos = Fcos(FcosConfig(central_fraction=case["sigma1"]))
        found = fcos.label(box, torch.tensor([True]))
        cells = [cell for cell, sign in enumerate(case["expected"]["labels"]) if sign == "+"]
        targets = found.distances[0].flatten(1).T[cells].double()
        expected = torch.tensor(case["expected"]["positive_targets"], dtype=torch.float64)
        if found.central.flatten().nonzero().flatten().tolist() != cells:
            failures.append(f"{path.name} labels {number}: other cells")
        elif (worst := float((targets - expected).abs().max())) > 1e-5:
            failures.append(f"{path.name} labels {number}: targets differ by {worst:.2e}")
    print(
        f"{path.name}: {len(oracle['post_processing'])} selected boxes and "
        f"{len(oracle['fovea_assignment'])} label maps checked, {len(failures)} differ"
    )
    return failures


class ScriptedTracker:
    """Says the box of a list for whatever frame it is asked, wherever it was started."""

    def __init__(self, boxes: np.ndarray) -> None:
        self.boxes = boxes
        self.frame = 0

    def start(self, image: np.ndarray, box: np.ndarray) -> None:
        """Takes no notice."""

    def follow(self, image: np.ndarray) -> Prediction:
        """The box of the frame that ``on_frame`` has come to."""
        return Prediction(box=self.boxes[self.frame], score=1.0, lost=False)

    def on_frame(self, number: int) -> None:
        """So many frames are done."""
        self.frame = number


def codes_of(case: dict[str, Any], folder: Path) -> str:
    """What happens on each frame of a scripted run: 1 started, T tracked, 2 failed, 0 skipped."""
    width, height = case["image_size"]
    image = folder / f"{width}x{height}.png"
    cv2.imwrite(str(image), np.zeros((height, width, 3), dtype=np.uint8))
    polygons = np.array([corners(row) for row in case["gt"]])
    track = Track(
        dataset="vot",
        video=case["name"],
        image_files=(image,) * len(polygons),
        boxes=np.concatenate([polygons.min(axis=1), polygons.max(axis=1)], axis=1),
        visible=np.ones(len(polygons), dtype=bool),
        frame_numbers=np.arange(len(polygons)),
        polygons=polygons,
    )
    scripted = [row if row and len(row) == 4 else [0.0] * 4 for row in case["scripted_predictions"]]
    tracker = ScriptedTracker(xywh_to_xyxy(np.array(scripted, dtype=np.float64)))
    trajectory = supervised(tracker, track, on_frame=tracker.on_frame)
    assert trajectory.codes is not None
    return "".join("T" if code == TRACKED else str(code) for code in trajectory.codes)


def check_reset_protocol(path: Path, oracle: dict[str, Any]) -> list[str]:
    """When a tracker fails and is started again, as three toolkits do it."""
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        for case in oracle["cases"]:
            ours = codes_of(case, Path(folder))
            expected = case["expected_codes"]["pysot_hp_search_run_tracker"]
            if ours != "".join(map(str, expected)):
                failures.append(f"{path.name} {case['name']}: {ours} is not {expected}")
    print(f"{path.name}: {len(oracle['cases'])} runs checked, {len(failures)} differ")
    return failures
