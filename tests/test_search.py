"""Searches: what is refused before they start, what they remember, what they choose."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.cloudpickle import cloudpickle

from data_pipeline.manifest import read_manifest, write_manifest
from data_pipeline.synthetic_scenes import SyntheticConfig
from eval_jobs.pipeline import PipelineConfig
from eval_jobs.presets import PRESETS
from eval_jobs.tracker_config import UPDATE_TRIGGERS
from meta_train.run_log import MlflowConfig
from meta_train.train_config import TrainConfig
from search_spaces import search_inner_loop, search_tracker, tune_search
from search_spaces.inner_loop_space import SPACE, Knob, inner_loop_search, with_rungs
from search_spaces.measures import Measure
from search_spaces.plan import training_seconds
from search_spaces.search import Interval, Options, Search, Space, all_choices
from search_spaces.search_inner_loop import InnerLoopOptions
from search_spaces.search_ledger import OBJECTIVE, Ending, Ledger, Tried, finalists
from search_spaces.search_run import search_figure, search_plan, tried_rows, tuning_of
from search_spaces.search_tracker import TrackerSearchOptions
from search_spaces.sequence_parts import SequenceSet, TuningConfig
from search_spaces.study import trials
from search_spaces.study_options import StudyOptions, base_config
from search_spaces.tracker_space import SPACE as TRACKER_SPACE
from search_spaces.tracker_space import starting_choice, tracker_search
from search_spaces.tune_search import ledger_of, run_search


@dataclass(frozen=True, kw_only=True)
class StepsChoice:
    """What the searches here vary."""

    num_steps: int = 4
    window_weight: float = 0.4


def configure(choice: StepsChoice, base: PipelineConfig) -> PipelineConfig:
    inner = replace(base.train.inner_loop, num_steps=choice.num_steps)
    tracker = replace(base.evaluation.tracker, window_weight=choice.window_weight)
    return replace(
        base,
        train=replace(base.train, inner_loop=inner),
        evaluation=replace(base.evaluation, tracker=tracker, phases=("after",)),
    )


STEPS: Space = {"num_steps": Options(values=(1, 2, 4))}


def search_of(space: Space, **changes: Any) -> Search[StepsChoice]:
    settings: dict[str, Any] = {
        "name": "search_steps",
        "title": "Steps",
        "space": space,
        "start": StepsChoice(),
        "configure": configure,
        "base": PipelineConfig(synthetic=SyntheticConfig()),
        "tuning": TuningConfig(),
        "measures": (Measure(name="tracking/auc", title="AUC", higher_is_better=True),),
    }
    return Search(**(settings | changes))


def tried(num_steps: int, score: float | None, ending: Ending = "finished") -> Tried:
    metrics = {} if score is None else {OBJECTIVE: score}
    return Tried(values={"num_steps": num_steps}, ending=ending, metrics=metrics, seconds=2.0)


@pytest.mark.parametrize(
    ("space", "changes", "message"),
    [
        ({}, {}, "its space is empty"),
        ({"steps": Options(values=(1,))}, {}, r"no such knobs: \['steps'\]; there are num_steps"),
        ({"num_steps": Options(values=(1, 2))}, {}, "lies outside the space in {'num_steps': 4}"),
        ({"num_steps": Options(values=(0, 4))}, {}, r"{'num_steps': 0}: ValueError: num_steps"),
        ({"window_weight": Interval(low=0.0, high=2.0)}, {}, r"'window_weight': 2.0}.*\[0, 1\]"),
        (STEPS, {"num_trials": 0}, "at least one trial, one finalist and one seed"),
    ],
)
def test_a_search_that_cannot_run_is_refused_by_name(
    space: Space, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        search_of(space, **changes)


def test_knobs_that_hold_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="different values, at least one, got"):
        Options(values=())
    with pytest.raises(ValueError, match="different values"):
        Options(values=(1, 1))
    with pytest.raises(ValueError, match="low < high"):
        Interval(low=1.0, high=1.0)
    with pytest.raises(ValueError, match="logarithmic"):
        Interval(low=0.0, high=1.0, log=True)


def test_a_grid_has_every_combination_and_takes_no_interval() -> None:
    space: Space = {"a": Options(values=(1, 2)), "b": Options(values=("x", "y"))}
    assert len(all_choices(space)) == 4 and {"a": 2, "b": "x"} in all_choices(space)
    with pytest.raises(ValueError, match=r"these are intervals: \['w'\]"):
        all_choices({"w": Interval(low=0.0, high=1.0)})


def test_a_searchs_id_stays_with_its_question() -> None:
    search = search_of(STEPS)
    moved = replace(search.base, evaluation=replace(search.base.evaluation, folder="elsewhere"))
    assert replace(search, base=moved, num_trials=99).search_id == search.search_id
    other = replace(search, space={"num_steps": Options(values=(1, 4))})
    assert other.search_id != search.search_id
    assert replace(search, seeds=(1,)).search_id != search.search_id


@pytest.mark.parametrize("version", ["TRACKER_VERSION", "UPDATES_VERSION"])
def test_a_tracker_of_another_version_is_searched_anew(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    search = search_of(STEPS)
    before = search.search_id
    monkeypatch.setattr(f"search_spaces.search.{version}", 99)
    assert search.search_id != before


def test_a_searchs_id_stays_with_the_data_and_the_checkpoint(
    tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def id_of(shards: Path | str, **changes: Any) -> str:
        train = replace(tiny_config, shards=str(shards))
        return search_of(STEPS, base=PipelineConfig(train=train), **changes).search_id

    first = Path(tiny_config.shards)
    monkeypatch.chdir(first.parent)
    (tmp_path / "moved").symlink_to(first)
    assert id_of(first) == id_of(first.name) == id_of(tmp_path / "moved")
    manifest = replace(read_manifest(str(first)), fingerprint="1" * 64)
    write_manifest(str(tmp_path / "others"), manifest)
    assert id_of(tmp_path / "others") != id_of(first)

    monkeypatch.setattr("search_spaces.search.content_digest", lambda folder: folder)
    assert id_of("", checkpoint="a") == id_of(first, checkpoint="a")
    assert id_of("", checkpoint="b") != id_of("", checkpoint="a")


def test_the_finals_are_a_study_on_other_sequences() -> None:
    search = search_of(STEPS, seeds=(3, 5))
    study = search.finals({"best1": {"num_steps": 1}})
    assert [(v.cell, v.seed) for v in study.variants] == [
        ("start", 3),
        ("best1", 3),
        ("start", 5),
        ("best1", 5),
    ]
    assert study.variants[1].config == search.config({"num_steps": 1})  # so it is trained already
    sequences = trials(study)[0].sequences
    assert not set(tuning_of(search).frames) & set(sequences.report.frames)


def test_a_ledger_remembers_what_was_tried(tmp_path: Path) -> None:
    ledger = Ledger(folder=tmp_path / "tried")
    assert ledger.read() == []
    ledger.write(tried(1, None, "started"))
    ledger.write(tried(2, 0.5))
    ledger.write(tried(1, 0.3, "stopped"))
    assert {each.values["num_steps"]: each.ending for each in ledger.read()} == {
        1: "stopped",
        2: "finished",
    }
    (tmp_path / "tried" / "x.json").write_text("{")
    with pytest.raises(ValueError, match=r"x\.json: not the record"):
        ledger.read()


def test_a_grid_tries_to_the_end_what_another_search_stopped() -> None:
    endings = [tried(1, 0.1, ending) for ending in ("finished", "stopped", "failed", "started")]
    assert [each.is_done("tpe") for each in endings] == [True, True, False, False]
    assert [each.is_done("grid") for each in endings] == [True, False, False, False]


def test_finalists_are_the_best_of_those_that_ran_to_the_end() -> None:
    results = [tried(1, 0.2), tried(2, 0.9, "stopped"), tried(4, 0.5), tried(6, 0.7)]
    found = finalists(results, 5, {"num_steps": 6})  # the starting point has its row anyway
    assert found == {"best1": {"num_steps": 4}, "best2": {"num_steps": 1}}
    with pytest.raises(ValueError, match=r"none of the 6 choices.*'tuning/auc'.*failed, \.\.\.$"):
        finalists([tried(1, None, "failed"), tried(2, 0.1, "stopped")] * 3, 1, {"num_steps": 6})
    assert finalists([tried(6, 0.7)], 1, {"num_steps": 6}) == {}


def test_the_report_lists_all_that_was_tried_best_first() -> None:
    search = search_of(STEPS)
    failed = replace(tried(4, None, "failed"), error="e" * 99)
    results = [tried(1, 0.2), tried(2, 0.9, "stopped"), failed]
    rows = tried_rows(search, results)
    assert [row["num_steps"] for row in rows] == ["1", "2", "4"]
    assert [row["ending"] for row in rows] == ["finished", "stopped", "failed"]
    assert rows[2]["error"] == "e" * 80 + "... (99 characters)"
    assert len(search_figure(search, results).axes) == 1


def test_the_plan_of_a_search_names_knobs_cost_and_sequences(tmp_path: Path) -> None:
    base = replace(PipelineConfig(synthetic=SyntheticConfig()), storage=str(tmp_path / "runs"))
    search = search_of(STEPS, base=base, num_trials=2)
    text = search_plan(search, "tpe", trained=False)
    assert "1, 2, 4" in text and "To try: 2 of 2" in text and "CPU-minutes" in text
    assert "Chosen by" in text and "Reported on" in text
    assert "To try: 3 of 3" in search_plan(replace(search, num_trials=7), "tpe", trained=False)
    ledger = ledger_of(search, tuning_of(search))
    for each in (tried(1, 0.2), tried(2, 0.1, "stopped"), tried(4, None, "failed")):
        ledger.write(each)
    done = search_plan(search, "tpe", trained=False)
    assert "To try: 0 of 2" in done and 0 < minutes_of(done) < minutes_of(text)
    with pytest.raises(ValueError, match="choices to try, 3, got 4"):
        search_plan(replace(search, num_finalists=4), "grid", trained=False)
    assert "2 of 3 choices" in search_plan(search, "grid", trained=False)  # what was stopped, too
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["studies"]


def minutes_of(plan: str) -> int:
    """CPU-minutes that a plan promises at most."""
    return int(plan.partition("at most about ")[2].split()[0])


def test_the_searches_end_in_ten_minutes_on_two_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inner = InnerLoopOptions()
    text = search_plan(
        search_inner_loop.search_of(inner, base_config(inner.study)), inner.kind, trained=False
    )
    assert minutes_of(text) < 20
    options = TrackerSearchOptions()
    tracker = search_tracker.search_of(options, base_config(options.study))
    training = training_seconds(tracker.config({})) / 60  # the quickstart's, which comes first
    assert minutes_of(search_plan(tracker, "tpe", trained=True)) - training < 20


def test_every_knob_of_the_inner_loop_alone_and_jointly_makes_valid_configs() -> None:
    options = StudyOptions()
    base = with_rungs(base_config(options), 3)
    assert base.train.outer_loop.num_epochs == 3 and base.train.validation.every_epochs == 1
    knobs: list[Knob] = list(SPACE)  # type: ignore[arg-type]
    for chosen in (*([knob] for knob in knobs), knobs):
        search = inner_loop_search(
            base, options.tuning, knobs=chosen, seeds=(0,), num_trials=2, num_finalists=1
        )
        assert set(search.space) == set(chosen)
    config = search.config({"num_steps": 2, "kllr": "cls", "update_interval_frames": 0})
    assert config.train.inner_loop.num_steps == 2 and config.train.rates.learned_in == ("cls",)
    assert config.evaluation.phases == ("after",)
    assert config.train.gammas.annealing_epochs == 1.5
    small = replace(base, evaluation=PRESETS["small"][1].evaluation)  # distractors alone
    every_5 = replace(search, base=small).config({"update_interval_frames": 5}).evaluation.tracker
    assert every_5.update_interval_frames == 5 and every_5.update_triggers == UPDATE_TRIGGERS


def test_the_trackers_constants_change_no_training() -> None:
    options = StudyOptions(short_pairs=0)
    base = base_config(options)
    search = tracker_search(
        base,
        options.tuning,
        knobs=list(TRACKER_SPACE),  # type: ignore[arg-type]
        seed=0,
        num_trials=2,
        num_finalists=1,
        checkpoint="",
    )
    assert search.num_choices("tpe") == 2  # of endlessly many
    assert search.starting_values["window_weight"] == base.evaluation.tracker.window_weight
    config = search.config({"window_weight": 0.0, "min_score": 0.05})
    assert config.train == base.train and config.evaluation.tracker.min_score == 0.05
    assert search.config({}).evaluation.tracker == base.evaluation.tracker
    updates = search.config({"relearn": True, "update_branches": "cls"}).evaluation.tracker
    assert updates.drift.relearn and updates.update_branches == ("cls",)
    without = {"update_interval_frames": 0}
    assert search.config(without | {"relearn": True, "pull_back": 0.2}) == search.config(without)
    alone = {"update_triggers": "distractor"}
    assert search.config(alone | {"update_interval_frames": 40}) == search.config(alone)
    small = replace(base, evaluation=PRESETS["small"][1].evaluation)  # which updates cls
    start = replace(search, base=small, start=starting_choice(small)).config({})
    assert start.evaluation.tracker == small.evaluation.tracker


_PEAK = 0.25


def fake_trial(values: dict[str, Any], search: Search[Any], tuning: SequenceSet) -> None:
    """Reports once a sequence; fails at one value; best at the peak. Notes when it ran."""
    from ray import tune

    weight = float(values["window_weight"])
    begin = time.time()
    if weight == 0.4:
        raise ValueError("the starting point broke")
    folder = Path(search.base.storage) / "times"
    folder.mkdir(parents=True, exist_ok=True)
    for count in range(1, len(tuning.frames) + 1):
        time.sleep(0.05)
        (folder / f"{weight}.txt").write_text(f"{begin} {time.time()}")
        tune.report({OBJECTIVE: 1.0 - abs(weight - _PEAK), "iteration": count})  # it may end here


@pytest.fixture
def by_value() -> Iterator[None]:
    """Ray's processes cannot import this module, so they get its functions with the trial."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture
