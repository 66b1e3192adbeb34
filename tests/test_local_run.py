"""Training without Ray and MLflow, in slices: on a machine that has neither."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from meta_train import local_run
from meta_train.checkpoint import load
from meta_train.local_run import SliceConfig, run_slice
from meta_train.log_local_run import LogConfig, log_local_run
from meta_train.run_log import MlflowConfig
from meta_train.train_config import TrainConfig

ROOT = Path(__file__).parents[1]

WITHOUT_RAY_AND_MLFLOW = """
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "mlflow"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
flags = sys.argv[1:]
for more in (["--until-step", "3"], []):
    sys.argv = ["train_locally.py", *flags, *more]
    runpy.run_path("meta_train/train_locally.py", run_name="__main__")
"""

SETTINGS = {
    "outer-loop.num-epochs": 2,
    "outer-loop.iterations-per-epoch": 2,
    "outer-loop.second-order-from-epoch": 1,
    "outer-loop.batch-pairs": 2,
    "inner-loop.num-steps": 2,
    "checkpoint-every": 10,
    "log-every": 1,
    "detector.network.backbone.width": 2,
    "detector.network.head.hidden-channels": 4,
    "validation.num-pairs": 2,
    "validation.batch-pairs": 2,
    "sampling.val-fraction": 0.3,
    "scaling.cpus-per-worker": 1,
}


def test_the_script_goes_on_by_the_same_command(tiny_shards: str, tmp_path: Path) -> None:
    """Two slices in a process that cannot import Ray or MLflow; then one run without a stop."""
    command = [sys.executable, "-c", WITHOUT_RAY_AND_MLFLOW, "quickstart"]
    command += ["--folder", str(tmp_path / "slices"), "--train.shards", tiny_shards]
    command += [f"--train.{name}={value}" for name, value in SETTINGS.items()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if "outer steps" in line]
    assert [line.split()[:3] for line in said] == [[n, "of", "4"] for n in ("3", "4")]
    assert done.stdout.count("the same command goes on") == 1

    config = load(tmp_path / "slices" / "step-00000004").config
    torch.set_num_threads(1)
    whole = run_slice(config, SliceConfig(folder=tmp_path / "whole"))
    assert whole.iteration == 4 and whole.best == tmp_path / "whole" / "best"
    for name in ("step-00000004", "best"):
        one, other = (load(tmp_path / run / name) for run in ("slices", "whole"))
        assert one.iteration == other.iteration
        moments = [
            {
                f"{n}.{key}": x
                for n, state in each.optimizer["state"].items()
                for key, x in state.items()
            }
            for each in (one, other)
        ]
        for mine, its in ((one.weights, other.weights), (one.rates, other.rates), moments):
            assert list(mine) == list(its)
            assert all(torch.equal(tensor, its[key]) for key, tensor in mine.items())
    curves = [points(tmp_path / run) for run in ("slices", "whole")]
    assert [point["iteration"] for point in curves[0]] == [1, 2, 2, 2, 3, 4, 4, 4]
    for point, same in zip(*curves, strict=True):
        for key, value in point.items():
            if not key.startswith(("speed/", "memory/", "sampling/")):
                assert value == same[key], key


def points(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]


def test_a_slice_that_was_killed_leaves_no_point_twice(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    first = run_slice(tiny_config, SliceConfig(folder=tmp_path, until_step=2))
    assert first.iteration == 2 and first.best is None
    with (tmp_path / "curves.jsonl").open("a") as file:  # after the checkpoint, then killed
        file.write('{"iteration": 3, "train/meta_loss": 9.0}\n{"iteration": 4, "tra')
    again = run_slice(tiny_config, SliceConfig(folder=tmp_path, minutes=1e-9))
    assert again.iteration == 3, "one step at least"
    losses = [
        (p["iteration"], p["train/meta_loss"]) for p in points(tmp_path) if "train/epoch" in p
    ]
    assert [iteration for iteration, _ in losses] == [1, 2, 3] and losses[2][1] != 9.0
    assert run_slice(tiny_config, SliceConfig(folder=tmp_path, until_step=3)) == again
    assert len(list(tmp_path.glob("step-*"))) == 2


def test_what_a_kill_or_a_bad_disk_leaves_is_mended(
    tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best, newest = tmp_path / "best", tmp_path / "step-00000003"

    def killed(folder: Path, checkpoint: Path, num_steps: int) -> None:
        if checkpoint == newest:
            raise KeyboardInterrupt

    torch.set_num_threads(1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(local_run, "_keep_best", killed)  # saved and validated, not reported
        run_slice(tiny_config, SliceConfig(folder=tmp_path, until_step=3))
    assert newest.exists() and not best.exists()
    assert run_slice(tiny_config, SliceConfig(folder=tmp_path, until_step=3)).best == best
    assert load(best).iteration == 3
    best.rename(tmp_path / ".best.old-99")  # killed while it was replaced
    (tmp_path / ".best.partial-99").mkdir()
    (newest / "state.pt").write_bytes(b"")
    before = run_slice(tiny_config, SliceConfig(folder=tmp_path, until_step=2))
    assert before.iteration == 2 and before.best == best and load(best).iteration == 3
    again = run_slice(tiny_config, SliceConfig(folder=tmp_path, until_step=3))
    assert again.iteration == 3 and load(again.checkpoint).iteration == 3
    assert [p["iteration"] for p in points(tmp_path) if "train/epoch" in p] == [1, 2, 3]
    names = {"best", "config.json", "curves.jsonl", "damaged-step-00000003"}
    assert {p.name for p in tmp_path.iterdir()} == names | {"step-00000002", "step-00000003"}


def test_another_config_is_refused(tiny_config: TrainConfig, tmp_path: Path) -> None:
    run_slice(tiny_config, SliceConfig(folder=tmp_path, until_step=1))
    with pytest.raises(ValueError, match="the run in this folder has other settings"):
        run_slice(replace(tiny_config, seed=5), SliceConfig(folder=tmp_path))
    with pytest.raises(ValueError, match="until_step at least 1"):
        SliceConfig(until_step=0)


def test_a_device_that_is_not_there_is_refused_before_the_folder_is_claimed(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    for scaling in (tiny_config.scaling, replace(tiny_config.scaling, use_gpu=True)):
        with pytest.raises(ValueError, match="device 'foo': one that this machine has expected"):
            run_slice(
                replace(tiny_config, scaling=scaling), SliceConfig(folder=tmp_path, device="foo")
            )
    assert not list(tmp_path.iterdir())


def test_its_curves_go_to_mlflow_later(
    tiny_config: TrainConfig, tiny_checkpoint: Path, tmp_path: Path, database: str
) -> None:
    folder = tmp_path / "run"
    run_slice(tiny_config, SliceConfig(folder=folder, until_step=2))
    mlflow = MlflowConfig(tracking_uri=database, undelivered_dir=str(tmp_path / "undelivered"))
    run_id = log_local_run(LogConfig(folder=folder, mlflow=mlflow))
    client = MlflowClient(database)
    run = client.get_run(run_id)
    assert run.info.run_name == "run" and run.data.params["inner_loop.num_steps"] == "2"
    stored = client.get_metric_history(run_id, "train/meta_loss")
    written = [point for point in local_run.curves(folder) if "train/meta_loss" in point]
    assert [(each.step, each.value) for each in stored] == [
        (point["iteration"], point["train/meta_loss"]) for point in written
    ]
    with pytest.raises(ValueError, match=r"config\.json: the settings of a local run expected"):
        log_local_run(LogConfig(folder=tmp_path, mlflow=mlflow))
    with pytest.raises(ValueError, match=r"best: the folder of train_locally\.py expected"):
        log_local_run(LogConfig(folder=tiny_checkpoint, mlflow=mlflow))
    assert len(client.search_runs([run.info.experiment_id])) == 1, "no run without a point"
