"""Evaluation without Ray and MLflow: the same results, found by the scripts that report them."""

import hashlib
import json
import pickle
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.pair_tasks import PairTasksConfig
from eval_jobs import evaluate_locally, pair_contest, pair_results
from eval_jobs.benchmarks import find_benchmark
from eval_jobs.jobs import evaluate
from eval_jobs.pair_contest import (
    TUNING,
    Contest,
    Entry,
    Part,
    load_entries,
    measure_part,
    score_entry,
)
from eval_jobs.pair_results import PairResults
from eval_jobs.results import ResultError
from eval_jobs.sequence_job import SequenceJob
from eval_jobs.tracker_config import TrackerConfig
from eval_jobs.tracker_specs import phase_specs
from meta_train.train_config import OuterLoopConfig

BASELINE = OuterLoopConfig(method="baseline")
FEW = PairTasksConfig(num_tasks=3, num_look_alikes=0, num_tuning=1)


class HerePool(Executor):
    """Runs each task at once, as a process would get it."""

    def __init__(self, num_processes: int, mp_context: Any) -> None:
        assert mp_context.get_start_method() == "spawn", "CUDA does not survive a fork"

    def submit(self, task: Any, /, *_: Any, **__: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(pickle.loads(pickle.dumps(task))())
        except ValueError as error:
            future.set_exception(error)
        return future


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_locally, "ProcessPoolExecutor", HerePool)


@pytest.mark.usefixtures("here")
def test_the_reporting_scripts_find_what_it_left(
    slim_checkpoint: Path,
    tmp_path: Path,
    in_process: list[SequenceJob],
    make_dataset: Callable[[str, Path], str],
) -> None:
    make_dataset("otb", tmp_path / "otb")
    evaluate_locally.main(
        (f"slim={slim_checkpoint}",),
        folder=tmp_path / "otb",
        phases=("after", "before"),
        partial=True,
        output=tmp_path / "results",
    )
    specs = phase_specs(slim_checkpoint, TrackerConfig(), ("after", "before"), name="slim")
    place = find_benchmark("otb100"), tmp_path / "otb"
    scores = evaluate(specs, *place, tmp_path / "results", partial=True)
    assert [len(score.sequences) for score in scores] == [3, 3]
    assert in_process == [], "no sequence is tracked again"


@pytest.mark.usefixtures("here")
def test_what_failed_is_named_and_the_others_are_kept(
    slim_checkpoint: Path, tmp_path: Path, make_dataset: Callable[[str, Path], str]
) -> None:
    make_dataset("otb", tmp_path / "otb")
    broken = tmp_path / "otb" / "Coke" / "img" / "0002.jpg"
    broken.write_bytes(b"no image")
    with pytest.raises(SystemExit, match="1 of 3 runs failed") as stopped:
        evaluate_locally.main(
            (f"slim={slim_checkpoint}",),
            folder=tmp_path / "otb",
            phases=("before",),
            partial=True,
            output=tmp_path / "results",
        )
    assert "otb/Coke: DatasetError" in str(stopped.value)
    assert len(list((tmp_path / "results").rglob("*.json"))) == 2


@pytest.fixture
def entry(tiny_checkpoint: Path) -> Entry:
    return load_entries([f"tiny={tiny_checkpoint}"])[0]


@pytest.fixture
def contest(tiny_shards: str, entry: Entry) -> Contest:
    return Contest.draw(tiny_shards, FEW, [entry], 1, ())


