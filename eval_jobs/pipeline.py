"""One run from end to end: data, meta-training, evaluation, and everything of it in MLflow."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import TypeAdapter

from data_pipeline.episodes import stack
from data_pipeline.json_files import read_parsed
from data_pipeline.shards import read_index, read_manifest
from data_pipeline.steady_storage import read_file, write_file
from data_pipeline.synthetic_data import prepare
from data_pipeline.synthetic_scenes import SyntheticConfig
from data_pipeline.uris import expect_no_secret
from eval_jobs.benchmarks import find_benchmark, select
from eval_jobs.held_out import require_disjoint
from eval_jobs.jobs import evaluate, gpus_of, require_place
from eval_jobs.report import log_scores
from eval_jobs.scores import TrackerScore
from eval_jobs.tracker_config import TrackerConfig
from eval_jobs.tracker_specs import OpenCvSpec, Phase, StaticSpec, TrackerSpec, phase_specs
from meta_train.checkpoint import load_learner
from meta_train.diagnosis import (
    adaptation_curves,
    loss_curves,
    loss_curves_figure,
    rates_figure,
    score_map_figure,
)
from meta_train.mlflow_runs import keep_mlflow_run, mlflow_run_of
from meta_train.outer_step import to_episodes
from meta_train.placement import require_room
from meta_train.run_log import MlflowConfig, RunLog, flatten_config
from meta_train.train_config import TrainConfig, fingerprint, resolved
from meta_train.train_state import require_start
from meta_train.trainer import TrainResult, create_run, fit, replan_run, run_config
from meta_train.validation import validation_stream

logger = logging.getLogger(__name__)

_EVALUATION_FILE = "evaluation.json"
_INIT_FILE = "init_from.txt"


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What a trained detector is tried on."""

    __pydantic_config__: ClassVar = {"ser_json_inf_nan": "constants"}

    benchmark: str = "synthetic"
    """A row of `eval_jobs.benchmarks.BENCHMARKS`."""

    folder: str = ""
    """The benchmark's sequences. Empty: the synthetic ones of the run, or no evaluation."""

    phases: tuple[Phase, ...] = ("after", "before", "online")
    """How far the tracker adapts in each row; the first is the run's main result."""

    tracker: TrackerConfig = TrackerConfig()
    """The constants of Algorithm 1."""

    references: bool = True
    """Rows of a box that never moves and of OpenCV's MIL beside ours."""

    partial: bool = False
    """Accept that sequences of the benchmark are missing; the score says so."""

    max_sequences: int | None = None
    """Only the first so many sequences."""

    max_frames: int | None = None
    """Only the first so many frames of each sequence."""

    device: str = "cpu"
    """Where trackers run; ``cuda`` takes a share of a GPU for each task."""

    gpus_per_task: float = 0.25
    """That share."""

    def __post_init__(self) -> None:
        for name, least in (("max_sequences", 1), ("max_frames", 2)):
            limit = getattr(self, name)
            if limit is not None and limit < least:
                raise ValueError(f"{name} must be at least {least}, got {limit}")


_EVALUATION = TypeAdapter(EvaluationConfig)


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """One run from end to end."""

    train: TrainConfig = TrainConfig()
    """Meta-training."""

    synthetic: SyntheticConfig | None = None
    """Make these videos and train on them, where ``train.shards`` names none."""

    evaluation: EvaluationConfig = EvaluationConfig()
    """What comes after."""

    mlflow: MlflowConfig = field(default_factory=MlflowConfig)
    """Where it is logged."""

    storage: str = "runs"
    """Folder or URI of the runs: checkpoints, results, synthetic data."""

    def __post_init__(self) -> None:
        expect_no_secret(self.storage, "storage")


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What a run gave."""

    train: TrainResult
    """Checkpoints and the best one's validation."""

    scores: tuple[TrackerScore, ...]
    """A row for each phase and reference."""

    mlflow_run_id: str
    """Where it all is logged."""


