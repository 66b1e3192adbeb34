"""Meta-trains in this one process, without Ray and MLflow, in slices.

    python meta_train/train_locally.py small --folder runs/local --train.shards SHARDS --minutes 8

The same command goes on where the last one stopped, bit for bit on the CPU, until the run is done.
"""

import logging
from dataclasses import dataclass
from typing import Annotated

import tyro

from data_pipeline.clear_errors import clear_errors
from meta_train.local_run import SliceConfig, run_slice
from meta_train.train_config import TrainConfig
from meta_train.train_presets import TRAININGS


@dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """One slice of a run."""

    part: Annotated[SliceConfig, tyro.conf.arg(name="")]
    """How long, and where."""

    train: TrainConfig
    """The run."""


@clear_errors(ValueError)
def main() -> None:
    """Parses the command line, trains, and says how far the run is."""
    choices = {
        name: (name, LocalConfig(part=SliceConfig(), train=train))
        for name, train in TRAININGS.items()
    }
    config = tyro.extras.overridable_config_cli(choices, description=__doc__)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    result = run_slice(config.train, config.part)
    total = config.train.outer_loop.num_iterations
    print(f"{result.iteration} of {total} outer steps; newest checkpoint {result.checkpoint}")
    if result.best:
        print(f"best checkpoint {result.best}")
    if result.iteration < total:
        print("the same command goes on from here")


if __name__ == "__main__":
    main()
