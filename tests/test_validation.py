"""Held-out pair tasks and the pictures of them."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from data_pipeline.episodes import stack
from data_pipeline.sampling import SamplingConfig
from meta_train import validation
from meta_train.detectors.backbone import BackboneConfig
from meta_train.detectors.fcos import FcosConfig
from meta_train.detectors.heads import HeadConfig
from meta_train.detectors.network import NetworkConfig
from meta_train.diagnosis import (
    adaptation_curves,
    loss_curves,
    loss_curves_figure,
    rates_figure,
    score_map_figure,
    score_maps,
)
from meta_train.kernel_rates import KernelRatesConfig
from meta_train.learner import Learner, initial_learner
from meta_train.outer_step import OuterStep, meta_gradient, to_episodes
from meta_train.train_config import ValidationConfig
from meta_train.validation import (
    held_out_rank,
    one_task,
    prepare,
    task_curves,
    validate,
    validation_stream,
)

SAMPLING = SamplingConfig(val_fraction=0.3)
CONFIG = ValidationConfig(num_pairs=4, batch_pairs=2)


@pytest.fixture(scope="module")
def learner() -> Learner:
    slim = NetworkConfig(
        backbone=BackboneConfig(width=2, weights="random"), head=HeadConfig(hidden_channels=4)
    )
    return initial_learner(
        FcosConfig(network=slim),
        KernelRatesConfig(initial=0.01),
        adapts="head",
        generator=torch.Generator().manual_seed(0),
    )


def run(
    learner: Learner, shards: str, lanes: range = range(2), diverges_at: float = 100.0
) -> dict[str, float]:
    held_out = validation_stream(shards, SAMPLING)
    return validate(learner, held_out, CONFIG, num_steps=2, diverges_at=diverges_at, lanes=lanes)


def test_losses_are_those_of_the_meta_loss_and_fall(learner: Learner, tiny_shards: str) -> None:
    found = run(learner, tiny_shards)
    held_out = validation_stream(tiny_shards, SAMPLING)
    batch = stack([held_out.episode(lane, count) for count in range(2) for lane in range(2)])
    episodes = to_episodes(batch, torch.device("cpu"), torch.float32)
    setup = OuterStep(gammas=(0.5, 0.3, 0.2), adapts="head", learns="head", second_order=False)
    expected = meta_gradient(learner.detector, learner.weights, learner.rates, episodes, setup)
    for k in range(3):
        cls, reg = (float(expected.query_losses[branch][k]) / 4 for branch in ("cls", "reg"))
        assert found[f"val/query_loss_cls_{k}"] == pytest.approx(cls, rel=1e-4)
        assert found[f"val/query_loss_reg_{k}"] == pytest.approx(reg, rel=1e-4)
        assert found[f"val/query_loss_{k}"] == pytest.approx(cls + reg, rel=1e-4)
    before, after = found["val/query_loss_0"], found["val/query_loss_2"]
    assert after < before and found["val/query_loss_ratio"] == pytest.approx(after / before)
    assert (
        len(found) == 4 * 3 + 2
        and found["val/diverged_pairs"] == 0
        and all(math.isfinite(value) for value in found.values())
    )


def test_pairs_that_diverge_are_left_out_and_counted(learner: Learner, tiny_shards: str) -> None:
    high = {name: torch.full_like(rate, 1.0) for name, rate in learner.rates.items()}
    wild = replace(learner, rates=high)
    held_out = validation_stream(tiny_shards, SAMPLING)
    pairs = [held_out.episode(lane, count) for count in range(2) for lane in range(2)]
    curves = [task_curves(wild, prepare(wild, one_task(each, wild)), 2) for each in pairs]
    growth = [float(last / first) for first, last in (each.support_ends for each in curves)]
    bound = (min(growth) + max(growth)) / 2
    kept = [each for each, by in zip(curves, growth, strict=True) if by < bound]
    assert 0 < len(kept) < 4, "some do and some do not"
    found = run(wild, tiny_shards, diverges_at=bound)
    assert found["val/diverged_pairs"] == 4 - len(kept)
    for k in (0, 2):
        loss = float(torch.stack([each.query["cls"][k] for each in kept]).mean())
        assert found[f"val/query_loss_cls_{k}"] == pytest.approx(loss, rel=1e-5)
    none = run(wild, tiny_shards, diverges_at=min(growth) / 2)
    assert none["val/diverged_pairs"] == 4 and math.isnan(none["val/query_loss_2"])


def test_fewer_pairs_that_diverge_rank_first_then_the_lower_loss() -> None:
    found = [
        {"val/query_loss_2": loss, "val/diverged_pairs": count}
        for count, loss in ((0.0, 0.5), (0.0, 90.0), (1.0, 0.1))
    ]
    ranks = [held_out_rank(metrics, 2) for metrics in found]
    assert ranks == sorted(ranks)
    assert not math.isfinite(
        held_out_rank({"val/diverged_pairs": 4.0, "val/query_loss_2": math.nan}, 2)
    )
    assert not math.isfinite(held_out_rank({"iteration": 3.0}, 2)), "no validation"


def test_workers_shares_add_up(
    learner: Learner, tiny_shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(learner, tiny_shards)
    shares: list[Tensor] = []
    monkeypatch.setattr(
        validation, "sum_over_workers", lambda tensors: shares.append(tensors[0]) or tensors
    )
    run(learner, tiny_shards, range(0, 2, 2))
    monkeypatch.setattr(validation, "sum_over_workers", lambda tensors: [tensors[0] + shares[0]])
    assert run(learner, tiny_shards, range(1, 2, 2)) == pytest.approx(whole)


def test_pair_tasks_are_plain_pairs_of_one_target(tiny_shards: str) -> None:
    held_out = validation_stream(tiny_shards, replace(SAMPLING, max_distance_frames=1))
    for lane in range(4):
        episode = held_out.episode(lane, 0)
        assert episode.query_present.all()
        sizes = episode.support_boxes[:, 2:] - episode.support_boxes[:, :2]
        assert sizes[2] / sizes[1] == pytest.approx([1.08, 1.08], rel=1e-5)
        again = validation_stream(tiny_shards, SAMPLING).episode(lane, 0)
        assert (again.support_images == episode.support_images).all(), "the same for every run"
    train = {f"video_{i}" for i in (0, 1, 3, 4, 5, 7)}
    assert not {name.split("/")[1] for name in held_out.table.videos} & train


def test_the_learner_is_as_it_was(learner: Learner, tiny_shards: str) -> None:
    before = {name: weight.clone() for name, weight in learner.weights.items()}
    run(learner, tiny_shards)
    assert all(torch.equal(learner.weights[name], before[name]) for name in before)


def test_pictures_show_every_step_and_every_pair(learner: Learner, tiny_shards: str) -> None:
    figure = adaptation_curves(run(learner, tiny_shards))
    assert [len(axes.lines[0].get_xdata()) for axes in figure.axes] == [3, 3, 3]

    held_out = validation_stream(tiny_shards, SAMPLING)
    batch = stack([held_out.episode(lane, 0) for lane in range(2)])
    episodes = to_episodes(batch, torch.device("cpu"), torch.float32)
    maps = score_maps(learner, episodes, num_steps=2)
    assert maps.shape == (2, 2, 33, 33)
    query = learner.features(episodes.query_images[1])
    support = learner.features(episodes.support_images[1])
    present = torch.ones(3, dtype=torch.bool)
    labels = learner.detector.label(episodes.support_boxes[1], present)
    adapted = learner.adapt(learner.weights, support, labels, num_steps=2)
    expected = learner.outputs(adapted, query)["cls"][0, 0]
    torch.testing.assert_close(torch.from_numpy(maps[1, 1]), expected)
    assert (maps[:, 0] != maps[:, 1]).any()
    assert len(score_map_figure(learner, episodes, num_steps=1).axes) == 8


def test_loss_curves_follow_both_sets_over_all_steps(learner: Learner, tiny_shards: str) -> None:
    held_out = validation_stream(tiny_shards, SAMPLING)
    batch = stack([held_out.episode(lane, count) for count in range(2) for lane in range(2)])
    episodes = to_episodes(batch, torch.device("cpu"), torch.float32)
    curves = loss_curves(learner, episodes, num_steps=5)
    assert {name: len(values) for name, values in curves.items()} == {"support": 6, "query": 6}
    expected = run(learner, tiny_shards)
    for k in range(3):
        assert curves["query"][k] == pytest.approx(expected[f"val/query_loss_{k}"], rel=1e-4)
    assert curves["support"] == sorted(curves["support"], reverse=True), "it learns the support"
    as_query = episodes._replace(
        query_images=episodes.support_images,
        query_boxes=episodes.support_boxes,
        query_present=torch.ones(4, 3, dtype=torch.bool),
    )
    assert loss_curves(learner, as_query, num_steps=1)["query"] == curves["support"][:2]
    (axes,) = loss_curves_figure(curves).axes
    assert [len(line.get_xdata()) for line in axes.lines] == [6, 6]


def test_a_picture_of_the_rates_has_a_row_for_each_layer(learner: Learner) -> None:
    (axes,) = rates_figure(learner.rates).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(learner.rates)[::-1]
