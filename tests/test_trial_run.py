"""Training once and tracking for each trial, in this process: no Ray, the smallest network."""

import json
import math
import multiprocessing
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from data_pipeline.readers import synthetic
from data_pipeline.synthetic_scenes import SyntheticConfig
from eval_jobs.benchmarks import Benchmark, IncompleteResultsError, select
from eval_jobs.pipeline import EvaluationConfig, PipelineConfig
from eval_jobs.protocols import one_pass
from eval_jobs.scores import TrackerScore, score_tracker
from eval_jobs.tracker import TrackingError
from eval_jobs.tracker_specs import OnlineSpec, Phase, TrackerSpec
from meta_train.run_log import MlflowConfig
from meta_train.train_config import ScalingConfig, TrainConfig
from meta_train.trained_runs import TrainResult, keep_result
from meta_train.trainer import run_config
from meta_train.worker import Rim, train
from search_spaces import search_trials, training, trial_run
from search_spaces.kernel_rates_cells import kernel_rates_study
from search_spaces.maml_cells import maml_study
from search_spaces.plan import plan_text
from search_spaces.search_ledger import OBJECTIVE
from search_spaces.search_trials import judge_of
from search_spaces.sequence_parts import TuningConfig
from search_spaces.study import Study, trials
from search_spaces.study_run import report_text
from search_spaces.training import find_trained, train_once, with_absolute_paths
from search_spaces.trial_run import StudySettings, TrialResult, finished, run_trial
from search_spaces.tune_trials import grouped

fits: list[str] = []
"""The runs that `fake_fit` trained."""


def fake_fit(config: TrainConfig, *, storage: str, run_id: str, **others: Any) -> TrainResult:
    """The worker's loop in this process; the last checkpoint is the best."""
    fits.append(run_id)
    metrics: dict[str, float] = {}
    scratch = Path(storage) / run_id

    def report(found: dict[str, float], folder: Path | None) -> None:
        metrics.update(found)
        if folder is not None and found.get("val/query_loss_ratio"):
            folder.rename(scratch / "best")

    train(config, Rim(scratch=scratch, report=report))
    result = TrainResult(
        run_id=run_id, best=str(scratch / "best"), last=str(scratch / "last"), metrics=metrics
    )
    keep_result(config, storage, result, None)
    return result


def fake_evaluate(
    specs: Sequence[TrackerSpec], benchmark: Benchmark, folder: Path, output: Path, **others: Any
) -> list[TrackerScore]:
    """`jobs.evaluate` in this process."""
    selection = select(benchmark, folder)
    return [
        score_tracker(
            spec.name,
            spec.fingerprint,
            selection,
            [one_pass(spec.build(), track) for track in selection.tracks],
        )
        for spec in specs
    ]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos of three frames."""
    folder = tmp_path_factory.mktemp("videos")
    tiny = SyntheticConfig(frames_per_video=3, width_px=160, height_px=120, max_target_px=38.0)
    names = [f"val_{index:06d}" for index in range(4)]
    for seed, name in enumerate(names):
        synthetic.write_video(folder / "val" / name, tiny, seed)
    (folder / "val" / "list.txt").write_text("\n".join(names) + "\n")
    return folder


@pytest.fixture
def base(
    tiny_config: TrainConfig,
    videos: Path,
    tmp_path: Path,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> PipelineConfig:
    """Two outer steps, in a storage and a database of the test's own."""
    monkeypatch.setattr(training, "fit", fake_fit)
    monkeypatch.setattr(training.pipeline, "log_adaptation", lambda *arguments: None)
    monkeypatch.setattr(trial_run, "evaluate", fake_evaluate)
    fits.clear()
    outer = replace(
        tiny_config.outer_loop, num_epochs=1, iterations_per_epoch=2, second_order_from_epoch=1
    )
    return PipelineConfig(
        train=replace(tiny_config, outer_loop=outer),
        evaluation=EvaluationConfig(folder=str(videos), references=False),
        mlflow=MlflowConfig(tracking_uri=database, undelivered_dir=str(tmp_path / "left")),
        storage=str(tmp_path / "runs"),
    )


def run_all(study: Study) -> list[TrialResult]:
    """The study's trials, one after the other."""
    settings = StudySettings(name=study.name, tuning=study.tuning, own_settings=False)
    results = []
    for group in grouped(trials(study)):
        trained = train_once(group[0].variant.config, tags={})
        results += [run_trial(trial, trained, settings) for trial in group]
    return results


