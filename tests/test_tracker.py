"""`eval_jobs.tracker`: Algorithm 1 line by line, with ground truth in the detector's place."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy import ndarray
from perfect_detector import PerfectDetector, PerfectTracker, perfect_detectors, small_learner

from data_pipeline.boxes import cxcywh_to_xyxy, iou, xyxy_to_cxcywh
from data_pipeline.crops import cut, search_window, zooms
from eval_jobs.tracker import OnlineTracker, TrackingError
from eval_jobs.tracker_config import TrackerConfig
from eval_jobs.tracker_input import check_image
from meta_train.detectors.backbone import BRANCHES, Weights
from meta_train.detectors.network import Adapts, adapted_names
from meta_train.kernel_rates import KernelRatesConfig
from meta_train.learner import Learner, initial_learner

IMAGE_SIZE = (240, 320)


def noise(seed: int) -> ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*IMAGE_SIZE, 3), dtype=np.uint8)


@dataclass
class Run:
    """A tracker over a perfect detector, and how often it descended on which samples."""

    tracker: PerfectTracker
    detector: PerfectDetector
    descents: list[tuple[int, int, tuple[str, ...]]] = field(default_factory=list)
    """Steps, samples and branches of each gradient descent."""
    labels: list[Any] = field(default_factory=list)
    """What each of them learned."""
    descended_from: list[Weights] = field(default_factory=list)
    """Where each of them began."""
    descended_to: list[Weights] = field(default_factory=list)
    """Where each of them ended."""
    detected_with: list[Weights] = field(default_factory=list)
    """The weights of each detection."""
    crops: list[ndarray] = field(default_factory=list)
    """The images of each call for features, RGB."""

    def follow(self, true_box: ndarray, image: ndarray | None = None) -> Any:
        self.detector.true_box = true_box
        return self.tracker.follow(noise(0) if image is None else image)


BOX = np.array([100.0, 80.0, 140.0, 130.0])


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Run]]:
    adapt, outputs, features = Learner.adapt, Learner.outputs, Learner.features

    def begin(box: ndarray = BOX, **settings: Any) -> Run:
        detector.factor, detector.distractor = 1.0, 0.0
        run = Run(PerfectTracker(detector, TrackerConfig(**settings)), detector)

        def spy_adapt(
            learner: Learner, weights: Weights, inputs: Any, labels: Any, *, num_steps: int
        ) -> Weights:
            run.labels.append(labels)
            run.descents.append((num_steps, len(labels.inside), tuple(inputs)))
            run.descended_from.append(weights)
            run.descended_to.append(adapt(learner, weights, inputs, labels, num_steps=num_steps))
            return run.descended_to[-1]

        def spy_outputs(learner: Learner, weights: Weights, inputs: Any) -> Any:
            run.detected_with.append(weights)
            return outputs(learner, weights, inputs)

        def spy_features(learner: Learner, images: torch.Tensor) -> Any:
            run.crops.append(images.permute(0, 2, 3, 1).numpy())
            return features(learner, images)

        monkeypatch.setattr(Learner, "adapt", spy_adapt)
        monkeypatch.setattr(Learner, "outputs", spy_outputs)
        monkeypatch.setattr(Learner, "features", spy_features)
        run.tracker.start(noise(0), box)
        return run

    with perfect_detectors() as detector:
        yield begin


def test_perfect_detector_follows_a_moving_growing_target(start: Callable[..., Run]) -> None:
    run = start()
    cxcywh = xyxy_to_cxcywh(BOX)
    overlaps = []
    for frame in range(1, 31):
        move = np.array([3.0 * np.sin(frame / 5), 2.5 * np.cos(frame / 3)])
        cxcywh = np.concatenate([cxcywh[:2] + move, cxcywh[2:] * 1.02])
        true_box = cxcywh_to_xyxy(cxcywh)
        prediction = run.follow(true_box, noise(frame))
        assert not prediction.lost
        overlaps.append(float(iou(prediction.box, true_box)))
        np.testing.assert_allclose(xyxy_to_cxcywh(prediction.box)[:2], cxcywh[:2], atol=1e-6)
    assert min(overlaps) > 0.9


def test_first_frame_takes_five_steps_on_three_zooms(start: Callable[..., Run]) -> None:
    """Lines 1-3: the target in the crop, by 1/1.08, 1 and 1.08."""
    run = start()
    assert run.descents == [(5, 3, ("cls", "reg"))]
    box_in_crop = xyxy_to_cxcywh(search_window(BOX).to_crop(BOX))
    for factor, inside in zip((1 / 1.08, 1.0, 1.08), run.labels[0].inside, strict=True):
        box = box_in_crop * np.array([1.0, 1.0, factor, factor])
        true = run.detector.label(torch.tensor(cxcywh_to_xyxy(box)[None]), torch.tensor([True]))
        assert torch.equal(inside, true.inside[0].float())


def test_search_regions_are_about_the_last_box(start: Callable[..., Run]) -> None:
    """Lines 1, 2 and 5: SR(I_1, B_1), zoomed three ways, then SR(I_i, B_{i-1})."""
    run = start()
    window = search_window(BOX)
    expected, _ = zooms(cut(noise(0), window), window.to_crop(BOX))
    np.testing.assert_array_equal(run.crops[0], expected)
    last = run.follow(BOX + 7.0, noise(1)).box
    np.testing.assert_array_equal(run.crops[1][0], cut(noise(1), search_window(BOX)))
    run.follow(BOX + 7.0, noise(2))
    np.testing.assert_array_equal(run.crops[2][0], cut(noise(2), search_window(last)))


def test_each_descent_goes_on_from_the_last_and_is_detected_with(start: Callable[..., Run]) -> None:
    """Lines 3, 5 and 15: theta <- GD(theta, D^s), from theta_0 on the first frame."""
    run = start(update_interval_frames=2)
    theta_0 = run.tracker.online._learner.weights
    for _ in range(4):  # frames 2 to 5: updates after 2 and 4
        run.follow(BOX)
    first, second, third = run.descended_to
    for found, expected in zip(run.descended_from, (theta_0, first, second), strict=True):
        assert found is expected
    for found, expected in zip(run.detected_with, (first, second, second, third), strict=True):
        assert found is expected
    assert not torch.equal(first["cls.head.output.bias"], theta_0["cls.head.output.bias"])


def test_lost_target_keeps_the_box_and_skips_a_due_update(start: Callable[..., Run]) -> None:
    """Lines 6-8: nothing of lines 10-16 happens, not even an update, and no sample is taken."""
    run = start(update_interval_frames=2, distractor_ratio=0.0)
    run.detector.factor = 0.09
    prediction = run.follow(BOX + 5.0)
    assert prediction.lost
    assert prediction.score < 0.1
    np.testing.assert_array_equal(prediction.box, BOX)
    assert len(run.descents) == 1
    run.detector.factor = 1.0
    run.follow(BOX)
    run.follow(BOX)
    assert run.descents[1][1] == 3 + 2


def test_one_score_at_the_threshold_is_enough(start: Callable[..., Run]) -> None:
    """Line 6 asks whether *all* scores are below, before penalties and priors."""
    run = start(update_interval_frames=None)
    run.detector.factor = 0.0
    run.detector.distractor = 0.1
    assert not run.follow(BOX).lost


def test_prior_prefers_the_middle(start: Callable[..., Run]) -> None:
    """Line 10: a cell near the border needs a far better score."""
    run = start(box=BOX)
    run.detector.factor, run.detector.distractor = 0.6, 0.9
    np.testing.assert_allclose(run.follow(BOX).box, BOX, atol=1e-5)
    run = start(box=BOX, window_weight=0.0)
    run.detector.factor, run.detector.distractor = 0.6, 0.9
    assert abs(run.follow(BOX).box - BOX).max() > 20


@pytest.mark.parametrize(
    "growth", [np.array([2.0, 2.0]), np.array([1.6, 0.5])], ids=["scale", "aspect"]
)
def test_penalty_prefers_the_last_shape(start: Callable[..., Run], growth: ndarray) -> None:
    """Lines 10-11: of two candidates of almost the same score the one of the last shape wins."""
    cxcywh = xyxy_to_cxcywh(BOX)
    changed = cxcywh_to_xyxy(np.concatenate([cxcywh[:2], cxcywh[2:] * growth]))
    for strength, is_kept in ((0.2, True), (0.0, False)):
        run = start(window_weight=0.0, shape_rate=1.0, penalty_strength=strength)
        run.detector.distractor = 0.9  # in a box of the last size
        size = np.diff(run.follow(changed).box.reshape(2, 2), axis=0)[0]
        np.testing.assert_allclose(size, cxcywh[2:] * (1 if is_kept else growth), atol=1e-4)


def test_size_is_smoothed_and_the_centre_is_not(start: Callable[..., Run]) -> None:
    """Line 12."""
    run = start()
    true = cxcywh_to_xyxy(np.array([125.0, 100.0, 48.0, 56.0]))
    np.testing.assert_allclose(
        xyxy_to_cxcywh(run.follow(true).box), [125.0, 100.0, 44.0, 53.0], atol=1e-6
    )


def test_centre_stays_in_the_image(start: Callable[..., Run]) -> None:
    run = start(box=np.array([2.0, 80.0, 42.0, 130.0]))
    prediction = run.follow(cxcywh_to_xyxy(np.array([-6.0, 105.0, 40.0, 50.0])))
    assert xyxy_to_cxcywh(prediction.box)[0] == pytest.approx(0.0)


def test_good_results_enter_the_support_set(start: Callable[..., Run]) -> None:
    """Line 13: samples above the threshold only, and the update sees them."""
    run = start(update_interval_frames=4)
    run.follow(BOX)
    run.detector.factor = 0.4
    run.follow(BOX)
    run.detector.factor = 1.0
    run.follow(BOX)
    assert run.descents[1:] == [(1, 5, ("cls", "reg"))]


def test_sample_is_labelled_with_the_result_in_its_own_search_region(
    start: Callable[..., Run],
) -> None:
    """Line 13: the box of lines 11-12, in the crop in which it was found."""
    run = start(update_interval_frames=2)
    found = run.follow(BOX + np.array([9.0, -6.0, 17.0, -1.0])).box
    in_crop = search_window(BOX).to_crop(found)
    expected = run.detector.label(torch.tensor(in_crop[None]), torch.tensor([True]))
    torch.testing.assert_close(run.labels[1].centerness[3], expected.centerness[0].float())


def test_cached_features_are_those_of_the_images(start: Callable[..., Run]) -> None:
    """Line 15 sees what it would see had the network run over all images again."""
    run = start(update_interval_frames=4)
    for number in range(1, 4):
        run.follow(BOX, noise(number))
    online = run.tracker.online
    assert online._support is not None
    cached, _ = online._support.samples(BRANCHES)
    images = torch.from_numpy(np.concatenate(run.crops)).permute(0, 3, 1, 2)
    uncached = online._learner.features(images)
    for branch in BRANCHES:
        torch.testing.assert_close(cached[branch], uncached[branch], rtol=1e-3, atol=1e-3)
    adapted = online._learner.adapt(run.descended_to[0], uncached, run.labels[1], num_steps=1)
    for name, weight in run.descended_to[1].items():
        torch.testing.assert_close(adapted[name], weight, rtol=1e-3, atol=1e-6)


def test_update_every_ten_frames(start: Callable[..., Run]) -> None:
    """Lines 14-15: the first frame is number 1, so the first update comes on the ninth call."""
    run = start()
    counts = []
    for _ in range(20):
        run.follow(BOX)
        counts.append(len(run.descents) - 1)
    assert counts == [0] * 8 + [1] * 10 + [2] * 2


def test_support_set_holds_thirty(start: Callable[..., Run]) -> None:
    run = start(update_interval_frames=30)
    for _ in range(29):
        run.follow(BOX)
    assert run.descents[-1] == (1, 30, ("cls", "reg"))


@pytest.mark.parametrize(
    "settings", [{}, {"update_interval_frames": 2, "update_triggers": ("distractor",)}]
)
def test_distractor_asks_for_an_update(start: Callable[..., Run], settings: dict[str, Any]) -> None:
    """Line 14: a second peak above .7 of the first, outside its neighbourhood; where distractors
    alone may ask, the interval, which frames 2 and 4 are on, does not.
    """
    run = start(**settings)
    run.detector.distractor = 0.5
    for _ in range(4):
        run.follow(BOX)
    assert len(run.descents) == 1
    run.detector.distractor = 0.9
    run.follow(BOX)
    run.follow(BOX)
    assert len(run.descents) == 3


def test_updates_can_be_asked_for_by_the_interval_alone(start: Callable[..., Run]) -> None:
    run = start(update_triggers=("interval",))
    run.detector.distractor = 0.9
    for _ in range(20):
        run.follow(BOX)
    assert len(run.descents) - 1 == 2


def test_updates_keep_their_distance_where_asked(start: Callable[..., Run]) -> None:
    run = start(min_update_gap_frames=5)
    run.detector.distractor = 0.9
    for _ in range(11):
        run.follow(BOX)
    assert len(run.descents) - 1 == 2


def test_updating_can_be_off_or_in_one_branch(start: Callable[..., Run]) -> None:
    run = start(update_interval_frames=None)
    run.detector.distractor = 0.9
    for _ in range(12):
        run.follow(BOX)
    assert len(run.descents) == 1
    run = start(update_branches=("cls",), update_interval_frames=2)
    run.follow(BOX)
    assert run.descents[-1][2] == ("cls",)


def run_over_noise(tracker: OnlineTracker, seeds: range) -> ndarray:
    tracker.start(noise(seeds.start), BOX)
    return np.stack([tracker.follow(noise(seed)).box for seed in seeds])


def test_nothing_leaks_from_one_sequence_to_the_next() -> None:
    config = TrackerConfig(
        min_score=-10.0, add_threshold=-10.0, update_interval_frames=2, max_support=5
    )
    learner = small_learner()
    before = {name: weight.clone() for name, weight in learner.weights.items()}
    used, fresh = OnlineTracker(learner, config), OnlineTracker(small_learner(), config)
    run_over_noise(used, range(50, 57))
    np.testing.assert_array_equal(
        run_over_noise(used, range(4, 10)), run_over_noise(fresh, range(4, 10))
    )
    for name, weight in learner.weights.items():
        assert torch.equal(weight, before[name])
        assert not weight.requires_grad


def test_updates_change_what_is_seen() -> None:
    config = {"min_score": -10.0, "add_threshold": -10.0}
    still = OnlineTracker(small_learner(), TrackerConfig(update_interval_frames=None, **config))
    eager = OnlineTracker(small_learner(), TrackerConfig(update_interval_frames=1, **config))
    assert not np.allclose(
        run_over_noise(still, range(1, 8)), run_over_noise(eager, range(1, 8)), atol=1e-9
    )


def test_updates_may_leave_block4_as_the_first_frame_made_it() -> None:
    small = small_learner()
    learner = initial_learner(
        small.config,
        KernelRatesConfig(initial=0.01),
        adapts="head+block4",
        generator=torch.Generator().manual_seed(0),
    )
    common: dict[str, Any] = {"min_score": -10.0, "add_threshold": -10.0}
    boxes, changed = [], []
    for part in (None, "head"):
        config = TrackerConfig(update_interval_frames=3, update_adapts=part, **common)
        tracker = OnlineTracker(learner, config)
        tracker.start(noise(0), BOX)
        first = tracker._weights
        boxes.append(tracker.follow(noise(1)).box)
        tracker.follow(noise(2))
        pairs = zip(first.items(), tracker._weights.values(), strict=True)
        changed.append({name for (name, old), new in pairs if not torch.equal(old, new)})
    np.testing.assert_allclose(boxes[0], boxes[1], rtol=1e-5)
    assert changed[0] == set(adapted_names(learner.weights, "head+block4", BRANCHES))
    assert changed[1] == set(adapted_names(learner.weights, "head", BRANCHES))


@pytest.mark.parametrize(
    ("adapts", "update_adapts", "climbs"),
    [("head+block4", "head", False), ("head+block4", None, True), ("head", "head", True)],
)
def test_rates_below_0_are_left_out_of_updates_of_a_part(
    adapts: Adapts, update_adapts: Adapts | None, climbs: bool
) -> None:
    """Of the output layers here. The first frame is learned by all, and so is what is no part."""
    learner = initial_learner(
        small_learner().config,
        KernelRatesConfig(initial=0.01),
        adapts=adapts,
        generator=torch.Generator().manual_seed(0),
    )
    learner.rates["cls.head.output"].neg_()
    learner.rates["reg.head.output"][1:3].neg_()
    config = TrackerConfig(update_interval_frames=1, min_score=-10.0, update_adapts=update_adapts)
    tracker = OnlineTracker(learner, config)
    tracker.start(noise(0), BOX)
    first = tracker._weights
    assert not torch.equal(
        first["cls.head.output.weight"], learner.weights["cls.head.output.weight"]
    )
    tracker.follow(noise(1))
    moved = {
        name: (first[name] - weight).flatten(1).any(1).tolist()
        for name, weight in tracker._weights.items()
        if "output.weight" in name
    }
    assert moved == {
        "cls.head.output.weight": [climbs],
        "reg.head.output.weight": [True, climbs, climbs, True],
    }


def test_updates_of_a_part_that_is_not_learned_are_refused() -> None:
    small = small_learner()
    with pytest.raises(ValueError, match=r"or what the checkpoint adapts \('head'\), got 'head"):
        OnlineTracker(small, TrackerConfig(update_adapts="head+block4"))


@pytest.mark.parametrize(
    "image",
    [noise(0).astype(np.float32), noise(0)[..., 0], np.zeros((4, 4, 4), np.uint8)],
    ids=["float", "grey", "rgba"],
)
def test_what_is_no_rgb_image_is_refused(image: ndarray) -> None:
    with pytest.raises(ValueError, match="must be an RGB image, uint8"):
        check_image(image)


@pytest.mark.parametrize(
    "box", [[0.0, 0.0, 0.0, 5.0], [5.0, 5.0, 2.0, 9.0], [0.0, 0.0, np.nan, 5.0], [1.0, 2.0, 3.0]]
)
def test_a_first_box_without_area_is_refused(box: list[float]) -> None:
    with pytest.raises(ValueError, match="first box must be x1, y1, x2, y2"):
        OnlineTracker(small_learner()).start(noise(0), box)


def test_follow_before_start_is_refused() -> None:
    with pytest.raises(TrackingError, match="before start"):
        OnlineTracker(small_learner()).follow(noise(0))


def test_diverged_descent_is_an_error_that_names_the_frame() -> None:
    learner = small_learner()
    learner.rates["cls.head.output"].fill_(float("inf"))
    tracker = OnlineTracker(learner)
    tracker.start(noise(0), BOX)
    with pytest.raises(TrackingError, match="frame 2: the detector's scores or boxes are not"):
        tracker.follow(noise(1))


@pytest.mark.parametrize("branch", ["cls", "reg"])
def test_online_updates_that_diverged_are_undone(branch: str) -> None:
    """A benchmark of hundreds of sequences does not end with one of them."""
    tracker = OnlineTracker(small_learner(), TrackerConfig(update_interval_frames=None))
    tracker.start(noise(0), BOX)
    expected = tracker.follow(noise(1))
    tracker.start(noise(0), BOX)
    learned = tracker._weights
    name = f"{branch}.head.output.weight"
    tracker._weights = learned | {name: torch.full_like(learned[name], float("nan"))}
    found = tracker.follow(noise(1))
    np.testing.assert_array_equal(found.box, expected.box)
    assert tracker._weights is learned


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first_frame_steps": -1}, "first_frame_steps must not be negative"),
        ({"update_interval_frames": 0}, "None for no online updating"),
        ({"update_branches": ()}, "update_branches must be"),
        ({"update_triggers": ()}, "update_triggers must be one or both of"),
        ({"window_weight": 1.5}, r"window_weight must lie in \[0, 1\]"),
        ({"max_support": 2}, "max_support must be at least 3"),
        ({"min_update_gap_frames": 0}, "min_update_gap_frames must be at least 1"),
        ({"min_size_px": 0.0}, "min_size_px must be positive"),
        ({"penalty_strength": -0.1}, "must not be negative"),
    ],
)
def test_wrong_constants_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrackerConfig(**settings)
