"""Which sequences a study chooses by and which it reports on: never the same video.

Choosing the best of several settings by a benchmark and then reporting that very benchmark's score
flatters the winner. So a study that chooses has tuning sequences, and reports on others. Without a
tuning set of its own, the benchmark is split: on which side a video falls is decided by its name
alone, so it is the same in every study, for every subset of the benchmark, and for all targets in
one video.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from data_pipeline.readers.synthetic import fingerprint as synthetic_fingerprint
from data_pipeline.synthetic_scenes import SyntheticConfig
from eval_jobs.benchmarks import Benchmark, find_benchmark, select, sequence_name
from eval_jobs.held_out import normalised
from eval_jobs.pipeline import EvaluationConfig
from eval_jobs.results import annotation_digest

Part = Literal["tuning", "report"]

TUNING_PART = 3
"""One video in so many falls to the tuning part."""


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """Where a study's tuning sequences come from."""

    benchmark: str = ""
    """A row of BENCHMARKS; empty: the one that is reported on, split by its videos' names."""

    folder: str = ""
    """Its sequences; set if and only if ``benchmark`` is."""

    max_sequences: int | None = 6
    """Only the first so many tuning sequences."""

    def __post_init__(self) -> None:
        if bool(self.benchmark) != bool(self.folder):
            raise ValueError(
                "a tuning set of its own needs both its benchmark and its folder, got "
                f"benchmark={self.benchmark!r} and folder={self.folder!r}"
            )
        if self.max_sequences is not None and self.max_sequences < 1:
            raise ValueError(f"max_sequences must be at least 1, got {self.max_sequences}")

    def resolved(self) -> "TuningConfig":
        """With an absolute folder: trials run in another directory."""
        return replace(self, folder=str(Path(self.folder).absolute())) if self.folder else self


@dataclass(frozen=True, kw_only=True)
class SequenceSet:
    """Sequences of one benchmark."""

    benchmark: Benchmark
    """With exactly these sequences."""

    frames: dict[str, int]
    """Frames of each sequence that are run, by its name."""

    annotations: dict[str, str]
    """Digest of each sequence's boxes: mended ones make another question."""

    @property
    def num_frames(self) -> int:
        """Frames that a tracker runs that does the same each time: with resets, in repetitions."""
        resets = self.benchmark.resets
        repetitions = 1 if resets is None else resets.identical_repetitions
        return repetitions * sum(self.frames.values())

    @property
    def text(self) -> str:
        """Title, and the sequences by name."""
        return f"{self.benchmark.title}: {', '.join(self.frames)}"

    @property
    def fingerprint(self) -> str:
        """Changes with the sequences, their lengths and their boxes."""
        return json.dumps([self.benchmark.name, self.frames, self.annotations])


@dataclass(frozen=True, kw_only=True)
class StudySequences:
    """What a study runs on."""

    report: SequenceSet
    """What its table is about."""

    tuning: SequenceSet | None
    """What it chooses by; None where it chooses nothing."""

    @property
    def fingerprint(self) -> str:
        """Changes with the sequences of either set, their lengths and their boxes."""
        tuning = None if self.tuning is None else self.tuning.fingerprint
        return json.dumps([self.report.fingerprint, tuning])

    @property
    def text(self) -> str:
        """A line for the report that says which were used for what."""
        if not self.report.frames:
            return "Nothing is tracked: compared by held-out pair tasks."
        if self.tuning is None:
            return f"Nothing was chosen by sequences. Reported on {self.report.text}."
        return f"Chosen by {self.tuning.text}.\nReported on {self.report.text}."


def part_of(video: str) -> Part:
    """The side on which a video falls: its name decides.

    >>> part_of("Dog1"), part_of("OTB_Dog1"), part_of("Car4")
    ('tuning', 'tuning', 'report')
    """
    digest = hashlib.sha256(f"part:{normalised(video)}".encode()).digest()
    return "tuning" if int.from_bytes(digest[:4]) % TUNING_PART == 0 else "report"


