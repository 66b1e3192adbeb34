"""Evaluates trackers on benchmarks, as Ray tasks, and logs everything to MLflow.

    python eval_jobs/run_benchmarks.py --folder OTB --checkpoints runs/RUN_ID/best
    python eval_jobs/run_benchmarks.py --folder OTB --benchmark otb2013 otb50 otb100 \\
        --checkpoints FCOS-MAML=runs/RUN_ID/best --results SiamFC=siamfc_boxes DiMP=dimp_boxes

Results lie in the output folder; the same command goes on where it was stopped.
"""

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import tyro

from data_pipeline.clear_errors import clear_errors
from data_pipeline.ray_session import default_address, ray_session
from eval_jobs.benchmarks import find_benchmark, select
from eval_jobs.jobs import evaluate_all, gpus_of
from eval_jobs.paper_tables import paper_tables
from eval_jobs.report import log_scores, report_text
from eval_jobs.result_files import named_folder, score_results
from eval_jobs.row_tables import text_table
from eval_jobs.scores import TrackerScore
from eval_jobs.tracker_config import TrackerConfig
from eval_jobs.tracker_specs import OpenCvSpec, Phase, StaticSpec, checkpoint_specs
from eval_jobs.work import plan_work
from meta_train.run_log import MlflowConfig, RunLog, flatten_config


@clear_errors(ValueError)
def main(
    folder: tuple[Path, ...],
    checkpoints: tuple[str, ...] = (),
    benchmark: tuple[str, ...] = ("otb100",),
    phases: tuple[Phase, ...] = ("after", "before", "online"),
    baselines: tuple[Literal["static", "mil"], ...] = (),
    results: tuple[str, ...] = (),
    output: Path = Path("results"),
    tracker: TrackerConfig = TrackerConfig(),  # noqa: B008
    device: str = "cpu",
    partial: bool = False,
    max_sequences: int | None = None,
    max_frames: int | None = None,
    num_cpus_per_task: int = 1,
    num_gpus_per_task: float = 0.25,
    address: str | None = None,
    mlflow: MlflowConfig = MlflowConfig(),  # noqa: B008
) -> None:
    """Evaluates trackers on benchmarks.

    Args:
        folder: the sequences, in the benchmark's own layout; one folder for all benchmarks, or one
            for each.
        checkpoints: folders of checkpoints; FOLDER, or NAME=FOLDER to choose the name in tables.
        benchmark: rows of BENCHMARKS.
        phases: of each checkpoint, a row before adaptation, after the first frame's, or with online
            updating. The first row's metrics have the short names in MLflow.
        baselines: rows of other trackers, run here.
        results: rows of any trackers, from their own result files, NAME=FOLDER. The folder holds
            SEQUENCE.txt as for OTB, or SEQUENCE/SEQUENCE_001.txt as for GOT-10k.
        output: takes a file per tracker and sequence.
        tracker: constants of Algorithm 1.
        device: cpu or cuda.
        partial: accept that sequences of a benchmark are missing; the score says so.
        max_sequences: run the first so many only.
        max_frames: run the first so many frames of each only.
        num_cpus_per_task: CPUs, and threads, of a task.
        num_gpus_per_task: where device is cuda; may be a fraction.
        address: of the Ray cluster; local starts one for this command. RAY_ADDRESS where not given,
            and local where that is not set.
        mlflow: where the run is logged.
    """
    rows = [find_benchmark(name) for name in benchmark]
    if len(folder) not in (1, len(rows)):
        raise ValueError(f"one folder, or one for each of {len(rows)} benchmarks, expected")
    folders = folder * len(rows) if len(folder) == 1 else folder
    specs = checkpoint_specs(checkpoints, tracker, phases, device=device)
    specs += [StaticSpec() if name == "static" else OpenCvSpec() for name in baselines]
    named = [named_folder(text) for text in results]
    if not specs and not named:
        raise ValueError("nothing to evaluate: give --checkpoints, --baselines or --results")
    names = [spec.name for spec in specs] + [name for name, _ in named]
    if len(set(names)) != len(names):
        raise ValueError(f"trackers need different names, got {', '.join(names)}")
    places = list(zip(rows, folders, strict=True))
    # What is missing is said before there is a run, or Ray.
    plan_work(specs, places, output, partial=partial, max_sequences=max_sequences)
    theirs: list[list[TrackerScore]] = [[] for _ in rows]
    for at, (row, place) in enumerate(places if named else ()):
        whole = select(row, place, partial=partial, max_sequences=max_sequences)
        theirs[at] = [score_results(*each, whole, max_frames) for each in named]
    run_log = RunLog.start(
        mlflow,
        run_name=f"{' '.join(benchmark)} {names[0]}",
        params={"benchmark": " ".join(benchmark), "checkpoints": " ".join(checkpoints)}
        | flatten_config(tracker, "tracker."),
        tags={"kind": "evaluation"},
    )
    status: Literal["FINISHED", "FAILED"] = "FAILED"
    reports: list[str] = []
    by_benchmark: list[list[TrackerScore]] = []

    def report(place: int, ours: list[TrackerScore]) -> None:
        scores = ours + theirs[place]
        by_benchmark.append(scores)
        log_scores(run_log, scores)
        reports.append(report_text(scores))

    try:
        with ray_session(address or default_address()) if specs else nullcontext():
            evaluate_all(
                specs,
                places,
                output,
                run_log=run_log,
                report=report,
                partial=partial,
                max_sequences=max_sequences,
                max_frames=max_frames,
                num_cpus_per_task=num_cpus_per_task,
                num_gpus_per_task=gpus_of(device, num_gpus_per_task),
            )
        tables = paper_tables([score for scores in by_benchmark for score in scores])
        for name, table in tables.items():
            run_log.log_table(table, f"tables/{name}.json")
            if len(rows) > 1:
                reports.append(text_table(table, name.replace("_", " ").capitalize()))
        status = "FINISHED"
    finally:
        run_log.finish(status)
        print("\n".join(reports))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    tyro.cli(main)
