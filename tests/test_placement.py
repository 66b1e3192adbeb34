"""Requests that a cluster can never meet are refused; what its autoscaler may add counts."""

from pathlib import Path

import pytest

from meta_train import placement
from meta_train.placement import (
    _nodes_to_come,
    require_room,
    require_spare_cpu,
    runs_that_fit,
)
from meta_train.train_config import ScalingConfig


def test_runs_are_placed_as_the_cluster_can_hold_them() -> None:
    laptop = [{"CPU": 2.0, "tune_driver": 64.0}]
    assert runs_that_fit(laptop, ScalingConfig(cpus_per_worker=1)) == 2
    assert runs_that_fit(laptop, ScalingConfig(cpus_per_worker=2)) == 1
    assert runs_that_fit(laptop, ScalingConfig(num_workers=2, cpus_per_worker=2)) == 0
    cluster = [{"CPU": 0.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 3.0}]
    assert runs_that_fit(cluster, ScalingConfig(cpus_per_worker=2)) == 8
    assert runs_that_fit(cluster, ScalingConfig(cpus_per_worker=2, use_gpu=True)) == 4
    assert runs_that_fit(cluster, ScalingConfig(num_workers=2, use_gpu=True)) == 2


def test_what_never_fits_is_refused_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "cluster_nodes", lambda *_: [{"CPU": 2.0}, {"CPU": 2.0}])
    require_room(ScalingConfig(num_workers=2, cpus_per_worker=2))
    with pytest.raises(ValueError, match=r"1 workers with 4 CPUs each.*2 CPUs, 0 GPUs; 2 CPUs"):
        require_room(ScalingConfig(cpus_per_worker=4))  # a worker stays on one node
    require_room(ScalingConfig(num_workers=8, min_workers=2, cpus_per_worker=2))
    with pytest.raises(ValueError, match="on 4 workers"):
        require_room(ScalingConfig(num_workers=8, min_workers=4, cpus_per_worker=2))
    with pytest.raises(ValueError, match="and a GPU each"):
        require_room(ScalingConfig(use_gpu=True))


def test_ray_data_needs_a_cpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "cluster_nodes", lambda *_: [{"CPU": 2.0}, {"CPU": 1.0}])
    require_spare_cpu(ScalingConfig(num_workers=1, cpus_per_worker=2))
    with pytest.raises(ValueError, match=r"a CPU beside the 3 of the run's workers.*has 3 in all"):
        require_spare_cpu(ScalingConfig(num_workers=3, cpus_per_worker=1))


def test_nodes_that_an_autoscaler_may_add_count(tmp_path: Path) -> None:
    file = tmp_path / "bootstrap.yaml"
    usual, on_gpus = ScalingConfig(), ScalingConfig(use_gpu=True)
    assert _nodes_to_come(file, 1, usual) == []
    file.write_text(
        "max_workers: 3\nhead_node_type: head\navailable_node_types:\n"
        "  head: {resources: {CPU: 0}}\n"
        "  cpu: {max_workers: 8, resources: {CPU: 16}}\n"
        "  gpu: {max_workers: 2, resources: {CPU: 8, GPU: 1}}\n"
    )
    assert _nodes_to_come(file, 1, usual) == [{"CPU": 16.0}] * 3, "no more than the cluster's limit"
    found = _nodes_to_come(file, 1, on_gpus)
    assert found == [{"CPU": 8.0, "GPU": 1.0}] * 2 + [{"CPU": 16.0}]
    assert runs_that_fit(found, on_gpus) == 2
    assert _nodes_to_come(file, 4, usual) == []
