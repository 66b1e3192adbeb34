"""What holds online updates to the first frame: score gate, rollback, pull towards its weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy import ndarray
from perfect_detector import small_learner

from data_pipeline.tracks import Track
from eval_jobs.constant_rates import constant
from eval_jobs.protocols import one_pass
from eval_jobs.results import ResultStore
from eval_jobs.support_set import SupportSet
from eval_jobs.tracker import OnlineTracker
from eval_jobs.tracker_config import TrackerConfig
from eval_jobs.update_rule import DriftConfig, UpdateGuard, first_frame_loss, pulled_back
from meta_train.detectors.backbone import BRANCHES
from meta_train.detectors.network import adapted_names
from meta_train.learner import Learner

BOX = np.array([30.0, 20.0, 60.0, 50.0])
EAGER = TrackerConfig(update_interval_frames=1, min_score=-9.0, add_threshold=-9.0)
"""Updates on every frame, whatever it finds."""


@pytest.fixture(scope="module")
def learner() -> Learner:
    small = small_learner()
    return replace(small, rates=constant(small.rates, 0.01))


@pytest.fixture(scope="module")
def track(tmp_path_factory: pytest.TempPathFactory) -> Track:
    """Five frames of noise."""
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    files = []
    for number in range(5):
        files.append(folder / f"{number}.png")
        cv2.imwrite(str(files[-1]), rng.integers(0, 256, (80, 100, 3), dtype=np.uint8))
    return Track(
        dataset="otb",
        video="noise",
        image_files=tuple(files),
        boxes=np.tile(BOX, (5, 1)),
        visible=np.ones(5, bool),
        frame_numbers=np.arange(5),
    )


def updates(learner: Learner, track: Track, config: TrackerConfig = EAGER, **drift: Any) -> ndarray:
    tracker = OnlineTracker(learner, replace(config, drift=DriftConfig(**drift)))
    updated = one_pass(tracker, track).updated
    assert updated is not None
    return updated


def test_all_updates_count_unless_a_guard_is_set(learner: Learner, track: Track) -> None:
    assert updates(learner, track).tolist() == [False, True, True, True, True]
    never = replace(EAGER, update_interval_frames=None)
    assert not updates(learner, track, never).any()
    assert not updates(learner, track, replace(EAGER, update_steps=0)).any()


def test_an_undone_update_does_not_hold_back_the_next(
    learner: Learner, track: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first that is asked for is undone; with a gap of 3, the next may come at once."""
    asked: list[int] = []

    def passed(guard: UpdateGuard, updated: Any, before: Any) -> Any:
        asked.append(0)
        return before if len(asked) == 1 else updated

    monkeypatch.setattr(UpdateGuard, "passed", passed)
    found = updates(learner, track, replace(EAGER, min_update_gap_frames=3))
    assert found.tolist() == [False, False, False, False, True] and len(asked) == 2


def test_no_update_at_a_low_score(learner: Learner, track: Track) -> None:
    scores = one_pass(OnlineTracker(learner, EAGER), track).scores
    assert not updates(learner, track, min_update_score=9.0).any()
    gate = float(scores[1]) - 1e-6
    assert updates(learner, track, min_update_score=gate)[1]
    assert not updates(learner, track, min_update_score=float(scores[1]))[1]


def test_relearning_starts_from_theta_0_on_the_whole_support_set(track: Track) -> None:
    """Five steps on what was seen, however many updates came before, on block-4 and heads."""
    small = small_learner(adapts="head+block4")
    learner = replace(small, rates=constant(small.rates, 0.01))
    tracker = OnlineTracker(learner, replace(EAGER, drift=DriftConfig(relearn=True)))
    tracker.start(cv2.imread(str(track.image_files[0])), BOX)
    for file in track.image_files[1:3]:
        before = tracker._weights
        assert tracker.follow(cv2.imread(str(file))).updated
    support = tracker._support
    assert support is not None and len(support) == 5
    features, boxes = support.samples(("cls", "reg"))
    labels = learner.detector.label(boxes, torch.ones(5, dtype=torch.bool))
    expected = learner.adapt(learner.weights, features, labels, num_steps=5)
    for name, weight in expected.items():
        torch.testing.assert_close(tracker._weights[name], weight)
    changed = {n for n, weight in tracker._weights.items() if not torch.equal(weight, before[n])}
    assert changed == set(adapted_names(learner.weights, "head+block4", BRANCHES))


def test_relearning_one_branch_leaves_the_other_as_the_first_frame_made_it(
    learner: Learner, track: Track
) -> None:
    config = replace(EAGER, update_branches=("cls",), drift=DriftConfig(relearn=True))
    tracker = OnlineTracker(learner, config)
    tracker.start(cv2.imread(str(track.image_files[0])), BOX)
    first = tracker._weights
    tracker.follow(cv2.imread(str(track.image_files[1])))
    changed = {n for n, weight in tracker._weights.items() if not torch.equal(weight, first[n])}
    assert changed == set(adapted_names(learner.weights, "head", ("cls",)))


