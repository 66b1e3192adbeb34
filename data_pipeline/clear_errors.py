"""How a script ends on an error that its user can mend: with its message, and exit code 1."""

from collections.abc import Iterator
from contextlib import contextmanager

OWN_PACKAGES = ("data_pipeline", "meta_train", "eval_jobs", "search_spaces")
"""Whose error classes have messages for users: what was expected, what came, what to do."""


@contextmanager
def clear_errors(*others: type[Exception]) -> Iterator[None]:
    """Ends the process without a traceback on an error of the project's own; also a decorator.

    An error that Ray brings from another process counts as what it was there.

    Args:
        others: further classes whose messages are for users where this stands, such as
            `ValueError` while settings are read.

    Raises:
        SystemExit: in the place of such an error, which stands in its message.
    """
    try:
        yield
    except Exception as error:
        cause = error
        while isinstance(inner := getattr(cause, "cause", None), Exception):
            cause = inner
        is_own = type(cause).__module__.partition(".")[0] in OWN_PACKAGES
        if is_own or isinstance(cause, others):
            raise SystemExit(f"error: {cause}") from error
        raise
