"""What one trial of a search does, in a process of its own: it reports as it goes, for ASHA.

A trial that trains reports after each validation: the checkpoint tracks the tuning sequences within
the training worker, on the CPUs that the trial holds, so a trial never waits for more. A trial that
only tracks reports after each sequence.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from ray.tune.integration.ray_train import TuneReportCallback

from data_pipeline.tracks import Track
from eval_jobs.benchmarks import Benchmark, select
from eval_jobs.pipeline import EvaluationConfig, PipelineConfig
from eval_jobs.protocols import Trajectory, one_pass
from eval_jobs.results import ResultStore
from eval_jobs.scores import score_sequence
from eval_jobs.tracker import TrackingError
from eval_jobs.tracker_specs import TrackerSpec, phase_specs
from eval_jobs.work import as_row_asks
from meta_train.worker import Metrics
from search_spaces.search import Search
from search_spaces.search_ledger import OBJECTIVE
from search_spaces.sequence_parts import SequenceSet
from search_spaces.training import find_trained, train_once
from search_spaces.trial_run import gpus_of_tracker

logger = logging.getLogger(__name__)

RUNG = "iteration"
"""What ASHA's rungs count: outer steps, or sequences."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TuningJudge:
    """Tracks the tuning sequences with a checkpoint, one after the other, in this process."""

    benchmark: Benchmark
    """The tuning sequences."""

    folder: Path
    """Where they lie."""

    results: Path
    """Keeps the trajectories, by the tracker's fingerprint: none is tracked twice."""

    evaluation: EvaluationConfig
    """The tracker's constants; its first phase is the one that counts."""

    num_threads: int = 1
    """Of PyTorch and OpenCV."""

    def __call__(self, checkpoint: Path) -> Metrics:
        """The mean score over all tuning sequences."""
        return {OBJECTIVE: _mean(self.scores(checkpoint))}

    def scores(self, checkpoint: Path) -> list[float]:
        """The score of each tuning sequence."""
        spec = self.spec(checkpoint)
        return [self.score(spec, track) for track in self.tracks()]

    def tracks(self) -> tuple[Track, ...]:
        """The tuning sequences."""
        limit = self.evaluation.max_frames
        return select(self.benchmark, self.folder, max_frames=limit).tracks

    def spec(self, checkpoint: Path) -> TrackerSpec:
        """The tracker, with the constants that the benchmark's row asks for."""
        evaluation = self.evaluation
        (spec,) = phase_specs(
            checkpoint,
            evaluation.tracker,
            evaluation.phases[:1],
            name="tuning",
            device=evaluation.device,
        )
        return as_row_asks(spec, self.benchmark)[0]

    def score(self, spec: TrackerSpec, track: Track) -> float:
        """The benchmark's first metric on one sequence; 0 where the tracker's descent diverged."""
        try:
            trajectory = self._trajectory(spec, track)
        except TrackingError as error:
            logger.warning("%s scores 0: %s", track.name, error)
            return 0.0
        curves = score_sequence(self.benchmark, track, trajectory)
        return curves.values[self.benchmark.metrics[0].name]

    def _trajectory(self, spec: TrackerSpec, track: Track) -> Trajectory:
        store = ResultStore(
            folder=self.results,
            tracker=spec.name,
            fingerprint=spec.fingerprint,
            max_frames=self.evaluation.max_frames,
        )
        known = store.read(track)
        if known is not None:
            return known
        with _threads(self.num_threads):
            trajectory = one_pass(spec.build(), track)
        store.write(track, trajectory)
        return trajectory


def judge_of(config: PipelineConfig, tuning: SequenceSet, folder: str) -> TuningJudge:
    """The judge of a config, which has absolute paths.

    Args:
        config: one choice's.
        tuning: the sequences.
        folder: where they lie; empty: with those that are reported on.
    """
    return TuningJudge(
        benchmark=tuning.benchmark,
        folder=Path(folder or config.evaluation.folder).absolute(),
        results=Path(config.storage) / "results",
        evaluation=config.evaluation,
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads of PyTorch and OpenCV for the time being: a training process has its own."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


class RungCallback(TuneReportCallback):  # type: ignore[misc]
    """Passes on the scores before the last, at which ASHA would cut the training's end off."""

    def __init__(self, last: int) -> None:
        """Takes the training's outer steps."""
        super().__init__()
        self._last = last

    def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:
        """Takes all workers' metrics; rank 0 has the score."""
        if OBJECTIVE in metrics[0] and metrics[0][RUNG] < self._last:
            super().after_report(run_context, metrics, checkpoint)


def run_training_trial(values: dict[str, Any], search: Search[Any], tuning: SequenceSet) -> None:
    """Trains one choice, or finds it trained, and reports its score on the tuning sequences."""
    import ray
    from ray import tune

    _log_to_terminal()
    config = search.config(values)
    last = config.train.outer_loop.num_iterations

    judge = judge_of(config, tuning, search.tuning.folder)
    result = find_trained(config)
    if result is None:
        tags = {"study": search.name, "seed": str(config.train.seed)}
        result = train_once(config, tags=tags, callbacks=(RungCallback(last),), judge=judge)
    # A task, since the driver has no CPU, and outside the trial's placement group, which has none
    # either; what the worker tracked already is only read.
    task = ray.remote(
        num_cpus=1, num_gpus=gpus_of_tracker(config.evaluation), scheduling_strategy="SPREAD"
    )(_scores)
    scores = ray.get(task.remote(judge, Path(result.best)))
    held_out = {name: value for name, value in result.metrics.items() if name.startswith("val/")}
    tune.report(held_out | {OBJECTIVE: _mean(scores), RUNG: last})


def run_tracking_trial(values: dict[str, Any], search: Search[Any], tuning: SequenceSet) -> None:
    """Tracks with one choice of a trained detector, and reports after each tuning sequence."""
    from ray import tune

    _log_to_terminal()
    config = search.config(values)
    judge = judge_of(config, tuning, search.tuning.folder)
    spec = judge.spec(Path(search.checkpoint))
    scores: list[float] = []
    for track in judge.tracks():
        scores.append(judge.score(spec, track))
        tune.report({OBJECTIVE: _mean(scores), RUNG: len(scores)})


def _scores(judge: TuningJudge, checkpoint: Path) -> list[float]:
    return judge.scores(checkpoint)


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


def _log_to_terminal() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
