"""`eval_jobs.jobs` on a local Ray, and the trackers' specs and scores without one."""

import errno
import json
import logging
import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from eval_jobs import jobs, tracker_specs
from eval_jobs.benchmarks import IncompleteResultsError, find_benchmark, select
from eval_jobs.jobs import evaluate, evaluate_all, gpus_of, require_place
from eval_jobs.metrics import SUCCESS_THRESHOLDS
from eval_jobs.opencv_tracker import StaticTracker
from eval_jobs.protocols import one_pass
from eval_jobs.results import ResultError, ResultStore
from eval_jobs.sequence_job import SequenceJob, run_job, sequence_metrics
from eval_jobs.tracker import OnlineTracker
from eval_jobs.tracker_config import TrackerConfig
from eval_jobs.tracker_specs import OnlineSpec, OpenCvSpec, StaticSpec, phase_specs
from meta_train.checkpoint import Checkpoint, CheckpointError, save
from meta_train.detectors.backbone import BackboneConfig
from meta_train.detectors.fcos import FcosConfig
from meta_train.detectors.heads import HeadConfig
from meta_train.detectors.network import NetworkConfig
from meta_train.kernel_rates import KernelRatesConfig
from meta_train.learner import initial_learner
from meta_train.train_config import TrainConfig
from meta_train.undelivered import expect_metric_names

SMALL = FcosConfig(
    network=NetworkConfig(
        backbone=BackboneConfig(width=2, weights="random"), head=HeadConfig(hidden_channels=4)
    )
)
VIDEOS = find_benchmark("got10k_layout")
SHORT_ONLY = replace(VIDEOS, name="short_only", title="Short", sequences=("short",))


def write_videos(folder: Path, lengths: dict[str, int]) -> None:
    """Videos of a moving square in GOT-10k's layout."""
    generator = np.random.default_rng(0)
    for name, num_frames in lengths.items():
        video = folder / "val" / name
        video.mkdir(parents=True)
        rows = []
        for frame in range(num_frames):
            image = generator.integers(0, 80, (90, 120, 3), dtype=np.uint8)
            x = 20 + 2 * frame
            image[30:54, x : x + 24] = 220
            cv2.imwrite(str(video / f"{frame + 1:08d}.jpg"), image)
            rows.append(f"{x},30,24,24")
        (video / "groundtruth.txt").write_text("\n".join(rows))
    (folder / "val" / "list.txt").write_text("\n".join(lengths))


def write_checkpoint(folder: Path, seed: int = 0) -> Path:
    learner = initial_learner(
        SMALL,
        KernelRatesConfig(),
        adapts="head",
        generator=torch.Generator().manual_seed(seed),
    )
    checkpoint = Checkpoint(
        config=replace(TrainConfig(), detector=SMALL),
        weights=learner.weights,
        rates=learner.rates,
        optimizer={},
        iteration=0,
    )
    return save(checkpoint, folder)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    write_videos(tmp_path / "videos", {"short": 4, "long": 7})
    return tmp_path / "videos"


def test_checkpoint_is_a_tracker_in_three_lines(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "best")
    first_frame, *frames = np.random.default_rng(0).integers(0, 256, (3, 90, 120, 3), np.uint8)

    tracker = OnlineTracker.load(checkpoint)
    tracker.start(first_frame, [20.0, 30.0, 44.0, 54.0])
    boxes = [tracker.follow(frame).box for frame in frames]

    assert np.isfinite(boxes).all()


def test_fingerprint_follows_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = OnlineSpec(name="ours", checkpoint=write_checkpoint(tmp_path / "a"))
    twin = OnlineSpec(name="renamed", checkpoint=write_checkpoint(tmp_path / "b"))
    other = OnlineSpec(name="ours", checkpoint=write_checkpoint(tmp_path / "c", seed=1))
    tuned = replace(spec, config=TrackerConfig(window_weight=0.3))
    assert spec.fingerprint == twin.fingerprint
    block4_too = replace(spec, config=TrackerConfig(update_adapts=None))
    prints = {each.fingerprint for each in (spec, other, tuned, block4_too)}
    assert len(prints) == 4
    still = replace(spec, config=TrackerConfig(update_interval_frames=None))
    before = {each: each.fingerprint for each in (spec, still, block4_too)}
    monkeypatch.setattr(tracker_specs, "UPDATES_VERSION", 1)
    changed = [each for each, fingerprint in before.items() if each.fingerprint != fingerprint]
    assert changed == [spec]
    with pytest.raises(CheckpointError, match="not found"):
        _ = replace(spec, checkpoint=tmp_path / "nowhere").fingerprint


