"""Lets a TraX client, such as the official VOT toolkit, drive the tracker as a process of its own.

The client starts it: the toolkit by the command in its trackers.ini,

    command = PYTHON REPOSITORY/eval_jobs/trax_tracker.py --checkpoint /ABSOLUTE/runs/RUN_ID/best

Needs the package vot-trax (the extra ``trax``).
"""

import logging
import os

import tyro

from data_pipeline.clear_errors import clear_errors
from eval_jobs.tracker import OnlineTracker
from eval_jobs.tracker_config import TrackerConfig
from eval_jobs.trax_session import open_server, serve

CHECKPOINT_VARIABLE = "TRACKING_MAML_CHECKPOINT"
"""Names the checkpoint's folder where the command line does not."""


@clear_errors(ValueError, OSError)
def main(
    checkpoint: str | None = None,
    tracker: TrackerConfig = TrackerConfig(),  # noqa: B008
    device: str = "cpu",
) -> None:
    """Answers a TraX client until it ends the session.

    Args:
        checkpoint: a checkpoint's folder, absolute, since the client chooses where this runs; else
            the environment variable TRACKING_MAML_CHECKPOINT.
        tracker: constants of Algorithm 1, such as --tracker.update-interval-frames.
        device: cpu or cuda.
    """
    online = OnlineTracker.load(_checkpoint(checkpoint), tracker, device=device)
    with open_server() as (server, make_rectangle):
        serve(server, online, make_rectangle)


def _checkpoint(given: str | None) -> str:
    """The given folder, or the environment's."""
    folder = given or os.environ.get(CHECKPOINT_VARIABLE)
    if not folder:
        raise ValueError(
            "a checkpoint's folder expected, none given. Pass --checkpoint FOLDER or set "
            f"{CHECKPOINT_VARIABLE}."
        )
    return folder


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    tyro.cli(main)
