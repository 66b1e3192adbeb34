"""Held-out pair tasks: which there are, what they show, and how detectors are scored on them."""

import dataclasses
import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy import ndarray
from perfect_detector import small_learner
from torch import Tensor

from data_pipeline import pair_tasks
from data_pipeline.crop_tracks import CropConfig
from data_pipeline.look_alikes import look_alikes, siblings
from data_pipeline.pair_tasks import (
    PairTask,
    PairTasksConfig,
    draw_tasks,
    load_task,
    part_of,
)
from data_pipeline.preprocess import write_shard
from data_pipeline.sampling import SamplingConfig, split_of
from data_pipeline.shard_plans import ShardPlan
from data_pipeline.shards import INDEX_FILE, ShardError, TrackChunk, index_shard, read_chunks
from data_pipeline.tracks import Track
from eval_jobs import pair_results, pair_scores
from eval_jobs import pair_tasks as script
from eval_jobs.constant_rates import constant
from eval_jobs.pair_contest import Contest, Entry, score_entry
from eval_jobs.pair_scores import (
    MEASURES,
    PairScore,
    measure,
    score_rows,
    standard_error,
    step_metrics,
)
from meta_train.learner import Learner
from meta_train.train_config import OuterLoopConfig, TrainConfig, ValidationConfig
from meta_train.validation import (
    TaskCurves,
    one_task,
    prepare,
    task_curves,
    validate,
    validation_stream,
)

TARGET = np.array([40.0, 40.0, 60.0, 60.0])
BESIDE = TARGET + np.array([30.0, 0.0, 30.0, 0.0])
OF_ANOTHER_KIND = TARGET + np.array([0.0, 30.0, 0.0, 30.0])
VAL_FRACTION = 0.5


