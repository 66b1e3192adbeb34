"""`eval_jobs.jobs` beyond one pass: runs with resets, hidden ground truth, rows' settings."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy import ndarray

from eval_jobs.archives import ArchiveError
from eval_jobs.benchmarks import IncompleteResultsError, find_benchmark
from eval_jobs.jobs import evaluate, evaluate_all
from eval_jobs.opencv_tracker import StaticTracker
from eval_jobs.results import ResultError
from eval_jobs.scores import TrackerScore
from eval_jobs.sequence_job import SequenceJob
from eval_jobs.tracker import Prediction
from eval_jobs.tracker_config import TrackerConfig
from eval_jobs.tracker_specs import OnlineSpec, StaticSpec
from eval_jobs.work import as_row_asks

VOT = find_benchmark("vot2018")


@pytest.fixture
def sequences(tmp_path: Path) -> Path:
    """Two of VOT-2018's sequences: a target that stays, and one that leaves a static box behind."""
    folder = tmp_path / "vot"
    for name, speed_px in (("ball1", 0), ("book", 4)):
        (folder / name / "color").mkdir(parents=True)
        rows = []
        for frame in range(14):
            image = np.full((60, 120, 3), 40, dtype=np.uint8)
            left = 10 + speed_px * frame
            image[20:40, left : left + 16] = 220
            cv2.imwrite(str(folder / name / "color" / f"{frame + 1:08d}.jpg"), image)
            corners = [(left, 20), (left + 15, 20), (left + 15, 39), (left, 39)]
            rows.append(",".join(f"{number:.1f}" for corner in corners for number in corner))
        (folder / name / "groundtruth.txt").write_text("\n".join(rows))
    (folder / "list.txt").write_text("ball1\nbook\n")
    return folder


def evaluate_vot(sequences: Path, output: Path) -> TrackerScore:
    return evaluate([StaticSpec()], VOT, sequences, output, partial=True)[0]


def result_files(output: Path) -> list[str]:
    return sorted(path.name.split("-")[0] for path in output.rglob("vot-resets/*.json"))


def test_deterministic_tracker_is_run_three_times(
    in_process: list[SequenceJob], sequences: Path, tmp_path: Path
) -> None:
    score = evaluate_vot(sequences, tmp_path / "results")
    assert result_files(tmp_path / "results") == ["ball1"] * 3 + ["book"] * 3
    assert score.label.endswith("EAO, A, R as in the paper, 2 of 60 sequences")
    assert score.selection.metric_prefix == "vot2018-2of60"
    # The static box loses the moving target in frame 5, and, started again in 10, in the last one.
    assert score.values["robustness"] == pytest.approx(100 * 2 / 28)
    ball, book = score.sequences
    assert (ball.sequence, ball.values["robustness"]) == ("ball1", 0.0)
    assert ball.values["accuracy"] == pytest.approx(1.0, abs=0.15)
    assert book.values["robustness"] == pytest.approx(200 / 14)
    assert "eao" not in ball.values
    assert "eao" in score.values
    assert not score.has_curves
    with pytest.raises(ValueError, match="the benchmark has VotRuns"):
        _ = score.curves


class Trembling(StaticTracker):
    """Moves at random, each time it is made."""

    def follow(self, image: ndarray) -> Prediction:
        said = super().follow(image)
        return replace(said, box=said.box + np.random.default_rng().normal(0, 0.5, 4))


def test_tracker_with_chance_in_it_is_run_fifteen_times(
    in_process: list[SequenceJob], sequences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StaticSpec, "build", lambda spec: Trembling())
    score = evaluate_vot(sequences, tmp_path / "results")
    assert result_files(tmp_path / "results") == ["ball1"] * 15 + ["book"] * 15
    assert len(score.sequences[0].measured.sequences[0]) == 15
    again = evaluate_vot(sequences, tmp_path / "results")
    assert again.values == pytest.approx(score.values, nan_ok=True)


def test_one_pass_and_resets_over_the_same_sequences_are_runs_of_their_own(
    in_process: list[SequenceJob], sequences: Path, tmp_path: Path
) -> None:
    otb = find_benchmark("otb100")
    one_pass = replace(VOT, name="pass", resets=None, scoring=otb.scoring)
    places = [(VOT, sequences), (one_pass, sequences)]
    found = evaluate_all([StaticSpec()], places, tmp_path / "results", partial=True)
    assert [next(iter(score.values)) for (score,) in found] == ["eao", "auc"]
    assert len(in_process) == 2 * 3 + 2


