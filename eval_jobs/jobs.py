"""Benchmark evaluation as Ray tasks: one per tracker and sequence, the longest first."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import ray
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data_pipeline.ray_session import ray_session
from data_pipeline.tracks import Track
from eval_jobs.benchmarks import Benchmark, IncompleteResultsError, select
from eval_jobs.protocols import Trajectory, one_pass
from eval_jobs.results import ResultStore, file_name
from eval_jobs.scores import TrackerScore, score_sequence, score_tracker
from eval_jobs.tracker_specs import TrackerSpec
from meta_train.run_log import RunHandle, RunLog

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceJob:
    """What one task does: run one tracker over one sequence, keep the result, log its score."""

    spec: TrackerSpec
    """Builds the tracker."""

    store: ResultStore
    """Takes the trajectory."""

    benchmark: Benchmark
    """Scores it."""

    track: Track
    """The sequence."""

    run: RunHandle | None
    """Where the score is logged."""

    num_threads: int
    """Threads of PyTorch and OpenCV in the task."""

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"{self.spec.name} on {self.track.name}"


def evaluate(
    specs: Sequence[TrackerSpec],
    benchmark: Benchmark,
    folder: Path,
    output: Path,
    *,
    run_log: RunLog | None = None,
    partial: bool = False,
    max_sequences: int | None = None,
    max_frames: int | None = None,
    num_cpus_per_task: int = 1,
    num_gpus_per_task: float = 0.0,
    max_retries: int = 2,
) -> list[TrackerScore]:
    """Runs trackers over a benchmark on Ray and scores them; results that exist are not run again.

    Uses the Ray that the process is connected to, or starts a local one for as long as it takes.

    Args:
        specs: the trackers; names must differ.
        benchmark: a row of `BENCHMARKS`.
        folder: the benchmark's sequences.
        output: takes the result files; on a cluster, one that every node sees.
        run_log: the run to which each task logs its sequence's score.
        partial: accept missing sequences; the score says so.
        max_sequences: run the first so many sequences only.
        max_frames: run the first so many frames of each only.
        num_cpus_per_task: also the number of threads of PyTorch and OpenCV in a task.
        num_gpus_per_task: may be a fraction.
        max_retries: how often a task is run again whose worker died.

    Returns:
        One score per spec, in their order.

    Raises:
        IncompleteResultsError: sequences are missing, or tasks failed: it names each.
        ResultError: an existing result file is damaged.
        DatasetError: the folder is not what its layout promises.
    """
    names = [spec.name for spec in specs]
    if len(set(map(file_name, names))) != len(names):
        raise ValueError(f"trackers need different names, got {', '.join(names)}")
    selection = select(
        benchmark,
        folder.absolute(),
        partial=partial,
        max_sequences=max_sequences,
        max_frames=max_frames,
    )
    stores = [
        ResultStore(
            folder=output.absolute(),
            tracker=spec.name,
            fingerprint=spec.fingerprint,
            max_frames=max_frames,
        )
        for spec in specs
    ]
    jobs = [
        SequenceJob(
            spec=spec,
            store=store,
            benchmark=benchmark,
            track=track,
            run=None if run_log is None else run_log.handle,
            num_threads=num_cpus_per_task,
        )
        for spec, store in zip(specs, stores, strict=True)
        for track in selection.tracks
    ]
    _run_missing(jobs, run_log, num_cpus_per_task, num_gpus_per_task, max_retries)
    scores = []
    for spec, store in zip(specs, stores, strict=True):
        trajectories = [store.read_existing(track) for track in selection.tracks]
        score = score_tracker(spec.name, store.fingerprint, selection, trajectories)
        log.info("%s on %s: %s (%s)", spec.name, benchmark.title, score.values, score.label)
        scores.append(score)
    return scores


def run_job(job: SequenceJob) -> None:
    """Tracks one sequence, keeps the trajectory and logs its score."""
    torch.set_num_threads(job.num_threads)
    cv2.setNumThreads(job.num_threads)
    trajectory = one_pass(job.spec.build(), job.track)
    job.store.write(job.track, trajectory)
    if job.run is not None:
        _attached(job.run).log_metrics(_sequence_metrics(job, trajectory), step=0)


def _sequence_metrics(job: SequenceJob, trajectory: Trajectory) -> dict[str, float]:
    """A sequence's score under the names that it has in MLflow."""
    score = score_sequence(job.benchmark, job.track, trajectory)
    limit = "" if job.store.max_frames is None else f"-first{job.store.max_frames}"
    prefix = f"{job.benchmark.name}{limit}_sequences/{file_name(job.spec.name)}/{score.sequence}"
    return {f"{prefix}/{name}": value for name, value in score.values.items()}


@lru_cache(maxsize=1)
def _attached(handle: RunHandle) -> RunLog:
    """The run, opened once per worker process."""
    return RunLog.attach(handle)


def _run_missing(
    jobs: Sequence[SequenceJob],
    run_log: RunLog | None,
    num_cpus: int,
    num_gpus: float,
    max_retries: int,
) -> None:
    """Runs the jobs without a result and logs the scores of the others.

    Raises:
        IncompleteResultsError: tasks failed; names each, after all others are done.
    """
    missing, existing = [], {}
    for job in jobs:
        trajectory = job.store.read(job.track)
        if trajectory is None:
            missing.append(job)
        else:
            existing.update(_sequence_metrics(job, trajectory))
    if existing and run_log is not None:
        run_log.log_metrics(existing, step=0)
    log.info(
        "%d results exist, %d sequences are to be tracked", len(jobs) - len(missing), len(missing)
    )
    if not missing:
        return
    missing.sort(key=lambda job: len(job.track), reverse=True)
    with _ray():
        task = ray.remote(
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            max_retries=max_retries,
            # Over all nodes, also when called by a trial of Ray Tune, whose own placement group
            # would otherwise have to hold the tasks, and has no CPU.
            scheduling_strategy="SPREAD",
        )(run_job)
        failures = _gather({task.remote(job): job for job in missing})
    if failures:
        raise IncompleteResultsError(
            f"{len(failures)} of {len(jobs)} runs failed; the others are kept, and the same "
            "command goes on from there:\n" + "\n".join(failures)
        )


def _gather(running: dict[ray.ObjectRef, SequenceJob]) -> list[str]:
    """Waits for all tasks under a progress bar, and says which failed and why."""
    failures = []
    columns = (
        TextColumn("tracking {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=sum(len(job.track) for job in running.values()))
        while running:
            done, _ = ray.wait(list(running))
            for reference in done:
                job = running.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:
                    cause = getattr(error, "cause", None) or error
                    failures.append(f"- {job.title}: {type(cause).__name__}: {cause}")
                    log.error("%s failed: %s", job.title, cause)
                progress.update(bar, advance=len(job.track), description=job.title)
    return failures


@contextmanager
def _ray() -> Iterator[None]:
    """A Ray to run on: the connected one, or a local one for the time being."""
    if ray.is_initialized():
        yield
    else:
        with ray_session("local"):
            yield
