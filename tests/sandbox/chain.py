"""The chain from metrics to tasks on a clock that tests move: real endpoint, moto, meter, alarms and autoscaler.

Only what the scheduler and the balancer would give is made up: tasks that run after a modelled start, the CPU that they
use, the requests that they served.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from typing import Any

from helpers.sandbox.alarms import Alarms
from helpers.sandbox.autoscaler import AutoScaler
from helpers.sandbox.cloudwatch.metric_store import mend_metrics
from helpers.sandbox.endpoint import Call, Endpoint
from helpers.sandbox.meter import Meter
from helpers.sandbox.records import Records, Task
from tests.sandbox.manual_clock import ManualClock

STARTS_IN = 25.0  # AWS seconds from a raised desired count to a healthy task
REGION = "eu-north-1"
NUMBERS = itertools.count(1)
WHERE = {  # what scales, unless a test says otherwise
    "ServiceNamespace": "ecs",
    "ResourceId": "service/lab/web",
    "ScalableDimension": "ecs:service:DesiredCount",
}


@dataclass
class Process:
    """A task's process whose CPU seconds and bytes a test sets."""

    used: float = 0.0
    bytes: int = 100 * 1024**2
    gone: bool = False

    def poll(self) -> int | None:
        return 137 if self.gone else None

    def cpu_seconds(self) -> float:
        return self.used

    def memory_bytes(self) -> int:
        return self.bytes


@dataclass
class Service:
    """`cpu(time, tasks)`: the percentage of its limit that each of so many tasks uses."""

    name: str
    arn: str
    desired: int
    cpu: Callable[[float, int], float]
    starting: list[float] = field(default_factory=list)
    history: list[tuple[float, int]] = field(default_factory=list)  # (time, desired), changes only


@cache
def shared_endpoint() -> Endpoint:
    """One for all tests: a boto3 client takes longer to make than most of them."""
    endpoint = Endpoint()
    endpoint.start()
    return endpoint


