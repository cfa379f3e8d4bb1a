"""Stands in for the part of ECS's and CloudWatch's memory that no AWS call can write: tasks, and what happened to them.

Differs: moto keeps all records that an API call makes. What only AWS's own machinery writes is kept here, where
the scheduler, the meter, the alarms and the autoscaler share it and `endpoint.py` answers from it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from threading import RLock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helpers.sandbox.fargate.runtime import RunningTask

HISTORY = 2000  # alarm history items and scaling activities kept; AWS keeps weeks of both


@dataclass
class Task:
    """One ECS task. All times are AWS seconds since 1970; `cpu` in CPU units, `memory` in MiB."""

    arn: str
    region: str
    cluster_arn: str
    task_definition_arn: str
    group: str  # "service:<name>" or "family:<family>", as ECS names it
    cpu: int
    memory: int
    availability_zone: str
    subnet_id: str
    private_ip: str
    eni_id: str
    container_name: str
    image: str
    created_at: float
    service_arn: str | None = None
    deployment_id: str | None = None
    container_port: int | None = None
    security_groups: list[str] = field(default_factory=list)
    public_ip: bool = True  # whether its network interface has a public address, too
    architecture: str = "X86_64"  # or "ARM64"
    last_status: str = "PROVISIONING"
    desired_status: str = "RUNNING"
    pull_started_at: float | None = None
    pull_stopped_at: float | None = None
    started_at: float | None = None
    stopping_at: float | None = None
    execution_stopped_at: float | None = None
    stopped_at: float | None = None
    stop_code: str | None = None
    stopped_reason: str | None = None
    exit_code: int | None = None
    container_reason: str | None = None
    counted_from: float | None = None  # CPU counts from the first healthy answer: see design, "Two times"
    environment: dict[str, str] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    tags: list[dict[str, str]] = field(default_factory=list)
    started_by: str | None = None  # RunTask's startedBy; a service's task names its deployment there
    load_balancers: list[dict[str, Any]] = field(default_factory=list)  # boto3's shape, from its deployment
    connected_at: float | None = None
    execute_command: bool = False
    version: int = 1  # raised with each change of state
    process: RunningTask | None = None

    @property
    def id(self) -> str:
        return self.arn.rsplit("/", 1)[-1]


class Records:
    """What the sandbox's modules share. Hold `lock` while reading more than one thing or writing any."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.tasks: dict[str, Task] = {}
        self.alarm_history: deque[dict[str, Any]] = deque(
            maxlen=HISTORY
        )  # newest last; boto3's shape and "region"
        self.scaling_activities: deque[dict[str, Any]] = deque(maxlen=HISTORY)

    def running(self, region: str | None = None, service_arn: str | None = None) -> list[Task]:
        """The tasks whose process runs, oldest first."""
        with self.lock:
            return [
                task
                for task in self.tasks.values()
                if task.last_status == "RUNNING"
                and task.process is not None
                and (region is None or task.region == region)
                and (service_arn is None or task.service_arn == service_arn)
            ]

    def resolve(self, ip: str, port: int) -> tuple[str, int] | None:
        """Where on loopback a task's modelled network interface and container port are, or None."""
        with self.lock:
            for task in self.tasks.values():
                if task.private_ip == ip and task.container_port == port and task.process is not None:
                    return task.process.address
        return None

    def task_at(self, region: str, ip: str) -> Task | None:
        """The task that has a network interface with this address, or None."""
        with self.lock:
            for task in self.tasks.values():
                if task.private_ip == ip and task.region == region and task.last_status != "STOPPED":
                    return task
        return None
