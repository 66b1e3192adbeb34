"""Table 1's cells."""

from dataclasses import replace

from search_spaces.maml_cells import CELLS, maml_study
from search_spaces.plan import plan_text
from search_spaces.study import Study, trials
from search_spaces.study_options import StudyOptions, base_config
from search_spaces.tune_trials import grouped

OPTIONS = StudyOptions(seeds=(0, 1, 2), short_pairs=800)


def study() -> Study:
    return maml_study(base_config(OPTIONS), OPTIONS.seeds, OPTIONS.tuning)


def test_each_method_is_trained_once_a_seed_and_tracked_before_and_after() -> None:
    groups = grouped(trials(study()))
    cells = [[trial.variant.cell for trial in group] for group in groups]
    baseline = ["baseline_before", "baseline_after", "baseline_after_best_rate"]
    assert cells == [baseline, ["maml_before", "maml_after"]] * 3
    assert [group[0].variant.seed for group in groups] == [0, 0, 1, 1, 2, 2]


def test_the_methods_differ_in_nothing_but_the_method() -> None:
    trains = {v.cell: v.config.train for v in study().variants if v.seed == 0}
    baseline, maml = trains["baseline_after"], trains["maml_after"]
    assert baseline.outer_loop.method == "baseline" and maml.outer_loop.method == "maml"
    same = replace(baseline, outer_loop=replace(baseline.outer_loop, method="maml"))
    assert same == maml  # the same outer steps over the same pairs


def test_nothing_is_updated_online() -> None:
    for variant in study().variants:
        evaluation = variant.config.evaluation
        assert evaluation.tracker.update_interval_frames is None
        assert evaluation.phases == (variant.params["phase"],)


def test_only_the_fair_baseline_chooses_a_rate_and_not_by_what_is_reported() -> None:
    for trial in trials(study()):
        assert bool(trial.variant.constant_rates) == (
            trial.variant.cell == "baseline_after_best_rate"
        )
        assert trial.sequences.tuning is not None
        assert not set(trial.sequences.tuning.frames) & set(trial.sequences.report.frames)


def test_the_papers_figures_stand_in_columns_of_their_own() -> None:
    otb = {cell.name: cell.published["otb100/auc"] for cell in CELLS}
    assert otb == {
        "baseline_before": (0.460,),
        "baseline_after": (0.487,),
        "baseline_after_best_rate": (0.487,),
        "maml_before": (0.464,),
        "maml_after": (0.671,),
    }
    assert CELLS[-1].published["trackingnet/auc"] == (0.743,)


def test_the_plan_promises_what_two_cores_can_do_in_ten_minutes() -> None:
    text = plan_text(study())
    assert "15 of 15 trials on 6 trainings" in text
    assert int(text.split("about ")[1].split()[0]) <= 18  # CPU-minutes, on two cores
