"""How a script ends on an error that its user can mend: with its message, and exit code 1.

And how a long text stands in such a message.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

OWN_PACKAGES = ("data_pipeline", "meta_train", "eval_jobs", "search_spaces")
"""Whose error classes have messages for users: what was expected, what came, what to do."""


@contextmanager
def clear_errors(*others: type[Exception]) -> Iterator[None]:
    """Ends the process without a traceback on an error of the project's own; also a decorator.

    An error that Ray brings from another process counts as what it was there.

    Args:
        others: further classes whose messages are for users, such as `ValueError` of settings;
            where a library raised a `ValueError`, its traceback stays: that is a bug.

    Raises:
        SystemExit: in the place of such an error, which stands in its message.
    """
    try:
        yield
    except Exception as error:
        cause = innermost(error)
        is_own = type(cause).__module__.partition(".")[0] in OWN_PACKAGES
        is_told = isinstance(cause, others) and (
            isinstance(cause, OSError) or _is_raised_here(cause)
        )
        if is_own or is_told:
            raise SystemExit(f"error: {cause}") from error
        raise


def shortened(value: object, limit: int) -> str:
    """A value's text, or its beginning and how long it is where that is over a limit.

    >>> shortened("abc", 3), shortened("abcd", 3)
    ('abc', 'abc... (4 characters)')
    """
    text = str(value)
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


def innermost(error: Exception) -> Exception:
    """What Ray, Ray Train or Ray Tune wrapped, perhaps several times."""
    workers = getattr(error, "worker_failures", None) or {}
    inner = [getattr(error, name, None) for name in ("cause", "controller_failure", "_base_exc")]
    for candidate in (*inner, *workers.values()):
        if isinstance(candidate, Exception):
            return innermost(candidate)
    return error


def _is_raised_here(error: Exception) -> bool:
    """Whether the project itself raised an error in this process, and not a library."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = (*OWN_PACKAGES, "__main__")
    return bool(frames) and frames[-1].f_globals["__name__"].partition(".")[0] in names
