"""`eval_jobs.result_files`: other trackers' files are read right, or named in an error."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.boxes import xywh_to_xyxy, xyxy_to_xywh
from data_pipeline.tracks import Track
from eval_jobs.benchmarks import IncompleteResultsError, Selection, find_benchmark
from eval_jobs.metrics import AUC, otb_curves
from eval_jobs.result_files import find_files, list_entries, named_folder, read_run, score_results
from eval_jobs.results import ResultError

BOXES = np.array([[10.0, 20, 40, 60], [12, 20, 42, 60], [14, 22, 44, 62], [16, 22, 46, 62]])


def track(video: str = "Deer", *, target: str = "0", dataset: str = "otb") -> Track:
    return Track(
        dataset=dataset,
        video=video,
        target=target,
        image_files=tuple(Path(f"{frame}.jpg") for frame in range(len(BOXES))),
        boxes=BOXES,
        visible=np.ones(len(BOXES), dtype=bool),
        frame_numbers=np.arange(len(BOXES)),
    )


def selection(*tracks: Track, benchmark: str = "otb100") -> Selection:
    row = find_benchmark(benchmark)
    return Selection(benchmark=row, tracks=tracks, num_expected=len(row.sequences or tracks))


def write(path: Path, rows: Sequence[Sequence[float]] | np.ndarray, delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(delimiter.join(f"{x:g}" for x in row) for row in rows) + "\n")
    return path


def official(boxes: np.ndarray = BOXES) -> np.ndarray:
    """Rows of an OTB file, whose first pixel is (1, 1)."""
    return xyxy_to_xywh(boxes) + np.array([1, 1, 0, 0])


@pytest.mark.parametrize("delimiter", [",", "\t", " ", ", "])
def test_otb_s_files_are_read(tmp_path: Path, delimiter: str) -> None:
    path = write(tmp_path / "Deer.txt", official(), delimiter)
    run = read_run(path, track(), num_frames=4)
    np.testing.assert_array_equal(run.boxes, BOXES)
    assert not run.lost.any()
    assert np.isnan(run.fps)


def test_got10k_s_files_are_read(tmp_path: Path) -> None:
    rows = xyxy_to_xywh(BOXES)  # 0-based
    path = write(tmp_path / "clip" / "clip_001.txt", rows)
    write(tmp_path / "clip" / "clip_002.txt", rows)
    write(tmp_path / "clip" / "clip_time.txt", [[9.0, 9.0], [0.1, 0.2], [0.1, 0.2], [0.1, 0.2]])
    video = track("clip", dataset="got10k")
    assert [file.name for file in find_files(list_entries(tmp_path), video)] == [
        "clip_001.txt",
        "clip_002.txt",
    ]
    run = read_run(path, video, num_frames=4)
    np.testing.assert_array_equal(run.boxes, BOXES)
    assert run.fps == pytest.approx(10.0)
    score = score_results("theirs", tmp_path, selection(video, benchmark="got10k_layout"))
    assert score.values["auc"] == pytest.approx(20 / 21)
    assert score.fps == pytest.approx(10.0)


@pytest.mark.parametrize("name", ["Jogging.2", "Jogging-2", "jogging_2"])
def test_second_targets_have_several_names(tmp_path: Path, name: str) -> None:
    write(tmp_path / "Jogging.1.txt", official())
    path = write(tmp_path / f"{name}.txt", official())
    assert find_files(list_entries(tmp_path), track("Jogging", target="2")) == [path]


def test_only_target_of_a_video_may_have_the_video_s_name(tmp_path: Path) -> None:
    """got10k calls Human4.2 so; a file Jogging.txt could be of either target."""
    human, jogging = track("Human4", target="2"), track("Jogging", target="1")
    write(tmp_path / "Human4.txt", official())
    write(tmp_path / "Jogging.txt", official())
    assert score_results("theirs", tmp_path, selection(human)).values["auc"] > 0.9
    with pytest.raises(IncompleteResultsError, match=r"1 have none: otb/Jogging\.1"):
        score_results("theirs", tmp_path, selection(human, jogging))


def test_scores_are_those_of_the_boxes(tmp_path: Path) -> None:
    moved = official() + np.array([3, 0, 0, 0])
    moved[2, 2] = np.nan  # repeats the row before, as OTB has it
    write(tmp_path / "deer.txt", moved)
    write(tmp_path / "Fish.txt", official())
    score = score_results("theirs", tmp_path, selection(track("Deer"), track("Fish")))
    assert score.label == "OPE, official OTB toolkit, 2 of 100 sequences"
    deer, fish = score.sequences
    assert deer.values["auc"] == AUC.read(otb_curves(moved, official()))
    assert fish.values["auc"] == pytest.approx(20 / 21)
    assert np.isnan(score.fps)


def test_only_the_first_frames_are_scored_when_asked(tmp_path: Path) -> None:
    rows = official()
    rows[2:] += np.array([500, 500, 0, 0])
    write(tmp_path / "Deer.txt", rows)
    whole = selection(track("Deer"))
    assert score_results("theirs", tmp_path, whole).values["auc"] < 0.6
    score = score_results("theirs", tmp_path, whole, 2)
    assert score.values["auc"] == pytest.approx(20 / 21)
    assert score.label.endswith("1 of 100 sequences, first 2 frames")


def test_real_results_give_the_official_scores(tmp_path: Path) -> None:
    oracle = json.loads((Path(__file__).parent / "data" / "otb_real_results.json").read_text())
    for each in oracle["sequences"]:
        truth = np.array(each["truth"], dtype=np.float64)
        video = Track(
            dataset="otb",
            video=each["name"],
            image_files=tuple(Path(f"{frame}.jpg") for frame in range(len(truth))),
            boxes=xywh_to_xyxy(truth - np.array([1, 1, 0, 0])),
            visible=np.ones(len(truth), dtype=bool),
            frame_numbers=np.arange(len(truth)),
        )
        for tracker, expected in each["trackers"].items():
            write(tmp_path / tracker / f"{each['name']}.txt", expected["predicted"], "\t")
            score = score_results(tracker, tmp_path / tracker, selection(video))
            assert score.values["auc"] == pytest.approx(expected["success_auc"], abs=5e-5)
            assert score.values["precision_20"] == pytest.approx(expected["precision_20"], abs=5e-5)


def test_missing_sequences_are_listed(tmp_path: Path) -> None:
    write(tmp_path / "Deer.txt", official())
    whole = selection(track("Deer"), track("Fish"), track("Jogging", target="1"))
    with pytest.raises(IncompleteResultsError, match=r"theirs: .*2 have none: otb/Fish, otb/J"):
        score_results("theirs", tmp_path, whole)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    deer = selection(track("Deer"))
    with pytest.raises(ResultError, match="nowhere: a folder of result files expected"):
        score_results("theirs", tmp_path / "nowhere", deer)
    write(tmp_path / "Deer.txt", official()[:3])
    with pytest.raises(ResultError, match=r"otb/Deer: .*Deer.txt must have a row for each of 4 f"):
        score_results("theirs", tmp_path, deer)
    (tmp_path / "Deer.txt").write_text("1,2,3\n")
    with pytest.raises(ResultError, match=r"otb/Deer: .*Deer\.txt, line 1"):
        score_results("theirs", tmp_path, deer)
    (tmp_path / "Deer.txt").write_text("")
    with pytest.raises(ResultError, match=r"otb/Deer: .*the file is empty"):
        score_results("theirs", tmp_path, deer)
    write(tmp_path / "Deer.txt", official())
    write(tmp_path / "deer.txt", official())
    with pytest.raises(ResultError, match="otb/Deer: results in one file or folder expected"):
        score_results("theirs", tmp_path, deer)


def test_times_of_another_length_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "Deer" / "Deer_001.txt", official())
    write(tmp_path / "Deer" / "Deer_time.txt", [[1.0], [1.0]])
    with pytest.raises(ResultError, match="seconds of each of 4 frames expected, got 2"):
        score_results("theirs", tmp_path, selection(track("Deer")))


def test_results_of_runs_with_resets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="VOT-2018 is run with resets"):
        score_results("theirs", tmp_path, selection(track(dataset="vot"), benchmark="vot2018"))


def test_a_folder_may_have_a_name(tmp_path: Path) -> None:
    (tmp_path / "lr=0.1" / "best").mkdir(parents=True)
    there = tmp_path / "lr=0.1" / "best"
    assert named_folder(str(there), needs_name=False) == ("", there)
    assert named_folder(f"A={there}", needs_name=False) == ("A", there)
    with pytest.raises(ValueError, match=r"URI 's3://b/c'.*export_tracker.py --checkpoint URI"):
        named_folder("s3://b/c", needs_name=False)
    assert named_folder("A=b/c=d") == ("A", Path("b/c=d"))
    assert named_folder("b/c", needs_name=False) == ("", Path("b/c"))
    for wrong in ("b/c", "=b", "A="):
        with pytest.raises(ValueError, match="NAME=FOLDER expected"):
            named_folder(wrong)
