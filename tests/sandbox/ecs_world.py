"""A small AWS for the scheduler's tests: dictionaries for records, objects for processes, a clock moved by hand."""

from __future__ import annotations

import random
import re
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from helpers.sandbox.ecs.services import Service
from helpers.sandbox.endpoint import Call
from helpers.sandbox.fargate.runtime import CannotPullContainerError, RunningTask, TaskSpec
from helpers.sandbox.records import Records, Task
from helpers.sandbox.scheduler import Scheduler
from tests.sandbox.manual_clock import ManualClock

REGION = "us-east-1"
CLUSTER = "arn:aws:ecs:us-east-1:123456789012:cluster/lab"
GROUP = "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/lab/0123456789abcdef"
SUBNETS = ["subnet-a", "subnet-b", "subnet-c"]
NETWORK = {
    "awsvpcConfiguration": {"subnets": SUBNETS, "securityGroups": ["sg-tasks"], "assignPublicIp": "ENABLED"}
}
BALANCER = {"targetGroupArn": GROUP, "containerName": "app", "containerPort": 3000}
DELAY = 60  # deregistration delay, AWS seconds


@dataclass(frozen=True)
class Target:
    state: str
    reason: str | None = None
    description: str | None = None


@dataclass
class FakeProcess:
    spec: TaskSpec
    pid: int
    address: tuple[str, int]
    output: Path = Path("/dev/null")
    out_of_memory: bool = False
    code: int | None = None
    asked_to_stop: bool = False
    stubborn: bool = False

    listens = True

    def listening(self) -> bool:
        return self.listens

    def poll(self) -> int | None:
        return self.code

    def stop(self) -> None:
        self.asked_to_stop = True
        if not self.stubborn and self.code is None:
            self.code = 0

    def kill(self) -> None:
        self.code = 137

    def cpu_seconds(self) -> float:
        return 0.0

    def memory_bytes(self) -> int:
        return 0


class FakeRuntime:
    name = "process"

    def __init__(self) -> None:
        self.missing: set[str] = set()
        self.crashing: set[str] = set()
        self.processes: dict[str, FakeProcess] = {}  # by task id

    def pull(self, image: str, region: str) -> Any:
        if image in self.missing:
            raise CannotPullContainerError(f"{image}: not found")
        return Path("/app")

    def start(self, spec: TaskSpec) -> FakeProcess:
        process = FakeProcess(spec, len(self.processes) + 1, ("127.0.0.1", 40000 + len(self.processes)))
        process.code = 1 if spec.image in self.crashing else None
        self.processes[spec.task_id] = process
        return process

    def close(self) -> None:
        pass


class FakeLogs:
    def __init__(self) -> None:
        self.error: Exception | None = None
        self.delivered: list[str] = []  # ids of tasks that were known to have ended

    def open_stream(self, task: Task, container: dict[str, Any]) -> tuple[str, str] | None:
        if self.error:
            raise self.error
        return "/ecs/lab", f"app/{container['name']}/{task.id}"

    def deliver(self, task: RunningTask) -> None:
        self.delivered.append(task.spec.task_id)


