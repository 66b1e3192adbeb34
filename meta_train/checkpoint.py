"""Checkpoints: a folder with the tensors, the config and a digest that proves them whole."""

import hashlib
import json
import os
import re
import reprlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pyarrow.fs import FileSystem

from data_pipeline.clear_errors import shortened
from data_pipeline.steady_storage import fetch_folder, is_full
from data_pipeline.storage import open_folder
from data_pipeline.uris import expect_no_secret
from meta_train.detectors.backbone import Weights
from meta_train.kernel_rates import Rates
from meta_train.learner import Learner
from meta_train.state_file import CheckpointError as CheckpointError
from meta_train.state_file import read_state
from meta_train.train_config import TrainConfig, from_json, to_json

FORMAT_VERSION = 1
_STATE, _CONFIG, _MANIFEST = "state.pt", "config.json", "checkpoint.json"

FILES = (_STATE, _CONFIG, _MANIFEST)
"""All that a checkpoint's folder holds."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """Everything that a run needs to go on as if it had never stopped."""

    config: TrainConfig
    """Of the run that wrote it."""

    weights: Weights
    """theta_0."""

    rates: Rates
    """alpha."""

    optimizer: dict[str, Any]
    """Adam's state dict; empty where only the result counts."""

    iteration: int
    """Outer steps that have been taken; also every lane's position in the data."""

    @property
    def learner(self) -> Learner:
        """What tracking needs of it."""
        return Learner(
            config=self.config.detector,
            adapts=self.config.inner_loop.adapts,
            weights=self.weights,
            rates=self.rates,
        )


def save(checkpoint: Checkpoint, folder: Path) -> Path:
    """Writes a checkpoint; the folder appears whole or not at all.

    One that is there already is replaced, and deleted only when the new one stands.

    Raises:
        CheckpointError: the disk is full.
        OSError: it fails otherwise.
    """
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(checkpoint, partial)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        if is_full(error) or is_full(error.__context__ or error):
            raise full_disk(folder) from error
        raise
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def mend_saves(parent: Path) -> None:
    """Takes away what killed calls of `save` left in a folder, where none is running.

    A checkpoint that one of them had set aside, and not replaced yet, is put back.
    """
    for left in parent.glob(".*"):
        named = re.fullmatch(r"\.(.+)\.(partial|old)-[0-9]+", left.name)
        if named and named[2] == "old" and not (parent / named[1]).exists():
            left.rename(parent / named[1])
        elif named:
            shutil.rmtree(left)


def _write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes the files of a checkpoint, the one that proves the others whole last."""
    folder.mkdir(parents=True)
    state = {
        "weights": checkpoint.weights,
        "rates": checkpoint.rates,
        "optimizer": checkpoint.optimizer,
    }
    with (folder / _STATE).open("wb") as file:  # by its path, torch hides why a write fails
        torch.save(state, file)
    (folder / _CONFIG).write_text(to_json(checkpoint.config))
    manifest = {
        "format_version": FORMAT_VERSION,
        "iteration": checkpoint.iteration,
        "sha256": {name: _digest(folder / name) for name in (_STATE, _CONFIG)},
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1))


def full_disk(folder: Path | str) -> CheckpointError:
    """The error of a checkpoint that found no room."""
    return CheckpointError(
        f"{folder}: no space left for a checkpoint, and nothing of it was kept. Earlier "
        "checkpoints are whole: free some space, and resume the run"
    )


def load(folder: Path | str, device: torch.device | str = "cpu") -> Checkpoint:
    """A checkpoint, checked against its digests. Unpickles nothing but tensors.

    Args:
        folder: a path, or a URI, which is fetched first.
        device: where the tensors go.

    Raises:
        CheckpointError: the folder is missing, cut short, changed, or of another format.
        ValueError: the URI holds a secret.
    """
    if "://" in str(folder):
        expect_no_secret(str(folder), "checkpoint")
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as local:
            fetch(*open_folder(str(folder)), Path(local))
            with named(local, str(folder)):
                return load(local, device)
    folder = Path(folder)
    iteration = require_whole(folder)
    try:
        config = from_json((folder / _CONFIG).read_bytes())
    except ValueError as error:
        raise CheckpointError(
            f"{folder / _CONFIG}: no config of this release ({shortened(error, 500)}); "
            "load it with the release that wrote it"
        ) from error
    state = read_state(folder / _STATE, config, device)
    return Checkpoint(
        config=config,
        weights=state.weights,
        rates=state.rates,
        optimizer=state.optimizer,
        iteration=iteration,
    )


@contextmanager
def named(local: Path | str, source: str) -> Iterator[None]:
    """Names a checkpoint in its errors by where it comes from, not by its copy's folder."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(local), source)) from error


def fetch(filesystem: FileSystem, source: str, folder: Path) -> None:
    """Copies a checkpoint out of a storage, unchecked.

    Raises:
        CheckpointError: there is none.
        OSError: the storage failed for longer than is waited for.
    """
    try:
        fetch_folder(filesystem, source, folder)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{source}: a checkpoint expected, there is nothing. Use another one, or mend its name"
        ) from error


def require_whole(folder: Path) -> int:
    """Checks every file of a checkpoint against its digest; gives its number of outer steps.

    Raises:
        CheckpointError: the folder is missing, cut short, changed, or of another format.
    """
    manifest = _manifest(folder)
    for name, expected in manifest["sha256"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; the checkpoint is not whole. Use another one.")
        if _digest(path) != expected:
            raise CheckpointError(
                f"{path}: its content does not match the digest in {_MANIFEST}; it was cut "
                "short or changed. Use another checkpoint."
            )
    return int(manifest["iteration"])


def load_learner(folder: Path | str, device: torch.device | str = "cpu") -> Learner:
    """The detector of a checkpoint, ready to become a tracker.

    Raises:
        CheckpointError: as `load`.
    """
    return load(folder, device).learner


def content_digest(folder: Path | str) -> str:
    """A digest of a checkpoint's content, the same for the same weights and config.

    Raises:
        CheckpointError: the folder is no checkpoint.
    """
    digests = _manifest(Path(folder))["sha256"]
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()[:16]


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        version = manifest["format_version"]
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: not found; expected the folder of a checkpoint, such as runs/RUN_ID/best"
        ) from error
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not a checkpoint's manifest ({shortened(repr(error), 200)})"
        ) from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: expected format version {FORMAT_VERSION}, got {reprlib.repr(version)}; "
            "load it with the release that wrote it"
        )
    digests, iteration = manifest.get("sha256", {}), manifest.get("iteration")
    is_complete = isinstance(digests, dict) and set(digests) == {_STATE, _CONFIG}
    if not is_complete or type(iteration) is not int or not 0 <= iteration < 2**63:
        raise CheckpointError(
            f"{path}: expected the digests of {_STATE} and {_CONFIG} and an iteration, got "
            f"{reprlib.repr(digests)} and {reprlib.repr(iteration)}; use another checkpoint"
        )
    return manifest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
