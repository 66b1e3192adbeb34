"""A search algorithm of Ray Tune that suggests nothing twice."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from ray.tune.search import Searcher

logger = logging.getLogger(__name__)

_MOST_REPEATS = 100
"""So many suggestions in a row that were made before end a search: little else can be left."""


class Unrepeated(Searcher):  # type: ignore[misc]
    """Asks another algorithm anew where it suggests what was tried, or is being tried.

    TPE does so where knobs have a few values; a training would be done for nothing.
    """

    def __init__(self, inner: Searcher) -> None:
        """Takes the other algorithm."""
        super().__init__(metric=inner.metric, mode=inner.mode)
        self._inner = inner
        self._known: dict[str, float | None] = {}  # what came of a choice, by `_key`
        self._asked: dict[str, tuple[str, str]] = {}  # the inner algorithm's id and the choice

    def suggest(self, trial_id: str) -> Any:
        """The next choice that is new; Tune's FINISHED where none is found."""
        for number in range(_MOST_REPEATS):
            name = f"{trial_id}-{number}"
            values = self._inner.suggest(name)
            if not isinstance(values, dict):
                return values
            key = _key(values)
            if key not in self._known:
                self._known[key] = None
                self._asked[trial_id] = name, key
                return values
            # Told nothing, it would suggest the same again.
            known = self._known[key]
            self._inner.on_trial_complete(name, None if known is None else {self.metric: known})
        logger.info("all choices were tried, or no other one is suggested")
        return Searcher.FINISHED

    def add_tried(self, values: Mapping[str, Any], result: float | None) -> None:
        """Takes a choice that was tried before: it is not suggested, but counts."""
        self._known[_key(values)] = result
        self._inner.add_evaluated_point(dict(values), result, error=result is None)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Passes a result on."""
        self._inner.on_trial_result(self._asked[trial_id][0], result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Passes an end on."""
        name, key = self._asked[trial_id]
        self._known[key] = (result or {}).get(self.metric)
        self._inner.on_trial_complete(name, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Saves the other algorithm's state; what was tried is the caller's to keep."""
        self._inner.save(checkpoint_path)

    def restore(self, checkpoint_path: str) -> None:
        """Restores the other algorithm's state."""
        self._inner.restore(checkpoint_path)


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)