def test_damaged_repetition_is_named_and_never_a_score(
    in_process: list[SequenceJob], sequences: Path, tmp_path: Path
) -> None:
    evaluate_vot(sequences, tmp_path / "results")
    path = next((tmp_path / "results").rglob("book-*-002.json"))
    whole = path.read_text()
    for damaged in (whole[:-50], json.dumps(json.loads(whole) | {"codes": [1] + [3] * 13})):
        path.write_text(damaged)
        with pytest.raises(ResultError, match=r"vot/book: .*-002\.json cannot be used"):
            evaluate_vot(sequences, tmp_path / "results")
    path.unlink()
    evaluate_vot(sequences, tmp_path / "results")
    assert path.exists()


def test_missing_sequences_are_listed(sequences: Path, tmp_path: Path) -> None:
    with pytest.raises(
        IncompleteResultsError, match=r"VOT-2018 needs 60 sequences.*lacks 58: ants1"
    ):
        evaluate([StaticSpec()], VOT, sequences, tmp_path)


@pytest.mark.ray
def test_failed_repetitions_are_named_and_the_others_are_kept(
    ray_session: None, sequences: Path, tmp_path: Path
) -> None:
    (sequences / "book" / "color" / "00000005.jpg").write_bytes(b"no image")
    with pytest.raises(IncompleteResultsError, match="3 of 6 runs failed") as caught:
        evaluate_vot(sequences, tmp_path / "results")
    for number in (1, 2, 3):
        assert f"Static box on vot/book, repetition {number}: DatasetError" in str(caught.value)
    assert result_files(tmp_path / "results") == ["ball1"] * 3


def hidden_videos(folder: Path) -> Path:
    """Two videos of GOT-10k's test set, which has the first box only."""
    for name in ("first", "second"):
        (folder / "test" / name).mkdir(parents=True)
        for frame in range(3):
            image = np.zeros((40, 50, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / "test" / name / f"{frame + 1:08d}.jpg"), image)
        (folder / "test" / name / "groundtruth.txt").write_text("5,6,20,10\n")
    (folder / "test" / "list.txt").write_text("first\nsecond\n")
    return folder


def test_hidden_ground_truth_gives_an_archive_and_no_score(
    in_process: list[SequenceJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos, output = hidden_videos(tmp_path / "got10k"), tmp_path / "results"
    benchmark = replace(find_benchmark("got10k_test"), sequences=("first", "second"))
    score = evaluate([StaticSpec()], benchmark, videos, output)[0]
    assert score.values == {}
    assert score.fps > 0
    (path,) = output.rglob("*.zip")
    with zipfile.ZipFile(path) as archive:
        text = archive.read("Static_box/second/second_001.txt").decode()
    assert text == "5.0000,6.0000,20.0000,10.0000\n" * 3

    path.unlink()
    partial = evaluate([StaticSpec()], benchmark, videos, output, max_sequences=1)[0]
    assert partial.label.endswith("1 of 2 sequences")
    assert not list(output.rglob("*.zip"))

    monkeypatch.setattr(StaticSpec, "build", lambda spec: Vanishing())
    for file in output.rglob("*.json"):
        file.unlink()
    with pytest.raises(ArchiveError, match="got10k/first: four numbers per box expected, frame 2"):
        evaluate([StaticSpec()], benchmark, videos, output)
    assert not list(output.rglob("*.zip"))


class Vanishing(StaticTracker):
    """Gives no box."""

    def follow(self, image: ndarray) -> Prediction:
        return replace(super().follow(image), box=np.full(4, np.nan))


def test_lasot_s_row_updates_cls_only() -> None:
    lasot, online = find_benchmark("lasot"), OnlineSpec(name="ours", checkpoint=Path("best"))
    spec, setting = as_row_asks(online, lasot)
    assert isinstance(spec, OnlineSpec)
    assert spec.config == TrackerConfig(update_branches=("cls",))
    assert setting == "online updates of cls"
    never = replace(online, config=TrackerConfig(update_interval_frames=None))
    for unchanged in (spec, never, StaticSpec()):
        assert as_row_asks(unchanged, lasot) == (unchanged, "")
    assert as_row_asks(online, VOT) == (online, "")
