"""What `preprocess` tells of a run: what the shards hold, and what was left out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data_pipeline.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class PreprocessReport:
    """What came out of a run."""

    manifest: Manifest
    """What the folder holds."""

    dropped: dict[str, int]
    """How many frames were left out, by reason."""

    broken_images: tuple[str, ...]
    """Messages of the images that could not be read, where these are skipped."""

    images_written: int
    """Crops cut by this run; fewer than the folder's where it went on from another."""

    seconds: float
    """Duration of this run."""


def dropped_frames(notes: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many frames all shards leave out, by reason, from the notes in their footers."""
    return dict(sum((Counter(note["dropped"]) for note in notes), Counter()))


def describe(report: PreprocessReport) -> str:
    """A report in a few lines, for people."""
    manifest = report.manifest
    lines = [
        f"{name}: {c.videos} videos, {c.tracks} tracks, {c.rows} rows, {c.frames} frames, "
        f"{c.images} crops"
        for name, c in manifest.counts.items()
    ]
    lines += [f"frames left out, {reason}: {count}" for reason, count in report.dropped.items()]
    lines += [f"left out as broken: {message}" for message in report.broken_images]
    rate = report.images_written / report.seconds
    lines.append(
        f"{manifest.bytes / 1e6:.1f} MB; {report.images_written} crops written in "
        f"{report.seconds:.1f} s ({rate:.0f} a second); fingerprint {manifest.fingerprint[:12]}"
    )
    return "\n".join(lines)
