"""Checks a cluster file before ``ray up``: ``python tests/check_cluster.py cluster.yaml``.

Ray's own validation accepts a node without an instance type and a cluster that is open to the
world; this does not. Nothing is contacted.
"""

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

OPEN_TO_THE_WORLD = ("0.0.0.0", "::/0")
"""What no rule and no service may name."""

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
    """What is wrong with a cluster file, a line each; empty if Ray and this project accept it."""
    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except Exception as error:  # jsonschema's and Ray's own, of several kinds
        return [f"Ray does not accept the file: {str(error).splitlines()[0]}"]
    return [*_node_problems(config), *_access_problems(config), *_service_problems(config)]


def _node_problems(config: dict[str, Any]) -> Iterator[str]:
    for name, node in config.get("available_node_types", {}).items():
        given = node["node_config"]
        for key in ("InstanceType", "ImageId", "IamInstanceProfile"):
            if not given.get(key):
                yield f"node type {name} needs {key}"
        if given.get("MetadataOptions", {}).get("HttpTokens") != "required":
            yield f"node type {name} needs MetadataOptions: {{HttpTokens: required}} (IMDSv2)"
        if name == config["head_node_type"]:
            if node["resources"].get("CPU") != 0 or not node["resources"].get("tune_driver"):
                yield f"the head ({name}) needs resources CPU: 0 and tune_driver: it runs no task"
        elif node.get("min_workers", 0) != 0:
            yield f"node type {name} must have min_workers 0, so that it costs nothing when idle"
        elif "max_workers" not in node:
            yield f"node type {name} needs max_workers"
    if not config.get("idle_timeout_minutes"):
        yield "idle_timeout_minutes must be set, so that idle nodes stop"


def _access_problems(config: dict[str, Any]) -> Iterator[str]:
    for name, node in config.get("available_node_types", {}).items():
        if not node["node_config"].get("SecurityGroupIds"):
            yield f"node type {name} needs SecurityGroupIds: Ray's own group opens SSH to the world"
    if "security_group" in config["provider"]:
        yield "provider.security_group must go: Ray adds a rule that opens SSH to the world"
    for text in _strings({key: value for key, value in config.items() if key != "metadata"}):
        for address in OPEN_TO_THE_WORLD:
            if address in text:
                yield f"nothing may listen on or be open to {address}: {text}"


def _service_problems(config: dict[str, Any]) -> Iterator[str]:
    if "~/.ray/auth_token" not in config.get("file_mounts", {}):
        yield "file_mounts needs ~/.ray/auth_token, the token that all nodes share"
    setup = " ".join(config.get("setup_commands", []))
    for needed in ("RAY_AUTH_MODE=token", "chmod 600 ~/.ray/auth_token", "libgl1", "constraints"):
        if needed not in setup:
            yield f"setup_commands must have {needed}"
    start = config.get("head_start_ray_commands", [])
    if not any(
        "ray start --head" in line and "--dashboard-host=127.0.0.1" in line for line in start
    ):
        yield "the head must start Ray with --dashboard-host=127.0.0.1: its jobs API runs any code"
    if not any("mlflow server --host" in line for line in start):
        yield "the head must start `mlflow server --host` with an address of its own"
    for line in [*start, *config.get("worker_start_ray_commands", [])]:
        if "ray start" in line and ". ~/.tracking_env" not in line:
            yield f"`ray start` must follow `. ~/.tracking_env`, which sets token mode: {line}"


def _strings(value: object) -> Iterator[str]:
    """Every string of a nested value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


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
