"""`eval_jobs.support_set`: what stays and what goes."""

import pytest
import torch
from torch import Tensor

from eval_jobs.support_set import SupportSet


def sample(value: float, count: int = 1) -> tuple[dict[str, Tensor], Tensor]:
    """Features and boxes that carry their number."""
    features = {branch: torch.full((count, 2, 33, 33), value) for branch in ("cls", "reg")}
    return features, torch.full((count, 4), value)


def held(support: SupportSet) -> list[float]:
    """The numbers of the samples that are held; features and boxes must agree."""
    features, boxes = support.samples(("cls", "reg"))
    assert set(features) == {"cls", "reg"}
    for value in features.values():
        assert torch.equal(value[:, 0, 0, 0], boxes[:, 0])
    return sorted(boxes[:, 0].tolist())


def full_set(num_added: int, max_samples: int = 6) -> SupportSet:
    support = SupportSet(*sample(0.0, 3), max_samples=max_samples)
    for number in range(1, num_added + 1):
        support.add(*sample(float(number)))
    return support


def test_first_samples_stay_and_the_oldest_others_leave() -> None:
    assert held(full_set(2)) == [0, 0, 0, 1, 2]
    assert held(full_set(4)) == [0, 0, 0, 2, 3, 4]
    assert held(full_set(11)) == [0, 0, 0, 9, 10, 11]


def test_paper_s_thirty_samples() -> None:
    support = full_set(100, max_samples=30)
    assert len(support) == 30
    assert held(support) == [0] * 3 + list(range(74, 101))


def test_a_set_with_room_for_the_first_samples_only_never_changes() -> None:
    assert held(full_set(5, max_samples=3)) == [0, 0, 0]


def test_one_branch_can_be_taken_alone() -> None:
    features, boxes = full_set(1).samples(("cls",))
    assert list(features) == ["cls"]
    assert len(features["cls"]) == len(boxes) == 4


def test_added_sample_is_copied() -> None:
    support = full_set(0)
    features, box = sample(1.0)
    support.add(features, box)
    features["cls"].zero_()
    box.zero_()
    assert held(support) == [0, 0, 0, 1]


def test_too_small_a_set_is_refused() -> None:
    with pytest.raises(ValueError, match="max_samples must be at least 3"):
        SupportSet(*sample(0.0, 3), max_samples=2)