class FakeBalancer:
    """elbv2's calls on one target group, and what its health checks say; a new target is healthy at once."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.targets: dict[tuple[str, int], Target] = {}
        self.first = Target("healthy")
        self.used = True
        self.refuses = False
        self.calls: list[str] = []

    def register_targets(self, TargetGroupArn: str, Targets: list[dict[str, Any]]) -> None:
        self.calls.append("register")
        if self.refuses:
            raise error("TargetGroupNotFound", "One or more target groups not found")
        for target in Targets:
            self.targets[target["Id"], target["Port"]] = self.first

    def deregister_targets(self, TargetGroupArn: str, Targets: list[dict[str, Any]]) -> None:
        self.calls.append("deregister")
        for target in Targets:
            del self.targets[target["Id"], target["Port"]]

    def describe_target_group_attributes(self, TargetGroupArn: str) -> dict[str, Any]:
        return {"Attributes": [{"Key": "deregistration_delay.timeout_seconds", "Value": str(DELAY)}]}

    def describe_target_groups(self, TargetGroupArns: list[str]) -> dict[str, Any]:
        if TargetGroupArns != [GROUP]:
            raise error("TargetGroupNotFound", "One or more target groups not found")
        balancers = ["arn:lb"] if self.used else []
        return {"TargetGroups": [{"TargetType": "ip", "LoadBalancerArns": balancers}]}

    def health(self, arn: str) -> dict[tuple[str, int], Target]:
        return dict(self.targets)


class FakeEc2:
    prefix = 24

    def describe_subnets(self, SubnetIds: list[str]) -> dict[str, Any]:
        (subnet,) = SubnetIds
        if subnet not in SUBNETS:
            raise error("InvalidSubnetID.NotFound", f"The subnet ID '{subnet}' does not exist")
        place = SUBNETS.index(subnet)
        zone = f"us-east-1{'abc'[place]}"
        return {"Subnets": [{"AvailabilityZone": zone, "CidrBlock": f"10.0.{place}.0/{self.prefix}"}]}

    def describe_security_groups(self, GroupIds: list[str]) -> dict[str, Any]:
        if GroupIds != ["sg-tasks"]:
            raise error("InvalidGroup.NotFound", f"The security group '{GroupIds[0]}' does not exist")
        return {"SecurityGroups": [{}]}


@dataclass
class FakeEcs:
    """What moto keeps of ECS."""

    definitions: dict[str, dict[str, Any]] = field(default_factory=dict)
    clusters: dict[str, str] = field(default_factory=lambda: {"lab": "ACTIVE"})

    def register(self, revision: int, **container: Any) -> str:
        arn = f"arn:aws:ecs:us-east-1:123456789012:task-definition/app:{revision}"
        self.definitions[arn] = {
            "taskDefinitionArn": arn,
            "family": "app",
            "revision": revision,
            "status": "ACTIVE",
            "cpu": "256",
            "memory": "512",
            "networkMode": "awsvpc",
            "requiresCompatibilities": ["FARGATE"],
            "containerDefinitions": [
                {
                    "name": "app",
                    "image": f"repository@sha256:{revision}",
                    "essential": True,
                    "portMappings": [{"containerPort": 3000}],
                    "environment": [{"name": "COLOUR", "value": "blue"}],
                    **container,
                }
            ],
        }
        return arn

    def describe_task_definition(self, taskDefinition: str, include: list[str]) -> dict[str, Any]:
        for arn, definition in self.definitions.items():
            if taskDefinition in (arn, arn.rsplit("/", 1)[-1], definition["family"]):
                return {"taskDefinition": definition, "tags": [{"key": "of", "value": "definition"}]}
        raise error("ClientException", "Unable to describe task definition.")

    def describe_clusters(self, clusters: list[str]) -> dict[str, Any]:
        names = [cluster.rsplit("/", 1)[-1] for cluster in clusters]
        prefix = CLUSTER.rsplit("/", 1)[0]
        found = [
            {"clusterName": name, "clusterArn": f"{prefix}/{name}", "status": self.clusters[name]}
            for name in names
            if name in self.clusters
        ]
        return {"clusters": found, "failures": []}


class Inline:
    """An executor that works at once; `held` makes it wait until `release`."""

    def __init__(self) -> None:
        self.held = False
        self._waiting: list[tuple[Future[Any], Any, tuple[Any, ...]]] = []

    def submit(self, function: Any, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self._waiting.append((future, function, arguments))
        if not self.held:
            self.release()
        return future

    def release(self) -> None:
        for future, function, arguments in self._waiting:
            try:
                future.set_result(function(*arguments))
            except Exception as failure:  # noqa: BLE001  an executor hands over whatever was raised
                future.set_exception(failure)
        self._waiting = []

    def shutdown(self, **_: Any) -> None:
        pass


class World:
    def __init__(self, seed: int = 1):
        self.clock = ManualClock()
        self.records = Records()
        self.runtime, self.logs = FakeRuntime(), FakeLogs()
        self.balancer, self.ecs, self.ec2 = FakeBalancer(self.clock), FakeEcs(), FakeEc2()
        self.executor = Inline()
        self.api_calls = 0
        self.busy = 0
        self.scheduler = Scheduler(
            self.clock,
            self.records,
            self.aws,
            self.runtime,
            self.balancer.health,
            self.logs,
            in_flight=lambda address, port: self.busy,
            executor=self.executor,
            rng=random.Random(seed),
        )
        self.definition = self.ecs.register(1)
        self.seen: list[Any] = []

    def aws(self, service: str, region: str) -> Any:
        self.api_calls += 1
        return {"ecs": self.ecs, "ec2": self.ec2, "elbv2": self.balancer}[service]

    def call(self, operation: str, **params: Any) -> dict[str, Any]:
        params = (
            {"cluster": "lab", **params} if operation not in ("TagResource", "DescribeClusters") else params
        )

        def forward() -> dict[str, Any]:
            if operation == "DescribeClusters":
                return self.ecs.describe_clusters(params["clusters"])
            self.seen.append((operation, params))
            return {"forwarded": True}

        handler = self.scheduler.operations()["ecs", operation]
        return handler(Call("ecs", operation, REGION, params, forward))

    def create(self, count: int = 2, **params: Any) -> Service:
        asked = {
            "serviceName": "web",
            "taskDefinition": self.definition,
            "desiredCount": count,
            "launchType": "FARGATE",
            "networkConfiguration": NETWORK,
            "loadBalancers": [BALANCER],
            **params,
        }
        return self.scheduler.services[self.call("CreateService", **asked)["service"]["serviceArn"]]

    def run(self, aws_seconds: float, every: float = 1.0, watch: Any = None) -> None:
        """Let AWS time pass, the scheduler turning every so many AWS seconds."""
        for _ in range(round(aws_seconds / every)):
            self.clock.advance(every)
            self.scheduler.step()
            if watch:
                watch()

    def steady(self, count: int = 2, **params: Any) -> Service:
        service = self.create(count, **params)
        self.run(90)
        assert self.scheduler.settled(service)
        return service

    def tasks(self, status: str | None = None) -> list[Task]:
        return [task for task in self.records.tasks.values() if status in (None, task.last_status)]

    def process(self, task: Task) -> FakeProcess:
        return self.runtime.processes[task.id]

    def describe(self, name: str = "web") -> dict[str, Any]:
        return self.call("DescribeServices", services=[name])["services"][0]

    def events(self, name: str = "web") -> list[str]:
        """Oldest first, without "(service X) " and with the ids of tasks and deployments left out."""
        messages = [event["message"] for event in reversed(self.describe(name)["events"])]
        told = [message.removeprefix(f"(service {name}) ") for message in messages]
        return [
            re.sub(r"ecs-svc/\d+", "D", re.sub(r"task [0-9a-f]{32}", "task T", message)) for message in told
        ]

    def judge(self, task: Task, state: str, description: str | None = None) -> None:
        """The load balancer's health checks now say this of a task."""
        self.balancer.targets[task.private_ip, 3000] = Target(state, None, description)


def error(code: str, message: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Operation")
