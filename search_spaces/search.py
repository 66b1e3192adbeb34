"""A search: knobs with what each may be, and a typed function from a choice to a complete config.

A search chooses by tuning sequences alone. Its best choices, the finalists, are then a study like
any other: several seeds, other sequences, and the starting point beside them.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Generic, Literal, TypeVar

from eval_jobs.pipeline import PipelineConfig
from eval_jobs.tracker_specs import TRACKER_VERSION, UPDATES_VERSION
from meta_train.checkpoint import content_digest
from search_spaces.measures import Measure
from search_spaces.sequence_parts import TuningConfig
from search_spaces.study import Cell, Study, grid
from search_spaces.training import training_fingerprint

Choice = TypeVar("Choice")

Value = int | float | str | bool | None
"""What a knob can be set to."""

MOST_CHECKED = 512
"""So many combinations of a space are tried for validity before a search starts."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """A knob with a few values."""

    values: tuple[Value, ...]
    """At least one."""

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) != len(self.values):
            raise ValueError(f"a knob needs different values, at least one, got {self.values}")


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A knob that may be anything between two numbers."""

    low: float
    """Least value."""

    high: float
    """Greatest value."""

    log: bool = False
    """Drawn evenly over orders of magnitude."""

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(
                "an interval needs low < high, and low > 0 where it is logarithmic, got "
                f"low={self.low}, high={self.high}, log={self.log}"
            )


Space = Mapping[str, Options | Interval]
"""What may vary, by the choice's field; other fields stay as in the starting point."""


SearchKind = Literal["tpe", "grid"]
"""Optuna's TPE with ASHA, or every combination, none stopped early."""