def fake_search(
    tmp_path: Path, database: str, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Search[StepsChoice]]:
    monkeypatch.setattr(tune_search, "run_tracking_trial", fake_trial)
    monkeypatch.setattr("search_spaces.search.content_digest", lambda folder: "digest")
    base = PipelineConfig(
        train=tiny_config,
        storage=str(tmp_path / "runs"),
        mlflow=MlflowConfig(tracking_uri=database, undelivered_dir=str(tmp_path / "left")),
    )
    yield search_of(
        {"window_weight": Interval(low=0.0, high=1.0)},
        base=base,
        checkpoint=str(tmp_path / "best"),
        num_trials=8,
    )


def test_a_driver_that_died_before_its_note_goes_on_with_its_run(
    fake_search: Search[StepsChoice],
) -> None:
    ledger = ledger_of(fake_search, tuning_of(search_of(STEPS)))
    trial = SimpleNamespace(trial_id="a", config={"window_weight": 0.3}, last_result={})

    def started() -> str:
        tune_search._Recorder(fake_search, ledger, 2).on_trial_start(0, [], trial)
        (tried,) = ledger.read()
        return tried.mlflow_run_id

    first = started()
    (note,) = ledger.folder.iterdir()
    note.unlink()
    assert started() == first
    elsewhere = replace(ledger, folder=ledger.folder.with_name("tried-on-others"))
    tune_search._Recorder(fake_search, elsewhere, 2).on_trial_start(0, [], trial)
    assert elsewhere.read()[0].mlflow_run_id != first


