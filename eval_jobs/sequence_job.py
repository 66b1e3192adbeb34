"""What one task of an evaluation does: one tracker over one sequence, once."""

from dataclasses import dataclass, replace

import cv2
import torch

from data_pipeline.tracks import Track
from eval_jobs.benchmarks import Benchmark
from eval_jobs.protocols import ResetConfig, Trajectory, one_pass, supervised
from eval_jobs.results import ResultStore, file_name
from eval_jobs.scores import score_sequence
from eval_jobs.tracker_specs import TrackerSpec


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceJob:
    """What one task does: run one tracker over one sequence and keep the result.

    Where a benchmark repeats its runs, a job is one repetition, which its store names.
    """

    spec: TrackerSpec
    """Builds the tracker."""

    store: ResultStore
    """Takes the trajectory."""

    benchmarks: tuple[Benchmark, ...]
    """Score it: those that share the sequence, and so the run over it (OTB-50 and OTB-100)."""

    track: Track
    """The sequence."""

    num_threads: int
    """Threads of PyTorch and OpenCV in the task."""

    @property
    def title(self) -> str:
        """How messages call it."""
        title = f"{self.spec.name} on {self.track.name}"
        if self.store.repetition is None:
            return title
        return f"{title}, repetition {self.store.repetition + 1}"

    @property
    def resets(self) -> ResetConfig | None:
        """The supervised protocol; None for one pass."""
        return self.benchmarks[0].resets

    @property
    def step(self) -> int:
        """Under which step its score is logged: repetitions are the points of one metric."""
        return self.store.repetition or 0

    def repeated(self, repetition: int) -> "SequenceJob":
        """The job of one repetition."""
        return replace(self, store=replace(self.store, repetition=repetition))


def run_job(job: SequenceJob) -> Trajectory:
    """Tracks one sequence and keeps the trajectory."""
    return track_sequence(job.spec, job.store, job.track, job.resets, job.num_threads)


def track_sequence(
    spec: TrackerSpec,
    store: ResultStore,
    track: Track,
    resets: ResetConfig | None,
    num_threads: int,
) -> Trajectory:
    """A job's work, of arguments that any process can be sent; benchmarks hold functions."""
    torch.set_num_threads(num_threads)
    cv2.setNumThreads(num_threads)
    tracker = spec.build()
    if resets is None:
        trajectory = one_pass(tracker, track)
    else:
        trajectory = supervised(tracker, track, resets)
    store.write(track, trajectory)
    return trajectory


def sequence_metrics(job: SequenceJob, trajectory: Trajectory) -> dict[str, float]:
    """A sequence's scores under the names that they have in MLflow."""
    limit = "" if job.store.max_frames is None else f"-first{job.store.max_frames}"
    metrics: dict[str, float] = {}
    for benchmark in job.benchmarks:
        score = score_sequence(benchmark, job.track, trajectory)
        names = f"{file_name(job.spec.name)}/{file_name(score.sequence)}"
        prefix = f"{benchmark.name}{limit}_sequences/{names}"
        metrics |= {f"{prefix}/{name}": value for name, value in score.values.items()}
    return metrics
