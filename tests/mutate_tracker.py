"""Takes Algorithm 1 apart, line by line: each time a test of the tracker must fail.

python tests/mutate_tracker.py                # a few minutes
python tests/mutate_tracker.py --lines 13 14

Each row of `MUTATIONS` changes one place in a copy of the code, as if the line was not there or
wrong, and runs the tracker's tests on the copy. Prints the test that noticed. Exit code 1 where
none did. Lines 9, 16 and 17 are the ends of blocks: what stands in a block and not behind it is
tested with the block's own lines.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import cv2  # noqa: F401
import pytest
import torch  # noqa: F401
from tracker_mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[1]
PACKAGES = ("data_pipeline", "meta_train", "eval_jobs", "search_spaces")
TESTS = ("test_tracker.py", "test_candidates.py", "test_support_set.py")


def failing_test(mutation: Mutation | None) -> str | None:
    """The first of the tracker's tests that fails on a changed copy of the code; None if none does.

    Raises:
        SystemExit: the text to change is not there, or there more than once; or pytest broke down.
    """
    with tempfile.TemporaryDirectory(prefix="mutated-") as name:
        copy = Path(name)
        for part in (*PACKAGES, "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        if mutation is not None:
            file = copy / "eval_jobs" / mutation.file
            text = file.read_text(encoding="utf-8")
            if text.count(mutation.old) != 1:
                raise SystemExit(
                    f"line {mutation.line} ({mutation.what}): {mutation.old!r} expected once in "
                    f"eval_jobs/{mutation.file}, found {text.count(mutation.old)} times. Change "
                    "the row of MUTATIONS with the code."
                )
            file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
        code, output = run_tests(copy)
    failed = [line for line in output.splitlines() if line.startswith("FAILED ")]
    if code != bool(failed):
        raise SystemExit(f"pytest broke down:\n{output}")
    return failed[0].split(" - ")[0].split("::", maxsplit=1)[1] if failed else None


def run_tests(copy: Path) -> tuple[int, str]:
    """Exit code and output of the tracker's tests in a copy of the repository.

    They run in a fork of this process, which has loaded PyTorch but none of our packages: loading
    it would take longer than the tests.
    """
    output = copy / "output.txt"
    child = os.fork()
    if child == 0:
        with output.open("w") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        os.chdir(copy)
        sys.path[:0] = [str(copy)]
        sys.dont_write_bytecode = True
        options = ["-x", "-q", "-rf", "-p", "no:cacheprovider"]
        os._exit(pytest.main([*options, *(f"tests/{test}" for test in TESTS)]))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), output.read_text(encoding="utf-8")


def main() -> int:
    """Goes through the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", nargs="+", default=sorted({each.line for each in MUTATIONS}))
    lines = parser.parse_args().lines
    if (failed := failing_test(None)) is not None:
        raise SystemExit(f"the unchanged code fails already: {failed}")
    unnoticed = 0
    for mutation in MUTATIONS:
        if mutation.line in lines:
            noticed_by = failing_test(mutation)
            unnoticed += noticed_by is None
            found = noticed_by or "NO TEST FAILS"
            print(f"line {mutation.line:>5}  {mutation.what:<58}  {found}", flush=True)
    print(f"{unnoticed} changes unnoticed" if unnoticed else "every change is noticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
