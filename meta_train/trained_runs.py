"""What finished runs left, findable by their config: a config is trained once in a storage.

A run that ended well has a ``result.json`` with the fingerprint of its config and its shards'
content. Whoever needs the same weights takes them from there.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.fs
from pydantic import TypeAdapter

from data_pipeline.clear_errors import shortened
from data_pipeline.json_files import StoredFileError, read_object
from data_pipeline.manifest import read_manifest
from data_pipeline.steady_storage import open_steady, write_file
from data_pipeline.storage import exists
from meta_train.train_config import TrainConfig, fingerprint

_RESULT_FILE = "result.json"


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run left."""

    run_id: str
    """Its name."""

    best: str
    """Folder of the checkpoint with the lowest held-out query loss after adaptation."""

    last: str
    """Folder of the checkpoint after the last outer step."""

    metrics: dict[str, float]
    """The best checkpoint's validation."""


_RESULT = TypeAdapter(TrainResult)


def keep_result(
    config: TrainConfig, storage: str, result: TrainResult, init_from: str | None
) -> None:
    """Writes a run's result into its folder.

    A run that started from another one's weights has no fingerprint: its config alone does not say
    what it learned.
    """
    data = read_manifest(config.shards).fingerprint
    content = asdict(result) | {
        "fingerprint": "" if init_from else fingerprint(config, data),
    }
    text = json.dumps(content, indent=1)
    write_file(storage, f"{result.run_id}/{_RESULT_FILE}", text.encode())


def _damaged(path: str, trouble: str) -> StoredFileError:
    return StoredFileError(
        f"{path}: the result of a finished run expected, got another content ({trouble}). Delete "
        "the file; the run is then trained again where it is asked for."
    )


def trained_runs(storage: str) -> dict[str, TrainResult]:
    """The finished runs of a storage by the fingerprint of what they trained.

    A run whose folder was moved is found where it is now; one whose checkpoint is gone is left out.
    """
    filesystem, root = open_steady(storage)
    folders = filesystem.get_file_info(pyarrow.fs.FileSelector(root, allow_not_found=True))
    found = {}
    for folder in sorted(folders, key=lambda info: info.base_name):
        path = f"{folder.base_name}/{_RESULT_FILE}"
        content = read_object(storage, path)
        checkpoint = f"{root}/{folder.base_name}/best/checkpoint.json"
        if content is None or not exists(filesystem, checkpoint):
            continue
        home = storage if "://" in storage else str(Path(storage).absolute())
        content |= {name: f"{home}/{folder.base_name}/{name}" for name in ("best", "last")}
        name = content.pop("fingerprint", None)
        try:
            result = _RESULT.validate_python(content)
        except ValueError as error:
            raise _damaged(f"{storage}/{path}", shortened(error, 500)) from error
        if not isinstance(name, str):
            raise _damaged(f"{storage}/{path}", f"fingerprint {shortened(repr(name), 80)}")
        if name:
            found[name] = result
    return found
