"""The config of a run: JSON and back, fingerprint, refusals."""

import json
import os
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest

from data_pipeline.sampling import PairShares, SamplingConfig
from eval_jobs.presets import PRESETS
from meta_train.detectors.backbone import BackboneConfig
from meta_train.detectors.fcos import FcosConfig
from meta_train.detectors.network import NetworkConfig
from meta_train.kernel_rates import KernelRatesConfig
from meta_train.train_config import (
    OuterLoopConfig,
    ScalingConfig,
    TrainConfig,
    ValidationConfig,
    fingerprint,
    from_json,
    resolved,
    to_json,
)

UNUSUAL = TrainConfig(
    shards="s3://bucket/shards",
    detector=FcosConfig(
        network=NetworkConfig(backbone=BackboneConfig(width=8, weights="random")), reg_weight=0.5
    ),
    rates=KernelRatesConfig(learned_in=("reg",), granularity="parameter"),
    outer_loop=OuterLoopConfig(
        decay_at=(0.5, 0.75), method="baseline", batch_pairs=6, clip_norm=inf
    ),
    sampling=SamplingConfig(
        dataset_weights={"mine": 1.0}, still_pairs=PairShares(same_target=1.0, same_category=0.0)
    ),
    scaling=ScalingConfig(num_workers=3),
    seed=4,
)


@pytest.mark.parametrize("name", [*PRESETS, "unusual"])
def test_json_gives_the_config_back(name: str) -> None:
    config = UNUSUAL if name == "unusual" else PRESETS[name][1].train
    assert from_json(to_json(config)) == config
    assert from_json(json.dumps(json.loads(to_json(config)))) == config


def test_fields_that_are_missing_have_their_defaults() -> None:
    assert from_json('{"seed": 3}') == TrainConfig(seed=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outer_loops": {}}, r"\['outer_loops'\]"),
        ({"detector": {"network": {"backbone": {"with": 2}}}}, r"\['with'\]"),
        ({"outer_loop": {"method": "mamml"}}, "outer_loop.method"),
        ({"rates": {"learned_in": ["box"]}}, "rates.learned_in"),
        ({"seed": -1}, "seed must not be negative"),
        ({"inner_loop": {"num_steps": 0}}, "num_steps must be at least 1"),
    ],
)
def test_json_that_holds_something_else_is_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(json.dumps(changes))


def test_the_fingerprint_ignores_where_a_run_runs() -> None:
    base = fingerprint(UNUSUAL, "data")
    elsewhere = replace(
        UNUSUAL,
        scaling=ScalingConfig(use_gpu=True, cuda_graphs=False),
        outer_loop=replace(UNUSUAL.outer_loop, pairs_at_once=2),
        shards="/elsewhere",
        log_every=3,
    )
    assert fingerprint(replace(elsewhere, checkpoint_every=9), "data") == base
    assert fingerprint(UNUSUAL, "other data") != base
    assert fingerprint(replace(UNUSUAL, seed=5), "data") != base
    longer = replace(UNUSUAL, outer_loop=replace(UNUSUAL.outer_loop, num_epochs=21))
    assert fingerprint(longer, "data") != base


def test_the_fingerprint_stays_from_release_to_release() -> None:
    """Else nobody's finished trainings are found again. Where it must change, say so to users."""
    assert fingerprint(TrainConfig(shards="x"), "d") == "50db4f71a1da370b"


def test_a_training_of_other_draws_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = fingerprint(TrainConfig(shards="shards"), "data")
    monkeypatch.setattr("meta_train.train_config.SAMPLING_VERSION", 1)
    assert fingerprint(TrainConfig(shards="shards"), "data") != now


