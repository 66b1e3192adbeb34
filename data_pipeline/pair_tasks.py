"""Held-out pair tasks as a benchmark: which pairs, drawn once and listed, and their images.

Not in the paper. A task asks to learn a target from one frame and to find it in another view of its
track. The tasks are those of videos that training leaves out; a part of these is for tuning alone.
The look-alike subset holds tasks whose query shows another object of the target's category.
"""

import zlib
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from numpy import ndarray

from data_pipeline.episodes import NO_AUGMENTATION, Episode, make_episode
from data_pipeline.sampling import (
    SamplingConfig,
    TrackTable,
    draw_second_frame,
    pair_origin,
    split_of,
)
from data_pipeline.shards import ShardError, read_chunk, read_index
from data_pipeline.stream import centred_sample, view_sample

TaskPart = Literal["report", "tuning"]
"""What a held-out video is for: on a choice made by one part, the other part reports."""

TUNING_PART = 4
"""One held-out video in so many falls to the tuning part."""

_MOST_MISSES = 300
"""Draws in a row that give no new task, after which there are too few."""


@dataclass(frozen=True, kw_only=True)
class PairTasksConfig:
    """Which pair tasks are drawn."""

    num_tasks: int = 300
    """Tasks of any kind, drawn as validation draws them: datasets by weight, tracks evenly."""

    num_look_alikes: int = 150
    """Tasks whose query shows a look-alike, drawn besides; fewer where the shards hold fewer."""

    num_tuning: int = 100
    """Tasks of the tuning part, of any kind."""

    max_distance_frames: int = 200
    """Most original frames between the two images."""

    seed: int = 20
    """Of the draws: the same tasks for every checkpoint."""

    def __post_init__(self) -> None:
        if self.num_tasks < 1 or self.max_distance_frames < 1:
            raise ValueError(
                "num_tasks and max_distance_frames must be at least 1, got "
                f"{self.num_tasks} and {self.max_distance_frames}"
            )
        if min(self.num_look_alikes, self.num_tuning, self.seed) < 0:
            raise ValueError(
                "num_look_alikes, num_tuning and seed must not be negative, got "
                f"{self.num_look_alikes}, {self.num_tuning} and {self.seed}"
            )


class PairTask(NamedTuple):
    """One task: a row of the shards, a frame to learn from, a view of another to look at."""

    dataset: str
    """Which reader the video came from."""

    video: str
    """The video or the image."""

    target: str
    """Which target of it."""

    place: tuple[str, int, int]
    """Shard, row group and row in it."""

    frame: int
    """The support's, by its position in the row."""

    query_frame: int
    """The query's; a still's own."""

    query_view: int
    """Which of the query frame's moved views."""

    shows_look_alike: bool
    """The query shows an object of the target's category beside it."""


class LoadedTask(NamedTuple):
    """A task's images."""

    episode: Episode
    """Without augmentation."""

    look_alikes: Float[ndarray, "alike 4"]
    """Boxes of the look-alikes in the query."""


def part_of(dataset: str, video: str) -> TaskPart:
    """The part that a held-out video falls to: its name decides."""
    digest = zlib.crc32(f"pair task:{dataset}/{video}".encode())
    return "tuning" if digest % TUNING_PART == 0 else "report"


def draw_tasks(
    folder: str, config: PairTasksConfig, *, part: TaskPart, val_fraction: float
) -> dict[str, list[PairTask]]:
    """The tasks of one part, all different within a subset.

    Args:
        folder: of the shards.
        config: how many.
        part: which of the held-out videos.
        val_fraction: share of the videos that training leaves out (`SamplingConfig`). The videos
            of a smaller share are among those of a larger one.

    Returns:
        By subset: ``all``, and in the report part ``look_alike``, where the shards hold any.

    Raises:
        ShardError: the shards do not read, hold no moved views, or too few different tasks.
    """
    sampling = SamplingConfig(val_fraction=val_fraction)
    whole = read_index(folder)
    index = _held_out(whole, part, val_fraction)
    if not index.num_rows:
        num_videos = whole.group_by(["dataset", "video"]).aggregate([]).num_rows
        raise ShardError(
            f"{folder}: held-out videos of the {part} part expected, none of its {num_videos} is "
            f"one at the checkpoints' sampling.val_fraction ({val_fraction:g}). Preprocess more "
            "videos, or train with a larger one."
        )
    count = config.num_tasks if part == "report" else config.num_tuning
    rng = np.random.default_rng([config.seed, part == "tuning"])
    table = TrackTable(index, "val", sampling)
    found = {"all": _draw(folder, table, config, count, rng, alike=False)}
    if len(found["all"]) < count:
        raise ShardError(
            f"{folder}: {count} different pair tasks of held-out videos expected in the {part} "
            f"part, only {len(found['all'])} were found in {len(table.videos)} videos. Ask for "
            "fewer, or train with a larger sampling.val_fraction."
        )
    with_alike = _with_look_alikes(index)
    if part == "report" and config.num_look_alikes and with_alike.num_rows:
        table = TrackTable(with_alike, "val", sampling)
        count = config.num_look_alikes
        found["look_alike"] = _draw(folder, table, config, count, rng, alike=True)
    return found