def run(
    config: PipelineConfig,
    run_id: str,
    *,
    resume: bool = False,
    init_from: str | None = None,
    tags: dict[str, str] | None = None,
    params: Mapping[str, object] | None = None,
    callbacks: tuple[Any, ...] = (),
) -> Outcome:
    """Trains and evaluates; the caller has started Ray.

    Args:
        config: the run. With ``resume``, its storage, MLflow and ``train.scaling``; the rest is
            taken from what the run started with.
        run_id: the run's name, and its folder in the storage.
        resume: go on with a run that exists.
        init_from: a checkpoint of another run to start from; a resumed run knows its own.
        tags: for the MLflow run.
        params: for the MLflow run, beside the config's own.
        callbacks: for Ray Train's controller (Tune's report callback, for one).

    Raises:
        UnknownRunError: there is no such run to resume.
        IncompleteResultsError: sequences of the benchmark are missing.
        ContaminatedTrainingError: sequences of the benchmark are among the training videos.
        ShardError, DatasetError, CheckpointError: the data or a checkpoint do not read.
    """
    storage = config.storage if "://" in config.storage else str(Path(config.storage).absolute())
    if "://" in storage and (config.evaluation.folder or not config.train.shards):
        raise ValueError(
            f"storage {storage!r} takes training runs only; synthetic videos and an evaluation's "
            "results are files: give a folder that every node mounts, or train without "
            "evaluation.folder and evaluate with eval_jobs/run_benchmarks.py"
        )
    if resume:
        scaling = config.train.scaling
        config = kept_settings(config, storage, run_id)
        train = config.train
        if train.scaling != scaling:
            require_room(scaling)
            train = replan_run(replace(train, scaling=scaling), storage, run_id)
        started_from = read_file(storage, f"{run_id}/{_INIT_FILE}")
        init_from = None if started_from is None else started_from.decode()
    else:
        require_room(config.train.scaling)
        if config.evaluation.folder or config.synthetic is not None:
            require_place(1, gpus_of(config.evaluation.device, config.evaluation.gpus_per_task))
        config = with_data(config, storage)
        require_start(resolved(config.train), init_from)
        train = create_run(config.train, storage, run_id)
        text = _EVALUATION.dump_json(config.evaluation, indent=1)
        write_file(storage, f"{run_id}/{_EVALUATION_FILE}", text)
        if init_from:
            init_from = init_from if "://" in init_from else str(Path(init_from).absolute())
            write_file(storage, f"{run_id}/{_INIT_FILE}", init_from.encode())
    manifest = read_manifest(train.shards)
    _require_held_out(config.evaluation, train)
    run_log = open_run_log(
        config, train, storage, run_id, manifest.fingerprint, tags or {}, params or {}
    )
    status: Literal["FINISHED", "FAILED"] = "FAILED"
    try:
        result = fit(
            train,
            storage=storage,
            run_id=run_id,
            run_log=run_log.handle,
            init_from=init_from,
            callbacks=callbacks,
        )
        log_adaptation(run_log, train, result)
        scores = _evaluate(config, train, storage, result, run_log)
        status = "FINISHED"
    finally:
        run_log.finish(status)
    return Outcome(train=result, scores=tuple(scores), mlflow_run_id=run_log.handle.run_id)


def kept_settings(config: PipelineConfig, storage: str, run_id: str) -> PipelineConfig:
    """The config with the training and the evaluation of a run that exists.

    Raises:
        UnknownRunError: there is no such run.
        StoredFileError: its settings are not those of this release.
    """
    evaluation = _read_evaluation(storage, run_id) or config.evaluation
    return replace(config, train=run_config(storage, run_id), evaluation=evaluation)


def with_data(config: PipelineConfig, storage: str) -> PipelineConfig:
    """The config with its synthetic videos made, and their folders in the places for them.

    Does nothing where ``train.shards`` is set or there is nothing to make.
    """
    if config.synthetic is None or config.train.shards:
        return config
    data = prepare(config.synthetic, Path(storage))
    folder = config.evaluation.folder or str(data.videos)
    return replace(
        config,
        train=replace(config.train, shards=data.shards),
        evaluation=replace(config.evaluation, folder=folder),
    )


