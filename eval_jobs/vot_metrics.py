"""Accuracy, robustness and expected average overlap (EAO) of supervised runs with resets (VOT).

Two definitions are in use, and they differ: `paper`, from the legacy code that papers of 2018 to
2020 used, and `official`, today's VOT toolkit. Each number is called by its definition's name.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from eval_jobs.metrics import Metric
from eval_jobs.protocols import FAILED, INITIALIZED, TRACKED, VOT_RESETS
from eval_jobs.regions import legacy_overlap, official_overlap, rectangle_corners

VOT2018_LENGTHS = (100, 356)
"""Lengths over which VOT-2018 averages the expected overlap, both included."""

OFFICIAL_SENSITIVITY = 30
"""The number of frames that today's robustness asks about."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ResetRun:
    """One repetition over one sequence, measured; NaN where no box was recorded."""

    codes: Int[ndarray, "frames"]
    """What happened on each frame: `protocols.TRACKED` and its like."""

    overlaps: Float[ndarray, "frames"]
    """Legacy overlaps, counted up to column ``width`` and row ``height``: for accuracy."""

    inner_overlaps: Float[ndarray, "frames"]
    """Legacy overlaps, counted inside the image: for EAO."""

    official_overlaps: Float[ndarray, "frames"]
    """Today's toolkit's overlaps."""


SequenceRuns = tuple[ResetRun, ...]
"""All repetitions over one sequence."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VotRuns:
    """What VOT measures: the repetitions over each sequence."""

    sequences: tuple[SequenceRuns, ...]
    """At least one sequence, each with at least one repetition."""


def measure_reset_run(
    codes: Int[ndarray, "frames"],
    boxes: Float[ndarray, "boxes 4"],
    truth: Float[ndarray, "annotations 4 2"] | Float[ndarray, "annotations 4"],
    image_size: tuple[int, int],
) -> ResetRun:
    """The overlaps of one repetition.

    Args:
        codes: what happened on each frame.
        boxes: the tracker's, xyxy; read where the code is ``TRACKED``.
        truth: corners of polygons, or boxes in xyxy.
        image_size: width and height.

    Raises:
        ValueError: the numbers of codes, boxes and annotations differ.
    """
    if not len(codes) == len(boxes) == len(truth):
        raise ValueError(
            f"one code and one box per annotated frame expected, got {len(codes)} codes and "
            f"{len(boxes)} boxes for {len(truth)} annotations"
        )
    width, height = image_size
    values = np.full((3, len(codes)), np.nan)
    for frame in np.flatnonzero(codes == TRACKED):
        region = truth[frame] if truth.ndim == 3 else rectangle_corners(truth[frame])
        corners = rectangle_corners(boxes[frame])
        overlap = legacy_overlap(corners, region, (width, height))
        # The two limits differ only for a region that reaches the last column or row.
        inside = (np.maximum(corners.max(0), region.max(0)) <= (width - 1, height - 1)).all()
        values[:, frame] = (
            overlap,
            overlap if inside else legacy_overlap(corners, region, (width - 1, height - 1)),
            official_overlap(boxes[frame], truth[frame], image_size),
        )
    return ResetRun(
        codes=codes,
        overlaps=values[0],
        inner_overlaps=values[1],
        official_overlaps=values[2],
    )


def pool_vot_runs(parts: Sequence[VotRuns]) -> VotRuns:
    """The sequences of several measurements together."""
    return VotRuns(sequences=tuple(runs for part in parts for runs in part.sequences))


def paper_accuracy(measured: VotRuns, burn_in_frames: int = VOT_RESETS.burn_in_frames) -> float:
    """Mean overlap of all frames of all sequences, burn-in left out; each frame first averaged over
    the repetitions that tracked it. NaN where there is no such frame.
    """
    frames = []
    for runs in measured.sequences:
        kept = np.array(
            [np.where(settled(run.codes, burn_in_frames), run.overlaps, np.nan) for run in runs]
        )
        tracked = ~np.isnan(kept)
        seen = tracked.any(axis=0)
        frames.append(np.nansum(kept, axis=0)[seen] / tracked.sum(axis=0)[seen])
    return _mean(np.concatenate(frames))


def paper_robustness(measured: VotRuns) -> float:
    """Failures per 100 frames, averaged over repetitions: the ``R`` of the paper's Table 5."""
    failures = sum(_mean_failures(runs) for runs in measured.sequences)
    return 100 * failures / sum(len(runs[0].codes) for runs in measured.sequences)


