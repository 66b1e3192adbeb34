"""The readers of what runs leave, each with valid files to spoil: rows of `fuzz_readers`."""

import hashlib
import io
import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from fuzz_data import Files, Target, all_of, make_manifest
from fuzz_inputs import spoilt
from hypothesis import strategies as st

from data_pipeline.pair_tasks import PairTask
from data_pipeline.tracks import Track
from eval_jobs import pipeline
from eval_jobs.benchmarks import BENCHMARKS, Selection
from eval_jobs.pair_contest import Contest, Entry
from eval_jobs.pair_results import PairResults
from eval_jobs.pair_scores import MEASURES, PairScore
from eval_jobs.protocols import FAILED, INITIALIZED, TRACKED, Trajectory
from eval_jobs.result_files import score_results
from eval_jobs.results import ResultStore
from meta_train import checkpoint as checkpoints
from meta_train.detectors import backbone
from meta_train.detectors.fcos import FcosConfig
from meta_train.detectors.heads import HeadConfig
from meta_train.detectors.network import NetworkConfig
from meta_train.learner import Learner, initial_learner
from meta_train.mlflow_runs import keep_mlflow_run, mlflow_run_of
from meta_train.train_config import TrainConfig
from meta_train.train_state import TrainState
from meta_train.trained_runs import TrainResult, trained_runs
from meta_train.trainer import run_config
from meta_train.undelivered import Point, UndeliveredFolder
from search_spaces.search_ledger import Ledger, Tried

TINY = TrainConfig(
    detector=FcosConfig(
        network=NetworkConfig(
            backbone=backbone.BackboneConfig(width=2, weights="random"),
            head=HeadConfig(hidden_channels=4),
        )
    ),
    shards="somewhere",
)


@cache
def _learner() -> Learner:
    return initial_learner(
        TINY.detector,
        TINY.rates,
        adapts=TINY.inner_loop.adapts,
        generator=torch.Generator().manual_seed(0),
    )


def _save_checkpoint(folder: Path) -> Path:
    return checkpoints.save(TrainState(TINY, _learner(), 3).checkpoint(), folder)


def _make_checkpoint(folder: Path) -> Files:
    return all_of(*_save_checkpoint(folder / "best").iterdir())


def _read_checkpoint(folder: Path) -> None:
    """As tracking, a resumed run and the result store read it."""
    checkpoints.content_digest(folder / "best")
    learner = checkpoints.load_learner(folder / "best")
    images = torch.zeros(1, 3, 263, 263, dtype=torch.uint8)
    learner.outputs(learner.weights, learner.features(images))
    device = torch.device("cpu")
    TrainState.start(TINY, None, device, resume=folder / "best", init_from=None)  # type: ignore[arg-type]


@st.composite
def _odd_state(draw: st.DrawFn, state: dict[str, Any]) -> bytes:
    """A state file that loads, with entries missing, of other types or of other shapes."""
    odd: list[Any] = [None, [], {}, 1, "x", float("nan"), {"a": 1}, {0: torch.zeros(2)}]
    odd += [torch.zeros(()), torch.zeros(1, 2, 3), torch.zeros(2, dtype=torch.int64)]
    odd += [torch.zeros(1).expand(10**6, 10**6), torch.zeros(3).to_sparse(), torch.zeros(0)]
    whole = {key: dict(value) if isinstance(value, dict) else value for key, value in state.items()}
    part = draw(st.sampled_from(sorted(whole)))
    inner = whole[part] if isinstance(whole[part], dict) else whole
    entry = draw(st.sampled_from([None, *inner]))
    value = draw(st.sampled_from(odd))
    match draw(st.sampled_from(["replace", "delete", "add", "whole"])):
        case "delete":
            inner.pop(entry, None)
        case "add":
            inner["other"] = value
        case "replace" if entry is not None:
            inner[entry] = value
        case _:
            whole[part] = value
    sink = io.BytesIO()
    torch.save(draw(st.sampled_from([whole, whole, whole, value])), sink)
    return sink.getvalue()


