"""Kills a study and a search with SIGKILL, starts them again, and compares with undisturbed ones.

python tests/kill_study.py                    # study, then search: some minutes on two cores
python tests/kill_study.py --what study --kills 3 --seed 7

Each trial meta-trains the smallest network for a few steps. A kill takes every process of the run,
Ray's included, at a random moment after a share of its trials is finished. The run that was killed
must end with the table of the one that was not; no trial or training that was finished may run
again, and MLflow must hold one run of each trial. A search need not suggest the same choices twice,
so of a search every choice that both tried must have the same numbers.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tiny_study import BASE

from data_pipeline.ray_session import ray_session
from meta_train.run_store import MlflowClient
from search_spaces.inner_loop_space import inner_loop_search, with_rungs
from search_spaces.maml_cells import CELLS, maml_study
from search_spaces.search_run import run_whole_search
from search_spaces.sequence_parts import TuningConfig
from search_spaces.study_run import run
from search_spaces.study_script import log_to_terminal
from search_spaces.tune_trials import DRIVER_RESOURCES

NUM_SEEDS = 2
NUM_CHOICES = 4
NUM_TRIALS = {"study": NUM_SEEDS * len(CELLS), "search": NUM_CHOICES}
LONGEST_RUN_SECONDS = 900
Snapshot = dict[str, tuple[int, bytes]]


def run_here(what: str) -> None:
    """The study or the search, in this process and this folder."""
    log_to_terminal()
    tuning = TuningConfig(max_sequences=1)
    with ray_session("local", DRIVER_RESOURCES):
        if what == "study":
            print(run(maml_study(BASE, tuple(range(NUM_SEEDS)), tuning)).text)
            return
        search = inner_loop_search(
            with_rungs(BASE, 3),
            tuning,
            knobs=("num_steps", "kllr", "granularity", "annealing_share", "include_step_0"),
            seeds=(0,),
            num_trials=NUM_CHOICES,
            num_finalists=1,
        )
        print(run_whole_search(search, "tpe", trained=False).text)


@contextlib.contextmanager
def started(what: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`run_here` in a session of its own, of which nothing is left after the block."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(Path(__file__).absolute()), "--run", what]
    with (folder / "log").open("ab") as stream:
        process = subprocess.Popen(
            command, cwd=folder, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        yield process
    finally:
        kill_all(process)


def finish(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Waits for a run to end well."""
    code = process.wait(timeout=LONGEST_RUN_SECONDS)
    assert code == 0, f"exit status {code}:\n{(folder / 'log').read_text()[-4000:]}"


def processes_of(leader: int) -> set[int]:
    """A process, all that descend from it, and all of its session, whatever became of parents."""
    parents, found = {}, {leader}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                stat = (entry / "stat").read_text().rpartition(")")[2]
                state, parent, _, session = stat.split()[:4]
                if state == "Z":
                    continue
                parents[int(entry.name)] = int(parent)
                if int(session) == leader:
                    found.add(int(entry.name))
        except OSError:  # it ended just now
            continue
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found & parents.keys()


def kill_all(process: subprocess.Popen[bytes]) -> int:
    """SIGKILL to all processes of a run until none is left; gives how many there were."""
    killed: dict[int, str] = {}
    while True:
        found = {number: started_at(number) for number in processes_of(process.pid)}
        found |= {number: at for number, at in killed.items() if started_at(number) == at}
        left = {number: at for number, at in found.items() if at is not None}
        if not left:
            break
        killed |= left
        for number in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.1)
    process.wait()
    return len(killed)


def started_at(number: int) -> str | None:
    """When a process started, which tells it from a later one of its number; None: it is over."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def finished_trials(what: str, folder: Path) -> Snapshot:
    """What a run keeps of its finished trials and trainings, by file: time of writing, content."""
    runs = folder / "runs"
    files = [*runs.glob("*/trial.json"), *runs.glob("trained-*/result.json")]
    if what == "search":
        files += [path for path in ledger(folder) if ending_of(path) in ("finished", "stopped")]
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in files
    }


def ledger(folder: Path) -> list[Path]:
    """The files of the search's tried choices."""
    return sorted((folder / "runs").glob("studies/*/tried-*/*.json"))


def ending_of(path: Path) -> str:
    """How a tried choice ended."""
    return str(json.loads(path.read_bytes())["ending"])


def num_ended(what: str, folder: Path) -> int:
    """Trials of a study, or choices of a search, that are done with."""
    part = "trial.json" if what == "study" else "tried-"
    return sum(part in name for name in finished_trials(what, folder))


def kill_after(
    what: str, process: subprocess.Popen[bytes], folder: Path, count: int, seconds: float
) -> Snapshot:
    """Kills a run some seconds after so many trials ended; gives what was finished by then."""
    deadline = time.monotonic() + LONGEST_RUN_SECONDS
    while num_ended(what, folder) < count:
        assert process.poll() is None, f"ended:\n{(folder / 'log').read_text()[-4000:]}"
        assert time.monotonic() < deadline, f"{count} trials did not end in time"
        time.sleep(0.1)
    time.sleep(seconds)
    assert process.poll() is None, (
        f"it ended before the kill:\n{(folder / 'log').read_text()[-4000:]}"
    )
    num_killed = kill_all(process)
    found = finished_trials(what, folder)
    print(
        f"killed {num_killed} processes {seconds:.1f} s after trial {count} ended: "
        f"{num_ended(what, folder)} trials are finished",
        flush=True,
    )
    return found