def paper_eao(measured: VotRuns, lengths: tuple[int, int] = VOT2018_LENGTHS) -> float:
    """Mean of `paper_eao_curve` over that part of a range of lengths which the curve reaches; NaN
    where it reaches none.

    The legacy code reads the curve one frame before `official_eao` does.
    """
    return _mean(paper_eao_curve(measured)[lengths[0] - 1 : lengths[1]])


def paper_eao_curve(measured: VotRuns) -> Float[ndarray, "lengths"]:
    """Expected overlap up to each frame of a sequence; index 0, the start itself, is 1.

    A fragment goes from one start to the next one, which it includes. Frames without a box count
    zero, and so does all that would follow a failure.
    """
    fragments, weights, failed = [], [], []
    for runs in measured.sequences:
        for run in runs:
            starts = [0, *np.flatnonzero(run.codes[1:] == INITIALIZED) + 1]
            last_failure = max(np.flatnonzero(run.codes == FAILED), default=-1)
            # A restart that would fall just behind the sequence still ends the fragment before it.
            if (
                last_failure + VOT_RESETS.restart_after_frames == len(run.codes)
                and last_failure >= 0
            ):
                starts.append(len(run.codes))
            overlaps = np.nan_to_num(run.inner_overlaps)
            for start, following in zip(starts, [*starts[1:], None], strict=True):
                fragments.append(overlaps[start : None if following is None else following + 1])
                failed.append(following is not None)
                rest = len(run.codes) - start
                # The legacy code counts a frame behind the sequence, which then has no weight.
                behind = following == len(run.codes)
                weights.append((rest / (rest + 1) if behind else 1.0) / len(runs))
    longest = int(_lengths(measured).max())
    curve = _expected_overlap(fragments, np.array(failed), np.array(weights), longest)
    curve[0] = 1.0
    return curve


def official_accuracy(measured: VotRuns, burn_in_frames: int = VOT_RESETS.burn_in_frames) -> float:
    """Mean overlap of each sequence, burn-in left out and averaged over repetitions; then averaged
    with the sequences' lengths as weights. A run without such a frame counts zero.
    """
    means = []
    for runs in measured.sequences:
        kept = [
            run.official_overlaps[settled(run.codes, burn_in_frames) & (run.codes == TRACKED)]
            for run in runs
        ]
        means.append(np.mean([each.mean() if each.size else 0.0 for each in kept]))
    return float(np.average(means, weights=_lengths(measured)))


def official_robustness(measured: VotRuns) -> float:
    """Chance of following a target for `OFFICIAL_SENSITIVITY` frames: exp(-30 F / length), with the
    mean number of failures F weighted by the sequences' lengths.
    """
    lengths = _lengths(measured)
    failures = np.average([_mean_failures(runs) for runs in measured.sequences], weights=lengths)
    return float(np.exp(-OFFICIAL_SENSITIVITY * failures / lengths.mean()))


def official_eao(measured: VotRuns, lengths: tuple[int, int] = VOT2018_LENGTHS) -> float:
    """Mean of `official_eao_curve` over that part of a range of lengths which the curve reaches.

    NaN where it reaches none, or lacks a fragment of a length within.
    """
    return _mean(official_eao_curve(measured)[lengths[0] : lengths[1] + 1])


