"""From trajectories to the score of a tracker on a benchmark."""

from collections.abc import Sequence
from dataclasses import dataclass

from data_pipeline.tracks import Track
from eval_jobs.benchmarks import Benchmark, Selection, sequence_name
from eval_jobs.metrics import Curves, mean_curves
from eval_jobs.protocols import Trajectory


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceScore:
    """How a tracker did on one sequence."""

    sequence: str
    """``video`` or ``video.target``."""

    num_frames: int
    """Length of the sequence."""

    curves: Curves
    """What was measured."""

    values: dict[str, float]
    """The benchmark's metrics, by name."""

    fps: float
    """Frames per second, the first frame and reading images excluded."""

    num_lost: int
    """Frames on which the tracker said that it had lost the target."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrackerScore:
    """How a tracker did on a benchmark."""

    tracker: str
    """The tracker's name."""

    fingerprint: str
    """Tells apart trackers of one name."""

    selection: Selection
    """What it was run on."""

    curves: Curves
    """Averages over sequences."""

    values: dict[str, float]
    """The benchmark's metrics, by name, read from the averaged curves."""

    fps: float
    """All frames over all seconds, the first frames and reading images excluded."""

    sequences: tuple[SequenceScore, ...]
    """The single sequences, in the benchmark's order."""

    @property
    def label(self) -> str:
        """Stands beside each number: the protocol, and how much of the benchmark was run."""
        return f"{self.selection.benchmark.protocol}, {self.selection.coverage}"


def score_sequence(benchmark: Benchmark, track: Track, trajectory: Trajectory) -> SequenceScore:
    """The score of one trajectory.

    Raises:
        ValueError: the trajectory is not as long as the sequence.
    """
    curves = benchmark.score(trajectory.boxes, track)
    return SequenceScore(
        sequence=sequence_name(track),
        num_frames=len(track),
        curves=curves,
        values={metric.name: metric.read(curves) for metric in benchmark.metrics},
        fps=trajectory.fps,
        num_lost=int(trajectory.lost.sum()),
    )


def score_tracker(
    tracker: str, fingerprint: str, selection: Selection, trajectories: Sequence[Trajectory]
) -> TrackerScore:
    """The score over a selection, from one trajectory per sequence in its order.

    Raises:
        ValueError: another number of trajectories than sequences, or of frames.
    """
    benchmark = selection.benchmark
    sequences = tuple(
        score_sequence(benchmark, track, trajectory)
        for track, trajectory in zip(selection.tracks, trajectories, strict=True)
    )
    curves = mean_curves([each.curves for each in sequences])
    spent = sum(float(trajectory.seconds[1:].sum()) for trajectory in trajectories)
    num_followed = sum(len(trajectory) - 1 for trajectory in trajectories)
    return TrackerScore(
        tracker=tracker,
        fingerprint=fingerprint,
        selection=selection,
        curves=curves,
        values={metric.name: metric.read(curves) for metric in benchmark.metrics},
        fps=num_followed / spent if spent > 0 else float("nan"),
        sequences=sequences,
    )
