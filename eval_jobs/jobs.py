"""Benchmark evaluation as Ray tasks: one per tracker, sequence and repetition, longest first."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import ray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data_pipeline.ray_session import ray_session
from eval_jobs.archives import write_archive
from eval_jobs.benchmarks import Benchmark, IncompleteResultsError, Selection
from eval_jobs.protocols import Trajectory
from eval_jobs.results import ResultStore
from eval_jobs.scores import TrackerScore
from eval_jobs.sequence_job import SequenceJob, run_job, sequence_metrics
from eval_jobs.tracker_specs import TrackerSpec
from eval_jobs.work import Work, failed_runs, first_runs, further_runs, once_each, plan_work
from meta_train.placement import cluster_nodes, described
from meta_train.run_log import RunLog
from meta_train.run_relay import RelayedLog, RunRoute, attach, route_to
from meta_train.train_config import ScalingConfig

log = logging.getLogger(__name__)


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
    own_settings: bool = False,
) -> list[TrackerScore]:
    """Runs trackers over one benchmark and scores them: `evaluate_all` with one place.

    Returns:
        One score per spec, in their order.
    """
    (scores,) = evaluate_all(
        specs,
        [(benchmark, folder)],
        output,
        run_log=run_log,
        partial=partial,
        max_sequences=max_sequences,
        max_frames=max_frames,
        num_cpus_per_task=num_cpus_per_task,
        num_gpus_per_task=num_gpus_per_task,
        max_retries=max_retries,
        own_settings=own_settings,
    )
    return scores


def evaluate_all(
    specs: Sequence[TrackerSpec],
    places: Sequence[tuple[Benchmark, Path]],
    output: Path,
    *,
    run_log: RunLog | None = None,
    report: Callable[[int, list[TrackerScore]], None] = lambda place, scores: None,
    partial: bool = False,
    max_sequences: int | None = None,
    max_frames: int | None = None,
    num_cpus_per_task: int = 1,
    num_gpus_per_task: float = 0.0,
    max_retries: int = 2,
    own_settings: bool = False,
) -> list[list[TrackerScore]]:
    """Runs trackers over benchmarks on Ray, all at once, and scores them.

    Results that exist are not run again, and benchmarks that share sequences share their runs. Uses
    the Ray that the process is connected to, or starts a local one for as long as it takes.

    Args:
        specs: the trackers; names must differ.
        places: rows of `BENCHMARKS`, each with the folder of its sequences.
        output: takes the result files; on a cluster, one that every node sees.
        run_log: the run to which each task logs its sequence's score.
        report: gets each place, by its number, and its scores; also where runs of other places
            failed.
        partial: accept missing sequences; the score says so.
        max_sequences: run the first so many sequences of each benchmark only.
        max_frames: run the first so many frames of each sequence only.
        num_cpus_per_task: also the number of threads of PyTorch and OpenCV in a task.
        num_gpus_per_task: may be a fraction.
        max_retries: how often a task is run again whose worker died.
        own_settings: keep what the specs say where a benchmark's row asks for other constants.

    Returns:
        For each place, one score per spec, in their order. Where a server has the ground truth, the
        score has no values, and the archive for the server lies in the tracker's folder of
        ``output``.

    Raises:
        IncompleteResultsError: sequences are missing, or tasks failed: it names each.
        ResultError: an existing result file is damaged.
        ArchiveError: a result is not fit for the benchmark's server.
        DatasetError: a folder is not what its layout promises.
    """
    works = plan_work(
        specs,
        places,
        output,
        partial=partial,
        max_sequences=max_sequences,
        max_frames=max_frames,
        num_threads=num_cpus_per_task,
        own_settings=own_settings,
    )
    all_jobs = once_each(job for place in works for work in place for job in work.jobs)
    failure = None
    try:
        for due in (first_runs, further_runs):
            runs = [run for job in all_jobs for run in due(job)]
            _run_missing(runs, run_log, num_cpus_per_task, num_gpus_per_task, max_retries)
    except IncompleteResultsError as error:
        failure = error
    scores = []
    for number, place in enumerate(works):
        if failure is None or all(work.is_complete for work in place):
            scores.append([_score(work) for work in place])
            report(number, scores[-1])
    if failure is not None:
        raise failure
    return scores


def gpus_of(device: str, share: float) -> float:
    """What a task on a device takes of Ray's GPUs: a share, or nothing on the CPU."""
    return share if device.startswith("cuda") else 0.0


