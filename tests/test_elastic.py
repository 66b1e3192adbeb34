"""Elastic training takes only as many workers as divide the batch."""

import pytest
from ray.train import ScalingConfig

from meta_train.elastic import _DivisorPolicy, most_workers


@pytest.mark.parametrize("batch_pairs", [1, 12, 32])
def test_the_number_of_workers_divides_the_batch_and_fits(batch_pairs: int) -> None:
    assert most_workers(batch_pairs, 0) == 0
    for room in range(1, 40):
        count = most_workers(batch_pairs, room)
        assert 1 <= count <= room and batch_pairs % count == 0
        assert not any(batch_pairs % more == 0 for more in range(count + 1, room + 1))


def test_rays_policy_is_rounded_down() -> None:
    policy = _DivisorPolicy(ScalingConfig(num_workers=(1, 6)), batch_pairs=8)
    reserved = [{"a": {"CPU": float(count)}} for count in (0, 1, 3, 5, 9)]
    assert [policy._count_possible_workers(each) for each in reserved] == [0, 1, 2, 4, 4]
