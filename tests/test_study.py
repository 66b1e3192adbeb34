"""Studies: from choices to trials, from trials to a table."""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from mlflow import MlflowClient

from data_pipeline.readers import synthetic
from data_pipeline.synthetic_scenes import SyntheticConfig
from eval_jobs.pipeline import EvaluationConfig, PipelineConfig
from meta_train.run_log import MlflowConfig
from meta_train.train_config import OuterLoopConfig, ScalingConfig, TrainConfig, ValidationConfig
from meta_train.train_presets import QUICKSTART_TRAINING
from search_spaces.comparison import (
    compare_url,
    comparison_figure,
    differences,
    table_rows,
    values_of,
    verdicts,
)
from search_spaces.measures import Measure
from search_spaces.plan import plan_text, plan_texts
from search_spaces.study import Cell, Study, grid, study_id, trials
from search_spaces.study_run import report_text, run
from search_spaces.trial_run import TrialResult
from search_spaces.tune_trials import cause_of


@dataclass(frozen=True, kw_only=True)
class StepsChoice:
    """What the studies here vary."""

    num_steps: int


def configure(choice: StepsChoice, base: PipelineConfig) -> PipelineConfig:
    inner = replace(base.train.inner_loop, num_steps=choice.num_steps)
    return replace(base, train=replace(base.train, inner_loop=inner))


def cell(name: str, num_steps: int, **published: tuple[float, ...]) -> Cell[StepsChoice]:
    columns = {"otb": "otb100/auc", "vot": "vot2018/eao"}
    return Cell(
        name=name,
        choice=StepsChoice(num_steps=num_steps),
        published={columns[key]: figures for key, figures in published.items()},
    )


AUC = Measure(name="after/auc", title="AUC", higher_is_better=True)
BASE = PipelineConfig(synthetic=SyntheticConfig())


def study_of(
    *cells: Cell[StepsChoice], base: PipelineConfig = BASE, seeds: tuple[int, ...] = (0, 1)
) -> Study:
    return Study(
        name="steps",
        title="Inner steps",
        variants=grid(cells, configure, base, seeds),
        measures=(AUC,),
    )


def results_of(study: Study, values: list[float | str]) -> list[TrialResult]:
    """A result per trial: a number is its AUC, a text its error."""
    return [
        TrialResult(
            trial_id=f"{variant.cell}-{variant.seed}",
            cell=variant.cell,
            seed=variant.seed,
            metrics={} if isinstance(value, str) else {AUC.name: value},
            error=value if isinstance(value, str) else "",
        )
        for variant, value in zip(study.variants, values, strict=True)
    ]


def test_a_grid_is_cells_times_seeds_one_seed_of_all_cells_first() -> None:
    study = study_of(cell("one", 1), cell("four", 4), seeds=(5, 7))
    assert [(v.cell, v.seed) for v in study.variants] == [
        ("one", 5),
        ("four", 5),
        ("one", 7),
        ("four", 7),
    ]
    assert [v.config.train.seed for v in study.variants] == [5, 5, 7, 7]
    assert [v.config.train.inner_loop.num_steps for v in study.variants] == [1, 4, 1, 4]
    assert study.variants[1].params == {"num_steps": 4}


def test_invalid_choices_are_refused_all_at_once_by_name() -> None:
    with pytest.raises(ValueError, match="2 of 3 choices") as refused:
        study_of(cell("zero", 0), cell("one", 1), cell("minus", -1))
    text = str(refused.value)
    assert "zero, StepsChoice(num_steps=0)" in text and "minus, StepsChoice(num_steps=-1)" in text
    assert "num_steps must be" in text


def test_empty_and_repeated_spaces_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one cell"):
        study_of()
    with pytest.raises(ValueError, match="at least one cell and one seed, got 1 and 0"):
        study_of(cell("one", 1), seeds=())
    with pytest.raises(ValueError, match=r"twice: \[\('one', 0\)\]"):
        study_of(cell("one", 1), cell("one", 4), seeds=(0,))


