"""Logging to a run from a cluster's other nodes.

A database is a file on the driver's machine, a server on loopback answers there alone, and points
that wait for a server that is down would wait on another machine's disk. Where a cluster has other
nodes, the driver starts a relay: one actor on its own node that logs for them. It uses `RunLog`, so
what MLflow does not take waits on the driver's disk and `finish` delivers it.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from meta_train.run_log import RETRY_SECONDS, RunHandle, RunLog
from meta_train.undelivered import expect_metric_names

RELAY_SECONDS = 60.0
"""How long a relay may take to answer: longer than `RunLog` waits for an MLflow that is down."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunRoute:
    """How a process on any node logs to a run; small, and picklable within Ray."""

    handle: RunHandle
    """The run."""

    relay: Any = None
    """Logs for other nodes than its own; None where there are none."""

    relay_node: str = ""
    """Ray's id of its node."""


def route_to(handle: RunHandle) -> RunRoute:
    """The route to a run, for the process that waits for the others; it is connected to Ray."""
    import ray

    from meta_train.placement import cluster_nodes  # needs torch, which a relay starts without

    if len(cluster_nodes()) < 2:
        return RunRoute(handle=handle)
    context = ray.get_runtime_context()
    node = context.get_node_id()
    relay = _own_relay(node, f"{context.gcs_address} {context.get_job_id()}")
    return RunRoute(handle=handle, relay=relay, relay_node=node)


@lru_cache(maxsize=1)
def _own_relay(node: str, connection: str) -> Any:
    """The relay of this process while it is connected to Ray as it is now."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    relay = ray.remote(_Relay).options(
        num_cpus=0,
        # An answer that was lost is asked for again: each step is stored once.
        max_restarts=-1,
        max_task_retries=-1,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
    )
    return relay.remote()


def attach(route: RunRoute) -> "RunLog | RelayedLog":
    """The run as a worker or a task logs to it: by itself on the driver's node, else through the
    relay.
    """
    if route.relay is None:
        return RunLog.attach(route.handle)
    import ray

    if ray.get_runtime_context().get_node_id() == route.relay_node:
        return RunLog.attach(route.handle)
    return RelayedLog(route)


class RelayedLog:
    """A run's curves, logged through its relay. Trouble is logged, never raised."""

    def __init__(self, route: RunRoute) -> None:
        """Asks the relay nothing yet."""
        self._route = route
        self._waiting: list[tuple[dict[str, float], int]] = []
        self._retry_at = 0.0

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Stores one point per name; a step that a name already has is skipped.

        Raises:
            ValueError: a name that MLflow does not take.
        """
        expect_metric_names(values)
        self._waiting.append((dict(values), step))
        if time.monotonic() >= self._retry_at:
            self._send(is_last=False)

    def close(self) -> None:
        """Has the relay try a last time to deliver."""
        self._send(is_last=True)
        if self._waiting:
            run_id, steps = self._route.handle.run_id, [step for _, step in self._waiting]
            log.error("run %s: the relay to MLflow did not take steps %s", run_id, steps)

    def _send(self, *, is_last: bool) -> None:
        import ray

        asked = self._route.handle, self._waiting, is_last
        try:
            # Not `ray.get`: a task that waits in it lends its CPU to the next task, and then both
            # are on it.
            self._route.relay.log.remote(*asked).future().result(timeout=RELAY_SECONDS)
        except (ray.exceptions.RayError, TimeoutError) as error:
            self._retry_at = time.monotonic() + RETRY_SECONDS
            log.warning("the relay to MLflow failed, trying later: %s", error)
        else:
            self._waiting = []


class _Relay:
    """The actor on the driver's node."""

    def __init__(self) -> None:
        self._attached = lru_cache(maxsize=8)(RunLog.attach)

    def log(
        self, handle: RunHandle, waiting: list[tuple[dict[str, float], int]], is_last: bool
    ) -> None:
        """Logs what a process sends; after its last, tries at once to deliver all."""
        run_log = self._attached(handle)
        for values, step in waiting:
            run_log.log_metrics(values, step)
        if is_last:
            run_log.close()
