"""Lanes: the same samples whatever the workers and restarts, and failures that surface."""

import shutil
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.episodes import NO_AUGMENTATION, EpisodeBatch
from data_pipeline.sampling import PairShares, SamplingConfig, split_of
from data_pipeline.shards import ShardError, decode, read_chunks, read_index
from data_pipeline.stream import EpisodeStream, batches

CONFIG = SamplingConfig(val_fraction=0.3, rows_per_block=3, pairs_per_block=2)


def stream(folder: str, config: SamplingConfig = CONFIG, *, seed: int = 5) -> EpisodeStream:
    return EpisodeStream(folder, config, split="train", seed=seed)


def take(source: Iterator[EpisodeBatch], count: int) -> list[EpisodeBatch]:
    found = list(islice(source, count))
    source.close()
    return found


def assert_equal(first: EpisodeBatch, second: EpisodeBatch, rows: slice = slice(None)) -> None:
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other[rows])


def test_samples_do_not_depend_on_the_number_of_workers(tiny_shards: str) -> None:
    alone = take(batches(stream(tiny_shards), range(4)), 5)
    for rank in range(2):
        shared = take(batches(stream(tiny_shards), range(rank, 4, 2), num_threads=1), 5)
        for mine, whole in zip(shared, alone, strict=True):
            assert_equal(mine, whole, slice(rank, None, 2))
    first, later = alone[0].support_images, alone[1].support_images
    assert (first[0] != first[1]).any() and (first != later).any()


def test_a_stream_goes_on_where_it_stopped(tiny_shards: str) -> None:
    whole = take(batches(stream(tiny_shards), range(2)), 5)
    rest = take(batches(stream(tiny_shards), range(2), start=3), 2)
    for one, other in zip(rest, whole[3:], strict=True):
        assert_equal(one, other)


def test_an_episode_is_a_function_of_seed_lane_and_count(tiny_shards: str) -> None:
    one = stream(tiny_shards)
    expected = [one.episode(1, count) for count in range(4)]
    other = stream(tiny_shards)
    for count in (3, 0, 2, 1):
        for mine, its in zip(other.episode(1, count), expected[count], strict=True):
            np.testing.assert_array_equal(mine, its)
    different = stream(tiny_shards, seed=6).episode(1, 0).support_images
    assert (different != expected[0].support_images).any()


def test_episodes_show_what_the_shards_hold(tiny_shards: str) -> None:
    """Without augmentation: support from a centred crop, query from a view, of the right video."""
    same = PairShares(same_target=0.5, same_category=0.0)
    config = SamplingConfig(
        val_fraction=0.3, augmentation=NO_AUGMENTATION, video_pairs=same, still_pairs=same
    )
    centred: dict[bytes, tuple[str, str]] = {}
    views: dict[bytes, tuple[str, str]] = {}
    for place in read_index(tiny_shards).to_pylist():
        chunk = read_chunks(tiny_shards, place["shard"], place["row_group"])[place["row_in_group"]]
        name = chunk.dataset, chunk.video
        centred |= {decode(jpeg).tobytes(): name for jpeg in chunk.centred_images}
        views |= {decode(jpeg).tobytes(): name for images in chunk.view_images for jpeg in images}
    source = stream(tiny_shards, config)
    kinds = set()
    for count in range(30):
        episode = source.episode(0, count)
        first = centred[episode.support_images[1].tobytes()]
        second = views[episode.query_images[0].tobytes()]
        assert (first == second) == episode.query_present[0]
        assert (first == second) == (episode.origin.frame_distance >= 0)
        assert episode.origin.dataset == first[0]
        assert episode.origin.is_still == (first[0] == "coco")
        assert split_of(*first, 0.3) == split_of(*second, 0.3) == "train"
        kinds.add((first[0], bool(episode.query_present[0])))
    assert len(kinds) == 4, "videos and stills, the target present and absent"


def test_a_failing_shard_raises_where_the_batch_is_asked_for(
    tiny_shards: str, tmp_path: Path
) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(tiny_shards, folder)
    source = batches(stream(str(folder)), range(2))
    next(source)
    for shard in folder.glob("shard-*"):
        shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ShardError, match=r"shard-0000.*cut short"):
        for _ in range(20):
            next(source)
    assert not producers()


def test_an_index_of_other_shards_is_named(tiny_shards: str) -> None:
    source = stream(tiny_shards)
    source.table.draw_block = lambda count, rng: [("shard-00000.parquet", 0, 99)] * count
    with pytest.raises(ShardError, match=r"holds 8 rows, the index expects row 99"):
        source.episode(0, 0)


def test_a_folder_without_shards_is_named(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"index\.parquet"):
        stream(str(tmp_path))


def test_closing_ends_the_thread(tiny_shards: str) -> None:
    source = batches(stream(tiny_shards), range(2))
    next(source)
    assert producers()
    source.close()
    assert not producers()


def producers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "episode-stream"]
