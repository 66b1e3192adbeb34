"""Meta-training in one process, without Ray and MLflow, in slices that go on from one another.

A run is a folder: ``config.json``, ``curves.jsonl`` (a line for each point of the curves),
``step-NNNNNNNN`` (the newest checkpoints) and ``best`` (lowest held-out query loss after
adaptation). Each slice starts from the newest whole checkpoint and leaves one, so that the slices
end in the bits of one run without a stop.
"""

import json
import logging
import math
import shutil
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from pyarrow.fs import LocalFileSystem

from data_pipeline.json_files import read_parsed
from data_pipeline.steady_storage import write_file
from data_pipeline.storage import remove_partials
from meta_train.checkpoint import load, mend_saves, save
from meta_train.run_checkpoints import StoredCheckpoint, newest_whole
from meta_train.state_file import require_device
from meta_train.train_config import TrainConfig, from_json, resolved, to_json
from meta_train.validation import held_out_rank
from meta_train.worker import Metrics, Rim, train

logger = logging.getLogger(__name__)

_CONFIG, _CURVES, _BEST = "config.json", "curves.jsonl", "best"
_NUM_KEPT = 2
_DISK = LocalFileSystem()


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
        if not self.minutes > 0 or (self.until_step is not None and self.until_step < 1):
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
        ValueError: the folder holds a run of another config, or the config asks for what only
            `meta_train.trainer` has, or this machine has no such device.
        DivergedError, ShardError, CheckpointError: as `worker.train`.
    """
    folder = slice_config.folder
    require_device(slice_config.device)
    _require_one_process(config, slice_config.device)
    config = _claim(resolved(config), folder)
    resume = _resume_from(folder)
    done = _iteration(resume) if resume else 0
    _forget_after(folder, done)
    if resume:  # a slice that was killed may have saved it and not come to this
        _keep_best(folder, resume, config.inner_loop.num_steps)
    deadline = time.monotonic() + 60 * slice_config.minutes
    last = slice_config.until_step or config.outer_loop.num_iterations

    def log(values: Metrics, iteration: int) -> None:
        with (folder / _CURVES).open("a") as file:
            file.write(json.dumps({"iteration": iteration} | values) + "\n")

    def report(metrics: Metrics, checkpoint: Path | None) -> None:
        if checkpoint is not None:
            _keep_best(folder, checkpoint, config.inner_loop.num_steps)
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
    """Writes a new run's config, or checks that it is that of the run which is there: but for
    where it runs.
    """
    path = folder / _CONFIG
    found = _kept_config(folder)
    if found is None:
        write_file(str(folder), _CONFIG, to_json(config).encode())
        return config
    kept = replace(found, scaling=config.scaling)
    if others := [f.name for f in fields(kept) if getattr(kept, f.name) != getattr(config, f.name)]:
        raise ValueError(
            f"{path}: the run in this folder has other settings than those given, in "
            f"{', '.join(others)}. Give the same ones to go on with it, or another folder to start "
            "a new run"
        )
    return config


def _require_one_process(config: TrainConfig, device: str) -> None:
    """Refuses what would go unheeded."""
    if config.scaling.num_workers != 1 or config.loading != "lanes":
        raise ValueError(
            "a local run has one process that loads by 'lanes', got num_workers "
            f"{config.scaling.num_workers} and loading {config.loading!r}. Train with launch.py."
        )
    if config.scaling.use_gpu and torch.device(device).type != "cuda":
        raise ValueError(
            f"use_gpu needs device cuda, got device {device!r}: a local run computes on its device"
        )


def _resume_from(folder: Path) -> Path | None:
    """The newest whole checkpoint; newer ones, which are not whole, are set aside."""
    mend_saves(folder)
    remove_partials(_DISK, str(folder.absolute()))
    stored = [StoredCheckpoint(_DISK, str(path)) for path in reversed(_checkpoints(folder))]
    found = newest_whole(stored, folder)
    for damaged in stored[: stored.index(found[0]) if found else None]:
        aside = folder / f"damaged-{Path(damaged.path).name}"
        shutil.rmtree(aside, ignore_errors=True)
        Path(damaged.path).rename(aside)
    return found[1] if found else None


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*"))


def _iteration(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def run_config(folder: Path) -> TrainConfig:
    """The settings of the run in a folder.

    Raises:
        ValueError: there are none, or not of this release.
    """
    config = _kept_config(folder)
    if config is None:
        raise ValueError(
            f"{folder / _CONFIG}: the settings of a local run expected, there is no such file"
        )
    return config


def _kept_config(folder: Path) -> TrainConfig | None:
    return read_parsed(
        str(folder),
        _CONFIG,
        from_json,
        expected="the settings of a local run of this release",
        remedy="Go on with the release that wrote it; restore the file if it is damaged.",
    )


def curves(folder: Path) -> list[dict[str, Any]]:
    """The points of a run's curves; of a line that a kill cut short, nothing."""
    file = folder / _CURVES
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _forget_after(folder: Path, iteration: int) -> None:
    """Takes away the points beyond a checkpoint: a killed slice left them, and they come again."""
    kept = [point for point in curves(folder) if point["iteration"] <= iteration]
    text = "".join(json.dumps(point) + "\n" for point in kept)
    write_file(str(folder), _CURVES, text.encode())


def _keep_best(folder: Path, checkpoint: Path, num_steps: int) -> None:
    """Copies a checkpoint to `best` if no point of the curves ranks before it."""
    ranks = {p["iteration"]: held_out_rank(p, num_steps) for p in curves(folder)}
    finite = [iteration for iteration, rank in ranks.items() if math.isfinite(rank)]
    best = min(finite, key=lambda iteration: ranks[iteration], default=None)
    if best == _iteration(checkpoint):
        save(load(checkpoint), folder / _BEST)
