"""Stands in for ECS's checks on a task definition for Fargate: sizes that do not exist are refused.

Differs: only size, network mode and the form of the roles are checked; moto registers the rest as it is. Whether ECS
can assume a role comes out when it starts a task (`preparation.py`).
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

ROLE = re.compile(r"(arn:aws[\w-]*:iam::\d{12}:role/[\w+=,.@/-]+|[\w+=,.@-]{1,64})")  # an ARN or a short name


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
        containers = call.params.get("containerDefinitions", ())
        if any(not each.get("options", {}).get("awslogs-group") for each in _awslogs(containers)):
            raise _refused("Log driver awslogs requires options: awslogs-group")  # (C)
        if not call.params.get("executionRoleArn"):
            # Sources: hashicorp/terraform-provider-aws#3051, virtual-kubelet/virtual-kubelet#193 (C).
            needed = "Fargate requires task definition to have execution role ARN to support"
            if any(is_of_ecr(container.get("image", "")) for container in containers):
                raise _refused(f"{needed} ECR images.")
            if _awslogs(containers):
                raise _refused(f"{needed} log driver awslogs.")
    for role in ("executionRoleArn", "taskRoleArn"):
        if not ROLE.fullmatch(call.params.get(role) or "role"):
            raise _refused("Role is not valid")  # aws-samples/aws-modern-application-workshop#9 (C)
    return call.forward()


def _awslogs(containers: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The log configurations with that driver."""
    configured = [each.get("logConfiguration") or {} for each in containers]
    return [each for each in configured if each.get("logDriver") == "awslogs"]


def _parse_size(what: str, text: str) -> int:
    """CPU units from "256" or ".25 vCPU"; MiB from "512" or "0.5 GB"."""
    match = re.fullmatch(rf"(\d+)|(\d*\.?\d+)\s*{'vcpu' if what == 'cpu' else 'gb'}", text.strip().lower())
    if match is None:
        raise _refused(f"Invalid '{what}' setting for task.")
    return int(match[1]) if match[1] else round(float(match[2]) * 1024)


def _refused(message: str) -> AwsError:
    return AwsError("ClientException", message)
