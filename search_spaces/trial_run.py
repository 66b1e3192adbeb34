"""One trial after its training: chooses a constant rate where that is asked for, tracks, logs."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from data_pipeline.json_files import read_parsed
from data_pipeline.manifest import ShardError, read_manifest
from data_pipeline.steady_storage import write_file
from eval_jobs import pipeline
from eval_jobs.benchmarks import IncompleteResultsError
from eval_jobs.constant_rates import best_rate, with_constant_rate
from eval_jobs.jobs import evaluate, gpus_of
from eval_jobs.pipeline import EvaluationConfig, PipelineConfig
from eval_jobs.report import log_scores
from eval_jobs.row_tables import Row
from eval_jobs.scores import TrackerScore
from eval_jobs.tracker import TrackingError
from eval_jobs.tracker_specs import Phase, phase_specs
from meta_train import checkpoint as checkpoints
from meta_train.run_log import RunLog
from meta_train.train_config import TrainConfig
from meta_train.trained_runs import TrainResult
from search_spaces.sequence_parts import SequenceSet, TuningConfig
from search_spaces.study import Trial, Variant

logger = logging.getLogger(__name__)

_RESULT_FILE = "trial.json"


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """How a trial ended."""

    trial_id: str
    """Its id."""

    cell: str
    """Of the study's table."""

    seed: int
    """Of its draws."""

    metrics: dict[str, float]
    """The best validation, unless a constant rate was chosen, and ``<phase>/<metric>`` of each
    phase; empty if it failed. The first phase's are also there as ``tracking/<metric>``, so that
    all cells have them."""

    label: str = ""
    """The benchmark, its protocol and how much of it was run; or that nothing was tracked."""

    mlflow_run_id: str = ""
    """Its run; empty where it failed before there was one."""

    trained_run: str = ""
    """The run whose checkpoint it tracks with, or the checkpoint that it was given."""

    tuning: dict[str, float] = field(default_factory=dict)
    """The score on the tuning sequences at each constant rate that was tried."""

    seconds: float = 0.0
    """From the end of its training to its own; of the last attempt where there were several."""

    error: str = ""
    """What stopped it: type and message."""

    @property
    def error_type(self) -> str:
        """What stopped it, in a word."""
        return self.error.partition(":")[0].rpartition(".")[2]


_RESULT = TypeAdapter(TrialResult)


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """What a study's trials need to know of it."""

    name: str
    """The study's."""

    tuning: TuningConfig | None
    """The study's."""

    own_settings: bool
    """The study's."""


def finished(storage: str, trial_id: str) -> TrialResult | None:
    """The result of a trial that ended well; None where there is none.

    Raises:
        StoredFileError: its file holds something else.
    """
    return read_parsed(
        storage,
        f"{trial_id}/{_RESULT_FILE}",
        _RESULT.validate_json,
        expected="the result of a finished trial",
        remedy="Delete the file; the trial is then run again.",
    )


def given_checkpoint(folder: str) -> tuple[TrainConfig, TrainResult]:
    """A checkpoint as if it had just been trained: its config, and itself as the result.

    Raises:
        CheckpointError: it does not load.
    """
    path = str(Path(folder).absolute())
    return checkpoints.load(path).config, TrainResult(run_id=path, best=path, last=path, metrics={})


def run_trial(trial: Trial, trained: TrainResult, settings: StudySettings) -> TrialResult:
    """Tracks with a trained detector, and logs and keeps what came out; on the connected Ray.

    Args:
        trial: with absolute paths.
        trained: its training.
        settings: the study's.

    Raises:
        IncompleteResultsError: sequences could not be tracked; it names each.
        ValueError: tracking diverged at all constant rates.
    """
    variant, started = trial.variant, time.monotonic()
    config = variant.config
    tuning = settings.tuning
    run_log = _open_run_log(trial, trained, settings.name)
    status: Literal["FINISHED", "FAILED"] = "FAILED"
    try:
        checkpoint, tried = Path(trained.best), {}
        if variant.constant_rates and trial.sequences.tuning is not None and tuning is not None:
            folder = Path(tuning.folder or config.evaluation.folder)
            tried = _try_rates(variant, checkpoint, trial.sequences.tuning, folder)
            checkpoint = with_constant_rate(checkpoint, best_rate(tried), Path(config.storage))
            _log_rates(run_log, tried)
        folder = Path(config.evaluation.folder)
        scores = _track(
            config,
            checkpoint,
            trial.sequences.report,
            folder,
            run_log,
            own_settings=settings.own_settings,
        )
        if scores:
            log_scores(run_log, scores)
        metrics = _metrics(variant, trained, scores)
        run_log.log_metrics(metrics, step=0)
        status = "FINISHED"
    finally:
        run_log.finish(status)
    result = TrialResult(
        trial_id=trial.trial_id,
        cell=variant.cell,
        seed=variant.seed,
        metrics=metrics,
        label=f"{trial.sequences.report.benchmark.title}; {scores[0].label}"
        if scores
        else "held-out pair tasks",
        mlflow_run_id=run_log.handle.run_id,
        trained_run=trained.run_id,
        tuning={f"{rate:g}": score for rate, score in tried.items()},
        seconds=time.monotonic() - started,
    )
    text = json.dumps(asdict(result), indent=1)
    write_file(config.storage, f"{trial.trial_id}/{_RESULT_FILE}", text.encode())
    logger.info("%s ended after %.0f s", trial.trial_id, result.seconds)
    return result