def load_task(folder: str, task: PairTask) -> LoadedTask:
    """A task's images, without augmentation.

    Raises:
        ShardError: the shards do not read.
    """
    row = read_chunk(folder, *task.place)
    frames = task.frame, task.query_frame
    episode = make_episode(
        centred_sample(folder, row, task.frame),
        view_sample(folder, row, task.query_frame, task.query_view),
        origin=pair_origin([row], (0, 0), frames, task.query_view),
        config=NO_AUGMENTATION,
        rng=np.random.default_rng(0),  # nothing is drawn
    )
    return LoadedTask(episode, row.look_alikes(task.query_frame, task.query_view))


class _Row(NamedTuple):
    """What drawing needs of a row: all but its images."""

    names: tuple[str, str, str]
    frame_numbers: Int[ndarray, "frames"]
    alike: tuple[tuple[bool, ...], ...]
    """Per frame and view, whether it shows a look-alike."""


def _read_row(folder: str, place: tuple[str, int, int]) -> _Row:
    row = read_chunk(folder, *place)
    alike = tuple(
        tuple(len(row.look_alikes(frame, view)) > 0 for view in range(len(views)))
        for frame, views in enumerate(row.view_images)
    )
    return _Row((row.dataset, row.video, row.target), row.frame_numbers, alike)


def _draw(
    folder: str,
    table: TrackTable,
    config: PairTasksConfig,
    count: int,
    rng: np.random.Generator,
    *,
    alike: bool,
) -> list[PairTask]:
    """Up to ``count`` different tasks; with ``alike``, of views that show a look-alike."""
    tasks: dict[PairTask, None] = {}
    rows: dict[tuple[str, int, int], _Row] = {}
    misses = 0
    while len(tasks) < count and misses < _MOST_MISSES:
        place = table.draw(rng)
        row = rows.get(place) or rows.setdefault(place, _read_row(folder, place))
        frame = int(rng.integers(len(row.frame_numbers)))
        distance = config.max_distance_frames
        query_frame = draw_second_frame(row.frame_numbers, frame, distance, rng)
        shown = row.alike[query_frame]
        if not shown:
            raise ShardError(
                f"{folder}/{place[0]}: moved views of each frame expected, since a task's query is "
                "one, there are none. Run data_pipeline/preprocess.py with --crops.num-views 2 "
                "into a new folder."
            )
        views = [view for view, shows in enumerate(shown) if shows or not alike]
        misses += 1
        if views:
            view = int(rng.choice(views))
            task = PairTask(*row.names, place, frame, query_frame, view, shown[view])
            misses = misses if task in tasks else 0
            tasks[task] = None
    return list(tasks)


def _held_out(index: pa.Table, part: TaskPart, val_fraction: float) -> pa.Table:
    """The rows of one part's videos, of those that training leaves out."""
    names = zip(index["dataset"].to_pylist(), index["video"].to_pylist(), strict=True)
    kept = [split_of(*n, val_fraction) == "val" and part_of(*n) == part for n in names]
    return index.filter(pa.array(kept, pa.bool_()))


def _with_look_alikes(index: pa.Table) -> pa.Table:
    """The rows with a view that shows a look-alike; none where the shards do not say."""
    if "num_look_alikes" not in index.column_names:
        return index.slice(0, 0)
    return index.filter(index["num_look_alikes"].to_numpy() > 0)
