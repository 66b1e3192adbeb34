"""Trajectories on disk: one JSON file per tracker and sequence, complete and checked or not used.

A file is named by its tracker's fingerprint, the dataset, the sequence and its annotation, so
benchmarks that share sequences (OTB-50 and OTB-100) share results, two videos of one name never do,
and a run that was killed continues where it was. Repetitions with resets lie in a folder of their
own, one file each.
"""

import hashlib
import json
import os
import re
import reprlib
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.clear_errors import shortened
from data_pipeline.tracks import Track
from eval_jobs.protocols import Trajectory

SCHEMA = "tracking-maml-trajectory/1"
RESETS_SCHEMA = "tracking-maml-trajectory-with-resets/1"


class ResultError(ValueError):
    """A result file is damaged or belongs to something else; the message names the sequence."""


@dataclass(frozen=True, kw_only=True)
class ResultStore:
    """Where the trajectories of one tracker on one dataset lie."""

    folder: Path
    """The output folder of all trackers."""

    tracker: str
    """The tracker's name."""

    fingerprint: str
    """Changes whenever the tracker's checkpoint or constants do."""

    max_frames: int | None = None
    """Runs cut short are kept apart from whole ones."""

    repetition: int | None = None
    """Which run with resets, from 0; None for a run in one pass."""

    setup: str = ""
    """What speed depends on: device, threads, and who shares them. Boxes that were found in another
    one count, times do not; in none, neither is known to differ."""

    def path(self, track: Track) -> Path:
        """The file of a sequence."""
        limit = "" if self.max_frames is None else f"-first{self.max_frames}"
        dataset, sequence = map(file_name, track.name.split("/", maxsplit=1))
        name = f"{sequence}-{annotation_digest(track)[:8]}"
        if self.repetition is not None:
            dataset, name = f"{dataset}-resets", f"{name}-{self.repetition + 1:03d}"
        return self._tracker_folder / f"{dataset}{limit}" / f"{name}.json"

    def archive_path(self, benchmark: str) -> Path:
        """Where the archive for a benchmark's server goes."""
        return self._tracker_folder / f"{benchmark}.zip"

    @property
    def _tracker_folder(self) -> Path:
        return self.folder / f"{file_name(self.tracker)}-{self.fingerprint[:12]}"

    def write(self, track: Track, trajectory: Trajectory) -> Path:
        """Puts a trajectory in its place, in one step: no reader ever sees half of it.

        Raises:
            ResultError: it is not one of this sequence.
            OSError: the disk is full or not writable; what was there before stays.
        """
        if len(trajectory) != len(track):
            raise ResultError(
                f"{track.name}: {len(track)} frames expected, the trajectory has {len(trajectory)}"
            )
        if (trajectory.codes is None) != (self.repetition is None):
            raise ResultError(
                f"{track.name}: a repetition with resets and a run in one pass have files of their "
                f"own, but this store is for repetition {self.repetition}"
            )
        content = self._identity(track) | {
            "boxes": trajectory.boxes.tolist(),
            "scores": trajectory.scores.tolist(),
            "lost": trajectory.lost.tolist(),
            "seconds": trajectory.seconds.tolist(),
            "setup": self.setup,
        }
        if trajectory.codes is not None:
            content["codes"] = trajectory.codes.tolist()
        if trajectory.updated is not None:
            content["updated"] = trajectory.updated.tolist()
        path = self.path(track)
        write_atomically(path, json.dumps(content | {"sha256": _digest(content)}))
        return path

    def read(self, track: Track) -> Trajectory | None:
        """The trajectory of a sequence; None where there is no file.

        Raises:
            ResultError: the file is damaged, of another tracker, of another sequence or of another
                length. It is never repaired: delete it to track the sequence again.
        """
        path = self.path(track)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise ResultError(_complaint(track, path, f"it cannot be read ({error})")) from error
        try:
            content = json.loads(text)
            claimed = content.pop("sha256")
            digest = _digest(content)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise ResultError(
                _complaint(track, path, f"it is not a whole result file ({shortened(error, 80)})")
            ) from error
        if claimed != digest:
            raise ResultError(_complaint(track, path, "its content does not match its checksum"))
        for key, value in self._identity(track).items():
            if content.get(key) != value:
                raise ResultError(
                    _complaint(
                        track, path, f"its {key} is {reprlib.repr(content.get(key))}, not {value!r}"
                    )
                )
        trajectory = _trajectory(content, track, path)
        if self.setup and content.get("setup") != self.setup:
            unknown = np.full_like(trajectory.seconds, np.nan)
            trajectory = replace(trajectory, seconds=unknown)
        return trajectory

    def read_existing(self, track: Track) -> Trajectory:
        """The trajectory of a sequence that was tracked.

        Raises:
            ResultError: as `read`, and where there is no file.
        """
        trajectory = self.read(track)
        if trajectory is None:
            raise ResultError(
                f"{track.name}: {self.path(track)} is gone; track the sequence again."
            )
        return trajectory

    def _identity(self, track: Track) -> dict[str, Any]:
        """What a file says that it is of."""
        repetition = {} if self.repetition is None else {"repetition": self.repetition}
        return repetition | {
            "schema": SCHEMA if self.repetition is None else RESETS_SCHEMA,
            "tracker": self.tracker,
            "fingerprint": self.fingerprint,
            "sequence": track.name,
            "frames": len(track),
            "annotation_sha256": annotation_digest(track),
        }


