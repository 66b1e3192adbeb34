"""Brings a run that was trained without MLflow into MLflow: its settings and its curves.

python meta_train/log_local_run.py --folder runs/local
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from data_pipeline.clear_errors import clear_errors
from meta_train.local_run import curves, run_config
from meta_train.run_log import MlflowConfig, RunLog, flatten_config


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Which run, and where to."""

    folder: Path
    """That of `train_locally.py`."""

    name: str | None = None
    """The run's in MLflow; the folder's where not given."""

    mlflow: MlflowConfig = MlflowConfig()
    """Where it is logged."""


def log_local_run(config: LogConfig) -> str:
    """Logs the run anew, and gives its id in MLflow.

    Raises:
        ValueError: the folder holds no run, or one without a point of its curves.
    """
    train, points = run_config(config.folder), curves(config.folder)
    if not points:
        raise ValueError(
            f"{config.folder}: the folder of train_locally.py expected, with its curves.jsonl; "
            "there is none, or it is empty. Give the run's folder, not that of its checkpoint, or "
            "train on until it has a point"
        )
    run_log = RunLog.start(
        config.mlflow,
        run_name=config.name or config.folder.absolute().name,
        params=flatten_config(train),
        tags={"kind": "training", "trained": "without MLflow"},
    )
    status: Literal["FINISHED", "FAILED"] = "FAILED"
    try:
        for point in points:
            iteration = point.pop("iteration")
            run_log.log_metrics(point, step=int(iteration))
        status = "FINISHED"
    finally:
        run_log.finish(status)
    return run_log.handle.run_id


@clear_errors(ValueError)
def main() -> None:
    """Parses the command line and logs the run."""
    print(f"logged as run {log_local_run(tyro.cli(LogConfig, description=__doc__))}")


if __name__ == "__main__":
    main()
