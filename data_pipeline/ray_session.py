"""Starting Ray for a script, and giving it back."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def default_address() -> str:
    """RAY_ADDRESS where it is set (a cluster's head, a submitted job), else ``local``."""
    return os.environ.get("RAY_ADDRESS") or "local"


@contextmanager
def ray_session(address: str, resources: dict[str, float] | None = None) -> Iterator[None]:
    """A connection to Ray for the time of a block.

    Args:
        address: ``local`` starts Ray for this process and never attaches to a cluster that happens
            to run on the machine; ``auto`` finds that one; anything else is a cluster's address.
        resources: custom ones that a local Ray has; a cluster says itself what it has.
    """
    import ray
    import ray.data

    before = os.environ.get("RAY_ADDRESS")
    offered = resources if address == "local" else None
    ray.init(address=address, resources=offered, logging_level=logging.WARNING)
    # Bars on a terminal; elsewhere Ray Data would log a page every few seconds.
    ray.data.DataContext.get_current().enable_progress_bars = sys.stderr.isatty()
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # Ray's own actors look the cluster up anew; without this they may find a stranger's.
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    try:
        yield
    finally:
        ray.shutdown()
        if before is None:
            del os.environ["RAY_ADDRESS"]
        else:
            os.environ["RAY_ADDRESS"] = before
