"""Checkpoints: whole or refused."""

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest
import torch

from meta_train import checkpoint as checkpoints
from meta_train.checkpoint import Checkpoint, CheckpointError, load, load_learner, save
from meta_train.detectors.backbone import BackboneConfig
from meta_train.detectors.fcos import FcosConfig
from meta_train.detectors.heads import HeadConfig
from meta_train.detectors.network import NetworkConfig
from meta_train.inner_loop import InnerLoopConfig
from meta_train.kernel_rates import KernelRatesConfig
from meta_train.learner import initial_learner
from meta_train.state_file import require_device
from meta_train.train_config import TrainConfig

CONFIG = TrainConfig(
    detector=FcosConfig(
        network=NetworkConfig(
            backbone=BackboneConfig(width=2, weights="random"), head=HeadConfig(hidden_channels=4)
        )
    ),
    inner_loop=InnerLoopConfig(adapts="head+block4"),
    shards="somewhere",
)


def make_checkpoint(seed: int = 0, iteration: int = 7) -> Checkpoint:
    learner = initial_learner(
        CONFIG.detector,
        KernelRatesConfig(),
        adapts=CONFIG.inner_loop.adapts,
        generator=torch.Generator().manual_seed(seed),
    )
    adam = torch.optim.Adam(list(learner.weights.values()), lr=0.1)
    for weight in learner.weights.values():
        weight.grad = torch.ones_like(weight)
    adam.step()
    return Checkpoint(
        config=CONFIG,
        weights={name: weight.detach() for name, weight in learner.weights.items()},
        rates=learner.rates,
        optimizer=adam.state_dict(),
        iteration=iteration,
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(make_checkpoint(), tmp_path / "step-7")


def test_everything_comes_back(saved: Path) -> None:
    written, read = make_checkpoint(), load(saved)
    assert read.config == written.config and read.iteration == 7
    for mine, its in ((read.weights, written.weights), (read.rates, written.rates)):
        assert list(mine) == list(its)
        assert all(torch.equal(mine[name], its[name]) for name in its)
    moments = read.optimizer["state"][3]
    assert torch.equal(moments["exp_avg"], written.optimizer["state"][3]["exp_avg"])
    learner = load_learner(saved)
    assert learner.config == CONFIG.detector and learner.adapts == "head+block4"
    assert [path.name for path in saved.parent.iterdir()] == ["step-7"], "nothing half-written"


def test_nothing_but_tensors_is_unpickled(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    real = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **kw: given.append(kw) or real(*a, **kw))
    load(saved)
    assert given[0]["weights_only"] is True


def test_an_old_checkpoint_is_replaced_whole(saved: Path) -> None:
    (saved / "leftover").touch()
    save(make_checkpoint(seed=1, iteration=9), saved)
    assert load(saved).iteration == 9
    assert not (saved / "leftover").exists()
    assert [path.name for path in saved.parent.iterdir()] == ["step-7"]


def test_a_write_that_fails_keeps_the_old_checkpoint(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints, "to_json", fail)
    for folder in (saved, saved.with_name("step-8")):
        with pytest.raises(OSError, match="disk full"):
            save(make_checkpoint(seed=1, iteration=8), folder)
    monkeypatch.undo()
    assert load(saved).iteration == 7
    assert not saved.with_name("step-8").exists()
    save(make_checkpoint(seed=1, iteration=8), saved)
    assert load(saved).iteration == 8


def test_a_full_disk_is_named_and_keeps_the_old_checkpoint(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch does: its writer hides the disk's error behind one of its own."""

    def fill_up(state: object, file: IO[bytes]) -> None:
        file.write(b"half of it")
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904

    monkeypatch.setattr(torch, "save", fill_up)
    for folder in (saved, saved.with_name("step-8")):
        with pytest.raises(CheckpointError, match=rf"{folder.name}: no space left.*free some"):
            save(make_checkpoint(seed=1, iteration=8), folder)
    monkeypatch.undo()
    assert load(saved).iteration == 7
    assert [path.name for path in saved.parent.iterdir()] == ["step-7"], "nothing half-written"


@pytest.mark.parametrize("name", ["state.pt", "config.json"])
def test_a_flipped_byte_is_seen(saved: Path, name: str) -> None:
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}.*does not match the digest"):
        load(saved)


@pytest.mark.parametrize("name", ["state.pt", "config.json"])
def test_a_file_that_is_cut_short_or_gone_is_named(saved: Path, name: str) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=rf"{name}.*cut"):
        load(saved)
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: missing"):
        load(saved)


def test_no_checkpoint_there(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=r"checkpoint\.json: not found; expected"):
            load(folder)
    with pytest.raises(CheckpointError, match=r"nowhere: a checkpoint expected, there is nothing"):
        load(f"file://{tmp_path}/nowhere")


def test_a_uri_is_fetched_unless_it_holds_a_secret(saved: Path, tmp_path: Path) -> None:
    assert load(f"file://{saved}").iteration == 7
    (tmp_path / "cut").mkdir()
    for file in saved.iterdir():
        (tmp_path / "cut" / file.name).write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"^file://{tmp_path}/cut/checkpoint.json: not a"):
        load(f"file://{tmp_path}/cut")
    with pytest.raises(ValueError, match=r"checkpoint: a URI without credentials"):
        load("s3://bucket/best?secret_key=x")


@pytest.mark.parametrize("text", ["", "[]", "{}", "7", '{"format_version": 1'])
def test_a_manifest_that_is_none(saved: Path, text: str) -> None:
    (saved / "checkpoint.json").write_text(text)
    with pytest.raises(CheckpointError, match="not a checkpoint's manifest"):
        load(saved)


@pytest.mark.parametrize(
    "changes",
    [{"format_version": 2}, {"sha256": {}}, {"sha256": {"state.pt": ""}}, {"iteration": None}],
)
def test_another_format_is_refused(saved: Path, changes: dict[str, object]) -> None:
    path = saved / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError, match=r"checkpoint\.json"):
        load(saved)


def test_a_config_of_another_release_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "to_json", lambda _: '{"from": "the future"}')
    folder = save(make_checkpoint(), tmp_path / "step")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"config\.json.*'from'"):
        load(folder)


def test_the_digest_tells_contents_apart(tmp_path: Path) -> None:
    one, same, other = (
        save(make_checkpoint(seed), tmp_path / str(number)) for number, seed in enumerate((0, 0, 1))
    )
    digest = checkpoints.content_digest(one)
    assert digest == checkpoints.content_digest(same) != checkpoints.content_digest(other)
    changed = replace(make_checkpoint(), config=replace(CONFIG, seed=1))
    assert checkpoints.content_digest(save(changed, tmp_path / "changed")) != digest
    with pytest.raises(CheckpointError):
        checkpoints.content_digest(tmp_path / "nowhere")


def test_what_pytorch_says_of_a_device_is_shortened_with_a_sign() -> None:
    with pytest.raises(ValueError, match=r" says: Expected one of.*\.\.\. \(\d+ characters\)$"):
        require_device("g" * 99)
    with pytest.raises(ValueError, match="device 'hpu': one that this machine has expected"):
        require_device("hpu")  # PyTorch imports a module for it, which is not there