def test_the_fingerprint_knows_first_weights_by_their_content(tmp_path: Path) -> None:
    def of(path: Path) -> str:
        backbone = BackboneConfig(weights=str(path))
        detector = FcosConfig(network=NetworkConfig(backbone=backbone))
        return fingerprint(TrainConfig(shards="shards", detector=detector), "data")

    here, there = tmp_path / "a.pth", tmp_path / "b.pth"
    here.write_bytes(b"one")
    there.write_bytes(b"one")
    first = of(here)
    assert of(there) == first
    there.write_bytes(b"two")
    os.utime(there, ns=(0, 0))
    assert of(there) != first


@pytest.mark.parametrize("name", ["learning_rate", "clip_norm"])
def test_what_is_no_number_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive, got nan"):
        OuterLoopConfig(**{name: nan})


def test_local_shards_become_absolute_and_must_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolved(TrainConfig(shards="data/shards")).shards == str(tmp_path / "data/shards")
    assert resolved(UNUSUAL).shards == "s3://bucket/shards"
    with pytest.raises(ValueError, match=r"shards: .* not set.*preprocess"):
        resolved(TrainConfig())


def test_decay() -> None:
    outer = OuterLoopConfig(
        num_epochs=2, iterations_per_epoch=50, decay_at=(0.5, 0.9), decay_factor=0.1
    )
    factors = [outer.decay(iteration) for iteration in (0, 49, 50, 89, 90, 99)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert OuterLoopConfig().decay(150_000) == 1, "the paper names no schedule"


def test_the_defaults_are_the_papers() -> None:
    outer = TrainConfig().outer_loop
    assert (outer.num_epochs, outer.iterations_per_epoch, outer.batch_pairs) == (20, 10_000, 32)
    assert (outer.learning_rate, outer.second_order_from_epoch) == (1e-4, 15)
    assert TrainConfig().inner_loop.num_steps == 4
    assert TrainConfig().rates.initial == 0.001
    assert TrainConfig().detector.network.backbone == BackboneConfig(width=64, weights="imagenet")
    assert outer.learns == "head+block4", "the first three blocks stay frozen"


@pytest.mark.parametrize(
    ("config_class", "changes", "message"),
    [
        (OuterLoopConfig, {"num_epochs": 0}, "num_epochs must be at least 1, got 0"),
        (OuterLoopConfig, {"pairs_at_once": 0}, "pairs_at_once"),
        (OuterLoopConfig, {"rates_learning_rate": 0.0}, "rates_learning_rate must be positive"),
        (OuterLoopConfig, {"clip_norm": -1.0}, "clip_norm must be positive"),
        (OuterLoopConfig, {"decay_at": (1.0,)}, r"fractions between 0 and 1, got \(1.0,\)"),
        (OuterLoopConfig, {"decay_factor": 0.0}, "decay_factor"),
        (OuterLoopConfig, {"second_order_from_epoch": -1}, "second_order_from_epoch"),
        (ValidationConfig, {"num_pairs": 30}, "a multiple of batch_pairs"),
        (ValidationConfig, {"num_pairs": 0}, "num_pairs must be at least 1"),
        (ValidationConfig, {"batch_pairs": 0}, "batch_pairs"),
        (ValidationConfig, {"every_epochs": 0}, "every_epochs"),
        (ScalingConfig, {"num_workers": 0}, "at least one worker"),
        (ScalingConfig, {"min_workers": 2}, r"between 1 and num_workers \(1\), got 2"),
        (ScalingConfig, {"min_workers": 0}, "min_workers must lie between"),
        (ScalingConfig, {"max_failures": -2}, "max_failures"),
        (ScalingConfig, {"timeout_seconds": 0}, "timeout_seconds"),
        (TrainConfig, {"checkpoint_every": 0}, "checkpoint_every and log_every at least 1"),
        (TrainConfig, {"scaling": ScalingConfig(num_workers=3)}, "multiple of num_workers"),
        (
            TrainConfig,
            {"scaling": ScalingConfig(num_workers=8, min_workers=3)},
            r"batch_pairs \(32\) must be a multiple of min_workers \(3\)",
        ),
    ],
)
def test_wrong_values_are_refused(
    config_class: type, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config_class(**changes)
