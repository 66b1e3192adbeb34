"""From trajectories to the score of a tracker on a benchmark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data_pipeline.tracks import Track
from eval_jobs.benchmarks import Benchmark, Selection, sequence_name
from eval_jobs.metrics import Curves
from eval_jobs.protocols import Trajectory, mean_fps

Runs = Trajectory | Sequence[Trajectory]
"""A tracker's only run over a sequence, or all of its repetitions."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceScore:
    """How a tracker did on one sequence."""

    sequence: str
    """``video`` or ``video.target``."""

    num_frames: int
    """Length of the sequence."""

    measured: Any
    """What the benchmark's `Scoring` measures, e.g. `Curves`."""

    values: dict[str, float]
    """Those of the benchmark's metrics that a single sequence has, by name."""

    fps: float
    """Frames per second, the first frame and reading images excluded."""

    num_lost: int
    """Frames on which the tracker said that it had lost the target, over all repetitions."""

    @property
    def curves(self) -> Curves:
        """The success and precision curves.

        Raises:
            ValueError: the benchmark measures something else.
        """
        return _curves(self.measured)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrackerScore:
    """How a tracker did on a benchmark."""

    tracker: str
    """The tracker's name."""

    fingerprint: str
    """Tells apart trackers of one name."""

    selection: Selection
    """What it was run on."""

    measured: Any
    """What the benchmark's `Scoring` measures over all sequences, e.g. their mean `Curves`."""

    values: dict[str, float]
    """The benchmark's metrics, by name; empty where a server has the ground truth."""

    fps: float
    """All frames over all seconds, the first frames and reading images excluded."""

    sequences: tuple[SequenceScore, ...]
    """The single sequences, in the benchmark's order."""

    setting: str = ""
    """What the benchmark's row changed of the tracker's constants."""

    @property
    def label(self) -> str:
        """Stands beside each number: the protocol, and how much of the benchmark was run."""
        parts = (self.selection.benchmark.protocol, self.setting, self.selection.coverage)
        return ", ".join(filter(None, parts))

    @property
    def has_curves(self) -> bool:
        """Whether the benchmark measures success and precision curves."""
        return isinstance(self.measured, Curves)

    @property
    def curves(self) -> Curves:
        """The success and precision curves, averaged over sequences.

        Raises:
            ValueError: the benchmark measures something else.
        """
        return _curves(self.measured)


def score_sequence(benchmark: Benchmark, track: Track, runs: Runs) -> SequenceScore:
    """The score of one sequence from its run, or from all its repetitions.

    Raises:
        ValueError: there is no run, or one is not as long as the sequence.
    """
    trajectories = _repetitions(runs)
    lengths = sorted({len(trajectory) for trajectory in trajectories})
    if lengths != [len(track)]:
        raise ValueError(f"{track.name}: runs of {len(track)} frames expected, got {lengths}")
    measured = benchmark.scoring.measure(trajectories, track)
    return SequenceScore(
        sequence=sequence_name(track),
        num_frames=len(track),
        measured=measured,
        values={m.name: m.read(measured) for m in benchmark.metrics if m.per_sequence},
        fps=mean_fps(trajectories),
        num_lost=sum(int(trajectory.lost.sum()) for trajectory in trajectories),
    )


def score_tracker(
    tracker: str,
    fingerprint: str,
    selection: Selection,
    runs: Sequence[Runs],
    *,
    setting: str = "",
) -> TrackerScore:
    """The score over a selection, from the runs over each of its sequences, in its order.

    Raises:
        ValueError: another number of runs than sequences, or of frames.
    """
    benchmark = selection.benchmark
    sequences = tuple(
        score_sequence(benchmark, track, each)
        for track, each in zip(selection.tracks, runs, strict=True)
    )
    measured = benchmark.scoring.pool([each.measured for each in sequences])
    return TrackerScore(
        tracker=tracker,
        fingerprint=fingerprint,
        selection=selection,
        measured=measured,
        values={metric.name: metric.read(measured) for metric in benchmark.metrics},
        fps=mean_fps([trajectory for each in runs for trajectory in _repetitions(each)]),
        sequences=sequences,
        setting=setting,
    )


def worst_first(score: TrackerScore) -> list[SequenceScore]:
    """A tracker's sequences by the first metric that a sequence has; as they are if none has.

    Those of which it could not be measured come before all others.
    """
    metric = next((each for each in score.selection.benchmark.metrics if each.per_sequence), None)
    if metric is None:
        return list(score.sequences)
    name, sign = metric.name, 1.0 if metric.higher_is_better else -1.0

    def goodness(each: SequenceScore) -> float:
        value = each.values[name]
        return sign * value if math.isfinite(value) else -math.inf

    return sorted(score.sequences, key=goodness)


def _repetitions(runs: Runs) -> Sequence[Trajectory]:
    return [runs] if isinstance(runs, Trajectory) else runs


def _curves(measured: object) -> Curves:
    if not isinstance(measured, Curves):
        raise ValueError(
            f"success and precision curves expected, the benchmark has {type(measured).__name__}"
        )
    return measured
