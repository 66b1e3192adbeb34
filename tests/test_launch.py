"""meta_train.launch: what the command line means."""

from dataclasses import replace
from pathlib import Path

import pytest

from eval_jobs.presets import PRESETS
from meta_train import launch
from meta_train.launch import _parse, _resuming
from meta_train.train_config import ScalingConfig, TrainConfig
from meta_train.trainer import create_run


def test_no_argument_is_the_quickstart() -> None:
    preset, config = _parse([])
    assert preset == "quickstart"
    assert config.pipeline == PRESETS["quickstart"][1]
    assert config.resume is None


def test_a_setting_without_a_preset_changes_the_quickstart() -> None:
    preset, config = _parse(["--train.seed", "3"])
    assert preset == "quickstart"
    assert config.pipeline.train.seed == 3


def test_without_shards_there_is_neither_a_run_nor_ray(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def starts(address: str) -> None:
        raise AssertionError(f"Ray was started at {address}")

    monkeypatch.setattr(launch, "ray_session", starts)
    monkeypatch.setattr("sys.argv", ["launch.py", "small"])
    with pytest.raises(SystemExit, match=r"error: shards: .* with --train\.shards"):
        launch.main()
    assert not capsys.readouterr().out


@pytest.fixture
def a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """A run of two workers, named a-run, in the folder that scripts look in."""
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(shards="shards", seed=7, scaling=ScalingConfig(num_workers=2))
    return create_run(config, "runs", "a-run")


def test_resume_keeps_the_run_s_settings_but_where_it_runs(a_run: TrainConfig) -> None:
    where = [
        "--storage",
        "runs",
        "--mlflow.experiment",
        "x",
        "--train.scaling.cpus-per-worker",
        "3",
    ]
    _, config = _parse(["--resume", "a-run", *where])
    assert (config.resume, config.pipeline.mlflow.experiment) == ("a-run", "x")
    assert config.pipeline.train == replace(
        a_run, scaling=ScalingConfig(num_workers=2, cpus_per_worker=3)
    )
    _, config = _parse(["--resume", "a-run", "--train.scaling.num-workers", "1"])
    assert config.pipeline.train.scaling.num_workers == 1, "also where it is the preset's number"
    for preset in ([], ["paper"]):
        given = ["--train.scaling.num-workers", "8", "--train.scaling.min-workers", "4"]
        _, config = _parse([*preset, "--resume=a-run", *given])
        assert config.pipeline.train.outer_loop.batch_pairs == 32, "the run's, not the preset's"
        assert config.pipeline.train.scaling.num_workers == 8


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--train.outer-loop.learning-rate", "0.1"], "train.outer_loop.learning_rate"),
        (["--init-from", "runs/another/best"], "init_from"),
        (["--synthetic.seed", "7"], "synthetic.seed"),
    ],
)
def test_resume_refuses_settings_that_it_would_not_heed(
    a_run: TrainConfig, flags: list[str], named: str
) -> None:
    with pytest.raises(SystemExit, match=named):
        _parse(["--resume", "a-run", *flags])


def test_the_command_that_resumes_a_run_names_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    _, usual = _parse([])
    assert _resuming(usual, "a") == "python meta_train/launch.py --resume a"
    _, other = _parse(["--storage", "my runs", "--mlflow.tracking-uri", "http://10.0.0.7:5000"])
    assert _resuming(other, "a").endswith(
        "--resume a --storage 'my runs' --mlflow.tracking-uri http://10.0.0.7:5000"
    )
