"""Kills training at random moments, again and again; compares it with a run that was left alone.

python tests/kill_training.py                    # 21 kills, about ten minutes on two cores
python tests/kill_training.py --kills 4 --seed 7 --kinds node driver
python tests/kill_training.py --kills 5 --seed 1 --folder kept    # in parts, on one whole run

`launch.py` trains on two workers of a Ray cluster of several nodes on this machine. What is killed
with SIGKILL: a ``worker`` process; a ``node`` with all that runs on it, for which a new one comes;
the ``driver``, which is then started again with ``--resume``; everything at once (``all``). Or a
node's end is announced, by SIGTERM to its workers (``sigterm``) or by Ray (``drain``), and comes
when they have saved.

Each run must end with the weights, rates and moments of the undisturbed one, bit for bit, and
MLflow must hold one run of it with each outer step once, with the same values.
"""

import argparse
import json
import random
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch
from local_machines import LONGEST_RUN_SECONDS, Driver, Machines, wait_for

from data_pipeline.ray_session import ray_session
from data_pipeline.synthetic_data import prepare
from data_pipeline.synthetic_scenes import SyntheticConfig
from meta_train.checkpoint import Checkpoint, load
from meta_train.run_store import MlflowClient

KINDS = ("worker", "node", "sigterm", "drain", "driver", "all")
VIDEOS = SyntheticConfig(num_train_videos=16, num_val_videos=2, frames_per_video=6)
STEPS_PER_EPOCH, STEPS_PER_CHECKPOINT = 60, 20
SETTINGS = f"""
--train.outer-loop.num-epochs 2 --train.outer-loop.iterations-per-epoch {STEPS_PER_EPOCH}
--train.outer-loop.second-order-from-epoch 1 --train.outer-loop.batch-pairs 4
--train.inner-loop.num-steps 2 --train.checkpoint-every {STEPS_PER_CHECKPOINT} --train.log-every 1
--train.detector.network.backbone.width 4 --train.detector.network.head.hidden-channels 4
--train.validation.num-pairs 4 --train.validation.batch-pairs 4
--train.sampling.val-fraction 0.25
--train.scaling.num-workers 2 --train.scaling.cpus-per-worker 1 --train.scaling.max-failures -1
""".split()
NUM_NODES = 2


def require_same(one: Checkpoint, other: Checkpoint) -> None:
    """Two checkpoints must agree in every bit of their tensors."""
    assert one.iteration == other.iteration == 2 * STEPS_PER_EPOCH
    assert one.config == other.config
    pairs = [(one.weights, other.weights), (one.rates, other.rates)]
    states = one.optimizer["state"], other.optimizer["state"]
    pairs += [(states[0][number], states[1][number]) for number in states[0]]
    for first, second in pairs:
        assert list(first) == list(second)
        for name, tensor in first.items():
            assert torch.equal(tensor, second[name]), f"{name} differs"


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    """The points of the meta-loss that MLflow holds of a run, in the order of their steps."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments, f"tags.run_id = '{name}'")
    assert run.info.status == "FINISHED", run.info.status
    history = client.get_metric_history(run.info.run_id, "train/meta_loss")
    return sorted((point.step, point.value) for point in history)


def require_equal_runs(folder: Path, whole: Driver, killed: Driver) -> None:
    """The killed run must have ended as the undisturbed one did."""
    one, other = (load(folder / "runs" / run.run_id / "last") for run in (whole, killed))
    require_same(one, other)
    points = curve(folder, killed.run_id)
    assert [step for step, _ in points] == list(range(1, 2 * STEPS_PER_EPOCH + 1)), points
    assert points == curve(folder, whole.run_id), "the curves differ"


class Killer:
    """Kills parts of a run, each kind as often as the others, in a random order."""

    def __init__(self, rng: random.Random, kinds: list[str]) -> None:
        self.machines = Machines(NUM_NODES)
        self._rng, self._kinds = rng, kinds
        self._left: list[str] = []
        self.num_notices = self.num_heeded = 0

    def kill(self, driver: Driver) -> str:
        """Kills something and says what; empty where the run ended before it could."""
        self._left = self._left or self._rng.sample(self._kinds, len(self._kinds))
        kind = self._left.pop()
        if kind not in ("driver", "all"):
            wait_for(
                lambda: self.machines.workers() or driver.has_ended(),
                LONGEST_RUN_SECONDS,
                "no worker starts",
            )
            if driver.has_ended():
                return ""
            with suppress(IndexError):  # the last worker ended meanwhile
                if kind == "worker":
                    return self.machines.kill_worker(self._rng)
                if kind == "node":
                    return self.machines.kill_node(self._rng)
                return self._kill_with_notice(driver, kind)
            return ""
        driver.kill()
        if kind == "all":
            self.machines.kill_all()
            self.machines = Machines(NUM_NODES)
        driver.start(self.machines.address)
        return "driver and all nodes" if kind == "all" else "driver"

    def _kill_with_notice(self, driver: Driver, kind: str) -> str:
        """A node's workers hear of its end, and it ends once they have saved."""

        def has_saved_since(step: int) -> bool:
            return driver.saved_steps() > step or driver.has_ended()

        node, before = self.machines.node_at_work(self._rng), driver.saved_steps()
        wait_for(lambda: has_saved_since(before), LONGEST_RUN_SECONDS, "no worker saves")
        at_notice = driver.saved_steps()
        self.machines.announce_end(node, kind)
        wait_for(lambda: has_saved_since(at_notice), LONGEST_RUN_SECONDS, "no worker heeds")
        saved = driver.saved_steps()
        self.num_notices += 1
        self.num_heeded += saved % STEPS_PER_CHECKPOINT != 0
        return f"{self.machines.kill_node(self._rng, node)} after {kind}, saved at step {saved}"


