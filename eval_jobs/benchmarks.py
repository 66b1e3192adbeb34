"""Benchmarks as data: which sequences, how they are run and scored, and what comes out."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from data_pipeline.readers import READERS
from data_pipeline.tracks import DatasetError, Track
from eval_jobs.metrics import AUC, PRECISION_20, Curves, Metric, otb_curves, to_official
from eval_jobs.otb_sequences import OTB50, OTB100, OTB2013

log = logging.getLogger(__name__)


class IncompleteResultsError(ValueError):
    """Sequences of a benchmark are missing or were not tracked, so there is no score of it."""


Scorer = Callable[[Float[ndarray, "frames 4"], Track], Curves]
"""From a tracker's boxes (xyxy) and the sequence to its curves."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One row of `BENCHMARKS`."""

    name: str
    """How the command line, tables and MLflow call it."""

    title: str
    """How plots and tables write it."""

    protocol: str
    """Stands beside each number."""

    reader: str
    """Which of `READERS` reads its folder."""

    split: str
    """The folder's part that is evaluated."""

    score: Scorer
    """How a sequence is scored."""

    metrics: tuple[Metric, ...]
    """What is read from the curves."""

    sequences: tuple[str, ...] | None = None
    """Official names, ``video`` or ``video.target``; None takes whatever the folder holds."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """The sequences of a benchmark that are evaluated, and how many there should be."""

    benchmark: Benchmark
    """What they belong to."""

    tracks: tuple[Track, ...]
    """The sequences, in the benchmark's order."""

    num_expected: int
    """How many sequences the benchmark has."""

    max_frames: int | None = None
    """Only so many frames of each sequence are run; None runs them all."""

    @property
    def is_partial(self) -> bool:
        """Whether a score over it is not the benchmark's."""
        return len(self.tracks) != self.num_expected or self.max_frames is not None

    @property
    def coverage(self) -> str:
        """``100 sequences``, or ``8 of 100 sequences``: stands wherever a score appears."""
        count = f"{len(self.tracks)} sequences"
        if len(self.tracks) != self.num_expected:
            count = f"{len(self.tracks)} of {self.num_expected} sequences"
        return count if self.max_frames is None else f"{count}, first {self.max_frames} frames"

    @property
    def metric_prefix(self) -> str:
        """``otb100``, or ``otb100-8of100``: what metric names begin with."""
        name = self.benchmark.name
        if len(self.tracks) != self.num_expected:
            name = f"{name}-{len(self.tracks)}of{self.num_expected}"
        return name if self.max_frames is None else f"{name}-first{self.max_frames}"


def score_otb(predicted: Float[ndarray, "frames 4"], track: Track) -> Curves:
    """OTB's curves over all frames; a frame without valid ground truth counts as OTB counts it."""
    return otb_curves(to_official(predicted), np.nan_to_num(to_official(track.boxes), nan=0.0))


def score_visible(predicted: Float[ndarray, "frames 4"], track: Track) -> Curves:
    """OTB's curves over the frames in which the target is visible; others are not counted.

    Raises:
        ValueError: the target is nowhere visible after the first frame.
    """
    if len(predicted) != len(track):
        raise ValueError(f"{track.name}: {len(track)} boxes expected, got {len(predicted)}")
    seen = track.visible.copy()
    seen[0] = True
    return otb_curves(to_official(predicted[seen]), to_official(track.boxes[seen]))


_OTB = "OPE, official OTB toolkit"
_VISIBLE = "OPE over visible frames"

BENCHMARKS: dict[str, Benchmark] = {
    row.name: row
    for row in (
        Benchmark(
            name="otb2013",
            title="OTB-2013",
            protocol=_OTB,
            reader="otb",
            split="",
            score=score_otb,
            metrics=(AUC, PRECISION_20),
            sequences=OTB2013,
        ),
        Benchmark(
            name="otb50",
            title="OTB-50",
            protocol=_OTB,
            reader="otb",
            split="",
            score=score_otb,
            metrics=(AUC, PRECISION_20),
            sequences=OTB50,
        ),
        Benchmark(
            name="otb100",
            title="OTB-100",
            protocol=_OTB,
            reader="otb",
            split="",
            score=score_otb,
            metrics=(AUC, PRECISION_20),
            sequences=OTB100,
        ),
        Benchmark(
            name="synthetic",
            title="Synthetic",
            protocol=_VISIBLE,
            reader="synthetic",
            split="val",
            score=score_visible,
            metrics=(AUC, PRECISION_20),
        ),
        Benchmark(
            name="got10k_layout",
            title="Videos in GOT-10k's layout",
            protocol=_VISIBLE,
            reader="got10k",
            split="val",
            score=score_visible,
            metrics=(AUC, PRECISION_20),
        ),
    )
}
"""Every benchmark that can be run, by name."""


def find_benchmark(name: str) -> Benchmark:
    """A row of `BENCHMARKS`.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def sequence_name(track: Track) -> str:
    """``video``, or ``video.target`` where the video has several."""
    return track.name.split("/", maxsplit=1)[1]


def select(
    benchmark: Benchmark,
    folder: Path,
    *,
    partial: bool = False,
    max_sequences: int | None = None,
    max_frames: int | None = None,
) -> Selection:
    """The benchmark's sequences that a folder holds.

    Args:
        benchmark: a row of `BENCHMARKS`.
        folder: in its reader's layout; names may differ in case from the official ones.
        partial: accept that sequences are missing.
        max_sequences: take the first so many only.
        max_frames: of each sequence, take the first so many frames only.

    Raises:
        DatasetError: the folder is not what its layout promises.
        IncompleteResultsError: sequences are missing and ``partial`` is not set, or all are.
    """
    tracks = list(READERS[benchmark.reader](folder, benchmark.split))
    num_expected = len(tracks)
    if benchmark.sequences is not None:
        tracks, missing = _in_official_order(tracks, benchmark.sequences)
        num_expected = len(benchmark.sequences)
        if missing and (not partial or not tracks):
            raise IncompleteResultsError(
                f"{benchmark.title} needs {num_expected} sequences, but {folder} lacks "
                f"{len(missing)}: {', '.join(missing)}. Add them"
                + (", or ask for a partial score." if tracks else ".")
            )
        if missing:
            log.warning("%s: %d of %d sequences", benchmark.title, len(tracks), num_expected)
    shortened = tracks[:max_sequences]
    if max_frames is not None:
        shortened = [first_frames(track, max_frames) for track in shortened]
    return Selection(
        benchmark=benchmark,
        tracks=tuple(shortened),
        num_expected=num_expected,
        max_frames=max_frames,
    )


def first_frames(track: Track, count: int) -> Track:
    """The track cut after so many frames.

    Raises:
        ValueError: fewer than two frames are asked for.
    """
    if count < 2:
        raise ValueError(f"a run needs at least 2 frames, got max_frames={count}")
    return track[:count]


def _in_official_order(
    tracks: Sequence[Track], names: Sequence[str]
) -> tuple[list[Track], list[str]]:
    """The tracks of these names, whatever their case, and the names without a track."""
    by_name: dict[str, Track] = {}
    for track in tracks:
        alias = sequence_name(track).casefold()
        if alias in by_name:
            raise DatasetError(
                f"two sequences are called {alias!r}: {by_name[alias].image_files[0].parent} and "
                f"{track.image_files[0].parent}; remove one"
            )
        by_name[alias] = track
    found = [by_name[name.casefold()] for name in names if name.casefold() in by_name]
    return found, [name for name in names if name.casefold() not in by_name]
