"""No benchmark sequence is trained on."""

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.readers.synthetic import video_seeds
from data_pipeline.synthetic_scenes import SyntheticConfig
from data_pipeline.tracks import Track
from eval_jobs.benchmarks import Selection, find_benchmark
from eval_jobs.held_out import ContaminatedTrainingError, require_disjoint
from eval_jobs.otb_sequences import OTB100
from eval_jobs.presets import PRESETS


def selection(names: list[str]) -> Selection:
    """OTB sequences of these names, without images."""
    tracks = tuple(
        Track(
            dataset="otb",
            video=name,
            image_files=(Path("0001.jpg"),),
            boxes=np.array([[0.0, 0.0, 10.0, 10.0]]),
            visible=np.array([True]),
            frame_numbers=np.array([0]),
        )
        for name in names
    )
    return Selection(benchmark=find_benchmark("otb100"), tracks=tracks, num_expected=100)


@pytest.mark.parametrize("video", ["Car4", "car_4", "OTB_Car4", "CAR4"])
def test_a_copy_of_a_sequence_is_refused_by_name(video: str) -> None:
    with pytest.raises(ContaminatedTrainingError, match=video):
        require_disjoint(["GOT-10k_Train_000001", video], selection(["Car4", "Dog1"]))


def test_official_training_names_are_no_otb_sequences() -> None:
    """GOT-10k's, COCO's and LaSOT's naming, and a pool of DAVIS, UAV123 and TLP videos."""
    training = [f"GOT-10k_Train_{number:06d}" for number in range(1, 9336)]
    training += [f"{number:012d}" for number in (9, 25, 30)]
    training += ["car-4", "bird-1", "dog-1", "bolt-2"]
    training += ["DAVIS_car_shadow", "DAVIS_dog", "UAV_truck4_2", "UAV_boat1", "TLP_Bike"]
    names = [name.partition(".")[0] for name in OTB100]
    require_disjoint(training, selection(names))


def test_synthetic_training_and_evaluation_videos_differ() -> None:
    config = PRESETS["quickstart"][1].synthetic
    assert isinstance(config, SyntheticConfig)
    train, val = (set(video_seeds(config, split)) for split in ("train", "val"))
    assert len(train) == config.num_train_videos
    assert not train & val
