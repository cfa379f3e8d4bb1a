"""Stands in for ECS's checks on a task definition for Fargate: sizes that do not exist are refused.

Differs: only size and network mode are checked; moto registers the rest as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from helpers.sandbox.ecr.references import is_of_ecr
from helpers.sandbox.endpoint import AwsError, Call, Handler

# Memory in MiB by CPU units: "Task CPU and memory", Amazon ECS Developer Guide.
SIZES: dict[int, Iterable[int]] = {
    256: (512, 1024, 2048),
    512: range(1024, 4096 + 1, 1024),
    1024: range(2048, 8192 + 1, 1024),
    2048: range(4096, 16384 + 1, 1024),
    4096: range(8192, 30720 + 1, 1024),
    8192: range(16384, 61440 + 1, 4096),
    16384: range(32768, 122880 + 1, 8192),
}


def valid_fargate_size(cpu: int, memory: int) -> bool:
    """Whether a Fargate task can have so many CPU units and MiB."""
    return memory in SIZES.get(cpu, ())


def operations() -> dict[tuple[str, str], Handler]:
    return {("ecs", "RegisterTaskDefinition"): register_task_definition}


def register_task_definition(call: Call) -> dict[str, Any]:
    """Refuse what Fargate cannot run with ECS's words, then let moto register it."""
    if "FARGATE" in call.params.get("requiresCompatibilities", ()):
        size = {}
        for what in ("cpu", "memory"):
            if not call.params.get(what):
                raise _refused(f"Fargate requires that '{what}' be defined at the task level.")
            size[what] = _parse_size(what, call.params[what])
        if call.params.get("networkMode") != "awsvpc":
            raise _refused("Fargate only supports network mode ‘awsvpc’.")
        if not valid_fargate_size(**size):
            raise _refused(
                f"No Fargate configuration exists for given values: {size['cpu']} CPU, {size['memory']} memory. "
                "See the Amazon ECS documentation for the valid values."
            )
        images = [container.get("image", "") for container in call.params.get("containerDefinitions", ())]
        if any(map(is_of_ecr, images)) and not call.params.get("executionRoleArn"):
            raise _refused(
                "Fargate requires task definition to have execution role ARN to support ECR images."
            )
    return call.forward()


def _parse_size(what: str, text: str) -> int:
    """CPU units from "256" or ".25 vCPU"; MiB from "512" or "0.5 GB"."""
    match = re.fullmatch(rf"(\d+)|(\d*\.?\d+)\s*{'vcpu' if what == 'cpu' else 'gb'}", text.strip().lower())
    if match is None:
        raise _refused(f"Invalid '{what}' setting for task.")
    return int(match[1]) if match[1] else round(float(match[2]) * 1024)


def _refused(message: str) -> AwsError:
    return AwsError("ClientException", message)
