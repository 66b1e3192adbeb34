"""Scripts join the cluster that they are told of, and no other."""

import socket

import pytest

from data_pipeline.ray_session import ClusterError, default_address, ray_session


def test_the_address_is_the_environments_or_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert default_address() == "local"
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert default_address() == "auto"


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "[::1]:{}"])
def test_a_cluster_that_does_not_answer_is_named_at_once(form: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = form.format(unused.getsockname()[1])
        with (
            pytest.raises(ClusterError, match=r"cannot be joined.*--address local") as raised,
            ray_session(address),
        ):
            pass
    assert repr(address) in str(raised.value)
