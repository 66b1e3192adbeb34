"""The same work on item after item, launched as a whole: captured as a CUDA graph and replayed.

A pair's inner loop is hundreds of small kernels, which a GPU finishes faster than Python launches
them. A graph of them is launched at once. It reads and writes fixed memory, so each item's values
are copied in before a replay, and what belongs to the item is copied out after it.

Graphs stay for later calls: they belong to the work and to the sizes that it was captured with. All
numbers that change between calls (weights, rates, gammas) are copied in too.
"""

import logging
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

logger = logging.getLogger(__name__)

_MOST_CAPTURED = 4
"""Kinds of work whose graphs are kept: a run needs two, first order and second."""

NUM_LANES = 8
"""Items that are under way at one time, each on a stream of its own. On an H200, a step of 32 pairs
in bf16-all took 62 ms with four lanes and 53 with eight (second order: 128, 106)."""


class Found(NamedTuple):
    """What work on one item gives: two trees of tensors that it owns."""

    sums: Any
    """Adds up over the items."""

    rows: Any
    """Belongs to the item; over several items, stacked."""


Work = Callable[[Any, Any], Found]
"""From what all items share and from one item, both trees of tensors (and of numbers, in what is
shared). It is equal to other work, and hashes alike, only where it does the same."""


@runtime_checkable
class Lane(Protocol):
    """Where graphs are recorded and replayed, one at a time."""

    def active(self) -> AbstractContextManager[Any]:
        """A block whose work follows all that this lane was given before."""

    def begin(self) -> None:
        """Lets the lane wait for what its caller has launched so far."""

    def end(self) -> None:
        """Lets the caller's later work wait for the lane."""

    def record(self, once: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
        """What repeats ``once`` on the memory as it then is, and where its results will lie."""


def in_turn(work: Work, common: Any, items: Sequence[Any]) -> Found:
    """Sums over all items, and their rows stacked: item after item, operation by operation."""
    found = work(common, items[0])
    sums, as_sums = tree_flatten(found.sums)
    first, as_rows = tree_flatten(found.rows)
    rows = [_stack_of(each, len(items)) for each in first]
    for i, item in enumerate(items):
        if i:
            found = work(common, item)
            torch._foreach_add_(sums, tree_flatten(found.sums)[0])
        for row, each in zip(rows, tree_flatten(found.rows)[0], strict=True):
            row[i].copy_(each)
    return Found(tree_unflatten(sums, as_sums), tree_unflatten(rows, as_rows))


class Graphs:
    """The graphs of a process."""

    def __init__(self, open_lane: Callable[[torch.device], Lane], num_lanes: int) -> None:
        self.num_lanes = num_lanes
        self._open_lane = open_lane
        self._lanes: defaultdict[torch.device, list[Lane]] = defaultdict(list)
        self._captured: OrderedDict[Hashable, list[_Captured]] = OrderedDict()
        self._refused: set[Hashable] = set()

    def replayed(self, work: Work, common: Any, items: Sequence[Any]) -> Found:
        """What `in_turn` gives; each item is one replay of a graph.

        Lanes take the items by turns and add up their own; then the lanes' sums are added, in
        order. So the last bits depend on the number of lanes, and never on which is faster.

        Work that cannot be captured (it waits for the device, or copies to it) is done in turn,
        after one warning that says why.
        """
        shared, as_shared = tree_flatten(common)
        weight = next(filter(torch.is_tensor, shared))
        shared = [x if torch.is_tensor(x) else weight.new_full((), x) for x in shared]
        given, as_item = tree_flatten(items[0])
        sizes = tuple((x.shape, x.dtype, x.requires_grad) for x in (*shared, *given))
        key = work, weight.device, repr((as_shared, as_item)), sizes, _arithmetic(weight.device)
        if key in self._refused:
            return in_turn(work, common, items)

        def capture(lane: Lane) -> _Captured:
            return _Captured(work, (shared, as_shared), items[0], lane)

        try:
            graphs = self._graphs(key, capture, weight.device, min(self.num_lanes, len(items)))
        except Exception as error:
            self._refused.add(key)
            self._captured.pop(key)
            logger.warning(
                "CUDA graphs are not used for %s, whose operations are launched one by one instead:"
                " they could not be captured. Where memory is short, use fewer pairs_at_once (%s)",
                work,
                _first_cause(error),
            )
            logger.debug("the capture that failed", exc_info=True)
            return in_turn(work, common, items)
        with torch.no_grad():
            return _over_items(graphs, shared, items)

    def _graphs(
        self,
        key: Hashable,
        capture: "Callable[[Lane], _Captured]",
        device: torch.device,
        needed: int,
    ) -> "list[_Captured]":
        """One for each lane that is needed."""
        graphs, lanes = self._captured.setdefault(key, []), self._lanes[device]
        self._captured.move_to_end(key)
        lanes += [self._open_lane(device) for _ in range(len(lanes), needed)]
        graphs += [capture(lane) for lane in lanes[len(graphs) : needed]]
        while len(self._captured) > _MOST_CAPTURED:  # after a capture: that waits for the device
            self._captured.popitem(last=False)
        return graphs[:needed]


def _over_items(graphs: "list[_Captured]", shared: list[Tensor], items: Sequence[Any]) -> Found:
    """Each lane's graph takes the items by turns."""
    first = graphs[0]
    rows = [_stack_of(each, len(items)) for each in first.rows]
    for graph in graphs:
        graph.begin(shared)
    for i, item in enumerate(items):
        graphs[i % len(graphs)].run(tree_flatten(item)[0], [row[i] for row in rows])
    for graph in graphs:
        graph.lane.end()
    sums = [each.clone() for each in first.sums]
    for graph in graphs[1:]:
        torch._foreach_add_(sums, graph.sums)
    return Found(tree_unflatten(sums, first.as_sums), tree_unflatten(rows, first.as_rows))


class _Captured:
    """One graph with the memory that it reads and writes. Once captured, that is touched on the
    lane alone, and by the caller only between `Lane.end` and the next `Lane.begin`.
    """

    def __init__(self, work: Work, common: tuple[list[Tensor], Any], item: Any, lane: Lane) -> None:
        self.lane = lane
        self._work = work
        shared, self._as_shared = common
        given, self._as_item = tree_flatten(item)
        self._wants = [each.requires_grad for each in given]
        self._shared = [each.detach().clone() for each in shared]
        self._given = [each.detach().clone() for each in given]
        self.sums: list[Tensor] = []
        self.as_sums: Any = None
        self.as_rows: Any = None
        self._replay, self.rows = lane.record(self._once)

    def begin(self, shared: list[Tensor]) -> None:
        """Takes over what all items share; the sums start anew."""
        self.lane.begin()
        with self.lane.active():
            torch._foreach_copy_(self._shared, shared)
            torch._foreach_zero_(self.sums)

    def run(self, given: list[Tensor], into: list[Tensor]) -> None:
        """One item's work; its rows go where they are wanted."""
        with self.lane.active():
            torch._foreach_copy_(self._given, given)
            self._replay()
            torch._foreach_copy_(into, self.rows)

    def _once(self) -> list[Tensor]:
        """Adds to the sums, and gives the rows.

        Leaves of autograd are made in here: else it would wait for the stream that made them.
        """
        leaves = [
            each.detach().requires_grad_(wants)
            for each, wants in zip(self._given, self._wants, strict=True)
        ]
        common = tree_unflatten(self._shared, self._as_shared)
        found = self._work(common, tree_unflatten(leaves, self._as_item))
        sums, self.as_sums = tree_flatten(found.sums)
        rows, self.as_rows = tree_flatten(found.rows)
        self.sums = self.sums or [torch.zeros_like(each) for each in sums]
        torch._foreach_add_(self.sums, sums)
        return rows


class CudaLane:
    """A stream of its own, and the memory of the graphs that are recorded and replayed on it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def active(self) -> AbstractContextManager[Any]:
        """Work of the block goes to the stream."""
        return torch.cuda.stream(self._stream)

    def begin(self) -> None:
        """The stream waits for the caller's."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def end(self) -> None:
        """The caller's stream waits for this one."""
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def record(self, once: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
        """A graph of ``once``, captured after two runs on the same stream: the first loads kernels
        and plans, the second shows whether anything waits for the device. That would break a
        capture, and with it the allocator's books.

        Other threads may use the device meanwhile, but must not wait for it in the second run.
        """
        graph = torch.cuda.CUDAGraph()
        self.begin()
        try:
            with self.active():  # gives the caller's stream back, however the capture ends
                once()
                with _waiting_forbidden():
                    once()
                with torch.cuda.graph(
                    graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                ):
                    rows = once()
        finally:
            self.end()
        return graph.replay, rows


@contextmanager
def _waiting_forbidden() -> Iterator[None]:
    """What makes the host wait for the device raises."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it does not see all that waits
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _arithmetic(device: torch.device) -> tuple[Any, ...]:
    """The settings by which kernels are chosen."""
    rounds = torch.is_autocast_enabled(device.type)
    cudnn = torch.backends.cudnn
    return (
        torch.get_autocast_dtype(device.type) if rounds else None,
        (cudnn.enabled, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic),
        torch.are_deterministic_algorithms_enabled(),
    )


def _stack_of(each: Tensor, count: int) -> Tensor:
    """Room for so many of a tensor, each in its memory layout."""
    strides = torch.empty_like(each).stride()
    return each.new_empty_strided((count, *each.shape), (each.numel(), *strides))


def _first_cause(error: BaseException) -> str:
    """What went wrong first: a capture that is broken off fails once more when it ends."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


GRAPHS = Graphs(CudaLane, NUM_LANES)
"""This process's."""
