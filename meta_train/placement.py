"""Whether a Ray cluster can ever place a run's workers: without a look, it would wait for ever."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from meta_train.train_config import ScalingConfig

AUTOSCALER_FILE = Path("~/ray_bootstrap_config.yaml")
"""Where ``ray up`` leaves the cluster's config on the head."""


def require_room(scaling: ScalingConfig) -> None:
    """Checks that the connected cluster can place a run, now or with the nodes that it may add.

    Raises:
        ValueError: it never can; the message says what was asked for and what there is.
    """
    least = scaling.min_workers or scaling.num_workers
    nodes = cluster_nodes(scaling)
    if runs_that_fit(nodes, replace(scaling, num_workers=least)) < 1:
        raise ValueError(
            f"a run trains on {least} workers with {scaling.cpus_per_worker} CPUs"
            f"{' and a GPU' if scaling.use_gpu else ''} each, and the Ray cluster cannot place "
            f"them: its nodes have {described(nodes)}. Ask for fewer workers or CPUs, "
            "or add nodes."
        )


def require_spare_cpu(scaling: ScalingConfig) -> None:
    """Checks that a run's workers leave Ray Data a CPU: without one they would wait for ever.

    Raises:
        ValueError: they take all that the cluster has.
    """
    taken = scaling.num_workers * scaling.cpus_per_worker
    there = sum(node.get("CPU", 0.0) for node in cluster_nodes())
    if there < taken + 1:
        raise ValueError(
            f"loading 'ray' needs a CPU beside the {taken} of the run's workers, and the Ray "
            f"cluster has {there:g} in all. Ask for fewer workers or CPUs, add nodes, or load by "
            "'lanes'."
        )


def runs_that_fit(nodes: Sequence[dict[str, float]], scaling: ScalingConfig) -> int:
    """How many runs can train at once on nodes with these resources; a worker stays on one node.

    >>> runs_that_fit([{"CPU": 2.0}, {"CPU": 3.0}], ScalingConfig(cpus_per_worker=2))
    2
    """
    return sum(_workers_on(node, scaling) for node in nodes) // scaling.num_workers


def _workers_on(node: dict[str, float], scaling: ScalingConfig) -> int:
    """How many of a run's workers a node holds."""
    fitting = int(node.get("CPU", 0.0)) // scaling.cpus_per_worker
    return min(fitting, int(node.get("GPU", 0.0))) if scaling.use_gpu else fitting


_USUAL = ScalingConfig()


def cluster_nodes(scaling: ScalingConfig = _USUAL) -> list[dict[str, float]]:
    """Resources of the connected cluster's nodes, with those that its autoscaler may still add.

    Args:
        scaling: what they are for: of the nodes to come, those that hold most of its workers.
    """
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return alive + _nodes_to_come(AUTOSCALER_FILE.expanduser(), len(alive), scaling)


def _nodes_to_come(
    config_file: Path, num_alive: int, scaling: ScalingConfig
) -> list[dict[str, float]]:
    """The worker nodes that a ``ray up`` cluster may have beyond those that are there.

    The file does not tell which types the nodes of now belong to, so a type may have all its nodes
    still to come; together they keep to the cluster's limit.
    """
    if not config_file.is_file():
        return []
    import yaml

    config: dict[str, Any] = yaml.safe_load(config_file.read_text())
    types = config.get("available_node_types", {})
    room = max(0, int(config.get("max_workers", 0)) + 1 - num_alive)
    found = [
        {name: float(count) for name, count in kind.get("resources", {}).items()}
        for name, kind in types.items()
        if name != config.get("head_node_type")
        for _ in range(min(room, int(kind.get("max_workers", 0))))
    ]
    return sorted(found, key=lambda node: -_workers_on(node, scaling))[:room]


def described(nodes: Sequence[dict[str, float]]) -> str:
    """The nodes' CPUs and GPUs in words."""
    wanted = ("CPU", "GPU")
    return "; ".join(
        ", ".join(f"{node.get(name, 0.0):g} {name}s" for name in wanted) for node in nodes
    )
