"""A lab as after notebook 08, made by the templates alone, for tests that break it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3

from helpers import connection, session
from helpers.connection import Lab
from helpers.images import build_image, push_image
from helpers.services import service
from helpers.stacks import wait_for
from helpers.templates import template

NAME = "shop"


@contextmanager
def lab_of(state: Path, speed: float, runtime: str = "process") -> Iterator[Lab]:
    """A sandbox of its own with the stack of notebook 08; the environment, boto3's session and the connected lab are
    what they were afterwards: the next module's clients must not lead here."""
    before, clients, connected = dict(os.environ), boto3.DEFAULT_SESSION, session.connected()
    os.environ["SANDBOX_STATE"] = str(state)
    try:
        lab = connection.connect(name=NAME, speed=speed, runtime=runtime)
        build(lab)
        yield lab
    finally:
        session.stop(state)
        boto3.DEFAULT_SESSION, session._current = clients, connected
        os.environ.clear()
        os.environ.update(before)


def build(lab: Lab) -> None:
    ecr, ec2 = boto3.client("ecr"), boto3.client("ec2")
    uri = ecr.create_repository(repositoryName=NAME)["repository"]["repositoryUri"]
    vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]]
    given = {
        "Name": NAME,
        "Image": push_image(build_image("sample-app", "1.0.0"), uri),
        "VpcId": vpc,
        "SubnetIds": ",".join(subnets),
        "HealthCheckPath": "/healthcheck",
    }
    boto3.client("cloudformation").create_stack(
        StackName=NAME,
        TemplateBody=template("08").body,
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
        Capabilities=["CAPABILITY_IAM"],
    )
    wait_for(NAME)
    service(NAME, NAME).until_steady()