def _make_sealed_checkpoint(folder: Path) -> Files:
    best = _save_checkpoint(folder / "best")
    state = torch.load(best / "state.pt", weights_only=True)
    return {
        best / "state.pt": spoilt((best / "state.pt").read_bytes()) | _odd_state(state),
        best / "config.json": spoilt((best / "config.json").read_bytes()),
    }


def _seal_checkpoint(folder: Path) -> None:
    best = folder / "best"
    manifest = json.loads((best / "checkpoint.json").read_text())
    for name in manifest["sha256"]:
        manifest["sha256"][name] = hashlib.sha256((best / name).read_bytes()).hexdigest()
    (best / "checkpoint.json").write_text(json.dumps(manifest))


def _make_backbone(folder: Path) -> Files:
    """Of the true shapes, but all kernels share one number, so that the file is small."""
    resnet = torchvision.models.resnet18().state_dict()
    state = {name: torch.ones(()).expand(tensor.shape) for name, tensor in resnet.items()}
    path = folder / "resnet18.pth"
    torch.save(state, path)
    return {path: spoilt(path.read_bytes()) | _odd_state(state)}


def _make_run(folder: Path) -> Files:
    """The files of a run's folder but for its checkpoints, and of a study's."""
    run = folder / "run"
    best = _save_checkpoint(run / "best")
    (run / "config.json").write_bytes((best / "config.json").read_bytes())
    result = TrainResult(run_id="run", best=str(best), last=str(best), metrics={"val/x": 0.5})
    content = asdict(result) | {"fingerprint": "f" * 16}
    (run / "result.json").write_text(json.dumps(content, indent=1))
    evaluation = pipeline._EVALUATION.dump_json(pipeline.EvaluationConfig(), indent=1)
    (run / "evaluation.json").write_bytes(evaluation)
    keep_mlflow_run(str(folder), "run", "a" * 32)
    return all_of(*(path for path in run.iterdir() if path.is_file()))


def _read_run(folder: Path) -> None:
    trained_runs(str(folder))
    pipeline._read_evaluation(str(folder), "run")
    mlflow_run_of(str(folder), "run")
    run_config(str(folder), "run")


def _track(num_frames: int = 4) -> Track:
    return Track(
        dataset="otb",
        video="Coke",
        image_files=tuple(Path(f"/videos/{i:04d}.jpg") for i in range(num_frames)),
        boxes=np.tile([10.0, 20.0, 30.0, 40.0], (num_frames, 1)),
        visible=np.ones(num_frames, dtype=bool),
        frame_numbers=np.arange(num_frames),
    )


def _store(folder: Path, repetition: int | None = None) -> ResultStore:
    return ResultStore(folder=folder, tracker="T", fingerprint="ab12" * 8, repetition=repetition)


def _make_results(folder: Path) -> Files:
    track = _track()
    parts: dict[str, Any] = {
        "boxes": track.boxes.copy(),
        "scores": np.ones(4),
        "lost": np.zeros(4, dtype=bool),
        "seconds": np.ones(4),
    }
    paths = [_store(folder).write(track, Trajectory(**parts))]
    parts["boxes"][:2] = np.nan
    codes = np.array([INITIALIZED, FAILED, TRACKED, TRACKED])
    paths.append(_store(folder, repetition=0).write(track, Trajectory(**parts, codes=codes)))
    return all_of(*paths)


def _read_results(folder: Path) -> None:
    for repetition in (None, 0):
        _store(folder, repetition).read(_track())


def _seal_results(folder: Path) -> None:
    for path in folder.rglob("*.json"):
        try:
            content = json.loads(path.read_bytes())
            content.pop("sha256", None)
            text = json.dumps(content, sort_keys=True)
        except (ValueError, TypeError, AttributeError, RecursionError):
            continue
        digest = hashlib.sha256(text.encode()).hexdigest()
        path.write_text(json.dumps(content | {"sha256": digest}))


