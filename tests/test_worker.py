"""The loop of a training process, bare: no Ray, no MLflow."""

import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from data_pipeline.episodes import stack
from data_pipeline.shards import ShardError
from data_pipeline.stream import EpisodeStream
from meta_train import train_state, worker
from meta_train.baseline_step import batch_gradient
from meta_train.checkpoint import CheckpointError, load
from meta_train.detectors.network import branch_features, outputs, trunk_features
from meta_train.learner import Learner
from meta_train.outer_step import (
    Episodes,
    MetaGradient,
    OuterStep,
    learned_weights,
    to_episodes,
)
from meta_train.train_config import TrainConfig
from meta_train.train_state import TrainState, require_start
from meta_train.worker import DivergedError, Metrics, Rim, train


@dataclass
class Recorder:
    """Keeps what a run sends outside."""

    folder: Path
    points: dict[int, Metrics] = field(default_factory=dict)
    reports: list[tuple[Metrics, Path | None]] = field(default_factory=list)
    progress: list[int] = field(default_factory=list)

    def rim(self) -> Rim:
        return Rim(
            scratch=self.folder,
            log=lambda values, at: self.points.setdefault(at, {}).update(values),
            report=lambda metrics, folder: self.reports.append((metrics, folder)),
            progress=lambda at, text: self.progress.append(at),
        )

    def checkpoints(self) -> list[str]:
        return [folder.name for _, folder in self.reports if folder]


@dataclass
class Run:
    """One training and what it left."""

    config: TrainConfig
    learner: Learner
    recorder: Recorder


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory, tiny_config: TrainConfig) -> Callable[..., Run]:
    """Runs a training with some parts of the outer loop's config changed."""

    def go(resume: Path | None = None, init_from: Path | None = None, **changes: object) -> Run:
        outer = {name for name in changes if hasattr(tiny_config.outer_loop, name)}
        config = replace(
            tiny_config,
            outer_loop=replace(tiny_config.outer_loop, **{n: changes[n] for n in outer}),
            **{name: value for name, value in changes.items() if name not in outer},
        )
        recorder = Recorder(tmp_path_factory.mktemp("run"))
        torch.set_num_threads(1)
        learner = train(config, recorder.rim(), resume=resume, init_from=init_from)
        return Run(config, learner, recorder)

    return go


@pytest.fixture(scope="module")
def whole(go: Callable[..., Run]) -> Run:
    """The run of six steps, uninterrupted."""
    return go()


STANDING_STILL = {
    "learning_rate": 1e-20,
    "backbone_learning_rate": 1e-20,
    "rates_learning_rate": 1e-20,
    "num_epochs": 1,
}


def test_a_stop_leaves_a_checkpoint_to_go_on_from(whole: Run, tiny_config: TrainConfig) -> None:
    recorder = Recorder(whole.recorder.folder / "stopped")
    torch.set_num_threads(1)
    train(tiny_config, replace(recorder.rim(), stops=lambda iteration: iteration == 1))
    assert recorder.checkpoints() == ["step-00000001"] and list(recorder.points) == [1]


def test_pairs_that_diverge_are_counted(go: Callable[..., Run], tiny_config: TrainConfig) -> None:
    """With rates of 1000 all do: then there is no gradient, and after three such steps no run."""
    mild = go(num_epochs=1)
    assert [point["train/diverged_pairs"] for point in mild.recorder.points.values()] == [0] * 3
    with pytest.raises(DivergedError, match="3 in a row"):
        go(num_epochs=1, rates=replace(tiny_config.rates, initial=1e3), log_every=1)


def test_what_a_run_sends_outside(whole: Run) -> None:
    recorder = whole.recorder
    assert recorder.checkpoints() == [f"step-{n:08d}" for n in (2, 3, 4, 6)]
    assert recorder.progress == list(recorder.points) == [1, 2, 3, 4, 5, 6]
    validated = [metrics["iteration"] for metrics, _ in recorder.reports if "val/iou_2" in metrics]
    assert validated == [3, 6], "each epoch ends with a validation"
    last = recorder.points[6]
    assert last["train/epoch"] == 2 and last["train/meta_loss"] > 0
    names = {"train/query_loss_cls_2", "rates/cls.head.hidden0/mean", "val/query_loss_2"}
    assert names | {"train/grad_norm_rates", "speed/pairs_per_second"} <= set(last)
    sampled = {name: value for name, value in last.items() if name.startswith("sampling/dataset")}
    assert sum(sampled.values()) == pytest.approx(1) and last["sampling/without_target"] <= 1
    assert {at for at, point in recorder.points.items() if sampled.keys() <= set(point)} <= {3, 6}
    meta_loss = sum(
        gamma * (last[f"train/query_loss_cls_{k}"] + last[f"train/query_loss_reg_{k}"])
        for k, gamma in enumerate(worker._setup(whole.config, 5).gammas)
    )
    assert last["train/meta_loss"] == pytest.approx(meta_loss, rel=1e-6)


