"""`eval_jobs.attributes`: OTB's attributes, and scores over the sequences that share one."""

from collections import Counter
from pathlib import Path

import numpy as np

from data_pipeline.tracks import Track
from eval_jobs.attributes import CHALLENGES, OTB_ATTRIBUTES, attribute_scores, attributes_of
from eval_jobs.benchmarks import Selection, find_benchmark
from eval_jobs.metrics import AUC, mean_curves
from eval_jobs.otb_sequences import OTB100
from eval_jobs.protocols import Trajectory
from eval_jobs.scores import score_tracker

BOX = np.array([10.0, 10.0, 30.0, 30.0])


def track(video: str, *, target: str = "0", dataset: str = "otb", **other: object) -> Track:
    return Track(
        dataset=dataset,
        video=video,
        target=target,
        image_files=tuple(Path(f"{frame}.jpg") for frame in range(4)),
        boxes=np.tile(BOX, (4, 1)),
        visible=np.ones(4, dtype=bool),
        frame_numbers=np.arange(4),
        **other,  # type: ignore[arg-type]
    )


def test_every_sequence_of_otb_has_its_attributes() -> None:
    assert set(OTB_ATTRIBUTES) == {name.casefold() for name in OTB100}
    for name, tags in OTB_ATTRIBUTES.items():
        assert tags, name
        assert len(set(tags)) == len(tags), name
        assert set(tags) <= set(CHALLENGES), name


def test_as_many_sequences_as_in_the_authors_list() -> None:
    # Counted in the toolkit's own list, by another program.
    assert Counter(tag for tags in OTB_ATTRIBUTES.values() for tag in tags) == {
        "IV": 38,
        "SV": 65,
        "OCC": 49,
        "DEF": 44,
        "MB": 31,
        "FM": 43,
        "IPR": 51,
        "OPR": 64,
        "OV": 14,
        "BC": 32,
        "LR": 10,
    }


def test_attributes_of_a_track() -> None:
    assert attributes_of(track("Deer")) == ("MB", "FM", "IPR", "BC", "LR")
    assert attributes_of(track("deer")) == attributes_of(track("Deer"))
    assert attributes_of(track("Jogging", target="2")) == ("OCC", "DEF", "OPR")
    assert attributes_of(track("Human4", target="2")) == ("IV", "SV", "OCC", "DEF")
    assert attributes_of(track("my_own")) == ()
    assert attributes_of(track("Deer", dataset="got10k")) == ()
    assert attributes_of(track("ants1", dataset="vot", attributes=("camera_motion",))) == (
        "camera_motion",
    )


def test_an_attribute_s_score_is_the_mean_over_its_sequences() -> None:
    tracks = (track("Deer"), track("Fish"), track("Jumping"))
    selection = Selection(benchmark=find_benchmark("otb100"), tracks=tracks, num_expected=100)
    trajectories = [
        Trajectory(
            boxes=np.tile(BOX + shift, (4, 1)),
            scores=np.ones(4),
            lost=np.zeros(4, dtype=bool),
            seconds=np.ones(4),
        )
        for shift in (0.0, 3.0, 9.0)
    ]
    score = score_tracker("ours", "abc", selection, trajectories)
    found = {each.attribute: each for each in attribute_scores(score)}
    assert list(found) == ["IV", "MB", "FM", "IPR", "BC", "LR"]  # OTB's order
    assert found["FM"].num_sequences == 2
    deer, _, jumping = (each.curves for each in score.sequences)
    assert found["FM"].values["auc"] == AUC.read(mean_curves([deer, jumping]))
    assert found["LR"].values["auc"] == AUC.read(deer)
