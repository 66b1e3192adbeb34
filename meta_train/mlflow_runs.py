"""Which run in MLflow belongs to a folder of ours: what is gone on with logs to the same one."""

import json

from data_pipeline.json_files import StoredFileError, read_object
from data_pipeline.storage import atomic_output, open_folder

_FILE = "mlflow_run.json"


def mlflow_run_of(storage: str, folder: str) -> str | None:
    """MLflow's id of the run that a folder in a storage logs to; None where it has none yet.

    Raises:
        StoredFileError: the folder's note of it is damaged.
    """
    filesystem, root = open_folder(storage)
    path = f"{root}/{folder}/{_FILE}"
    content = read_object(filesystem, path)
    if content is None:
        return None
    if not isinstance(run_id := content.get("run_id"), str):
        raise StoredFileError(
            f"{path}: the id of a run in MLflow under 'run_id' expected, got {run_id!r:.80}. "
            "Delete the file, and a new run is begun there."
        )
    return run_id


def keep_mlflow_run(storage: str, folder: str, run_id: str) -> None:
    """Notes MLflow's id of the run that a folder logs to."""
    filesystem, root = open_folder(storage)
    with atomic_output(filesystem, f"{root}/{folder}/{_FILE}") as stream:
        stream.write(json.dumps({"run_id": run_id}).encode())
