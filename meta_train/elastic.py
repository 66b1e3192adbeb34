"""Elastic training: as many workers as the cluster has room for, of the numbers that fit the batch.

Ray Train would use any number between the least and the most. Each worker's share of a batch must
be the same, so only divisors of the batch are used; more room than that stays free.
"""

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy


def most_workers(batch_pairs: int, room: int) -> int:
    """The largest number of workers that divides a batch and for which there is room.

    >>> [most_workers(32, room) for room in range(10)]
    [0, 1, 2, 2, 4, 4, 4, 4, 8, 8]
    """
    return max((count for count in range(1, room + 1) if batch_pairs % count == 0), default=0)


class _DivisorPolicy(ElasticScalingPolicy):  # type: ignore[misc]
    """Ray Train's policy, rounded down to a divisor of the batch."""

    def __init__(self, scaling_config: Any, batch_pairs: int) -> None:
        super().__init__(scaling_config)
        self._batch_pairs = batch_pairs

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        room = super()._count_possible_workers(reserved_resources)
        return most_workers(self._batch_pairs, room)


class ElasticTrainer(TorchTrainer):  # type: ignore[misc]
    """Ray's trainer, whose workers' number divides the batch."""

    def __init__(self, *arguments: Any, batch_pairs: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._batch_pairs = batch_pairs

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        policy = _DivisorPolicy(self.scaling_config, self._batch_pairs)
        return super()._initialize_and_run_controller(**options | {"scaling_policy": policy})
