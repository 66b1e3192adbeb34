"""Table 3's cells."""

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from eval_jobs.presets import PRESETS
from eval_jobs.tracker_config import UPDATE_TRIGGERS
from meta_train.train_config import fingerprint
from search_spaces.ablation_online_update import OnlineUpdateOptions, study_of
from search_spaces.online_update_cells import CELLS, online_update_study
from search_spaces.plan import plan_text
from search_spaces.search_tracker import TrackerSearchOptions, search_of
from search_spaces.sequence_parts import TuningConfig
from search_spaces.study import trials
from search_spaces.study_options import StudyOptions, base_config
from search_spaces.tune_trials import _ready, grouped

OPTIONS = StudyOptions(seeds=(0,), short_pairs=0)


def test_all_rows_track_with_one_detector_the_quickstarts() -> None:
    study = online_update_study(base_config(OPTIONS), OPTIONS.seeds)
    (group,) = grouped(trials(study))
    assert len(group) == len(CELLS)
    mine, quickstart = group[0].variant.config.train, PRESETS["quickstart"][1].train
    assert fingerprint(mine, "shards") == fingerprint(quickstart, "shards")
    assert study.own_settings  # LaSOT's row asks for cls only, and Table 3 varies just that


def test_rows_differ_in_what_is_updated_and_how_often() -> None:
    small = PRESETS["small"][1].evaluation.tracker
    base = base_config(OPTIONS)
    base = replace(base, evaluation=replace(base.evaluation, tracker=small))
    study = online_update_study(base, OPTIONS.seeds)
    found = {}
    for variant in study.variants:
        tracker, phases = variant.config.evaluation.tracker, variant.config.evaluation.phases
        if "online" in phases:  # though `small` has distractors alone
            assert tracker.update_triggers == UPDATE_TRIGGERS
        found[variant.cell] = (phases, tracker.update_interval_frames, tracker.update_branches)
    both = ("cls", "reg")
    assert found == {
        "none": (("after",), None, ("cls",)),  # `small`'s branches, which count nothing here
        "cls": (("online",), 10, ("cls",)),
        "both": (("online",), 10, both),
        "both_every_5": (("online",), 5, both),
        "both_every_20": (("online",), 20, both),
    }


def test_the_papers_rows_are_table_3s() -> None:
    rows = {cell.name: cell.published for cell in CELLS}
    eao = {name: rows[name]["vot2018/eao"] for name in ("none", "cls", "both")}
    assert eao == {"none": (0.341,), "cls": (0.394,), "both": (0.392,)}
    assert rows["none"]["fps"] == (85.0,) and not rows["both_every_5"]


def test_options_that_would_go_unheeded_are_refused(tiny_checkpoint: Path) -> None:
    base = base_config(OPTIONS)
    chosen = replace(OPTIONS, tuning=TuningConfig(max_sequences=1))
    with pytest.raises(ValueError, match="takes no --tuning"):
        study_of(OnlineUpdateOptions(study=chosen), base)
    seeds = replace(OPTIONS, seeds=(0, 1))
    assert len(study_of(OnlineUpdateOptions(study=seeds), base).variants) == 2 * len(CELLS)
    with pytest.raises(ValueError, match=r"one seed expected .* got \(0, 1\)"):
        study_of(OnlineUpdateOptions(study=seeds, checkpoint=str(tiny_checkpoint)), base)
    with pytest.raises(
        ValueError, match="a folder of this machine expected, got the URI 's3://b/c'"
    ):
        study_of(OnlineUpdateOptions(study=OPTIONS, checkpoint="s3://b/c"), base)
    with pytest.raises(
        ValueError, match="a folder of this machine expected, got the URI 's3://b/c'"
    ):
        search_of(TrackerSearchOptions(study=OPTIONS, checkpoint="s3://b/c"), base)
    training = replace(OPTIONS, short_pairs=100, backbone_weights="random")
    with pytest.raises(ValueError, match=r"nothing is trained, .* got short_pairs, backbone_w"):
        study_of(OnlineUpdateOptions(study=training, checkpoint=str(tiny_checkpoint)), base)
    with pytest.raises(ValueError, match=r"nothing is trained, .* got short_pairs, backbone_w"):
        search_of(TrackerSearchOptions(study=training, checkpoint=str(tiny_checkpoint)), base)


def test_a_checkpoint_s_path_holds_in_the_folder_that_tune_runs_in(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "best")
    (tmp_path / "videos" / "dog").mkdir(parents=True)
    for name in ("1.png", "2.png"):
        cv2.imwrite(str(tmp_path / "videos" / "dog" / name), np.zeros((60, 80, 3), np.uint8))
    (tmp_path / "videos" / "dog.txt").write_text("10,10,20,20\n" * 2)
    monkeypatch.chdir(tmp_path)
    base = base_config(replace(OPTIONS, benchmark=("own_videos",), benchmark_folder=("videos",)))
    (trial, *_) = trials(online_update_study(base, (0,), "best"))
    assert _ready(trial).variant.checkpoint == str(tmp_path / "best")
    assert TuningConfig(benchmark="otb100", folder="otb").resolved().folder == str(tmp_path / "otb")


def test_a_given_checkpoint_is_not_trained(tiny_checkpoint: Path) -> None:
    study = online_update_study(base_config(OPTIONS), (0, 1, 2), str(tiny_checkpoint))
    assert [variant.seed for variant in study.variants] == [0] * len(CELLS)
    text = plan_text(study)
    assert "on 0 trainings" in text and "on the checkpoint given" in text