def test_relearning_without_steps_is_refused() -> None:
    relearn = DriftConfig(relearn=True)
    with pytest.raises(ValueError, match="first_frame_steps must be at least 1, got 0"):
        TrackerConfig(first_frame_steps=0, drift=relearn)
    TrackerConfig(first_frame_steps=0, update_interval_frames=None, drift=relearn)


def test_what_was_relearned_passes_the_guards(learner: Learner, track: Track) -> None:
    """Half-way back to the first frame's weights."""
    found = []
    for share in (0.0, 0.5):
        drift = DriftConfig(relearn=True, pull_back=share)
        tracker = OnlineTracker(learner, replace(EAGER, drift=drift))
        tracker.start(cv2.imread(str(track.image_files[0])), BOX)
        first = tracker._weights["cls.head.output.weight"]
        tracker.follow(cv2.imread(str(track.image_files[1])))
        found.append(tracker._weights["cls.head.output.weight"])
    torch.testing.assert_close(found[1], torch.lerp(found[0], first, 0.5))


def test_weights_are_pulled_part_of_the_way() -> None:
    first = {"moved": torch.tensor([0.0, 4.0]), "kept": torch.ones(1)}
    weights = {"moved": torch.tensor([8.0, 4.0]), "kept": first["kept"]}
    found = pulled_back(weights, first, 0.25)
    assert found["moved"].tolist() == [6.0, 4.0] and found["kept"] is first["kept"]
    assert pulled_back(weights, first, 0.0) is weights
    assert pulled_back(weights, first, 1.0)["moved"].tolist() == [0.0, 4.0]


def test_pull_back_keeps_the_tracker_near_its_first_frame(learner: Learner, track: Track) -> None:
    found = {}
    for share in (0.0, 0.5, 1.0):
        config = replace(EAGER, drift=DriftConfig(pull_back=share))
        tracker = OnlineTracker(learner, config)
        tracker.start(cv2.imread(str(track.image_files[0])), BOX)
        first = tracker._weights
        tracker.follow(cv2.imread(str(track.image_files[1])))
        name = "cls.head.output.weight"
        found[share] = float((tracker._weights[name] - first[name]).norm())
    assert found[0.0] > 0
    assert found[0.5] == pytest.approx(found[0.0] / 2, rel=1e-3) and found[1.0] == 0


def test_an_update_that_forgets_the_first_frame_is_undone(learner: Learner) -> None:
    crops = torch.randint(0, 256, (3, 3, 263, 263), generator=torch.Generator().manual_seed(1))
    boxes = torch.tensor([[100.0, 100.0, 160.0, 160.0]]).expand(3, 4)
    support = SupportSet(learner.features(crops.to(torch.uint8)), boxes, max_samples=5)
    features = learner.features(crops[:1].to(torch.uint8))
    support.add(features, boxes[:1] + 50.0)  # what came later does not count
    labels = learner.detector.label(boxes, torch.ones(3, dtype=torch.bool))
    first = learner.adapt(learner.weights, support.first(("cls", "reg"))[0], labels, num_steps=2)
    before = dict(first)
    loss, loss_at_start = (first_frame_loss(learner, w, support) for w in (first, learner.weights))
    assert loss < loss_at_start
    ratio = loss_at_start / loss

    def passed(factor: float | None, update: dict[str, torch.Tensor]) -> Any:
        guard = UpdateGuard(DriftConfig(rollback_factor=factor), learner, first, support)
        return guard.passed(update, before)

    forgot = learner.weights
    assert passed(1.0 + (ratio - 1.0) * 0.99, forgot) is before
    assert passed(ratio * 1.01, forgot) is forgot
    assert passed(None, forgot) is forgot
    broken = {name: torch.full_like(weight, torch.nan) for name, weight in forgot.items()}
    assert passed(100.0, broken) is before


def test_results_on_disk_say_where_it_learned(
    learner: Learner, track: Track, tmp_path: Path
) -> None:
    trajectory = one_pass(OnlineTracker(learner, EAGER), track)
    store = ResultStore(folder=tmp_path, tracker="ours", fingerprint="f" * 16)
    store.write(track, trajectory)
    read = store.read_existing(track)
    assert read.updated is not None and read.updated.tolist() == [False, True, True, True, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rollback_factor": 0.9}, "rollback_factor must be at least 1, or None, got 0.9"),
        ({"pull_back": 1.5}, r"pull_back must lie in \[0, 1\], got 1.5"),
    ],
)
def test_wrong_guards_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DriftConfig(**settings)
