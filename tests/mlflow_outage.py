"""Stops MLflow's server for a minute while a run trains; nothing may be lost or stored twice.

python tests/mlflow_outage.py                    # about ten minutes on two cores
python tests/mlflow_outage.py --seconds 20

A real ``mlflow server`` on loopback, killed and started again on the same database. Training must
go on meanwhile, and in the end MLflow must hold each point of each curve once.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path

from local_machines import LONGEST_RUN_SECONDS, Driver, wait_for

from meta_train.run_store import MlflowClient

STEPS_PER_EPOCH = 700
NUM_STEPS = 2 * STEPS_PER_EPOCH
SETTINGS = f"""
--train.outer-loop.num-epochs 2 --train.outer-loop.iterations-per-epoch {STEPS_PER_EPOCH}
--train.outer-loop.batch-pairs 2 --train.inner-loop.num-steps 2
--train.checkpoint-every 10 --train.log-every 1
--train.detector.network.backbone.width 4 --train.detector.network.head.hidden-channels 4
--train.validation.num-pairs 4 --train.validation.batch-pairs 4
--train.sampling.val-fraction 0.25 --train.scaling.cpus-per-worker 1
--synthetic.num-train-videos 16 --synthetic.num-val-videos 2 --synthetic.frames-per-video 6
--evaluation.phases after --evaluation.no-references --evaluation.max-frames 3
""".split()


class Server:
    """``mlflow server`` on one port and one database, stopped and started at will."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.uri = f"http://127.0.0.1:{free.getsockname()[1]}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--workers",
            "1",
        ]
        command += ["--port", self.uri.rpartition(":")[2]]
        command += ["--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._folder, start_new_session=True
            )
        wait_for(self._answers, 200, f"no MLflow at {self.uri}")

    def stop(self) -> None:
        """Kills it with all its processes."""
        assert self._process
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def require_whole_curves(server: Server, run_id: str) -> int:
    """Each curve must have each of its steps once; gives the number of points."""
    client = MlflowClient(server.uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments, f"tags.run_id = '{run_id}'")
    assert run.info.status == "FINISHED", run.info.status
    num_points = 0
    for name in run.data.metrics:
        steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
        twice = [step for step, count in Counter(steps).items() if count > 1]
        assert not twice, f"{name} has steps {twice} more than once"
        if name.startswith(("train/", "rates/", "speed/pairs")):
            assert sorted(steps) == list(range(1, NUM_STEPS + 1)), f"{name} lacks steps"
        if name.startswith("val/"):
            assert sorted(steps) == [STEPS_PER_EPOCH, NUM_STEPS], f"{name}: {steps}"
        num_points += len(steps)
    return num_points


def main() -> None:
    """One run, with an outage in its middle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="mlflow-outage-") as name:
        folder = Path(name)
        server = Server(folder)
        server.start()
        driver = Driver(folder, "run", [*SETTINGS, "--mlflow.tracking-uri", server.uri])
        try:
            driver.start("local")
            wait_for(driver.saved_steps, LONGEST_RUN_SECONDS, "no checkpoint")
            server.stop()
            before = driver.saved_steps()
            time.sleep(seconds)
            after = driver.saved_steps()
            assert not driver.has_ended(), "the run was too short for the outage"
            assert after > before, f"training stood still at step {before} without MLflow"
            server.start()
            print(f"no MLflow for {seconds:g} s, from step {before} to {after}", flush=True)
            driver.finish()
            num_points = require_whole_curves(server, driver.run_id)
        finally:
            driver.kill()
            server.stop()
    print(f"all {num_points} points of {NUM_STEPS} outer steps are in MLflow, each once")


if __name__ == "__main__":
    main()