def find_store(folder: Path, max_frames: int | None = None) -> ResultStore:
    """The store whose files lie in one tracker's folder, such as ``results/NAME-FINGERPRINT``.

    Args:
        folder: as `ResultStore` names it, in the output folder of all trackers.
        max_frames: of runs cut short.

    Raises:
        ResultError: it is not such a folder.
    """
    for path in sorted(folder.glob("*/*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            tracker, fingerprint = content["tracker"], content["fingerprint"]
        except (ValueError, KeyError, TypeError) as error:
            raise ResultError(f"{path}: a result file expected, it is not one ({error})") from error
        store = ResultStore(
            folder=folder.absolute().parent,
            tracker=tracker,
            fingerprint=fingerprint,
            max_frames=max_frames,
        )
        if store._tracker_folder != folder.absolute():
            raise ResultError(
                f"{folder}: the results of {tracker} expected under the name "
                f"{store._tracker_folder.name}; was the folder renamed?"
            )
        return store
    raise ResultError(
        f"{folder}: one tracker's results (DATASET/SEQUENCE.json) expected, there are none. Give "
        "a folder that run_benchmarks.py wrote in its output folder"
    )


def annotation_digest(track: Track) -> str:
    """Digest of a sequence's image names and boxes: tells apart two sequences of one name."""
    digest = hashlib.sha256(json.dumps(track.frame_names).encode())
    digest.update(np.ascontiguousarray(track.boxes, dtype="<f8").tobytes())
    if track.polygons is not None:
        digest.update(np.ascontiguousarray(track.polygons, dtype="<f8").tobytes())
    return digest.hexdigest()


def file_name(name: str) -> str:
    """A name as a safe file name: letters, digits, ``. _ -``; others become ``_``.

    >>> file_name("FCOS-MAML, after 5 steps")
    'FCOS-MAML__after_5_steps'
    """
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "_"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file so that it is there whole or not at all.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _trajectory(content: dict[str, Any], track: Track, path: Path) -> Trajectory:
    """The arrays of a file whose identity is right."""
    try:
        trajectory = Trajectory(
            boxes=np.array(content["boxes"], dtype=np.float64).reshape(-1, 4),
            scores=np.array(content["scores"], dtype=np.float64),
            lost=np.array(content["lost"], dtype=bool),
            seconds=np.array(content["seconds"], dtype=np.float64),
            codes=np.array(content["codes"], dtype=np.int64) if "repetition" in content else None,
            updated=np.array(content["updated"], dtype=bool) if "updated" in content else None,
        )
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise ResultError(
            _complaint(track, path, f"its arrays are wrong ({shortened(error, 80)})")
        ) from error
    if len(trajectory) != len(track):
        raise ResultError(
            _complaint(track, path, f"it has {len(trajectory)} frames, not {len(track)}")
        )
    return trajectory


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _complaint(track: Track, path: Path, what: str) -> str:
    return f"{track.name}: {path} cannot be used: {what}. Delete it to track the sequence again."
