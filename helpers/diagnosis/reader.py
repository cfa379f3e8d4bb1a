"""`Reader`: asks AWS for one thing after the other, and notes what could not be read, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    ParamValidationError,
)

from helpers.calls import client
from helpers.errors import TutorialError

# Every name of an answer, and the call that it comes from.
ASKED = {
    "stack": "cloudformation describe_stacks",
    "stack_events": "cloudformation describe_stack_events",
    "stack_resources": "cloudformation list_stack_resources",
    "template": "cloudformation get_template",
    "service": "ecs describe_services",
    "running": "ecs list_tasks, describe_tasks (RUNNING)",
    "stopped": "ecs list_tasks, describe_tasks (STOPPED)",
    "task_definition": "ecs describe_task_definition",
    "target_groups": "elbv2 describe_target_groups",
    "target_health": "elbv2 describe_target_health",
    "load_balancers": "elbv2 describe_load_balancers",
    "balancer_attributes": "elbv2 describe_load_balancer_attributes",
    "balancer_groups": "elbv2 describe_target_groups (of the load balancer)",
    "security_groups": "ec2 describe_security_groups",
    "subnets": "ec2 describe_subnets",
    "balancer_subnets": "ec2 describe_subnets (the load balancer's)",
    "route_tables": "ec2 describe_route_tables",
    "network_acls": "ec2 describe_network_acls",
    "endpoints": "ec2 describe_vpc_endpoints",
    "execution_role": "iam get_role",
    "execution_policies": "iam list_role_policies, list_attached_role_policies",
    "log_groups": "logs describe_log_groups",
    "image": "ecr describe_images",
    "repository_policy": "ecr get_repository_policy",
    "image_platforms": "ecr batch_get_image",
    "scalable_targets": "application-autoscaling describe_scalable_targets",
    "policies": "application-autoscaling describe_scaling_policies",
    "activities": "application-autoscaling describe_scaling_activities",
    "alarms": "cloudwatch describe_alarms",
    "alarm_history": "cloudwatch describe_alarm_history",
    "metrics": "cloudwatch get_metric_data",
    "logs": "logs get_log_events",
}
MOST = 200  # items of one answer, however many pages


class Reader:
    """Asks, and notes what could not be read. A service that cannot be reached is asked once, and when two cannot while
    none has answered, nothing more is asked; nor is it without credentials or a region."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.unread: dict[str, str] = {}
        self.lost = ""
        self._unreachable: dict[str, str] = {}  # service: why
        self._answered = False

    def read(self, name: str, ask: Callable[[], Any], *, elsewhere: bool = False, service: str = "") -> Any:
        """The answer, kept under this name; None, and the reason noted, when there is none.

        `elsewhere`: asked of another region, which says nothing of the others when it cannot be reached. `service`: that
        is asked; the one of the name's call in ASKED unless told.
        """
        service = service or ASKED.get(name, name).partition(" ")[0]
        self.answers.pop(name, None)
        self.unread.pop(name, None)
        if reason := self.lost or ("" if elsewhere else self._unreachable.get(service, "")):
            self.unread[name] = reason
            return None
        try:
            self.answers[name] = ask()
            self._answered = True
        except ClientError as error:
            told = error.response.get("Error", {})
            self.unread[name] = f"{told.get('Code', 'Error')}: {told.get('Message', '')}".rstrip(": ")
            self._answered = True
        except TutorialError as error:
            self.lost = self.unread[name] = error.what
        except ParamValidationError as error:
            self.unread[name] = _said(error)
        except (ConnectionError, HTTPClientError) as error:
            self.unread[name] = _said(error)
            if not elsewhere:
                self._give_up(service, self.unread[name])
        except BotoCoreError as error:  # no credentials, no region: it would be the same for each call
            self.unread[name] = _said(error)
            self.lost = "" if elsewhere else self.unread[name]
        return self.answers.get(name)

    def _give_up(self, service: str, reason: str) -> None:
        self._unreachable[service] = reason
        if len(self._unreachable) > 1 and not self._answered:  # each more would be waited for in vain
            self.lost = reason


def _said(error: BotoCoreError) -> str:
    return f"{type(error).__name__}: {error}"


def client_of(name: str, region: str = "") -> Any:
    """A client of this region; of the one that boto3 asks by itself for ""."""
    import boto3

    return boto3.client(name, region_name=region) if region else client(name)


def items(
    name: str, operation: str, key: str, most: int = MOST, *, region: str = "", **parameters: Any
) -> list[dict]:
    paginator = client_of(name, region).get_paginator(operation)
    pages = paginator.paginate(**parameters, PaginationConfig={"MaxItems": most})
    return [item for page in pages for item in page.get(key) or []]


def or_missing(ask: Callable[[], dict], *codes: str) -> dict:
    """That something is not there is an answer, too: {"missing": why}."""
    try:
        return ask()
    except ClientError as error:
        told = error.response["Error"]
        if told["Code"] not in codes:
            raise
        return {"missing": f"{told['Code']}: {told.get('Message', '')}"}