def undisturbed(folder: Path, settings: list[str], machines: Machines) -> tuple[Driver, float]:
    """The run that is left alone, unless the folder has it already; seconds to its checkpoint."""
    whole, note = Driver(folder, "whole", settings), folder / "whole.json"
    if not note.exists():
        began = time.monotonic()
        try:
            whole.start(machines.address)
            wait_for(whole.saved_steps, LONGEST_RUN_SECONDS, "no checkpoint")
            to_checkpoint = time.monotonic() - began
            whole.finish()
        finally:
            whole.kill()
        note.write_text(json.dumps({"to_checkpoint_seconds": to_checkpoint}))
        seconds = time.monotonic() - began
        print(f"undisturbed: {seconds:.0f} s, {to_checkpoint:.0f} to a checkpoint", flush=True)
    return whole, json.loads(note.read_text())["to_checkpoint_seconds"]


def kill_and_compare(
    folder: Path, num_kills: int, rng: random.Random, kinds: list[str]
) -> tuple[Killer, int]:
    """Runs that are killed until there were enough kills; gives the killer and their number."""
    killer = Killer(rng, kinds)
    with ray_session(killer.machines.address):
        shards = prepare(VIDEOS, folder / "runs").shards
    settings = [*SETTINGS, "--train.shards", shards]
    whole, to_checkpoint = undisturbed(folder, settings, killer.machines)
    kills = runs = 0
    while kills < num_kills:
        runs += 1
        driver = Driver(folder, f"killed-{time.time_ns()}", settings)
        try:
            driver.start(killer.machines.address)
            while kills < num_kills and not driver.has_ended():
                # Mostly after something was saved; now and then while everything starts.
                moment = time.monotonic() + rng.uniform(0.1, 1.6) * to_checkpoint
                while time.monotonic() < moment and not driver.has_ended():
                    time.sleep(0.05)
                reached = driver.saved_steps()
                if not driver.has_ended() and (what := killer.kill(driver)):
                    kills += 1
                    print(f"kill {kills}: {what}; step {reached} was saved", flush=True)
            driver.finish()
        finally:
            driver.kill()
        require_equal_runs(folder, whole, driver)
        print(f"{driver.run_id}: equal", flush=True)
    return killer, runs


def main() -> None:
    """One run that is left alone, and as many as it takes for all kills."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=21)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument(
        "--folder", type=Path, help="keep everything here; the undisturbed run is taken from here"
    )
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="kill-training-") as name:
        folder = (options.folder or Path(name)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        killer, runs = kill_and_compare(folder, options.kills, rng, options.kinds)
    print(f"{killer.num_heeded} of {killer.num_notices} notices saved between two checkpoints")
    assert killer.num_heeded or killer.num_notices < 3, "notices brought no checkpoint of their own"
    print(f"{options.kills} kills in {runs} runs: each equals the undisturbed one bit for bit, and")
    print(f"MLflow holds one run of each with its {2 * STEPS_PER_EPOCH} steps once")


if __name__ == "__main__":
    main()
