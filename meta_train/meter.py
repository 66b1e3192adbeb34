"""Throughput and memory of a training process."""

import resource
import sys
import time
from collections.abc import Iterator

import torch

from data_pipeline.episodes import EpisodeBatch


class Meter:
    """Pairs per second, the share of the time spent waiting for data, and the peak memory."""

    def __init__(self, batch_pairs: int, device: torch.device) -> None:
        self._batch_pairs = batch_pairs
        self._device = device
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
            "memory/peak_gib": peak_bytes(self._device) / 2**30,
        }
        self.restart()
        return metrics


def peak_bytes(device: torch.device) -> int:
    """The most that this process ever held: tensors on a GPU; on the CPU, everything resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
