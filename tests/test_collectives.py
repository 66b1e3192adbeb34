"""What two processes tell each other, over gloo."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from meta_train.collectives import broadcast_from_first, require_equal, sum_over_workers


def two_workers(rank: int, rendezvous: str, results: Any) -> None:
    """What each of two processes finds."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    mine = [torch.full((2, 3), 1.0 + rank), torch.tensor(10.0 * (rank + 1)), torch.arange(4.0)]
    weights = {"a": torch.full((2,), float(rank)), "b": torch.full((1, 1), 5.0 + rank)}
    first = broadcast_from_first(weights)
    require_equal(first, 3)
    try:
        require_equal(weights, 7)
        drift = "not noticed"
    except RuntimeError as error:
        drift = str(error)
    sums = [tensor.tolist() for tensor in sum_over_workers(mine)]
    results.put((rank, sums, {name: t.tolist() for name, t in first.items()}, drift))
    dist.destroy_process_group()


def test_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])  # where the processes find this module
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    arguments = f"file://{tmp_path}/rendezvous", results
    workers = [context.Process(target=two_workers, args=(r, *arguments)) for r in range(2)]
    for worker in workers:
        worker.start()
    found = sorted(results.get(timeout=100) for _ in workers)
    for worker in workers:
        worker.join(timeout=30)
    assert [worker.exitcode for worker in workers] == [0, 0]
    for rank, (number, sums, first, drift) in enumerate(found):
        assert number == rank
        assert sums == [[[3.0] * 3] * 2, 30.0, [0.0, 2.0, 4.0, 6.0]]
        assert first == {"a": [0.0, 0.0], "b": [[5.0]]}
        assert "differ after outer step 7" in drift


def test_one_process_needs_no_group() -> None:
    tensors = [torch.ones(2)]
    assert sum_over_workers(tensors)[0] is tensors[0]
    weights = {"a": torch.ones(1)}
    assert broadcast_from_first(weights) is weights
    require_equal(weights, 0)


@pytest.mark.parametrize("count", [1, 3])
def test_sums_keep_their_order_and_shapes(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, with an all-reduce that doubles: no second process."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda flat: flat.mul_(2))
    tensors = [torch.rand(size, 2) for size in range(count)]
    for one, other in zip(sum_over_workers(tensors), tensors, strict=True):
        assert torch.equal(one, 2 * other)
