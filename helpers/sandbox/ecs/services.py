"""Stands in for ECS's records of services: what a service is, its deployments and events, as DescribeServices tells.

Differs: all of it is ours, since moto drops most of a service's fields. Rolling updates only; what a service says
about Service Connect, service discovery, VPC Lattice, EBS volumes and placement is recorded only.
"""

from __future__ import annotations

import random
import uuid
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from helpers.sandbox.endpoint import ACCOUNT
from helpers.sandbox.partitions import partition_of
from helpers.sandbox.records import Records, Task

EVENTS = 100  # events that DescribeServices returns at most (ECS API reference, Service)
DUPLICATE = (
    6 * 3600.0
)  # AWS seconds in which a cause is told once ("Service event messages", ECS developer guide)
PLATFORM_VERSION, PLATFORM_FAMILY = "1.4.0", "Linux"  # Fargate's LATEST on Linux
STARTING = ("PROVISIONING", "PENDING", "ACTIVATING")
RECORDED = (  # of a request, kept as it was given and told again
    *("capacityProviderStrategy", "enableECSManagedTags", "enableExecuteCommand", "propagateTags"),
    *("serviceRegistries", "placementConstraints", "placementStrategy", "availabilityZoneRebalancing"),
    *("serviceConnectConfiguration", "volumeConfigurations", "vpcLatticeConfigurations", "monitoring"),
)


@dataclass
class Deployment:
    """One deployment. Times are AWS seconds since 1970; `network` and `load_balancers` have boto3's shapes."""

    id: str
    task_definition_arn: str
    created_at: float
    updated_at: float
    network: dict[str, Any]
    load_balancers: list[dict[str, Any]]
    platform_version: str = PLATFORM_VERSION
    status: str = "PRIMARY"
    rollout_state: str = "IN_PROGRESS"
    rollout_reason: str = ""
    failed_tasks: int = 0
    rollback: bool = False
    start_failures: int = 0  # in a row, before RUNNING: what the restart throttle goes by
    retry_at: float = 0.0

    def roll(self, state: str, reason: str, now: float) -> None:
        self.rollout_state, self.rollout_reason, self.updated_at = state, reason, now


