"""Throughput of a training process."""

import time
from collections.abc import Iterator

from data_pipeline.episodes import EpisodeBatch


class Meter:
    """Pairs per second, and the share of the time that was spent waiting for data."""

    def __init__(self, batch_pairs: int) -> None:
        self._batch_pairs = batch_pairs
        self.restart()

    def restart(self) -> None:
        """Forgets what was measured."""
        self._started, self._waited, self._batches = time.perf_counter(), 0.0, 0

    def waiting(self, source: Iterator[EpisodeBatch]) -> EpisodeBatch:
        """The next batch, timed."""
        before = time.perf_counter()
        batch = next(source)
        self._waited += time.perf_counter() - before
        self._batches += 1
        return batch

    def read(self) -> dict[str, float]:
        """What was measured since the last reading."""
        elapsed = max(time.perf_counter() - self._started, 1e-9)
        metrics = {
            "speed/pairs_per_second": self._batches * self._batch_pairs / elapsed,
            "speed/data_wait_share": self._waited / elapsed,
        }
        self.restart()
        return metrics
