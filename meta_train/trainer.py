"""Meta-training on Ray Train: `fit` and what runs on each worker.

A run is a folder ``storage/run_id``: its config, Ray Train's state and checkpoints, and in the end
``best`` (lowest held-out query loss after adaptation) and ``last``. Folder and id resume it.
"""

import logging
import math
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.fs
import torch

from data_pipeline import ray_stream
from data_pipeline.episodes import EpisodeBatch
from data_pipeline.json_files import read_parsed
from data_pipeline.steady_storage import steady, write_file
from data_pipeline.storage import exists, open_folder
from data_pipeline.stream import EpisodeStream
from meta_train.checkpoint import CheckpointError
from meta_train.collectives import choice_of_first
from meta_train.own_cluster import own_cluster
from meta_train.placement import require_room, require_spare_cpu
from meta_train.progress import Progress
from meta_train.run_checkpoints import StoredCheckpoint, copy_whole, download, newest_whole, upload
from meta_train.run_log import RunHandle
from meta_train.run_relay import attach, route_to
from meta_train.train_config import TrainConfig, from_json, resolved, to_json
from meta_train.trained_runs import TrainResult as TrainResult
from meta_train.trained_runs import keep_result
from meta_train.validation import held_out_rank
from meta_train.worker import DivergedError, Metrics, Rim, train

logger = logging.getLogger(__name__)

_CONFIG_FILE = "config.json"
_RANK = "val/query_loss_after"  # what Ray keeps checkpoints by: `held_out_rank`
_PAIRS = "pairs"
_NOT_VALIDATED = 1e30  # ranks behind every checkpoint that was


class UnknownRunError(ValueError):
    """There is no run of this id to resume."""


def new_run_id(name: str) -> str:
    """A name that no other run has: what it is, when, and four random digits."""
    return f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def create_run(config: TrainConfig, storage: str, run_id: str) -> TrainConfig:
    """Writes a new run's config into its folder, and gives it with its paths made absolute.

    Raises:
        ValueError: a run of this id exists already.
    """
    config = resolved(config)
    filesystem, root = open_folder(storage)
    path = f"{root}/{run_id}/{_CONFIG_FILE}"
    if filesystem.get_file_info(path).type != pyarrow.fs.FileType.NotFound:
        raise ValueError(f"{storage}/{run_id}: a run of this id exists; resume it or take another")
    return replan_run(config, storage, run_id)


def replan_run(config: TrainConfig, storage: str, run_id: str) -> TrainConfig:
    """Writes a run's config, also over that of an unfinished run that is to go on elsewhere.

    For the caller who knows that the two differ only in where they run and where their data lie.
    """
    config = resolved(config)
    write_file(storage, f"{run_id}/{_CONFIG_FILE}", to_json(config).encode())
    return config


def run_config(storage: str, run_id: str) -> TrainConfig:
    """The config of a run that exists.

    Raises:
        UnknownRunError: there is none of this id; the message lists those that there are.
        StoredFileError: its config is not one of this release.
    """
    config = read_parsed(
        storage,
        f"{run_id}/{_CONFIG_FILE}",
        from_json,
        expected="the config of a run of this release",
        remedy="Resume the run with the release that wrote it; restore the file if it is damaged.",
    )
    if config is None:
        filesystem, root = open_folder(storage)
        selector = pyarrow.fs.FileSelector(root, allow_not_found=True)
        folders = [info.base_name for info in filesystem.get_file_info(selector)]
        known = [
            name for name in sorted(folders) if exists(filesystem, f"{root}/{name}/{_CONFIG_FILE}")
        ]
        raise UnknownRunError(
            f"no run {run_id!r} in {storage}; expected one of: {', '.join(known) or '(none yet)'}"
        )
    return config


