"""Which of several Ray clusters on a machine is a run's own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def own_cluster() -> Iterator[None]:
    """Tells Ray Train's own actors, for the time of a block, which cluster is theirs.

    One of them asks the cluster whether the run is still alive, and takes its workers away if not.
    Without an address it may ask another Ray on the same machine, which knows of no such run.
    """
    import ray
    from ray.train.v2._internal import constants

    constants.ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    try:
        yield
    finally:
        if before is None:
            del os.environ["RAY_ADDRESS"]
        else:
            os.environ["RAY_ADDRESS"] = before
