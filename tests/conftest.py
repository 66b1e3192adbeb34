"""Fixtures shared by the tests."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
from meta_train.detectors.backbone import BackboneConfig
from meta_train.detectors.fcos import FcosConfig
from meta_train.detectors.heads import HeadConfig
from meta_train.detectors.network import NetworkConfig
from meta_train.inner_loop import InnerLoopConfig
from meta_train.train_config import (
    OuterLoopConfig,
    ScalingConfig,
    TrainConfig,
    ValidationConfig,
)

TINY_VIDEOS = SyntheticConfig(
    num_train_videos=8,
    frames_per_video=4,
    width_px=160,
    height_px=120,
    min_target_px=24.0,
    max_target_px=36.0,
)


@pytest.fixture(scope="session")
def tiny_config(tiny_shards: str) -> TrainConfig:
    """Six outer steps of the smallest network, the last three in second order."""
    slim = NetworkConfig(
        backbone=BackboneConfig(width=2, weights="random"), head=HeadConfig(hidden_channels=4)
    )
    return TrainConfig(
        shards=tiny_shards,
        detector=FcosConfig(network=slim),
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


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray with two CPUs for all tests marked ``ray``."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        resources={"tune_driver": 64},  # what a study's drivers hold instead of a CPU
        include_dashboard=True,  # without one, Ray asks at the usual port: a stranger may answer
        log_to_driver=False,
    )
    yield
    ray.shutdown()


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
        schema_version=1,
        num_views=2,
        jpeg_quality=90,
        seed=0,
        counts=counts,
        bytes=sum((Path(output) / shard).stat().st_size for shard in shards),
        fingerprint="0" * 64,
    )
    write_manifest(output, manifest)
    return output
