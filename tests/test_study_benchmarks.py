"""Studies on benchmarks that measure other things than curves: VOT with resets."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from eval_jobs.pipeline import EvaluationConfig, PipelineConfig
from eval_jobs.sequence_job import SequenceJob
from meta_train.run_log import MlflowConfig
from meta_train.train_config import TrainConfig
from search_spaces import trial_run
from search_spaces.comparison import comparison_figure, table_rows
from search_spaces.measures import benchmark_measures
from search_spaces.online_update_cells import online_update_study
from search_spaces.plan import plan_text
from search_spaces.study import Study, trials
from search_spaces.trial_run import StudySettings, finished, given_checkpoint, run_trial

NUM_FRAMES = 5


@pytest.fixture
def vot_study(
    tiny_config: TrainConfig,
    tiny_checkpoint: Path,
    tmp_path: Path,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    in_process: list[SequenceJob],
) -> Study:
    """Table 3 on two short sequences of VOT-2018, tracked in this process."""
    folder = tmp_path / "vot"
    for name in ("ball1", "book"):
        (folder / name / "color").mkdir(parents=True)
        for frame in range(1, NUM_FRAMES + 1):
            image = np.full((60, 120, 3), 40, dtype=np.uint8)
            image[20:40, 10:26] = 220
            cv2.imwrite(str(folder / name / "color" / f"{frame:08d}.jpg"), image)
        rows = ["10,20,25,20,25,39,10,39"] * NUM_FRAMES
        (folder / name / "groundtruth.txt").write_text("\n".join(rows))
    (folder / "list.txt").write_text("ball1\nbook\n")

    monkeypatch.setattr(trial_run, "log_scores", lambda *arguments: None)  # its plots take seconds
    base = PipelineConfig(
        train=tiny_config,
        evaluation=EvaluationConfig(benchmark="vot2018", folder=str(folder), partial=True),
        mlflow=MlflowConfig(tracking_uri=database, undelivered_dir=str(tmp_path / "left")),
        storage=str(tmp_path / "runs"),
    )
    return online_update_study(base, (0,), str(tiny_checkpoint))


def test_a_study_on_vot_is_run_with_resets_and_compared_by_eao(vot_study: Study) -> None:
    trial = trials(vot_study)[0]
    settings = StudySettings(name=vot_study.name, tuning=None, own_settings=True)
    result = run_trial(trial, given_checkpoint(trial.variant.checkpoint)[1], settings)
    assert finished(trial.variant.config.storage, trial.trial_id) is not None
    assert "supervised with resets" in result.label and "2 of 60 sequences" in result.label
    assert {"tracking/eao", "tracking/accuracy", "tracking/robustness"} <= set(result.metrics)

    one = replace(vot_study, variants=vot_study.variants[:1])
    (row,) = table_rows(one, [result])
    assert row["robustness"] == f"{result.metrics['tracking/robustness']:.3f}"
    assert row["paper: vot2018/eao"] == "0.341" and row["paper: fps"] == "85"
    assert not any("otb" in column or "lasot" in column for column in row)
    assert len(comparison_figure(one, [result]).axes) == len(vot_study.measures)


def test_its_plan_counts_the_repetitions(vot_study: Study) -> None:
    (trial, *_) = trials(vot_study)
    assert trial.sequences.report.num_frames == 3 * 2 * NUM_FRAMES
    assert f" {3 * 2 * NUM_FRAMES} " in plan_text(vot_study)


def test_measures_are_the_benchmarks_own() -> None:
    robustness = benchmark_measures(EvaluationConfig(benchmark="vot2018"))[2]
    assert not robustness.higher_is_better
    names = [each.name for each in benchmark_measures(EvaluationConfig(benchmark="got10k_val"))]
    assert names == ["tracking/ao", "tracking/sr_50", "tracking/sr_75"]