class Chain:
    """Use `close()` at its end. Each lives in a time of its own, since moto keeps its records as long as the process."""

    def __init__(self) -> None:
        self.clock = ManualClock(next(NUMBERS) * 10 * 86_400.0 + 1_800_000_000.0)
        self.start = self.clock.time()
        self.region = REGION
        self.records = Records()
        self.endpoint = shared_endpoint()
        self.endpoint.handlers.clear()
        self.requests: list[Any] = []
        self.health: dict[str, dict[tuple[str, int], Any]] = {}
        self.services: dict[str, Service] = {}
        self.deploying = False
        aws = self.endpoint.client
        self.meter = Meter(
            self.clock,
            self.records,
            aws,
            self.endpoint.changes,
            self._drain,
            lambda arn: self.health.get(arn, {}),
        )
        self.alarms = Alarms(self.clock, self.records, aws)
        self.autoscaler = AutoScaler(self.clock, self.records, aws, self.alarms.evaluations)
        for part in (self.meter, self.alarms, self.autoscaler):
            self.endpoint.add(part.operations())
        self.endpoint.add(
            {
                ("ecs", "UpdateService"): self._update_service,
                ("ecs", "DescribeServices"): self._describe_services,
            }
        )
        mend_metrics()

    def close(self) -> None:
        self.endpoint.handlers.clear()
        alarms = self.aws("cloudwatch").describe_alarms()["MetricAlarms"]
        self.aws("cloudwatch").delete_alarms(AlarmNames=[alarm["AlarmName"] for alarm in alarms])

    def aws(self, service: str) -> Any:
        return self.endpoint.client(service, self.region)

    @property
    def elapsed(self) -> float:
        return self.clock.time() - self.start

    def at(self, seconds: float):
        return self.clock.now() - timedelta(seconds=self.elapsed - seconds)

    def service(
        self, name: str, tasks: int, cpu: Callable[[float, int], float] = lambda time, n: 20.0
    ) -> Service:
        arn = f"arn:aws:ecs:{self.region}:123456789012:service/lab/{name}"
        self.services[name] = service = Service(name, arn, tasks, cpu)
        for _ in range(tasks):
            self.task(service)
        return service

    def task(self, service: Service | None = None, **changes: Any) -> Task:
        number = next(NUMBERS)
        task = Task(
            arn=f"arn:aws:ecs:{self.region}:123456789012:task/lab/{number:032x}",
            region=self.region,
            cluster_arn=f"arn:aws:ecs:{self.region}:123456789012:cluster/lab",
            task_definition_arn="arn:aws:ecs:::task-definition/web:1",
            group=f"service:{service.name}" if service else "family:web",
            cpu=256,
            memory=512,
            availability_zone=f"{self.region}a",
            subnet_id="subnet-1",
            private_ip=f"172.31.0.{number % 250}",
            eni_id="eni-1",
            container_name="web",
            image="web",
            created_at=self.clock.time(),
            service_arn=service.arn if service else None,
            last_status="RUNNING",
            counted_from=self.clock.time(),
            process=Process(),
        )
        self.records.tasks[task.arn] = task = replace(task, **changes)
        return task

    def scalable(
        self, name: str, minimum: int = 2, maximum: int = 10, target: float = 50.0, **policy: Any
    ) -> dict:
        where = {**WHERE, "ResourceId": f"service/lab/{name}"}
        scaling = self.aws("application-autoscaling")
        scaling.register_scalable_target(**where, MinCapacity=minimum, MaxCapacity=maximum)
        return scaling.put_scaling_policy(
            **where,
            PolicyName="cpu",
            PolicyType="TargetTrackingScaling",
            TargetTrackingScalingPolicyConfiguration={
                "TargetValue": target,
                "PredefinedMetricSpecification": {"PredefinedMetricType": "ECSServiceAverageCPUUtilization"},
                **policy,
            },
        )

    def activities(self, **options: Any) -> list[dict[str, Any]]:
        """The scaling activities of the service `web`."""
        scaling = self.aws("application-autoscaling")
        return scaling.describe_scaling_activities(**WHERE, **options)["ScalingActivities"]

    def advance(self, seconds: float, tick: float = 5.0) -> None:
        """Let so many AWS seconds pass."""
        for _ in range(round(seconds / tick)):
            self._use(tick)
            self.clock.advance(tick)
            self._schedule()
            self.meter.step()
            self.alarms.step()
            self.autoscaler.step()

    def _running(self) -> list[tuple[Service, list[Task]]]:
        tasks = defaultdict(list)
        for task in self.records.running(self.region):
            tasks[task.service_arn].append(task)
        return [(service, tasks[service.arn]) for service in self.services.values()]

    def _use(self, tick: float) -> None:
        for service, tasks in self._running():
            share = service.cpu(self.elapsed, len(tasks)) / 100
            for task in tasks:
                task.process.used += share * task.cpu / 1024 * self.clock.real(tick)

    def _schedule(self) -> None:
        now = self.clock.time()
        for service, tasks in self._running():
            service.starting += [now + STARTS_IN] * (service.desired - len(tasks) - len(service.starting))
            for task in tasks[: max(len(tasks) - service.desired, 0)]:
                task.last_status, task.process.gone = "STOPPED", True
            for _ in [time for time in service.starting if time <= now]:
                self.task(service)
            service.starting = [time for time in service.starting if time > now]

    def _drain(self) -> list[Any]:
        drained, self.requests = self.requests, []
        return drained

    def _update_service(self, call: Call) -> dict[str, Any]:
        service = self.services[call.params["service"]]
        service.desired = call.params["desiredCount"]
        service.history.append((self.elapsed, service.desired))
        return {"service": {"serviceArn": service.arn}}

    def _describe_services(self, call: Call) -> dict[str, Any]:
        state = "IN_PROGRESS" if self.deploying else "COMPLETED"
        found = [self.services[name] for name in call.params["services"] if name in self.services]
        return {
            "services": [
                {
                    "serviceArn": one.arn,
                    "serviceName": one.name,
                    "status": "ACTIVE",
                    "desiredCount": one.desired,
                    "deployments": [{"status": "PRIMARY", "rolloutState": state}],
                }
                for one in found
            ],
            "failures": [],
        }
