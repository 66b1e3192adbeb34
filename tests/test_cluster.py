import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]

_spec = importlib.util.spec_from_file_location("check_cluster", ROOT / "tests/check_cluster.py")
assert _spec is not None and _spec.loader is not None
check_cluster = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(check_cluster)


def shipped() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return config


def node(config: dict[str, Any], name: str) -> dict[str, Any]:
    given: dict[str, Any] = config["available_node_types"][name]["node_config"]
    return given


def test_ray_and_our_checks_accept_the_file_but_for_the_lines_to_edit() -> None:
    assert check_cluster.problems(shipped()) == []
    assert [line.split()[0] for line in check_cluster.unedited(shipped())] == [
        "image",
        "security_groups",
        "head_profile",
        "worker_profile",
        "bucket",
    ]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: node(c, "gpu").pop("InstanceType"), "gpu needs InstanceType"),
        (lambda c: node(c, "cpu").pop("SecurityGroupIds"), "cpu needs SecurityGroupIds"),
        (lambda c: node(c, "cpu").update(MetadataOptions={}), "IMDSv2"),
        (lambda c: c["available_node_types"]["gpu"].update(min_workers=1), "min_workers 0"),
        (lambda c: c["available_node_types"]["head"].update(resources={"CPU": 8}), "runs no task"),
        (lambda c: c["available_node_types"]["gpu"].pop("resources"), "Ray does not accept"),
        (lambda c: c.update(workers=3), "Ray does not accept"),
        (lambda c: c["provider"].update(security_group={"GroupName": "x"}), "opens SSH"),
        (lambda c: c["file_mounts"].pop("~/.ray/auth_token"), "auth_token"),
        (lambda c: c["setup_commands"].pop(1), "chmod 600"),
        (lambda c: c["setup_commands"].pop(5), "RAY_AUTH_MODE=token"),
        (lambda c: c["head_start_ray_commands"].pop(2), "--dashboard-host=127.0.0.1"),
        (
            lambda c: c["head_start_ray_commands"].append("mlflow server --host 0.0.0.0"),
            "nothing may listen",
        ),
    ],
)
def test_an_unsafe_or_broken_file_is_refused(
    spoil: Callable[[dict[str, Any]], object], message: str
) -> None:
    config = yaml.safe_load(yaml.safe_dump(shipped(), default_flow_style=False))
    spoil(config)
    assert message in "\n".join(check_cluster.problems(config))


@pytest.mark.parametrize(
    "commands",
    ["setup_commands", "head_setup_commands", "head_start_ray_commands"],
)
def test_the_commands_are_valid_shell(commands: str) -> None:
    for command in shipped()[commands]:
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_the_command_names_what_is_left_to_edit() -> None:
    command = [sys.executable, "tests/check_cluster.py", "cluster.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "image still reads ami-EDIT" in done.stdout
