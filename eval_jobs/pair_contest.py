"""Detectors that meet on the same held-out pair tasks: which tasks, and at which rates each."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial as with_arguments
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline.pair_tasks import PairTask, PairTasksConfig, draw_tasks
from eval_jobs.constant_rates import best_rate, constant
from eval_jobs.pair_scores import MEASURES, PairScore, Values, measure
from eval_jobs.result_files import named_folder
from meta_train import checkpoint as checkpoints
from meta_train.kernel_rates import Rates
from meta_train.learner import Learner
from meta_train.train_config import TrainConfig

logger = logging.getLogger(__name__)

TUNING = "tuning"
"""The subset of a `Part` of the tasks by which constant rates are chosen."""

_TASKS_AT_ONCE = 25
"""Tasks of a part: what a stopped command does again at most."""


class Part(NamedTuple):
    """Some tasks of a subset, which are measured and kept together."""

    subset: str
    """One of the contest's, or `TUNING`."""

    start: int
    """The first."""

    stop: int
    """Behind the last."""


Measured = Callable[[Part, Mapping[str, Rates]], dict[str, Values]]
"""The measures of a part's tasks under several choices of rates, by the choice's name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """One checkpoint."""

    name: str
    """How tables and plots call it."""

    digest: str
    """Of the checkpoint's content."""

    config: TrainConfig
    """Of its training."""

    learner: Learner
    """The detector."""

    @property
    def has_learned_rates(self) -> bool:
        """Whether its training learned rates of the inner loop."""
        return self.config.outer_loop.method == "maml" and bool(self.config.rates.learned_in)


def load_entries(texts: Sequence[str], device: str = "cpu") -> list[Entry]:
    """Checkpoints given as FOLDER or NAME=FOLDER.

    Raises:
        CheckpointError: one does not load.
        ValueError: there is none, or two have one name.
    """
    if not texts:
        raise ValueError("--checkpoints: at least one folder expected, got none")
    entries = []
    for text in texts:
        name, folder = named_folder(text, needs_name=False)
        loaded = checkpoints.load(folder, device)
        name = name or "/".join(Path(folder).parts[-2:])
        entries.append(
            Entry(
                name=name,
                digest=checkpoints.content_digest(folder),
                config=loaded.config,
                learner=loaded.learner,
            )
        )
    names = [entry.name for entry in entries]
    if len(set(names)) != len(names):
        raise ValueError(f"checkpoints need different names (NAME=FOLDER), got {', '.join(names)}")
    return entries


@dataclass(frozen=True, kw_only=True, eq=False)
class Contest:
    """The tasks, and what each detector does on them."""

    shards: str
    """Where the tasks' images are."""

    val_fraction: float
    """Share of the videos that no entry was trained on."""

    tasks: Mapping[str, Sequence[PairTask]]
    """What is reported on, by subset."""

    tuning: Sequence[PairTask]
    """What constant rates are chosen by; none where no entry needs it."""

    num_steps: int
    """Inner steps."""

    constant_rates: tuple[float, ...]
    """To choose from."""

    @classmethod
    def draw(
        cls,
        shards: str,
        config: PairTasksConfig,
        entries: Sequence[Entry],
        num_steps: int,
        constant_rates: tuple[float, ...],
    ) -> "Contest":
        """The contest of these entries.

        Which videos training leaves out depends on their names and on the share alone, and those of
        a smaller share are among those of a larger one. So the smallest share is held out by all.

        Raises:
            ShardError: the shards do not read, or hold too few tasks.
            ValueError: an entry left no videos out.
        """
        shares = {entry.name: entry.config.sampling.val_fraction for entry in entries}
        if min(shares.values()) == 0:
            raise ValueError(
                f"checkpoints trained with sampling.val_fraction above 0 expected, got {shares}: "
                "pair tasks must be of videos that training left out"
            )
        fraction = min(shares.values())
        tasks = draw_tasks(shards, config, part="report", val_fraction=fraction)
        if "look_alike" not in tasks and config.num_look_alikes:
            logger.warning(
                "%s: no held-out crop is known to show a look-alike, so there is no such subset. "
                "Shards know look-alikes of datasets that annotate several objects of a category "
                "in a frame (COCO), if they were cut by a version that stores them",
                shards,
            )
        tuning: Sequence[PairTask] = []
        if constant_rates and not all(entry.has_learned_rates for entry in entries):
            drawn = draw_tasks(shards, config, part="tuning", val_fraction=fraction)
            tuning = drawn["all"]
        return cls(
            shards=shards,
            val_fraction=fraction,
            tasks=tasks,
            tuning=tuning,
            num_steps=num_steps,
            constant_rates=constant_rates,
        )

    def tasks_of(self, subset: str) -> Sequence[PairTask]:
        """All tasks of a subset, or those for tuning."""
        return self.tuning if subset == TUNING else self.tasks[subset]

    def parts(self, subset: str) -> list[Part]:
        """What the tasks of a subset are measured in, in order."""
        count = len(self.tasks_of(subset))
        starts = range(0, count, _TASKS_AT_ONCE)
        return [Part(subset, start, min(start + _TASKS_AT_ONCE, count)) for start in starts]

    def tunes(self, entry: Entry) -> bool:
        """Whether an entry adapts at the best constant, too."""
        return bool(self.tuning) and not entry.has_learned_rates

    def num_tasks(self, entries: Sequence[Entry]) -> int:
        """Tasks in all, those for tuning among them."""
        own = sum(map(len, self.tasks.values()))
        return sum(own + self.tunes(each) * len(self.tuning) for each in entries)

    @property
    def text(self) -> str:
        """What was used for what."""
        videos = {(task.dataset, task.video) for tasks in self.tasks.values() for task in tasks}
        tuned = {(task.dataset, task.video) for task in self.tuning}
        chosen = f"; constant rates chosen on {len(self.tuning)} tasks of {len(tuned)} others"
        return (
            f"Reported on {len(videos)} videos and images that no checkpoint was trained on"
            f"{chosen if self.tuning else ''}. A run's `best` was chosen by the query loss on "
            "pairs of such videos, its `last` was not. ± is the standard error of the gain over "
            "videos."
        )