def fit(
    config: TrainConfig,
    *,
    storage: str,
    run_id: str,
    run_log: RunHandle | None = None,
    init_from: str | None = None,
    callbacks: tuple[Any, ...] = (),
    judge: Callable[[Path], Metrics] | None = None,
) -> TrainResult:
    """Meta-trains on the Ray cluster that this process is connected to, or goes on where it was.

    Args:
        config: with absolute paths, as `create_run` gives it.
        storage: folder or URI that every node reaches.
        run_id: a run that exists in it goes on from its last checkpoint.
        run_log: the MLflow run that rank 0 writes its curves to.
        init_from: a checkpoint of another run to start from: the absolute path, or URI, of a folder
            that every node reaches.
        callbacks: for Ray Train's controller (Tune's report callback, for one).
        judge: measures the checkpoint of each validation, whose folder it takes, on rank 0; its
            numbers are reported with the validation's. It must pickle.

    Raises:
        ValueError: the cluster can never place the workers that the config asks for.
        DivergedError: the run diverged; that is not tried again, since it would do so again.
        ray.train.TrainingFailedError: the workers failed more often than the config allows.
    """
    # A checkpoint counts only after the controller's next poll; two seconds lose too much.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from meta_train.elastic import ElasticTrainer
    from meta_train.preemption import SigtermNotice

    scaling = config.scaling
    require_room(scaling)
    filesystem, root = open_folder(storage)
    if config.loading == "ray":
        require_spare_cpu(scaling)
    threads = str(scaling.cpus_per_worker)
    num_workers: int | tuple[int, int] = scaling.num_workers
    trainer_class: Callable[..., Any] = TorchTrainer
    if scaling.min_workers is not None:
        num_workers = scaling.min_workers, scaling.num_workers
        trainer_class = partial(ElasticTrainer, batch_pairs=config.outer_loop.batch_pairs)
    trainer = trainer_class(
        _run_worker,
        train_loop_config={
            "config": to_json(config),
            "run": route_to(run_log) if run_log else None,
            "init_from": init_from,
            "judge": judge,
            "storage": storage,
            "title": run_id,
            "shows_bar": sys.stderr.isatty(),
        },
        torch_config=TorchConfig(timeout_s=scaling.timeout_seconds),
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers,
            elastic_resize_monitor_interval_s=scaling.resize_every_seconds,
            use_gpu=scaling.use_gpu,
            resources_per_worker={"CPU": scaling.cpus_per_worker}
            | ({"GPU": 1} if scaling.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=run_id,
            storage_path=root,
            storage_filesystem=steady(filesystem),
            failure_config=ray.train.FailureConfig(max_failures=scaling.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=2, checkpoint_score_attribute=_RANK, checkpoint_score_order="min"
            ),
            callbacks=[*callbacks, SigtermNotice()],
            worker_runtime_env={"env_vars": {"OMP_NUM_THREADS": threads}},
        ),
        datasets={_PAIRS: _pairs(config)} if config.loading == "ray" else None,
    )
    with own_cluster():
        result = trainer.fit()
    if result.error is not None:
        raise result.error
    if result.return_value is not None:
        raise DivergedError(f"run {run_id}: {result.return_value}")
    left = _keep_best_and_last(result, storage, run_id)
    keep_result(config, storage, left, init_from)
    return left


def _pairs(config: TrainConfig) -> Any:
    """The pairs of a run as a Ray data set."""
    return ray_stream.episode_dataset(
        config.shards,
        config.sampling,
        seed=config.seed,
        num_lanes=config.outer_loop.batch_pairs,
        num_batches=config.outer_loop.num_iterations,
    )


