"""URIs of storage and servers: they are written to logs and MLflow, so they hold no secret."""

import re
from urllib.parse import parse_qsl, urlsplit

_SECRET = re.compile(r"password|passwd|secret|token|credential|signature|key|sig\b|sas\b", re.I)


def expect_no_secret(uri: str, name: str) -> None:
    """Raises `ValueError`, which does not repeat it, if a URI holds a password or a key.

    >>> expect_no_secret("s3://bucket/runs?region=eu-west-1", "storage")

    Args:
        uri: a URI; plain paths pass.
        name: what the message calls it.
    """
    if "://" not in uri:
        return
    try:
        parts = urlsplit(uri)
        secret = parts.password is not None
    except ValueError:
        return  # no URI; whoever opens it says so
    given = [option for option, _ in parse_qsl(parts.query) if _SECRET.search(option)]
    if secret or given:
        what = f"the option {given[0]!r}" if given else "a password"
        raise ValueError(
            f"{name}: a URI without credentials expected, since it is written to logs and MLflow; "
            f"got {parts.scheme}://... with {what}. Give them in the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, PGPASSFILE), or through the machine's role."
        )
