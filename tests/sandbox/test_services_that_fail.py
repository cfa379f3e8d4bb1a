"""Services whose tasks never pass a health check: what ECS and the load balancer say, and what mends it.

A whole sandbox with one small real app. All services begin at once, since what bounds an app is real time: a test
takes as long as the slowest of them. The speed makes AWS's part of it short.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from helpers import sandbox
from tests.sandbox.live import Live
from tests.sandbox.stack_of_07 import StackOf07

APP = """
const http = require('node:http');
const server = http.createServer((request, response) => {
  response.statusCode = request.url === '/no-such-page' ? 404 : 200;
  response.end('hello');
});
server.keepAliveTimeout = 65000;
process.on('SIGTERM', () => process.exit(0));
const { LISTEN, PORT, HOST, SECONDS } = process.env;
setTimeout(() => server.listen(LISTEN || PORT, HOST), 1000 * (SECONDS || 0));
"""
SLOW = "14"  # real seconds: more than BOOT grants before RUNNING and after it (ecs/lifecycle.py), five each


@dataclass
class Behind:
    """A service of one task behind a listener and a target group of its own, in the cluster of a stack."""

    stack: StackOf07
    name: str
    port: int
    check: str = "/healthcheck"
    environment: dict[str, str] = field(default_factory=dict)

    def begin(self) -> Behind:
        elb, outputs = self.stack.live.aws("elbv2"), self.stack.outputs
        self.group = elb.create_target_group(
            Name=self.name,
            TargetType="ip",
            Protocol="HTTP",
            Port=3000,
            VpcId=self.stack.vpc,
            HealthCheckPath=self.check,
            HealthCheckIntervalSeconds=30,
            HealthCheckTimeoutSeconds=5,
            UnhealthyThresholdCount=2,
        )["TargetGroups"][0]["TargetGroupArn"]
        (balancer,) = elb.describe_load_balancers(Names=[self.stack.name])["LoadBalancers"]
        elb.create_listener(
            LoadBalancerArn=balancer["LoadBalancerArn"],
            Protocol="HTTP",
            Port=self.port,
            DefaultActions=[{"Type": "forward", "TargetGroupArn": self.group}],
        )
        elb.modify_target_group_attributes(
            TargetGroupArn=self.group,
            Attributes=[{"Key": "deregistration_delay.timeout_seconds", "Value": "0"}],
        )
        self.stack.ecs.create_service(
            cluster=outputs["ClusterName"],
            serviceName=self.name,
            taskDefinition=self.define(self.environment),
            desiredCount=1,
            launchType="FARGATE",
            networkConfiguration=self.stack.service["networkConfiguration"],
            loadBalancers=[{"targetGroupArn": self.group, "containerName": "app", "containerPort": 3000}],
        )
        return self

    def define(self, environment: dict[str, str]) -> str:
        """The stack's task definition with more in its environment; the ARN."""
        arn = self.stack.outputs["TaskDefinitionArn"]
        definition = self.stack.ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]
        (container,) = definition["containerDefinitions"]
        container["environment"] += [{"name": name, "value": value} for name, value in environment.items()]
        kept = ("requiresCompatibilities", "networkMode", "cpu", "memory", "executionRoleArn", "taskRoleArn")
        answer = self.stack.ecs.register_task_definition(
            family=self.name, containerDefinitions=[container], **{key: definition[key] for key in kept}
        )
        return answer["taskDefinition"]["taskDefinitionArn"]

    @property
    def service(self) -> dict[str, Any]:
        return self.stack.ecs.describe_services(cluster=self.stack.name, services=[self.name])["services"][0]

    @property
    def told(self) -> list[str]:
        messages = [event["message"] for event in reversed(self.service["events"])]
        return [re.sub(r"task [0-9a-f]{32}", "task T", one).replace(self.group, "GROUP") for one in messages]

    @property
    def health(self) -> list[dict[str, str]]:
        answer = self.stack.live.aws("elbv2").describe_target_health(TargetGroupArn=self.group)
        return [one["TargetHealth"] for one in answer["TargetHealthDescriptions"]]

    def failed(self) -> list[dict[str, Any]]:
        ecs, cluster = self.stack.ecs, self.stack.name
        arns = ecs.list_tasks(cluster=cluster, serviceName=self.name, desiredStatus="STOPPED")["taskArns"]
        tasks = ecs.describe_tasks(cluster=cluster, tasks=arns)["tasks"] if arns else []
        return [task for task in tasks if task["lastStatus"] == "STOPPED"]

    def steady(self) -> bool:
        return self.service["deployments"][0]["rolloutState"] == "COMPLETED"

    def seen_unhealthy(self) -> dict[str, str]:
        """The target's health when it is first unhealthy; {} until then."""
        return next((one for one in self.health if one["State"] == "unhealthy"), {})

    def update(self, **changes: Any) -> None:
        self.stack.ecs.update_service(cluster=self.stack.name, service=self.name, **changes)


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    """By name; "slow" needs longer than it is given, "patient" is the same app and is given more."""
    live = Live(tmp_path_factory.mktemp("services"), speed=120)
    stack = StackOf07(live, "shop", tmp_path_factory.mktemp("apps"))
    assert stack.deploy(stack.image(APP)) == "CREATE_COMPLETE"
    # Port 0 is any that is free, so never the one that the load balancer asks.
    begun = [
        Behind(stack, "slow", 8081, environment={"SECONDS": SLOW}),
        Behind(stack, "lost", 8082, check="/no-such-page"),
        Behind(stack, "deaf", 8083, environment={"LISTEN": "0"}),
    ]
    yield {one.name: one.begin() for one in begun}
    sandbox.stop(live.state)


