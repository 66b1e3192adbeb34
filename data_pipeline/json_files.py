"""Small JSON files of ours, whose content is not to be trusted: a disk may have spoilt it."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from data_pipeline.clear_errors import shortened
from data_pipeline.steady_storage import read_file

T = TypeVar("T")


class StoredFileError(ValueError):
    """A file that a run or a preprocessing left is damaged; the message names it."""


def read_object(folder: str, name: str) -> dict[str, Any] | None:
    """The JSON object in a file of a folder, a path or URI; None where there is no file.

    Raises:
        StoredFileError: the file holds something else.
        StorageError: the storage does not answer, again and again.
    """
    return read_parsed(
        folder,
        name,
        _object,
        expected="a JSON object",
        remedy="The file is damaged: restore it, or delete it and what it belongs to.",
    )


def _object(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"got a {type(content).__name__}")
    return content


def read_parsed(
    folder: str, name: str, parse: Callable[[bytes], T], *, expected: str, remedy: str
) -> T | None:
    """What a file of a folder, a path or URI, holds; None where there is no file.

    Args:
        folder: where it lies.
        name: its path in there.
        parse: makes of its bytes what it holds; raises ValueError where it cannot.
        expected: what that is, for the error.
        remedy: a sentence, for the error: what to do.

    Raises:
        StoredFileError: the file holds something else.
        StorageError: the storage does not answer, again and again.
    """
    text = read_file(folder, name)
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise StoredFileError(
            f"{folder}/{name}: {expected} expected ({shortened(error, 500)}). {remedy}"
        ) from error
