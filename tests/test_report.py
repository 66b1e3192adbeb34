"""`eval_jobs.report`: what tables, plots and metric names say."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from data_pipeline.tracks import Track
from eval_jobs.benchmarks import Selection, find_benchmark
from eval_jobs.paper_tables import paper_tables
from eval_jobs.plots import attribute_figure, precision_figure, success_figure
from eval_jobs.protocols import Trajectory
from eval_jobs.report import (
    attribute_rows,
    log_scores,
    paper_rows,
    report_text,
    sequence_rows,
    summary_metrics,
)
from eval_jobs.row_tables import csv_table, table_rows, text_table
from eval_jobs.scores import TrackerScore, score_tracker
from meta_train.run_log import MlflowConfig, RunLog

BOX = np.array([10.0, 10.0, 30.0, 30.0])
METRICS = ("auc", "precision_20")
ATTRIBUTES = ("IV", "MB", "FM", "IPR", "BC", "LR")  # IV is Fish's, the others are Deer's


def score(
    tracker: str, shift: float, num_expected: int = 2, *, shift_in_fish: float | None = None
) -> TrackerScore:
    """Two sequences of five frames, on which the tracker is off by a shift."""
    tracks = tuple(
        Track(
            dataset="otb",
            video=name,
            image_files=tuple(Path(f"{i}.jpg") for i in range(5)),
            boxes=np.tile(BOX, (5, 1)),
            visible=np.ones(5, dtype=bool),
            frame_numbers=np.arange(5),
        )
        for name in ("Deer", "Fish")
    )
    selection = Selection(
        benchmark=find_benchmark("otb100"), tracks=tracks, num_expected=num_expected
    )
    shifts = (shift, shift if shift_in_fish is None else shift_in_fish)
    return score_tracker(tracker, "abc", selection, [trajectory(each) for each in shifts])


def trajectory(shift: float) -> Trajectory:
    """A box beside the target, lost in one frame, at ten frames per second."""
    return Trajectory(
        boxes=np.tile(BOX + shift, (5, 1)),
        scores=np.ones(5),
        lost=np.array([False, False, True, False, False]),
        seconds=np.array([3.0, 0.1, 0.1, 0.1, 0.1]),
    )


def test_numbers_stand_beside_their_protocol() -> None:
    row = table_rows([score("ours", 0.0, num_expected=100)])[0]
    assert row["auc"] == pytest.approx(20 / 21, abs=1e-4)
    assert row["fps"] == 10.0
    assert row["protocol"] == "OPE, official OTB toolkit, 2 of 100 sequences"


def test_sequences_have_their_rows() -> None:
    rows = sequence_rows([score("ours", 0.0), score("other", 30.0)])
    assert [(row["tracker"], row["sequence"]) for row in rows] == [
        ("ours", "Deer"),
        ("ours", "Fish"),
        ("other", "Deer"),
        ("other", "Fish"),
    ]
    assert rows[0]["lost_frames"] == 1
    text = text_table(rows)
    assert "lost_frames" in text
    assert "Fish" in text
    assert text_table([]) is not None


def test_metric_names_are_short_for_the_primary_tracker() -> None:
    metrics = summary_metrics([score("ours", 0.0), score("Static box", 2.0)], "ours")
    assert set(metrics) == {
        "otb100/auc",
        "otb100/precision_20",
        "otb100/fps",
        "otb100/num_sequences",
        "speed/fps",
        *(f"otb100/attr/{name}/{metric}" for name in ATTRIBUTES for metric in METRICS),
        *(f"otb100/Static_box/attr/{name}/{metric}" for name in ATTRIBUTES for metric in METRICS),
        "otb100/Static_box/auc",
        "otb100/Static_box/precision_20",
        "otb100/Static_box/fps",
        "otb100/Static_box/num_sequences",
        "speed/Static_box/fps",
    }
    assert metrics["otb100/auc"] > metrics["otb100/Static_box/auc"]


def test_partial_score_never_has_the_benchmark_s_metric_name() -> None:
    metrics = summary_metrics([score("ours", 0.0, num_expected=100)], "ours")
    assert "otb100/auc" not in metrics
    assert "otb100-2of100/auc" in metrics


def test_the_worst_sequences_come_first() -> None:
    rows = sequence_rows([score("ours", 0.0, shift_in_fish=9.0), score("other", 9.0)])
    assert [(row["tracker"], row["sequence"]) for row in rows] == [
        ("ours", "Fish"),
        ("ours", "Deer"),
        ("other", "Deer"),
        ("other", "Fish"),
    ]
    assert rows[0]["attributes"] == "IV"
    header, first, *_ = csv_table(rows).splitlines()
    assert header.startswith("tracker,sequence,frames,auc,precision_20")
    assert first.startswith("ours,Fish,5,")


def test_attributes_are_scored_over_their_sequences() -> None:
    scores = [score("ours", 0.0, shift_in_fish=30.0), score("other", 0.0)]
    by_attribute = {row["attribute"]: row for row in attribute_rows(scores)}
    assert list(by_attribute) == list(ATTRIBUTES)
    assert by_attribute["IV"]["sequences"] == 1
    assert by_attribute["LR"]["challenge"] == "low resolution"
    assert by_attribute["LR"]["ours: auc"] == pytest.approx(20 / 21, abs=1e-4)
    assert by_attribute["IV"]["ours: auc"] < 0.3  # only the first frame is right
    assert by_attribute["IV"]["other: auc"] == pytest.approx(20 / 21, abs=1e-4)
    axes = attribute_figure(scores).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["IV (1)", "MB (1)"]
    best, second = axes.get_lines()
    assert best.get_label().endswith("other")
    np.testing.assert_allclose(second.get_xdata()[1:], [20 / 21] * 5)


def test_the_paper_s_figures_stand_beside_ours() -> None:
    scores = [score("FCOS-MAML, after adaptation", 0.0, 100), score("mine", 1.0, 100)]
    rows = {row["tracker"]: row for row in paper_rows(scores)}
    shared = rows["FCOS-MAML, after adaptation"]
    assert (shared["auc"], shared["paper: auc"], shared["paper"]) == (0.9524, 0.671, "Table 1")
    assert shared["protocol"].endswith("2 of 100 sequences")
    assert rows["mine"]["paper: auc"] is None
    assert rows["mine"]["paper"] == ""
    siamese = rows["SiamFC"]
    assert (siamese["auc"], siamese["paper: auc"], siamese["paper: fps"]) == (None, 0.582, 86)
    assert "paper: precision_20" not in shared  # of which the paper says nothing
    text = report_text(scores)
    assert "Table 4" in text
    assert "2 of 100 sequences" in text


def test_a_speed_that_was_not_measured_is_no_number() -> None:
    unknown = dataclasses.replace(score("theirs", 0.0), fps=float("nan"))
    assert table_rows([unknown])[0]["fps"] is None
    assert "speed/fps" not in summary_metrics([unknown], "theirs")
    assert "nan" not in text_table(table_rows([unknown])).lower()


def test_plots_rank_trackers_and_name_the_protocol() -> None:
    scores = [score("worse", 25.0, 100), score("better", 0.0, 100)]
    for figure in (success_figure(scores), precision_figure(scores)):
        axes = figure.axes[0]
        labels = [line.get_label() for line in axes.get_lines()]
        assert labels[0].endswith("better")
        assert labels[1].endswith("worse")
        assert "2 of 100 sequences" in axes.get_title()
    many = [score(f"tracker {number}", 2.0 * number) for number in range(12)]
    assert len(success_figure(many).axes[0].get_lines()) == 12
    success = success_figure(scores).axes[0].get_lines()[0]
    np.testing.assert_allclose(success.get_ydata(), [1.0] * 20 + [0.0])


def test_everything_reaches_mlflow(tmp_path: Path, database: str) -> None:
    config = MlflowConfig(tracking_uri=database, undelivered_dir=str(tmp_path / "waiting"))
    run_log = RunLog.start(config, run_name="evaluation", params={}, tags={})
    log_scores(run_log, [score("ours", 0.0), score("Static box", 2.0)])
    run_log.finish()
    client = MlflowClient(config.tracking_uri)
    run_id = run_log.handle.run_id
    metrics = client.get_run(run_id).data.metrics
    assert metrics["otb100/auc"] == pytest.approx(20 / 21)
    assert metrics["otb100/attr/LR/auc"] == pytest.approx(20 / 21)
    files = {
        item.path
        for folder in ("tables", "plots")
        for item in client.list_artifacts(run_id, folder)
    }
    assert files == {
        "tables/otb100.json",
        "tables/otb100.txt",
        "tables/otb100_sequences.json",
        "tables/otb100_sequences.csv",
        "tables/otb100_attributes.json",
        "tables/otb100_paper.json",
        "plots/otb100_attributes.png",
        "plots/otb100_success.png",
        "plots/otb100_precision.png",
    }


def test_report_of_nothing_or_of_an_unknown_tracker_is_refused(database: str) -> None:
    config = MlflowConfig(tracking_uri=database)
    run_log = RunLog.start(config, run_name="evaluation", params={}, tags={})
    with pytest.raises(ValueError, match="at least one score"):
        log_scores(run_log, [])
    with pytest.raises(ValueError, match=r"primary must be one of \['ours'\], got 'theirs'"):
        log_scores(run_log, [score("ours", 0.0)], primary="theirs")


def test_paper_s_tables_hold_our_rows_and_say_what_was_run() -> None:
    tables = paper_tables([score("FCOS-MAML, after adaptation", 0.0, 100), score("mine", 1.0, 100)])
    assert set(tables) == {f"paper_table_{number}" for number in (1, 2, 3, 4)}
    rows = tables["paper_table_4"]
    assert [row["from"] for row in rows] == ["paper"] * 25 + ["here"] * 2
    assert next(row for row in rows if row["tracker"] == "SiamFC")["otb100/auc"] == 0.582
    assert rows[-2]["otb100/auc"] == pytest.approx(0.9524)
    assert rows[-2]["otb2013/auc"] is None
    assert rows[-1]["protocol"] == "OTB-100: OPE, official OTB toolkit, 2 of 100 sequences"


def test_every_table_of_text_says_how_much_was_run() -> None:
    text = report_text([score("ours", 0.0, 100)])
    for title in ("2 of 100 sequences, worst first", "By attribute, over 2 of 100 sequences"):
        assert title in text


def test_what_could_not_be_measured_is_empty_and_comes_first() -> None:
    whole = score("ours", 0.0)
    deer, fish = whole.sequences
    unmeasured = dataclasses.replace(fish, values={"auc": float("nan"), "precision_20": 1.0})
    found = dataclasses.replace(whole, sequences=(deer, unmeasured))
    rows = sequence_rows([found])
    assert [(row["sequence"], row["auc"] is None) for row in rows] == [
        ("Fish", True),
        ("Deer", False),
    ]
    assert "nan" not in text_table(rows)