def still(image: Path, target: str, category: str, box: ndarray) -> Track:
    return Track(
        dataset="coco",
        video=image.stem,
        target=target,
        category=category,
        image_files=(image,),
        boxes=box[None],
        visible=np.array([True]),
        frame_numbers=np.zeros(1, np.int64),
        is_still=True,
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """40 stills, each with two white dogs side by side and a grey cat below."""
    folder = tmp_path_factory.mktemp("alike")
    tracks = []
    for number in range(40):
        image = np.full((140, 140, 3), 20, np.uint8)
        for box, color in ((TARGET, 255), (BESIDE, 255), (OF_ANOTHER_KIND, 130)):
            left, top, right, bottom = box.astype(int)
            image[top:bottom, left:right] = color
        cv2.imwrite(str(folder / f"{number:03d}.png"), image)
        path = folder / f"{number:03d}.png"
        tracks += [
            still(path, "1", "dog", TARGET),
            still(path, "2", "dog", BESIDE),
            still(path, "3", "cat", OF_ANOTHER_KIND),
        ]
    output = str(folder / "shards")
    plan = ShardPlan(shard="shard-00000.parquet", fingerprint="alike", tracks=tuple(tracks))
    write_shard(plan, output, CropConfig(view_shift_px=16.0))
    pq.write_table(index_shard(output, plan.shard), Path(output) / INDEX_FILE)
    return output


@pytest.fixture(scope="module")
def learner() -> Learner:
    small = small_learner()
    return replace(small, rates=constant(small.rates, 0.01))


FEW = PairTasksConfig(num_tasks=6, num_look_alikes=3, num_tuning=3)


@pytest.mark.parametrize(
    ("box", "counts"),
    [
        ([150, 100, 210, 160], True),
        ([110, 100, 170, 160], False),
        ([270, 100, 330, 160], False),
        ([150, 100, 170, 120], False),
        ([10, 10, 150, 150], False),
    ],
    ids=["beside", "overlapping", "out of sight", "far smaller", "far larger"],
)
def test_a_look_alike_stands_beside_the_target(box: list[int], counts: bool) -> None:
    target = np.array([80.0, 100.0, 140.0, 160.0])
    found = look_alikes(np.array([box, target], dtype=np.float64), target)
    assert found.tolist() == ([box] if counts else []), "and the target is none itself"


def test_siblings_share_video_and_a_named_category() -> None:
    image = Path("1.jpg")
    tracks = [
        still(image, "1", "dog", TARGET),
        still(image, "2", "dog", BESIDE),
        still(image, "3", "cat", TARGET),
        still(Path("2.jpg"), "4", "dog", TARGET),
        still(image, "5", "", TARGET),
        still(image, "6", "", BESIDE),
    ]
    found = [[other.target for other in others] for others in siblings(tracks)]
    assert found == [["2"], ["1"], [], [], [], []]


def test_crops_know_where_the_others_are(shards: str) -> None:
    rows = [r for group in range(2) for r in read_chunks(shards, "shard-00000.parquet", group)]
    assert [len(row.other_boxes[0]) for row in rows[:3]] == [1, 1, 0], "a cat is no dog"
    index = pq.read_table(Path(shards) / INDEX_FILE)
    expected = [row.num_look_alikes for row in rows]
    assert index["num_look_alikes"].to_pylist()[: len(rows)] == expected
    assert expected[0] > 0 and expected[2] == 0


def test_views_with_a_look_alike_are_counted() -> None:
    """Three frames, the middle one without others; two views, one of which lost sight of it."""
    target, beside = np.array([[100.0, 100, 150, 150]]), np.array([[160.0, 100, 210, 150]])
    elsewhere = target + np.array([110.0, 0, 110, 0])  # moved so far, the other is outside
    chunk = TrackChunk(
        dataset="coco",
        video="1",
        target="1",
        category="dog",
        is_still=False,
        chunk=0,
        frame_numbers=np.arange(3, dtype=np.int32),
        centred_images=(b"",) * 3,
        centred_boxes=np.repeat(target, 3, axis=0).astype(np.float32),
        view_images=((b"", b""),) * 3,
        view_boxes=np.stack([[target[0], elsewhere[0]]] * 3).astype(np.float32),
        other_boxes=tuple(boxes.astype(np.float32) for boxes in (beside, np.zeros((0, 4)), beside)),
    )
    assert chunk.num_look_alikes == 2
    assert [[len(chunk.look_alikes(f, v)) for v in (0, 1)] for f in range(3)] == [
        [1, 0],
        [0, 0],
        [1, 0],
    ]
    assert replace(chunk, other_boxes=()).num_look_alikes == 0


def test_a_task_shows_target_and_look_alike_where_their_boxes_say(shards: str) -> None:
    tasks = draw_tasks(shards, FEW, part="report", val_fraction=VAL_FRACTION)
    for task in tasks["look_alike"]:
        loaded = load_task(shards, task)
        image = loaded.episode.query_images[0]
        boxes = [loaded.episode.query_boxes[0], *loaded.look_alikes]
        assert len(boxes) == 2 and loaded.episode.origin.shows_look_alike
        for box in boxes:
            left, top, right, bottom = np.clip(np.rint(box), 0, 263).astype(int)
            inside = image[top + 3 : bottom - 3, left + 3 : right - 3]
            assert inside.size == 0 or inside.min() > 200
        assert (loaded.episode.support_boxes[1] == row_of(shards, task).centred_boxes[0]).all()


def row_of(shards: str, task: PairTask) -> Any:
    shard, group, row = task.place
    return read_chunks(shards, shard, group)[row]


def test_tasks_differ_repeat_and_are_of_held_out_videos(shards: str) -> None:
    report = draw_tasks(shards, FEW, part="report", val_fraction=VAL_FRACTION)
    assert report == draw_tasks(shards, FEW, part="report", val_fraction=VAL_FRACTION)
    tuning = draw_tasks(shards, FEW, part="tuning", val_fraction=VAL_FRACTION)
    assert {len(report["all"]), len(report["look_alike"]), len(tuning["all"])} == {6, 3}
    assert list(tuning) == ["all"]
    for name, tasks in {**report, "tuning": tuning["all"]}.items():
        assert len(set(tasks)) == len(tasks)
        for task in tasks:
            assert split_of(task.dataset, task.video, VAL_FRACTION) == "val"
            assert part_of(task.dataset, task.video) == ("tuning" if name == "tuning" else "report")
    assert all(task.shows_look_alike for task in report["look_alike"])
    assert len({task.video for task in report["all"]}) > 2


def test_too_few_tasks_are_refused(shards: str) -> None:
    many = replace(FEW, num_tasks=500)
    with pytest.raises(ShardError, match=r"500 different pair tasks .* were found in"):
        draw_tasks(shards, many, part="report", val_fraction=VAL_FRACTION)


def test_shards_that_know_no_look_alikes_give_no_subset(tiny_shards: str) -> None:
    few = PairTasksConfig(num_tasks=2)
    assert list(draw_tasks(tiny_shards, few, part="report", val_fraction=0.9)) == ["all"]


def test_shards_without_views_are_named(shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pair_tasks._read_row

    def without_views(*arguments: Any) -> Any:
        row = real(*arguments)
        return row._replace(alike=((),) * len(row.alike))

    monkeypatch.setattr(pair_tasks, "_read_row", without_views)
    with pytest.raises(ShardError, match=r"shard-.*: moved views .*expected.*--crops.num-views"):
        draw_tasks(shards, FEW, part="report", val_fraction=VAL_FRACTION)


def test_validation_counts_look_alikes_apart(learner: Learner, shards: str) -> None:
    held_out = validation_stream(shards, SamplingConfig(val_fraction=VAL_FRACTION))
    config = ValidationConfig(num_pairs=6, batch_pairs=2)
    found = validate(learner, held_out, config, num_steps=1, diverges_at=math.inf, lanes=range(2))
    pairs = [held_out.episode(lane, count) for count in range(3) for lane in range(2)]
    alike = [episode for episode in pairs if episode.origin.shows_look_alike]
    assert 0 < len(alike) == found["val/look_alike_pairs"] < 6
    curves = [task_curves(learner, prepare(learner, one_task(e, learner)), 1) for e in alike]
    for branch in ("cls", "reg"):
        mean = float(torch.stack([each.query[branch][1] for each in curves]).mean())
        assert found[f"val/look_alike_query_loss_{branch}_1"] == pytest.approx(mean, rel=1e-5)
    assert found["val/look_alike_iou_1"] != found["val/iou_1"]


def test_a_perfect_detector_scores_one_and_a_distracted_one_is_seen(
    learner: Learner, shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peak moves from the look-alike to the target when the detector has adapted."""
    (task, *_) = draw_tasks(shards, FEW, part="report", val_fraction=VAL_FRACTION)["look_alike"]
    loaded = load_task(shards, task)
    places = [loaded.look_alikes[0], loaded.episode.query_boxes[0]]
    calls: list[int] = []

    def decode(self: Any, outputs: Any) -> tuple[Tensor, Tensor]:
        boxes = torch.rand(1, 33 * 33, 4)
        scores = torch.rand(1, 33 * 33)
        boxes[0, 7] = torch.as_tensor(places[min(len(calls), 1)])
        scores[0, 7] = 2.0
        calls.append(0)
        return boxes, scores

    monkeypatch.setattr(type(learner.detector), "decode", decode)
    (values,) = measure(learner, {"own": learner.rates}, shards, [task], 2)["own"]
    overlap, distracted = (values[MEASURES.index(name)] for name in ("iou", "distracted"))
    np.testing.assert_allclose(overlap[1:], 1.0)
    assert overlap[0] < 0.3 and distracted.tolist() == [1.0, 0.0, 0.0]


def test_losses_are_those_of_the_tasks(learner: Learner, shards: str) -> None:
    tasks = draw_tasks(shards, FEW, part="report", val_fraction=VAL_FRACTION)["all"][:2]
    still_rates = {name: torch.zeros_like(rate) for name, rate in learner.rates.items()}
    variants = {"own": learner.rates, "none": still_rates}
    found = measure(learner, variants, shards, tasks, 2)
    support = found["own"][:, MEASURES.index("support_loss_cls")]
    assert (support[:, 2] < support[:, 0]).all(), "descent lowers what it descends on"
    np.testing.assert_array_equal(found["none"][..., 0], found["none"][..., 2])
    np.testing.assert_array_equal(found["none"][..., 0], found["own"][..., 0])


def test_errors_count_videos_not_tasks() -> None:
    values = np.array([1.0, 1.0, 3.0, 3.0])
    apart = standard_error(values, ["a", "b", "c", "d"])
    assert apart == pytest.approx(values.std(ddof=1) / 2)
    assert standard_error(values, ["a", "a", "b", "b"]) > apart
    assert np.isnan(standard_error(values, ["a"] * 4))


def entry(name: str, learner: Learner, method: Any, val_fraction: float = VAL_FRACTION) -> Entry:
    config = TrainConfig(
        outer_loop=OuterLoopConfig(method=method),
        sampling=SamplingConfig(val_fraction=val_fraction),
    )
    return Entry(name=name, digest=name, config=config, learner=learner)


def test_who_learned_no_rates_gets_the_best_constant(learner: Learner, shards: str) -> None:
    entries = [entry("MAML", learner, "maml"), entry("baseline", learner, "baseline")]
    contest = Contest.draw(shards, FEW, entries, 1, (1e-9, 0.02, 1e30))
    scores = [score for each in entries for score in score_entry(contest, each)]
    assert [score.rates for score in scores[:2]] == ["learned", "initial"]
    assert scores[2].rates in ("best constant (1e-09)", "best constant (0.02)"), "1e30 diverges"
    np.testing.assert_array_equal(scores[0].values["all"], scores[1].values["all"])
    rows = score_rows(scores)
    assert [row["tasks"] for row in rows[::3]] == ["6 of all", "3 with a look-alike"]
    assert all(list(row) == list(rows[0]) for row in rows)
    before, after = step_metrics(scores)
    gain = after["pair_tasks/iou"] - before["pair_tasks/iou"]
    assert rows[0]["gain"] == pytest.approx(gain, abs=1e-4)
    assert "pair_tasks/baseline__initial_rates/look_alike/distracted" in after


def test_rates_at_which_all_diverge_are_refused(learner: Learner, shards: str) -> None:
    baseline = entry("baseline", learner, "baseline")
    contest = Contest.draw(shards, FEW, [baseline], 2, (1e30,))
    with pytest.raises(ValueError, match=r"adaptation diverged at all constant rates \[1e\+30\]"):
        score_entry(contest, baseline)


def test_tables_hold_no_nan_of_a_detector_that_diverged(learner: Learner, shards: str) -> None:
    wild = replace(learner, rates=constant(learner.rates, 1e30))
    contest = Contest.draw(shards, FEW, [entry("wild", wild, "maml")], 2, ())
    scores = score_entry(contest, entry("wild", wild, "maml"))
    (row, _) = score_rows(scores)
    assert row["query loss 2"] is None and row["query loss 0"] > 0
    json.dumps(score_rows(scores), allow_nan=False)
    metrics = step_metrics(scores)
    assert "pair_tasks/query_loss" in metrics[0] and "pair_tasks/query_loss" not in metrics[2]


def test_who_sees_no_look_alike_cannot_be_distracted() -> None:
    """The share counts the tasks that show one, and says nothing where none does."""
    plain = PairTask("coco", "1", "1", ("s", 0, 0), 0, 0, 0, shows_look_alike=False)
    beside = plain._replace(video="2", shows_look_alike=True)
    values = np.zeros((4, len(MEASURES), 2))
    values[3, MEASURES.index("distracted")] = 1.0
    tasks = {"all": [plain, plain, beside, beside], "look_alike": [plain] * 4}
    score = PairScore(name="a", rates="own", tasks=tasks, values=dict.fromkeys(tasks, values))
    assert score.curve("all", "distracted").tolist() == [0.5, 0.5]
    assert score_rows([score])[1]["distracted 0"] is None
    assert "pair_tasks/look_alike/distracted" not in step_metrics([score])[0]


def test_a_touch_of_a_look_alike_is_no_distraction() -> None:
    """The box at the peak is off the target: first by the look-alike, then on it."""
    truth = torch.tensor([[10.0, 10.0, 50.0, 50.0]])
    look_alike = torch.tensor([[100.0, 100.0, 140.0, 140.0]])
    peaks = look_alike + torch.tensor([[35.0], [10.0]]) * torch.tensor([1.0, 0.0, 1.0, 0.0])
    losses = {branch: torch.zeros(2) for branch in ("cls", "reg")}
    found = pair_scores._values(TaskCurves(losses, losses, torch.ones(2), peaks), truth, look_alike)
    assert found[MEASURES.index("iou")].tolist() == [0.0, 0.0]
    assert found[MEASURES.index("distracted")].tolist() == [0.0, 1.0]


def test_tasks_are_held_out_by_every_checkpoint(learner: Learner, shards: str) -> None:
    entries = [entry("a", learner, "maml", 0.7), entry("b", learner, "maml", 0.5)]
    contest = Contest.draw(shards, FEW, entries, 1, ())
    assert contest.val_fraction == 0.5 and not contest.tuning
    with pytest.raises(ValueError, match=r"val_fraction above 0 expected, got .*'b': 0"):
        Contest.draw(shards, FEW, [entries[0], entry("b", learner, "maml", 0.0)], 1, ())


def test_there_must_be_a_checkpoint() -> None:
    with pytest.raises(SystemExit, match="error: --checkpoints: at least one folder expected"):
        script.main((), shards="shards")


def test_script_logs_each_step(
    learner: Learner,
    shards: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.INFO)
    logged: dict[str, Any] = {}

    class FakeLog:
        @staticmethod
        def start(*_: Any, **__: Any) -> Any:
            return FakeLog()

        def log_metrics(self, values: dict[str, float], step: int) -> None:
            logged[str(step)] = values

        def log_table(self, rows: Any, name: str) -> None:
            logged[name] = rows

        log_text = log_figure = log_table

        def finish(self, status: str) -> None:
            logged["status"] = status

    monkeypatch.setattr(script, "RunLog", FakeLog)
    monkeypatch.setattr(script, "load_entries", lambda *_: [entry("MAML", learner, "maml")])
    manifest = dataclasses.make_dataclass("Manifest", [("fingerprint", str)])("0" * 64)
    for module in (script, pair_results):
        monkeypatch.setattr(module, "read_manifest", lambda _: manifest)
    script.main(("MAML=x",), shards, num_steps=1, tasks=FEW, output=tmp_path)
    assert logged["status"] == "FINISHED" and set("01") < set(logged)
    assert "9 of 9 pair tasks" in caplog.messages, "progress is seen without a terminal"
    assert len(logged["plots/pair_tasks.png"].axes) == 4
    assert len(logged["tables/tasks.csv"].splitlines()) == 1 + 6 + 3
    printed = capsys.readouterr().out
    assert "6 of all" in printed and "that no checkpoint was trained on" in printed
    monkeypatch.setattr(pair_results, "score_entry", None)  # the scores are on disk
    script.main(("MAML=x",), shards, num_steps=1, tasks=FEW, output=tmp_path)
    assert capsys.readouterr().out == printed
