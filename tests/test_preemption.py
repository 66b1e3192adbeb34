"""A machine's end is noticed, once, by processes that train."""

import os
import signal
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from meta_train import preemption
from meta_train.preemption import SigtermNotice, count_notices


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Signals that would have ended this process, which Ray's own handler stands for."""
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    monkeypatch.setattr(SigtermNotice, "num_received", 0)
    monkeypatch.setattr(preemption, "GRACE_SECONDS", 0.05)
    yield seen
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What Ray Train tells rank 1."""
    runner = SimpleNamespace(is_running=lambda: True)
    found = SimpleNamespace(
        execution_context=SimpleNamespace(training_thread_runner=runner),
        preemption_context=SimpleNamespace(preemption_info=None),
        get_world_rank=lambda: 1,
    )
    monkeypatch.setattr(preemption, "get_train_context", lambda: found)
    return found


def test_sigterm_is_a_notice_and_ends_the_process_later(
    ended: list[int], context: SimpleNamespace
) -> None:
    SigtermNotice().after_init_train_context()
    assert count_notices() == 0
    os.kill(os.getpid(), signal.SIGTERM)
    assert count_notices() == 1 and ended == []
    deadline = time.monotonic() + 10.0
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
    assert count_notices() == 1 and ended == [signal.SIGTERM]


def test_a_process_that_does_not_train_ends_at_once(
    ended: list[int], context: SimpleNamespace
) -> None:
    context.execution_context.training_thread_runner.is_running = lambda: False
    SigtermNotice().after_init_train_context()
    os.kill(os.getpid(), signal.SIGTERM)
    assert count_notices() == 0 and ended == [signal.SIGTERM]


def test_rays_notice_counts_where_it_is_about_this_worker(context: SimpleNamespace) -> None:
    for ranks, expected in (([0], 0), ([0, 1], 1)):
        context.preemption_context.preemption_info = SimpleNamespace(preempted_ranks=ranks)
        assert count_notices() == expected
