"""Tuning and report sequences: disjoint by construction, whatever a study is given."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.readers import synthetic
from data_pipeline.synthetic_scenes import SyntheticConfig
from eval_jobs.benchmarks import BENCHMARKS, select
from eval_jobs.pipeline import EvaluationConfig
from search_spaces.sequence_parts import TuningConfig, part_of, study_sequences

EVALUATION = EvaluationConfig()
VIDEOS = SyntheticConfig()


def write_videos(folder: Path, names: list[str]) -> None:
    tiny = SyntheticConfig(frames_per_video=3, width_px=160, height_px=120, max_target_px=38.0)
    for seed, name in enumerate(names):
        synthetic.write_video(folder / "val" / name, tiny, seed)
    (folder / "val" / "list.txt").write_text("\n".join(names) + "\n")


@given(st.integers(2, 60), st.integers(1, 20), st.integers(1, 20))
def test_no_video_is_on_both_sides_for_any_size(videos: int, tuning: int, report: int) -> None:
    config = replace(VIDEOS, num_val_videos=videos)
    evaluation = replace(EVALUATION, max_sequences=report)
    try:
        found = study_sequences(evaluation, TuningConfig(max_sequences=tuning), config)
    except ValueError as error:
        assert "leave none" in str(error)
        return
    assert found.tuning is not None
    assert not set(found.tuning.frames) & set(found.report.frames)
    assert 0 < len(found.tuning.frames) <= tuning and 0 < len(found.report.frames) <= report


def test_what_tracks_nothing_needs_no_ground_truth() -> None:
    hidden = EvaluationConfig(benchmark="got10k_test", phases=())
    assert study_sequences(hidden, None).text.startswith("Nothing is tracked")
    with pytest.raises(ValueError, match="a server has its ground truth"):
        study_sequences(replace(hidden, phases=("after",)), None)


def test_a_video_keeps_its_side_whatever_else_there_is() -> None:
    sides = {f"val_{index:06d}": part_of(f"val_{index:06d}") for index in range(60)}
    assert 10 < list(sides.values()).count("tuning") < 30
    for count in (12, 20, 60):
        found = study_sequences(
            EVALUATION, TuningConfig(max_sequences=None), replace(VIDEOS, num_val_videos=count)
        )
        assert found.tuning is not None
        assert all(sides[name] == "tuning" for name in found.tuning.frames)
        assert all(sides[name] == "report" for name in found.report.frames)
    assert part_of("OTB_Dog1") == part_of("dog1")


def test_a_study_that_chooses_nothing_reports_on_all() -> None:
    found = study_sequences(EVALUATION, None, VIDEOS)
    assert found.tuning is None and len(found.report.frames) == VIDEOS.num_val_videos
    assert found.report.benchmark.name == "synthetic"
    assert found.text.startswith("Nothing was chosen")


def test_names_and_text_say_what_is_covered() -> None:
    found = study_sequences(
        replace(EVALUATION, max_sequences=3), TuningConfig(max_sequences=2), VIDEOS
    )
    assert found.report.benchmark.name == "synthetic-report3of20"
    assert "report part, 3 of 20 sequences" in found.report.benchmark.title
    assert found.text.startswith("Chosen by Synthetic, tuning part, 2 of 20 sequences: val_000000")
    assert found.fingerprint != study_sequences(EVALUATION, TuningConfig(), VIDEOS).fingerprint


def test_the_parts_on_disk_are_those_that_were_planned(tmp_path: Path) -> None:
    names = [f"val_{index:06d}" for index in range(4)]
    write_videos(tmp_path, names)
    evaluation = replace(EVALUATION, folder=str(tmp_path))
    found = study_sequences(evaluation, TuningConfig())
    assert found.tuning is not None and found.report.frames == {"val_000001": 3, "val_000003": 3}
    tracks = select(found.tuning.benchmark, tmp_path).tracks
    assert [track.video for track in tracks] == ["val_000000", "val_000002"]


def test_mended_boxes_make_other_sequences(tmp_path: Path) -> None:
    names = [f"val_{index:06d}" for index in range(4)]
    write_videos(tmp_path, names)
    evaluation = replace(EVALUATION, folder=str(tmp_path))
    before = study_sequences(evaluation, TuningConfig())
    assert study_sequences(evaluation, TuningConfig()).fingerprint == before.fingerprint
    boxes = tmp_path / "val" / "val_000000" / "groundtruth.txt"
    first, *others = boxes.read_text().splitlines()
    boxes.write_text("\n".join([f"1{first}", *others]) + "\n")
    after = study_sequences(evaluation, TuningConfig())
    assert before.tuning is not None and after.tuning is not None
    assert after.tuning.fingerprint != before.tuning.fingerprint  # names and lengths are the same
    assert after.report == before.report and after.fingerprint != before.fingerprint
    other = replace(VIDEOS, seed=VIDEOS.seed + 1)
    unmade = study_sequences(EVALUATION, None, VIDEOS).fingerprint
    assert study_sequences(EVALUATION, None, other).fingerprint != unmade


def test_parts_of_a_partial_folder_say_of_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_videos(tmp_path, [f"val_{index:06d}" for index in range(4)])
    whole = replace(BENCHMARKS["synthetic"], num_sequences=9)
    monkeypatch.setitem(BENCHMARKS, "synthetic", whole)
    evaluation = replace(EVALUATION, folder=str(tmp_path), partial=True)
    found = study_sequences(evaluation, TuningConfig())
    assert found.tuning is not None and found.report.benchmark.name == "synthetic-report2of9"
    assert found.tuning.benchmark.title == "Synthetic, tuning part, 2 of 9 sequences"


def test_a_tuning_set_of_its_own_may_share_no_video(tmp_path: Path) -> None:
    write_videos(tmp_path / "report", ["car_4", "dog"])
    write_videos(tmp_path / "tuning", ["boat"])
    evaluation = replace(EVALUATION, folder=str(tmp_path / "report"))
    own = TuningConfig(benchmark="synthetic", folder=str(tmp_path / "tuning"))
    found = study_sequences(evaluation, own)
    assert found.tuning is not None and list(found.tuning.frames) == ["boat"]
    assert list(found.report.frames) == ["car_4", "dog"]
    shared = TuningConfig(benchmark="synthetic", folder=str(tmp_path / "shared"))
    write_videos(tmp_path / "shared", ["boat", "OTB_Car4"])
    with pytest.raises(ValueError, match=r"share 1 videos by name: OTB_Car4"):
        study_sequences(evaluation, shared)


def test_what_cannot_be_split_or_scored_is_refused(tmp_path: Path) -> None:
    write_videos(tmp_path, ["val_000001", "val_000003"])
    with pytest.raises(ValueError, match="2 sequences leave none for the tuning part"):
        study_sequences(replace(EVALUATION, folder=str(tmp_path)), TuningConfig())
    with pytest.raises(ValueError, match="needs the folder of OTB-100"):
        study_sequences(EvaluationConfig(benchmark="otb100"), None)
    with pytest.raises(ValueError, match="a server has its ground truth"):
        study_sequences(EvaluationConfig(benchmark="trackingnet"), None)
    with pytest.raises(ValueError, match="both its benchmark and its folder"):
        TuningConfig(benchmark="otb100")
    with pytest.raises(ValueError, match="max_sequences must be at least 1"):
        TuningConfig(max_sequences=0)