def test_a_resumed_run_ends_with_the_same_bits(whole: Run, go: Callable[..., Run]) -> None:
    resumed = go(resume=whole.recorder.folder / "step-00000002")
    assert list(resumed.recorder.points) == [3, 4, 5, 6]
    one, other = (load(run.recorder.folder / "step-00000006") for run in (whole, resumed))
    assert_same(one.weights, other.weights)
    assert_same(one.rates, other.rates)
    for number, moments in one.optimizer["state"].items():
        assert_same(moments, other.optimizer["state"][number])
    assert one.optimizer["param_groups"] == other.optimizer["param_groups"]
    for at, point in resumed.recorder.points.items():
        for name, value in point.items():
            if not name.startswith(("speed/", "memory/", "sampling/")):
                assert value == whole.recorder.points[at][name], name


@pytest.mark.parametrize(
    ("is_late", "given"), [(False, (0, 0, 0, 0, 1, 1)), (True, (0, 0, 0, 1, 1, 1))]
)
def test_a_notice_saves_a_checkpoint_at_once_and_changes_nothing_else(
    whole: Run,
    tiny_config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_late: bool,
    given: tuple[int, ...],
) -> None:
    """At once is one step later where the device is behind the host; the curves do not matter."""
    monkeypatch.setattr(worker, "_is_late", lambda device: is_late)
    recorder, notices = Recorder(tmp_path), iter(given)
    config = replace(tiny_config, log_every=20)
    train(config, replace(recorder.rim(), notices=lambda: next(notices)))
    assert recorder.checkpoints() == [f"step-{n:08d}" for n in (2, 3, 4, 5, 6)]
    one, other = (load(folder / "step-00000006") for folder in (tmp_path, whole.recorder.folder))
    assert_same(one.weights, other.weights)
    assert_same(one.rates, other.rates)


def test_a_finished_run_has_nothing_left_to_do(whole: Run, go: Callable[..., Run]) -> None:
    again = go(resume=whole.recorder.folder / "step-00000006")
    assert again.recorder.points == {} and again.recorder.reports == []
    assert_same(again.learner.weights, whole.learner.weights)


def test_the_seed_decides_everything(whole: Run, go: Callable[..., Run]) -> None:
    expected = load(whole.recorder.folder / "step-00000003").weights
    assert_same(go(num_epochs=1).learner.weights, expected)
    name = "cls.head.hidden0.weight"
    assert not torch.equal(go(num_epochs=1, seed=1).learner.weights[name], expected[name])


def test_splitting_a_batch_changes_nothing(whole: Run, tiny_config: TrainConfig) -> None:
    source = EpisodeStream(tiny_config.shards, tiny_config.sampling, split="train", seed=0)
    batch = stack([source.episode(lane, 0) for lane in range(3)])
    learner = whole.learner.to("cpu", torch.float64)
    setup, found = worker._setup(tiny_config, 4), []
    for size in (3, 2):
        outer = replace(tiny_config.outer_loop, pairs_at_once=size)
        config = replace(tiny_config, outer_loop=outer)
        found.append(worker._gradient(config, learner, batch, setup, torch.device("cpu")))
    assert found[0].num_pairs == found[1].num_pairs == 3
    for name, gradient in (found[0].weights | found[0].rates | found[0].query_losses).items():
        other = (found[1].weights | found[1].rates | found[1].query_losses)[name]
        torch.testing.assert_close(other, gradient, rtol=1e-9, atol=1e-12)


