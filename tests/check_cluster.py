"""Checks a cluster file before ``ray up``: ``python tests/check_cluster.py cluster.yaml``.

Ray's own validation accepts a node without an instance type and a cluster that is open to the
world; this does not. Nothing is contacted.
"""

import copy
import ipaddress
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

OPEN_TO_THE_WORLD = re.compile(r"0\.0\.0\.0|(?<![\w:.])::(?![\w:])|--[\w-]+[ =]['\"]?\*")
"""Any address, of either kind; or any host, as the value of an option."""

PLACEHOLDER = "EDIT"
"""Marks the values that only the user knows."""


def unedited(config: dict[str, Any]) -> list[str]:
    """The lines to edit that still hold their placeholder."""
    return [
        f"{name} still reads {value}: put your own under EDIT THESE LINES"
        for name, value in config.get("metadata", {}).items()
        if PLACEHOLDER in str(value)
    ]


def problems(config: dict[str, Any]) -> list[str]:
    """What is wrong with a cluster file; empty if Ray and this project accept it.

    Each line names the field, what it should be, what it is, and why.
    """
    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except Exception as error:  # jsonschema's and Ray's own, of several kinds
        where = ".".join(map(str, getattr(error, "absolute_path", ())))
        return [f"{where or 'the file'}: Ray does not accept it: {str(error).splitlines()[0]}"]
    if config["provider"]["type"] != "aws":
        return [_wrong("provider.type", "aws", config["provider"]["type"], "the checks are for it")]
    checks = (_size_problems, _node_problems, _world_problems, _setup_problems, _service_problems)
    return [line for check in checks for line in check(config)]


def _wrong(field: str, expected: str, got: object, why: str) -> str:
    return f"{field}: {expected} expected, got {got!r}: {why}"


def _size_problems(config: dict[str, Any]) -> Iterator[str]:
    """What would cost money, or run where it should not."""
    minutes = config.get("idle_timeout_minutes")
    if not minutes or minutes <= 0:
        yield _wrong("idle_timeout_minutes", "more than 0", minutes, "idle nodes must stop")
    for name, node in config["available_node_types"].items():
        field, resources = f"available_node_types.{name}", node["resources"]
        if name == config["head_node_type"]:
            if resources.get("CPU") != 0:
                got = resources.get("CPU")
                yield _wrong(f"{field}.resources.CPU", "0", got, "the head runs no task")
            if not resources.get("tune_driver"):
                got = resources.get("tune_driver")
                yield _wrong(f"{field}.resources.tune_driver", "some", got, "studies' drivers")
            continue
        if node.get("min_workers", 0) != 0:
            got = node["min_workers"]
            yield _wrong(f"{field}.min_workers", "0", got, "an idle pool must cost nothing")
        if "max_workers" not in node:
            yield _wrong(f"{field}.max_workers", "a number", None, "it bounds what a pool costs")


def _node_problems(config: dict[str, Any]) -> Iterator[str]:
    """What AWS or the safety of a single machine asks for."""
    for name, node in config["available_node_types"].items():
        given, field = node["node_config"], f"available_node_types.{name}.node_config"
        for key, why in {
            "InstanceType": "AWS starts no machine without",
            "ImageId": "Ray's own image has another Ubuntu and no NVIDIA driver",
            "IamInstanceProfile": "the bucket is used by the machine's role, not by keys",
            "SecurityGroupIds": "a group that Ray makes opens SSH to the world",
        }.items():
            if not given.get(key):
                yield _wrong(f"{field}.{key}", "a value", given.get(key), why)
        tokens = given.get("MetadataOptions", {}).get("HttpTokens")
        if tokens != "required":
            why = "IMDSv2, so that no request that a program is tricked into gives the role away"
            yield _wrong(f"{field}.MetadataOptions.HttpTokens", "required", tokens, why)
        disks = [disk.get("Ebs", {}) for disk in given.get("BlockDeviceMappings", [])]
        encrypted = [disk.get("Encrypted") for disk in disks]
        if not encrypted or not all(encrypted):
            yield _wrong(f"{field}.BlockDeviceMappings", "Encrypted disks", encrypted, "at rest")
        is_head = name == config["head_node_type"]
        if is_head and any(disk.get("DeleteOnTermination", True) for disk in disks):
            why = "MLflow's database is on it"
            yield _wrong(f"{field}.BlockDeviceMappings", "DeleteOnTermination: false", disks, why)


