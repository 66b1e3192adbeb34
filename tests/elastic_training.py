"""Trains elastically while the cluster grows and shrinks; compares with a run of fixed size.

python tests/elastic_training.py                 # about a quarter of an hour on two cores

One worker at first, two when a second node comes, one again when a node is lost. The weights must
end as those of the fixed run, bit for bit: the same samples are added up in the same order.
"""

import random
import tempfile
from pathlib import Path

from kill_training import SETTINGS, VIDEOS
from local_machines import LONGEST_RUN_SECONDS, Driver, Machines, wait_for

from data_pipeline.ray_session import ray_session
from data_pipeline.synthetic_data import prepare
from meta_train.checkpoint import load

STEPS_PER_EPOCH = 500
LONGER = ["--train.outer-loop.iterations-per-epoch", str(STEPS_PER_EPOCH)]
# One pair at a time: what is computed of a pair does not depend on those beside it.
LONGER += ["--train.outer-loop.pairs-at-once", "1"]
ELASTIC = ["--train.scaling.min-workers", "1", "--train.scaling.resize-every-seconds", "5"]


def main() -> None:
    """A fixed run, then an elastic one."""
    machines = Machines(num_nodes=2)
    with tempfile.TemporaryDirectory(prefix="elastic-training-") as name:
        folder = Path(name)
        with ray_session(machines.address):
            shards = prepare(VIDEOS, folder / "runs").shards
        settings = [*SETTINGS, *LONGER, "--train.shards", shards]
        fixed = Driver(folder, "fixed", settings)
        elastic = Driver(folder, "elastic", [*settings, *ELASTIC])
        try:
            fixed.start(machines.address)
            fixed.finish()
            machines.remove_node(machines.a_node())
            elastic.start(machines.address)
            for count, change in ((1, "at first"), (2, "grown"), (1, "shrunk")):
                if change == "grown":
                    machines.add_node()
                if change == "shrunk":
                    machines.remove_node(machines.node_at_work(random.Random(0)))
                before = elastic.saved_steps()
                wait_for(
                    lambda n=count, b=before: (
                        len(machines.workers()) == n and elastic.saved_steps() > b
                    ),
                    LONGEST_RUN_SECONDS,
                    f"never on {count} workers",
                )
                assert not elastic.has_ended(), "the run was too short"
                print(f"{change}: {count} workers, step {elastic.saved_steps()}", flush=True)
            elastic.finish()
        finally:
            fixed.kill()
            elastic.kill()
        one, other = (load(folder / "runs" / run.run_id / "last") for run in (fixed, elastic))
        assert one.iteration == other.iteration == 2 * STEPS_PER_EPOCH
        differing = {
            name: float((tensor - second[name]).abs().max())
            for first, second in [(one.weights, other.weights), (one.rates, other.rates)]
            for name, tensor in first.items()
            if not tensor.equal(second[name])
        }
        assert not differing, f"the runs differ, by at most: {differing}"
    print("the weights and rates of both runs are the same, bit for bit")


if __name__ == "__main__":
    main()
