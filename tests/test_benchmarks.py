"""`eval_jobs.benchmarks`: the official lists, and scores that say what they are over."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipeline.readers import READERS
from data_pipeline.readers.otb import FRAME_RANGES
from data_pipeline.tracks import DatasetError, Track
from eval_jobs.benchmarks import (
    BENCHMARKS,
    IncompleteResultsError,
    find_benchmark,
    select,
)
from eval_jobs.otb_sequences import OTB50, OTB100, OTB2013
from eval_jobs.protocols import ResetConfig, Trajectory
from eval_jobs.scores import score_sequence
from eval_jobs.scoring import score_lasot, score_otb, score_visible


def otb_sequence(
    folder: Path, name: str, num_frames: int = 3, targets: tuple[str, ...] = ("",)
) -> None:
    """A sequence in OTB's layout, its images empty files: nothing here opens one."""
    (folder / name / "img").mkdir(parents=True)
    for frame in range(1, num_frames + 1):
        (folder / name / "img" / f"{frame:04d}.jpg").touch()
    for target in targets:
        text = "\n".join(f"{10 + frame},5,12,14" for frame in range(num_frames))
        (folder / name / f"groundtruth_rect{target}.txt").write_text(text)


def make_track(boxes: list[list[float]], visible: list[bool]) -> Track:
    return Track(
        dataset="made",
        video="video",
        image_files=tuple(Path(f"{i}.jpg") for i in range(len(boxes))),
        boxes=np.array(boxes, dtype=np.float64),
        visible=np.array(visible),
        frame_numbers=np.arange(len(boxes)),
    )


def test_official_lists() -> None:
    assert (len(OTB2013), len(OTB50), len(OTB100)) == (51, 50, 100)
    assert len({name.casefold() for name in OTB100}) == 100
    assert set(OTB2013) < set(OTB100)
    assert set(OTB50) < set(OTB100)
    assert {"Jogging.1", "Jogging.2", "Skating2.1", "Skating2.2", "Human4.2"} < set(OTB100)


def test_rows_name_readers_and_metrics() -> None:
    for name, row in BENCHMARKS.items():
        assert row.name == name
        assert row.reader in READERS
        assert row.protocol
        assert bool(row.metrics) == (row.server is None)


def test_unknown_benchmark_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown benchmark 'otb99'; there are otb2013"):
        find_benchmark("otb99")


def test_missing_sequences_are_listed(tmp_path: Path) -> None:
    otb_sequence(tmp_path, "Deer")
    with pytest.raises(
        IncompleteResultsError, match=r"lacks 50: Basketball, .* 40 more\. .*--partial"
    ):
        select(find_benchmark("otb2013"), tmp_path)


def test_partial_score_says_how_partial(tmp_path: Path) -> None:
    otb_sequence(tmp_path, "deer")
    otb_sequence(tmp_path, "Jogging", targets=(".1", ".2"))
    otb_sequence(tmp_path, "NotInTheList")
    selection = select(find_benchmark("otb2013"), tmp_path, partial=True)
    assert [track.name for track in selection.tracks] == [
        "otb/deer",
        "otb/Jogging.1",
        "otb/Jogging.2",
    ]
    assert selection.is_partial
    assert selection.coverage == "3 of 51 sequences"
    assert selection.metric_prefix == "otb2013-3of51"


def test_whole_benchmark_has_the_short_name(tmp_path: Path) -> None:
    for video in {name.partition(".")[0] for name in OTB50}:
        targets = {"Skating2": (".1", ".2"), "Human4": (".2",)}.get(video, ("",))
        otb_sequence(tmp_path, video, FRAME_RANGES.get(video, (1, 3))[1], targets)
    selection = select(find_benchmark("otb50"), tmp_path)
    assert not selection.is_partial
    assert selection.coverage == "50 sequences"
    assert selection.metric_prefix == "otb50"


def test_shortened_runs_say_so(tmp_path: Path) -> None:
    otb_sequence(tmp_path, "Deer")
    otb_sequence(tmp_path, "Fish")
    selection = select(
        find_benchmark("otb100"), tmp_path, partial=True, max_sequences=1, max_frames=2
    )
    assert [len(track) for track in selection.tracks] == [2]
    assert selection.coverage == "1 of 100 sequences, first 2 frames"
    assert selection.metric_prefix == "otb100-1of100-first2"
    with pytest.raises(ValueError, match="at least 2 frames, got max_frames=1"):
        select(find_benchmark("otb100"), tmp_path, partial=True, max_frames=1)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        select(find_benchmark("otb100"), tmp_path, partial=True, max_sequences=0)


def test_a_listed_video_without_images_is_missing_and_no_fault_of_the_others(
    tmp_path: Path,
) -> None:
    names = ["GOT-10k_Val_000001", "GOT-10k_Val_000002"]
    (tmp_path / "val" / names[0]).mkdir(parents=True)
    (tmp_path / "val" / "list.txt").write_text("\n".join(names) + "\n")
    (tmp_path / "val" / names[0] / "groundtruth.txt").write_text("1,1,9,9\n" * 2)
    for number in (1, 2):
        picture = np.zeros((40, 40, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "val" / names[0] / f"{number:08d}.jpg"), picture)
    with pytest.raises(DatasetError, match="GOT-10k_Val_000002: a folder of images expected"):
        select(find_benchmark("got10k_val"), tmp_path)
    found = select(find_benchmark("got10k_val"), tmp_path, partial=True)
    assert [track.video for track in found.tracks] == names[:1]
    assert found.coverage == "1 of 180 sequences"
    row = dataclasses.replace(found.benchmark, num_sequences=None, sequences=None)
    own = select(row, tmp_path, partial=True)
    assert own.coverage == "1 of 2 sequences" and own.is_partial
    (tmp_path / "val" / names[0] / "groundtruth.txt").write_text("1,1,9,9\n")
    with pytest.raises(DatasetError, match="as many boxes as images"):
        select(find_benchmark("got10k_val"), tmp_path, partial=True)