@pytest.mark.usefixtures("here")
def test_pair_tasks_are_scored_once(
    tiny_checkpoint: Path,
    tiny_shards: str,
    tmp_path: Path,
    entry: Entry,
    contest: Contest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run() -> None:
        evaluate_locally.main(
            (f"tiny={tiny_checkpoint}",),
            shards=tiny_shards,
            num_steps=1,
            tasks=FEW,
            output=tmp_path,
        )

    run()
    (score,) = PairResults(folder=tmp_path, contest=contest).read(entry) or ()
    assert (score.name, score.rates, score.values["all"].shape) == ("tiny", "learned", (3, 6, 2))
    monkeypatch.setattr(pair_results, "score_entry", None)
    run()


def test_pair_scores_are_of_what_they_were_made_from(
    tmp_path: Path, entry: Entry, contest: Contest
) -> None:
    results = PairResults(folder=tmp_path, contest=contest)
    assert results.read(entry) is None
    path = results.path(entry)
    others = [
        results.path(replace(entry, digest="other weights")),
        PairResults(folder=tmp_path, contest=replace(contest, num_steps=2)).path(entry),
        PairResults(
            folder=tmp_path, contest=replace(contest, tasks={"all": contest.tasks["all"][:2]})
        ).path(entry),
    ]
    assert len({path, *others}) == 4
    same = replace(contest, constant_rates=(0.5,))
    assert PairResults(folder=tmp_path, contest=same).path(entry) == path, "it has learned rates"


def test_damaged_pair_scores_are_refused(tmp_path: Path, entry: Entry, contest: Contest) -> None:
    results = PairResults(folder=tmp_path, contest=contest)
    results.write(entry, score_entry(contest, entry))
    path = results.path(entry)
    whole = json.loads(path.read_text())
    (score,) = results.read(entry) or ()
    np.testing.assert_array_equal(score.values["all"], whole["scores"][0]["values"]["all"])
    changed = json.loads(path.read_text())
    changed["scores"][0]["values"]["all"][0][0][0] += 1.0
    huge = whole | {"scores": [{"rates": "learned", "values": {"all": [[[10**400]]]}}]}
    del huge["sha256"]
    huge["sha256"] = hashlib.sha256(json.dumps(huge, sort_keys=True).encode()).hexdigest()
    for content in (changed, {"sha256": whole["sha256"]}, [], whole | {"name": "another"}, huge):
        path.write_text(json.dumps(content))
        with pytest.raises(ResultError, match="Delete it to score tiny again"):
            results.read(entry)


def test_stopped_scoring_goes_on_where_it_was(
    tmp_path: Path, tiny_shards: str, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a detector that also tunes; the parts come from other processes, or are made here."""
    baseline = replace(entry, config=replace(entry.config, outer_loop=BASELINE))
    contest = Contest.draw(tiny_shards, FEW, [baseline], 1, (1e-4, 1e-3))
    whole = score_entry(contest, baseline)
    monkeypatch.setattr(pair_contest, "_TASKS_AT_ONCE", 1)
    results = PairResults(folder=tmp_path, contest=contest)
    for part in contest.parts(TUNING):
        results.measure(baseline, part)
    rate = results.choose_constant(baseline)
    for part in contest.parts("all")[:2]:
        results.measure(baseline, part, rate)
    measured: list[Part] = []

    def measure(contest: Contest, entry: Entry, part: Part, variants: Any) -> Any:
        measured.append(part)
        return measure_part(contest, entry, part, variants)

    monkeypatch.setattr(pair_results, "measure_part", measure)
    counts: list[int] = []
    scores = results.read_or_score(baseline, counts.append)
    assert measured == [("all", 2, 3)] and counts == [1, 1, 1, 1]
    assert [score.rates for score in scores] == [score.rates for score in whole]
    for score, expected in zip(scores, whole, strict=True):
        np.testing.assert_array_equal(score.values["all"], expected.values["all"])
    assert [path.name for path in (tmp_path / "pair_tasks").iterdir()] == [
        results.path(baseline).name
    ], "the parts are gone"
    results.measure(baseline, contest.parts("all")[0], rate)
    assert len(measured) == 1, "what has its scores is not measured again"


@pytest.mark.usefixtures("here")
def test_who_learned_no_rates_tunes_before_it_reports(
    tmp_path: Path, tiny_shards: str, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what a stop left beside complete scores is taken away."""
    baseline = replace(entry, config=replace(entry.config, outer_loop=BASELINE))
    monkeypatch.setattr(evaluate_locally, "load_entries", lambda *_: [baseline])
    monkeypatch.setattr(pair_contest, "_TASKS_AT_ONCE", 2)
    contest = Contest.draw(tiny_shards, FEW, [baseline], 1, (1e-4, 1e-3))
    results = PairResults(folder=tmp_path, contest=contest)
    measured: list[tuple[str, int, tuple[str, ...]]] = []

    def measure(contest: Contest, entry: Entry, part: Part, variants: Any) -> Any:
        measured.append((part.subset, part.start, tuple(variants)))
        return measure_part(contest, entry, part, variants)

    monkeypatch.setattr(pair_results, "measure_part", measure)

    def run() -> None:
        evaluate_locally.main(
            ("tiny=anywhere",),
            shards=tiny_shards,
            num_steps=1,
            tasks=FEW,
            constant_rates=(1e-4, 1e-3),
            output=tmp_path,
        )

    run()
    own = measured[1][2]
    assert own[0] == "initial" and own[1].startswith("best constant (0.00")
    constants = ("0.0001", "0.001")
    assert measured == [(TUNING, 0, constants), ("all", 0, own), ("all", 2, own)]
    left = results.path(baseline).with_suffix(".parts") / "left.json"
    left.parent.mkdir()
    left.touch()
    run()
    assert len(measured) == 3 and not left.parent.exists()


def test_a_damaged_part_is_refused(tmp_path: Path, entry: Entry, contest: Contest) -> None:
    results = PairResults(folder=tmp_path, contest=contest)
    (part,) = contest.parts("all")
    results.measure(entry, part)
    (file,) = tmp_path.rglob("all-0-*.json")
    file.write_text(file.read_text().replace("0.", "1.", 1))
    with pytest.raises(ResultError, match=r"all-0-.*json cannot be used.*Delete it to score tiny"):
        results.read_or_score(entry)


def test_there_must_be_something_to_evaluate(slim_checkpoint: Path) -> None:
    with pytest.raises(SystemExit, match="give --folder for a benchmark, or --shards, or both"):
        evaluate_locally.main((str(slim_checkpoint),))
    with pytest.raises(SystemExit, match="error: --checkpoints: at least one folder expected"):
        evaluate_locally.main((), shards="shards")
    with pytest.raises(SystemExit, match="error: --num-processes must be at least 1, got 0"):
        evaluate_locally.main((str(slim_checkpoint),), shards="shards", num_processes=0)
    with pytest.raises(SystemExit, match="error: --phases: at least one of before, after, online"):
        evaluate_locally.main((str(slim_checkpoint),), folder=Path("OTB"), phases=())
