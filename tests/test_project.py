"""Guards of the layout: what no single module can see of itself."""

import ast
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("data_pipeline", "meta_train", "eval_jobs", "search_spaces")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

SCRIPTS = (
    "meta_train/launch.py",
    "meta_train/log_local_run.py",
    "meta_train/train_locally.py",
    "data_pipeline/check_dataset.py",
    "data_pipeline/preprocess.py",
    "eval_jobs/evaluate_locally.py",
    "eval_jobs/export_tracker.py",
    "eval_jobs/pair_tasks.py",
    "eval_jobs/reference_runs.py",
    "eval_jobs/run_benchmarks.py",
    "eval_jobs/show_failures.py",
    "eval_jobs/track_video.py",
    "eval_jobs/trax_tracker.py",
    "search_spaces/search_tracker.py",
)

HEART = (
    "meta_train.detectors.fcos",
    "meta_train.kernel_rates",
    "meta_train.gamma_schedule",
    "meta_train.inner_loop",
    "meta_train.outer_step",
    "meta_train.boundary_gradient",
    "meta_train.local_run",
    "meta_train.train_presets",
    "meta_train.learner",
    "meta_train.worker",
    "meta_train.cuda_graphs",
    "eval_jobs.evaluate_locally",
)

# Modules that users of trackers are likely to have installed, though they may not be here.
LIKELY_INSTALLED = {"config", "datasets", "evaluate", "schedule", "schema", "tables", "utils"}

# In pieces, so that this file does not name them itself.
FORBIDDEN_TEXT = {
    "a path of one machine": re.compile("/" + r"(work|root)/|\.\./" + "shared"),
    "a package index": re.compile("index" + "-url|py" + r"pi\.(org|python)"),
}


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def loaded_after(code: str, forbidden: set[str]) -> set[str]:
    """Which of the forbidden modules a fresh process has after some code."""
    code += f"; import sys; print(*({forbidden!r} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_no_module_hides_another_when_its_folder_leads_the_path() -> None:
    taken = set(sys.stdlib_module_names) | set(packages_distributions()) | LIKELY_INSTALLED
    children = [path for package in PACKAGES for path in (ROOT / package).iterdir()]
    hiding = [path for path in children if path.suffix in ("", ".py") and path.stem in taken]
    assert names(hiding) == []


def test_no_file_outgrows_a_reader() -> None:
    assert [
        f"{name} has {lines} lines"
        for path, name in zip(MODULES, names(MODULES), strict=True)
        if (lines := len(path.read_text().splitlines())) > 350
    ] == []


def test_imports_go_one_way() -> None:
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_heart_runs_without_ray_and_mlflow() -> None:
    assert loaded_after("import " + ", ".join(HEART), {"ray", "mlflow"}) == set()


def test_crop_workers_need_neither_torch_nor_mlflow() -> None:
    paths = sorted((ROOT / "data_pipeline").rglob("*.py"))
    modules = [name[:-3].replace("/", ".").removesuffix(".__init__") for name in names(paths)]
    assert loaded_after("import " + ", ".join(modules), {"torch", "mlflow"}) == set()


def text_files() -> Iterator[Path]:
    """Every text file of the project, wherever the tests run: in a checkout or in a copy."""
    for top in (*PACKAGES, "tests", ".ci"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix in (".py", ".json", ".yaml", ".txt", ".md", "") and path.is_file():
                yield path
    for name in ("pyproject.toml", "README.md", "cluster.yaml", "constraints.txt", ".gitignore"):
        yield ROOT / name


def test_nothing_names_one_machine_or_a_package_index() -> None:
    assert [
        f"{path.relative_to(ROOT)} names {what}: {found[0]}"
        for path in text_files()
        for what, pattern in FORBIDDEN_TEXT.items()
        if (found := pattern.search(path.read_text()))
    ] == []


def test_the_constraints_are_names_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.\-]+==[\w.]+", pin)] == []


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_a_module_keeps_the_house_rules(path: Path) -> None:
    tree = ast.parse(path.read_text())
    script = "__main__" in path.read_text() or path.stem.endswith("_script")
    for node in ast.walk(tree):
        line = f"line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{line}: name the exceptions that are expected"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert script or node.func.id != "print", f"{line}: log, outside a script"
        if isinstance(node, ast.FormattedValue):
            cut = re.search(
                r"(:\.\d+|\[[^]]*:\d+\]!r)\}['\"]+$", ast.unparse(ast.JoinedStr([node]))
            )
            assert not cut, f"{line}: `shortened` says that a text goes on"
        if isinstance(node, ast.ImportFrom):
            assert node.module != "__future__", f"{line}: breaks the run-time shape checks"
        if isinstance(node, ast.FunctionDef) and node.name == "main":
            ends = [ast.unparse(each).partition("(")[0] for each in node.decorator_list]
            assert "clear_errors" in ends, f"{line}: users mend errors by their messages"


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_explains_itself(script: str, run_script: Callable[..., Any]) -> None:
    ended = run_script(ROOT / script, ROOT, "--help")
    assert ended.returncode == 0, ended.stderr
    assert "usage" in ended.stdout.lower()
    commands = re.findall(r"^ *python .*", ended.stdout, re.MULTILINE)
    assert all(line.count("python ") == 1 for line in commands), "one command a line"


def test_a_script_needs_no_installation_of_the_project(tmp_path: Path) -> None:
    """Python finds the packages beside the script's folder, from any folder."""
    command = [sys.executable, ROOT / "data_pipeline" / "check_dataset.py", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_what_mutate_tracker_changes_is_in_the_code() -> None:
    """Else that command, which takes minutes, stops at the first text that is gone."""
    mutations = runpy.run_path(str(ROOT / "tests" / "tracker_mutations.py"))["MUTATIONS"]
    lost = [
        f"{each.line}: {each.what}"
        for each in mutations
        if (ROOT / "eval_jobs" / each.file).read_text().count(each.old) != 1
    ]
    assert len(mutations) > 30 and not lost