def test_folder_without_any_sequence_is_an_error_even_for_a_partial_score(tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        select(find_benchmark("otb100"), tmp_path, partial=True)
    otb_sequence(tmp_path, "NotInTheList")
    with pytest.raises(IncompleteResultsError, match="lacks 100"):
        select(find_benchmark("otb100"), tmp_path, partial=True)


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    otb_sequence(tmp_path, "Deer")
    otb_sequence(tmp_path, "deer")
    with pytest.raises(DatasetError, match="two sequences are called 'deer'"):
        select(find_benchmark("otb100"), tmp_path, partial=True)


def test_otb_counts_frames_without_truth_as_the_toolkit_does() -> None:
    track = make_track([[10.0, 10.0, 20.0, 20.0], [np.nan] * 4], [True, False])
    curves = score_otb(np.array([[10.0, 10.0, 20.0, 20.0]] * 2), track)
    assert curves.success[0] == 0.5
    assert curves.precision[0] == 1.0


def test_own_videos_count_visible_frames_only() -> None:
    box = [10.0, 10.0, 20.0, 20.0]
    track = make_track([box, [50.0, 50.0, 60.0, 60.0], box], [True, False, True])
    curves = score_visible(np.array([box] * 3), track)
    assert curves.success[0] == curves.precision[0] == 1.0
    with pytest.raises(ValueError, match="3 boxes expected, got 2"):
        score_visible(np.array([box] * 2), track)


def trackingnet_video(folder: Path, name: str) -> None:
    """A video of TrackingNet's test set, which has the first box only."""
    (folder / "TEST" / "anno").mkdir(parents=True, exist_ok=True)
    (folder / "TEST" / "anno" / f"{name}.txt").write_text("1,2,30,40\n")
    (folder / "TEST" / "frames" / name).mkdir(parents=True)
    for frame in range(2):
        (folder / "TEST" / "frames" / name / f"{frame}.jpg").touch()


def test_benchmark_of_which_only_the_number_is_known_counts_its_sequences(tmp_path: Path) -> None:
    trackingnet_video(tmp_path, "first")
    trackingnet_video(tmp_path, "second")
    with pytest.raises(IncompleteResultsError, match=r"needs 511 sequences, .* lacks 509\. Add"):
        select(find_benchmark("trackingnet"), tmp_path)
    partial = select(find_benchmark("trackingnet"), tmp_path, partial=True)
    assert partial.coverage == "2 of 511 sequences"
    pair = dataclasses.replace(find_benchmark("trackingnet"), num_sequences=2)
    assert not select(pair, tmp_path).is_partial
    single = dataclasses.replace(pair, num_sequences=1)
    with pytest.raises(DatasetError, match="has 1 sequences, 2 found"):
        select(single, tmp_path)


def test_official_lists_of_the_other_benchmarks() -> None:
    counts = {"vot2018": 60, "lasot": 280, "got10k_test": 180, "got10k_val": 180}
    for name, count in counts.items():
        names = find_benchmark(name).sequences
        assert names is not None
        assert len(set(names)) == count
    assert find_benchmark("lasot").update_branches == ("cls",)
    assert find_benchmark("vot2018").resets == ResetConfig()


def test_lasot_takes_absent_frames_out_of_the_hits() -> None:
    box = [10.0, 10.0, 20.0, 20.0]
    track = make_track([box, box, [np.nan] * 4, box], [True, True, False, False])
    curves = score_lasot(np.array([box] * 4), track)
    assert curves.success[0] == curves.precision[0] == 0.5


def test_got10k_and_trackingnet_rows_score_a_perfect_tracker(tmp_path: Path) -> None:
    box = [10.0, 10.0, 20.0, 20.0]
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((40, 50, 3), dtype=np.uint8))
    track = dataclasses.replace(
        make_track([box] * 3, [True] * 3), image_files=(tmp_path / "0.png",) * 3
    )
    run = Trajectory(
        boxes=np.array([box] * 3),
        scores=np.ones(3),
        lost=np.zeros(3, dtype=bool),
        seconds=np.full(3, 0.5),
    )
    for name in ("got10k_val", "trackingnet_train11"):
        score = score_sequence(find_benchmark(name), track, [run, run])
        assert list(score.values.values()) == pytest.approx([1.0] * 3)
        assert score.fps == 2.0
    hidden = score_sequence(find_benchmark("trackingnet"), track, run)
    assert hidden.values == {}
    with pytest.raises(ValueError, match=r"made/video: runs with resets expected"):
        score_sequence(find_benchmark("vot2018"), track, run)
    with pytest.raises(ValueError, match=r"made/video: runs of 2 frames expected, got \[3\]"):
        score_sequence(find_benchmark("trackingnet"), track[:2], run)
