"""Small JSON files of ours, whose content is not to be trusted: a disk may have spoilt it."""

import json
from typing import Any

from pyarrow import fs


class StoredFileError(ValueError):
    """A file that a run or a preprocessing left is damaged; the message names it."""


def read_object(filesystem: fs.FileSystem, path: str) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no file.

    Raises:
        StoredFileError: the file holds something else.
    """
    try:
        with filesystem.open_input_stream(path) as stream:
            content = json.loads(stream.read())
    except FileNotFoundError:
        return None
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
