"""Evaluates checkpoints in processes of this one machine, without Ray and MLflow.

    python eval_jobs/evaluate_locally.py --checkpoints MAML=runs/local/best --folder OTB \\
        --partial --shards SHARDS --device cuda --num-processes 8

It leaves files of results in the output folder. The same --checkpoints, --output and settings to
run_benchmarks.py and pair_tasks.py, where Ray and MLflow are, find them, score them and log them.
Results that are there are not computed again.
"""

import logging
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from functools import partial as with_arguments
from pathlib import Path

import torch
import tyro

from data_pipeline.clear_errors import clear_errors
from data_pipeline.pair_tasks import PairTasksConfig
from eval_jobs.benchmarks import IncompleteResultsError, find_benchmark
from eval_jobs.constant_rates import CONSTANT_RATES
from eval_jobs.pair_contest import Contest, load_entries, score_entry
from eval_jobs.pair_results import PairResults
from eval_jobs.pair_scores import score_rows
from eval_jobs.result_files import named_folder
from eval_jobs.row_tables import table_rows, text_table
from eval_jobs.sequence_job import SequenceJob, track_sequence
from eval_jobs.tracker import TrackerConfig
from eval_jobs.tracker_specs import Phase, TrackerSpec, phase_specs
from eval_jobs.work import first_runs, further_runs, once_each, plan_work

logger = logging.getLogger(__name__)

Task = Callable[[], object]
"""Work for one process, which keeps its own result."""


@clear_errors(ValueError)
def main(
    checkpoints: tuple[str, ...],
    folder: Path | None = None,
    benchmark: str = "otb100",
    phases: tuple[Phase, ...] = ("online", "after", "before"),
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
    pool = ProcessPoolExecutor(num_processes, mp_context=multiprocessing.get_context("spawn"))
    with pool:
        if shards is not None:
            contest = Contest.draw(
                shards, tasks, load_entries(checkpoints), num_steps, constant_rates
            )
            run = with_arguments(score_pairs, contest, output, device)
            _run_all(pool, {text: with_arguments(run, text) for text in checkpoints})
        if folder is not None:
            specs: list[TrackerSpec] = []
            for text in checkpoints:
                name, checkpoint = named_folder(text, needs_name=False)
                place = checkpoint.absolute()
                specs += phase_specs(place, tracker, phases, name=name or None, device=device)
            (works,) = plan_work(
                specs,
                [(find_benchmark(benchmark), folder)],
                output,
                partial=partial,
                max_frames=max_frames,
            )
            jobs = once_each(job for work in works for job in work.jobs)
            for due in (first_runs, further_runs):
                _run_all(pool, _tracking([run for job in jobs for run in due(job)]))
            found = [work.score(work.trajectories()) for work in works]
            print(text_table(table_rows(found), find_benchmark(benchmark).title))
    if shards is not None:
        entries = load_entries(checkpoints)
        results = PairResults(folder=output, contest=contest)
        scores = [score for entry in entries for score in results.read(entry) or ()]
        print(text_table(score_rows(scores), "Pair tasks"))
        print(contest.text)
    print(f"results in {output}; run_benchmarks.py and pair_tasks.py report them")


def score_pairs(contest: Contest, output: Path, device: str, checkpoint: str) -> None:
    """Scores one checkpoint on the pair tasks and keeps the scores, unless they are there."""
    torch.set_num_threads(1)
    (entry,) = load_entries([checkpoint], device)
    results = PairResults(folder=output, contest=contest)
    if results.read(entry) is None:
        results.write(entry, score_entry(contest, entry))


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
    for done, future in enumerate(as_completed(running), start=1):
        outcome = "done" if future.exception() is None else "failed"
        logger.info("%d of %d, %s: %s", done, len(running), running[future], outcome)
    causes = {name: cause for future, name in running.items() if (cause := future.exception())}
    if causes:
        lines = [f"- {name}: {type(cause).__name__}: {cause}" for name, cause in causes.items()]
        raise IncompleteResultsError(
            f"{len(causes)} of {len(running)} runs failed; the others are kept, and the same "
            "command goes on from there:\n" + "\n".join(lines)
        )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    tyro.cli(main)
