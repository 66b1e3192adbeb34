"""Runs a study on one node of two CPUs and on three nodes, and watches what runs where.

python tests/study_on_three_nodes.py              # minutes on two cores
python tests/study_on_three_nodes.py --nodes 2    # one cluster only, with so many CPUs a node

Eight trainings are queued with no setting changed: the study must end (as many drivers as CPUs
could wait for workers for ever), never hold more CPUs than there are, in all and on any node, and
use every node. What ran comes from Ray's own state: its actors and tasks, with their resources.
"""

import argparse
import tempfile
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.util.state import list_actors, list_tasks
from tiny_study import BASE

from meta_train.run_log import MlflowConfig
from search_spaces.kernel_rates_cells import kernel_rates_study
from search_spaces.sequence_parts import TuningConfig
from search_spaces.study import trials
from search_spaces.study_run import run
from search_spaces.study_script import log_to_terminal
from search_spaces.tune_trials import DRIVER_RESOURCES, grouped

SEEDS = (0, 1)
NUM_QUEUED = 8
STORE_BYTES = 200 * 2**20
LOOK_EVERY_SECONDS = 0.25


@dataclass
class Watch:
    """What was seen to hold CPUs, in a thread of its own."""

    most: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """CPUs held at once, by node; ``all``: on all of them together."""

    holders: dict[str, list[str]] = field(default_factory=dict)
    """Who held the most, by place: names and ids, with their CPUs and in how many looks so far."""

    work: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """What ran, by node: names of actors' classes and tasks, with the number of them."""

    looks: int = 0
    """How often Ray was asked."""

    _seen: Counter[str] = field(default_factory=Counter)
    _stop: threading.Event = field(default_factory=threading.Event)
    _error: Exception | None = None

    def __enter__(self) -> "Watch":
        """Starts to look."""
        self._thread = threading.Thread(target=self._watch_or_keep_error, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        """Looks no more; what stopped it from looking is raised."""
        self._stop.set()
        self._thread.join()
        if self._error is not None and error == (None, None, None):
            raise RuntimeError("the cluster was not watched to the end") from self._error

    def _watch_or_keep_error(self) -> None:
        try:
            self._watch()
        except Exception as error:
            self._error = error

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_EVERY_SECONDS):
            actors = list_actors(filters=[("state", "=", "ALIVE")], detail=True, limit=1000)
            tasks = list_tasks(
                filters=[("state", "=", "RUNNING"), ("type", "=", "NORMAL_TASK")],
                detail=True,
                limit=1000,
            )
            held = [(each.class_name, each.actor_id, each.node_id, each) for each in actors]
            held += [(each.name, each.task_id, each.node_id, each) for each in tasks]
            self._note([(name, key, node, cpus_of(each)) for name, key, node, each in held])

    def _note(self, held: list[tuple[str, str, str, float]]) -> None:
        self.looks += 1
        now: dict[str, float] = defaultdict(float)
        who: dict[str, list[str]] = defaultdict(list)
        for name, key, node, cpus in held:
            if cpus <= 0:
                continue
            if key not in self._seen:
                self.work[node][name] += 1
            self._seen[key] += 1
            for place in ("all", node):
                now[place] += cpus
                who[place].append(
                    f"{name} {key[:8]}: {cpus:g} CPUs, seen in {self._seen[key]} looks"
                )
        for place, cpus in now.items():
            if cpus > self.most[place]:
                self.most[place], self.holders[place] = cpus, who[place]


def cpus_of(held: Any) -> float:
    """CPUs that an actor or a task holds; in a placement group they have another name."""
    resources = held.required_resources or {}
    own = float(resources.get("CPU", 0.0))
    return own or max(
        (float(n) for name, n in resources.items() if name.startswith("CPU_group_")), default=0.0
    )


def watch_study(cpus_of_nodes: list[int]) -> None:
    """Runs the study on a cluster of such nodes, and checks what was seen."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": cpus_of_nodes[0],
            "resources": DRIVER_RESOURCES,
            "include_dashboard": True,
            "dashboard_port": None,  # a free one
            "object_store_memory": STORE_BYTES,
        },
    )
    for cpus in cpus_of_nodes[1:]:
        cluster.add_node(num_cpus=cpus, object_store_memory=STORE_BYTES)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    cpus_of_node = {node["NodeID"]: node["Resources"].get("CPU", 0.0) for node in ray.nodes()}
    try:
        with tempfile.TemporaryDirectory(prefix="study-nodes-") as name:
            began = time.monotonic()
            with Watch() as watch:
                results = run_study(Path(name))
            seconds = time.monotonic() - began
    finally:
        ray.shutdown()
        cluster.shutdown()
    failed = [f"{result.trial_id}: {result.error}" for result in results if result.error]
    assert not failed, failed
    total = sum(cpus_of_nodes)
    held = watch.most.pop("all")
    assert 0 < held <= total, f"{held:g} CPUs were held, of {total}: {watch.holders['all']}"
    crowded = {
        node: watch.holders[node] for node, n in watch.most.items() if n > cpus_of_node[node]
    }
    assert not crowded, f"more CPUs were held than these nodes have: {crowded} of {cpus_of_node}"
    trained_on = [node for node, names in watch.work.items() if names["RayTrainWorker"]]
    tracked_on = [node for node, names in watch.work.items() if names["run_and_log"]]
    print(f"nodes of {cpus_of_nodes} CPUs: {len(results)} trials in {seconds:.0f} s")
    for node, names in sorted(watch.work.items()):
        print(f"  {node[:8]} held at most {watch.most[node]:g} CPUs: {dict(names)}")
    assert len(trained_on) == len(cpus_of_nodes), "not all nodes trained"
    assert len(tracked_on) == len(cpus_of_nodes), "not all nodes tracked"
    print(f"  at most {total} CPUs at once in {watch.looks} looks; all nodes trained and tracked")


def run_study(folder: Path) -> tuple[Any, ...]:
    """Table 2's study with two seeds: eight trainings."""
    base = replace(
        BASE,
        storage=str(folder / "runs"),
        mlflow=MlflowConfig(
            tracking_uri=f"sqlite:///{folder}/mlflow.db", undelivered_dir=str(folder / "left")
        ),
    )
    study = kernel_rates_study(base, SEEDS, TuningConfig(max_sequences=1))
    assert len(grouped(trials(study))) == NUM_QUEUED
    return run(study).trials


def main() -> None:
    """Both clusters, or the one that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", help="CPUs of each node of one cluster")
    arguments = parser.parse_args()
    log_to_terminal()
    for nodes in [arguments.nodes] if arguments.nodes else [[2], [1, 1, 1]]:
        watch_study(nodes)


if __name__ == "__main__":
    main()
