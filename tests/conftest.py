"""Fixtures shared by the tests.

The packages that are imported but not used here must be there before any of ours: while one of ours
is being imported, jaxtyping's hook compiles whatever it imports anew.
"""

import dataclasses
import json
import os
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import beartype.door  # noqa: F401
import cv2
import fsspec  # noqa: F401
import matplotlib.figure  # noqa: F401
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydantic  # noqa: F401
import pytest
import ray.data
import ray.train
import ray.tune
import torch
import torch._dynamo
import torchvision  # noqa: F401
import tyro.conf  # noqa: F401
from mlflow import MlflowClient
from xdist.scheduler import LoadFileScheduling

from data_pipeline.crop_tracks import CropConfig
from data_pipeline.preprocess import write_shard
from data_pipeline.readers import synthetic
from data_pipeline.sampling import SamplingConfig
from data_pipeline.shard_plans import ShardPlan
from data_pipeline.shards import (
    INDEX_FILE,
    DatasetCounts,
    Manifest,
    index_shard,
    write_manifest,
)
from data_pipeline.synthetic_scenes import SyntheticConfig
from meta_train.checkpoint import save
from meta_train.detectors.backbone import BackboneConfig
from meta_train.detectors.fcos import FcosConfig
from meta_train.detectors.heads import HeadConfig
from meta_train.detectors.network import NetworkConfig
from meta_train.inner_loop import InnerLoopConfig
from meta_train.learner import initial_learner
from meta_train.train_config import (
    OuterLoopConfig,
    ScalingConfig,
    TrainConfig,
    ValidationConfig,
)
from meta_train.train_state import TrainState

if TYPE_CHECKING:
    from eval_jobs.sequence_job import SequenceJob

TESTS = Path(__file__).parent

torch.set_num_threads(1)  # small tensors, and several processes

TINY_VIDEOS = SyntheticConfig(
    num_train_videos=8,
    frames_per_video=4,
    width_px=160,
    height_px=120,
    min_target_px=24.0,
    max_target_px=36.0,
)

SLIM_DETECTOR = FcosConfig(
    network=NetworkConfig(
        backbone=BackboneConfig(width=2, weights="random"), head=HeadConfig(hidden_channels=4)
    )
)


