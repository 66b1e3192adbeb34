"""Trackers as data: what a task needs to build one, and what its results are filed under."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from eval_jobs.opencv_tracker import OpenCvTracker, StaticTracker
from eval_jobs.result_files import named_folder
from eval_jobs.tracker import OnlineTracker, Tracker
from eval_jobs.tracker_config import TrackerConfig
from meta_train.checkpoint import content_digest

TRACKER_VERSION = 2
"""Rises whenever the same checkpoint and constants would give other boxes."""

UPDATES_VERSION = 2
"""Alike, of trackers whose online updates change a part (`TrackerConfig.update_adapts`)."""


@dataclass(frozen=True, kw_only=True)
class OnlineSpec:
    """Algorithm 1 over a checkpoint."""

    name: str
    """How tables and plots call it."""

    checkpoint: Path
    """Folder of the checkpoint; on a cluster, one that every node sees."""

    config: TrackerConfig = TrackerConfig()
    """The algorithm's constants."""

    device: str = "cpu"
    """Where it runs; results are the same up to rounding."""

    @property
    def fingerprint(self) -> str:
        """Changes with the checkpoint's content and with each constant.

        Raises:
            CheckpointError: there is no checkpoint in the folder.
        """
        content: dict[str, Any] = {
            "checkpoint": content_digest(self.checkpoint),
            "config": asdict(self.config),
        }
        if self.config.update_interval_frames is not None and self.config.update_adapts is not None:
            content["updates"] = UPDATES_VERSION
        return _digest(content)

    def build(self) -> Tracker:
        """The tracker."""
        return OnlineTracker.load(self.checkpoint, self.config, device=self.device)


@dataclass(frozen=True, kw_only=True)
class StaticSpec:
    """A box that never moves."""

    name: str = "Static box"
    """How tables and plots call it."""

    @property
    def fingerprint(self) -> str:
        """The same for all."""
        return _digest({"static": True})

    def build(self) -> Tracker:
        """The tracker."""
        return StaticTracker()


@dataclass(frozen=True, kw_only=True)
class OpenCvSpec:
    """One of OpenCV's trackers."""

    algorithm: str = "MIL"
    """Which of `opencv_tracker.OPENCV_TRACKERS`."""

    @property
    def name(self) -> str:
        """How tables and plots call it."""
        return f"OpenCV {self.algorithm}"

    @property
    def fingerprint(self) -> str:
        """Changes with the algorithm."""
        return _digest({"opencv": self.algorithm})

    def build(self) -> Tracker:
        """The tracker."""
        return OpenCvTracker(self.algorithm)


TrackerSpec = OnlineSpec | StaticSpec | OpenCvSpec
"""Everything that `jobs.evaluate` can run."""


def device_of(spec: TrackerSpec) -> str:
    """Where a tracker runs."""
    return spec.device if isinstance(spec, OnlineSpec) else "cpu"


Phase = Literal["before", "after", "online"]
"""How far a tracker adapts: not at all, on the first frame, or on and on."""

_PHASE_NAMES: dict[Phase, str] = {
    "before": "before adaptation",
    "after": "after adaptation",
    "online": "online updating",
}


def phase_specs(
    checkpoint: Path,
    config: TrackerConfig,
    phases: Sequence[Phase],
    *,
    name: str | None = None,
    device: str = "cpu",
) -> list[OnlineSpec]:
    """One checkpoint as several trackers that differ in how far they adapt (Tables 1 and 3).

    Args:
        checkpoint: its folder.
        config: of the tracker with online updating.
        phases: which ones, in this order.
        name: what their names begin with; the last two parts of the folder where not given.
        device: where they run.
    """
    configs: dict[Phase, TrackerConfig] = {
        "before": replace(config, first_frame_steps=0, update_interval_frames=None),
        "after": replace(config, update_interval_frames=None),
        "online": config,
    }
    begin = "/".join(checkpoint.parts[-2:]) if name is None else name
    return [
        OnlineSpec(
            name=f"{begin}, {_PHASE_NAMES[phase]}",
            checkpoint=checkpoint,
            config=configs[phase],
            device=device,
        )
        for phase in phases
    ]


def checkpoint_specs(
    checkpoints: Sequence[str],
    config: TrackerConfig,
    phases: Sequence[Phase],
    *,
    device: str = "cpu",
) -> list[TrackerSpec]:
    """The trackers of several checkpoints, each as FOLDER or NAME=FOLDER.

    Raises:
        ValueError: one names no folder, or there is no phase.
    """
    if checkpoints and not phases:
        raise ValueError(f"--phases: at least one of {', '.join(_PHASE_NAMES)} expected, got none")
    specs: list[TrackerSpec] = []
    for text in checkpoints:
        name, folder = named_folder(text, needs_name=False)
        specs += phase_specs(folder.absolute(), config, phases, name=name or None, device=device)
    return specs


def _digest(content: dict[str, Any]) -> str:
    versioned = {"version": TRACKER_VERSION} | content
    return hashlib.sha256(json.dumps(versioned, sort_keys=True).encode()).hexdigest()[:16]
