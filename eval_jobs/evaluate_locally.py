"""Evaluates checkpoints in processes of this one machine, without Ray and MLflow.

    python eval_jobs/evaluate_locally.py --checkpoints MAML=runs/local/best --folder OTB \\
        --partial --shards SHARDS --device cuda --num-processes 8

It leaves files of results in the output folder. The same --checkpoints, --output and settings to
run_benchmarks.py and pair_tasks.py, where Ray and MLflow are, find them, score them and log them.
Results that are there are not computed again.
"""

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial as with_arguments
from pathlib import Path

import torch
import tyro

from data_pipeline.clear_errors import clear_errors
from data_pipeline.pair_tasks import PairTasksConfig
from eval_jobs.benchmarks import find_benchmark
from eval_jobs.constant_rates import CONSTANT_RATES
from eval_jobs.pair_contest import TUNING, Contest, Entry, Part, load_entries
from eval_jobs.pair_results import PairResults
from eval_jobs.pair_scores import PairScore, score_rows
from eval_jobs.row_tables import table_rows, text_table
from eval_jobs.sequence_job import SequenceJob, track_sequence
from eval_jobs.tracker_config import TrackerConfig
from eval_jobs.tracker_specs import Phase, checkpoint_specs
from eval_jobs.work import Work, failed_runs, first_runs, further_runs, once_each, plan_work
from meta_train.state_file import require_device

logger = logging.getLogger(__name__)

Task = Callable[[], object]
"""Work for one process, which keeps its own result."""


@clear_errors(ValueError)
def main(
    checkpoints: tuple[str, ...],
    folder: Path | None = None,
    benchmark: str = "otb100",
    phases: tuple[Phase, ...] = ("after", "before", "online"),
    tracker: TrackerConfig = TrackerConfig(),  # noqa: B008
    partial: bool = False,
    max_frames: int | None = None,
    shards: str | None = None,
    num_steps: int = 5,
    constant_rates: tuple[float, ...] = CONSTANT_RATES,
    tasks: PairTasksConfig = PairTasksConfig(),  # noqa: B008
    output: Path = Path("results"),
    device: str = "cpu",
    num_processes: int = 1,
) -> None:
    """Evaluates checkpoints on a benchmark, on held-out pair tasks, or on both.

    Args:
        checkpoints: folders of checkpoints; FOLDER, or NAME=FOLDER to choose the name in tables.
        folder: the benchmark's sequences; no benchmark where not given.
        benchmark: row of BENCHMARKS.
        phases: how far each checkpoint's trackers adapt.
        tracker: constants of Algorithm 1.
        partial: accept that sequences of the benchmark are missing.
        max_frames: run the first so many frames of each sequence only.
        shards: folder of the crops whose held-out videos give pair tasks; none where not given.
        num_steps: inner steps on a pair task.
        constant_rates: to choose from where a detector has learned none.
        tasks: how many pair tasks, and how they are drawn.
        output: takes the files of results.
        device: cpu or cuda.
        num_processes: each with one thread, all on the same device.
    """
    if folder is None and shards is None:
        raise ValueError("nothing to evaluate: give --folder for a benchmark, or --shards, or both")
    if not checkpoints:
        raise ValueError("--checkpoints: at least one folder expected, got none")
    if num_processes < 1:
        raise ValueError(f"--num-processes must be at least 1, got {num_processes}")
    require_device(device)
    works: list[Work] = []
    if folder is not None:  # before anything runs: a folder may be wrong
        specs = checkpoint_specs(checkpoints, tracker, phases, device=device)
        row = find_benchmark(benchmark)
        (works,) = plan_work(
            specs,
            [(row, folder)],
            output,
            partial=partial,
            max_frames=max_frames,
            num_processes=num_processes,
        )
    with _processes(num_processes) as pool:
        if shards is not None:
            entries = load_entries(checkpoints)
            contest = Contest.draw(shards, tasks, entries, num_steps, constant_rates)
            results = PairResults(folder=output, contest=contest)
            scores = _score_pairs(
                pool, results, dict(zip(checkpoints, entries, strict=True)), device
            )
            print(text_table(score_rows(scores), "Pair tasks"))
            print(contest.text)
        jobs = once_each(job for work in works for job in work.jobs)
        for due in (first_runs, further_runs):
            _run_all(pool, _tracking([run for job in jobs for run in due(job)]))
        if works:
            found = [work.score(work.trajectories()) for work in works]
            print(text_table(table_rows(found), find_benchmark(benchmark).title))
    print(f"results in {output}; run_benchmarks.py and pair_tasks.py report them")


@contextmanager
def _processes(count: int) -> Iterator[Executor]:
    """Processes that end with the block; what is still to be done when it fails, is not."""
    pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _score_pairs(
    pool: Executor, results: PairResults, entries: Mapping[str, Entry], device: str
) -> list[PairScore]:
    """The scores of all entries, given by what names them on the command line."""
    contest = results.contest
    unscored = {text: entry for text, entry in entries.items() if results.read(entry) is None}
    run = with_arguments(measure_pairs, results, device)
    tuning: dict[str, Task] = {
        _title(entry, part): with_arguments(run, text, part)
        for text, entry in unscored.items()
        for part in contest.parts(TUNING)
        if contest.tunes(entry)
    }
    _run_all(pool, tuning)
    reporting: dict[str, Task] = {}
    for text, entry in unscored.items():
        rate = results.choose_constant(entry)
        for part in (part for subset in contest.tasks for part in contest.parts(subset)):
            reporting[_title(entry, part)] = with_arguments(run, text, part, rate)
    _run_all(pool, reporting)
    return [score for entry in entries.values() for score in results.read_or_score(entry)]


def _title(entry: Entry, part: Part) -> str:
    return f"{entry.name}, tasks {part.start + 1} to {part.stop} of {part.subset}"


def measure_pairs(
    results: PairResults, device: str, checkpoint: str, part: Part, rate: float | None = None
) -> None:
    """Measures some of one checkpoint's pair tasks and keeps the values, unless they are there."""
    torch.set_num_threads(1)
    (entry,) = load_entries([checkpoint], device)
    results.measure(entry, part, rate)


def _tracking(jobs: Sequence[SequenceJob]) -> dict[str, Task]:
    """The runs without a result, the longest first."""
    missing = [job for job in jobs if job.store.read(job.track) is None]
    missing.sort(key=lambda job: len(job.track), reverse=True)
    return {
        job.title: with_arguments(
            track_sequence, job.spec, job.store, job.track, job.resets, job.num_threads
        )
        for job in missing
    }


def _run_all(pool: Executor, tasks: dict[str, Task]) -> None:
    """Runs all tasks, and says which are done.

    Raises:
        IncompleteResultsError: tasks failed; names each, after all others are done.
    """
    running = {pool.submit(task): name for name, task in tasks.items()}
    failures = []
    for done, future in enumerate(as_completed(running), start=1):
        try:
            future.result()
        except Exception as cause:
            failures.append((running[future], cause))
            logger.error("%s failed: %s", running[future], cause)
        logger.info("%d of %d ended, last %s", done, len(running), running[future])
    if failures:
        raise failed_runs(failures, len(running))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    tyro.cli(main)
