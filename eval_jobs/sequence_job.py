"""What one Ray task of an evaluation does: one tracker over one sequence, once."""

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import torch

from data_pipeline.tracks import Track
from eval_jobs.benchmarks import Benchmark
from eval_jobs.protocols import ResetConfig, Trajectory, one_pass, supervised
from eval_jobs.results import ResultStore, file_name
from eval_jobs.scores import score_sequence
from eval_jobs.tracker_specs import TrackerSpec
from meta_train.run_log import RunLog
from meta_train.run_relay import RelayedLog, RunRoute, attach


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceJob:
    """What one task does: run one tracker over one sequence, keep the result, log its score.

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

    run: RunRoute | None
    """Where the score is logged."""

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


def run_job(job: SequenceJob) -> None:
    """Tracks one sequence, keeps the trajectory and logs its score."""
    torch.set_num_threads(job.num_threads)
    cv2.setNumThreads(job.num_threads)
    tracker, resets = job.spec.build(), job.resets
    if resets is None:
        trajectory = one_pass(tracker, job.track)
    else:
        trajectory = supervised(tracker, job.track, resets)
    job.store.write(job.track, trajectory)
    if job.run is not None:
        _attached(job.run).log_metrics(sequence_metrics(job, trajectory), step=job.step)


def sequence_metrics(job: SequenceJob, trajectory: Trajectory) -> dict[str, float]:
    """A sequence's scores under the names that they have in MLflow."""
    limit = "" if job.store.max_frames is None else f"-first{job.store.max_frames}"
    metrics: dict[str, float] = {}
    for benchmark in job.benchmarks:
        score = score_sequence(benchmark, job.track, trajectory)
        prefix = f"{benchmark.name}{limit}_sequences/{file_name(job.spec.name)}/{score.sequence}"
        metrics |= {f"{prefix}/{name}": value for name, value in score.values.items()}
    return metrics


@lru_cache(maxsize=1)
def _attached(route: RunRoute) -> RunLog | RelayedLog:
    """The run, opened once per worker process."""
    return attach(route)
