"""How much do detectors gain by adapting? Held-out pair tasks, by inner step (Fig. 5).

    python eval_jobs/pair_tasks.py --shards SHARDS --checkpoints MAML=runs/RUN_ID/best \\
        baseline=runs/OTHER_ID/best
    python eval_jobs/pair_tasks.py ... --num-steps 20        # as far as Fig. 5 goes

A task: learn a target from one crop, find it in a view of another frame; the box at the score's
peak counts, without window and penalties. The tasks are of videos that none of the checkpoints was
trained on; but `best` is the checkpoint with the lowest query loss on some of their pairs, so give
`last` where that matters. A detector without learned rates adapts at its initial ones and at the
best of several constants, chosen by tasks of other held-out videos.
"""

import logging
from pathlib import Path
from typing import Literal

import tyro
from rich.progress import Progress

from data_pipeline.clear_errors import clear_errors
from data_pipeline.manifest import read_manifest
from data_pipeline.pair_tasks import PairTasksConfig
from eval_jobs.constant_rates import CONSTANT_RATES
from eval_jobs.pair_contest import Contest, load_entries
from eval_jobs.pair_results import PairResults
from eval_jobs.pair_scores import pair_figure, score_rows, step_metrics, task_rows
from eval_jobs.row_tables import csv_table, text_table
from meta_train.run_log import MlflowConfig, RunLog, flatten_config

logger = logging.getLogger(__name__)


@clear_errors(ValueError)
def main(
    checkpoints: tuple[str, ...],
    shards: str,
    num_steps: int = 5,
    constant_rates: tuple[float, ...] = CONSTANT_RATES,
    tasks: PairTasksConfig = PairTasksConfig(),  # noqa: B008
    output: Path = Path("results"),
    device: str = "cpu",
    mlflow: MlflowConfig = MlflowConfig(),  # noqa: B008
) -> None:
    """Scores checkpoints on held-out pair tasks.

    Args:
        checkpoints: folders of checkpoints; FOLDER, or NAME=FOLDER to choose the name in tables.
        shards: folder of preprocessed crops; of those that the checkpoints were trained on, the
            videos that training left out.
        num_steps: inner steps; the first frame of a video gets 5.
        constant_rates: to choose from where a detector has learned none.
        tasks: how many tasks, and how they are drawn.
        output: takes a file per checkpoint, and what was measured until it is complete; nothing
            that is there is computed again.
        device: cpu or cuda.
        mlflow: where the run is logged.
    """
    entries = load_entries(checkpoints, device)
    contest = Contest.draw(shards, tasks, entries, num_steps, constant_rates)
    results = PairResults(folder=output, contest=contest)
    run_log = RunLog.start(
        mlflow,
        run_name=f"pair tasks {entries[0].name}",
        params=flatten_config(tasks, "tasks.")
        | {
            "checkpoints": " ".join(checkpoints),
            "num_steps": num_steps,
            "constant_rates": constant_rates,
            "val_fraction": contest.val_fraction,
        },
        tags={"kind": "pair_tasks", "data_fingerprint": read_manifest(shards).fingerprint[:16]},
    )
    status: Literal["FINISHED", "FAILED"] = "FAILED"
    try:
        with Progress() as progress:
            bar = progress.add_task("pair tasks", total=contest.num_tasks(entries))

            def advance(num_tasks: int) -> None:
                progress.advance(bar, num_tasks)
                if not progress.console.is_terminal:  # a log gets lines
                    now = progress.tasks[0]
                    logger.info("%d of %d pair tasks", now.completed, now.total)

            scores = [score for entry in entries for score in results.read_or_score(entry, advance)]
        for step, metrics in enumerate(step_metrics(scores)):
            run_log.log_metrics(metrics, step=step)
        run_log.log_table(score_rows(scores), "tables/pair_tasks.json")
        run_log.log_text(csv_table(task_rows(scores)), "tables/tasks.csv")
        run_log.log_figure(pair_figure(scores), "plots/pair_tasks.png")
        status = "FINISHED"
    finally:
        run_log.finish(status)
    title = f"Pair tasks: IoU of the box at the score's peak after 0, 1 and {num_steps} steps"
    print(text_table(score_rows(scores), title))
    print(contest.text)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    tyro.cli(main)
