"""Which run in MLflow belongs to a folder of ours: what is gone on with logs to the same one."""

import json

from data_pipeline.clear_errors import shortened
from data_pipeline.json_files import StoredFileError, read_object
from data_pipeline.steady_storage import write_file

_FILE = "mlflow_run.json"


def mlflow_run_of(storage: str, folder: str) -> str | None:
    """MLflow's id of the run that a folder in a storage logs to; None where it has none yet.

    Raises:
        StoredFileError: the folder's note of it is damaged.
    """
    content = read_object(storage, f"{folder}/{_FILE}")
    if content is None:
        return None
    if not isinstance(run_id := content.get("run_id"), str):
        raise StoredFileError(
            f"{storage}/{folder}/{_FILE}: the id of a run in MLflow under 'run_id' expected, got "
            f"{shortened(repr(run_id), 80)}. Delete the file, and a new run is begun there."
        )
    return run_id


def keep_mlflow_run(storage: str, folder: str, run_id: str) -> None:
    """Notes MLflow's id of the run that a folder logs to."""
    write_file(storage, f"{folder}/{_FILE}", json.dumps({"run_id": run_id}).encode())
