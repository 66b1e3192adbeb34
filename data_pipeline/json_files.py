"""Small JSON files of ours, whose content is not to be trusted: a disk may have spoilt it."""

import json
from typing import Any

from data_pipeline.steady_storage import read_file


class StoredFileError(ValueError):
    """A file that a run or a preprocessing left is damaged; the message names it."""


def read_object(folder: str, name: str) -> dict[str, Any] | None:
    """The JSON object in a file of a folder, a path or URI; None where there is no file.

    Raises:
        StoredFileError: the file holds something else.
        StorageError: the storage does not answer, again and again.
    """
    text = read_file(folder, name)
    if text is None:
        return None
    path = f"{folder}/{name}"
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StoredFileError(
            f"{path}: a JSON object expected, it does not parse ({error}). The file is damaged: "
            "restore it, or delete it and what it belongs to."
        ) from error
    if not isinstance(content, dict):
        raise StoredFileError(
            f"{path}: a JSON object expected, got a {type(content).__name__}. The file is "
            "damaged: restore it, or delete it and what it belongs to."
        )
    return content
