"""Starting Ray for a script, and giving it back."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def started_ray(address: str = "local") -> Iterator[None]:
    """A connection to Ray for the time of a block.

    Args:
        address: ``local`` starts Ray in this process and never attaches to a cluster that happens
            to run on the machine; ``auto`` or an address joins one.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    ray.init(address=address, log_to_driver=True, configure_logging=False)
    if address == "local":
        # Ray's own actors look the cluster up anew; without this they may find a stranger's.
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    try:
        yield
    finally:
        ray.shutdown()
        if address == "local":
            os.environ.pop("RAY_ADDRESS", None)