def _open_run_log(trial: Trial, trained: TrainResult, study: str) -> RunLog:
    """The trial's run in MLflow, continued where it exists."""
    variant = trial.variant
    config = variant.config
    try:
        data = read_manifest(config.train.shards).fingerprint
    except (ShardError, ValueError):  # a given checkpoint's shards need not be here
        data = "unknown"
    return pipeline.open_run_log(
        config,
        config.train,
        config.storage,
        trial.trial_id,
        data,
        {
            "kind": "trial",
            "study": study,
            "trial_id": trial.trial_id,
            "cell": variant.cell,
            "seed": str(variant.seed),
            "trained_run": trained.run_id,
        },
        dict(variant.params),
    )


def _track(
    config: PipelineConfig,
    checkpoint: Path,
    sequences: SequenceSet,
    folder: Path,
    run_log: RunLog | None,
    phases: Sequence[Phase] | None = None,
    *,
    own_settings: bool = False,
) -> list[TrackerScore]:
    """The scores of a checkpoint in each phase; none where there is no phase."""
    evaluation = config.evaluation
    if not evaluation.phases:
        return []
    specs = phase_specs(
        checkpoint,
        evaluation.tracker,
        evaluation.phases if phases is None else phases,
        name=pipeline.tracker_name(config.train),
        device=evaluation.device,
    )
    return evaluate(
        specs,
        sequences.benchmark,
        folder,
        Path(config.storage) / "results",
        run_log=run_log,
        max_frames=evaluation.max_frames,
        own_settings=own_settings,
        num_gpus_per_task=gpus_of_tracker(evaluation),
    )


def gpus_of_tracker(evaluation: EvaluationConfig) -> float:
    """The share of a GPU that a process which tracks takes."""
    return gpus_of(evaluation.device, evaluation.gpus_per_task)


def _try_rates(
    variant: Variant, checkpoint: Path, sequences: SequenceSet, folder: Path
) -> dict[float, float]:
    """The score on the tuning sequences at each rate, in the phase that counts, the first.

    NaN where tracking diverged.
    """
    config = variant.config
    scores, phases = {}, config.evaluation.phases[:1]
    for rate in variant.constant_rates:
        copied = with_constant_rate(checkpoint, rate, Path(config.storage))
        try:
            (score,) = _track(config, copied, sequences, folder, None, phases)
            scores[rate] = score.values[sequences.benchmark.metrics[0].name]
        except IncompleteResultsError as error:
            if not error.causes or not all(isinstance(c, TrackingError) for c in error.causes):
                raise
            logger.warning("%s: tracking diverged at rate %g: %s", variant.cell, rate, error)
            scores[rate] = float("nan")
    return scores


def _log_rates(run_log: RunLog, tried: dict[float, float]) -> None:
    rows: list[Row] = [{"constant_rate": rate, "score": score} for rate, score in tried.items()]
    run_log.log_table(rows, "tables/constant_rates.json")
    run_log.log_metrics({"tuning/constant_rate": best_rate(tried)}, step=0)


def _metrics(
    variant: Variant, trained: TrainResult, scores: Sequence[TrackerScore]
) -> dict[str, float]:
    """The best checkpoint's validation, and each phase's numbers on the report sequences.

    No validation where another rate was chosen for tracking: it was with the checkpoint's own.
    """
    metrics = {name: value for name, value in trained.metrics.items() if name.startswith("val/")}
    if variant.constant_rates:
        metrics = {}
    for phase, score in zip(variant.config.evaluation.phases, scores, strict=True):
        own = score.values | {"fps": score.fps}
        metrics |= {f"{phase}/{name}": value for name, value in own.items()}
    for score in scores[:1]:
        first = score.values | {"fps": score.fps}
        metrics |= {f"tracking/{name}": value for name, value in first.items()}
    return metrics
