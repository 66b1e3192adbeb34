"""Runs a study on one node of two CPUs and on three nodes, and reads from Ray what ran where.

python tests/study_on_three_nodes.py              # minutes on two cores
python tests/study_on_three_nodes.py --nodes 2    # one cluster only, with so many CPUs a node

Eight trainings are queued with no setting changed: the study must end (as many drivers as CPUs
could wait for workers for ever), never hold more CPUs than there are, in all and on any node, and
use every node. What held CPUs, and from when to when, comes from Ray's own records of its tasks and
actors, once the study has ended: a list of what runs now still holds what has ended just before.
"""

import argparse
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray._private.state import actors  # the public list of actors has no times
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
MOST_RECORDS = 10_000
RECORDS_SECONDS = 3.0
"""By when workers have told Ray what they did; they do so each second."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A task or an actor that held CPUs."""

    name: str
    """Of the task, or of the actor's class."""

    node: str
    """Id of the node it ran on."""

    worker: str
    """Id of the process it ran in, which runs one at a time."""

    cpus: float
    """How many it held."""

    start_ms: int
    """When it began to run."""

    end_ms: int
    """When it ended."""


def holders() -> list[Holder]:
    """All tasks and actors of this cluster that held CPUs, from their begin to their end."""
    time.sleep(RECORDS_SECONDS)
    now_ms = round(time.time() * 1000)
    asked: dict[str, Any] = {
        "address": ray.get_runtime_context().gcs_address,  # else any cluster on this machine
        "detail": True,
        "limit": MOST_RECORDS,
        "timeout": 120,
    }
    found = [
        Holder(
            name=task.name,
            node=task.node_id,
            worker=task.worker_id or task.task_id,
            cpus=cpus_of(task),
            start_ms=task.start_time_ms,
            end_ms=task.end_time_ms or now_ms,
        )
        for task in list_tasks(filters=[("type", "=", "NORMAL_TASK")], **asked)
        if task.node_id and task.start_time_ms and cpus_of(task)
    ]
    times = actors()
    found += [
        Holder(
            name=actor.class_name,
            node=actor.node_id,
            worker=actor.actor_id,
            cpus=cpus_of(actor),
            start_ms=times[actor.actor_id]["StartTime"],
            end_ms=times[actor.actor_id]["EndTime"] or now_ms,
        )
        for actor in list_actors(**asked)
        if times[actor.actor_id]["StartTime"] and cpus_of(actor)
    ]
    return found


def most_at_once(held: Iterable[Holder]) -> tuple[float, list[Holder]]:
    """The most CPUs that were held at one moment, and by whom; who ends makes room for who starts.

    A process counts once: Ray may report its next task as begun before the one before has ended.

    >>> one = Holder(name="one", node="n", worker="a", cpus=1.0, start_ms=0, end_ms=5)
    >>> after, beside = replace(one, start_ms=5, end_ms=9), replace(one, start_ms=4, end_ms=6)
    >>> most_at_once([one, after])[0], most_at_once([one, replace(beside, worker="b")])[0]
    (1.0, 2.0)
    >>> most_at_once([one, beside])[0]
    1.0
    """
    held = list(held)
    moments = [
        [each for each in held if each.start_ms <= start < each.end_ms]
        for start in {each.start_ms for each in held}
    ]
    most = max(moments, key=_cpus_held, default=[])
    return _cpus_held(most), most


def _cpus_held(there: Iterable[Holder]) -> float:
    """By tasks and actors of one moment."""
    held: dict[str, float] = {}
    for each in there:
        held[each.worker] = max(held.get(each.worker, 0.0), each.cpus)
    return sum(held.values())


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
            results = run_study(Path(name))
            seconds = time.monotonic() - began
            held = holders()
    finally:
        ray.shutdown()
        cluster.shutdown()
    failed = [f"{result.trial_id}: {result.error}" for result in results if result.error]
    assert not failed, failed
    most, at_once = most_at_once(held)
    assert 0 < most <= sum(cpus_of_nodes), f"{most:g} CPUs were held at once, by {at_once}"
    print(f"nodes of {cpus_of_nodes} CPUs: {len(results)} trials in {seconds:.0f} s")
    work: dict[str, Counter[str]] = defaultdict(Counter)
    for each in held:
        work[each.node][each.name] += 1
    for node, names in sorted(work.items()):
        most_here, at_once = most_at_once(each for each in held if each.node == node)
        print(f"  {node[:8]} held at most {most_here:g} CPUs: {dict(names)}")
        assert most_here <= cpus_of_node[node], f"more than its {cpus_of_node[node]}: {at_once}"
    for name in ("RayTrainWorker", "run_and_log"):
        places = [node for node, names in work.items() if names[name]]
        assert len(places) == len(cpus_of_nodes), f"{name} on {places} only"
    print(f"  at most {most:g} CPUs at once; all nodes trained and tracked")


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
