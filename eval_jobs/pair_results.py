"""Scores on pair tasks, on disk: one JSON file per detector, complete and checked or not used.

A file is named by all that its values depend on, so that what one machine scored another one
reports. Until it is written, a folder beside it holds the measures part by part, so that a stopped
command goes on.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial as with_arguments
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from data_pipeline.clear_errors import shortened
from data_pipeline.manifest import read_manifest
from eval_jobs.pair_contest import (
    TUNING,
    Contest,
    Entry,
    Part,
    best_constant,
    measure_part,
    report_variants,
    score_entry,
    tuning_variants,
)
from eval_jobs.pair_scores import MEASURES, PairScore, Values
from eval_jobs.results import ResultError, file_name, write_atomically
from meta_train.kernel_rates import Rates

logger = logging.getLogger(__name__)

Found = TypeVar("Found")

SCHEMA = "tracking-maml-pair-scores/1"
"""Rises whenever the same detector and tasks would give other values."""


@dataclass(frozen=True, kw_only=True)
class PairResults:
    """Where the scores of the entries of one contest lie."""

    folder: Path
    """The output folder of all evaluations."""

    contest: Contest
    """What the entries meet on."""

    def path(self, entry: Entry) -> Path:
        """The file of one entry."""
        name = f"{file_name(entry.name)}-{self._fingerprint(entry)[:12]}.json"
        return self.folder / "pair_tasks" / name

    def write(self, entry: Entry, scores: list[PairScore]) -> Path:
        """Puts an entry's scores in their place, in one step.

        Raises:
            OSError: the disk is full or not writable; what was there before stays.
        """
        content = self._identity(entry) | {
            "scores": [
                {
                    "rates": score.rates,
                    "values": {subset: each.tolist() for subset, each in score.values.items()},
                }
                for score in scores
            ]
        }
        path = self.path(entry)
        _write(path, content)
        return path

    def read(self, entry: Entry) -> list[PairScore] | None:
        """An entry's scores; None where there is no file.

        Raises:
            ResultError: the file is damaged or of something else. It is never repaired.
        """

        def scores(content: dict[str, Any]) -> list[PairScore]:
            return [self._score(entry, each) for each in content["scores"]]

        return _read(self.path(entry), self._identity(entry), scores)

    def read_or_score(
        self, entry: Entry, advance: Callable[[int], None] = lambda num_tasks: None
    ) -> list[PairScore]:
        """An entry's scores: those that are on disk, or new ones, which are kept.

        What was measured is kept part by part, so that a stopped command goes on.

        Args:
            entry: what is scored.
            advance: called with the number of tasks that were done.

        Raises:
            ResultError: as `read`.
            OSError: as `write`.
        """
        scores = self.read(entry)
        if scores is not None:
            self._remove_parts(entry)
            advance(self.contest.num_tasks([entry]))
            return scores

        def measured(part: Part, variants: Mapping[str, Rates]) -> dict[str, Values]:
            values = self._measured(entry, part, variants)
            advance(part.stop - part.start)
            return values

        scores = score_entry(self.contest, entry, measured)
        self.write(entry, scores)
        self._remove_parts(entry)
        return scores

    def choose_constant(self, entry: Entry) -> float | None:
        """As `best_constant`, from the parts that are on disk or new ones, which are kept."""
        return best_constant(self.contest, entry, with_arguments(self._measured, entry))

    def measure(self, entry: Entry, part: Part, rate: float | None = None) -> None:
        """Measures and keeps a part, unless it or the entry's scores are there.

        Args:
            entry: what is scored.
            part: some of the tasks.
            rate: the constant that was chosen for the entry; nothing to tasks of `TUNING`.

        Raises:
            ResultError: as `read`.
            OSError: as `write`.
        """
        if self.read(entry) is not None:
            return
        variants = report_variants(entry, rate)
        if part.subset == TUNING:
            variants = tuning_variants(self.contest, entry)
        self._measured(entry, part, variants)

    def _measured(
        self, entry: Entry, part: Part, variants: Mapping[str, Rates]
    ) -> dict[str, Values]:
        """A part's measures: those on disk, or new ones, which are kept."""
        identity = self._identity(entry) | {"part": list(part), "rates": list(variants)}
        name = f"{part.subset}-{part.start}-{_digest(identity)[:12]}.json"
        path = self._folder_of_parts(entry) / name
        shape = part.stop - part.start, len(MEASURES), self.contest.num_steps + 1

        def values(content: dict[str, Any]) -> dict[str, Values]:
            return {name: _array(content["values"][name], shape) for name in variants}

        known = _read(path, identity, values)
        if known is not None:
            return known
        found = measure_part(self.contest, entry, part, variants)
        _write(path, identity | {"values": {name: each.tolist() for name, each in found.items()}})
        return found

    def _folder_of_parts(self, entry: Entry) -> Path:
        return self.path(entry).with_suffix(".parts")

    def _remove_parts(self, entry: Entry) -> None:
        """Takes away what the scores are made of, once they are kept."""
        try:
            shutil.rmtree(self._folder_of_parts(entry))
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.warning("%s stays: %s", self._folder_of_parts(entry), error)

    def _score(self, entry: Entry, content: dict[str, Any]) -> PairScore:
        tasks = self.contest.tasks
        sizes = len(MEASURES), self.contest.num_steps + 1
        values = {
            subset: _array(content["values"][subset], (len(tasks[subset]), *sizes))
            for subset in tasks
        }
        return PairScore(name=entry.name, rates=content["rates"], tasks=tasks, values=values)

    def _identity(self, entry: Entry) -> dict[str, Any]:
        """What a file says that it is of."""
        return {"schema": SCHEMA, "name": entry.name, "fingerprint": self._fingerprint(entry)}

    def _fingerprint(self, entry: Entry) -> str:
        """Changes with the checkpoint, the crops, the tasks and the rates to choose from."""
        contest = self.contest
        needs_constant = not entry.has_learned_rates
        return _digest(
            {
                "schema": SCHEMA,
                "checkpoint": entry.digest,
                "shards": read_manifest(contest.shards).fingerprint,
                "tasks": contest.tasks,
                "tuning": contest.tuning if needs_constant else [],
                "constant_rates": contest.constant_rates if needs_constant else [],
                "num_steps": contest.num_steps,
            }
        )


def _array(values: Any, shape: tuple[int, ...]) -> Float[ndarray, "..."]:
    array = np.array(values, np.float64)
    if array.shape != shape:
        raise ValueError(f"values of shape {shape} expected, got {array.shape}")
    return array


def _write(path: Path, content: dict[str, Any]) -> None:
    """A file that tells whether it is whole, in one step."""
    write_atomically(path, json.dumps(content | {"sha256": _digest(content)}))


def _read(
    path: Path, identity: dict[str, Any], understand: Callable[[dict[str, Any]], Found]
) -> Found | None:
    """What a file of `_write` holds, if it is of ``identity``; None where there is no file.

    Raises:
        ResultError: the file is damaged or of something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        claimed = content.pop("sha256")
        known = {name: content.get(name) for name in identity}
        if claimed != _digest(content) or known != identity:
            raise ValueError("its content does not match its checksum or its name")
        return understand(content)
    except FileNotFoundError:
        return None
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise ResultError(
            f"{path} cannot be used: {shortened(error, 200)}. "
            f"Delete it to score {identity['name']} again."
        ) from error


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
