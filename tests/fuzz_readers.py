"""Fuzzes every reader of bytes from outside: ``python tests/fuzz_readers.py [--inputs N] [NAME]``.

Each reader gets valid files spoilt in 2,000 ways, and must accept them or refuse them with an error
of ours: a `ValueError` (all our errors of data are) that a line of our packages raised and whose
message names the file, in at most 2,000 characters. Anything else is a failure and ends the command
with 1: another exception, ten seconds without an answer, 2 GiB more memory, a crash. Each reader
runs in a process of its own; the inputs that it failed on are kept in ``--keep FOLDER``.
"""

import argparse
import logging
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
from fuzz_data import DATA_TARGETS, Target
from fuzz_runs import RUN_TARGETS
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

PACKAGES = ("data_pipeline", "meta_train", "eval_jobs", "search_spaces")
TARGETS = DATA_TARGETS | RUN_TARGETS
LIMIT_SECONDS = 10
LIMIT_BYTES = 2 * 1024**3
LIMIT_MESSAGE_CHARS = 2000


@dataclass
class Tally:
    """What came of the inputs of one reader."""

    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        return self.accepted + self.refused


class HangError(BaseException):
    """A reader gave no answer in time; no reader's ``except Exception`` may catch it."""


def fault(error: BaseException, folder: Path) -> str | None:
    """Why an error is not one of ours, and where it was raised; None if it is one."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = Path(trace.tb_frame.f_code.co_filename) if trace else Path()
    where = (
        f"{type(error).__name__} at {'/'.join(place.parts[-3:])}:{trace.tb_lineno if trace else 0}"
    )
    package = type(error).__module__.partition(".")[0]
    if not isinstance(error, ValueError) or package not in ("builtins", *PACKAGES):
        return f"{where}: no error of ours"
    if not any(package in place.parts for package in PACKAGES) or "site-packages" in place.parts:
        return f"{where}: raised by a library"
    if str(folder) not in str(error):
        return f"{where}: the message names no file"
    if len(str(error)) > LIMIT_MESSAGE_CHARS:
        return f"{where}: a message of too many characters"
    return None


def fuzz(target: Target, folder: Path, num_inputs: int, seed: int, keep: Path | None) -> Tally:
    """Reads spoilt files one after the other, in this process."""
    folder.mkdir()
    files = target.make(folder)
    originals = {path: path.read_bytes() for path in sorted(files)}
    target.read(folder)
    spoilt = st.sampled_from(sorted(files)).flatmap(
        lambda path: files[path].map(lambda content: (path, content))
    )
    tally = Tally()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=num_inputs,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(spoilt)
    def run(drawn: tuple[Path, bytes]) -> None:
        path, content = drawn
        path.write_bytes(content)
        target.seal(folder)
        begin = time.perf_counter()
        try:
            with _time_limit():
                target.read(folder)
            tally.accepted += 1
        except (Exception, HangError) as error:
            tally.refused += 1
            if (why := fault(error, folder)) and why not in tally.failures:
                message = str(error).replace(str(folder), "")
                tally.failures[why] = f"{path.name}: {message[:300]}"
                if keep:
                    name = f"{len(tally.failures)}-{path.name}"
                    (keep / f"{folder.name}-{name}".replace(" ", "-")).write_bytes(content)
        finally:
            took = time.perf_counter() - begin
            tally.seconds += took
            tally.slowest = max(tally.slowest, took)
            for each, valid in originals.items():
                each.write_bytes(valid)
            target.seal(folder)

    run()
    return tally


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise HangError(f"no answer within {LIMIT_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _limit_memory() -> None:
    """Lets this process take so many bytes more than it has; beyond, it gets a `MemoryError`."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _fuzz_in_child(
    name: str, arguments: argparse.Namespace, sender: "multiprocessing.connection.Connection"
) -> None:
    if not arguments.verbose:  # JPEG and video libraries say on stderr what they think of a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    logging.disable(logging.CRITICAL)
    _limit_memory()
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="fuzz-", dir=shared_memory if shared_memory.is_dir() else None
    ) as folder:
        place = Path(folder) / name.replace(", ", "-").replace(" ", "-")
        try:
            tally = fuzz(TARGETS[name], place, arguments.inputs, arguments.seed, arguments.keep)
        except Exception:
            tally = Tally(failures={"the command itself failed": traceback.format_exc()})
        sender.send(tally)


def main() -> int:
    """Fuzzes the readers that are asked for; the exit status is 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--inputs", type=int, default=2000, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the inputs that a reader failed on")
    parser.add_argument("--verbose", action="store_true", help="show what libraries print")
    arguments = parser.parse_args()
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    names = [name for name in TARGETS if not arguments.names or name in arguments.names]
    context = multiprocessing.get_context("fork")
    failed = 0
    print(f"{'reader':32} {'inputs':>7} {'accepted':>8} {'refused':>8} {'s':>6} {'slowest':>8}")
    for name in names:
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_fuzz_in_child, args=(name, arguments, sender))
        begin = time.perf_counter()
        child.start()
        sender.close()
        try:
            tally = receiver.recv()
        except EOFError:
            tally = Tally(failures={"a crash": "it ended the reader's process"})
        child.join()
        print(
            f"{name:32} {tally.inputs:7} {tally.accepted:8} {tally.refused:8} "
            f"{time.perf_counter() - begin:6.1f} {1000 * tally.slowest:5.0f} ms",
            flush=True,
        )
        for why, what in tally.failures.items():
            print(f"    {why}\n        {what!r}", flush=True)
        failed += bool(tally.failures)
    print(
        "every input was read or refused by an error of ours" if not failed else f"{failed} failed"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
