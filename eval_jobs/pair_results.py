"""Scores on pair tasks, on disk: one JSON file per detector, complete and checked or not used.

A file is named by all that its values depend on, so that a stopped command goes on, and what one
machine scored another one reports.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.clear_errors import shortened
from data_pipeline.manifest import read_manifest
from eval_jobs.pair_contest import Contest, Entry, score_entry
from eval_jobs.pair_scores import MEASURES, PairScore
from eval_jobs.results import ResultError, file_name, write_atomically

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
        write_atomically(path, json.dumps(content | {"sha256": _digest(content)}))
        return path

    def read(self, entry: Entry) -> list[PairScore] | None:
        """An entry's scores; None where there is no file.

        Raises:
            ResultError: the file is damaged or of something else. It is never repaired.
        """
        path = self.path(entry)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            claimed = content.pop("sha256")
            known = {name: content.get(name) for name in self._identity(entry)}
            if claimed != _digest(content) or known != self._identity(entry):
                raise ValueError("its content does not match its checksum or its name")
            return [self._score(entry, each) for each in content["scores"]]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ResultError(
                f"{path} cannot be used: {shortened(error, 200)}. "
                f"Delete it to score {entry.name} again."
            ) from error

    def read_or_score(
        self, entry: Entry, advance: Callable[[], None] = lambda: None
    ) -> list[PairScore]:
        """An entry's scores: those that are on disk, or new ones, which are kept.

        Args:
            entry: what is scored.
            advance: called once for each task.

        Raises:
            ResultError: as `read`.
            OSError: as `write`.
        """
        scores = self.read(entry)
        if scores is None:
            scores = score_entry(self.contest, entry, advance)
            self.write(entry, scores)
            return scores
        for _ in range(self.contest.num_tasks([entry])):
            advance()
        return scores

    def _score(self, entry: Entry, content: dict[str, Any]) -> PairScore:
        tasks = self.contest.tasks
        values = {subset: np.array(content["values"][subset], np.float64) for subset in tasks}
        for subset, each in values.items():
            expected = len(tasks[subset]), len(MEASURES), self.contest.num_steps + 1
            if each.shape != expected:
                raise ValueError(f"values of shape {expected} expected, got {each.shape}")
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


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