@pytest.mark.ray
def test_a_search_tries_goes_on_and_survives_a_failure(
    fake_search: Search[StepsChoice], by_value: None, ray_session: None
) -> None:
    tuning = tuning_of(search_of(STEPS))
    found = run_search(fake_search, tuning, "tpe")
    endings = [each.ending for each in found]
    assert len(found) == 8 and endings.count("failed") == 1
    (failed,) = [each for each in found if each.ending == "failed"]
    assert failed.values == {"window_weight": 0.4}  # the starting point comes first
    assert failed.error == "ValueError: the starting point broke"
    assert "finished" in endings and "started" not in endings
    assert all(each.mlflow_run_id for each in found)
    spans = [
        tuple(map(float, path.read_text().split()))
        for path in (Path(fake_search.base.storage) / "times").glob("*.txt")
    ]
    most = max(sum(begin <= at < end for begin, end in spans) for at, _ in spans)
    assert most <= 2  # two CPUs

    ledger = ledger_of(fake_search, tuning)
    killed = next(each for each in found if each.ending == "finished")
    ledger.write(replace(killed, ending="started", metrics={}))
    again = run_search(replace(fake_search, num_trials=9), tuning, "tpe")
    by_id = {each.trial_id: each for each in again}
    assert len(again) == 9 and by_id[killed.trial_id].ending == "finished"
    assert by_id[killed.trial_id].mlflow_run_id == killed.mlflow_run_id  # which goes on
    assert by_id[failed.trial_id].mlflow_run_id != failed.mlflow_run_id  # it was tried again
    kept = [each for each in found if each.trial_id not in (killed.trial_id, failed.trial_id)]
    assert all(by_id[each.trial_id] == each for each in kept)
