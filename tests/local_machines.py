"""What the fault commands share: a Ray cluster on this machine, and `launch.py` as a process."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

ROOT = Path(__file__).parents[1]
NOTICE_SECONDS = 120
LONGEST_RUN_SECONDS = 900.0
HEAD = {
    "num_cpus": 0,
    "include_dashboard": True,  # Ray Train asks it whether a run's controller still lives
    "dashboard_port": None,  # a free one
    "_system_config": {
        # A dead node is noticed after seconds instead of half a minute.
        "health_check_initial_delay_ms": 1000,
        "health_check_period_ms": 1000,
        "health_check_failure_threshold": 5,
    },
}


class Machines:
    """A Ray cluster of several nodes on this machine: a head without CPUs, and nodes with one."""

    def __init__(self, num_nodes: int) -> None:
        self._cluster = Cluster(initialize_head=True, head_node_args=HEAD)
        for _ in range(num_nodes):
            self.add_node()

    @property
    def address(self) -> str:
        """Where drivers find it."""
        return str(self._cluster.address)

    def workers(self, node: Any = None) -> list[int]:
        """Process ids of the training workers, of one node or of all."""
        nodes = [node] if node else list(self._cluster.worker_nodes)
        return [pid for each in nodes for pid, title in children(each) if "RayTrainWorker" in title]

    def kill_worker(self, rng: random.Random) -> str:
        """Kills one training worker."""
        pid = rng.choice(self.workers())
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return f"worker {pid}"

    def a_node(self) -> Any:
        """Any node but the head."""
        return next(iter(self._cluster.worker_nodes))

    def node_at_work(self, rng: random.Random) -> Any:
        """A node on which a training worker runs."""
        return rng.choice([each for each in self._cluster.worker_nodes if self.workers(each)])

    def kill_node(self, rng: random.Random, node: Any = None) -> str:
        """Kills a node, by default one at work, with all its processes; adds a new one."""
        node = node or self.node_at_work(rng)
        self.remove_node(node)
        self.add_node()
        return f"node {node.node_id[:8]}"

    def announce_end(self, node: Any, kind: str) -> None:
        """Tells a node's workers that it will be taken away, or Ray, which tells them."""
        if kind == "sigterm":
            for pid in self.workers(node):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            return
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = int((time.time() + NOTICE_SECONDS) * 1000)
        accepted, why_not = node.get_gcs_client().drain_node(
            node.node_id, reason, "spot machine", deadline_ms
        )
        assert accepted, why_not

    def kill_all(self) -> None:
        """Kills every node, the head included."""
        for node in [*self._cluster.worker_nodes, self._cluster.head_node]:
            self.remove_node(node)

    def add_node(self) -> None:
        """Starts one more."""
        self._cluster.add_node(num_cpus=1)

    def remove_node(self, node: Any) -> None:
        """Kills a node with all its processes."""
        running = [pid for pid, _ in children(node)]
        for pid in running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)


def children(node: Any) -> Iterator[tuple[int, str]]:
    """Process ids and titles of what a node's raylet has started."""
    raylet = node.all_processes["raylet"][0].process.pid
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == raylet:
                yield int(folder.name), (folder / "cmdline").read_bytes().decode(errors="replace")


class Driver:
    """`launch.py` as a process of its own, started again where it was killed."""

    def __init__(self, folder: Path, name: str, settings: list[str]) -> None:
        self._folder, self._settings = folder, settings
        self._log = folder / f"{name}.log"
        self._log.touch()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, address: str) -> None:
        """Begins the run, or goes on with it."""
        arguments = ["--resume", self.run_id] if self._is_created() else self._settings
        command = [sys.executable, str(ROOT / "meta_train" / "launch.py")]
        with self._log.open("ab") as stream:
            self._process = subprocess.Popen(
                [*command, *arguments, "--address", address],
                cwd=self._folder,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"},
            )

    def kill(self) -> None:
        """Kills it, if it runs."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    @property
    def run_id(self) -> str:
        """The last one that the log names; empty before it names any."""
        found = re.findall(r"^run (\S+) ", self._log.read_text(), re.MULTILINE)
        return found[-1] if found else ""

    def _is_created(self) -> bool:
        return bool(self.run_id) and (self._folder / "runs" / self.run_id / "config.json").exists()

    def saved_steps(self) -> int:
        """The last outer step of which a checkpoint stands."""
        found = (self._folder / "runs" / self.run_id).glob("checkpoint_*/checkpoint.json")
        steps = [0]
        for path in found if self.run_id else ():
            with suppress(OSError, ValueError):  # deleted or written just now
                steps.append(json.loads(path.read_text())["iteration"])
        return max(steps)

    def has_ended(self) -> bool:
        """Whether it ended; it must have ended well."""
        assert self._process
        code = self._process.poll()
        if code is not None:
            assert code == 0, f"exit status {code}:\n{self._log.read_text()[-6000:]}"
        return code is not None

    def finish(self) -> None:
        """Waits for the end."""
        wait_for(self.has_ended, LONGEST_RUN_SECONDS, f"{self.run_id} does not end: {self._log}")


def wait_for(condition: Callable[[], object], seconds: float, message: str) -> None:
    """Polls until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(message)
        time.sleep(0.05)
