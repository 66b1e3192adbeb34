"""A config is trained once: finished runs are found by what they trained; constant rates."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_pipeline.manifest import read_manifest
from eval_jobs.constant_rates import best_rate, with_constant_rate
from meta_train.checkpoint import CheckpointError, content_digest, load
from meta_train.train_config import ScalingConfig, TrainConfig, fingerprint
from meta_train.trained_runs import TrainResult, keep_result, trained_runs

FinishedRun = Callable[..., TrainResult]


@pytest.fixture
def finished_run(tiny_checkpoint: Path) -> FinishedRun:
    """Leaves what a run by a config leaves, as far as it is looked at."""

    def finish(
        config: TrainConfig, storage: Path, run_id: str, init_from: str | None = None
    ) -> TrainResult:
        best = shutil.copytree(tiny_checkpoint, storage / run_id / "best")
        last = str(storage / run_id / "last")
        result = TrainResult(run_id=run_id, best=str(best), last=last, metrics={"val/x": 0.5})
        keep_result(config, str(storage), result, init_from)
        return result

    return finish


def test_a_run_is_found_by_what_it_trained_not_by_where(
    tmp_path: Path, tiny_config: TrainConfig, finished_run: FinishedRun
) -> None:
    data = read_manifest(tiny_config.shards).fingerprint
    result = finished_run(tiny_config, tmp_path, "mine")
    finished_run(replace(tiny_config, seed=1), tmp_path, "other")
    elsewhere = replace(tiny_config, scaling=ScalingConfig(num_workers=2), shards="moved")
    assert trained_runs(str(tmp_path))[fingerprint(elsewhere, data)] == result
    assert len(trained_runs(str(tmp_path))) == 2
    assert trained_runs(str(tmp_path / "none")) == {}


def test_other_files_in_the_storage_are_no_runs(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "other").mkdir()
    assert trained_runs(str(tmp_path)) == {}


def test_a_run_that_started_from_other_weights_serves_nobody_else(
    tmp_path: Path, tiny_config: TrainConfig, finished_run: FinishedRun
) -> None:
    finished_run(tiny_config, tmp_path, "tuned", init_from="/somewhere/best")
    assert trained_runs(str(tmp_path)) == {}


def test_a_moved_storage_is_read_where_it_is_and_a_lost_checkpoint_is_left_out(
    tmp_path: Path, tiny_config: TrainConfig, finished_run: FinishedRun
) -> None:
    finished_run(tiny_config, tmp_path / "old", "mine")
    (tmp_path / "old").rename(tmp_path / "new")
    (found,) = trained_runs(str(tmp_path / "new")).values()
    assert found.best == str(tmp_path / "new" / "mine" / "best") and load(found.best)
    (tmp_path / "new" / "mine" / "best" / "checkpoint.json").unlink()
    assert trained_runs(str(tmp_path / "new")) == {}


def test_a_constant_rate_replaces_all_rates_and_nothing_else(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    original = tiny_checkpoint
    copied = with_constant_rate(original, 0.03, tmp_path)
    before, after = load(original), load(copied)
    assert all(bool((rate == 0.03).all()) for rate in after.rates.values())
    assert {name: rate.shape for name, rate in after.rates.items()} == {
        name: rate.shape for name, rate in before.rates.items()
    }
    assert all(torch.equal(after.weights[name], each) for name, each in before.weights.items())
    digest = content_digest(copied)
    assert with_constant_rate(original, 0.03, tmp_path) == copied
    assert content_digest(copied) == digest
    assert with_constant_rate(original, 0.01, tmp_path) != copied
    with pytest.raises(ValueError, match="must be positive"):
        with_constant_rate(original, 0.0, tmp_path)
    with pytest.raises(CheckpointError):
        with_constant_rate(tmp_path / "none", 0.01, tmp_path)


def test_the_best_rate_is_the_highest_finite_score(caplog: pytest.LogCaptureFixture) -> None:
    assert best_rate({0.001: 0.2, 0.003: 0.4, 0.01: math.nan}) == 0.003
    assert not caplog.records
    assert best_rate({0.001: 0.2, 0.003: 0.4}) == 0.003
    assert "at the edge" in caplog.text
    with pytest.raises(ValueError, match="adaptation diverged at all constant rates"):
        best_rate({0.001: math.nan})