def measure_part(
    contest: Contest, entry: Entry, part: Part, variants: Mapping[str, Rates]
) -> dict[str, Values]:
    """The measures of a part's tasks."""
    tasks = contest.tasks_of(part.subset)[part.start : part.stop]
    return measure(entry.learner, variants, contest.shards, tasks, contest.num_steps)


def score_entry(
    contest: Contest, entry: Entry, measured: Measured | None = None
) -> list[PairScore]:
    """The scores of one detector: at its own rates, and at the best constant where it needs one.

    Args:
        contest: what it is asked.
        entry: the detector.
        measured: where the measures come from; `measure_part` where not given.

    Raises:
        ValueError: adaptation diverged at all constant rates.
    """
    measured = with_arguments(measure_part, contest, entry) if measured is None else measured
    variants = report_variants(entry, best_constant(contest, entry, measured))
    values = {
        subset: _joined(measured(part, variants) for part in contest.parts(subset))
        for subset in contest.tasks
    }
    return [
        PairScore(
            name=entry.name,
            rates=rates,
            tasks=contest.tasks,
            values={subset: by_rates[rates] for subset, by_rates in values.items()},
        )
        for rates in variants
    ]


def tuning_variants(contest: Contest, entry: Entry) -> dict[str, Rates]:
    """The constant rates to choose from."""
    return {f"{rate:g}": constant(entry.learner.rates, rate) for rate in contest.constant_rates}


def best_constant(contest: Contest, entry: Entry, measured: Measured) -> float | None:
    """The rate that does best on the tuning tasks; None for a detector that needs none.

    Raises:
        ValueError: adaptation diverged at all constant rates.
    """
    if not contest.tunes(entry):
        return None
    variants = tuning_variants(contest, entry)
    found = _joined(measured(part, variants) for part in contest.parts(TUNING))
    overlaps = {float(name): _final_overlap(values) for name, values in found.items()}
    logger.info("%s: overlap after adaptation by constant rate: %s", entry.name, overlaps)
    return best_rate(overlaps)


def report_variants(entry: Entry, rate: float | None) -> dict[str, Rates]:
    """A detector's own rates and, if there is one, the constant that was chosen for it."""
    rates = entry.learner.rates
    variants = {"learned" if entry.has_learned_rates else "initial": rates}
    if rate is not None:
        variants[f"best constant ({rate:g})"] = constant(rates, rate)
    return variants


def _joined(parts: Iterable[dict[str, Values]]) -> dict[str, Values]:
    """The measures of all parts' tasks, one after another."""
    found = list(parts)
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def _final_overlap(values: Values) -> float:
    """The mean overlap after all steps; NaN where adaptation diverged on every task."""
    losses = [MEASURES.index(name) for name in ("query_loss_cls", "query_loss_reg")]
    if not np.isfinite(values[:, losses, -1]).all(axis=1).any():
        return math.nan
    return float(values[:, MEASURES.index("iou"), -1].mean())
