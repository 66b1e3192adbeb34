"""Which pair is drawn next: datasets by weight, tracks evenly, pair kinds by share."""

import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
from numpy import ndarray

from data_pipeline.episodes import AugmentationConfig, PairKind, PairOrigin
from data_pipeline.shards import ShardError, TrackChunk

Split = Literal["train", "val"]

PAPER_WEIGHTS = {"coco": 0.15, "got10k": 0.30, "lasot": 0.30, "trackingnet": 0.25}
"""Not in the paper: PySiamTracking's shares of 320,000 pairs an epoch."""

SAMPLING_VERSION = 2
"""Rises whenever the same shards and settings would give other pairs."""

_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")

DISTANCE_BINS = ((0, 0), (1, 10), (11, 50), (51, 100), (101, 200))
"""Least and most frames of each bar of the histogram that `shares` gives."""


@dataclass(frozen=True, kw_only=True)
class PairShares:
    """How often the two images of a pair show the same target, or only the same kind of thing.

    "These two images may come from either the same sequence or different sequences" (Sec. 3); a
    pair of different targets has an all-background query. Not in the paper: the shares.
    """

    same_target: float
    """Share of pairs of one target."""

    same_category: float
    """Share of pairs of two targets of one category (of any, where a block holds no such other)."""

    def __post_init__(self) -> None:
        if min(self.same_target, self.same_category, self.any_other) < -1e-9:
            raise ValueError(
                "shares of pair kinds must not be negative nor add up to more than 1, got "
                f"same_target={self.same_target}, same_category={self.same_category}"
            )

    @property
    def any_other(self) -> float:
        """Share of pairs of any two targets: the rest."""
        return 1 - self.same_target - self.same_category


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How pairs are drawn from a folder of shards."""

    dataset_weights: Mapping[str, float] = field(default_factory=lambda: dict(PAPER_WEIGHTS))
    """How often a pair starts in each dataset; renormalised over those that the shards hold. A
    dataset that is not named here gets the mean of the others."""

    video_pairs: PairShares = PairShares(same_target=0.90, same_category=0.05)
    """Pair kinds where the first image is a frame of a video."""

    still_pairs: PairShares = PairShares(same_target=0.60, same_category=0.20)
    """Pair kinds where the first image is a still."""

    max_distance_frames: int = 200
    """Most original frames between the two images of a pair, which also lie in one chunk
    (``crops.frames_per_chunk``)."""

    val_fraction: float = 0.1
    """Share of the videos, chosen by a hash of their names, that is kept for validation."""

    rows_per_block: int = 8
    """Tracks that a lane holds at a time, and draws pairs and negatives from. Half of them are
    drawn to be of the other half's categories."""

    pairs_per_block: int = 32
    """Pairs that a lane draws before it turns to other tracks."""

    augmentation: AugmentationConfig = AugmentationConfig()
    """What is drawn anew at each loading."""

    def __post_init__(self) -> None:
        if any(not weight >= 0 for weight in self.dataset_weights.values()):
            raise ValueError(f"dataset weights must not be negative, got {self.dataset_weights}")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val_fraction must be in [0, 1), got {self.val_fraction}")
        for name in ("max_distance_frames", "rows_per_block", "pairs_per_block"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def split_of(dataset: str, video: str, val_fraction: float) -> Split:
    """The split that a video belongs to; all its tracks and chunks go together."""
    position = zlib.crc32(f"{dataset}/{video}".encode()) / 2**32
    return "val" if position < val_fraction else "train"


class TrackTable:
    """The rows of a folder of shards, arranged so that drawing one takes no search.

    Holds a few numbers per row, since a large dataset has a million of them.
    """

    def __init__(self, index: pa.Table, split: Split, config: SamplingConfig) -> None:
        """Arranges the rows of one split.

        Raises:
            ShardError: the split is empty, or its datasets have no weight.
        """
        keys = ("dataset", "video", "target")
        table = index.select([*keys, "category"])
        table = table.append_column("row", pa.array(np.arange(index.num_rows)))
        table = table.sort_by([(key, "ascending") for key in (*keys, "row")])
        codes = [table[key].combine_chunks().dictionary_encode().indices for key in keys]
        differs = np.diff(np.stack(codes), axis=1, prepend=-1) != 0
        opens_video = differs[:2].any(axis=0)
        names = table.select(keys[:2]).filter(pa.array(opens_video)).to_pylist()
        kept = [split_of(**name, val_fraction=config.val_fraction) == split for name in names]
        self.videos = [
            f"{name['dataset']}/{name['video']}"
            for name, is_kept in zip(names, kept, strict=True)
            if is_kept
        ]
        if not self.videos:
            raise ShardError(
                f"the {split!r} split holds no tracks ({index.num_rows} rows in all, val_fraction "
                f"{config.val_fraction}). Preprocess more videos or change val_fraction."
            )
        mine = np.array(kept)[np.cumsum(opens_video) - 1]
        self._rows = table["row"].to_numpy()[mine]
        self._track_starts = np.flatnonzero(differs.any(axis=0)[mine])
        of_tracks = np.asarray(codes[0])[mine][self._track_starts]
        present, first_tracks = np.unique(of_tracks, return_index=True)
        self._first_tracks = np.append(first_tracks, len(of_tracks))
        self._track_starts = np.append(self._track_starts, len(self._rows))
        datasets = table["dataset"].unique().take(present).to_pylist()
        self._weights = _weights(datasets, config.dataset_weights)
        self._video = np.cumsum(opens_video)[mine][self._track_starts[:-1]]
        categories = table["category"].combine_chunks().dictionary_encode()
        category = np.asarray(categories.indices)[mine][self._track_starts[:-1]]
        kind = of_tracks.astype(np.int64) * len(categories.dictionary) + category
        self._by_kind = np.argsort(kind, kind="stable")
        starts, ends = (np.searchsorted(kind[self._by_kind], kind, side) for side in _SIDES)
        has_name = np.array([bool(name) for name in categories.dictionary.to_pylist()])[category]
        self._alike = np.stack([starts, np.where(has_name, ends, starts)], axis=1)
        shard = index["shard"].combine_chunks().dictionary_encode()
        self._shards, self._shard = shard.dictionary.to_pylist(), np.asarray(shard.indices)
        self._group, self._place = (index[key].to_numpy() for key in ("row_group", "row_in_group"))

    def draw(self, rng: np.random.Generator) -> tuple[str, int, int]:
        """Shard, row group and place in it of a random row: dataset, then track, then chunk."""
        return self._place_of(self._draw_track(rng), rng)

    def draw_block(self, num_rows: int, rng: np.random.Generator) -> list[tuple[str, int, int]]:
        """Places of random rows, of which those of one half have a partner of their kind.

        One half is drawn as by `draw`. For each of them the other half has a track of another video
        but the same dataset and category; where there is none, any track of the dataset. Datasets
        keep their weights; the tracks of one are (nearly) equally likely where all have a category
        that other videos share, or none has.
        """
        tracks: list[int] = []
        places = []
        num_free = num_rows - num_rows // 2
        for number in range(num_rows):
            like = tracks[number - num_free] if number >= num_free else None
            tracks.append(self._draw_track(rng) if like is None else self._draw_alike(like, rng))
            places.append(self._place_of(tracks[-1], rng))
        return places

    def _draw_track(self, rng: np.random.Generator, dataset: int | None = None) -> int:
        """Any track, or any of one dataset."""
        drawn = int(rng.choice(len(self._weights), p=self._weights))
        dataset = drawn if dataset is None else dataset
        first, end = self._first_tracks[dataset : dataset + 2]
        return int(first + rng.integers(end - first))

    def _draw_alike(self, track: int, rng: np.random.Generator) -> int:
        """A track of the same dataset and, where another video has one, of the same category."""
        dataset = int(np.searchsorted(self._first_tracks, track, "right")) - 1
        of_dataset = self._first_tracks[dataset + 1] - self._first_tracks[dataset]
        alike = self._by_kind[slice(*self._alike[track])]
        of_video = [np.searchsorted(self._video, self._video[track], side) for side in _SIDES]
        first, end = np.searchsorted(alike, of_video)  # a video's tracks follow each other
        if len(alike) in (end - first, of_dataset):  # no other video has one, or all tracks are
            return self._draw_track(rng, dataset)
        position = int(rng.integers(len(alike) - (end - first)))
        return int(alike[position if position < first else position + (end - first)])

    def _place_of(self, track: int, rng: np.random.Generator) -> tuple[str, int, int]:
        """One of a track's rows."""
        row = int(rng.choice(self._rows[slice(*self._track_starts[track : track + 2])]))
        return self._shards[self._shard[row]], int(self._group[row]), int(self._place[row])


def _weights(datasets: list[str], given: Mapping[str, float]) -> ndarray:
    mean = sum(given.values()) / len(given) if given else 1.0
    weights = np.array([given.get(dataset, mean) for dataset in datasets])
    if weights.sum() <= 0:
        raise ShardError(
            f"the shards hold {datasets}, and dataset_weights gives none of them a weight: {given}"
        )
    return weights / weights.sum()


def draw_partner(
    rows: list[TrackChunk], first: int, shares: PairShares, rng: np.random.Generator
) -> int:
    """Which row of a block the query comes from, given the support's row.

    Another row is of another video, so that the support's target cannot be in sight; where the
    block has no other video, the pair is one of the same target.
    """
    kind = rng.random()
    others = [i for i, row in enumerate(rows) if not _same_video(row, rows[first])]
    if kind < shares.same_target or not others:
        return first
    alike = [i for i in others if rows[i].category and rows[i].category == rows[first].category]
    if kind < shares.same_target + shares.same_category and alike:
        others = alike
    return int(rng.choice(others))


def _same_video(one: TrackChunk, other: TrackChunk) -> bool:
    return (one.dataset, one.video) == (other.dataset, other.video)


def draw_second_frame(
    frame_numbers: ndarray, first: int, max_distance_frames: int, rng: np.random.Generator
) -> int:
    """Another frame of the same chunk, near enough; the same one where there is no other."""
    distance = np.abs(frame_numbers - frame_numbers[first])
    near = np.flatnonzero((distance > 0) & (distance <= max_distance_frames))
    return int(rng.choice(near)) if len(near) else first


def pair_origin(
    rows: list[TrackChunk],
    pair: tuple[int, int],
    frames: tuple[int, int],
    view: int | None = None,
) -> PairOrigin:
    """Where a pair comes from: its two rows of a block, the frame in each, the query's view."""
    (first, other), (frame, other_frame) = pair, frames
    row, partner = rows[first], rows[other]
    kind: PairKind = "any_other"
    distance = -1
    if first == other:
        kind = "same_target"
        distance = abs(int(row.frame_numbers[frame]) - int(row.frame_numbers[other_frame]))
    elif row.category and row.category == partner.category:
        kind = "same_category"
    alike = view is not None and first == other and len(row.look_alikes(other_frame, view)) > 0
    return PairOrigin(row.dataset, kind, row.is_still, distance, alike)


def shares(drawn: Counter[PairOrigin]) -> dict[str, float]:
    """Statistics of pairs that were drawn, as metrics; empty where there are none.

    Args:
        drawn: how many pairs of each origin.

    Returns:
        ``sampling/dataset_NAME``, the share of each pair kind, ``sampling/without_target`` (the
        query is all background), ``sampling/with_look_alike``, and of the pairs of one video, the
        shares by frames apart.
    """
    counts: Counter[str] = Counter()
    apart: Counter[str] = Counter({_bar(low, high): 0 for low, high in DISTANCE_BINS})
    for origin, count in drawn.items():
        counts[f"dataset_{origin.dataset}"] += count
        counts[origin.kind] += count
        counts["with_look_alike"] += count * origin.shows_look_alike
        if origin.frame_distance >= 0 and not origin.is_still:
            apart[_bar_of(origin.frame_distance)] += count
    if not drawn:
        return {}
    found = {name: counts[name] / drawn.total() for name in {*counts, *get_args(PairKind)}}
    found["without_target"] = 1 - found["same_target"]
    if apart.total():
        found |= {name: count / apart.total() for name, count in apart.items()}
    return {f"sampling/{name}": share for name, share in sorted(found.items())}


def _bar(low: int, high: int) -> str:
    return f"frames_apart_{low:03d}_to_{high:03d}"


def _bar_of(distance: int) -> str:
    bars = [_bar(low, high) for low, high in DISTANCE_BINS if low <= distance <= high]
    return bars[0] if bars else f"frames_apart_above_{DISTANCE_BINS[-1][1]}"
