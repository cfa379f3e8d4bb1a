"""A sandbox of a test's own, with what a test needs to run small apps on it. Real processes; nothing is faked."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import psutil

from helpers import sandbox
from tests.waiting import until

REGION = "us-east-1"
PAGE = """
const http = require('node:http');
const server = http.createServer((request, response) => response.end('%s'));
server.keepAliveTimeout = 65000;
process.on('SIGTERM', () => { server.close(() => process.exit(0)); server.closeIdleConnections(); });
server.listen(process.env.PORT, process.env.HOST);
"""
# Burns the given share of a quarter vCPU, in slices of 100 ms, by its own CPU clock.
BURNER = """
const share = %s * 0.25;
const began = process.hrtime.bigint();
const cpu = () => { const used = process.cpuUsage(); return (used.user + used.system) / 1e6; };
function turn() {
  const wanted = Number(process.hrtime.bigint() - began) / 1e9 * share;
  while (cpu() < wanted) for (let i = 0; i < 1e4; i++);
  setTimeout(turn, 20);
}
turn();
"""


def write_app(directory: Path, code: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "package.json").write_text(
        json.dumps({"name": "app", "scripts": {"start": "node server.js"}})
    )
    (directory / "server.js").write_text(code)
    return directory


class Live:
    """A running sandbox and boto3 clients of it."""

    def __init__(self, state: Path, speed: float = 30.0, runtime: str = "process"):
        self.here = sandbox.start(state, speed=speed, runtime=runtime)
        self.state = state

    def aws(self, service: str) -> Any:
        session = boto3.session.Session(region_name=REGION, aws_access_key_id="x", aws_secret_access_key="x")
        return session.client(service, endpoint_url=self.here.endpoint)

    def push(self, app: Path, repository: str = "app", tag: str = "v1") -> str:
        """Build the app's image and push it; its URI with digest."""
        from helpers.images import build_image, push_image

        ecr = self.aws("ecr")
        try:
            uri = ecr.create_repository(repositoryName=repository)["repository"]["repositoryUri"]
        except ecr.exceptions.RepositoryAlreadyExistsException:
            uri = ecr.describe_repositories(repositoryNames=[repository])["repositories"][0]["repositoryUri"]
        return push_image(build_image(app, tag), uri)

    def role(self, *managed: str, name: str = "ecsTaskExecutionRole") -> str:
        """The ARN of a role that ECS tasks may assume, made if it is not there, with these managed policies of AWS's;
        without any, with what a task needs to start."""
        iam = self.aws("iam")
        trust = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": "ecs-tasks.amazonaws.com"},
                    "Action": "sts:AssumeRole",
                }
            ],
        }
        with contextlib.suppress(iam.exceptions.EntityAlreadyExistsException):
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
            for policy in managed or ("service-role/AmazonECSTaskExecutionRolePolicy",):
                iam.attach_role_policy(RoleName=name, PolicyArn=f"arn:aws:iam::aws:policy/{policy}")
        return iam.get_role(RoleName=name)["Role"]["Arn"]

    def subnets(self) -> list[str]:
        return [subnet["SubnetId"] for subnet in self.aws("ec2").describe_subnets()["Subnets"]]

    def define(self, family: str, image: str, port: int | None = None, **container: Any) -> str:
        """A task definition's ARN; `container`: what its definition of the container has beside image and port."""
        ports = {"portMappings": [{"containerPort": port}]} if port else {}
        answer = self.aws("ecs").register_task_definition(
            family=family,
            requiresCompatibilities=["FARGATE"],
            networkMode="awsvpc",
            executionRoleArn=self.role(),
            cpu="256",
            memory="512",
            containerDefinitions=[{"name": "app", "image": image, "essential": True, **ports, **container}],
        )
        return answer["taskDefinition"]["taskDefinitionArn"]

    def until(self, holds: Callable[[], Any], seconds: float = 30.0) -> Any:
        """What `holds()` answers once it is true; AssertionError after so many real seconds."""
        return until(holds, seconds, lambda: sandbox.tail(self.state, 40), pause=0.1)

    def datapoints(self, cluster: str, service: str, minutes: float = 30) -> dict[datetime, dict[str, float]]:
        """The service's CPUUtilization by minute, as CloudWatch has it."""
        found = self.aws("cloudwatch").get_metric_statistics(
            Namespace="AWS/ECS",
            MetricName="CPUUtilization",
            Dimensions=[{"Name": "ClusterName", "Value": cluster}, {"Name": "ServiceName", "Value": service}],
            StartTime=self.here.now() - timedelta(minutes=minutes),
            EndTime=self.here.now() + timedelta(minutes=1),
            Period=60,
            Statistics=["Average", "Minimum", "Maximum", "SampleCount"],
        )["Datapoints"]
        return {point["Timestamp"].astimezone(UTC): point for point in found}


class Visitors:
    """A few threads that ask for a page again and again, and count what they are told."""

    def __init__(self, url: str, threads: int = 4):
        self.seen: Counter[str] = Counter()
        self._url, self._ended = url, threading.Event()
        self._threads = [threading.Thread(target=self._visit, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Visitors:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(timeout=70)

    def _visit(self) -> None:
        while not self._ended.wait(0.01):
            self.seen[get(self._url)] += 1


def processes_of(pid: int, word: str = "") -> list[psutil.Process]:
    """A process and all it started, as far as this word is in the command."""
    found = []
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            if word in " ".join(process.cmdline()):
                found.append(process)
    return found


def get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"
    except OSError as error:
        return f"no answer: {error}"
