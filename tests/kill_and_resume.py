"""Kills a run with SIGKILL, resumes it, and compares it with one that was left alone.

python tests/kill_and_resume.py            # three to five minutes on two cores

Both runs share seed, settings and data. The resumed one must end with the same weights, rates and
moments, bit for bit, and MLflow must hold each outer step of it once, with the same values.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from meta_train.checkpoint import Checkpoint, load
from meta_train.run_store import MlflowClient

ROOT = Path(__file__).parents[1]
STEPS_PER_EPOCH = 60
SETTINGS = f"""
--train.outer-loop.num-epochs 2 --train.outer-loop.iterations-per-epoch {STEPS_PER_EPOCH}
--train.outer-loop.second-order-from-epoch 1 --train.outer-loop.batch-pairs 2
--train.inner-loop.num-steps 2 --train.checkpoint-every 10 --train.log-every 1
--train.detector.network.backbone.width 4 --train.detector.network.head.hidden-channels 4
--train.validation.num-pairs 4 --train.validation.batch-pairs 4
--train.sampling.val-fraction 0.25 --train.scaling.cpus-per-worker 1
--synthetic.num-train-videos 16 --synthetic.num-val-videos 2 --synthetic.frames-per-video 6
--evaluation.phases after --evaluation.no-references --evaluation.max-frames 3
""".split()
CHECKPOINTS_BEFORE_KILL = 2
LONGEST_RUN_SECONDS = 400


def start(folder: Path, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """`launch.py` with these arguments, in a process group of its own."""
    command = [sys.executable, str(ROOT / "meta_train" / "launch.py"), *arguments]
    with log.open("wb") as stream:
        return subprocess.Popen(
            command, cwd=folder, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )


def finish(process: subprocess.Popen[bytes], log: Path) -> str:
    """Waits for a run to end well; gives its id."""
    code = process.wait(timeout=LONGEST_RUN_SECONDS)
    assert code == 0, f"exit status {code}:\n{log.read_text()[-4000:]}"
    return run_id(log)


def run_id(log: Path) -> str:
    """The id that a run prints first; empty before it did."""
    found = re.search(r"^run (\S+) ", log.read_text(), re.MULTILINE)
    return found[1] if found else ""


def kill_half_way(process: subprocess.Popen[bytes], folder: Path, log: Path) -> str:
    """Kills a run's whole process group once it has saved something; gives its id."""
    deadline = time.monotonic() + LONGEST_RUN_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.1)
        assert process.poll() is None, f"ended by itself:\n{log.read_text()[-4000:]}"
        name = run_id(log)
        saved = sorted((folder / "runs" / name).glob("checkpoint_*/checkpoint.json"))
        if name and len(saved) >= CHECKPOINTS_BEFORE_KILL:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            time.sleep(5)  # Ray's processes notice that their driver is gone
            return name
    raise TimeoutError(f"no checkpoint within {LONGEST_RUN_SECONDS} s:\n{log.read_text()[-4000:]}")


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


def main() -> None:
    """Three launches: undisturbed, killed, resumed."""
    with tempfile.TemporaryDirectory(prefix="kill-and-resume-") as name:
        folder = Path(name)
        logs = [folder / f"{which}.log" for which in ("whole", "killed", "resumed")]
        whole = finish(start(folder, logs[0], *SETTINGS), logs[0])
        killed = kill_half_way(start(folder, logs[1], *SETTINGS), folder, logs[1])
        reached = len(list((folder / "runs" / killed).glob("checkpoint_*")))
        print(f"killed {killed} with {reached} checkpoints on disk", flush=True)
        resumed = finish(start(folder, logs[2], "--resume", killed), logs[2])
        assert resumed == killed
        assert "goes on from" in logs[2].read_text(), "it started anew"

        one, other = (load(folder / "runs" / run / "last") for run in (whole, killed))
        require_same(one, other)
        points = curve(folder, killed)
        assert [step for step, _ in points] == list(range(1, 2 * STEPS_PER_EPOCH + 1)), points
        assert points == curve(folder, whole), "the curves differ"
    print(f"{killed} equals {whole} bit for bit; MLflow holds each of its {len(points)} steps once")


if __name__ == "__main__":
    main()
