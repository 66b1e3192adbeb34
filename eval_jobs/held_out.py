"""Training and benchmark sequences must not overlap; they are compared by name.

Tracking datasets borrow videos from each other, and a user's pool may hold a copy of a benchmark.
"""

from collections.abc import Iterable

from eval_jobs.benchmarks import Selection


class ContaminatedTrainingError(ValueError):
    """A benchmark's sequence is among the training videos."""


def require_disjoint(training_videos: Iterable[str], selection: Selection) -> None:
    """Compares the names of training videos with those of a benchmark's sequences.

    Case, separators and a leading dataset name such as ``OTB_`` do not count, so ``Car4``,
    ``car_4`` and ``OTB_Car4`` are one video; ``car-4`` is LaSOT's and another one.

    Raises:
        ContaminatedTrainingError: they share videos; it names ten of them at most.
    """
    held_out = {normalised(track.video): track.video for track in selection.tracks}
    shared = sorted({video for video in training_videos if normalised(video) in held_out})
    if shared:
        raise ContaminatedTrainingError(
            f"{selection.benchmark.title}: {len(shared)} of its sequences are among the training "
            f"videos by name: {', '.join(shared[:10])}{', ...' if len(shared) > 10 else ''}. A "
            "score on them would mean nothing. Take them out of the dataset folder and preprocess "
            "it again; if a name is the same by chance, rename the training video."
        )


_DATASET_PREFIXES = ("otb", "otb100", "otb2013", "tb50", "tb100", "vot", "vot2018", "lasot")


def normalised(video: str) -> str:
    """A video's name without case, separators and leading dataset name; hyphens stay.

    >>> normalised("OTB_Car4"), normalised("car-4")
    ('car4', 'car-4')
    """
    words = "".join(
        char if char.isalnum() or char == "-" else " " for char in video.lower()
    ).split()
    if len(words) > 1 and words[0] in _DATASET_PREFIXES:
        words = words[1:]
    return "".join(words)
