"""Which pair is drawn: weights, splits, partners, distances."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.episodes import PairOrigin
from data_pipeline.sampling import (
    PAPER_WEIGHTS,
    PairShares,
    SamplingConfig,
    TrackTable,
    draw_partner,
    draw_second_frame,
    pair_origin,
    shares,
    split_of,
)
from data_pipeline.shards import INDEX_SCHEMA, ShardError, TrackChunk


def row(dataset: str, video: str, number: int, chunk: int = 0) -> dict[str, object]:
    return {
        "shard": f"{dataset}.parquet",
        "row_group": number,
        "row_in_group": 0,
        "dataset": dataset,
        "video": video,
        "target": "0",
        "chunk": chunk,
        "num_frames": 4,
        "is_still": False,
        "category": "",
    }


def index(*datasets: str, videos: int = 40) -> pa.Table:
    """For each dataset its videos, the first of them in many chunks."""
    rows = [row(name, f"v{i}", i) for name in datasets for i in range(videos)]
    rows += [row(name, "v0", videos + i, 1 + i) for name in datasets for i in range(50)]
    return pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)


def chunk(video: str, category: str = "", dataset: str = "d") -> TrackChunk:
    return TrackChunk(
        dataset=dataset,
        video=video,
        target="0",
        category=category,
        is_still=False,
        chunk=0,
        frame_numbers=np.array([0]),
        centred_images=(b"x",),
        centred_boxes=np.zeros((1, 4)),
        view_images=((),),
        view_boxes=np.zeros((1, 0, 4)),
    )


def drawn(table: TrackTable, count: int = 2000) -> list[tuple[str, int, int]]:
    rng = np.random.default_rng(0)
    return [table.draw(rng) for _ in range(count)]


def test_weights_are_renormalised_over_what_is_there() -> None:
    table = TrackTable(index("coco", "got10k"), "train", SamplingConfig())
    counts = Counter(shard for shard, _, _ in drawn(table))
    assert counts["coco.parquet"] / 2000 == pytest.approx(0.15 / 0.45, abs=0.03)


def test_an_unnamed_dataset_gets_the_mean_weight() -> None:
    table = TrackTable(index("got10k", "mine"), "train", SamplingConfig())
    mean = sum(PAPER_WEIGHTS.values()) / 4
    share = Counter(shard for shard, _, _ in drawn(table))["mine.parquet"] / 2000
    assert share == pytest.approx(mean / (mean + 0.30), abs=0.03)


def test_a_track_of_many_chunks_is_drawn_as_often_as_any_other() -> None:
    config = SamplingConfig(val_fraction=0.0)
    places = drawn(TrackTable(index("got10k"), "train", config), 4000)
    of_first = [group for _, group, _ in places if group == 0 or group >= 40]
    assert len(of_first) / 4000 == pytest.approx(1 / 40, abs=0.01)
    assert len(set(of_first)) > 25, "and its chunks evenly"


def of_kinds(dataset: str, kinds: dict[str, int]) -> list[dict[str, object]]:
    """So many videos of each category, and a second target in each third."""
    rows = []
    for category, videos in kinds.items():
        for video in range(videos):
            for target in range(1 + (video % 3 == 0)):
                entry = row(dataset, f"{category or 'none'}-{video}", len(rows))
                rows.append(entry | {"target": str(target), "category": category})
    return rows


def test_half_of_a_block_has_the_categories_of_the_other_half() -> None:
    rows = of_kinds("coco", {"cat": 30, "dog": 12, "emu": 1})
    rows += of_kinds("got10k", {"cat": 9, "": 6})
    by_place = {(f"{r['dataset']}.parquet", r["row_group"]): r for r in rows}
    table = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)
    tracks = TrackTable(table, "train", SamplingConfig(val_fraction=0.0))
    rng = np.random.default_rng(0)
    counts: Counter[tuple[object, object, object]] = Counter()
    for _ in range(3000):
        block = [by_place[shard, group] for shard, group, _ in tracks.draw_block(7, rng)]
        assert len(block) == 7
        for one, other in zip(block[:3], block[4:], strict=True):
            if one["category"] in ("cat", "dog"):
                assert (one["dataset"], one["category"]) == (other["dataset"], other["category"])
                assert one["video"] != other["video"]
        counts.update((r["dataset"], r["video"], r["target"]) for r in block)
    share = sum(n for (dataset, _, _), n in counts.items() if dataset == "coco") / counts.total()
    assert share == pytest.approx(0.15 / 0.45, abs=0.02), "datasets keep their weights"
    of_kind = [
        n for (dataset, video, _), n in counts.items() if dataset == "coco" and "emu" not in video
    ]
    usual = np.mean(of_kind)
    assert max(abs(n / usual - 1) for n in of_kind) < 0.3, "and tracks are as likely as any"


@pytest.mark.parametrize("category", ["", "synthetic"])
def test_with_one_category_or_none_a_block_is_drawn_row_by_row(category: str) -> None:
    rows = index("coco").to_pylist()
    table = pa.Table.from_pylist([r | {"category": category} for r in rows], schema=INDEX_SCHEMA)
    tracks = TrackTable(table, "train", SamplingConfig())
    block = tracks.draw_block(8, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    assert block == [tracks.draw(rng) for _ in range(8)]


def test_splits_are_disjoint_by_video_and_complete() -> None:
    table = index("coco", "got10k")
    config = SamplingConfig(val_fraction=0.3)
    train, val = (TrackTable(table, split, config) for split in ("train", "val"))
    assert not set(train.videos) & set(val.videos)
    assert len(train.videos) + len(val.videos) == 80
    assert 10 < len(val.videos) < 40
    allowed = {(name.split("/")[0] + ".parquet") for name in train.videos}
    groups = {int(v.split("/v")[1]) for v in train.videos if v.startswith("coco")}
    for shard, group, _ in drawn(train):
        assert shard in allowed
        if shard == "coco.parquet" and group < 40:
            assert group in groups


@given(name=st.text(max_size=20), fraction=st.floats(0.01, 0.98))
def test_a_larger_validation_split_contains_the_smaller(name: str, fraction: float) -> None:
    if split_of("d", name, fraction) == "val":
        assert split_of("d", name, fraction + 0.01) == "val"
    assert split_of("d", name, 0.0) == "train"


def test_an_empty_split_and_weightless_datasets_are_named() -> None:
    with pytest.raises(ShardError, match="'val' split holds no tracks"):
        TrackTable(index("coco"), "val", SamplingConfig(val_fraction=0.0))
    config = SamplingConfig(dataset_weights={"coco": 0.0, "lasot": 1.0})
    with pytest.raises(ShardError, match=r"\['coco'\].*none of them a weight"):
        TrackTable(index("coco"), "train", config)


BLOCK = [
    chunk("a", "fox"),
    chunk("a", "fox"),
    chunk("b", "fox"),
    chunk("c", "dog"),
    chunk("a", "owl", dataset="e"),
]


@pytest.mark.parametrize(
    ("same", "alike", "expected"),
    [(1.0, 0.0, {0}), (0.0, 1.0, {2}), (0.0, 0.0, {2, 3, 4}), (0.0, 0.5, {2, 3, 4})],
)
def test_partners_are_of_the_kind_and_negatives_of_another_video(
    same: float, alike: float, expected: set[int]
) -> None:
    shares = PairShares(same_target=same, same_category=alike)
    rng = np.random.default_rng(0)
    assert {draw_partner(BLOCK, 0, shares, rng) for _ in range(200)} == expected


def test_shares_of_pair_kinds_come_true() -> None:
    shares = PairShares(same_target=0.6, same_category=0.2)
    rng = np.random.default_rng(0)
    counts = Counter(draw_partner(BLOCK, 0, shares, rng) for _ in range(4000))
    assert counts[0] / 4000 == pytest.approx(0.6, abs=0.03)
    assert counts[2] / 4000 == pytest.approx(0.2 + 0.2 / 3, abs=0.03)


def test_a_category_without_a_name_is_no_category() -> None:
    block = [chunk("a"), chunk("b"), chunk("c", "fox")]
    shares = PairShares(same_target=0.0, same_category=1.0)
    rng = np.random.default_rng(0)
    assert {draw_partner(block, 0, shares, rng) for _ in range(100)} == {1, 2}


def test_a_block_of_one_video_gives_pairs_of_one_target() -> None:
    shares = PairShares(same_target=0.0, same_category=0.0)
    assert draw_partner(BLOCK[:2], 1, shares, np.random.default_rng(0)) == 1


def test_second_frame_is_another_one_within_the_distance() -> None:
    numbers = np.array([0, 10, 200, 201, 500])
    rng = np.random.default_rng(0)
    assert {draw_second_frame(numbers, 0, 200, rng) for _ in range(100)} == {1, 2}
    assert {draw_second_frame(numbers, 3, 200, rng) for _ in range(100)} == {1, 2}
    assert draw_second_frame(numbers, 4, 200, rng) == 4, "nothing is near enough"
    assert draw_second_frame(np.array([7]), 0, 200, rng) == 0, "a still pairs with itself"


@pytest.mark.parametrize(
    ("other", "kind"),
    [(0, "same_target"), (2, "same_category"), (3, "any_other"), (4, "any_other")],
)
def test_a_pair_knows_where_it_comes_from(other: int, kind: str) -> None:
    expected = PairOrigin("d", kind, False, 0 if other == 0 else -1)
    assert pair_origin(BLOCK, (0, other), (0, 0)) == expected


def test_shares_of_what_was_drawn() -> None:
    drawn = Counter(
        {
            PairOrigin("coco", "same_target", True, 0): 2,
            PairOrigin("lasot", "same_target", False, 10): 3,
            PairOrigin("lasot", "same_target", False, 11): 1,
            PairOrigin("lasot", "any_other", False, -1): 4,
        }
    )
    found = shares(drawn)
    assert found["sampling/dataset_coco"] == 0.2 and found["sampling/dataset_lasot"] == 0.8
    assert found["sampling/same_target"] == 0.6 and found["sampling/same_category"] == 0
    assert found["sampling/without_target"] == found["sampling/any_other"] == pytest.approx(0.4)
    apart = {name: share for name, share in found.items() if "frames_apart" in name}
    assert apart.pop("sampling/frames_apart_001_to_010") == 0.75, "stills do not count"
    assert apart.pop("sampling/frames_apart_011_to_050") == 0.25
    assert len(apart) == 3 and not any(apart.values())
    far = shares(Counter([PairOrigin("lasot", "same_target", False, 201)]))
    assert far["sampling/frames_apart_above_200"] == 1
    assert shares(Counter()) == {}


def test_configs_refuse() -> None:
    for same, alike in ((-0.1, 0.5), (0.7, 0.4)):
        with pytest.raises(ValueError, match="shares of pair kinds"):
            PairShares(same_target=same, same_category=alike)
    with pytest.raises(ValueError, match="weights must not be negative"):
        SamplingConfig(dataset_weights={"coco": -1.0})
    with pytest.raises(ValueError, match="val_fraction"):
        SamplingConfig(val_fraction=1.0)
    with pytest.raises(ValueError, match="rows_per_block must be at least 1, got 0"):
        SamplingConfig(rows_per_block=0)