def unhealthy(why: str) -> str:
    return f"(task T) (port 3000) is unhealthy in (target-group GROUP) due to (reason {why})."


CASES = {
    "lost": ("Target.ResponseCodeMismatch", "Health checks failed with these codes: [404]"),
    "deaf": ("Target.FailedHealthChecks", "Health checks failed"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_said_of_a_task_that_fails_its_checks(services, name):
    one, (code, why) = services[name], CASES[name]
    live = one.stack.live
    seen = live.until(one.seen_unhealthy)
    assert (seen["Reason"], seen["Description"]) == (code, why)
    (task, *_) = live.until(one.failed)
    assert (task["stopCode"], task["stoppedReason"]) == (
        "ServiceSchedulerInitiated",
        f"Task failed ELB health checks in (target-group {one.group})",
    )
    told = one.told
    at = told.index(f"(service {name}) {unhealthy(why)}")
    assert told[at + 1] == f"(service {name}) has stopped 1 running tasks: (task T)."
    assert f"(service {name}) deregistered 1 targets in (target-group GROUP)" in told[at:]
    assert f"(service {name}) has started 1 tasks: (task T)." in told[at:]  # again and again
    assert one.service["deployments"][0]["rolloutState"] == "IN_PROGRESS"


def test_a_slow_start_is_a_failure_unless_it_is_granted(services):
    slow = services["slow"]
    live = slow.stack.live
    live.until(slow.failed)
    assert f"(service slow) {unhealthy('Health checks failed')}" in slow.told
    assert slow.service["runningCount"] <= 1
    slow.update(healthCheckGracePeriodSeconds=60)
    live.until(slow.steady, 40)
    assert slow.told[-1] == "(service slow) has reached a steady state."


def test_the_right_path_mends_it(services):
    lost = services["lost"]
    live = lost.stack.live
    live.aws("elbv2").modify_target_group(TargetGroupArn=lost.group, HealthCheckPath="/healthcheck")
    live.until(lost.steady)
    assert [one["State"] for one in lost.health if one["State"] != "draining"] == ["healthy"]


def test_the_right_port_mends_it(services):
    deaf = services["deaf"]
    deaf.update(taskDefinition=deaf.define({}))
    deaf.stack.live.until(deaf.steady)
    assert deaf.service["runningCount"] == 1