@dataclass(frozen=True, kw_only=True)
class Search(Generic[Choice]):
    """What is searched, and by what the best is chosen."""

    name: str
    """How MLflow's tag ``study`` and files call it."""

    title: str
    """How tables and plots write it."""

    space: Space
    """What may vary."""

    start: Choice
    """The starting point: the first trial, and a row of the final table."""

    configure: Callable[[Choice, PipelineConfig], PipelineConfig]
    """Makes a complete config from a choice and the base."""

    base: PipelineConfig
    """What all choices share."""

    tuning: TuningConfig
    """The sequences by which it chooses."""

    measures: tuple[Measure, ...]
    """Columns of the final table."""

    checkpoint: str = ""
    """Absolute folder of a trained detector that all choices track with; empty: each is trained,
    or found."""

    num_trials: int = 20
    """Choices to try, where there are so many."""

    num_finalists: int = 2
    """Choices to report on, beside the starting point."""

    seeds: tuple[int, ...] = (0,)
    """Of the finalists; the first is the search's."""

    def __post_init__(self) -> None:
        if not self.space:
            raise ValueError(f"search {self.name!r}: its space is empty; name at least one knob")
        known = [entry.name for entry in fields(self.start)]  # type: ignore[arg-type]
        unknown = sorted(set(self.space) - set(known))
        if unknown:
            raise ValueError(
                f"search {self.name!r}: no such knobs: {unknown}; there are {', '.join(known)}"
            )
        outside = {
            name: getattr(self.start, name)
            for name, knob in self.space.items()
            if not _holds(knob, getattr(self.start, name))
        }
        if outside:
            raise ValueError(
                f"search {self.name!r}: the starting point, its first trial, lies outside the "
                f"space in {outside}; widen these knobs or start elsewhere"
            )
        if min(self.num_trials, self.num_finalists, len(self.seeds)) < 1:
            raise ValueError(
                "a search needs at least one trial, one finalist and one seed, got "
                f"{self.num_trials}, {self.num_finalists} and {self.seeds}"
            )
        self._require_valid()

    def choice(self, values: Mapping[str, Value]) -> Choice:
        """The starting point with these knobs set."""
        return replace(self.start, **values)  # type: ignore[type-var]

    def config(self, values: Mapping[str, Value]) -> PipelineConfig:
        """The complete config of these knobs, with the search's seed."""
        config = self.configure(self.choice(values), self.base)
        return replace(config, train=replace(config.train, seed=self.seeds[0]))

    @property
    def starting_values(self) -> dict[str, Value]:
        """The starting point's knobs."""
        return {name: getattr(self.start, name) for name in self.space}

    @property
    def search_id(self) -> str:
        """The name and a digest of all that a trial's number depends on, but for the sequences.

        Where the data lie and on what it runs does not count; with a checkpoint, neither do they.
        """
        evaluation = replace(self.base.evaluation, folder="", device="cpu", gpus_per_task=0.0)
        content = {
            "space": {name: asdict(knob) for name, knob in self.space.items()},
            "start": asdict(self.start),  # type: ignore[call-overload]
            "seed": self.seeds[0],
            "train": "" if self.checkpoint else training_fingerprint(self.config({})),
            "checkpoint": content_digest(self.checkpoint) if self.checkpoint else "",
            "synthetic": None if self.base.synthetic is None else asdict(self.base.synthetic),
            "evaluation": asdict(evaluation),
            "tracker": [TRACKER_VERSION, UPDATES_VERSION],
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:8]}"

    def num_choices(self, kind: SearchKind) -> int:
        """How many choices it tries: ``num_trials``, or as many as there are.

        Raises:
            ValueError: a grid has an interval.
        """
        if kind == "grid":
            return len(all_choices(self.space))
        sizes = [len(knob.values) for knob in self.space.values() if isinstance(knob, Options)]
        is_endless = len(sizes) < len(self.space)
        return self.num_trials if is_endless else min(self.num_trials, math.prod(sizes))

    def finals(self, best: Mapping[str, Mapping[str, Value]]) -> Study:
        """The study of the starting point and the finalists, by their names, on other sequences."""
        found = {"start": self.starting_values} | dict(best)
        return Study(
            name=self.name,
            title=self.title,
            variants=grid(
                [Cell(name=name, choice=self.choice(values)) for name, values in found.items()],
                self.configure,
                self.base,
                self.seeds[:1] if self.checkpoint else self.seeds,
                checkpoint=self.checkpoint,
            ),
            measures=self.measures,
            tuning=self.tuning,
        )

    def _require_valid(self) -> None:
        """Every combination must make a valid config; of a large space, every two knobs."""
        refused = []
        for values in _to_check(self.space):
            try:
                self.config(values)
            except (ValueError, LookupError, TypeError) as error:
                refused.append(f"- {values}: {type(error).__name__}: {error}")
        if refused:
            shown = "\n".join(refused[:10]) + ("\n- ..." if len(refused) > 10 else "")
            raise ValueError(
                f"search {self.name!r}: {len(refused)} choices make no valid config, so nothing "
                f"was started; mend or remove them:\n{shown}"
            )


def _to_check(space: Space) -> Iterator[dict[str, Value]]:
    """All combinations of values and ends of intervals; of two knobs each where they are many."""
    ends = {name: _ends(knob) for name, knob in space.items()}
    if math.prod(len(values) for values in ends.values()) <= MOST_CHECKED:
        for combination in itertools.product(*ends.values()):
            yield dict(zip(ends, combination, strict=True))
    else:
        for pair in itertools.combinations(ends, min(2, len(ends))):
            for values in itertools.product(*(ends[name] for name in pair)):
                yield dict(zip(pair, values, strict=True))


def _holds(knob: Options | Interval, value: Value) -> bool:
    if isinstance(knob, Options):
        return value in knob.values
    return isinstance(value, int | float) and knob.low <= value <= knob.high


def _ends(knob: Options | Interval) -> tuple[Value, ...]:
    return knob.values if isinstance(knob, Options) else (knob.low, knob.high)


def all_choices(space: Space) -> list[dict[str, Value]]:
    """Every combination of a space: what a grid tries.

    Raises:
        ValueError: a knob is an interval.
    """
    endless = [name for name, knob in space.items() if isinstance(knob, Interval)]
    if endless:
        raise ValueError(f"a grid needs knobs with a few values; these are intervals: {endless}")
    ends = {name: _ends(knob) for name, knob in space.items()}
    return [
        dict(zip(ends, combination, strict=True))
        for combination in itertools.product(*ends.values())
    ]