def _require_held_out(evaluation: EvaluationConfig, train: TrainConfig) -> None:
    """Fails before hours of training where the benchmark is missing or was trained on."""
    if evaluation.folder:
        selection = select(
            find_benchmark(evaluation.benchmark),
            Path(evaluation.folder).absolute(),
            partial=evaluation.partial,
            max_sequences=evaluation.max_sequences,
            max_frames=evaluation.max_frames,
        )
        require_disjoint(read_index(train.shards)["video"].unique().to_pylist(), selection)


def open_run_log(
    config: PipelineConfig,
    train: TrainConfig,
    storage: str,
    run_id: str,
    data_fingerprint: str,
    tags: dict[str, str],
    params: Mapping[str, object],
) -> RunLog:
    """The MLflow run of a run id: a new one, or the one that its folder names."""
    mlflow_run_id = mlflow_run_of(storage, run_id)
    own = flatten_config(train) | {
        f"evaluation.{name}": value for name, value in flatten_config(config.evaluation).items()
    }
    digests = {
        "data_fingerprint": data_fingerprint[:16],
        "config_fingerprint": fingerprint(train, data_fingerprint),
    }
    run_log = RunLog.start(
        config.mlflow,
        run_name=run_id,
        params={**own, **params},
        tags={"run_id": run_id, "kind": "train"} | digests | tags,
        run_id=mlflow_run_id,
    )
    if mlflow_run_id is None:
        keep_mlflow_run(storage, run_id, run_log.handle.run_id)
    return run_log


def _read_evaluation(storage: str, run_id: str) -> EvaluationConfig | None:
    """The evaluation that a run was started with; None where it stopped before it said."""
    return read_parsed(
        storage,
        f"{run_id}/{_EVALUATION_FILE}",
        _EVALUATION.validate_json,
        expected="the evaluation of this release",
        remedy="Delete the file to take the command line's.",
    )


def log_adaptation(run_log: RunLog, train: TrainConfig, result: TrainResult) -> None:
    """Of the best checkpoint: losses by inner step (Fig. 5 among them), rates and score maps."""
    if not any(name.startswith("val/iou_") for name in result.metrics):
        return
    run_log.log_figure(adaptation_curves(result.metrics), "plots/adaptation_curves.png")
    held_out = validation_stream(train.shards, train.sampling)
    batch = stack([held_out.episode(lane, 0) for lane in range(4)])
    episodes = to_episodes(batch, torch.device("cpu"), torch.float32)
    learner = load_learner(result.best)
    figure = score_map_figure(learner, episodes, train.inner_loop.num_steps)
    run_log.log_figure(figure, "plots/score_maps.png")
    run_log.log_figure(rates_figure(learner.rates), "plots/rates.png")
    curves = loss_curves(learner, episodes)
    run_log.log_figure(loss_curves_figure(curves), "plots/loss_curves.png")
    for step, (support, query) in enumerate(zip(*curves.values(), strict=True)):
        run_log.log_metrics({"adapting/support_loss": support, "adapting/query_loss": query}, step)


def tracker_name(train: TrainConfig) -> str:
    """FCOS-MAML, or FCOS baseline: the same in all runs, so that their metrics compare."""
    detector = train.detector.kind.upper()
    return f"{detector}-MAML" if train.outer_loop.method == "maml" else f"{detector} baseline"


def _evaluate(
    config: PipelineConfig, train: TrainConfig, storage: str, result: TrainResult, run_log: RunLog
) -> list[TrackerScore]:
    """The best checkpoint's scores, and the references'."""
    evaluation = config.evaluation
    if not evaluation.folder:
        logger.info("no evaluation: evaluation.folder is not set")
        return []
    specs: list[TrackerSpec] = [
        *phase_specs(
            Path(result.best),
            evaluation.tracker,
            evaluation.phases,
            name=tracker_name(train),
            device=evaluation.device,
        )
    ]
    if evaluation.references:
        specs += [StaticSpec(), OpenCvSpec()]
    scores = evaluate(
        specs,
        find_benchmark(evaluation.benchmark),
        Path(evaluation.folder),
        Path(storage) / "results",
        run_log=run_log,
        partial=evaluation.partial,
        max_sequences=evaluation.max_sequences,
        max_frames=evaluation.max_frames,
        num_gpus_per_task=gpus_of(evaluation.device, evaluation.gpus_per_task),
    )
    log_scores(run_log, scores)
    return scores