def _run_worker(arguments: dict[str, Any]) -> str | None:
    """The training function of Ray Train: connects `worker.train` to Ray and MLflow.

    Returns:
        How the run diverged, if it did: an error would be tried again. All workers find it alike.
    """
    import ray.train
    import ray.train.torch

    from meta_train.preemption import count_notices

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = from_json(arguments["config"])
    context = ray.train.get_context()
    rank = context.get_world_rank()
    run_log = attach(arguments["run"]) if rank == 0 and arguments["run"] else None
    progress = Progress(
        arguments["title"],
        config.outer_loop.num_iterations,
        bar=arguments["shows_bar"] and rank == 0,
    )

    def log(values: Metrics, iteration: int) -> None:
        if run_log:
            run_log.log_metrics(values, iteration)

    filesystem, root = open_folder(arguments["storage"])
    stored = steady(filesystem)

    def store(checkpoint: Any, name: str) -> Any:
        path = Path(root, arguments["title"], name).as_posix()
        upload(Path(checkpoint.path), StoredCheckpoint(filesystem, path))
        return ray.train.Checkpoint(path, filesystem=stored)

    def report(metrics: Metrics, folder: Path | None) -> None:
        judge = arguments["judge"]
        if judge and folder and "val/query_loss_ratio" in metrics:
            judged = judge(folder)
            log(judged, int(metrics["iteration"]))
            metrics = metrics | judged
        score = held_out_rank(metrics, config.inner_loop.num_steps)
        if not math.isfinite(score):
            if "val/query_loss_ratio" in metrics:
                logger.warning("the held-out loss is %s: this checkpoint cannot be the best", score)
            score = _NOT_VALIDATED
        checkpoint = ray.train.Checkpoint.from_directory(str(folder)) if folder else None
        ray.train.report(
            metrics | {_RANK: score},
            checkpoint=checkpoint,
            checkpoint_upload_fn=store,
            delete_local_checkpoint_after_upload=True,
        )

    with tempfile.TemporaryDirectory(prefix="meta-train-") as scratch:
        rim = Rim(
            rank=rank,
            world_size=context.get_world_size(),
            device=ray.train.torch.get_device(),
            scratch=Path(scratch),
            log=log,
            report=report,
            notices=count_notices,
            progress=progress.show,
        )
        if config.loading == "ray":
            rim = replace(rim, batches=_ray_batches)
        torch.set_num_threads(config.scaling.cpus_per_worker)
        resume = _resume_from(filesystem, rank, rim.scratch)
        init_from = None if resume else arguments["init_from"]
        diverged = None
        try:
            train(config, rim, resume=resume, init_from=init_from)
        except DivergedError as error:
            diverged = str(error)
    progress.close()
    if run_log:
        run_log.close()
    return diverged


def _resume_from(filesystem: pyarrow.fs.FileSystem, rank: int, scratch: Path) -> Path | None:
    """The newest whole checkpoint of this run as a local folder, the same one on every worker."""
    import ray.train

    chosen = folder = None
    latest = ray.train.get_checkpoint()
    if rank == 0 and latest is not None:
        kept = ray.train.get_all_reported_checkpoints()  # by rank, the worst first
        newest_first = sorted(kept, key=lambda each: each.metrics["iteration"], reverse=True)
        older = [each.checkpoint.path for each in newest_first]
        paths = [latest.path, *(path for path in older if path != latest.path)]
        found = newest_whole([StoredCheckpoint(filesystem, path) for path in paths], scratch)
        chosen, folder = found or (None, None)
    path = choice_of_first(chosen.path if chosen else None)
    if path is None:
        return None
    logger.info("goes on from %s", path)
    return folder or download(StoredCheckpoint(filesystem, path), scratch)


def _ray_batches(
    stream: EpisodeStream, lanes: Sequence[int], start: int
) -> Generator[EpisodeBatch, None, None]:
    """A worker's part of `_pairs`: as many pairs at a time as it has lanes, wherever it starts."""
    import ray.train

    return ray_stream.batches(ray.train.get_dataset_shard(_PAIRS), len(lanes), seed=start)


def _keep_best_and_last(result: Any, storage: str, run_id: str) -> TrainResult:
    """Checkpoints under names that last; of the best, the first that is whole."""
    filesystem, root = open_folder(storage)

    def keep(checkpoint: Any, name: str) -> str:
        target = StoredCheckpoint(filesystem, Path(root, run_id, name).as_posix())
        copy_whole(StoredCheckpoint(filesystem, checkpoint.path), target)
        return f"{storage}/{run_id}/{name}"

    last = keep(result.checkpoint, "last")
    ranked = sorted(
        result.best_checkpoints, key=lambda pair: float(pair[1].get(_RANK, _NOT_VALIDATED))
    )
    for checkpoint, metrics in ranked:
        try:
            best = keep(checkpoint, "best")
        except CheckpointError as error:
            logger.warning("%s Another one is taken as the best.", error)
            continue
        numbers = {key: float(value) for key, value in metrics.items() if key != _RANK}
        return TrainResult(run_id=run_id, best=best, last=last, metrics=numbers)
    raise CheckpointError(f"{storage}/{run_id}: none of its {len(ranked)} checkpoints is whole")
