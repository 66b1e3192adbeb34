"""Ray Train: two workers equal one, runs resume and are found by their id."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray.train
import torch
from pyarrow.fs import LocalFileSystem

from meta_train import trainer
from meta_train.checkpoint import load, load_learner
from meta_train.train_config import ScalingConfig, TrainConfig
from meta_train.trainer import (
    TrainResult,
    UnknownRunError,
    create_run,
    fit,
    new_run_id,
    run_config,
)
from meta_train.worker import DivergedError, Rim, train


def test_a_run_is_created_once_and_found_again(tmp_path: Path, tiny_config: TrainConfig) -> None:
    storage = str(tmp_path / "runs")
    with pytest.raises(UnknownRunError, match=r"no run 'x' in .*expected one of: \(none yet\)"):
        run_config(storage, "x")
    created = create_run(tiny_config, storage, "first")
    create_run(replace(tiny_config, seed=1), storage, "second")
    (tmp_path / "runs" / "results").mkdir()
    assert run_config(storage, "first") == created == tiny_config
    with pytest.raises(UnknownRunError, match=r"expected one of: first, second$"):
        run_config(storage, "frist")
    with pytest.raises(ValueError, match=r"runs/first: a run of this id exists; resume it"):
        create_run(tiny_config, storage, "first")
    with pytest.raises(ValueError, match="shards"):
        create_run(TrainConfig(), storage, "third")
    assert new_run_id("small") != new_run_id("small")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the runs."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def result(ray_session: None, storage: Path, tiny_config: TrainConfig) -> TrainResult:
    """Of a run on two workers."""
    scaling = ScalingConfig(num_workers=2, cpus_per_worker=1)
    config = create_run(replace(tiny_config, scaling=scaling), str(storage), "two")
    return fit(config, storage=str(storage), run_id="two")


@pytest.mark.ray
def test_two_workers_equal_one_process(
    result: TrainResult, tmp_path: Path, tiny_config: TrainConfig
) -> None:
    """One process is the bare loop, whose samples and steps `fit` must not change.

    It takes one pair at a time, as each of the two workers does: Adam makes steps of usual size
    from gradients that are rounding alone, so the same pairs in one batch end 1e-4 away.
    """
    torch.set_num_threads(1)
    by_pairs = replace(tiny_config.outer_loop, pairs_at_once=1)
    alone = train(replace(tiny_config, outer_loop=by_pairs), Rim(scratch=tmp_path))
    found = load(result.last)
    assert found.iteration == 6
    for mine, its in ((found.weights, alone.weights), (found.rates, alone.rates)):
        assert list(mine) == list(its)
        for name, tensor in its.items():
            torch.testing.assert_close(mine[name], tensor.detach(), rtol=0, atol=1e-6)


def test_a_run_goes_back_to_the_newest_checkpoint_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray gives those that it kept by their rank."""
    reported = [
        SimpleNamespace(checkpoint=SimpleNamespace(path=f"at-{step}"), metrics={"iteration": step})
        for step in (1000, 2000, 4500, 4000)
    ]
    asked: list[str] = []
    monkeypatch.setattr(ray.train, "get_checkpoint", lambda: reported[2].checkpoint)
    monkeypatch.setattr(ray.train, "get_all_reported_checkpoints", lambda: reported)
    monkeypatch.setattr(
        trainer, "newest_whole", lambda stored, scratch: asked.extend(s.path for s in stored)
    )
    assert trainer._resume_from(LocalFileSystem(), 0, tmp_path) is None
    assert asked == ["at-4500", "at-4000", "at-2000", "at-1000"]


@pytest.mark.ray
def test_what_a_finished_run_leaves(
    result: TrainResult, storage: Path, tiny_config: TrainConfig
) -> None:
    assert Path(result.best) == storage / "two" / "best"
    best = load(result.best)
    assert best.iteration == result.metrics["iteration"] and best.iteration in (3, 6)
    assert load_learner(result.best).config == tiny_config.detector
    after = result.metrics["val/query_loss_2"]
    assert after < 1e9 and "val/query_loss_after" not in result.metrics


@pytest.mark.ray
def test_a_finished_run_resumes_to_the_same_result(result: TrainResult, storage: Path) -> None:
    again = fit(run_config(str(storage), "two"), storage=str(storage), run_id="two")
    assert again == result


@pytest.mark.ray
def test_divergence_is_an_error_that_is_not_tried_again(
    ray_session: None, storage: Path, tiny_config: TrainConfig
) -> None:
    outer = replace(
        tiny_config.outer_loop, learning_rate=1e30, backbone_learning_rate=1e30, clip_norm=1e30
    )
    config = create_run(replace(tiny_config, outer_loop=outer), str(storage), "wild")
    with pytest.raises(DivergedError, match=r"run wild: .*diverged\. Lower the outer rates"):
        fit(config, storage=str(storage), run_id="wild")