def require_place(num_cpus: int, num_gpus: float) -> None:
    """Checks that the connected cluster has, or may add, a node that can run a task.

    Raises:
        ValueError: it has not; Ray would wait for one for ever.
    """
    nodes = cluster_nodes(ScalingConfig(cpus_per_worker=num_cpus, use_gpu=num_gpus > 0))
    if not any(n.get("CPU", 0.0) >= num_cpus and n.get("GPU", 0.0) >= num_gpus for n in nodes):
        raise ValueError(
            f"a task that tracks needs {num_cpus} CPUs and {num_gpus:g} GPUs on one node, and the "
            f"Ray cluster has {described(nodes)}. Ask for fewer, or for device cpu, or add nodes."
        )


def _score(work: Work) -> TrackerScore:
    """The score from the result files, and the archive for the benchmark's server."""
    trajectories = work.trajectories()
    score = work.score(trajectories)
    store, benchmark = work.store, work.selection.benchmark
    log.info("%s on %s: %s (%s)", store.tracker, benchmark.title, score.values, score.label)
    _archive(work.selection, store, [own_runs[0] for own_runs in trajectories])
    return score


def _archive(selection: Selection, store: ResultStore, trajectories: Sequence[Trajectory]) -> None:
    """Writes the archive for the benchmark's server, if it has one and all of it was run."""
    benchmark = selection.benchmark
    if benchmark.server is None:
        return
    if selection.is_partial:
        log.warning("%s: no archive of %s only", benchmark.title, selection.coverage)
        return
    path = store.archive_path(benchmark.name)
    write_archive(selection, trajectories, store.tracker, path)
    log.info("%s: upload %s to its server", benchmark.title, path)


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
    missing = []
    existing: dict[int, dict[str, float]] = defaultdict(dict)
    for job in jobs:
        trajectory = job.store.read(job.track)
        if trajectory is None:
            missing.append(job)
        elif run_log is not None:
            existing[job.step].update(sequence_metrics(job, trajectory))
    if run_log is not None:
        for step, values in existing.items():
            run_log.log_metrics(values, step=step)
    log.info(
        "%d results exist, %d sequences are to be tracked", len(jobs) - len(missing), len(missing)
    )
    if not missing:
        return
    missing.sort(key=lambda job: len(job.track), reverse=True)
    with _ray():
        require_place(num_cpus, num_gpus)
        task = ray.remote(
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            max_retries=max_retries,
            # Over all nodes, also when called by a trial of Ray Tune, whose own placement group
            # would otherwise have to hold the tasks, and has no CPU.
            scheduling_strategy="SPREAD",
        )(run_and_log)
        run = None if run_log is None else route_to(run_log.handle)
        failures = _gather({task.remote(job, run): job for job in missing})
    if failures:
        raise failed_runs([(job.title, cause) for job, cause in failures], len(jobs))


def run_and_log(job: SequenceJob, run: RunRoute | None) -> None:
    """What one Ray task does: track a sequence, keep the trajectory and log its score.

    Args:
        job: what is tracked, and where the trajectory goes.
        run: where the score is logged; None logs nothing.
    """
    trajectory = run_job(job)
    if run is not None:
        _attached(run).log_metrics(sequence_metrics(job, trajectory), step=job.step)


@lru_cache(maxsize=1)
def _attached(route: RunRoute) -> RunLog | RelayedLog:
    """The run, opened once per worker process."""
    return attach(route)


def _gather(running: dict[ray.ObjectRef, SequenceJob]) -> list[tuple[SequenceJob, Exception]]:
    """Waits for all tasks under a progress bar; gives those that failed, each with its cause.

    Where no terminal shows the bar, lines in the log tell how far it is.
    """
    failures = []
    columns = (
        TextColumn("tracking {task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=sum(len(job.track) for job in running.values()))
        num_jobs = len(running)
        while running:
            done, _ = ray.wait(list(running))
            for reference in done:
                job = running.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:
                    cause = getattr(error, "cause", None) or error
                    failures.append((job, cause))
                    log.error("%s failed: %s", job.title, cause)
                progress.update(bar, advance=len(job.track), description=job.title)
                if not progress.console.is_terminal:
                    log.info(
                        "%d of %d runs ended: %s", num_jobs - len(running), num_jobs, job.title
                    )
    return failures


@contextmanager
def _ray() -> Iterator[None]:
    """A Ray to run on: the connected one, or a local one for the time being."""
    if ray.is_initialized():
        yield
    else:
        with ray_session("local"):
            yield
