"""Trains a config once in a storage, whichever study or script asks for it.

A config's training is a run of its own, ``trained-FINGERPRINT``. It is taken up where it stopped,
also with other workers, on moved data or by another study; a run of ``launch.py`` with the same
fingerprint serves as well.
"""

import fcntl
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from data_pipeline.manifest import read_manifest
from data_pipeline.readers.synthetic import fingerprint as synthetic_fingerprint
from eval_jobs import pipeline
from eval_jobs.pipeline import PipelineConfig
from meta_train.mlflow_runs import mlflow_run_of
from meta_train.run_log import RunLog, absolute_uri
from meta_train.train_config import fingerprint, resolved
from meta_train.train_state import require_start
from meta_train.trained_runs import TrainResult, trained_runs
from meta_train.trainer import fit, replan_run
from meta_train.worker import Metrics

logger = logging.getLogger(__name__)


def absolute_storage(storage: str) -> str:
    """The storage as other processes, which run in other folders, can find it.

    Raises:
        ValueError: it is an object store: a study's results are files.
    """
    if "://" in storage:
        raise ValueError(
            f"storage {storage!r}: a study keeps trajectories and locks as files; give a folder "
            "that every node mounts"
        )
    return str(Path(storage).absolute())


def with_absolute_paths(config: PipelineConfig, *, trains: bool = True) -> PipelineConfig:
    """The config with its synthetic videos made, and with paths that hold in any process.

    The caller has started Ray.

    Args:
        config: any.
        trains: whether it is trained; with a given checkpoint it needs no shards.
    """
    storage = absolute_storage(config.storage)
    if trains or not config.evaluation.folder:
        config = pipeline.with_data(config, storage)
    folder, mlflow = config.evaluation.folder, config.mlflow
    return replace(
        config,
        train=resolved(config.train) if trains else config.train,
        storage=storage,
        evaluation=replace(config.evaluation, folder=str(Path(folder).absolute())),
        mlflow=replace(
            mlflow,
            tracking_uri=absolute_uri(mlflow.tracking_uri, Path.cwd()),
            undelivered_dir=str(Path(mlflow.undelivered_dir).absolute()),
        ),
    )


def find_trained(config: PipelineConfig) -> TrainResult | None:
    """The finished training of a config; None where there is none yet."""
    name = training_fingerprint(config)
    return None if name is None else trained_runs(absolute_storage(config.storage)).get(name)


def training_fingerprint(config: PipelineConfig) -> str | None:
    """Fingerprint of a config's training, shards included; None where its synthetic videos, on
    which nothing can have been trained, were never made.

    Raises:
        ShardError: ``train.shards`` holds no shards.
        ValueError: the config has neither shards nor synthetic videos.
    """
    train = config.train
    if not train.shards and config.synthetic is not None:
        home = f"synthetic-{synthetic_fingerprint(config.synthetic)[:10]}"
        shards = Path(absolute_storage(config.storage)) / home / "shards"
        if not (shards / "manifest.json").is_file():
            return None
        train = replace(train, shards=str(shards))
    train = resolved(train)
    return fingerprint(train, read_manifest(train.shards).fingerprint)


def train_once(
    config: PipelineConfig,
    *,
    tags: dict[str, str],
    callbacks: tuple[Any, ...] = (),
    judge: Callable[[Path], Metrics] | None = None,
) -> TrainResult:
    """The training of a config: found, or run now on the connected Ray.

    Two processes that ask for the same training at once: one trains, the other waits for it.

    Args:
        config: as `with_absolute_paths` gives it.
        tags: for the training's MLflow run, where it is run.
        callbacks: for Ray Train's controller.
        judge: as `fit` takes it.

    Raises:
        ValueError: the cluster cannot place its workers, or what it starts from does not read.
        ray.train.TrainingFailedError: it failed.
    """
    data = read_manifest(config.train.shards).fingerprint
    name = fingerprint(config.train, data)
    run_id = f"trained-{name}"
    with _alone(Path(config.storage), run_id):
        known = trained_runs(config.storage).get(name)
        if known is not None:
            logger.info("already trained: %s", known.run_id)
            return known
        require_start(config.train, None)
        train = replan_run(config.train, config.storage, run_id)
        run_log = pipeline.open_run_log(config, train, config.storage, run_id, data, tags, {})
        status: Literal["FINISHED", "FAILED"] = "FAILED"
        try:
            result = fit(
                train,
                storage=config.storage,
                run_id=run_id,
                run_log=run_log.handle,
                callbacks=callbacks,
                judge=judge,
            )
            pipeline.log_adaptation(run_log, train, result)
            status = "FINISHED"
        finally:
            run_log.finish(status)
    return result


def mark_stopped(config: PipelineConfig) -> None:
    """Says in MLflow that a config's training was stopped; it can still be gone on with.

    Args:
        config: as `with_absolute_paths` gives it.
    """
    run_id = f"trained-{fingerprint(config.train, read_manifest(config.train.shards).fingerprint)}"
    if mlflow_run_id := mlflow_run_of(config.storage, run_id):
        run_log = RunLog.start(
            config.mlflow, run_name=run_id, params={}, tags={}, run_id=mlflow_run_id
        )
        run_log.finish("KILLED")


@contextmanager
def _alone(storage: Path, run_id: str) -> Iterator[None]:
    """Holds the training's lock; it falls with the process, however that ends."""
    folder = storage / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{run_id}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("%s is being trained by another process: waiting for it", run_id)
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough where a child was forked
