"""Evaluates checkpoints on a benchmark, as Ray tasks, and logs everything to MLflow.

    python eval_jobs/run_benchmarks.py --folder OTB --checkpoints runs/RUN_ID/best

Results lie in the output folder; the same command goes on where it was stopped.
"""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import tyro

from data_pipeline.ray_session import default_address, ray_session
from eval_jobs.benchmarks import find_benchmark
from eval_jobs.jobs import evaluate
from eval_jobs.report import log_scores, sequence_rows, table_rows, text_table
from eval_jobs.tracker import TrackerConfig
from eval_jobs.tracker_specs import OpenCvSpec, Phase, StaticSpec, TrackerSpec, phase_specs
from meta_train.run_log import MlflowConfig, RunLog


def main(
    folder: Path,
    checkpoints: tuple[Path, ...] = (),
    benchmark: str = "otb100",
    phases: tuple[Phase, ...] = ("online", "after", "before"),
    baselines: tuple[Literal["static", "mil"], ...] = (),
    output: Path = Path("results"),
    tracker: TrackerConfig = TrackerConfig(),  # noqa: B008
    device: str = "cpu",
    partial: bool = False,
    max_sequences: int | None = None,
    max_frames: int | None = None,
    num_cpus_per_task: int = 1,
    num_gpus_per_task: float = 0.0,
    address: str | None = None,
    mlflow: MlflowConfig = MlflowConfig(),  # noqa: B008
) -> None:
    """Evaluates checkpoints on a benchmark.

    Args:
        folder: the benchmark's sequences, in its own layout.
        checkpoints: folders of checkpoints.
        benchmark: a row of BENCHMARKS.
        phases: of each checkpoint, a row before adaptation, after the first frame's, or with online
            updating.
        baselines: rows of other trackers.
        output: takes a file per tracker and sequence.
        tracker: constants of Algorithm 1.
        device: cpu or cuda.
        partial: accept that sequences of the benchmark are missing; the score says so.
        max_sequences: run the first so many only.
        max_frames: run the first so many frames of each only.
        num_cpus_per_task: CPUs, and threads, of a task.
        num_gpus_per_task: may be a fraction.
        address: of the Ray cluster; local starts one for this command. RAY_ADDRESS where not given,
            and local where that is not set.
        mlflow: where the run is logged.
    """
    row = find_benchmark(benchmark)
    specs: list[TrackerSpec] = [
        spec
        for checkpoint in checkpoints
        for spec in phase_specs(checkpoint.absolute(), tracker, phases, device=device)
    ]
    specs += [StaticSpec() if name == "static" else OpenCvSpec() for name in baselines]
    if not specs:
        raise SystemExit("nothing to evaluate: give --checkpoints or --baselines")
    run_log = RunLog.start(
        mlflow,
        run_name=f"{row.name} {specs[0].name}",
        params={"benchmark": row.name, "checkpoints": " ".join(map(str, checkpoints))}
        | {f"tracker.{name}": value for name, value in asdict(tracker).items()},
        tags={"kind": "evaluation"},
    )
    status: Literal["FINISHED", "FAILED"] = "FAILED"
    try:
        with ray_session(address or default_address()):
            scores = evaluate(
                specs,
                row,
                folder,
                output,
                run_log=run_log,
                partial=partial,
                max_sequences=max_sequences,
                max_frames=max_frames,
                num_cpus_per_task=num_cpus_per_task,
                num_gpus_per_task=num_gpus_per_task,
            )
        log_scores(run_log, scores)
        status = "FINISHED"
    finally:
        run_log.finish(status)
    print(text_table(sequence_rows(scores)))
    print(text_table(table_rows(scores)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    tyro.cli(main)
