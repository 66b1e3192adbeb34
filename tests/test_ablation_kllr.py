"""Table 2's cells and the script that runs them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from eval_jobs.presets import PRESETS
from eval_jobs.tracker_config import UPDATE_TRIGGERS
from search_spaces.kernel_rates_cells import CELLS, KernelRatesChoice, configure, kernel_rates_study
from search_spaces.plan import SLIM_NETWORK, plan_text, tracking_seconds
from search_spaces.study import Study, trials
from search_spaces.study_options import (
    SHORT_PAIRS,
    Preset,
    StudyOptions,
    base_config,
    each_benchmark,
)
from search_spaces.study_script import plan_or_run
from search_spaces.tune_trials import grouped

ROOT = Path(__file__).parents[1]
QUICKSTART = PRESETS["quickstart"][1]


def study_of_seeds(seeds: tuple[int, ...]) -> Study:
    options = StudyOptions()
    return kernel_rates_study(base_config(options), seeds, options.tuning)


def test_the_cells_learn_rates_in_none_one_and_both_branches_and_differ_in_nothing_else() -> None:
    study = study_of_seeds((0,))
    learned = {v.cell: v.config.train.rates.learned_in for v in study.variants}
    assert learned == {
        "none": (),
        "none_best_rate": (),
        "cls": ("cls",),
        "reg": ("reg",),
        "both": ("cls", "reg"),
    }
    rates = QUICKSTART.train.rates
    trains = {replace(v.config.train, rates=rates).outer_loop for v in study.variants}
    assert len(trains) == 1
    found = trials(study)
    assert len({trial.trial_id for trial in found}) == 5
    assert [len(group) for group in grouped(found)] == [2, 1, 1, 1]


def test_the_cell_without_learned_rates_also_tracks_with_the_best_constant() -> None:
    rates = {v.cell: v.constant_rates for v in study_of_seeds((0,)).variants}
    assert 0.001 in rates["none_best_rate"] and len(rates["none_best_rate"]) > 2
    assert not any(tried for cell, tried in rates.items() if cell != "none_best_rate")


def test_choosing_a_rate_costs_online_updating_too() -> None:
    found = {trial.variant.cell: trial for trial in trials(study_of_seeds((0,)))}
    fair = found["none_best_rate"]
    assert fair.sequences.tuning is not None
    frames = len(fair.variant.constant_rates) * sum(fair.sequences.tuning.frames.values())
    extra = tracking_seconds(fair) - tracking_seconds(found["none"])
    assert extra == pytest.approx(frames * SLIM_NETWORK.updated_frame_seconds)


def test_table_2_is_with_online_updating_of_both_branches() -> None:
    for variant in study_of_seeds((0,)).variants:
        evaluation = variant.config.evaluation
        assert evaluation.phases == ("online",)
        assert evaluation.tracker.update_interval_frames == 10
        assert evaluation.tracker.update_branches == ("cls", "reg")


def test_table_2_asks_for_updates_as_the_paper_does_whatever_the_preset() -> None:
    small = PRESETS["small"][1]
    assert small.evaluation.tracker.update_triggers == ("distractor",)
    config = configure(KernelRatesChoice(kllr="cls"), small)
    assert config.evaluation.tracker.update_triggers == UPDATE_TRIGGERS


def test_the_papers_figures_stand_in_columns_of_their_own() -> None:
    published = {cell.name: cell.published["otb100/auc"] for cell in CELLS}
    one_branch = (0.661, 0.676)  # which of the two is cls and which reg is not known
    assert published["none"] == published["none_best_rate"] == (0.628,)
    assert published["cls"] == published["reg"] == one_branch and published["both"] == (0.704,)


def test_the_default_is_the_quickstart_shortened_on_the_same_videos() -> None:
    base = base_config(StudyOptions())
    outer, preset = base.train.outer_loop, QUICKSTART.train.outer_loop
    assert base.synthetic == QUICKSTART.synthetic and base.storage == QUICKSTART.storage
    assert base.train.detector == QUICKSTART.train.detector
    assert outer.num_epochs == preset.num_epochs
    assert 0 <= SHORT_PAIRS - outer.num_iterations * outer.batch_pairs < 4 * outer.batch_pairs


def test_every_preset_serves_studies_and_quickstarts_are_shortened_alike() -> None:
    assert set(get_args(Preset)) == set(PRESETS)
    usual, retina = (
        base_config(StudyOptions(preset=preset)).train
        for preset in ("quickstart", "quickstart-retina")
    )
    assert (usual.detector.kind, retina.detector.kind) == ("fcos", "retina")
    assert retina.outer_loop == usual.outer_loop != QUICKSTART.train.outer_loop


def test_options_reach_the_config() -> None:
    options = StudyOptions(
        preset="small",
        shards="shards",
        benchmark=("otb100",),
        benchmark_folder=("otb",),
        iterations_per_epoch=7,
        cpus_per_worker=2,
        use_gpu=True,
        max_frames=30,
    )
    base = base_config(options)
    assert base.train.shards == "shards" and base.train.outer_loop.iterations_per_epoch == 7
    assert base.train.scaling.use_gpu and base.train.scaling.cpus_per_worker == 2
    assert base.evaluation.benchmark == "otb100" and base.evaluation.folder == "otb"
    assert base.evaluation.partial and base.evaluation.max_frames == 30
    assert base.evaluation.device == "cuda" and base.evaluation.max_sequences is None


def test_a_short_try_on_real_data_keeps_the_schedules_shares() -> None:
    usual = base_config(StudyOptions(preset="small", shards="shards")).train
    options = StudyOptions(
        preset="small", shards="shards", num_epochs=2, iterations_per_epoch=1, validation_pairs=4
    )
    short = base_config(options).train
    assert short.outer_loop.num_iterations == 2 and usual.outer_loop.num_epochs == 4
    assert short.outer_loop.second_order_from_epoch == 2  # never, as in the preset
    assert short.gammas.annealing_epochs == usual.gammas.annealing_epochs / 2
    assert (short.validation.num_pairs, short.validation.batch_pairs) == (4, 4)
    paper = StudyOptions(preset="paper", shards="shards")
    for num_epochs, second in {1: 0, 2: 1, 4: 3, 20: 15}.items():
        outer = base_config(replace(paper, num_epochs=num_epochs)).train.outer_loop
        assert outer.second_order_from_epoch == second < num_epochs
    with pytest.raises(ValueError, match="num_epochs must be at least 1, got 0"):
        base_config(replace(options, num_epochs=0))


def test_a_real_benchmark_is_not_cut_to_the_quickstarts_few_sequences() -> None:
    options = StudyOptions(benchmark=("otb100",), benchmark_folder=("otb",))
    assert base_config(options).evaluation.max_sequences is None


def test_each_benchmark_has_a_folder_and_a_study_on_the_same_trainings() -> None:
    options = StudyOptions(benchmark=("otb100", "vot2018"), benchmark_folder=("otb", "vot"))
    one, other = map(base_config, each_benchmark(options))
    assert one.train == other.train
    assert (one.evaluation.benchmark, one.evaluation.folder) == ("otb100", "otb")
    assert (other.evaluation.benchmark, other.evaluation.folder) == ("vot2018", "vot")
    with pytest.raises(ValueError, match=r"go together, .* got otb100, vot2018 and otb"):
        each_benchmark(replace(options, benchmark_folder=("otb",)))
    with pytest.raises(ValueError, match="one benchmark expected here"):
        base_config(options)


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (StudyOptions(benchmark=("otb100",)), "otb100 and no folder"),
        (StudyOptions(benchmark_folder=("otb",)), "no benchmark and otb"),
        (StudyOptions(preset="small", benchmark=("otb100",)), "otb100 and no folder"),
    ],
)
def test_a_benchmark_needs_its_folder_and_a_folder_its_benchmark(
    wrong: StudyOptions, got: str
) -> None:
    for make in (base_config, each_benchmark):
        with pytest.raises(ValueError, match=f"go together, a folder for each, got {got}"):
            make(wrong)


def test_a_preset_s_own_benchmark_needs_no_name_and_synthetic_videos_no_folder() -> None:
    small = base_config(StudyOptions(preset="small", benchmark_folder=("otb",)))
    assert (small.evaluation.benchmark, small.evaluation.folder) == ("otb100", "otb")
    quickstart = base_config(StudyOptions(benchmark=("synthetic",)))
    assert (quickstart.evaluation.benchmark, quickstart.evaluation.folder) == ("synthetic", "")


def test_too_few_pairs_for_a_quickstart_are_refused() -> None:
    for pairs in (-5, 1, 7):
        with pytest.raises(ValueError, match=f"short_pairs must be at least 8, .*got {pairs}"):
            base_config(StudyOptions(short_pairs=pairs))
    assert base_config(StudyOptions(short_pairs=8)).train.outer_loop.num_iterations == 2


def test_a_wrong_command_ends_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = StudyOptions(benchmark=("otb100",), benchmark_folder=("nowhere",))
    with pytest.raises(SystemExit, match=r"error: .*nowhere") as ended:
        plan_or_run(lambda base: kernel_rates_study(base, (0,), options.tuning), options)
    assert "Traceback" not in str(ended.value) and list(tmp_path.iterdir()) == []


def test_the_plan_promises_what_two_cores_can_do_in_ten_minutes() -> None:
    text = plan_text(study_of_seeds((0, 1)))
    minutes = int(text.split("about ")[1].split()[0])
    assert minutes < 20  # CPU-minutes, on two cores


def test_the_script_plans_without_starting_anything(
    tmp_path: Path, run_script: Callable[..., Any]
) -> None:
    done = run_script(ROOT / "search_spaces" / "ablation_kllr.py", tmp_path, "--plan")
    assert done.returncode == 0, done.stderr
    assert "To run: 10 of 10 trials on 8 trainings" in done.stdout
    assert "Chosen by Synthetic, tuning part" in done.stdout
    assert "Reported on Synthetic, report part" in done.stdout
    assert list(tmp_path.iterdir()) == []
