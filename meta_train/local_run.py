"""Meta-training in one process, without Ray and MLflow, in slices that go on from one another.

A run is a folder: ``config.json``, ``curves.jsonl`` (a line for each point of the curves),
``step-NNNNNNNN`` (the newest checkpoints) and ``best`` (lowest held-out query loss after
adaptation). Each slice starts from the newest checkpoint and leaves one, so that the slices end in
the bits of one run without a stop.
"""

import json
import logging
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from meta_train.train_config import TrainConfig, from_json, resolved, to_json
from meta_train.worker import Metrics, Rim, train

logger = logging.getLogger(__name__)

_CONFIG, _CURVES, _BEST = "config.json", "curves.jsonl", "best"
_NUM_KEPT = 2


@dataclass(frozen=True, kw_only=True)
class SliceConfig:
    """A part of a run, and where it runs."""

    folder: Path = Path("runs/local")
    """Of the run; one that holds a run goes on with it."""

    minutes: float = math.inf
    """Stop after the outer step that ends after so many minutes, with a checkpoint."""

    until_step: int | None = None
    """Stop after this outer step, with a checkpoint; the run's last one if None."""

    device: str = "cpu"
    """Where it computes, such as ``cuda``."""

    def __post_init__(self) -> None:
        if self.minutes <= 0 or (self.until_step is not None and self.until_step < 1):
            raise ValueError(
                "minutes must be positive and until_step at least 1, got "
                f"{self.minutes} and {self.until_step}"
            )


@dataclass(frozen=True, kw_only=True)
class SliceResult:
    """What there is after a slice."""

    iteration: int
    """Outer steps that the run has taken."""

    checkpoint: Path
    """The newest one."""

    best: Path | None
    """The best validated checkpoint; None before the first validation."""


def run_slice(config: TrainConfig, slice_config: SliceConfig) -> SliceResult:
    """Trains until the slice or the run ends.

    Raises:
        ValueError: the folder holds a run of another config.
        DivergedError, ShardError, CheckpointError: as `worker.train`.
    """
    folder = slice_config.folder
    config = _claim(resolved(config), folder)
    newest = _checkpoints(folder)
    resume = newest[-1] if newest else None
    done = _iteration(resume) if resume else 0
    _forget_after(folder / _CURVES, done)
    deadline = time.monotonic() + 60 * slice_config.minutes
    last = slice_config.until_step or config.outer_loop.num_iterations

    def log(values: Metrics, iteration: int) -> None:
        with (folder / _CURVES).open("a") as file:
            file.write(json.dumps({"iteration": iteration} | values) + "\n")

    def report(metrics: Metrics, checkpoint: Path | None) -> None:
        if checkpoint is not None:
            _keep_best(folder, checkpoint, metrics, config.inner_loop.num_steps)
            for old in _checkpoints(folder)[:-_NUM_KEPT]:
                shutil.rmtree(old)

    rim = Rim(
        device=torch.device(slice_config.device),
        scratch=folder,
        log=log,
        report=report,
        progress=lambda iteration, text: logger.info("outer step %d, %s", iteration, text),
        stops=lambda iteration: iteration >= last or time.monotonic() >= deadline,
    )
    torch.set_num_threads(config.scaling.cpus_per_worker)
    if done < last:
        train(config, rim, resume=resume)
    checkpoint, best = _checkpoints(folder)[-1], folder / _BEST
    return SliceResult(
        iteration=_iteration(checkpoint),
        checkpoint=checkpoint,
        best=best if best.exists() else None,
    )


def _claim(config: TrainConfig, folder: Path) -> TrainConfig:
    """Writes a new run's config, or checks that it is that of the run which is there."""
    path = folder / _CONFIG
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(to_json(config))
    elif from_json(path.read_text()) != config:
        raise ValueError(
            f"{path}: the run in this folder has other settings than those given. Give the same "
            "ones to go on with it, or another folder to start a new run"
        )
    return config


def _checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*"))


def _iteration(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _forget_after(curves: Path, iteration: int) -> None:
    """Takes away the points beyond a checkpoint: a killed slice left them, and they come again."""
    if curves.exists():
        lines = curves.read_text().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        kept = [line for line in whole if json.loads(line)["iteration"] <= iteration]
        curves.write_text("".join(kept))


def _keep_best(folder: Path, checkpoint: Path, metrics: Metrics, num_steps: int) -> None:
    """Copies a validated checkpoint if none before was better."""
    loss = metrics.get(f"val/query_loss_{num_steps}", math.nan)
    best, note = folder / _BEST, "query_loss.txt"
    so_far = float((best / note).read_text()) if best.exists() else math.inf
    if loss < so_far:  # never where it is not a number, or there is none
        partial = folder / f".{_BEST}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(checkpoint, partial)
        (partial / note).write_text(repr(loss))
        shutil.rmtree(best, ignore_errors=True)
        partial.rename(best)