def untrained(config: TrainConfig, folder: Path) -> Path:
    """Saves a checkpoint as it is before any step."""
    learner = initial_learner(
        config.detector,
        config.rates,
        adapts=config.inner_loop.adapts,
        generator=torch.Generator().manual_seed(0),
    )
    return save(TrainState(config, learner, 0).checkpoint(), folder)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process, which starts sooner, where files are named; else up to four."""
    if all(Path(argument.partition("::")[0]).is_file() for argument in config.args):
        return 0
    return min(4, os.cpu_count() or 1)


USING_RAY = {path.name for path in TESTS.glob("test_*.py") if "pytest.mark.ray" in path.read_text()}


class OneRay(LoadFileScheduling):
    """A file's tests run in one process, and those of all files that use the local Ray in one.

    xdist's groups by marker would serve, but do not work with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return "ray" if Path(file).name in USING_RAY else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneRay:
    return OneRay(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # the longest part first
        items.sort(key=lambda item: item.get_closest_marker("ray") is None)


@pytest.fixture(scope="session")
def slim_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest network, untrained."""
    config = TrainConfig(detector=SLIM_DETECTOR)
    return untrained(config, tmp_path_factory.mktemp("slim") / "best")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_config: TrainConfig) -> Path:
    """Of a run by `tiny_config`, untrained."""
    return untrained(tiny_config, tmp_path_factory.mktemp("tiny-checkpoint") / "best")


@pytest.fixture(scope="session")
def tiny_config(tiny_shards: str) -> TrainConfig:
    """Six outer steps of the smallest network, the last three in second order."""
    return TrainConfig(
        shards=tiny_shards,
        detector=SLIM_DETECTOR,
        inner_loop=InnerLoopConfig(num_steps=2),
        outer_loop=OuterLoopConfig(
            num_epochs=2,
            iterations_per_epoch=3,
            batch_pairs=2,
            second_order_from_epoch=1,
            learns="all",
            learning_rate=1e-3,
            rates_learning_rate=1e-3,
        ),
        sampling=SamplingConfig(val_fraction=0.3, rows_per_block=3, pairs_per_block=2),
        validation=ValidationConfig(num_pairs=2, batch_pairs=2),
        scaling=ScalingConfig(cpus_per_worker=1),
        checkpoint_every=2,
        log_every=1,
    )


@dataclass(frozen=True)
class Ended:
    """What a script leaves behind."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Runs a script as a user does, in a folder, but in this process: no imports to wait for."""

    def run(script: Path, folder: Path, *arguments: str) -> Ended:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "160")
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        capsys.readouterr()
        code: Any = 0
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            code = end.code
        output, errors = capsys.readouterr()
        if isinstance(code, str):  # Python prints it and ends with 1
            code, errors = 1, f"{errors}{code}\n"
        return Ended(code or 0, output, errors)

    return run


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with MLflow's tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> str:
    """The address of a copy of it, in the test's folder."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray with two CPUs for all tests marked ``ray``."""
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # as `ray_session` has it
    # Ray's workers are polite; beside the other tests, on two cores, they would hardly come to run.
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(
        address="local",
        num_cpus=2,
        resources={"tune_driver": 64},  # what a study's drivers hold instead of a CPU
        include_dashboard=True,  # without one, Ray asks at the usual port: a stranger may answer
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> "list[SequenceJob]":
    """Runs an evaluation's missing jobs one after the other, without Ray; gives those that ran."""
    from eval_jobs import jobs
    from eval_jobs.sequence_job import run_job

    ran: list[SequenceJob] = []

    def run_missing(due: "Sequence[SequenceJob]", *settings: Any) -> None:
        for job in due:
            if job.store.read(job.track) is None:
                run_job(job)
                ran.append(job)

    monkeypatch.setattr(jobs, "_run_missing", run_missing)
    return ran


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two shards, written without Ray: 8 synthetic videos of 4 frames, and a still of each."""
    folder = tmp_path_factory.mktemp("tiny")
    videos, output = folder / "videos" / "train", str(folder / "shards")
    seeds = synthetic.video_seeds(TINY_VIDEOS, "train")
    names = [f"video_{number}" for number in range(len(seeds))]
    for name, seed in zip(names, seeds, strict=True):
        synthetic.write_video(videos / name, TINY_VIDEOS, seed)
    (videos / "list.txt").write_text("\n".join(names) + "\n")
    tracks = list(synthetic.read(folder / "videos"))
    stills = [
        dataclasses.replace(
            track,
            dataset="coco",
            is_still=True,
            image_files=track.image_files[:1],
            boxes=track.boxes[:1] + 2.0,  # so that no crop is also a video's
            visible=track.visible[:1],
            frame_numbers=track.frame_numbers[:1],
        )
        for track in tracks
    ]
    shards = []
    for number, members in enumerate((tracks[::2] + stills[::2], tracks[1::2] + stills[1::2])):
        plan = ShardPlan(
            shard=f"shard-{number:05d}.parquet", fingerprint="tiny", tracks=tuple(members)
        )
        write_shard(plan, output, CropConfig())
        shards.append(plan.shard)
    index = pa.concat_tables([index_shard(output, shard) for shard in shards])
    pq.write_table(index, Path(output) / INDEX_FILE)
    counts = {"synthetic": DatasetCounts(videos=8, tracks=8, rows=8, frames=32, images=96)}
    counts["coco"] = DatasetCounts(videos=8, tracks=8, rows=8, frames=8, images=24)
    manifest = Manifest(
        schema_version=2,
        num_views=2,
        jpeg_quality=90,
        seed=0,
        counts=counts,
        bytes=sum((Path(output) / shard).stat().st_size for shard in shards),
        fingerprint="0" * 64,
    )
    write_manifest(output, manifest)
    return output


def write_images(folder: Path, count: int, first: int = 1, digits: int = 8) -> None:
    """Grey images of 32 x 24 pixels, numbered."""
    folder.mkdir(parents=True, exist_ok=True)
    image = np.full((24, 32, 3), 90, np.uint8)
    for number in range(first, first + count):
        cv2.imwrite(str(folder / f"{number:0{digits}d}.jpg"), image)


def make_got10k(root: Path) -> None:
    for name in ("video_a", "video_b"):
        folder = root / "train" / name
        write_images(folder, 3)
        (folder / "groundtruth.txt").write_text("1.0,2.0,10.0,8.0\n2,2,10,8\n3,2,10,8\n")
        (folder / "absence.label").write_text("0\n1\n0\n")
        (folder / "cover.label").write_text("8\n8\n0\n")
        (folder / "meta_info.ini").write_text("[METAINFO]\nurl: 100%\nobject_class: red fox\n")
    (root / "train" / "list.txt").write_text("video_b\nvideo_a")


def make_coco(root: Path) -> None:
    write_images(root / "train2017", 2, digits=12)
    objects = [
        {"id": 7, "image_id": 2, "category_id": 18, "bbox": [1, 2, 10, 8], "iscrowd": 0},
        {"id": 8, "image_id": 2, "category_id": 18, "bbox": [0, 0, 30, 20], "iscrowd": 1},
        {"id": 9, "image_id": 1, "category_id": 1, "bbox": [4.5, 2, 6, 8], "iscrowd": 0},
    ]
    content = {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg"} for i in (1, 2)],
        "annotations": objects,
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))


def make_otb(root: Path) -> None:
    write_images(root / "Coke" / "img", 3, digits=4)
    (root / "Coke" / "groundtruth_rect.txt").write_text("10,10,5,6\r\n11\t10\t5\t6\n0 0  0 0\n")
    write_images(root / "Jogging" / "img", 2, digits=4)
    (root / "Jogging" / "groundtruth_rect.1.txt").write_text("1,1,5,6\n2,2,5,6")
    (root / "Jogging" / "groundtruth_rect.2.txt").write_text("9,9,5,6\n8,8,5,6\n")


def make_trackingnet(root: Path) -> None:
    for number in range(12):
        chunk, count = root / f"TRAIN_{number}", 11 if number == 3 else 2
        write_images(chunk / "frames" / f"video{number}_0", count, first=0, digits=1)
        (chunk / "anno").mkdir()
        rows = [f"{frame}.5,2,10,8\n" for frame in range(count)]
        (chunk / "anno" / f"video{number}_0.txt").write_text("".join(rows))
    write_images(root / "TEST" / "frames" / "hidden_0", 2, first=0, digits=1)
    (root / "TEST" / "anno").mkdir()
    (root / "TEST" / "anno" / "hidden_0.txt").write_text("3,4,10,8\n")


def make_lasot(root: Path) -> None:
    for name in ("cat-2", "cat-10", "dog-4", "dog-7"):  # dog-7 is for testing
        folder = root / name.split("-")[0] / name
        write_images(folder / "img", 4)
        (folder / "groundtruth.txt").write_text("3,5,10,8\n4,5,10,8\n0,0,0,0\n5,5,10,8\n")
        (folder / "full_occlusion.txt").write_text("0,1,0,0")
        (folder / "out_of_view.txt").write_text("0,0,1,0\n")
        (folder / "nlp.txt").write_text("a cat\n")


def make_vot(root: Path) -> None:
    write_images(root / "ball" / "color", 3)
    rows = ["3,4,13,4,13,14,3,14\n", "8.0,4.0,12.0,8.0,8.0,12.0,4.0,8.0\n"]
    (root / "ball" / "groundtruth.txt").write_text("".join([*rows, rows[0]]))
    (root / "ball" / "sequence").write_text("channels.color=color/%08d.jpg\nfps=30\nname=ball\n")
    (root / "ball" / "occlusion.tag").write_text("0\n1\n")
    (root / "ball" / "size_change.tag").write_text("0\n0\n0\n")
    (root / "ball" / "practical.value").write_text("0.5\n")
    write_images(root / "ant", 2)
    (root / "ant" / "groundtruth.txt").write_text("3,4,10,11\n4,4,10,11\n")
    (root / "list.txt").write_text("ball\nant\n")


def make_own_videos(root: Path) -> None:
    write_images(root / "walk", 11, digits=1)
    (root / "walk.txt").write_text("nan,nan,nan,nan\n" + "2 3 10 8\n" * 9 + "0,0,0,0\n")
    writer = cv2.VideoWriter(str(root / "race.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(3):
        writer.write(np.full((48, 64, 3), 90, np.uint8))
    writer.release()
    (root / "race.1.txt").write_text("2,3,10,8\n" * 3)
    (root / "race.2.txt").write_text("20,3,10,8\n" * 3)


SMALL_DATASETS = {
    "coco": (make_coco, "train2017"),
    "got10k": (make_got10k, "train"),
    "lasot": (make_lasot, "train"),
    "otb": (make_otb, ""),
    "own_videos": (make_own_videos, ""),
    "trackingnet": (make_trackingnet, "train"),
    "vot": (make_vot, ""),
}


@pytest.fixture
def make_dataset() -> Callable[[str, Path], str]:
    """Writes a small folder in a dataset's true layout; gives the split to read."""

    def make(name: str, root: Path) -> str:
        root.mkdir(exist_ok=True)
        write, split = SMALL_DATASETS[name]
        write(root)
        return split

    return make
