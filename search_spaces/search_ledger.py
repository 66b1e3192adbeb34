"""What a search has tried so far, a file per choice, so that a killed search goes on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from eval_jobs.results import write_atomically
from search_spaces.search import SearchKind, Value

OBJECTIVE = "tuning/auc"
"""What a search maximises: the mean score over its tuning sequences."""

Ending = Literal["started", "finished", "stopped", "failed"]
"""``stopped``: early, by ASHA."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One choice and what came of it."""

    values: dict[str, Value]
    """Its knobs."""

    ending: Ending
    """How it ended; ``started`` where it was killed on the way."""

    metrics: dict[str, float] = field(default_factory=dict)
    """The last that it reported."""

    seconds: float = 0.0
    """What it took."""

    error: str = ""
    """What stopped it: type and message."""

    mlflow_run_id: str = ""
    """Its run."""

    @property
    def trial_id(self) -> str:
        """A digest of its knobs."""
        content = json.dumps(self.values, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:10]

    def is_done(self, kind: SearchKind) -> bool:
        """Whether a search of this kind is done with it: what was killed or failed is tried again,
        and by a grid what another kind stopped early.
        """
        return self.ending == "finished" or (self.ending == "stopped" and kind != "grid")

    @property
    def objective(self) -> float | None:
        """What is maximised; None where it has none."""
        return self.metrics.get(OBJECTIVE)


_TRIED = TypeAdapter(Tried)


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The tried choices of one search."""

    folder: Path
    """Takes the files."""

    def write(self, tried: Tried) -> None:
        """Keeps what came of a choice, over what was known of it."""
        write_atomically(self.folder / f"{tried.trial_id}.json", json.dumps(asdict(tried)))

    def find(self, trial_id: str) -> Tried | None:
        """What is known of one choice; None where it was never tried.

        Raises:
            ValueError: its file is damaged; it names it.
        """
        path = self.folder / f"{trial_id}.json"
        return _read(path) if path.is_file() else None

    def read(self) -> list[Tried]:
        """All that was tried, in the order in which it was last written down.

        Raises:
            ValueError: a file is damaged; it names it.
        """
        paths = sorted(self.folder.glob("*.json"), key=lambda path: (path.stat().st_mtime, path))
        return [_read(path) for path in paths]


def _read(path: Path) -> Tried:
    try:
        return _TRIED.validate_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{path}: not the record of a tried choice ({error}); delete it, and the choice is "
            "tried again"
        ) from error


def finalists(
    tried: Sequence[Tried], count: int, start: Mapping[str, Value]
) -> dict[str, Mapping[str, Value]]:
    """The best choices that were not stopped early, best first: ``best1``, ``best2``, ...

    The starting point is not among them: the final table has it anyway. Where nothing else ended
    well there are none.

    Raises:
        ValueError: none ended well.
    """
    ended = [each for each in tried if each.ending == "finished" and each.objective is not None]
    if not ended:
        endings = ", ".join(f"{each.ending} {each.error}".strip() for each in tried[:5])
        endings += ", ..." if len(tried) > 5 else ""
        raise ValueError(
            f"none of the {len(tried)} choices that were tried ended well and reported "
            f"{OBJECTIVE!r}: {endings or 'nothing was tried'}"
        )
    others = [each for each in ended if each.values != start]
    ranked = sorted(others, key=lambda each: -float(each.objective or 0.0))
    return {f"best{rank}": each.values for rank, each in enumerate(ranked[:count], start=1)}