def _pair_results(folder: Path) -> tuple[PairResults, Entry]:
    tasks = {
        "all": [PairTask("coco", f"{i}", "0", ("shard", 0, i), 0, 0, 0, False) for i in (0, 1)]
    }
    contest = Contest(
        shards=str(folder),
        val_fraction=0.5,
        tasks=tasks,
        tuning=[],
        num_steps=1,
        constant_rates=(),
    )
    entry = Entry(name="T", digest="ab12", config=TINY, learner=_learner())
    return PairResults(folder=folder, contest=contest), entry


def _make_pair_scores(folder: Path) -> Files:
    make_manifest(folder)
    results, entry = _pair_results(folder)
    tasks, values = results.contest.tasks, {"all": np.full((2, len(MEASURES), 2), 0.25)}
    score = PairScore(name="T", rates="learned", tasks=tasks, values=values)
    return all_of(results.write(entry, [score]))


def _read_pair_scores(folder: Path) -> None:
    results, entry = _pair_results(folder)
    results.read(entry)


def _seal_pair_scores(folder: Path) -> None:
    _seal_results(folder / "pair_tasks")


def _make_foreign_results(folder: Path) -> Files:
    rows = "10,20,30,40\n" * 4
    (folder / "flat").mkdir()
    (folder / "flat" / "Coke.txt").write_text(rows)
    (folder / "deep" / "Coke").mkdir(parents=True)
    (folder / "deep" / "Coke" / "Coke_001.txt").write_text(rows)
    (folder / "deep" / "Coke" / "Coke_time.txt").write_text("0.01\n" * 4)
    return all_of(*folder.rglob("*.txt"))


def _read_foreign_results(folder: Path) -> None:
    whole = Selection(benchmark=BENCHMARKS["otb100"], tracks=(_track(),), num_expected=100)
    for form in ("flat", "deep"):
        score_results("T", folder / form, whole)


def _make_undelivered(folder: Path) -> Files:
    UndeliveredFolder(folder).append([Point(f"a/{i}", i / 2, 1000 + i, i) for i in range(4)])
    return all_of(*folder.glob("*.jsonl"))


def _read_undelivered(folder: Path) -> None:
    for point in UndeliveredFolder(folder).read_points():
        assert isinstance(point.name, str) and isinstance(point.value, float), point
        assert all(0 <= number < 2**63 for number in (point.time_ms, point.step)), point


def _make_ledger(folder: Path) -> Files:
    values: dict[str, Any] = {"steps": 5, "gammas": "paper", "rate": 0.1}
    Ledger(folder=folder).write(
        Tried(values=values, ending="finished", metrics={"tuning/auc": 0.5}, seconds=3.0)
    )
    return all_of(*folder.glob("*.json"))


RUN_TARGETS: dict[str, Target] = {
    "checkpoint": Target(make=_make_checkpoint, read=_read_checkpoint),
    "checkpoint, digests made to fit": Target(
        make=_make_sealed_checkpoint, read=_read_checkpoint, seal=_seal_checkpoint
    ),
    "backbone weights": Target(
        make=_make_backbone,
        read=lambda folder: backbone._read_resnet18(str(folder / "resnet18.pth")),
    ),
    "run folder": Target(make=_make_run, read=_read_run),
    "results": Target(make=_make_results, read=_read_results),
    "results, digests made to fit": Target(
        make=_make_results, read=_read_results, seal=_seal_results
    ),
    "pair scores": Target(make=_make_pair_scores, read=_read_pair_scores),
    "pair scores, digests made to fit": Target(
        make=_make_pair_scores, read=_read_pair_scores, seal=_seal_pair_scores
    ),
    "results of other trackers": Target(make=_make_foreign_results, read=_read_foreign_results),
    "undelivered points": Target(make=_make_undelivered, read=_read_undelivered),
    "search ledger": Target(make=_make_ledger, read=lambda folder: Ledger(folder=folder).read()),
}
"""Checkpoints, run folders, results and what waits for MLflow, by name."""