@dataclass
class Service:
    """One service. Times are AWS seconds since 1970, `grace` is in real seconds (design, "Two times")."""

    arn: str
    name: str
    region: str
    cluster_arn: str
    created_at: float
    desired_count: int
    launch_type: str | None  # None when a capacity provider strategy says it
    configuration: dict[str, Any]  # boto3's deploymentConfiguration, complete
    grace: float | None
    recorded: dict[str, Any]
    tags: list[dict[str, str]]
    client_token: str | None = None
    status: str = "ACTIVE"
    deployments: list[Deployment] = field(default_factory=list)  # newest, the PRIMARY, first
    last_completed: Deployment | None = None
    events: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=EVENTS))  # newest first
    steady_since: float | None = None
    steady_told: float = 0.0
    inactive_real: float | None = None  # real seconds, monotonic
    _told: dict[str, float] = field(default_factory=dict)

    @property
    def primary(self) -> Deployment:
        return self.deployments[0]

    @property
    def launches(self) -> bool:
        """Whether its tasks run on Fargate: there are no container instances in the sandbox."""
        return self.launch_type in (None, "FARGATE")

    def deployment(self, deployment_id: str | None) -> Deployment | None:
        return next((d for d in self.deployments if d.id == deployment_id), None)

    def deploy(
        self,
        now: float,
        task_definition_arn: str,
        network: dict[str, Any],
        load_balancers: list[dict[str, Any]],
        platform_version: str = PLATFORM_VERSION,
    ) -> Deployment:
        """Make a new PRIMARY; those before it become ACTIVE until their tasks are gone."""
        for older in self.deployments:
            older.status = "ACTIVE"
        name = f"ecs-svc/{random.randrange(10**18, 10**19)}"
        new = Deployment(name, task_definition_arn, now, now, network, load_balancers, platform_version)
        new.rollout_reason = f"ECS deployment {name} in progress."
        self.deployments.insert(0, new)
        self.steady_since = None
        return new

    def tell(self, now: float, message: str) -> None:
        """Add an event, worded as AWS words it; `message` is what follows "(service X)"."""
        text = (
            f"(service {self.name}{message}"
            if message.startswith(",")
            else f"(service {self.name}) {message}"
        )
        event = {"id": str(uuid.uuid4()), "createdAt": moment(now), "message": text}
        self.events.appendleft(event)

    def tell_once(self, now: float, message: str) -> None:
        """As `tell`, but a cause already told stays silent for six AWS hours or until `resolved`."""
        if now - self._told.get(message, float("-inf")) >= DUPLICATE:
            self._told[message] = now
            self.tell(now, message)

    def resolved(self) -> None:
        self._told.clear()

    def describe(self, tasks: list[Task], *, tags: bool = False) -> dict[str, Any]:
        """boto3's shape of it; `tasks` are its own."""
        running, pending = counts(tasks)
        shape: dict[str, Any] = {
            "serviceArn": self.arn,
            "serviceName": self.name,
            "clusterArn": self.cluster_arn,
            "status": self.status,
            "desiredCount": self.desired_count,
            "runningCount": running,
            "pendingCount": pending,
            "launchType": self.launch_type,
            "platformVersion": PLATFORM_VERSION,
            "platformFamily": PLATFORM_FAMILY,
            "serviceRegistries": [],
            "loadBalancers": [],
            "deploymentConfiguration": self.configuration,
            "deployments": [self._deployment(d, tasks) for d in self.deployments],
            "roleArn": f"arn:{partition_of(self.region)}:iam::{ACCOUNT}:role/aws-service-role/"
            "ecs.amazonaws.com/AWSServiceRoleForECS",
            "events": list(self.events),
            "createdAt": moment(self.created_at),
            "placementConstraints": [],
            "placementStrategy": [],
            "healthCheckGracePeriodSeconds": None if self.grace is None else int(self.grace),
            "schedulingStrategy": "REPLICA",
            "deploymentController": {"type": "ECS"},
            **{name: value for name, value in self.recorded.items() if name in _SERVICE_FIELDS},
        }
        if self.deployments:
            shape["taskDefinition"] = self.primary.task_definition_arn
            shape["loadBalancers"] = self.primary.load_balancers
            shape["networkConfiguration"] = self.primary.network
            shape["platformVersion"] = self.recorded.get(
                "platformVersion", "LATEST"
            )  # a deployment has the number
        if tags:
            shape["tags"] = self.tags
        return {name: value for name, value in shape.items() if value is not None}

    def _deployment(self, deployment: Deployment, tasks: list[Task]) -> dict[str, Any]:
        own = [task for task in tasks if task.deployment_id == deployment.id]
        running, pending = counts(own)
        kept = sum(task.desired_status == "RUNNING" for task in own)
        shape = {
            "id": deployment.id,
            "status": deployment.status,
            "taskDefinition": deployment.task_definition_arn,
            "desiredCount": self.desired_count if deployment.status == "PRIMARY" else kept,
            "pendingCount": pending,
            "runningCount": running,
            "failedTasks": deployment.failed_tasks,
            "createdAt": moment(deployment.created_at),
            "updatedAt": moment(deployment.updated_at),
            "launchType": self.launch_type,
            "capacityProviderStrategy": self.recorded.get("capacityProviderStrategy"),
            "platformVersion": deployment.platform_version,
            "platformFamily": PLATFORM_FAMILY,
            "networkConfiguration": deployment.network,
            "rolloutState": deployment.rollout_state,
            "rolloutStateReason": deployment.rollout_reason,
        }
        return {name: value for name, value in shape.items() if value is not None}


_SERVICE_FIELDS = {  # of RECORDED, what the Service shape has a place for
    *("capacityProviderStrategy", "enableECSManagedTags", "enableExecuteCommand", "propagateTags"),
    *("serviceRegistries", "placementConstraints", "placementStrategy", "availabilityZoneRebalancing"),
}


class ServiceRecords(dict[str, Service]):
    """Services by ARN. Hold `records.lock` while reading more than one thing or writing any."""

    def __init__(self, records: Records):
        super().__init__()
        self.records = records

    def of(self, region: str, cluster_name: str, name_or_arn: str) -> Service | None:
        name = name_or_arn.rsplit("/", 1)[-1]
        for service in self.values():
            if (
                service.region == region
                and service.name == name
                and _name(service.cluster_arn) == cluster_name
            ):
                return service
        return None

    def tasks(self, service: Service) -> list[Task]:
        """Its tasks, stopped ones of the last real hour included, oldest first."""
        with self.records.lock:
            return [task for task in self.records.tasks.values() if task.service_arn == service.arn]


def counts(tasks: Iterable[Task]) -> tuple[int, int]:
    """(running, pending) as ECS counts: a task that drains is neither."""
    statuses = [task.last_status for task in tasks]
    return statuses.count("RUNNING"), sum(status in STARTING for status in statuses)


def moment(aws_seconds: float | None) -> datetime | None:
    return None if aws_seconds is None else datetime.fromtimestamp(aws_seconds, UTC)


def _name(arn: str) -> str:
    return arn.rsplit("/", 1)[-1]
