"""Does Algorithm 1 follow every sequence of a folder, given a detector that is never wrong?

Usage: ``python tests/benchmarks/follow_ground_truth.py FOLDER [FOLDER ...]``, folders in the layout
of OTB, VOT or any other that the project reads. The detector is ground truth behind the interface
of a real one (`perfect_detector.py`); windows, penalties, prior, smoothing, support set and
updating are the tracker's own.

A sequence is followed if on every frame with a box the tracker does not say that it is lost, its
box has the target's centre (moved into the image, as `candidates.confine` does) and overlaps the
target, and on all other frames it says that it is lost. The size only comes after the target's
(line 12), so where a target changes its shape at once the overlap is small for some frames. Prints
a line per sequence; exit code 1 where one is not followed, 2 where there is none.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from perfect_detector import PerfectDetector, PerfectTracker, perfect_detectors

from data_pipeline.boxes import iou
from data_pipeline.readers import LAYOUTS, READERS
from data_pipeline.tracks import Track, read_image

CENTER_TOLERANCE_PX = 0.01
"""The detector's boxes are in single precision."""


class Followed(NamedTuple):
    """What became of each frame after the first; NaN where it has no box."""

    overlaps: ndarray
    """Intersection over union of the tracker's box and the target's."""

    center_errors: ndarray
    """Distance of their centres, pixels."""

    lost: ndarray
    """Whether the tracker said that it had lost the target."""

    @property
    def is_whole(self) -> bool:
        """Whether the target was followed on all of them."""
        seen = np.isfinite(self.overlaps)
        on_target = (self.center_errors[seen] < CENTER_TOLERANCE_PX) & (self.overlaps[seen] > 0)
        return bool(on_target.all() and (self.lost == ~seen).all())


def list_tracks(folder: Path) -> Iterator[Track]:
    """All sequences of a folder, in the first layout that it fits."""
    for name, layout in LAYOUTS.items():
        if splits := layout.find_splits(folder):
            for split in splits:
                yield from READERS[name](folder, split)
            return


def follow(track: Track, detector: PerfectDetector) -> Followed:
    """Runs the tracker over a sequence, telling the detector the truth before each frame."""
    tracker = PerfectTracker(detector)
    tracker.start(read_image(track.image_files[0]), track.boxes[0].astype(np.float64))
    overlaps, errors, lost = [], [], []
    for path, box in zip(track.image_files[1:], track.boxes[1:].astype(np.float64), strict=True):
        image = read_image(path)
        detector.true_box = box
        prediction = tracker.follow(image)
        center = np.clip((box[:2] + box[2:]) / 2, 0, [image.shape[1], image.shape[0]])
        error = np.linalg.norm((prediction.box[:2] + prediction.box[2:]) / 2 - center)
        overlaps.append(float(iou(prediction.box, box)) if np.isfinite(box).all() else np.nan)
        errors.append(error)
        lost.append(prediction.lost)
    return Followed(np.array(overlaps), np.array(errors), np.array(lost))


def describe(track: Track, found: Followed) -> str:
    """A line for people."""
    seen = np.isfinite(found.overlaps)
    text = f"{track.name}: {len(track)} frames, {seen.sum() + 1} with a box"
    if seen.any():
        text += (
            f"; overlap mean {found.overlaps[seen].mean():.3f}, least "
            f"{found.overlaps[seen].min():.3f} (frame {np.nanargmin(found.overlaps) + 2}); centre "
            f"at most {found.center_errors[seen].max():.4f} px off"
        )
    verdict = "followed" if found.is_whole else "NOT FOLLOWED"
    return f"{text}; lost on {found.lost.sum()}: {verdict}"


def main() -> int:
    """Follows everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    verdicts = []
    with perfect_detectors() as detector:
        for folder in parser.parse_args().folders:
            for track in list_tracks(folder):
                found = follow(track, detector)
                verdicts.append(found.is_whole)
                print(describe(track, found), flush=True)
    print(f"{sum(verdicts)} of {len(verdicts)} sequences followed")
    return 2 if not verdicts else int(not all(verdicts))


if __name__ == "__main__":
    sys.exit(main())
