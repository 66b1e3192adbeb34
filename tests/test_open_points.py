"""The study of what the paper leaves open: each alternative changes one thing of the base."""

import re
from dataclasses import replace
from typing import get_args

import pytest

from eval_jobs.pipeline import PipelineConfig
from eval_jobs.presets import PRESETS
from meta_train.run_log import flatten_config
from search_spaces.ablation_open_points import OpenPointsOptions, study_of
from search_spaces.open_points import (
    POINTS,
    OpenPointsChoice,
    Point,
    configure,
    measures,
    open_points_study,
)
from search_spaces.plan import plan_text, tracking_seconds
from search_spaces.sequence_parts import TuningConfig
from search_spaces.study import trials
from search_spaces.study_options import StudyOptions

BASE = PRESETS["small"][1]
QUICKSTART = PRESETS["quickstart"][1]
FIRST_TRAIN = replace(
    BASE.train,
    detector=replace(BASE.train.detector, negatives_per_positive=None),  # type: ignore[call-arg]
    inner_loop=replace(BASE.train.inner_loop, adapts="head+block4"),
)
FIRST = replace(BASE, train=FIRST_TRAIN)
"""``small`` with block-4 adapting and all negatives: its own settings are alternatives to this."""
CELLS = [(point, cell) for point, cells in POINTS.items() for cell in cells]


def changes(choice: OpenPointsChoice, base: PipelineConfig = BASE) -> dict[str, object]:
    """The settings of training that differ from the base's."""
    before = flatten_config(base.train)
    after = flatten_config(configure(choice, base).train)
    return {name: value for name, value in after.items() if value != before[name]}


def test_the_start_is_the_base_without_tracking() -> None:
    assert changes(OpenPointsChoice()) == {}
    assert configure(OpenPointsChoice(), BASE).evaluation.phases == ()


@pytest.mark.parametrize(("point", "cell"), CELLS, ids=[cell.name for _, cell in CELLS])
def test_each_alternative_changes_its_own_settings(point: Point, cell: object) -> None:
    places = {
        "head_input": "detector.network.head.normalise",
        "score_loss": "detector.",
        "loss_weights": "detector.",
        "initial_rates": "rates.initial",
        "outer_rates": "outer_loop.",
        "head": "detector.network.head.",
        "block4": "outer_loop.learns",
        "adapts": "inner_loop.adapts",
        "background_pairs": "sampling.",
    }
    is_start = cell.name in ("worst_10_negatives", "adapts_heads")  # type: ignore[attr-defined]
    base = FIRST if is_start or cell.name == "mean_over_cells" else BASE  # type: ignore[attr-defined]
    found = changes(cell.choice, base)  # type: ignore[attr-defined]
    assert found and all(name.startswith(places[point]) for name in found), found
    assert point == "background_pairs" or len(found) == 1


def test_factors_scale_what_they_say() -> None:
    assert changes(OpenPointsChoice(reg_weight_factor=2.0)) == {"detector.reg_weight": 10.0}
    assert changes(OpenPointsChoice(initial_rate_factor=3.0)) == {"rates.initial": 0.003}
    assert changes(OpenPointsChoice(hidden_factor=2)) == {
        "detector.network.head.hidden_channels": 64
    }
    pairs = configure(OpenPointsChoice(background_factor=2.0), BASE).train.sampling
    assert pairs.video_pairs.same_target == pytest.approx(0.8)
    assert pairs.video_pairs.same_category == pytest.approx(0.10)
    assert pairs.still_pairs.same_target == pytest.approx(0.2)


def test_none_leaves_the_quickstarts_share_of_negatives() -> None:
    assert changes(OpenPointsChoice(balance_cells=True), QUICKSTART) == {}
    with pytest.raises(ValueError, match="negatives_per_positive needs balance_cells"):
        changes(OpenPointsChoice(balance_cells=False), QUICKSTART)
    assert changes(OpenPointsChoice(negatives_per_positive=0.0), QUICKSTART) == {
        "detector.negatives_per_positive": None
    }