def test_workers_with_uneven_shares_weigh_as_their_pairs(
    whole: Run, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker has two pairs, the other one: sums and pair counts add up before the mean."""
    source = EpisodeStream(tiny_config.shards, tiny_config.sampling, split="train", seed=0)
    pairs = [source.episode(lane, 0) for lane in range(3)]
    learner = whole.learner.to("cpu", torch.float64)
    setup, device = worker._setup(tiny_config, 4), torch.device("cpu")
    shares = [
        worker._gradient(tiny_config, learner, stack(part), setup, device)
        for part in (pairs[:2], pairs[2:])
    ]
    sent: list[torch.Tensor] = []
    monkeypatch.setattr(worker, "sum_over_workers", lambda mine: sent.extend(mine) or mine)
    worker._over_workers(shares[0], 1)
    monkeypatch.setattr(
        worker, "sum_over_workers", lambda mine: [a + b for a, b in zip(sent, mine, strict=True)]
    )
    found, num_notices = worker._over_workers(shares[1], 2)
    expected = worker._gradient(tiny_config, learner, stack(pairs), setup, device)
    assert num_notices == 3
    assert found.num_pairs == expected.num_pairs == 3
    summed = found.weights | found.rates
    for name, gradient in (expected.weights | expected.rates).items():
        torch.testing.assert_close(summed[name], gradient, rtol=1e-9, atol=1e-12)


def test_workers_start_alike_and_compare_at_every_checkpoint(
    go: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared, sent = [], []
    monkeypatch.setattr(worker, "require_equal", lambda tensors, at: compared.append(at))
    monkeypatch.setattr(
        train_state, "broadcast_from_first", lambda tensors: sent.append(len(tensors)) or tensors
    )
    run = go(num_epochs=1)
    assert compared == [2, 3]
    assert sent == [len(run.learner.weights), len(run.learner.rates)]


@pytest.mark.parametrize("learns", ["head", "head+block4", "all"])
def test_what_is_learned_changes_and_what_is_frozen_does_not(
    go: Callable[..., Run], learns: str
) -> None:
    run = go(learns=learns, num_epochs=1)
    start = go(learns=learns, iterations_per_epoch=1, **STANDING_STILL).learner
    changed = {n for n, w in run.learner.weights.items() if not torch.equal(w, start.weights[n])}
    learned = set(learned_weights(start.weights, learns))
    assert changed <= learned
    assert {name for name in learned if name.endswith("weight")} <= changed
    assert all(not torch.equal(r, start.rates[n]) for n, r in run.learner.rates.items())


def test_rates_that_are_not_learned_stay(go: Callable[..., Run], tiny_config: TrainConfig) -> None:
    run = go(num_epochs=1, rates=replace(tiny_config.rates, learned_in=("reg",)))
    for name, rate in run.learner.rates.items():
        assert bool((rate == 0.001).all()) == name.startswith("cls")


def test_gammas_and_order_follow_the_epoch(tiny_config: TrainConfig) -> None:
    setups = [worker._setup(tiny_config, iteration) for iteration in range(6)]
    assert [setup.second_order for setup in setups] == [False] * 3 + [True] * 3
    assert setups[0].gammas == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert setups[5].gammas[0] < setups[1].gammas[0] < setups[0].gammas[0]


def test_an_outer_step_takes_the_mean_gradient_and_clips_it(
    whole: Run, tiny_config: TrainConfig
) -> None:
    learner = whole.learner.to("cpu", torch.float64)
    state = TrainState(tiny_config, learner, 4)
    sums = {name: torch.full_like(weight, 3.0) for name, weight in learner.weights.items()}
    rates = {name: torch.full_like(rate, 1e-3) for name, rate in learner.rates.items()}
    norms = state.step(MetaGradient(sums, rates, {}, num_pairs=torch.tensor(2.0)), decay=1.0)
    count = sum(weight.numel() for weight in sums.values())
    assert float(norms["weights"]) == pytest.approx(1.5 * count**0.5)
    count = sum(rate.numel() for rate in rates.values())
    assert float(norms["rates"]) == pytest.approx(0.5e-3 * count**0.5)
    clipped = torch.cat([weight.grad.flatten() for weight in learner.weights.values()])
    assert float(clipped.norm()) == pytest.approx(tiny_config.outer_loop.clip_norm, rel=1e-5)
    assert state.iteration == 5


def test_a_gradient_that_is_not_finite_counts_as_none(whole: Run, tiny_config: TrainConfig) -> None:
    """Adam goes on by its momentum, as it does where the gradient is 0."""

    def filled(tensors: dict[str, torch.Tensor], value: float) -> dict[str, torch.Tensor]:
        return {name: torch.full_like(tensor, value) for name, tensor in tensors.items()}

    ends = []
    for bad_weights, bad_rates in ((0.0, 0.0), (1.0, math.nan), (math.inf, 1.0)):
        learner = whole.learner.to("cpu", torch.float64)
        learner = replace(
            learner,
            weights={name: weight.clone() for name, weight in learner.weights.items()},
            rates={name: rate.clone() for name, rate in learner.rates.items()},
        )
        state = TrainState(tiny_config, learner, 4)
        good = filled(learner.weights, 1.0), filled(learner.rates, 1.0)
        bad = filled(learner.weights, bad_weights), filled(learner.rates, bad_rates)
        state.step(MetaGradient(*good, {}, num_pairs=torch.tensor(2.0)), decay=1.0)
        state.step(MetaGradient(*bad, {}, num_pairs=torch.tensor(2.0)), decay=1.0)
        failures = int(bad_rates != 0)
        assert state.most_failures == failures
        state.step(MetaGradient(*good, {}, num_pairs=torch.tensor(2.0)), decay=1.0)
        state.step(MetaGradient(*bad, {}, num_pairs=torch.tensor(2.0)), decay=1.0)
        assert state.most_failures == failures, "not in a row"
        state.step(MetaGradient(*bad, {}, num_pairs=torch.tensor(2.0)), decay=1.0)
        state.step(MetaGradient(*good, {}, num_pairs=torch.tensor(2.0)), decay=1.0)
        assert state.most_failures == 2 * failures, "also where the next one was finite"
        assert state.iteration == 10
        ends.append(learner.weights | learner.rates)
    assert_same(ends[1], ends[0])
    assert_same(ends[2], ends[0])


def test_decay_lowers_adams_rates(go: Callable[..., Run]) -> None:
    run = go(decay_at=(0.5,), decay_factor=0.1, num_epochs=1)
    groups = load(run.recorder.folder / "step-00000003").optimizer["param_groups"]
    assert [group["lr"] for group in groups] == pytest.approx([1e-4, 1e-5, 1e-4])


def test_another_runs_checkpoint_is_a_start(whole: Run, go: Callable[..., Run]) -> None:
    source = whole.recorder.folder / "step-00000006"
    tuned = go(init_from=source, **STANDING_STILL)
    assert list(tuned.recorder.points) == [1, 2, 3], "from the first step"
    for name, weight in load(source).weights.items():
        torch.testing.assert_close(tuned.learner.weights[name], weight, rtol=0, atol=1e-7)


def test_another_network_is_refused(
    whole: Run, go: Callable[..., Run], tiny_config: TrainConfig
) -> None:
    source = whole.recorder.folder / "step-00000006"
    network = tiny_config.detector.network
    wider = replace(network, head=replace(network.head, hidden_channels=8))
    other = replace(tiny_config.detector, network=wider)
    with pytest.raises(
        CheckpointError, match=r"step-00000006: holds another network .*'hidden_channels': 8"
    ):
        go(init_from=source, detector=other)
    adapts = replace(tiny_config.inner_loop, adapts="head+block4")
    with pytest.raises(CheckpointError, match=r"another network.*'head\+block4'"):
        go(init_from=source, inner_loop=adapts)


def test_a_run_may_start_from_another_s_network_with_losses_of_its_own(
    whole: Run, go: Callable[..., Run], tiny_config: TrainConfig
) -> None:
    lighter = replace(tiny_config.detector, cls_weight=0.5)
    started = go(init_from=whole.recorder.folder / "step-00000006", detector=lighter)
    assert started.learner.config == lighter


def test_what_no_worker_could_start_from_is_refused_before_a_run(
    whole: Run, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    source = whole.recorder.folder / "step-00000006"
    require_start(tiny_config, None)
    require_start(tiny_config, source)
    wider = replace(tiny_config.inner_loop, adapts="head+block4")
    with pytest.raises(CheckpointError, match="another network"):
        require_start(replace(tiny_config, inner_loop=wider), source)
    network = tiny_config.detector.network
    backbone = replace(network.backbone, width=64, weights=str(tmp_path / "none.pth"))
    detector = replace(tiny_config.detector, network=replace(network, backbone=backbone))
    with pytest.raises(ValueError, match=r"none\.pth' is neither"):
        require_start(replace(tiny_config, detector=detector), None)
    nobody = replace(tiny_config, sampling=replace(tiny_config.sampling, val_fraction=1e-9))
    with pytest.raises(ShardError, match="'val' split"):
        require_start(nobody, None)


def test_adam_counts_its_steps_on_the_host(whole: Run, tiny_config: TrainConfig) -> None:
    """Else each step of a resumed run would wait for its device."""
    source = EpisodeStream(tiny_config.shards, tiny_config.sampling, split="train", seed=0)
    folder = whole.recorder.folder / "step-00000004"
    device = torch.device("meta")
    state = TrainState.start(tiny_config, source, device, resume=folder, init_from=None)
    moments = list(state.adam.state.values())
    assert moments and all(each["exp_avg"].device == device for each in moments)
    assert {each["step"].device.type for each in moments} == {"cpu"}


def test_a_checkpoint_that_is_broken_is_refused(
    whole: Run, go: Callable[..., Run], tmp_path: Path
) -> None:
    shutil.copytree(whole.recorder.folder / "step-00000002", tmp_path / "broken")
    (tmp_path / "broken" / "state.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cut short"):
        go(resume=tmp_path / "broken")


@pytest.mark.parametrize("log_every", [1, 1000])
def test_divergence_stops_the_run_before_it_saves(
    go: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, log_every: int
) -> None:
    saved = []
    monkeypatch.setattr(worker.checkpoints, "save", lambda state, folder: saved.append(state))
    with pytest.raises(DivergedError, match="diverged"):
        go(learning_rate=1e30, backbone_learning_rate=1e30, clip_norm=1e30, log_every=log_every)
    for state in saved:
        assert all(weight.isfinite().all() for weight in state.weights.values())


def test_the_baseline_learns_without_an_inner_loop(
    whole: Run, go: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run = go(method="baseline", num_epochs=1)
    point = run.recorder.points[3]
    assert point["train/meta_loss"] == pytest.approx(
        point["train/loss_cls"] + point["train/loss_reg"]
    )
    assert "train/query_loss_cls_0" not in point and "train/grad_norm_rates" not in point
    assert "val/query_loss_2" in point, "judged after adaptation all the same"
    assert all((rate == 0.001).all() for rate in run.learner.rates.values())
    assert "held-out query loss" in caplog.text


def test_the_baselines_gradient_is_that_of_the_mean_of_four_images(
    whole: Run, tiny_config: TrainConfig
) -> None:
    learner = whole.learner.to("cpu", torch.float64)
    source = EpisodeStream(tiny_config.shards, tiny_config.sampling, split="train", seed=0)
    batch = stack([source.episode(lane, 3) for lane in range(2)])
    episodes = to_episodes(batch, torch.device("cpu"), torch.float64)
    setup = OuterStep(gammas=(1.0,), adapts="head", learns="all", second_order=False)
    found = batch_gradient(learner.detector, learner.weights, learner.rates, episodes, setup)

    leaves = {name: weight.clone().requires_grad_() for name, weight in learner.weights.items()}
    total = torch.zeros((), dtype=torch.float64)
    for pair in range(2):
        total = total + four_image_loss(learner, leaves, episodes, pair)
    expected = torch.autograd.grad(total, list(leaves.values()))
    assert found.num_pairs == 2
    for name, gradient in zip(leaves, expected, strict=True):
        torch.testing.assert_close(found.weights[name], gradient, rtol=1e-9, atol=1e-12)
    summed = found.query_losses["cls"] + found.query_losses["reg"]
    torch.testing.assert_close(summed, total.detach().view(1))


def four_image_loss(
    learner: Learner, weights: dict[str, torch.Tensor], episodes: Episodes, pair: int
) -> torch.Tensor:
    """The ordinary loss of one pair's images, taken one at a time."""
    detector = learner.detector
    images = [*episodes.support_images[pair], *episodes.query_images[pair]]
    boxes = [*episodes.support_boxes[pair], *episodes.query_boxes[pair]]
    present = [True, True, True, bool(episodes.query_present[pair])]
    losses = []
    for image, box, there in zip(images, boxes, present, strict=True):
        shared = trunk_features(weights, image[None])
        features = branch_features(detector.network, weights, shared, "head")
        labels = detector.label(box[None], torch.tensor([there]))
        by_branch = detector.losses(outputs(detector.network, weights, features, "head"), labels)
        losses.append(by_branch["cls"] + by_branch["reg"])
    return torch.cat(losses).mean()


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert list(one) == list(other)
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