def study_sequences(
    evaluation: EvaluationConfig,
    tuning: TuningConfig | None,
    synthetic: SyntheticConfig | None = None,
) -> StudySequences:
    """The sequences of a study, after a look at the folders.

    Args:
        evaluation: what is reported on; without a folder, the synthetic videos. Without phases
            there are none: the validation's pair tasks are what counts.
        tuning: what the study chooses by; None where it chooses nothing.
        synthetic: the videos of the run, which need not be made yet.

    Raises:
        ValueError: there is nothing to report on or to choose by, or both have a video in common;
            `DatasetError` and `IncompleteResultsError` are such, and say what to do.
    """
    if not evaluation.phases:
        row = find_benchmark(evaluation.benchmark)
        nothing = SequenceSet(benchmark=row, frames={}, annotations={})
        return StudySequences(report=nothing, tuning=None)
    benchmark = _with_ground_truth(evaluation.benchmark)
    videos = _videos(benchmark, evaluation, synthetic)
    if tuning is None:
        return StudySequences(
            report=_sequence_set(benchmark, videos, evaluation.max_sequences), tuning=None
        )
    if tuning.folder:
        own = replace(
            evaluation, benchmark=tuning.benchmark, folder=tuning.folder, max_sequences=None
        )
        row = _with_ground_truth(tuning.benchmark)
        others = _videos(row, own, None)
        _require_apart(others, videos)
        return StudySequences(
            report=_sequence_set(benchmark, videos, evaluation.max_sequences),
            tuning=_sequence_set(row, others, tuning.max_sequences, part="tuning"),
        )
    sides: dict[Part, list[_Video]] = {
        part: [video for video in videos if part_of(video.video) == part]
        for part in ("tuning", "report")
    }
    empty = [part for part, members in sides.items() if not members]
    if empty:
        raise ValueError(
            f"{benchmark.title}: its {len(videos)} sequences leave none for the {empty[0]} part; "
            "give more of them, or a tuning set of its own (a benchmark and its folder)"
        )
    return StudySequences(
        report=_sequence_set(
            benchmark, sides["report"], evaluation.max_sequences, part="report", of=len(videos)
        ),
        tuning=_sequence_set(
            benchmark, sides["tuning"], tuning.max_sequences, part="tuning", of=len(videos)
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Video:
    """A sequence, as far as choosing it goes."""

    video: str
    sequence: str
    frames: int
    annotation: str


def _with_ground_truth(name: str) -> Benchmark:
    benchmark = find_benchmark(name)
    if not benchmark.metrics:
        raise ValueError(
            f"{benchmark.title}: a study compares by scores, but a server has its ground truth; "
            "take another benchmark"
        )
    return benchmark


def _videos(
    benchmark: Benchmark, evaluation: EvaluationConfig, synthetic: SyntheticConfig | None
) -> list[_Video]:
    """All sequences that there are, in the benchmark's order."""
    limit = evaluation.max_frames
    if not evaluation.folder:
        if synthetic is None:
            raise ValueError(
                "evaluation.folder: a study compares trackers on a benchmark, so it needs the "
                f"folder of {benchmark.title}'s sequences; it is not set"
            )
        frames = min(synthetic.frames_per_video, limit or synthetic.frames_per_video)
        boxes = synthetic_fingerprint(synthetic)[:8]
        names = [f"val_{index:06d}" for index in range(synthetic.num_val_videos)]
        return [
            _Video(video=name, sequence=name, frames=frames, annotation=boxes) for name in names
        ]
    folder = Path(evaluation.folder).absolute()
    selection = select(benchmark, folder, partial=evaluation.partial, max_frames=limit)
    return [
        _Video(
            video=track.video,
            sequence=sequence_name(track),
            frames=len(track),
            annotation=annotation_digest(track)[:8],
        )
        for track in selection.tracks
    ]


def _sequence_set(
    benchmark: Benchmark,
    videos: Sequence[_Video],
    max_sequences: int | None,
    *,
    part: Part | None = None,
    of: int | None = None,
) -> SequenceSet:
    """The first so many sequences as a benchmark whose name and title say what it is: of how many,
    by the benchmark's own number, where it has one.
    """
    chosen = videos[:max_sequences]
    own = benchmark.num_sequences or len(benchmark.sequences or ())
    expected = own or of or len(videos)
    frames = {video.sequence: video.frames for video in chosen}
    annotations = {video.sequence: video.annotation for video in chosen}
    if part is None and len(chosen) == expected:
        return SequenceSet(benchmark=benchmark, frames=frames, annotations=annotations)
    coverage = f"{len(chosen)}of{expected}"
    row = replace(
        benchmark,
        name=f"{benchmark.name}-{part}{coverage}" if part else f"{benchmark.name}-{coverage}",
        title=f"{benchmark.title}, {f'{part} part, ' if part else ''}"
        f"{len(chosen)} of {expected} sequences",
        sequences=tuple(frames),
        num_sequences=None,
        server=None,  # which takes nothing but the whole benchmark
    )
    return SequenceSet(benchmark=row, frames=frames, annotations=annotations)


def _require_apart(tuning: Sequence[_Video], report: Sequence[_Video]) -> None:
    reported = {normalised(video.video) for video in report}
    shared = sorted({video.video for video in tuning if normalised(video.video) in reported})
    if shared:
        raise ValueError(
            f"tuning and report sequences share {len(shared)} videos by name: "
            f"{', '.join(shared[:10])}{', ...' if len(shared) > 10 else ''}. Choosing by them "
            "and reporting on them would flatter the winner: take them out of one of the folders"
        )