def study_table(client: MlflowClient, runs: list[Any]) -> dict[str, list[Any]]:
    """The columns of a study's two tables as MLflow holds them, without what it took."""
    (summary,) = [run for run in runs if run.data.tags["kind"] == "study"]
    columns: dict[str, list[Any]] = {}
    for name in ("study", "trials"):
        with tempfile.TemporaryDirectory() as place:
            file = client.download_artifacts(summary.info.run_id, f"tables/{name}.json", place)
            table = json.loads(Path(file).read_text())
        for index, column in enumerate(table["columns"]):
            columns[f"{name}: {column}"] = [row[index] for row in table["data"]]
    del columns["trials: minutes"]
    return columns


def all_runs(folder: Path) -> tuple[MlflowClient, list[Any]]:
    """What a folder's MLflow holds."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiments = [each.experiment_id for each in client.search_experiments()]
    return client, list(client.search_runs(experiments))


def require_one_run_each(runs: list[Any]) -> None:
    """MLflow must hold each trial, training and study once, and all of them ended."""
    names = Counter((run.data.tags["kind"], run.info.run_name) for run in runs)
    twice = {name: count for name, count in names.items() if count > 1}
    assert not twice, f"MLflow holds these more than once: {twice}"
    running = [run.info.run_name for run in runs if run.info.status == "RUNNING"]
    assert not running, f"MLflow says that these still run: {running}"


def require_same(what: str, whole: Path, killed: Path) -> str:
    """Compares what came of two runs; gives what was compared in words."""
    (client, runs), (other_client, other_runs) = all_runs(whole), all_runs(killed)
    require_one_run_each(other_runs)
    if what == "study":
        one, other = study_table(client, runs), study_table(other_client, other_runs)
        assert one == other, f"the tables differ:\n{one}\n{other}"
        kinds = [sorted(run.data.tags["kind"] for run in each) for each in (runs, other_runs)]
        assert kinds[0] == kinds[1], kinds
        return f"the same table of {len(one['trials: trial'])} trials, each once in MLflow"
    tried = [
        {path.stem: json.loads(path.read_bytes()) for path in ledger(f)} for f in (whole, killed)
    ]
    assert len(tried[0]) == len(tried[1]) == NUM_CHOICES, [len(each) for each in tried]
    endings = {choice["ending"] for each in tried for choice in each.values()}
    assert endings <= {"finished", "stopped"}, endings
    both = [
        (tried[0][key], tried[1][key])
        for key in tried[0].keys() & tried[1].keys()
        if tried[0][key]["ending"] == tried[1][key]["ending"] == "finished"
    ]
    assert both, "no choice was tried by both"  # the starting point always is
    assert all(one["metrics"] == other["metrics"] for one, other in both), both
    logged = [run for run in other_runs if run.data.tags["kind"] == "search_trial"]
    assert len(logged) == NUM_CHOICES, len(logged)
    return f"{NUM_CHOICES} choices, each once in MLflow; {len(both)} tried by both, alike"


def compare(what: str, home: Path, num_kills: int, rng: random.Random) -> None:
    """One run that is left alone, one that is killed and started again, and the comparison."""
    whole, killed = home / f"{what}-whole", home / f"{what}-killed"
    began = time.monotonic()
    with started(what, whole) as process:
        finish(process, whole)
    count = num_ended(what, whole)
    assert count == NUM_TRIALS[what], f"{count} ended:\n{(whole / 'log').read_text()[-4000:]}"
    seconds = time.monotonic() - began
    print(f"{what}: {count} trials in {seconds:.0f} s", flush=True)
    longest_wait = min(6.0, 0.5 * seconds / count)  # longer, and a fast machine is done by then
    (videos,) = (whole / "runs").glob("synthetic-*")
    shutil.copytree(videos, killed / "runs" / videos.name)
    kept: Snapshot = {}
    for kill in range(1, num_kills + 1):
        wanted = max(1, count * kill // (num_kills + 1))
        with started(what, killed) as process:
            kept |= kill_after(what, process, killed, wanted, rng.uniform(0.0, longest_wait))
    with started(what, killed) as process:
        finish(process, killed)
    again = finished_trials(what, killed)
    changed = [name for name in kept if again.get(name) != kept[name]]
    assert not changed, f"these were finished and yet ran again: {changed}"
    said = require_same(what, whole, killed)
    print(f"{what}: after {num_kills} kills {said}; {len(kept)} finished parts left as they were")


def main() -> None:
    """Compares what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", choices=("study", "search", "both"), default="both")
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", choices=("study", "search"), help="only run, here")
    arguments = parser.parse_args()
    if arguments.run:
        run_here(arguments.run)
        return
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="kill-study-") as name:
        for what in ("study", "search") if arguments.what == "both" else (arguments.what,):
            compare(what, Path(name), arguments.kills, rng)


if __name__ == "__main__":
    main()
