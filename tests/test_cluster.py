import importlib.util
import json
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


Spoil = Callable[[dict[str, Any]], object]


def replaced(commands: str, old: str, new: str) -> Spoil:
    """Changes a text in a list of commands, where it must stand."""

    def spoil(config: dict[str, Any]) -> None:
        before = "\0".join(config[commands])
        assert old in before
        config[commands] = before.replace(old, new).split("\0")

    return spoil


def pool(config: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = config["available_node_types"][name]
    return found


START, SETUP = "head_start_ray_commands", "setup_commands"
NODES = "available_node_types"
RULES = {"IpPermissions": [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]}
BROKEN: dict[str, tuple[Spoil, str, str, str]] = {
    # what is broken: how, the field, what is expected of it, what came
    "a node without a type": (
        lambda c: node(c, "gpu").pop("InstanceType"),
        *(f"{NODES}.gpu.node_config.InstanceType", "a value", "None"),
    ),
    "a node without an image": (
        lambda c: node(c, "cpu").update(ImageId=""),
        *(f"{NODES}.cpu.node_config.ImageId", "a value", "''"),
    ),
    "a node without a role": (
        lambda c: node(c, "head").pop("IamInstanceProfile"),
        *(f"{NODES}.head.node_config.IamInstanceProfile", "a value", "None"),
    ),
    "a node in Ray's own security group": (
        lambda c: node(c, "cpu").pop("SecurityGroupIds"),
        *(f"{NODES}.cpu.node_config.SecurityGroupIds", "a value", "None"),
    ),
    "IMDSv1, by default": (
        lambda c: node(c, "cpu").pop("MetadataOptions"),
        *(f"{NODES}.cpu.node_config.MetadataOptions.HttpTokens", "required", "None"),
    ),
    "IMDSv1, as an option": (
        lambda c: node(c, "head").update(MetadataOptions={"HttpTokens": "optional"}),
        *(f"{NODES}.head.node_config.MetadataOptions.HttpTokens", "required", "'optional'"),
    ),
    "a disk in the clear": (
        lambda c: node(c, "gpu")["BlockDeviceMappings"][0]["Ebs"].pop("Encrypted"),
        *(f"{NODES}.gpu.node_config.BlockDeviceMappings", "Encrypted disks", "[None]"),
    ),
    "a database that goes with the head": (
        lambda c: node(c, "head")["BlockDeviceMappings"][0]["Ebs"].pop("DeleteOnTermination"),
        *(f"{NODES}.head.node_config.BlockDeviceMappings", "DeleteOnTermination: false", "200"),
    ),
    "a spot pool that never empties": (
        lambda c: pool(c, "gpu").update(min_workers=1),
        *(f"{NODES}.gpu.min_workers", "0", "1"),
    ),
    "a pool without a bound": (
        lambda c: pool(c, "cpu").pop("max_workers"),
        *(f"{NODES}.cpu.max_workers", "a number", "None"),
    ),
    "a head that runs tasks": (
        lambda c: pool(c, "head")["resources"].update(CPU=8),
        *(f"{NODES}.head.resources.CPU", "0", "8"),
    ),
    "a head for no study": (
        lambda c: pool(c, "head")["resources"].pop("tune_driver"),
        *(f"{NODES}.head.resources.tune_driver", "some", "None"),
    ),
    "a pool without resources": (
        lambda c: pool(c, "gpu").pop("resources"),
        *(f"{NODES}.gpu", "Ray does not accept it", "'resources' is a required property"),
    ),
    "a key that Ray does not know": (
        lambda c: c.update(workers=3),
        *("the file", "Ray does not accept it", "'workers'"),
    ),
    "a wrong type": (
        lambda c: c.update(max_workers="many"),
        *("max_workers", "Ray does not accept it", "'many'"),
    ),
    "another cloud": (
        lambda c: c["provider"].update(type="gcp", project_id="mine"),
        *("provider.type", "aws", "'gcp'"),
    ),
    "no idle timeout": (
        lambda c: c.pop("idle_timeout_minutes"),
        *("idle_timeout_minutes", "more than 0", "None"),
    ),
    "an idle timeout of nothing": (
        lambda c: c.update(idle_timeout_minutes=0),
        *("idle_timeout_minutes", "more than 0", "0"),
    ),
    "a security group by Ray": (
        lambda c: c["provider"].update(security_group={"GroupName": "x"}),
        *("provider.security_group", "none", "{'GroupName': 'x'}"),
    ),
    "a rule open to every IPv4": (
        lambda c: c["provider"].update(security_group=RULES),
        *(".IpRanges[0].CidrIp", "nothing open to the world", "'0.0.0.0/0'"),
    ),
    "a rule open to every IPv6": (
        lambda c: c[SETUP].append("aws ec2 authorize-security-group-ingress --cidr ::/0"),
        *(f"{SETUP}[8]", "nothing open to the world", "--cidr ::/0"),
    ),
    "a service on every address": (
        lambda c: c[START].append("python -m http.server --bind 0.0.0.0"),
        *(f"{START}[3]", "nothing open to the world", "--bind 0.0.0.0"),
    ),
    "a service on every IPv6 address": (
        lambda c: c[START].append("python -m http.server --bind ::"),
        *(f"{START}[3]", "nothing open to the world", "--bind ::"),
    ),
    "MLflow for any name of the host": (
        replaced(START, "--allowed-hosts ", "--allowed-hosts '*' --name "),
        *(f"{START}[1]", "nothing open to the world", "--allowed-hosts '*'"),
    ),
    "MLflow on the private address": (
        replaced(START, "mlflow server --host 127.0.0.1", "mlflow server --host 10.0.0.7"),
        *(f"{START}: mlflow server --host", "127.0.0.1", "'10.0.0.7'"),
    ),
    "MLflow on a name of the head": (
        replaced(START, "mlflow server --host 127.0.0.1", "mlflow server --host $(hostname)"),
        *(f"{START}: mlflow server --host", "127.0.0.1", "'$(hostname)'"),
    ),
    "no MLflow": (
        lambda c: c[START].pop(1),
        *(f"{START}: mlflow server --host", "127.0.0.1", "''"),
    ),
    "MLflow's database in memory": (
        replaced(START, "sqlite:///$HOME/mlflow/mlflow.db", "sqlite:///:memory:"),
        *(START, "--backend-store-uri", "'sqlite:///:memory:'"),
    ),
    "MLflow's database on a disk that is emptied": (
        replaced(START, "sqlite:///$HOME/mlflow", "sqlite:////tmp"),
        *(START, "--backend-store-uri", "'sqlite:////tmp/mlflow.db'"),
    ),
    "MLflow's files on the head": (
        replaced(START, "$TRACKING_BUCKET/mlflow", "files"),
        *(START, "--artifacts-destination", "'files'"),
    ),
    "runs that log elsewhere": (
        replaced("head_setup_commands", "127.0.0.1", "10.0.0.7"),
        *("MLFLOW_TRACKING_URI", "an address on loopback", "'http://10.0.0.7:5000'"),
    ),
    "runs that log nowhere": (
        lambda c: c["head_setup_commands"].pop(1),
        *("head_setup_commands", "MLFLOW_TRACKING_URI", "None"),
    ),
    "the dashboard on the private address": (
        replaced(START, "--dashboard-host=127.0.0.1", "--dashboard-host=10.0.0.7"),
        *(f"{START}: ray start --head --dashboard-host", "127.0.0.1", "'10.0.0.7'"),
    ),
    "the dashboard where Ray puts it": (
        replaced(START, "--dashboard-host=127.0.0.1", ""),
        *(f"{START}: ray start --head --dashboard-host", "127.0.0.1", "ray start --head"),
    ),
    "no autoscaling": (
        replaced(START, "--autoscaling-config=~/ray_bootstrap_config.yaml", ""),
        *(START, "--autoscaling-config", "ray start --head"),
    ),
    "no authentication": (
        replaced(SETUP, " RAY_AUTH_MODE=token", ""),
        *(SETUP, "RAY_AUTH_MODE=token", "8 commands without it"),
    ),
    "another authentication": (
        lambda c: c[START].insert(0, "export RAY_AUTH_MODE=disabled"),
        *(f"{START}[0]", "RAY_AUTH_MODE=token", "'disabled'"),
    ),
    "a worker without authentication": (
        replaced("worker_start_ray_commands", ". ~/.tracking_env; ", ""),
        *("worker_start_ray_commands", ". ~/.tracking_env before ray start", "ray start"),
    ),
    "no token": (
        lambda c: c["file_mounts"].pop("~/.ray/auth_token"),
        *("file_mounts", "~/.ray/auth_token", "['~/tracking-maml']"),
    ),
    "a token that others read": (
        lambda c: c[SETUP].pop(1),
        *(SETUP, "chmod 600 ~/.ray/auth_token", "7 commands without it"),
    ),
    "no libGL": (replaced(SETUP, "libgl1", ""), SETUP, "libgl1", "8 commands without it"),
    "newest versions": (
        replaced(SETUP, "-c ~/tracking-maml/constraints.txt", ""),
        *(SETUP, "constraints.txt", "8 commands without it"),
    ),
    "no project": (
        replaced(SETUP, "-e ~/tracking-maml", "ray"),
        *(SETUP, "-e ~/tracking-maml", "8 commands without it"),
    ),
    "no storage": (
        lambda c: c[SETUP].pop(0),
        *(SETUP, "TRACKING_BUCKET=s3://", "7 commands without it"),
    ),
    "storage on one node": (
        replaced(SETUP, "s3://EDIT", "/home/ubuntu"),
        *(SETUP, "TRACKING_BUCKET=s3://", "8 commands without it"),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_unsafe_or_broken_file_is_refused(name: str) -> None:
    spoil, field, expected, came = BROKEN[name]
    config = json.loads(json.dumps(shipped()))  # its nodes share nothing now
    spoil(config)
    lines = check_cluster.problems(config)
    found = [line for line in lines if line.split(": ")[0].endswith(field.split(": ")[0])]
    assert any(field in line and expected in line and came in line for line in found), lines


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
