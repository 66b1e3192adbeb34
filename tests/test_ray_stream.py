"""Loading through Ray Data: the lanes' pairs in another order, and a run that trains on them."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from data_pipeline import ray_stream
from data_pipeline.ray_stream import EpisodeMaker
from data_pipeline.stream import EpisodeStream
from meta_train.checkpoint import load
from meta_train.train_config import TrainConfig
from meta_train.trainer import create_run, fit


def lanes_pairs(config: TrainConfig, num_lanes: int, num_batches: int) -> Counter[bytes]:
    stream = EpisodeStream(config.shards, config.sampling, split="train", seed=3)
    pairs = ((lane, count) for lane in range(num_lanes) for count in range(num_batches))
    return Counter(stream.episode(*pair).query_images.tobytes() for pair in pairs)


@pytest.mark.parametrize(("num_lanes", "num_batches"), [(1, 5), (3, 4), (5, 1)])
def test_the_blocks_of_all_lanes_hold_each_pair_once(
    tiny_config: TrainConfig, num_lanes: int, num_batches: int
) -> None:
    maker = EpisodeMaker(tiny_config.shards, tiny_config.sampling, 3, num_lanes, num_batches)
    blocks = (num_batches + num_lanes - 2) // tiny_config.sampling.pairs_per_block + 1
    rows = [row for i in range(num_lanes * blocks) for row in maker({"id": [i]})]
    found = [ray_stream._to_batch(row) for row in rows]
    pairs = Counter(image.tobytes() for batch in found for image in batch.query_images)
    assert pairs == lanes_pairs(tiny_config, num_lanes, num_batches)
    assert not any(maker({"id": [num_lanes * (blocks + 1)]}))
    for batch in found:
        assert batch.query_images.flags.writeable
        assert [origin.kind == "same_target" for origin in batch.origins] == (
            batch.query_present[:, 0].tolist()
        )


@pytest.mark.ray
def test_a_run_trains_on_pairs_that_ray_data_makes(
    tiny_config: TrainConfig, tmp_path: Path, ray_session: None
) -> None:
    one_epoch = replace(tiny_config.outer_loop, num_epochs=1)
    config = replace(tiny_config, loading="ray", outer_loop=one_epoch)
    result = fit(create_run(config, str(tmp_path), "ray"), storage=str(tmp_path), run_id="ray")
    assert load(result.last).iteration == 3