def _world_problems(config: dict[str, Any]) -> Iterator[str]:
    """What would be open to everybody."""
    if "security_group" in config["provider"]:
        got = config["provider"]["security_group"]
        yield _wrong(
            "provider.security_group", "none", got, "Ray adds a rule for SSH from anywhere"
        )
    for field, text in _strings({key: config[key] for key in config if key != "metadata"}):
        if OPEN_TO_THE_WORLD.search(text):
            yield _wrong(field, "nothing open to the world", text, "name addresses of your own")


def _setup_problems(config: dict[str, Any]) -> Iterator[str]:
    """What each machine must have before Ray starts."""
    if "~/.ray/auth_token" not in config.get("file_mounts", {}):
        mounts = list(config.get("file_mounts", {}))
        yield _wrong("file_mounts", "~/.ray/auth_token", mounts, "all nodes share the token")
    setup = config.get("setup_commands", [])
    for needed, why in {
        "RAY_AUTH_MODE=token": "without, whoever reaches a port runs code",
        "chmod 600 ~/.ray/auth_token": "a token that others can read is none",
        "libgl1": "OpenCV does not import without",
        "constraints.txt": "all nodes must have the same versions as the tests",
        "-e ~/tracking-maml": "workers import the project",
        "TRACKING_BUCKET=s3://": "checkpoints and MLflow's files need a storage of all nodes",
    }.items():
        if not any(needed in command for command in setup):
            yield _wrong("setup_commands", needed, f"{len(setup)} commands without it", why)
    for field, text in _strings(config):
        for mode in re.findall(r"RAY_AUTH_MODE=(\w*)", text):
            if mode != "token":
                yield _wrong(field, "RAY_AUTH_MODE=token", mode, "whoever reaches a port runs code")


def _service_problems(config: dict[str, Any]) -> Iterator[str]:
    """What listens where, and keeps its data where."""
    field = "head_start_ray_commands"
    start = config.get(field, [])
    heads = [line for line in start if "ray start --head" in line] or [""]
    servers = [line for line in start if re.search(r"mlflow (server|ui)", line)] or [""]
    for line in heads:
        yield from _host_problems(f"{field}: ray start --head", line, "dashboard-host")
        if "autoscaling-config" not in line:
            yield _wrong(field, "ray start --head --autoscaling-config", line, "no pool would grow")
    for line in servers:
        yield from _host_problems(f"{field}: mlflow server", line, "host")
        database = _option(line, "backend-store-uri")
        if not database or "/tmp/" in database or ":memory:" in database:
            got = database or line
            yield _wrong(field, "mlflow server --backend-store-uri", got, "a database that lasts")
        files = _option(line, "artifacts-destination")
        if "TRACKING_BUCKET" not in files and "://" not in files:
            got = files or line
            yield _wrong(field, "mlflow server --artifacts-destination", got, "in the bucket")
    where = re.findall(r"MLFLOW_TRACKING_URI=(\S+?)[\"'\s]", _all_text(config) + " ")
    if not where:
        yield _wrong("head_setup_commands", "MLFLOW_TRACKING_URI", None, "runs log to the server")
    for uri in where:
        if not _is_loopback(re.sub(r"^\w+://|:\d+$", "", uri)):
            yield _wrong("MLFLOW_TRACKING_URI", "an address on loopback", uri, "the server's")
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        for line in config.get(key, []):
            if "ray start" in line and ". ~/.tracking_env" not in line:
                yield _wrong(key, ". ~/.tracking_env before ray start", line, "it sets token mode")


def _host_problems(command: str, line: str, option: str) -> Iterator[str]:
    host = _option(line, option)
    if not _is_loopback(host):
        why = "it has no accounts; reach it by a tunnel"
        yield _wrong(f"{command} --{option}", "127.0.0.1", host or line, why)


def _option(line: str, name: str) -> str:
    """The value of a command's option; empty where it is not given."""
    found = re.search(rf"--{name}[ =](\S+)", line)
    return found[1] if found else ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _all_text(config: dict[str, Any]) -> str:
    return "\n".join(text for _, text in _strings(config))


def _strings(value: object, field: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a nested value, with the field that it stands in."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(item, f"{field}.{key}" if field else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _strings(item, f"{field}[{index}]")


def main() -> int:
    """Prints what is wrong; the exit status is 1 if anything is."""
    if len(sys.argv) != 2:
        print("usage: python tests/check_cluster.py cluster.yaml")
        return 2
    config = yaml.safe_load(Path(sys.argv[1]).read_text())
    found = problems(config) + unedited(config)
    print("\n".join(found) or f"{sys.argv[1]} is fit for `ray up`")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