def test_a_trial_id_names_its_variant_and_all_that_its_numbers_depend_on() -> None:
    def ids(base: PipelineConfig) -> list[str]:
        return [trial.trial_id for trial in trials(study_of(cell("one", 1), base=base))]

    first = ids(BASE)
    assert all(re.fullmatch(r"steps-one-seed[01]-[0-9a-f]{10}", name) for name in first)
    elsewhere = replace(
        BASE,
        train=replace(BASE.train, scaling=ScalingConfig(num_workers=2), log_every=7),
        evaluation=replace(BASE.evaluation, device="cuda"),
        storage="another",
    )
    assert ids(elsewhere) == first
    others = [
        replace(BASE, train=replace(BASE.train, checkpoint_every=3, sampling=BASE.train.sampling)),
        replace(BASE, train=replace(BASE.train, outer_loop=OuterLoopConfig(batch_pairs=16))),
        replace(BASE, evaluation=replace(BASE.evaluation, max_frames=9)),
        replace(BASE, synthetic=SyntheticConfig(seed=3)),
    ]
    assert ids(others[0]) == first
    assert len({*first, *(name for other in others[1:] for name in ids(other))}) == 8


@pytest.mark.parametrize("version", ["TRACKER_VERSION", "UPDATES_VERSION"])
def test_a_tracker_of_another_version_is_tried_anew(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    before = trials(study_of(cell("one", 1)))[0].trial_id
    monkeypatch.setattr(f"search_spaces.study.{version}", 99)
    assert trials(study_of(cell("one", 1)))[0].trial_id != before


def test_more_seeds_keep_the_trials_that_there_were() -> None:
    few = {trial.trial_id for trial in trials(study_of(cell("one", 1), seeds=(0,)))}
    more = trials(study_of(cell("one", 1), seeds=(0, 1)))
    assert few < {trial.trial_id for trial in more}
    assert study_id(study_of(cell("one", 1)), more).startswith("steps-")


def test_missing_data_is_found_before_any_trial(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.shards"):
        trials(study_of(cell("one", 1), base=PipelineConfig()))
    nothing = replace(BASE, train=TrainConfig(shards=str(tmp_path / "none")))
    with pytest.raises(ValueError, match="manifest"):
        trials(study_of(cell("one", 1), base=nothing))
    no_folder = EvaluationConfig(benchmark="otb100", folder=str(tmp_path / "otb"))
    with pytest.raises(ValueError, match="otb"):
        trials(study_of(cell("one", 1), base=replace(BASE, evaluation=no_folder)))
    unknown = EvaluationConfig(benchmark="otb1000")
    with pytest.raises(ValueError, match="unknown benchmark 'otb1000'"):
        trials(study_of(cell("one", 1), base=replace(BASE, evaluation=unknown)))


def test_the_table_has_spread_published_columns_and_failures() -> None:
    study = study_of(
        cell("one", 1, otb=(0.6, 0.7), vot=(0.3,)), cell("four", 4, otb=(0.7,)), cell("nine", 9)
    )
    results = results_of(study, [0.50, 0.70, "ValueError: broke", 0.60, 0.72, 0.9])
    rows = {row["cell"]: row for row in table_rows(study, results)}
    assert rows["one"]["AUC"] == "0.550 ± 0.071" and rows["one"]["seeds"] == "2 of 2"
    assert (
        rows["one"]["paper: otb100/auc"] == "0.600 or 0.700"
        and rows["four"]["paper: otb100/auc"] == "0.700"
    )
    assert rows["nine"]["AUC"] == "0.900" and rows["nine"]["paper: otb100/auc"] == ""
    assert rows["nine"]["seeds"] == "1 of 2"
    assert rows["nine"]["failed"] == "seed 0: ValueError"
    text = report_text(study, results)
    assert "ValueError: broke" in text and "0.550 ± 0.071" in text


def test_the_spread_of_a_difference_is_pooled_over_cells() -> None:
    found = differences({"a": [0.0, 2.0], "b": [1.0, 1.0], "c": [9.0, 9.0], "d": []})
    # Squares 2 + 0 + 0 over 3 degrees of freedom; two means of two values each.
    spread = 2 * math.sqrt(2 / 3) * math.sqrt(1 / 2 + 1 / 2)
    assert [(d.lower, d.higher, d.size) for d in found] == [
        ("a", "c", 8.0),
        ("b", "c", 8.0),
        ("a", "b", 0.0),
    ]
    assert all(d.spread == pytest.approx(spread) for d in found)
    assert [d.is_clear for d in found] == [True, True, False]


def test_one_seed_tells_no_difference_from_chance() -> None:
    study = study_of(cell("one", 1), cell("four", 4), seeds=(0,))
    (sentence,) = verdicts(study, results_of(study, [0.1, 0.9]))
    assert "nothing tells a difference from chance" in sentence


def test_a_verdict_names_what_is_clear_and_what_is_not() -> None:
    study = study_of(cell("one", 1), cell("four", 4), cell("nine", 9))
    (sentence,) = verdicts(study, results_of(study, [0.10, 0.50, 0.51, 0.12, 0.53, 0.52]))
    clear, within = sentence.split("within it:")
    assert "one < four" in clear and "one < nine" in clear and "four/nine" in within


def test_a_measure_that_no_trial_reports_is_an_error() -> None:
    study = study_of(cell("one", 1))
    with pytest.raises(ValueError, match="no trial reports 'speed'; they report after/auc"):
        speed = Measure(name="speed", title="FPS", higher_is_better=True)
        values_of(study, results_of(study, [0.1, 0.2]), speed)


def test_a_measure_that_no_trial_will_report_is_refused_before_any_starts() -> None:
    study = replace(study_of(cell("one", 1)), measures=(replace(AUC, name="after/eao"),))
    with pytest.raises(ValueError, match=r"by \['after/eao'\].*they report tracking/auc, "):
        trials(study)


def test_a_study_of_failures_still_has_a_table_and_a_plot() -> None:
    study = study_of(cell("one", 1))
    results = results_of(study, ["A: x", "B: y"])
    assert table_rows(study, results)[0]["failed"] == "seed 0: A; seed 1: B"
    assert len(comparison_figure(study, results).axes) == 1


def test_the_compare_page_has_all_runs_filled_in() -> None:
    url = compare_url("sqlite:////tmp/mlflow.db", "1", ["a1", "b2"])
    assert url.startswith("http://127.0.0.1:5000/#/compare-runs?runs=%5B%22a1")
    assert unquote(url).endswith('compare-runs?runs=["a1","b2"]&experiments=["1"]')
    assert compare_url("http://head:5000/", "1", []).startswith("http://head:5000/#/compare-runs")


def test_the_cause_of_a_failure_is_found_in_a_traceback() -> None:
    text = (
        "ray::_drive()\n  File x\ndata_pipeline.manifest.ShardError: no manifest\n- a: OSError: b"
    )
    assert cause_of(RuntimeError(text)) == text.partition("File x\n")[2]
    (result,) = results_of(study_of(cell("one", 1), seeds=(0,)), [cause_of(RuntimeError(text))])
    assert result.error_type == "ShardError"
    assert cause_of(RuntimeError("worker died")) == "RuntimeError: worker died"


def test_a_plan_lists_trials_and_costs_before_anything_runs(tmp_path: Path) -> None:
    base = replace(BASE, storage=str(tmp_path / "runs"))
    text = plan_text(study_of(cell("one", 1), cell("four", 4), base=base))
    assert "To run: 4 of 4 trials" in text and text.index("one-seed0") < text.index("one-seed1")
    assert not (tmp_path / "runs").exists()


def test_plans_of_several_benchmarks_count_a_training_once(tmp_path: Path) -> None:
    base = replace(BASE, storage=str(tmp_path / "runs"))
    shorter = replace(base, evaluation=replace(base.evaluation, max_frames=9))
    first, second = plan_texts([study_of(cell("one", 1), base=each) for each in (base, shorter)])
    assert "2 of 2 trials on 2 trainings" in first and "plan above" not in first
    assert "2 of 2 trials on 0 trainings" in second
    assert second.count("to run, on a training of the plan above") == 2


def test_a_plan_on_gpus_counts_their_hours(tmp_path: Path) -> None:
    scaling = ScalingConfig(num_workers=2, use_gpu=True)
    base = replace(BASE, train=replace(BASE.train, scaling=scaling), storage=str(tmp_path))
    text = plan_text(study_of(cell("one", 1), base=base))
    assert "GPU-hours" in text and "GPU-minutes" in text and "CPU-" not in text
    assert "2 x 2 CPUs and a GPU each" in text


@pytest.fixture(scope="module")
def tiny_base(tiny_shards: str, tmp_path_factory: pytest.TempPathFactory) -> PipelineConfig:
    """Two outer steps and two short sequences; a trial costs what Train costs."""
    folder = tmp_path_factory.mktemp("study")
    videos = SyntheticConfig(
        num_val_videos=2, frames_per_video=3, width_px=160, height_px=120, max_target_px=38.0
    )
    names = ["held_out_0", "held_out_1"]
    for name, seed in zip(names, synthetic.video_seeds(videos, "val"), strict=True):
        synthetic.write_video(folder / "videos" / "val" / name, videos, seed)
    (folder / "videos" / "val" / "list.txt").write_text("\n".join(names) + "\n")
    return PipelineConfig(
        train=replace(
            QUICKSTART_TRAINING,
            shards=tiny_shards,
            outer_loop=replace(
                QUICKSTART_TRAINING.outer_loop,
                num_epochs=1,
                iterations_per_epoch=2,
                batch_pairs=2,
            ),
            validation=ValidationConfig(num_pairs=2, batch_pairs=2),
            scaling=ScalingConfig(num_workers=1, cpus_per_worker=1, max_failures=0),
            log_every=1,
        ),
        evaluation=EvaluationConfig(
            folder=str(folder / "videos"), phases=("after",), references=False
        ),
        mlflow=MlflowConfig(
            tracking_uri=f"sqlite:///{folder}/mlflow.db", undelivered_dir=str(folder / "left")
        ),
        storage=str(folder / "runs"),
    )


@pytest.mark.ray
def test_a_study_trains_evaluates_logs_survives_a_failure_and_goes_on(
    tiny_base: PipelineConfig, ray_session: None
) -> None:
    def broken(choice: StepsChoice, base: PipelineConfig) -> PipelineConfig:
        config = configure(choice, base)
        if choice.num_steps < 2:
            return config
        network = config.train.detector.network
        backbone = replace(network.backbone, width=64, weights="no-such-file")
        detector = replace(config.train.detector, network=replace(network, backbone=backbone))
        return replace(config, train=replace(config.train, detector=detector))

    cells = (cell("one", 1, otb=(0.5,)), cell("broken", 2))
    study = Study(
        name="steps",
        title="Inner steps",
        variants=grid(cells, broken, tiny_base, (0,)),
        measures=(AUC, Measure(name="val/query_loss_ratio", title="ratio", higher_is_better=False)),
    )
    first = run(study)
    good, bad = first.trials
    assert 0 <= good.metrics["after/auc"] <= 1 and good.metrics["val/query_loss_ratio"] > 0
    assert not good.error and "no-such-file" in bad.error and "no-such-file" in first.text

    client = MlflowClient(tiny_base.mlflow.tracking_uri)
    logged = client.get_run(good.mlflow_run_id)
    assert logged.info.status == "FINISHED"
    expected = {"study": "steps", "trial_id": good.trial_id, "seed": "0", "cell": "one"}
    assert expected.items() <= logged.data.tags.items()
    assert logged.data.params["num_steps"] == "1" and logged.data.params["seed"] == "0"
    assert logged.data.metrics["synthetic/auc"] == pytest.approx(good.metrics["after/auc"])
    ratio = good.metrics["val/query_loss_ratio"]
    assert logged.data.metrics["val/query_loss_ratio"] == pytest.approx(ratio)

    summary = client.get_run(first.mlflow_run_id)
    assert summary.data.tags["kind"] == "study" and good.mlflow_run_id in first.compare_url
    paths = {item.path for item in client.list_artifacts(first.mlflow_run_id, "tables")}
    assert {"tables/study.json", "tables/trials.json", "tables/study.txt"} <= paths

    only_good = replace(study, variants=study.variants[:1])
    again = run(only_good)
    assert again.trials == (good,)
    runs = client.search_runs([logged.info.experiment_id])
    kinds = [found.data.tags["kind"] for found in runs]  # the broken one was not begun
    assert sorted(kinds) == ["study", "study", "train", "trial"]
    assert logged.data.tags["trained_run"] in {found.info.run_name for found in runs}
