"""How far a training run is, on the terminal of its driver."""

import logging
import time

logger = logging.getLogger(__name__)


class Progress:
    """A bar on the driver's terminal, or a line now and then where it has none."""

    _SECONDS_BETWEEN_LINES = 15.0

    def __init__(self, title: str, total: int, *, bar: bool) -> None:
        from ray.experimental import tqdm_ray

        self._title, self._total = title, total
        self._done, self._spoke = 0, time.monotonic()
        self._bar = tqdm_ray.tqdm(desc=title, total=total, unit="step") if bar else None

    def show(self, iteration: int, text: str) -> None:
        """Takes the number of outer steps done."""
        if self._bar:
            self._bar.set_description(f"{self._title} {text}")
            self._bar.update(iteration - self._done)
        elif time.monotonic() - self._spoke > self._SECONDS_BETWEEN_LINES:
            logger.info("outer step %d of %d, %s", iteration, self._total, text)
            self._spoke = time.monotonic()
        self._done = iteration

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar:
            self._bar.close()
