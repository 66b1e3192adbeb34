"""Starting Ray for a script, and giving it back."""

import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

CONNECT_SECONDS = 5.0
"""How long the head of a cluster may take to answer."""

_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"


class ClusterError(RuntimeError):
    """There is no Ray cluster at an address; the message says what to do."""


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

    Raises:
        ClusterError: nobody answers at the address.
    """
    import ray
    import ray.data

    before = {name: os.environ.get(name) for name in ("RAY_ADDRESS", _WATCHER)}
    if address == "local":
        # Nobody tells it that its only node goes: trainings are spared the process that would ask.
        os.environ.setdefault(_WATCHER, "0")
        ray.init(address="local", resources=resources, logging_level=logging.WARNING)
    else:
        _join(address)
    # Bars on a terminal; elsewhere Ray Data would log a page every few seconds.
    ray.data.DataContext.get_current().enable_progress_bars = sys.stderr.isatty()
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # Ray's own actors look the cluster up anew; without this they may find a stranger's.
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    try:
        yield
    finally:
        ray.shutdown()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _join(address: str) -> None:
    """Connects to a running cluster; Ray itself would try for minutes where there is none."""
    try:
        if place := re.fullmatch(r"(?:ray://)?\[?(.+?)\]?:([0-9]+)", address):
            socket.create_connection((place[1], int(place[2])), CONNECT_SECONDS).close()
        import ray

        ray.init(address=address, logging_level=logging.WARNING)
    except (OSError, OverflowError, ValueError) as error:  # ConnectionError is an OSError
        raise ClusterError(
            f"address {address!r}: a running Ray cluster expected, it cannot be joined ({error}). "
            "Start it (ray start --head, ray up cluster.yaml), check the address and the token "
            "(RAY_AUTH_MODE), or take --address local; where --address is not given, RAY_ADDRESS "
            "counts."
        ) from error
