"""`eval_jobs.report`: what tables, plots and metric names say."""

from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from data_pipeline.tracks import Track
from eval_jobs.benchmarks import Selection, find_benchmark
from eval_jobs.protocols import Trajectory
from eval_jobs.report import (
    log_scores,
    precision_figure,
    sequence_rows,
    success_figure,
    summary_metrics,
    table_rows,
    text_table,
)
from eval_jobs.scores import TrackerScore, score_tracker
from meta_train.run_log import MlflowConfig, RunLog

BOX = np.array([10.0, 10.0, 30.0, 30.0])


def score(tracker: str, shift: float, num_expected: int = 2) -> TrackerScore:
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
    trajectory = Trajectory(
        boxes=np.tile(BOX + shift, (5, 1)),
        scores=np.ones(5),
        lost=np.array([False, False, True, False, False]),
        seconds=np.array([3.0, 0.1, 0.1, 0.1, 0.1]),
    )
    selection = Selection(
        benchmark=find_benchmark("otb100"), tracks=tracks, num_expected=num_expected
    )
    return score_tracker(tracker, "abc", selection, [trajectory, trajectory])


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
        "otb100/num_sequences",
        "speed/fps",
        "otb100/Static_box/auc",
        "otb100/Static_box/precision_20",
        "otb100/Static_box/num_sequences",
        "speed/Static_box/fps",
    }
    assert metrics["otb100/auc"] > metrics["otb100/Static_box/auc"]


def test_partial_score_never_has_the_benchmark_s_metric_name() -> None:
    metrics = summary_metrics([score("ours", 0.0, num_expected=100)], "ours")
    assert "otb100/auc" not in metrics
    assert "otb100-2of100/auc" in metrics


def test_plots_rank_trackers_and_name_the_protocol() -> None:
    scores = [score("worse", 25.0, 100), score("better", 0.0, 100)]
    for figure in (success_figure(scores), precision_figure(scores)):
        axes = figure.axes[0]
        labels = [line.get_label() for line in axes.get_lines()]
        assert labels[0].endswith("better")
        assert labels[1].endswith("worse")
        assert "2 of 100 sequences" in axes.get_title()
    success = success_figure(scores).axes[0].get_lines()[0]
    np.testing.assert_allclose(success.get_ydata(), [1.0] * 20 + [0.0])


def test_everything_reaches_mlflow(tmp_path: Path) -> None:
    config = MlflowConfig(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", undelivered_dir=str(tmp_path / "waiting")
    )
    run_log = RunLog.start(config, run_name="evaluation", params={}, tags={})
    log_scores(run_log, [score("ours", 0.0), score("Static box", 2.0)])
    run_log.finish()
    client = MlflowClient(config.tracking_uri)
    run_id = run_log.handle.run_id
    assert client.get_run(run_id).data.metrics["otb100/auc"] == pytest.approx(20 / 21)
    files = {
        item.path
        for folder in ("tables", "plots")
        for item in client.list_artifacts(run_id, folder)
    }
    assert files == {
        "tables/otb100.json",
        "tables/otb100.txt",
        "tables/otb100_sequences.json",
        "plots/otb100_success.png",
        "plots/otb100_precision.png",
    }


def test_report_of_nothing_or_of_an_unknown_tracker_is_refused(tmp_path: Path) -> None:
    config = MlflowConfig(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    run_log = RunLog.start(config, run_name="evaluation", params={}, tags={})
    with pytest.raises(ValueError, match="at least one score"):
        log_scores(run_log, [])
    with pytest.raises(ValueError, match=r"primary must be one of \['ours'\], got 'theirs'"):
        log_scores(run_log, [score("ours", 0.0)], primary="theirs")
