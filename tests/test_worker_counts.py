"""A run goes on alike on another number of workers, as long as it divides the batch."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_pipeline.episodes import PairOrigin
from data_pipeline.stream import EpisodeStream, batches
from meta_train import validation, worker
from meta_train.checkpoint import load
from meta_train.train_config import TrainConfig
from meta_train.worker import Rim, train


class InThreads:
    """Workers that are threads of this process, and what they add up."""

    def __init__(self, count: int) -> None:
        self._barrier = threading.Barrier(count, timeout=60)
        self._given: dict[int, list[torch.Tensor]] = {}
        self._ranks: dict[int, int] = {}

    def sums(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """As `collectives.sum_over_workers`, in the order of the ranks."""
        self._given[self._ranks[threading.get_ident()]] = tensors
        self._barrier.wait()
        in_order = [self._given[rank] for rank in sorted(self._given)]
        total = [sum(each[1:], each[0]) for each in zip(*in_order, strict=True)]
        self._barrier.wait()
        return total

    def run(self, go: Callable[[int], object]) -> None:
        """Runs a function of the rank in each thread, to the end."""

        def work(rank: int) -> None:
            self._ranks[threading.get_ident()] = rank
            go(rank)

        with ThreadPoolExecutor(self._barrier.parties) as pool:
            list(pool.map(work, range(self._barrier.parties)))


def test_the_same_pairs_and_weights_come_on_one_worker_and_on_two(
    tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker to step 2, two to step 4, one to the end. One pair at a time, so bit for bit."""
    torch.set_num_threads(1)
    outer = replace(tiny_config.outer_loop, batch_pairs=4, pairs_at_once=1)
    config = replace(tiny_config, outer_loop=outer)
    drawn: dict[str, set[tuple[int, int, PairOrigin]]] = {}

    def rim(name: str, rank: int = 0, world_size: int = 1) -> Rim:
        seen = drawn.setdefault(name, set())

        def watched(stream: EpisodeStream, lanes: range, start: int):
            for count, batch in enumerate(batches(stream, lanes, start=start), start):
                seen.update(zip(lanes, [count] * len(lanes), batch.origins, strict=True))
                yield batch

        return Rim(
            rank=rank, world_size=world_size, scratch=tmp_path / f"{name}{rank}", batches=watched
        )

    train(config, rim("whole"))
    both = InThreads(2)
    with monkeypatch.context() as patched:
        for module in (worker, validation):
            patched.setattr(module, "sum_over_workers", both.sums)
        resume = tmp_path / "whole0" / "step-00000002"
        both.run(lambda rank: train(config, rim("two", rank, 2), resume=resume))
    train(config, rim("one"), resume=tmp_path / "two0" / "step-00000004")

    assert len(drawn["whole"]) == 24
    assert drawn["two"] == {pair for pair in drawn["whole"] if pair[1] >= 2}
    assert drawn["one"] == {pair for pair in drawn["whole"] if pair[1] >= 4}
    expected = load(tmp_path / "whole0" / "step-00000006")
    for name in ("two0", "one0"):
        found = load(tmp_path / name / "step-00000006")
        for mine, its in ((found.weights, expected.weights), (found.rates, expected.rates)):
            assert list(mine) == list(its)
            for key, tensor in its.items():
                assert torch.equal(mine[key], tensor), key


def test_a_batch_that_workers_cannot_share_is_refused(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="a batch of 2 pairs expected that 3 workers share"):
        train(tiny_config, Rim(scratch=tmp_path, world_size=3))
