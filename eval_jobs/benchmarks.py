"""Benchmarks as data: which sequences, how they are run and scored, and what comes out."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_pipeline.readers import LAYOUTS, READERS
from data_pipeline.readers.lasot_videos import TEST_VIDEOS as LASOT_TEST
from data_pipeline.tracks import DatasetError, MissingImagesError, Track
from eval_jobs import scoring
from eval_jobs.metrics import Metric
from eval_jobs.otb_sequences import OTB50, OTB100, OTB2013
from eval_jobs.protocols import VOT_RESETS, ResetConfig
from eval_jobs.scoring import Scoring
from eval_jobs.vot_sequences import VOT2018
from meta_train.detectors.backbone import Branch

log = logging.getLogger(__name__)


class IncompleteResultsError(ValueError):
    """Sequences of a benchmark are missing or were not tracked, so there is no score of it."""

    def __init__(self, message: str, *, causes: tuple[Exception, ...] = ()) -> None:
        """Takes the message, and what stopped each of the runs that failed."""
        super().__init__(message)
        self.causes = causes


Server = Literal["got10k", "trackingnet"]
"""Servers that score archives of results: their ground truth is hidden."""


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

    scoring: Scoring[Any]
    """What is measured, and the metrics that are read from it."""

    sequences: tuple[str, ...] | None = None
    """Official names, ``video`` or ``video.target``; None takes whatever the folder holds."""

    num_sequences: int | None = None
    """How many there are, where only their number is known here and not their names."""

    resets: ResetConfig | None = None
    """The supervised protocol; None runs one pass."""

    update_branches: tuple[Branch, ...] | None = None
    """What online updating adapts here, whatever a tracker is set to; None leaves it to the
    tracker."""

    server: Server | None = None
    """Who has the ground truth; results go there as an archive."""

    @property
    def metrics(self) -> tuple[Metric[Any], ...]:
        """What is read from the measurement, the most important first; none where it is hidden."""
        return self.scoring.metrics


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
            scoring=scoring.OTB,
            sequences=OTB2013,
        ),
        Benchmark(
            name="otb50",
            title="OTB-50",
            protocol=_OTB,
            reader="otb",
            split="",
            scoring=scoring.OTB,
            sequences=OTB50,
        ),
        Benchmark(
            name="otb100",
            title="OTB-100",
            protocol=_OTB,
            reader="otb",
            split="",
            scoring=scoring.OTB,
            sequences=OTB100,
        ),
        Benchmark(
            name="vot2018",
            title="VOT-2018",
            protocol="supervised with resets, 15 repetitions; EAO, A, R as in the paper",
            reader="vot",
            split="",
            scoring=scoring.VOT2018,
            sequences=VOT2018,
            resets=VOT_RESETS,
        ),
        Benchmark(
            name="lasot",
            title="LaSOT",
            protocol="OPE, official LaSOT toolkit",
            reader="lasot",
            split="test",
            scoring=scoring.LASOT,
            sequences=LASOT_TEST,
            update_branches=("cls",),  # Table 3: .523 with cls, .496 with both
        ),
        Benchmark(
            name="trackingnet",
            title="TrackingNet",
            protocol="OPE, scored by TrackingNet's server",
            reader="trackingnet",
            split="test",
            scoring=scoring.HIDDEN,
            num_sequences=511,
            server="trackingnet",
        ),
        Benchmark(
            name="trackingnet_train11",
            title="TrackingNet's chunk TRAIN_11",
            protocol="OPE, scored as by TrackingNet's server",
            reader="trackingnet",
            split="TRAIN_11",
            scoring=scoring.TRACKINGNET,
        ),
        Benchmark(
            name="got10k_test",
            title="GOT-10k test",
            protocol="OPE, scored by GOT-10k's server",
            reader="got10k",
            split="test",
            scoring=scoring.HIDDEN,
            sequences=tuple(f"GOT-10k_Test_{number:06d}" for number in range(1, 181)),
            server="got10k",
        ),
        Benchmark(
            name="got10k_val",
            title="GOT-10k validation",
            protocol="OPE, official GOT-10k toolkit",
            reader="got10k",
            split="val",
            scoring=scoring.GOT10K,
            sequences=tuple(f"GOT-10k_Val_{number:06d}" for number in range(1, 181)),
        ),
        Benchmark(
            name="synthetic",
            title="Synthetic",
            protocol=_VISIBLE,
            reader="synthetic",
            split="val",
            scoring=scoring.VISIBLE,
        ),
        Benchmark(
            name="got10k_layout",
            title="Videos in GOT-10k's layout",
            protocol=_VISIBLE,
            reader="got10k",
            split="val",
            scoring=scoring.VISIBLE,
        ),
        Benchmark(
            name="own_videos",
            title="Your own videos",
            protocol=_VISIBLE,
            reader="own_videos",
            split="",
            scoring=scoring.VISIBLE,
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
        partial: accept that sequences are missing: also those that a list names, or that have
            annotations, and no folder of images.
        max_sequences: take the first so many only.
        max_frames: of each sequence, take the first so many frames only.

    Raises:
        DatasetError: the folder is not what its layout promises.
        IncompleteResultsError: sequences are missing and ``partial`` is not set, or all are.
        ValueError: not one sequence is asked for.
    """
    if max_sequences is not None and max_sequences < 1:
        raise ValueError(f"max_sequences must be at least 1, got {max_sequences}")
    num_skipped = 0
    if partial:
        tracks, num_skipped = _those_with_images(benchmark, folder)
    else:
        tracks = list(READERS[benchmark.reader](folder, benchmark.split))
    num_expected, missing = benchmark.num_sequences or len(tracks) + num_skipped, ""
    if benchmark.sequences is not None:
        tracks, names = _in_official_order(tracks, benchmark.sequences)
        num_expected, missing = len(benchmark.sequences), ", ".join(names[:10])
        missing += f" and {len(names) - 10} more" if len(names) > 10 else ""
    elif len(tracks) > num_expected:
        raise DatasetError(
            f"{folder}: {benchmark.title} has {num_expected} sequences, {len(tracks)} found. "
            "Remove those that do not belong to it."
        )
    num_missing = num_expected - len(tracks)
    if num_missing and (not partial or not tracks):
        raise IncompleteResultsError(
            f"{benchmark.title} needs {num_expected} sequences, but {folder} lacks "
            f"{num_missing}{': ' if missing else ''}{missing}. Add them"
            + (", or accept it by --partial (launch.py: --evaluation.partial)." if tracks else ".")
        )
    if num_missing:
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


def _those_with_images(benchmark: Benchmark, folder: Path) -> tuple[list[Track], int]:
    """The tracks of the videos whose images are there, and how many videos have none."""
    tracks, num_skipped = [], 0
    for read_video in LAYOUTS[benchmark.reader].list_videos(folder, benchmark.split):
        try:
            tracks += list(read_video())
        except MissingImagesError:
            num_skipped += 1
    return tracks, num_skipped


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
