from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from helpers.sandbox.iam.roles import Roles, role_name
from tests.sandbox.chain import shared_endpoint

ECS_TASKS = "ecs-tasks.amazonaws.com"
REPOSITORY = "arn:aws:ecr:us-east-1:123456789012:repository/shop"
NUMBERS = itertools.count(1)


def trust(service: str = ECS_TASKS, **more: Any) -> str:
    statement = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole", **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def document(effect: str, action: str, resource: str = "*") -> str:
    statement = {"Effect": effect, "Action": action, "Resource": resource}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


class World:
    def __init__(self) -> None:
        self.endpoint = shared_endpoint()
        self.reads = 0
        self.iam = self.endpoint.client("iam", "us-east-1")
        self.roles = Roles(self.aws, self.endpoint.changes)
        self.name = f"role-{next(NUMBERS)}"

    def aws(self, service: str, region: str) -> Any:
        self.reads += 1
        return self.endpoint.client(service, region)

    def role(self, **params: Any) -> str:
        params.setdefault("AssumeRolePolicyDocument", trust())
        return self.iam.create_role(RoleName=self.name, **params)["Role"]["Arn"]

    def policy(self, name: str, text: str) -> str:
        return self.iam.create_policy(PolicyName=f"{self.name}-{name}", PolicyDocument=text)["Policy"]["Arn"]


@pytest.fixture
def world() -> World:
    return World()


def test_a_role_is_assumed_by_whom_its_trust_policy_names(world):
    arn = world.role(Path="/team/")
    assert arn.endswith(f":role/team/{world.name}")
    for role in (arn, world.name):
        assert world.roles.trusts(role, ECS_TASKS)
        assert not world.roles.trusts(role, "ec2.amazonaws.com")
    assert not world.roles.trusts(arn.replace("/team/", "/"), ECS_TASKS), "a path is part of the ARN"
    world.iam.update_assume_role_policy(RoleName=world.name, PolicyDocument=trust("ecs.amazonaws.com"))
    assert not world.roles.trusts(arn, ECS_TASKS)
    world.iam.update_assume_role_policy(RoleName=world.name, PolicyDocument=trust())
    assert world.roles.trusts(arn, ECS_TASKS)


def test_a_condition_on_the_account_counts(world):
    for account, trusted in (("123456789012", True), ("210987654321", False)):
        condition = {"StringEquals": {"aws:SourceAccount": account}}
        if trusted:
            arn = world.role(AssumeRolePolicyDocument=trust(Condition=condition))
        else:
            world.iam.update_assume_role_policy(
                RoleName=world.name, PolicyDocument=trust(Condition=condition)
            )
        assert world.roles.trusts(arn, ECS_TASKS) is trusted


@pytest.mark.parametrize(
    "role",
    [
        "arn:aws:iam::123456789012:role/nobody-made-it",
        "arn:aws:iam::210987654321:role/of-another-account",
        "arn:aws:ecs:us-east-1:123456789012:cluster/lab",
        "",
    ],
)
def test_a_role_that_is_not_there_is_assumed_by_nobody(world, role):
    assert not world.roles.trusts(role, ECS_TASKS)
    assert not world.roles.allows(role, "ecr:BatchGetImage", REPOSITORY)


def test_inline_and_attached_policies_and_a_deny(world):
    arn = world.role()
    why = "because no identity-based policy allows the ecr:BatchGetImage action"
    assert world.roles.why_not(arn, "ecr:BatchGetImage", REPOSITORY) == why
    world.iam.put_role_policy(
        RoleName=world.name, PolicyName="pull", PolicyDocument=document("Allow", "ecr:*", REPOSITORY)
    )
    assert world.roles.allows(arn, "ecr:BatchGetImage", REPOSITORY)
    assert not world.roles.allows(arn, "ecr:BatchGetImage", REPOSITORY.replace("shop", "bank"))
    denies = world.policy("denies", document("Deny", "ecr:BatchGetImage"))
    world.iam.attach_role_policy(RoleName=world.name, PolicyArn=denies)
    why = "with an explicit deny in an identity-based policy"
    assert world.roles.why_not(arn, "ecr:BatchGetImage", REPOSITORY) == why
    world.iam.create_policy_version(
        PolicyArn=denies, PolicyDocument=document("Deny", "s3:*"), SetAsDefault=True
    )
    assert world.roles.allows(arn, "ecr:BatchGetImage", REPOSITORY), "the default version counts"


def test_a_permissions_boundary_bounds(world):
    arn = world.role(PermissionsBoundary=world.policy("bound", document("Allow", "logs:*")))
    world.iam.put_role_policy(RoleName=world.name, PolicyName="all", PolicyDocument=document("Allow", "*"))
    assert world.roles.allows(arn, "logs:CreateLogStream", "*")
    why = "because no permissions boundary allows the ecr:BatchGetImage action"
    assert world.roles.why_not(arn, "ecr:BatchGetImage", REPOSITORY) == why


def test_nothing_is_read_again_until_iam_changes(world):
    arn = world.role()
    world.roles.allows(arn, "ecr:BatchGetImage", REPOSITORY)
    reads = world.reads
    for number in range(20):
        world.roles.allows(arn, "ecr:BatchGetImage", f"{REPOSITORY}{number}")
        world.roles.trusts(arn, ECS_TASKS)
    assert world.reads == reads
    world.iam.tag_role(RoleName=world.name, Tags=[{"Key": "a", "Value": "b"}])
    world.roles.trusts(arn, ECS_TASKS)
    assert world.reads > reads


def test_a_roles_name():
    assert role_name("arn:aws:iam::123456789012:role/service-role/x") == "x"
    assert role_name("arn:aws:iam::123456789012:user/x") is None
