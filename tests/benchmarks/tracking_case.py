"""How fast the tracker is beside what it cannot do without: its convolutions, and OpenCV's MIL.

The ceiling of a piece of work is the time of its convolutions alone: those that it really calls,
forward and backward, recorded once and called again on random numbers of the same shapes, in the
memory layout that is faster.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy import ndarray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from data_pipeline.synthetic_scenes import SyntheticConfig, render_video
from eval_jobs.opencv_tracker import OpenCvTracker
from eval_jobs.tracker import OnlineTracker
from eval_jobs.tracker_config import TrackerConfig
from meta_train.detectors.backbone import BRANCHES, BackboneConfig, calibrate
from meta_train.detectors.fcos import FcosConfig
from meta_train.detectors.heads import HeadConfig
from meta_train.detectors.network import Adapts, NetworkConfig
from meta_train.kernel_rates import KernelRatesConfig
from meta_train.learner import Learner, initial_learner

FRAME_BAR = 0.85
"""Least share of the ceiling without updating."""

UPDATING_BAR = 0.45
"""Least share of the speed without updating, with a full support set; the paper's is .49."""

UPDATE_BAR = 0.75
"""Least share of the ceiling of an update where everything adapts."""

CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)


class Call(NamedTuple):
    """One convolution."""

    function: Any
    arguments: tuple[Any, ...]


