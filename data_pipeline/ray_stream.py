"""Shards -> batches of episodes through Ray Data, made on whichever nodes have CPUs to spare.

The pairs are those of the lanes (`stream`), but they come as they get ready: their order is not
that of the lanes and differs from run to run, and no position in the data is kept. A run that is
resumed starts at the first pair again, so it is not exact, and two runs of one seed differ. Lanes
in the training process are the default; this is for nodes that are short of CPUs.
"""

from collections.abc import Generator, Iterator
from typing import Any

import cv2
import numpy as np
from numpy import ndarray

from data_pipeline.episodes import EpisodeBatch, PairOrigin, stack
from data_pipeline.sampling import SamplingConfig
from data_pipeline.stream import EpisodeStream

SHUFFLED_BATCHES = 4
"""Batches that a worker's pairs are shuffled over: neighbours come from the same few tracks."""

MAX_TASKS = 4096


class EpisodeMaker:
    """An actor of Ray Data: makes the pairs of one block of one lane at a time."""

    def __init__(
        self, folder: str, sampling: SamplingConfig, seed: int, num_lanes: int, num_batches: int
    ) -> None:
        """Reads the index; see `episode_dataset`."""
        cv2.setNumThreads(1)
        self._stream = EpisodeStream(folder, sampling, split="train", seed=seed)
        self._pairs_per_block = sampling.pairs_per_block
        self._num_lanes, self._num_batches = num_lanes, num_batches

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The columns of the pairs of block ``id // num_lanes`` of lane ``id % num_lanes``."""
        number, lane = divmod(int(row["id"][0]), self._num_lanes)
        first = max(number * self._pairs_per_block - lane, 0)
        end = min((number + 1) * self._pairs_per_block - lane, self._num_batches)
        if first < end:
            yield _to_columns(stack([self._stream.episode(lane, i) for i in range(first, end)]))
            self._stream.forget(lane)


def episode_dataset(
    folder: str, sampling: SamplingConfig, *, seed: int, num_lanes: int, num_batches: int
) -> Any:
    """A lazy Ray data set of the pairs that ``num_batches`` batches of all lanes hold.

    Args:
        folder: of the shards, which every node reaches.
        sampling: how pairs are drawn.
        seed: of every draw.
        num_lanes: pairs in a batch, over all workers.
        num_batches: how many batches; a few more are made, since a split drops the remainder.
    """
    import ray

    num_batches += 2 * SHUFFLED_BATCHES
    num_blocks = (num_batches + num_lanes - 2) // sampling.pairs_per_block + 1
    # Not ray.data.range: its tasks would want the one CPU that a small cluster has to spare.
    items = [{"id": number} for number in range(num_lanes * num_blocks)]
    rows = ray.data.from_items(items, override_num_blocks=min(len(items), MAX_TASKS))
    return rows.map_batches(
        EpisodeMaker,
        batch_size=1,
        fn_constructor_args=(folder, sampling, seed, num_lanes, num_batches),
        compute=ray.data.ActorPoolStrategy(min_size=1),
    )


def batches(shard: Any, num_pairs: int, *, seed: int) -> Generator[EpisodeBatch, None, None]:
    """Batch after batch, without end, from a worker's part of an `episode_dataset`.

    Args:
        shard: what ``ray.train.get_dataset_shard`` gives.
        num_pairs: this worker's share of a batch.
        seed: of the shuffling.
    """
    while True:
        for columns in shard.iter_batches(
            batch_size=num_pairs,
            drop_last=True,
            local_shuffle_buffer_size=SHUFFLED_BATCHES * num_pairs,
            local_shuffle_seed=seed,
        ):
            yield _to_batch(columns)


def _to_columns(batch: EpisodeBatch) -> dict[str, Any]:
    arrays = {name: getattr(batch, name) for name in _ARRAYS}
    origins = zip(*batch.origins, strict=True)
    return arrays | {
        name: np.array(column) for name, column in zip(PairOrigin._fields, origins, strict=True)
    }


def _to_batch(columns: dict[str, ndarray]) -> EpisodeBatch:
    # Arrow's memory is not to be written to, and PyTorch warns of tensors on it.
    arrays = (np.require(columns[name], requirements="W") for name in _ARRAYS)
    origins = zip(*(columns[name].tolist() for name in PairOrigin._fields), strict=True)
    return EpisodeBatch._make([*arrays, tuple(PairOrigin(*origin) for origin in origins)])


_ARRAYS = EpisodeBatch._fields[:-1]
