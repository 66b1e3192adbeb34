"""Which pair is drawn next: datasets by weight, tracks evenly, pair kinds by share."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy import ndarray

from data_pipeline.episodes import AugmentationConfig
from data_pipeline.shards import ShardError, TrackChunk

Split = Literal["train", "val"]

PAPER_WEIGHTS = {"coco": 0.15, "got10k": 0.30, "lasot": 0.30, "trackingnet": 0.25}
"""Not in the paper: PySiamTracking's shares of 320,000 pairs an epoch."""


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
    """Most original frames between the two images of a pair."""

    val_fraction: float = 0.1
    """Share of the videos, chosen by a hash of their names, that is kept for validation."""

    rows_per_block: int = 8
    """Tracks that a lane holds at a time, and draws pairs and negatives from."""

    pairs_per_block: int = 32
    """Pairs that a lane draws before it turns to other tracks."""

    augmentation: AugmentationConfig = AugmentationConfig()
    """What is drawn anew at each loading."""

    def __post_init__(self) -> None:
        if any(weight < 0 for weight in self.dataset_weights.values()):
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
    """The rows of a folder of shards, arranged so that drawing one takes no search."""

    def __init__(self, index: pa.Table, split: Split, config: SamplingConfig) -> None:
        """Arranges the rows of one split.

        Raises:
            ShardError: the split is empty, or its datasets have no weight.
        """
        columns = index.select(["dataset", "video", "target"]).to_pydict()
        names = list(zip(columns["dataset"], columns["video"], columns["target"], strict=True))
        tracks: dict[str, dict[tuple[str, str], list[int]]] = {}
        for row, (dataset, video, target) in enumerate(names):
            if split_of(dataset, video, config.val_fraction) == split:
                tracks.setdefault(dataset, {}).setdefault((video, target), []).append(row)
        self.videos = sorted({f"{d}/{video}" for d, group in tracks.items() for video, _ in group})
        self._index = index
        self._rows = {
            dataset: [np.array(rows) for _, rows in sorted(group.items())]
            for dataset, group in sorted(tracks.items())
        }
        self._datasets = list(self._rows)
        if not self._datasets:
            raise ShardError(
                f"the {split!r} split holds no tracks ({index.num_rows} rows in all, val_fraction "
                f"{config.val_fraction}). Preprocess more videos or change val_fraction."
            )
        self._weights = _weights(self._datasets, config.dataset_weights)

    def draw(self, rng: np.random.Generator) -> tuple[str, int, int]:
        """Shard, row group and place in it of a random row: dataset, then track, then chunk."""
        dataset = self._datasets[int(rng.choice(len(self._datasets), p=self._weights))]
        rows = self._rows[dataset][int(rng.integers(len(self._rows[dataset])))]
        row = int(rng.choice(rows))
        place = (self._index[name][row].as_py() for name in ("shard", "row_group", "row_in_group"))
        shard, row_group, row_in_group = place
        return shard, row_group, row_in_group


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
