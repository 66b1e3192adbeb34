"""Archives of results for the servers of TrackingNet and GOT-10k, checked before they are written.

Their ground truth is hidden, and an upload is precious: a few a month. So an archive is complete
and plausible or it is not written.
"""

import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from data_pipeline.boxes import xyxy_to_xywh
from data_pipeline.tracks import Track
from eval_jobs.benchmarks import Selection, Server, sequence_name
from eval_jobs.protocols import Trajectory
from eval_jobs.results import file_name, write_atomically

FIRST_BOX_TOLERANCE_PX = 0.01
"""How far the first box may be from the one that was given, for rounding."""


class ArchiveError(ValueError):
    """Results that a server would refuse or score wrongly; the message lists each fault."""


def write_archive(
    selection: Selection, trajectories: Sequence[Trajectory], tracker: str, path: Path
) -> Path:
    """Writes the archive that the benchmark's server takes, in one step.

    TrackingNet's holds ``<video>.txt``, GOT-10k's ``<tracker>/<sequence>/<sequence>_001.txt`` and
    ``<sequence>_time.txt``; rows are ``x,y,w,h`` in pixels, 0-based.

    Args:
        selection: all sequences of a benchmark that has a server.
        trajectories: one per sequence, in its order.
        tracker: its name; the folder's in GOT-10k's archive.
        path: of the archive.

    Returns:
        The path.

    Raises:
        ArchiveError: sequences are missing or were cut short, or a trajectory has a wrong length,
            a box that is not finite or has no area, or does not start on the given box.
        ValueError: the benchmark has no server.
        OSError: it cannot be written; what was there before stays.
    """
    benchmark = selection.benchmark
    if benchmark.server is None:
        raise ValueError(f"{benchmark.title} is scored here; it has no server to send results to")
    if faults := find_faults(selection, trajectories):
        raise ArchiveError(
            f"{tracker} on {benchmark.title}: no archive is written, the server needs "
            f"{selection.num_expected} whole sequences and would score these wrongly:\n"
            + "\n".join(f"- {fault}" for fault in faults)
        )
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for track, trajectory in zip(selection.tracks, trajectories, strict=True):
            for name, text in _FILES[benchmark.server](track, trajectory, tracker).items():
                archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    write_atomically(path, content.getvalue())
    return path


def find_faults(selection: Selection, trajectories: Sequence[Trajectory]) -> list[str]:
    """What a server would refuse or score wrongly, each with the sequence's name."""
    faults = []
    if selection.is_partial:
        faults.append(f"the results are of {selection.coverage}; run all of them")
    if len(trajectories) != len(selection.tracks):
        faults.append(f"{len(trajectories)} results for {len(selection.tracks)} sequences")
        return faults
    for track, trajectory in zip(selection.tracks, trajectories, strict=True):
        if fault := _fault(track, trajectory):
            faults.append(f"{track.name}: {fault}; delete its result and track it again")
    return faults


def _fault(track: Track, trajectory: Trajectory) -> str | None:
    """What is wrong with one trajectory; None where nothing is."""
    boxes = trajectory.boxes
    if trajectory.codes is not None:
        return "a run in one pass expected, this one has resets"
    if len(boxes) != len(track):
        return f"{len(track)} boxes expected, one per frame, got {len(boxes)}"
    if not (finite := np.isfinite(boxes).all(axis=1)).all():
        return f"four numbers per box expected, frame {_first(~finite)} has {boxes[~finite][0]}"
    if not (positive := (boxes[:, 2:] - boxes[:, :2] >= 1e-3).all(axis=1)).all():
        return f"boxes with an area expected, frame {_first(~positive)} has {boxes[~positive][0]}"
    if not np.abs(boxes[0] - track.boxes[0]).max() <= FIRST_BOX_TOLERANCE_PX:
        return f"the given first box {track.boxes[0]} expected, got {boxes[0]}"
    times = trajectory.seconds
    if not (np.isfinite(times) & (times >= 0)).all():
        return "a time per frame that is not negative expected"
    return None


def _first(wrong: ndarray) -> int:
    """The number, from 1, of the first frame that is wrong."""
    return int(np.flatnonzero(wrong)[0]) + 1


def _trackingnet_files(track: Track, trajectory: Trajectory, tracker: str) -> dict[str, str]:
    return {f"{file_name(sequence_name(track))}.txt": _rows(trajectory.boxes)}


def _got10k_files(track: Track, trajectory: Trajectory, tracker: str) -> dict[str, str]:
    name = file_name(sequence_name(track))
    begin = f"{file_name(tracker)}/{name}/{name}"
    times = "".join(f"{seconds:.8f}\n" for seconds in trajectory.seconds)
    return {f"{begin}_001.txt": _rows(trajectory.boxes), f"{begin}_time.txt": times}


def _rows(boxes: Float[ndarray, "frames 4"]) -> str:
    return "".join(
        ",".join(f"{number:.4f}" for number in row) + "\n" for row in xyxy_to_xywh(boxes)
    )


_FILES: dict[Server, Callable[[Track, Trajectory, str], dict[str, str]]] = {
    "got10k": _got10k_files,
    "trackingnet": _trackingnet_files,
}
"""The files of one sequence in each server's archive, by name."""