def test_phases_differ_in_how_far_they_adapt() -> None:
    specs = phase_specs(
        Path("runs/run7/best"),
        TrackerConfig(update_interval_frames=5),
        ("before", "after", "online"),
    )
    assert [spec.name for spec in specs] == [
        "run7/best, before adaptation",
        "run7/best, after adaptation",
        "run7/best, online updating",
    ]
    steps = [(s.config.first_frame_steps, s.config.update_interval_frames) for s in specs]
    assert steps == [(0, None), (5, None), (5, 5)]


@pytest.mark.ray
def test_evaluation_runs_scores_and_is_not_run_again(
    ray_session: None, videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its progress is seen without a terminal, too."""
    caplog.set_level(logging.INFO)
    specs = [
        OnlineSpec(name="ours", checkpoint=write_checkpoint(tmp_path / "best")),
        StaticSpec(),
    ]
    scores = evaluate(specs, VIDEOS, videos, tmp_path / "results")
    assert [score.tracker for score in scores] == ["ours", "Static box"]
    static = scores[1]
    assert [each.sequence for each in static.sequences] == ["short", "long"]
    # A square of 24 px that moves by 2 px a frame.
    overlaps = np.array([(24 - 2 * k) / (24 + 2 * k) for k in range(7)])
    expected = (overlaps[:, None] > SUCCESS_THRESHOLDS).mean()
    assert static.sequences[1].values["auc"] == pytest.approx(float(expected))
    assert static.values["auc"] == pytest.approx(
        np.mean([each.values["auc"] for each in static.sequences])
    )
    assert static.label == "OPE over visible frames, 2 sequences"

    assert "4 of 4 runs ended: " in caplog.text

    files = sorted((tmp_path / "results").rglob("*.json"))
    assert len(files) == 4
    before = [file.stat().st_mtime_ns for file in files]
    files[0].unlink()
    again = evaluate(specs, VIDEOS, videos, tmp_path / "results")
    assert [file.stat().st_mtime_ns for file in files[1:]] == before[1:]
    assert files[0].exists()
    assert [score.values for score in again] == [score.values for score in scores]


@pytest.mark.ray
def test_task_that_dies_is_named_and_the_others_are_kept(
    ray_session: None, videos: Path, tmp_path: Path
) -> None:
    (videos / "val" / "long" / "00000005.jpg").write_bytes(b"no image")
    with pytest.raises(IncompleteResultsError) as caught:
        evaluate([StaticSpec()], VIDEOS, videos, tmp_path / "results")
    message = str(caught.value)
    assert "1 of 2 runs failed" in message
    assert "Static box on got10k/long: DatasetError" in message
    assert "00000005.jpg" in message
    assert len(list((tmp_path / "results").rglob("short*.json"))) == 1
    assert not list((tmp_path / "results").rglob("long*.json"))


def deadly(kind: str, folder: Path) -> StaticSpec:
    """A static box that meets a fault on the fifth frame, in a class that workers can load.

    ``killed`` dies each time, ``killed once`` only the first time, and under ``full disk`` the next
    file cannot be written.
    """

    class Deadly(StaticTracker):
        num_followed = 0

        def follow(self, image: Any) -> Any:
            self.num_followed += 1
            if self.num_followed == 4:
                fail()
            return super().follow(image)

    def fail() -> None:
        marker = folder / "died"
        if kind == "full disk":
            fsync = os.fsync

            def full(descriptor: int) -> None:
                os.fsync = fsync
                raise OSError(errno.ENOSPC, "No space left on device")

            os.fsync = full
        elif kind == "killed" or not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    @dataclass(frozen=True, kw_only=True)
    class DeadlySpec(StaticSpec):
        def build(self) -> Any:
            return Deadly()

    return DeadlySpec()


@pytest.mark.ray
@pytest.mark.parametrize(
    ("kind", "cause"), [("killed", "WorkerCrashedError"), ("full disk", "OSError.*No space left")]
)
def test_run_that_meets_a_fault_is_named_and_leaves_no_result(
    ray_session: None, videos: Path, tmp_path: Path, kind: str, cause: str
) -> None:
    """Also where the worker dies again in each retry."""
    with pytest.raises(IncompleteResultsError) as caught:
        evaluate([deadly(kind, tmp_path)], VIDEOS, videos, tmp_path / "results", max_retries=1)
    assert re.search(
        rf"1 of 2 runs failed.*\n- Static box on got10k/long: {cause}", str(caught.value), re.DOTALL
    )
    assert [path.name.split("-")[0] for path in files_in(tmp_path / "results")] == ["short"]


@pytest.mark.ray
def test_run_whose_worker_died_is_made_again(
    ray_session: None, videos: Path, tmp_path: Path
) -> None:
    spec = deadly("killed once", tmp_path)
    (score,) = evaluate([spec], VIDEOS, videos, tmp_path / "results", max_retries=1)
    assert (tmp_path / "died").exists()
    assert [each.num_frames for each in score.sequences] == [4, 7]


def files_in(folder: Path) -> list[Path]:
    """Every file below a folder, hidden ones too."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_benchmarks_that_share_sequences_share_their_runs(
    videos: Path, tmp_path: Path, in_process: list[SequenceJob]
) -> None:
    """Several trackers and benchmarks in one call, and one task for each result."""
    places = [(VIDEOS, videos), (SHORT_ONLY, videos)]
    specs = [StaticSpec(), StaticSpec(name="Twin")]
    whole, part = evaluate_all(specs, places, tmp_path / "results", partial=True)
    assert [(job.spec.name, job.track.video, len(job.benchmarks)) for job in in_process] == [
        ("Static box", "short", 2),
        ("Static box", "long", 1),
        ("Twin", "short", 2),
        ("Twin", "long", 1),
    ]
    for scores, titles in ((whole, ["short", "long"]), (part, ["short"])):
        assert [score.tracker for score in scores] == ["Static box", "Twin"]
        assert [each.sequence for each in scores[0].sequences] == titles
    job = in_process[0]
    names = sequence_metrics(job, job.store.read_existing(job.track))
    assert {name.split("/")[0] for name in names} == {
        "got10k_layout_sequences",
        "short_only_sequences",
    }
    assert evaluate_all([], places, tmp_path) == [[], []]


