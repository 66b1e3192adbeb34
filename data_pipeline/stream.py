"""Shards -> lanes -> batches of episodes, in the process that trains.

A batch of P pairs is fed by P lanes, and pair number ``count`` of lane ``lane`` is a function of
(seed, lane, count) and of nothing else. So the samples do not depend on the number of workers
(worker w of W takes lanes w, w + W, ...), and a run resumes exactly where it stopped: its position
in the data is a count. A lane goes through blocks: a few rows drawn from all shards, from which it
takes some pairs, negatives included, before it reads the next few.
"""

import contextlib
import itertools
import queue
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from data_pipeline.episodes import (
    Episode,
    EpisodeBatch,
    PairOrigin,
    Sample,
    make_episode,
    stack,
)
from data_pipeline.sampling import (
    SamplingConfig,
    Split,
    TrackTable,
    draw_partner,
    draw_second_frame,
    pair_origin,
)
from data_pipeline.shards import ShardError, TrackChunk, decode, read_chunk, read_index


class DrawnPair(NamedTuple):
    """A pair of frames, before its images are decoded."""

    rows: tuple[TrackChunk, TrackChunk]
    """The track of the first image, and that of the second."""

    frames: tuple[int, int]
    """Which frame of each."""

    view: int | None
    """Which moved view of the second; None for the centred one."""

    origin: PairOrigin
    """What they have to do with each other."""

    rng: np.random.Generator
    """Draws the augmentation."""


class EpisodeStream:
    """The episodes of one split of a folder of shards, each at its (lane, count)."""

    def __init__(self, folder: str, config: SamplingConfig, *, split: Split, seed: int) -> None:
        """Reads the index, no images.

        Raises:
            ShardError: the folder holds no complete shards, or none of this split.
        """
        self.table = TrackTable(read_index(folder), split, config)
        self._folder = folder
        self._config = config
        self._seed = seed
        self._blocks: dict[int, tuple[int, list[TrackChunk]]] = {}  # lane -> its current block

    def draw(self, lane: int, count: int) -> "DrawnPair":
        """Which frames pair number ``count`` of a lane is made of; decodes nothing."""
        # Lanes change block one after another: no batch waits for all of them to read.
        rows = self._block(lane, (count + lane) // self._config.pairs_per_block)
        rng = np.random.default_rng((self._seed, lane, count))
        first = int(rng.integers(len(rows)))
        row = rows[first]
        shares = self._config.still_pairs if row.is_still else self._config.video_pairs
        partner = draw_partner(rows, first, shares, rng)
        frame = int(rng.integers(len(row.frame_numbers)))
        if partner == first:
            distance = self._config.max_distance_frames
            other_frame = draw_second_frame(row.frame_numbers, frame, distance, rng)
        else:
            other_frame = int(rng.integers(len(rows[partner].frame_numbers)))
        view = _draw_view(rows[partner], other_frame, rng)
        origin = pair_origin(rows, (first, partner), (frame, other_frame), view)
        return DrawnPair((row, rows[partner]), (frame, other_frame), view, origin, rng)

    def episode(self, lane: int, count: int) -> Episode:
        """Pair number ``count`` of a lane."""
        pair = self.draw(lane, count)
        (row, partner), (frame, other_frame) = pair.rows, pair.frames
        return make_episode(
            centred_sample(self._folder, row, frame),
            view_sample(self._folder, partner, other_frame, pair.view),
            origin=pair.origin,
            config=self._config.augmentation,
            rng=pair.rng,
        )

    def forget(self, lane: int) -> None:
        """Frees the rows that a lane holds; it reads them again where it needs them."""
        self._blocks.pop(lane, None)

    def _block(self, lane: int, number: int) -> list[TrackChunk]:
        """The rows that a lane draws from at its block ``number``."""
        current = self._blocks.get(lane)
        if current is None or current[0] != number:
            rng = np.random.default_rng((self._seed, lane, number, 1))
            places = self.table.draw_block(self._config.rows_per_block, rng)
            current = number, [read_chunk(self._folder, *place) for place in places]
            self._blocks[lane] = current
        return current[1]


def _draw_view(row: TrackChunk, frame: int, rng: np.random.Generator) -> int | None:
    """The number of one of a frame's moved views; None where the shards hold none."""
    count = len(row.view_images[frame])
    return int(rng.integers(count)) if count else None


def centred_sample(folder: str, row: TrackChunk, frame: int) -> Sample:
    """A frame with its target in the middle, of a row of a folder of shards."""
    return Sample(_decode(folder, row, row.centred_images[frame]), row.centred_boxes[frame])


def view_sample(folder: str, row: TrackChunk, frame: int, view: int | None) -> Sample:
    """One of a frame's moved views; the centred one for None."""
    if view is None:
        return centred_sample(folder, row, frame)
    return Sample(_decode(folder, row, row.view_images[frame][view]), row.view_boxes[frame][view])


def _decode(folder: str, row: TrackChunk, jpeg: bytes) -> UInt8[ndarray, "263 263 3"]:
    """A crop's pixels; an error names the row."""
    try:
        return decode(jpeg)
    except ShardError as error:
        raise ShardError(
            f"{folder}: {row.dataset}/{row.video}, chunk {row.chunk}: {error}"
        ) from error


@dataclass(frozen=True)
class _Failure:
    error: BaseException


def batches(
    stream: EpisodeStream,
    lanes: Sequence[int],
    *,
    start: int = 0,
    num_threads: int = 2,
    num_ahead: int = 2,
) -> Generator[EpisodeBatch, None, None]:
    """Batch after batch, without end: batch i holds pair i of each lane.

    Args:
        stream: where the episodes come from.
        lanes: this worker's lanes.
        start: number of the first batch; the position to resume from.
        num_threads: threads that read and decode (OpenCV and Arrow release the interpreter's lock).
        num_ahead: batches that are made before they are asked for.

    Raises:
        ShardError: a shard does not read, at the batch that needs it.
    """
    cv2.setNumThreads(1)
    made: queue.Queue[EpisodeBatch | _Failure] = queue.Queue(maxsize=num_ahead)
    stopped = threading.Event()

    def offer(item: EpisodeBatch | _Failure) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                made.put(item, timeout=0.1)
                return

    def produce() -> None:
        pool = ThreadPoolExecutor(num_threads)
        try:
            pairs = [pool.submit(stream.episode, lane, start) for lane in lanes]
            for count in itertools.count(start + 1):
                # The next batch is under way while this one is stacked.
                following = [pool.submit(stream.episode, lane, count) for lane in lanes]
                offer(stack([pair.result() for pair in pairs]))
                if stopped.is_set():
                    return
                pairs = following
        except BaseException as error:  # delivered to the consumer, who raises it
            offer(_Failure(error))
        finally:
            pool.shutdown(cancel_futures=True)

    thread = threading.Thread(target=produce, name="episode-stream", daemon=True)
    thread.start()
    try:
        while True:
            item = made.get()
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        stopped.set()
        thread.join(timeout=10)