def official_eao_curve(measured: VotRuns) -> Float[ndarray, "lengths"]:
    """Expected overlap up to each frame of a sequence; index 0 is the start itself.

    A fragment goes from a start to the frame before its failure, after which all counts zero, or
    to the end of the sequence. All fragments weigh the same.
    """
    fragments, failed = [], []
    for runs in measured.sequences:
        for run in runs:
            failures = np.flatnonzero(run.codes == FAILED)
            starts = np.flatnonzero(run.codes == INITIALIZED)
            ends = [*failures, None][: len(starts)]
            overlaps = np.nan_to_num(run.official_overlaps)
            fragments += [overlaps[start:end] for start, end in zip(starts, ends, strict=True)]
            failed += [end is not None for end in ends]
    longest = max(map(len, fragments))
    return _expected_overlap(fragments, np.array(failed), np.ones(len(failed)), longest)


def settled(codes: Int[ndarray, "frames"], burn_in_frames: int) -> Bool[ndarray, "frames"]:
    """Frames that are not among the first few after an initialisation, that one included."""
    frames = np.arange(len(codes))
    starts = np.where(codes == INITIALIZED, frames, -len(codes) - burn_in_frames)
    return frames - np.maximum.accumulate(starts) >= burn_in_frames


def _expected_overlap(
    fragments: Sequence[Float[ndarray, "..."]],
    failed: Bool[ndarray, "fragments"],
    weights: Float[ndarray, "fragments"],
    num_lengths: int,
) -> Float[ndarray, "lengths"]:
    """Weighted mean, over the fragments that reach a length, of their mean overlap up to it.

    One that failed reaches every length, with zeros. The start's own frame does not count.
    """
    table = np.zeros((len(fragments), num_lengths))
    reaches = np.tile(failed[:, None], num_lengths)
    for row, fragment in enumerate(fragments):
        table[row, : len(fragment)] = fragment
        reaches[row, : len(fragment)] = True
    table[:, 0] = 0.0
    means = np.cumsum(table, axis=1) / np.maximum(np.arange(num_lengths), 1)
    weight = weights[:, None] * reaches
    with np.errstate(invalid="ignore"):
        return (means * weight).sum(axis=0) / weight.sum(axis=0)


def _mean_failures(runs: SequenceRuns) -> float:
    return float(np.mean([(run.codes == FAILED).sum() for run in runs]))


def _lengths(measured: VotRuns) -> Float[ndarray, "sequences"]:
    return np.array([len(runs[0].codes) for runs in measured.sequences], dtype=np.float64)


def _mean(values: Float[ndarray, "values"]) -> float:
    """Mean; NaN of nothing."""
    return float(values.mean()) if values.size else float("nan")


VOT2018_METRICS = (
    Metric[VotRuns](
        name="eao",
        unit="expected overlap over lengths 100 to 356, legacy code as in the paper",
        higher_is_better=True,
        read=paper_eao,
        per_sequence=False,
    ),
    Metric[VotRuns](
        name="accuracy",
        unit="mean overlap after burn-in, legacy code as in the paper",
        higher_is_better=True,
        read=paper_accuracy,
    ),
    Metric[VotRuns](
        name="robustness",
        unit="failures per 100 frames, as in the paper",
        higher_is_better=False,
        read=paper_robustness,
    ),
    Metric[VotRuns](
        name="official_eao",
        unit="expected overlap over lengths 100 to 356, today's VOT toolkit",
        higher_is_better=True,
        read=official_eao,
        per_sequence=False,
    ),
    Metric[VotRuns](
        name="official_accuracy",
        unit="mean overlap after burn-in, today's VOT toolkit",
        higher_is_better=True,
        read=official_accuracy,
    ),
    Metric[VotRuns](
        name="official_robustness",
        unit="chance of 30 frames without failure, today's VOT toolkit",
        higher_is_better=True,
        read=official_robustness,
    ),
)
"""What VOT-2018 reports, in both definitions."""