class Recorder(TorchDispatchMode):
    """Remembers the convolutions that are called within it, with tensors of their shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function in CONVOLUTIONS:
            again = tuple(
                torch.randn(each.shape) if isinstance(each, Tensor) else each for each in args
            )
            self.calls.append(Call(function, again))
        return function(*args, **(kwargs or {}))


def record(work: Callable[[], object]) -> list[Call]:
    """The convolutions of some work."""
    with Recorder() as recorder:
        work()
    return recorder.calls


def replay(calls: Sequence[Call], layout: torch.memory_format) -> Callable[[], None]:
    """The convolutions alone, all tensors in one layout."""
    laid_out = [
        Call(
            function,
            tuple(
                each.contiguous(memory_format=layout)
                if isinstance(each, Tensor) and each.ndim == 4
                else each
                for each in arguments
            ),
        )
        for function, arguments in calls
    ]

    def run() -> None:
        with torch.no_grad():
            for function, arguments in laid_out:
                function(*arguments)

    return run


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds of one call, by the clock."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def take_turns(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round; one round before does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, work in contestants.items():
            spent = seconds_of(work)
            if number:
                seconds[name].append(spent)
    return seconds


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Median over the rounds of one time divided by another."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def make_learner(width: int, hidden_channels: int, adapts: Adapts) -> Learner:
    """An untrained network that learns next to nothing, so that nothing diverges."""
    backbone = BackboneConfig(width=width, weights="random")
    head = HeadConfig(hidden_channels=hidden_channels)
    config = FcosConfig(network=NetworkConfig(backbone=backbone, head=head))
    generator = torch.Generator().manual_seed(0)
    learner = initial_learner(
        config, KernelRatesConfig(initial=1e-6), adapts=adapts, generator=generator
    )
    crops = torch.randint(0, 256, (2, 3, 263, 263), generator=generator, dtype=torch.uint8)
    return replace(learner, weights=calibrate(learner.weights, crops))


class Follower:
    """Follows on through a video and after its end from its second frame; a call is a frame.

    The tracker is not started again, since a full support set is what is measured.
    """

    def __init__(self, tracker: Any, frames: Sequence[ndarray], box: ndarray) -> None:
        self.tracker, self.frames, self.box = tracker, frames, box
        self.next = 1
        tracker.start(frames[0], box)

    def __call__(self) -> None:
        self.tracker.follow(self.frames[self.next])
        self.next = max((self.next + 1) % len(self.frames), 1)


def fill(follower: Follower) -> None:
    """Follows without updating until the support set is full."""
    tracker = follower.tracker
    while len(tracker._support) < tracker.config.max_support:
        follower()


ALWAYS = {"min_score": -1e9, "add_threshold": -1e9}
"""An untrained network says low scores: nothing is lost, every frame is a sample."""


def measure_tracking(rounds: int, width: int, hidden_channels: int, num_threads: int) -> bool:
    """Prints the figures; whether they are as they should be."""
    torch.set_num_threads(num_threads)
    cv2.setNumThreads(num_threads)
    images, boxes, _ = render_video(SyntheticConfig(frames_per_video=40), 0)
    frames, box = list(images), boxes[0].astype(np.float64)
    print(
        f"tracking: width {width}, hidden channels {hidden_channels}, video "
        f"{images.shape[2]}x{images.shape[1]}, {num_threads} threads"
    )
    heads = make_learner(width, hidden_channels, "head")
    everything = make_learner(width, hidden_channels, "head+block4")
    verdicts = (
        measure_frames(heads, frames, box, rounds),
        measure_updates(heads, frames, box, rounds, None),
        measure_updates(everything, frames, box, max(1, rounds // 3), UPDATE_BAR),
    )
    return all(verdicts)


def measure_frames(learner: Learner, frames: Sequence[ndarray], box: ndarray, rounds: int) -> bool:
    """A frame without updating against its convolutions, with updating, and against MIL."""
    plain = Follower(
        OnlineTracker(learner, TrackerConfig(update_interval_frames=None, **ALWAYS)), frames, box
    )
    updating = Follower(
        OnlineTracker(learner, TrackerConfig(distractor_ratio=1e9, **ALWAYS)), frames, box
    )
    fill(plain)
    fill(updating)
    mil = Follower(OpenCvTracker("MIL"), frames, box)
    calls = record(plain)
    interval = updating.tracker.config.update_interval_frames
    seconds = take_turns(
        {
            "plain": lambda: [plain() for _ in range(interval)],
            "channels last": lambda: _repeat(replay(calls, torch.channels_last), interval),
            "contiguous": lambda: _repeat(replay(calls, torch.contiguous_format), interval),
            "updating": lambda: [updating() for _ in range(interval)],
            "mil": lambda: [mil() for _ in range(interval)],
        },
        rounds,
    )
    ceiling = min(seconds["channels last"], seconds["contiguous"], key=statistics.median)
    share = ratio(ceiling, seconds["plain"])
    slowed = ratio(seconds["plain"], seconds["updating"])
    fps = {name: interval / statistics.median(spent) for name, spent in seconds.items()}
    print(
        f"  without updating {fps['plain']:.1f} FPS, {share:.2f} of the ceiling of {len(calls)} "
        f"convolutions (at least {FRAME_BAR})\n"
        f"  updating every {interval} frames on {len(updating.tracker._support)} samples "
        f"{fps['updating']:.1f} FPS, {slowed:.2f} of that (at least {UPDATING_BAR})\n"
        f"  OpenCV's MIL on the same frames {fps['mil']:.1f} FPS"
    )
    return share >= FRAME_BAR and slowed >= UPDATING_BAR


def measure_updates(
    learner: Learner, frames: Sequence[ndarray], box: ndarray, rounds: int, bar: float | None
) -> bool:
    """An update on a full support set against its convolutions."""
    tracker = OnlineTracker(learner, TrackerConfig())
    tracker.start(frames[0], box)
    support = tracker._support
    assert support is not None
    features, boxes = support.samples(BRANCHES)
    first = {name: value[:1].clone() for name, value in features.items()}
    while len(support) < tracker.config.max_support:  # the same again: only the shapes matter
        support.add(first, boxes[:1])

    def update() -> None:
        tracker._descend(tracker._weights, support, 1, BRANCHES)

    calls = record(update)
    seconds = take_turns(
        {
            "update": update,
            "channels last": replay(calls, torch.channels_last),
            "contiguous": replay(calls, torch.contiguous_format),
        },
        rounds,
    )
    ceiling = min(seconds["channels last"], seconds["contiguous"], key=statistics.median)
    share = ratio(ceiling, seconds["update"])
    print(
        f"  an update of {learner.adapts} on {len(support)} samples takes "
        f"{statistics.median(seconds['update']):.2f} s, {share:.2f} of the ceiling"
        + (f" (at least {bar})" if bar else "")
    )
    return bar is None or share >= bar


def _repeat(work: Callable[[], None], times: int) -> None:
    for _ in range(times):
        work()
