"""The README's commands and code are those that work."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval_jobs.presets import PRESETS
from eval_jobs.tracker import Prediction

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced code of one language."""
    fenced = README.split("\n```")[1::2]
    return [
        body for head, _, body in (block.partition("\n") for block in fenced) if head == language
    ]


def test_three_lines_make_a_tracker(tiny_checkpoint: Path) -> None:
    (code,) = [block for block in blocks("python") if "OnlineTracker" in block]
    frames = np.random.default_rng(0).integers(0, 256, (2, 90, 120, 3), dtype=np.uint8)
    scope = {"first_frame": frames[0], "frame": frames[1], "box": np.array([30.0, 30, 60, 70])}
    exec(code.replace("runs/RUN_ID/best", str(tiny_checkpoint)), scope)
    prediction = scope["prediction"]
    assert isinstance(prediction, Prediction)
    assert prediction.box.shape == (4,)
    assert np.isfinite(prediction.box).all()


def commands() -> list[str]:
    """Each command of the README, continuation lines joined."""
    text = "\n".join(blocks("")).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("line", commands())
def test_commands_name_files_that_exist(line: str) -> None:
    for word in shlex.split(line, comments=True):
        if word.endswith((".py", ".txt", ".yaml")) and "/data" not in word:
            assert (ROOT / word).is_file(), word


def options_by_command() -> dict[tuple[str, ...], set[str]]:
    """The options that commands of this repository's Python are given, by script and preset."""
    found: dict[tuple[str, ...], set[str]] = {}
    for line in commands():
        words = shlex.split(line, comments=True)
        place = next((at for at, word in enumerate(words) if word.endswith(".py")), len(words))
        presets = [word for word in words[place + 1 : place + 2] if word in PRESETS]
        options = {word for word in words[place + 1 :] if word.startswith("--")}
        found.setdefault((*words[place : place + 1], *presets), set()).update(options)
    return {command: options for command, options in found.items() if options}


@pytest.mark.parametrize("command", options_by_command(), ids=" ".join)
def test_commands_give_options_that_their_scripts_take(
    command: tuple[str, ...], run_script: Callable[..., Any]
) -> None:
    script, *preset = command
    ended = run_script(ROOT / script, ROOT, *preset, "--help")
    taken = set(re.findall(r"--[\w.-]*\w", ended.stdout))
    assert options_by_command()[command] - taken == set()


def test_both_commands_install_with_the_constraints_first() -> None:
    install = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e '.[test]' && "
    assert install + ".venv/bin/python meta_train/launch.py" in commands()
    assert install + ".venv/bin/pytest" in commands()