def test_what_is_the_base_itself_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """The quickstart counts ten negatives already, and learns nothing of block-4."""
    study = open_points_study(QUICKSTART, (0, 1), points=get_args(Point), look_alikes=False)
    left_out = {cell.name for _, cell in CELLS} - set(study.cells)
    assert left_out == {
        "worst_10_negatives",
        "block4_third",
        "block4_triple",
        "block4_frozen",
        "adapts_heads",
    }
    assert all(name in caplog.text for name in left_out)
    assert len(study.variants) == 2 * (1 + len(CELLS) - len(left_out))
    with pytest.raises(ValueError, match=r"expected in block4, but all of them \(block4_frozen\)"):
        open_points_study(QUICKSTART, (0,), points=("block4",), look_alikes=False)


def test_look_alikes_that_no_shard_knows_are_refused_at_once(tiny_shards: str) -> None:
    for shards, place in ((tiny_shards, re.escape(tiny_shards)), ("", r"train\.shards is not set")):
        base = replace(BASE, train=replace(BASE.train, shards=shards))
        with pytest.raises(ValueError, match=f"{place}: shards expected that know look-alikes"):
            open_points_study(base, (0,), points=("head",), look_alikes=True)


def test_all_points_make_a_study_that_needs_no_benchmark(tiny_shards: str) -> None:
    base = replace(BASE, train=replace(BASE.train, shards=tiny_shards))
    study = open_points_study(base, (0,), points=get_args(Point), look_alikes=False)
    assert study.cells[0] == "start"
    assert {"adapts_heads", "worst_10_negatives"}.isdisjoint(study.cells)
    assert len(study.cells) == len(CELLS) - 1
    found = trials(study)
    assert len({trial.trial_id for trial in found}) == len({t.training for t in found}) == 25
    assert tracking_seconds(found[0]) == 0
    assert "held-out pair tasks" in found[0].sequences.text
    assert [measure.name for measure in measures(4, look_alikes=True)] == [
        "val/iou_4",
        "val/iou_0",
        "val/look_alike_iou_4",
        "val/look_alike_iou_0",
    ]


def test_the_plan_says_of_each_cell_what_it_changes() -> None:
    study = open_points_study(QUICKSTART, (0,), points=get_args(Point), look_alikes=False)
    rows = [line for line in plan_text(study).splitlines() if line.startswith("│")]
    start, double = rows[0], rows[-1]
    assert " - " in start and "background_factor 2.0" in double
    assert "None" not in start + double


def test_options_of_tracking_are_refused_and_never_enter_an_id() -> None:
    tuning = TuningConfig(max_sequences=2)
    wrong = StudyOptions(benchmark=("otb100",), max_frames=9, tuning=tuning)
    with pytest.raises(ValueError, match="got benchmark, max_frames, tuning; leave them out"):
        study_of(OpenPointsOptions(study=wrong), QUICKSTART)
    usual = study_of(OpenPointsOptions(points=("head",)), QUICKSTART)
    evaluation = replace(QUICKSTART.evaluation, benchmark="got10k_test", max_sequences=3)
    other = study_of(
        OpenPointsOptions(points=("head",)), replace(QUICKSTART, evaluation=evaluation)
    )
    ids, others = ([trial.trial_id for trial in trials(each)] for each in (usual, other))
    assert ids == others


def test_there_must_be_a_point() -> None:
    with pytest.raises(ValueError, match=r"--points: at least one of head_input, .* got none"):
        study_of(OpenPointsOptions(points=()), QUICKSTART)


def test_a_score_loss_of_fcos_is_refused_for_retina() -> None:
    with pytest.raises(ValueError, match="leave out the point score_loss"):
        open_points_study(
            PRESETS["small-retina"][1], (0,), points=("score_loss",), look_alikes=False
        )
