"""How scripts end on errors that their users can mend."""

import json
from pathlib import Path

import pytest
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

from data_pipeline.clear_errors import clear_errors, shortened
from data_pipeline.json_files import StoredFileError
from data_pipeline.manifest import ShardError
from data_pipeline.ray_session import ClusterError
from data_pipeline.synthetic_scenes import SyntheticConfig


class FromElsewhereError(RuntimeError):
    """As Ray wraps it: the text is the traceback over there."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("Traceback (most recent call last): ...")
        self.cause = cause


@pytest.mark.parametrize(
    "error",
    [
        ClusterError("start it"),
        StoredFileError("start it"),
        FromElsewhereError(FromElsewhereError(ShardError("start it"))),
        WorkerGroupError("", {0: UserExceptionWithTraceback(ShardError("start it"), "Traceback")}),
        ControllerError(ClusterError("start it")),
    ],
)
def test_an_error_of_ours_is_its_message(error: Exception) -> None:
    @clear_errors()
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == "error: start it", "which Python prints, and gives exit code 1"


def test_any_other_error_keeps_its_traceback_unless_it_is_named() -> None:
    for error in (ValueError("a bug"), FromElsewhereError(KeyError("a bug"))):
        with pytest.raises(type(error)), clear_errors():
            raise error
    with pytest.raises(SystemExit, match="error: seed must be"), clear_errors(ValueError):
        SyntheticConfig(seed=-1)


def test_a_library_s_value_error_keeps_its_traceback() -> None:
    with pytest.raises(ValueError), clear_errors(ValueError):
        json.loads("no JSON")
    with pytest.raises(SystemExit, match=r"error: .*gone"), clear_errors(OSError):
        Path("gone").read_text()


def test_a_text_that_is_too_long_says_so() -> None:
    assert shortened(ValueError("in full"), 7) == "in full"
    assert shortened("12345678", 7) == "1234567... (8 characters)"
