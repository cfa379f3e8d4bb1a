"""A stack of the journey's template 07 in a sandbox of a test's own: deployed, changed, and what is told of it."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

import boto3

from helpers import session
from tests.sandbox.live import REGION, Live, write_app

TEMPLATE = (session.CHECKOUT / "templates" / "07-service.yaml").read_text()
# Short, since it is real time: see BOOT in ecs/lifecycle.py.
TEMPLATE = TEMPLATE.replace("HealthCheckGracePeriodSeconds: 15", "HealthCheckGracePeriodSeconds: 0")


class StackOf07:
    """A stack of template 07 called `name`, with images that a test asks for by what their app does."""

    def __init__(self, live: Live, name: str, apps: Path):
        self.live, self.name, self.id, self.apps = live, name, name, apps
        self.formation, self.ecs = live.aws("cloudformation"), live.aws("ecs")
        self.vpc = live.aws("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]

    def image(self, code: str) -> str:
        tag = hashlib.sha256(code.encode()).hexdigest()[:8]
        here = {"AWS_ENDPOINT_URL": self.live.here.endpoint, "AWS_DEFAULT_REGION": REGION}
        here |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
        with patch.dict(os.environ, here), patch.object(boto3, "DEFAULT_SESSION", None):
            return self.live.push(write_app(self.apps / f"{self.name}-{tag}", code), self.name, tag)

    def deploy(self, image: str, text: str = TEMPLATE, verb: str = "create_stack", **more: Any) -> str:
        """The status in which the stack comes to rest."""
        self.begin(image, text, verb, **more)
        return self.rest()

    def begin(self, image: str, text: str = TEMPLATE, verb: str = "create_stack", **more: Any) -> None:
        given = {"Name": self.name, "Image": image, "VpcId": self.vpc}
        given["SubnetIds"] = ",".join(self.live.subnets())
        self.since = self.live.here.now()
        answer = getattr(self.formation, verb)(
            StackName=self.name,
            TemplateBody=text,
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
            **more,
        )
        self.id = answer["StackId"]

    def rest(self) -> str:
        def status() -> str:
            now = self.formation.describe_stacks(StackName=self.id)["Stacks"][0]["StackStatus"]
            return "" if now.endswith("IN_PROGRESS") else now

        return self.live.until(status, 60)

    def story(self) -> list[tuple[str, str, str]]:
        """(logical id, status, why) since the last `begin`, oldest first."""
        events = self.formation.describe_stack_events(StackName=self.id)["StackEvents"]
        return [
            (
                event["LogicalResourceId"],
                event["ResourceStatus"],
                re.sub(
                    "RequestToken: [-0-9a-f]+", "RequestToken: TOKEN", event.get("ResourceStatusReason", "")
                ),
            )
            for event in reversed(events)
            if event["Timestamp"] >= self.since
        ]

    def why(self, logical: str, status: str) -> str:
        return next(why for one, what, why in self.story() if (one, what) == (logical, status))

    @property
    def service(self) -> dict[str, Any]:
        return self.ecs.describe_services(cluster=self.name, services=[self.name])["services"][0]

    @property
    def told(self) -> list[str]:
        """The service's events, oldest first, with ids of tasks and deployments left out."""
        messages = [event["message"] for event in reversed(self.service["events"])]
        return [re.sub(r"ecs-svc/\d+", "D", re.sub(r"task [0-9a-f]{32}", "task T", one)) for one in messages]

    def stopped(self) -> list[dict[str, Any]]:
        arns = self.ecs.list_tasks(cluster=self.name, desiredStatus="STOPPED")["taskArns"]
        return self.ecs.describe_tasks(cluster=self.name, tasks=arns)["tasks"] if arns else []

    def scale(self, count: int) -> None:
        """As auto scaling does."""
        self.ecs.update_service(cluster=self.name, service=self.name, desiredCount=count)
        self.live.until(lambda: self.service["runningCount"] == count)

    def delete(self) -> str:
        self.since = self.live.here.now()
        self.formation.delete_stack(StackName=self.name)
        return self.rest()

    @property
    def outputs(self) -> dict[str, str]:
        (stack,) = self.formation.describe_stacks(StackName=self.id)["Stacks"]
        return {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"]}
