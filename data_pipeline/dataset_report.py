"""What `check_dataset` tells of a dataset: counts, sizes, and what is wrong."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_pipeline.dataset_checks import Finding, ImageSize

EXAMPLES = 10
"""Findings of a kind that are kept in words; all are counted."""


@dataclass(kw_only=True)
class SplitReport:
    """What a split holds and what is wrong with it; filled while it is read."""

    split: str
    """Its name; empty where the layout has no splits."""

    num_videos: int = 0
    """Videos (or images, of a dataset of stills) that were found."""

    num_tracks: int = 0
    """Targets that could be read."""

    num_frames: int = 0
    """Frames of them, each once per target."""

    num_visible: int = 0
    """Frames that show the target."""

    num_usable: int = 0
    """Visible frames with a box that has an area and lies in the image."""

    num_reaching_out: int = 0
    """Usable boxes of which a part lies outside the image."""

    num_too_small: int = 0
    """Usable boxes that preprocessing leaves out for their size."""

    num_images: int = 0
    """Different frames of all tracks."""

    image_sizes: Counter[ImageSize] = field(default_factory=Counter)
    """Width and height of the images that were decoded."""

    box_sizes_px: list[float] = field(default_factory=list)
    """Median of sqrt(width x height) over each track's usable boxes."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How many findings there are of each severity and kind."""

    findings: list[Finding] = field(default_factory=list)
    """The first `EXAMPLES` of each kind."""

    def add(self, finding: Finding) -> None:
        """Counts a finding, and keeps it where there are few of its kind."""
        self.counts[finding.severity, finding.kind] += 1
        if self.counts[finding.severity, finding.kind] <= EXAMPLES:
            self.findings.append(finding)

    @property
    def is_usable(self) -> bool:
        """Whether there is something to read, and no error."""
        return bool(self.num_usable) and all(severity != "error" for severity, _ in self.counts)


@dataclass(frozen=True, kw_only=True)
class DatasetReport:
    """What a folder holds and what is wrong with it."""

    folder: Path
    """The dataset."""

    reader: str
    """Which of `READERS` reads it; empty where none does."""

    splits: tuple[SplitReport, ...]
    """One for each split that was looked at."""

    findings: tuple[Finding, ...] = ()
    """What is wrong with the folder as a whole."""

    @property
    def is_usable(self) -> bool:
        """Whether every split that was looked at can be used."""
        return bool(self.splits) and all(split.is_usable for split in self.splits)


def describe(report: DatasetReport) -> str:
    """A report in words, for people."""
    lines = [f"{report.folder}: layout of {report.reader}"] if report.splits else []
    for split in report.splits:
        lines.extend(_describe_split(split))
    lines.extend(f"error, {finding.kind}: {finding.message}" for finding in report.findings)
    if report.is_usable:
        lines.append("This dataset can be used.")
    else:
        lines.append("This dataset cannot be used as it is: mend the errors, and check it again.")
    return "\n".join(lines)


def _describe_split(report: SplitReport) -> Iterator[str]:
    name = report.split or "no split"
    yield (
        f"{name}: {report.num_videos} videos, {report.num_tracks} tracks, "
        f"{report.num_frames} frames, target visible in {report.num_visible}, "
        f"{report.num_usable} usable boxes ({report.num_reaching_out} reach out of the image)"
    )
    if report.image_sizes:
        yield _describe_images(report)
    if report.box_sizes_px:
        low, middle, high = np.percentile(report.box_sizes_px, [0, 50, 100])
        yield f"  boxes, sqrt(w x h), by track: {low:.0f} to {high:.0f} px, median {middle:.0f} px"
    for (severity, kind), count in sorted(report.counts.items()):
        yield f"  {severity}, {kind}: {count}"
        shown = [f for f in report.findings if (f.severity, f.kind) == (severity, kind)]
        yield from (f"    - {finding.message}" for finding in shown)
        if count > len(shown):
            yield f"    - ... and {count - len(shown)} more"


def _describe_images(report: SplitReport) -> str:
    decoded = report.image_sizes.total()
    part = "all" if decoded == report.num_images else f"{decoded} of {report.num_images}"
    small, large = min(report.image_sizes), max(report.image_sizes)
    (width, height), _ = report.image_sizes.most_common(1)[0]
    hint = "" if part == "all" else " (--deep decodes all)"
    return (
        f"  images: {part} decoded{hint}, {small[0]}x{small[1]} to {large[0]}x{large[1]}, "
        f"most {width}x{height}"
    )
