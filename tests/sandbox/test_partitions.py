"""Regions of China and GovCloud: their ARNs begin otherwise, and their roles are in another IAM than us-east-1's."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.sandbox.ecr.references import Reference
from helpers.sandbox.ecs.preparation import Preparation
from helpers.sandbox.ecs.stopped_reasons import registry_auth_timed_out
from helpers.sandbox.iam.roles import Roles
from tests.sandbox.chain import shared_endpoint
from tests.sandbox.task_record import task_record
from tests.sandbox.test_stacks import World, one

WHERE = [
    ("cn-north-1", "aws-cn", "amazonaws.com.cn"),
    ("cn-northwest-1", "aws-cn", "amazonaws.com.cn"),
    ("us-gov-west-1", "aws-us-gov", "amazonaws.com"),
    ("us-gov-east-1", "aws-us-gov", "amazonaws.com"),
    ("eu-west-1", "aws", "amazonaws.com"),
]
NUMBERS = itertools.count(1)
REPOSITORY = "arn:${AWS::Partition}:ecr:${AWS::Region}:${AWS::AccountId}:repository/shop"
everywhere = pytest.mark.parametrize(("region", "partition", "suffix"), WHERE)


def made(region: str, sub: str) -> tuple[str, str]:
    """Of a stack in this region: its ARN, and what a !Sub in its template comes to."""
    world = World()
    body = json.dumps({"Resources": {"A": one({"Fn::Sub": sub})}})
    answer = world("CreateStack", region, StackName="s", TemplateBody=body)
    return answer["StackId"], world.there["A-1"]["Value"]


def policy(**statement: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]})


@everywhere
def test_a_templates_pseudo_parameters_follow_the_region(region, partition, suffix):
    stack, text = made(region, f"{REPOSITORY} ${{AWS::URLSuffix}}")
    assert stack.startswith(f"arn:{partition}:cloudformation:{region}:")
    assert text == f"arn:{partition}:ecr:{region}:123456789012:repository/shop {suffix}"
    assert f'"https://api.ecr.{region}.{suffix}/"' in registry_auth_timed_out(region)


@everywhere
def test_a_role_of_the_region_starts_a_task_by_what_the_template_allows(region, partition, suffix):
    endpoint, name = shared_endpoint(), f"partition-{next(NUMBERS)}"
    iam = endpoint.client("iam", region)
    trusts = policy(Principal={"Service": "ecs-tasks.amazonaws.com"}, Action="sts:AssumeRole")
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trusts)["Role"]["Arn"]
    _, repository = made(region, REPOSITORY)
    for what, allowed in {"*": "ecr:GetAuthorizationToken", repository: "ecr:*"}.items():
        document = policy(Action=allowed, Resource=what)
        iam.put_role_policy(RoleName=name, PolicyName=f"p{len(what)}", PolicyDocument=document)
    logs = SimpleNamespace(open_stream=lambda task, container: ("/ecs/shop", "stream"))
    images = SimpleNamespace(
        read=lambda image: Reference(None, region, "shop", {"imageTag": "v1"}), find=lambda *_: None
    )
    preparation = Preparation(logs, Roles(endpoint.client, endpoint.changes), images)
    arn = f"arn:{partition}:ecs:{region}:123456789012"
    for given in (role, name):
        definition = SimpleNamespace(
            arn=f"{arn}:task-definition/shop:1", raw={"executionRoleArn": given}, architecture="X86_64"
        )
        preparation.assume(definition)
        stream = preparation.prepare(
            task_record(f"{arn}:task/shop/1"), definition, {"name": "app", "image": "shop:v1"}
        )
        assert stream == ("/ecs/shop", "stream")