def test_a_complete_benchmark_is_reported_though_another_failed(
    videos: Path, tmp_path: Path, in_process: list[SequenceJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_missing = jobs._run_missing

    def fail_on_long(due: Sequence[SequenceJob], *settings: Any) -> None:
        run_missing([job for job in due if job.track.video == "short"], *settings)
        raise IncompleteResultsError("1 of 2 runs failed")

    monkeypatch.setattr(jobs, "_run_missing", fail_on_long)
    reported: dict[int, list[str]] = {}
    with pytest.raises(IncompleteResultsError, match="1 of 2 runs failed"):
        evaluate_all(
            [StaticSpec()],
            [(VIDEOS, videos), (SHORT_ONLY, videos)],
            tmp_path / "results",
            report=lambda place, scores: reported.update({place: [s.tracker for s in scores]}),
            partial=True,
        )
    assert reported == {1: ["Static box"]}


def test_tasks_ask_for_what_was_given_and_the_longest_comes_first(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    submitted: list[str] = []

    class Task:
        def remote(self, job: SequenceJob, run: object) -> int:
            submitted.append(job.track.video)
            run_job(job)
            return len(submitted)

    def remote(**options: Any) -> Any:
        asked.update(options)
        return lambda function: Task()

    monkeypatch.setattr("eval_jobs.jobs.ray.remote", remote)
    monkeypatch.setattr("eval_jobs.jobs.ray.is_initialized", lambda: True)
    monkeypatch.setattr("eval_jobs.jobs._gather", lambda running: [])
    nodes = [{"CPU": 8.0}, {"CPU": 4.0, "GPU": 1.0}]
    monkeypatch.setattr("eval_jobs.jobs.cluster_nodes", lambda scaling: nodes)
    settings = {"num_cpus_per_task": 3, "num_gpus_per_task": 0.25, "max_retries": 5}
    evaluate([StaticSpec()], VIDEOS, videos, tmp_path / "results", **settings)  # type: ignore[arg-type]
    assert submitted == ["long", "short"]
    assert (asked["num_cpus"], asked["num_gpus"], asked["max_retries"]) == (3, 0.25, 5)


@pytest.mark.parametrize(("num_cpus", "num_gpus"), [(9, 0.0), (5, 0.25), (1, 2.0)])
def test_a_task_that_no_node_can_run_is_refused(
    monkeypatch: pytest.MonkeyPatch, num_cpus: int, num_gpus: float
) -> None:
    nodes = [{"CPU": 8.0}, {"CPU": 4.0, "GPU": 1.0}]
    monkeypatch.setattr("eval_jobs.jobs.cluster_nodes", lambda scaling: nodes)
    require_place(8, 0.0)
    require_place(4, 0.25)
    with pytest.raises(ValueError, match=r"on one node, and .* has 8 CPUs, 0 GPUs; 4 CPUs, 1 GPUs"):
        require_place(num_cpus, num_gpus)


def test_a_task_takes_of_a_gpu_where_it_computes_on_one() -> None:
    assert [gpus_of(device, 0.25) for device in ("cpu", "cuda", "cuda:1")] == [0.0, 0.25, 0.25]


def test_any_name_of_a_video_is_one_of_a_metric(videos: Path, tmp_path: Path) -> None:
    (track, _) = select(VIDEOS, videos).tracks
    odd = replace(track, video="dog (1), it's [#2]")
    store = ResultStore(folder=tmp_path, tracker="ours", fingerprint="0" * 16, max_frames=None)
    job = SequenceJob(
        spec=StaticSpec(), store=store, benchmarks=(VIDEOS,), track=odd, num_threads=1
    )
    expect_metric_names(sequence_metrics(job, one_pass(StaticTracker(), track)))


def test_corrupt_result_is_never_a_score(videos: Path, tmp_path: Path) -> None:
    evaluate_without_ray([StaticSpec()], videos, tmp_path / "results")
    scores = evaluate([StaticSpec()], VIDEOS, videos, tmp_path / "results")
    assert len(scores[0].sequences) == 2
    file = next((tmp_path / "results").rglob("long*.json"))
    content = json.loads(file.read_text())
    content["boxes"][3][0] += 1.0
    file.write_text(json.dumps(content))
    with pytest.raises(ResultError, match="got10k/long"):
        evaluate([StaticSpec()], VIDEOS, videos, tmp_path / "results")


def evaluate_without_ray(specs: list[Any], videos: Path, output: Path) -> None:
    """All jobs in this process, so that `evaluate` finds every result and starts no Ray."""
    for spec in specs:
        store = ResultStore(
            folder=output, tracker=spec.name, fingerprint=spec.fingerprint, max_frames=None
        )
        for track in select(VIDEOS, videos).tracks:
            run_job(
                SequenceJob(
                    spec=spec,
                    store=store,
                    benchmarks=(VIDEOS,),
                    track=track,
                    num_threads=torch.get_num_threads(),
                )
            )


def test_trackers_need_different_names(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="different names, got Static box, Static box"):
        evaluate([StaticSpec(), StaticSpec()], VIDEOS, videos, tmp_path)


def test_opencv_spec_is_named_after_its_algorithm() -> None:
    assert OpenCvSpec().name == "OpenCV MIL"
    assert OpenCvSpec().fingerprint != StaticSpec().fingerprint
