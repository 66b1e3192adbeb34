"""Preprocesses, runs a study that trains on two workers, and evaluates, on three nodes of Ray.

python tests/work_on_three_nodes.py FOLDER

A head without CPUs, as in cluster.yaml, and two nodes with one CPU each, all on this machine. What
Ray's own state tells of it goes to ``FOLDER/work.json``: the nodes of each kind of work, by stage.
"""

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import ray
from local_machines import wait_for
from ray.cluster_utils import Cluster
from ray.util.state import list_actors, list_tasks
from tiny_study import BASE

from data_pipeline.ray_session import ray_session
from data_pipeline.synthetic_data import prepare
from eval_jobs import pipeline
from eval_jobs.benchmarks import find_benchmark
from eval_jobs.jobs import evaluate
from eval_jobs.pipeline import PipelineConfig
from eval_jobs.tracker_config import TrackerConfig
from eval_jobs.tracker_specs import phase_specs
from meta_train.run_log import MlflowConfig, RunLog
from meta_train.train_config import ScalingConfig
from search_spaces.measures import Measure
from search_spaces.online_update_cells import OnlineUpdateChoice, configure
from search_spaces.study import Cell, Study, grid
from search_spaces.study_run import run
from search_spaces.training import find_trained
from search_spaces.tune_trials import DRIVER_RESOURCES

CELLS = (
    Cell(name="none", choice=OnlineUpdateChoice(branches="none")),
    Cell(name="cls", choice=OnlineUpdateChoice(branches="cls", interval_frames=2)),
)
STORE_BYTES = 100 * 2**20


def config_in(folder: Path) -> PipelineConfig:
    """Two workers, on a few tiny videos."""
    return replace(
        BASE,
        train=replace(BASE.train, scaling=ScalingConfig(num_workers=2, cpus_per_worker=1)),
        synthetic=replace(BASE.synthetic, num_train_videos=12, num_val_videos=3),
        storage=str(folder / "runs"),
        mlflow=MlflowConfig(
            tracking_uri=f"sqlite:///{folder}/mlflow.db", undelivered_dir=str(folder / "left")
        ),
    )


def placed() -> Iterator[tuple[str, str, str]]:
    """Name, id and node of each task and actor that Ray ever placed."""
    for actor in list_actors(detail=True, limit=1000):
        yield actor.class_name, actor.actor_id, actor.node_id
    for task in list_tasks(detail=True, limit=1000, raise_on_missing_output=False):
        yield task.name.rstrip(")"), task.task_id, task.node_id


class Watch:
    """Which nodes worked, stage by stage; a kind of work is what a task's name, or that of an
    actor's class, ends in.
    """

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, list[str]]] = {}
        self._seen: set[str] = set()

    def end(self, stage: str, expected: dict[str, int]) -> None:
        """Notes what ran since the last stage's end, when Ray's state has as much as expected."""
        found: dict[str, dict[str, str]] = {}

        def look() -> bool:
            found.update({name: {} for name in expected})
            for name, key, node in placed():
                for kind in expected:
                    if name.endswith(kind) and node and key not in self._seen:
                        found[kind][key] = node
            return all(len(found[kind]) >= count for kind, count in expected.items())

        wait_for(look, 30.0, f"{stage}: {expected} expected in Ray's state, got {found}")
        self._seen |= {key for keys in found.values() for key in keys}
        self.stages[stage] = {kind: sorted(keys.values()) for kind, keys in found.items()}


def work(folder: Path) -> dict[str, object]:
    """Everything once, on the connected cluster."""
    watch, config = Watch(), config_in(folder)
    assert config.synthetic
    data = prepare(config.synthetic, Path(config.storage))
    watch.end("preprocessing", {"_write_planned_shard": 6})
    study = Study(
        name="updates",
        title="Online updates",
        variants=grid(CELLS, configure, config, (0,)),
        measures=(Measure(name="tracking/auc", title="AUC", higher_is_better=True),),
    )
    result = run(study)
    num_runs = config.synthetic.num_val_videos
    watch.end("study", {"RayTrainWorker": 2, "run_and_log": num_runs * len(CELLS), "_Relay": 1})
    trained = find_trained(pipeline.with_data(config, config.storage))
    assert trained, "the study has trained it"
    specs = phase_specs(Path(trained.best), TrackerConfig(), ("before",), name="again")
    run_log = RunLog.start(config.mlflow, run_name="evaluation", params={}, tags={})
    benchmark = find_benchmark(config.evaluation.benchmark)
    scores = evaluate(specs, benchmark, data.videos, folder / "results", run_log=run_log)
    run_log.finish()
    watch.end("evaluation", {"run_and_log": num_runs, "_Relay": 1})
    return {
        "head": ray.get_runtime_context().get_node_id(),
        "stages": watch.stages,
        "trials": [asdict(trial) for trial in result.trials],
        "trained": asdict(trained),
        "scores": [score.values for score in scores],
        "evaluation_run": run_log.handle.run_id,
    }


def main() -> None:
    """Starts the cluster, works on it and stops it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    folder = Path(sys.argv[1]).absolute()
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "resources": DRIVER_RESOURCES,
            "include_dashboard": True,
            "dashboard_port": None,  # a free one
            # Processes are kept for what comes next, since to start one takes longer than its work.
            "_system_config": {"idle_worker_killing_time_threshold_ms": 600_000},
            "object_store_memory": STORE_BYTES,
        },
    )
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        cluster.wait_for_nodes()
        with ray_session(str(cluster.address)):
            (folder / "work.json").write_text(json.dumps(work(folder), indent=1))
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
