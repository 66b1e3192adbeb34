"""How scripts end on errors that their users can mend."""

import pytest

from data_pipeline.clear_errors import clear_errors
from data_pipeline.json_files import StoredFileError
from data_pipeline.manifest import ShardError
from data_pipeline.ray_session import ClusterError


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
    with pytest.raises(SystemExit, match="error: no such setting"), clear_errors(ValueError):
        raise ValueError("no such setting")