@contextmanager
def mlflow_pages(
    tracking_uri: str, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """MLflow's own server, in this process, on a free port of the loopback."""
    from mlflow.server import ARTIFACT_ROOT_ENV_VAR, BACKEND_STORE_URI_ENV_VAR, app, handlers
    from werkzeug.serving import make_server

    monkeypatch.setenv(BACKEND_STORE_URI_ENV_VAR, tracking_uri)
    monkeypatch.setenv(ARTIFACT_ROOT_ENV_VAR, str(artifacts))
    monkeypatch.setattr(handlers, "_tracking_store", None)
    monkeypatch.setattr(handlers.utils, "set_tracking_uri", lambda uri: None)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()


def test_table_1_is_trained_once_a_method_and_tuned_on_other_sequences(
    base: PipelineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = maml_study(base, (0,), TuningConfig())
    assert "5 of 5 trials on 2 trainings" in plan_text(study)
    results = run_all(study)
    assert len(fits) == 2 and len({result.trained_run for result in results}) == 2
    by_cell = {result.cell: result for result in results}
    fair = by_cell["baseline_after_best_rate"]
    assert set(fair.tuning) == {"0.0001", "0.0003", "0.001", "0.003", "0.01"}
    assert not by_cell["baseline_after"].tuning
    assert all(0 <= result.metrics["tracking/auc"] <= 1 for result in results)
    assert (
        by_cell["maml_before"].metrics["before/auc"]
        == (by_cell["maml_before"].metrics["tracking/auc"])
    )
    assert "val/query_loss_ratio" in by_cell["baseline_after"].metrics
    assert not any(name.startswith("val/") for name in fair.metrics)  # not with the chosen rate
    assert "report part" in fair.label

    text = report_text(study, results, [trial.sequences.text for trial in trials(study)])
    assert "Chosen by Synthetic, tuning part, 2 of 4 sequences: val_000000, val_000002" in text
    assert "tuning score by constant rate: 0.0001:" in text

    client = MlflowClient(base.mlflow.tracking_uri)
    run = client.get_run(fair.mlflow_run_id)
    assert run.data.tags["kind"] == "trial" and run.data.tags["study"] == "ablation_maml"
    assert run.data.tags["trained_run"] == fair.trained_run
    assert run.data.params["method"] == "baseline" and run.data.params["seed"] == "0"
    assert run.data.metrics["tracking/auc"] == pytest.approx(fair.metrics["tracking/auc"])
    assert str(run.data.metrics["tuning/constant_rate"]) in fair.tuning
    kinds = [found.data.tags["kind"] for found in client.search_runs([run.info.experiment_id])]
    assert sorted(kinds) == ["train"] * 2 + ["trial"] * 5

    with mlflow_pages(base.mlflow.tracking_uri, tmp_path / "files", monkeypatch) as home:
        wanted = "tags.study = 'ablation_maml' and tags.kind = 'trial'"
        listed = MlflowClient(home).search_runs([run.info.experiment_id], wanted)
        address = f"{home}/ajax-api/2.0/mlflow/runs/get?run_id={fair.mlflow_run_id}"
        with urllib.request.urlopen(address) as answer:  # what the run's page asks for
            data = json.load(answer)["run"]["data"]
    knobs = {(each.data.params["method"], each.data.params["phase"]) for each in listed}
    assert len(listed) == 5 and len(knobs) == 4  # the fair baseline differs in its rate
    assert {each.data.params["tracking_rate"] for each in listed} == {"trained", "best constant"}
    assert all({"tracking/auc", "tracking/precision_20"} <= set(e.data.metrics) for e in listed)
    shown = {metric["key"]: metric["value"] for metric in data["metrics"]}
    assert shown["tracking/auc"] == pytest.approx(fair.metrics["tracking/auc"])

    storage = base.storage
    assert finished(storage, fair.trial_id) == fair
    assert "0 of 5 trials on 0 trainings" in plan_text(study)


def test_a_training_serves_other_studies_and_unlike_ones_it_does_not(
    base: PipelineConfig,
) -> None:
    first = train_once(base, tags={})
    elsewhere = replace(base.train, scaling=ScalingConfig(num_workers=2), log_every=7)
    assert train_once(replace(base, train=elsewhere), tags={}) == first
    assert find_trained(replace(base, train=elsewhere)) == first
    assert find_trained(replace(base, train=replace(base.train, seed=1))) is None
    assert len(fits) == 1


def test_an_unfinished_training_goes_on_with_the_scaling_and_the_paths_of_now(
    base: PipelineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(config: TrainConfig, **others: Any) -> TrainResult:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        train_once(base, tags={})
    (folder,) = (tmp_path / "runs").glob("trained-*")
    before = json.loads((folder / "mlflow_run.json").read_text())

    moved = tmp_path / "moved"
    moved.symlink_to(base.train.shards)
    scaling = replace(base.train.scaling, num_workers=2)
    now = replace(base, train=replace(base.train, scaling=scaling, shards=str(moved)))
    monkeypatch.setattr(training, "fit", fake_fit)
    assert train_once(now, tags={}).run_id == folder.name
    stored = run_config(base.storage, folder.name)
    assert stored.scaling == scaling and stored.shards == str(moved)
    assert json.loads((folder / "mlflow_run.json").read_text()) == before  # the same MLflow run


def test_a_damaged_result_of_a_trial_is_named(tmp_path: Path) -> None:
    (tmp_path / "a-trial").mkdir()
    (tmp_path / "a-trial" / "trial.json").write_text('{"trial_id": "a')
    with pytest.raises(ValueError, match=r"(?s)a-trial/trial\.json: the result .*Delete the file"):
        finished(str(tmp_path), "a-trial")


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    entered = context.Event()

    def enter() -> None:
        with training._alone(tmp_path, "trained-x"):
            entered.set()

    with training._alone(tmp_path, "trained-x"):
        other = context.Process(target=enter)
        other.start()
        assert not entered.wait(0.3)
    assert entered.wait(20)
    other.join(20)


def test_a_study_keeps_files_so_it_refuses_an_object_store(base: PipelineConfig) -> None:
    with pytest.raises(ValueError, match="a folder that every node mounts"):
        plan_text(maml_study(replace(base, storage="s3://bucket/runs"), (0,), TuningConfig()))


def test_a_rate_is_chosen_in_the_phase_that_is_reported_and_by_divergence_alone(
    base: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = trials(kernel_rates_study(base, (0,), TuningConfig()))[1]
    assert trial.variant.constant_rates and trial.sequences.tuning is not None
    seen: list[tuple[Phase, ...]] = []
    causes: tuple[Exception, ...] = (TrackingError("not finite"),)

    def track(config: Any, checkpoint: Path, *others: Any) -> list[Any]:
        seen.append(others[-1])
        if checkpoint.name == "0.01":
            raise IncompleteResultsError("TrackingError, it says", causes=causes)
        return [SimpleNamespace(values={"auc": 0.5})]

    monkeypatch.setattr(trial_run, "_track", track)
    monkeypatch.setattr(trial_run, "with_constant_rate", lambda a, rate, b: Path(f"{rate:g}"))
    where = (Path("best"), trial.sequences.tuning, Path("videos"))
    scores = trial_run._try_rates(trial.variant, *where)
    assert set(seen) == {("online",)}
    assert math.isnan(scores[0.01]) and scores[0.001] == 0.5
    causes = ()
    with pytest.raises(IncompleteResultsError):
        trial_run._try_rates(trial.variant, *where)
    causes = (OSError("disk full"), TrackingError("not finite"))
    with pytest.raises(IncompleteResultsError):
        trial_run._try_rates(trial.variant, *where)


def test_a_judge_tracks_as_the_row_asks_and_survives_divergence(
    base: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = trials(kernel_rates_study(base, (0,), TuningConfig()))[0].sequences.tuning
    assert tuning is not None
    row = replace(tuning.benchmark, update_branches=("cls",))
    config = replace(base, evaluation=replace(base.evaluation, phases=("online",)))
    judge = judge_of(config, replace(tuning, benchmark=row), "")
    spec = judge.spec(Path("best"))
    assert isinstance(spec, OnlineSpec) and spec.config.update_branches == ("cls",)

    def diverges(*arguments: Any) -> None:
        raise TrackingError("not finite")

    monkeypatch.setattr(search_trials.TuningJudge, "_trajectory", diverges)
    assert judge(Path("best")) == {OBJECTIVE: 0.0}


def test_a_judge_tracks_the_tuning_sequences_once(base: PipelineConfig, tmp_path: Path) -> None:
    study = maml_study(base, (0,), TuningConfig(max_sequences=1))
    trial = trials(study)[-1]
    assert trial.sequences.tuning is not None
    config = with_absolute_paths(trial.variant.config)
    judge = judge_of(config, trial.sequences.tuning, "")
    checkpoint = Path(train_once(config, tags={}).best)
    torch.set_num_threads(2)
    found = judge(checkpoint)
    assert torch.get_num_threads() == 2  # a training process goes on with its own
    torch.set_num_threads(1)
    files = list((tmp_path / "runs" / "results").rglob("*.json"))
    assert 0 <= found[OBJECTIVE] <= 1 and len(files) == 1
    stamp = files[0].stat().st_mtime_ns
    assert judge(checkpoint) == found and files[0].stat().st_mtime_ns == stamp
