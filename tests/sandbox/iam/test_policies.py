"""Cases from the IAM User Guide: "Policy evaluation logic", "IAM JSON policy elements", "Condition operators"."""

from __future__ import annotations

import json

import pytest
from moto.iam.access_control import IAMPolicy, IAMPolicyStatement, PermissionResult

from helpers.sandbox.iam.policies import ALLOWED, DENIED, SILENT, Request, judge

REPOSITORY = "arn:aws:ecr:us-east-1:123456789012:repository/shop"
STREAM = "arn:aws:logs:us-east-1:123456789012:log-group:/ecs/shop:log-stream:ecs/app/0123"
PULL = {"Effect": "Allow", "Action": "ecr:BatchGetImage", "Resource": REPOSITORY}
ECS_TASKS = "ecs-tasks.amazonaws.com"


def policy(*statements: dict) -> dict:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def says(statement: dict, action: str = "ecr:BatchGetImage", resource: str = REPOSITORY, **context: str):
    return judge(policy(statement), Request(action, resource, context=context))


@pytest.mark.parametrize(
    ("statement", "verdict"),
    [
        (PULL, ALLOWED),
        (PULL | {"Action": ["ecr:GetAuthorizationToken", "ecr:Batch*"]}, ALLOWED),
        (PULL | {"Action": "ECR:batchgetimage"}, ALLOWED),  # actions are not case-sensitive
        (PULL | {"Action": "*"}, ALLOWED),
        (PULL | {"Action": "ecr:BatchGet?mage"}, ALLOWED),
        (PULL | {"Action": "ecr:BatchGetImageX"}, SILENT),
        (PULL | {"Action": "ecr.BatchGetImage"}, SILENT),  # a dot is a dot
        (PULL | {"Resource": "*"}, ALLOWED),
        (PULL | {"Resource": REPOSITORY.replace("shop", "*")}, ALLOWED),
        (PULL | {"Resource": REPOSITORY.replace("123456789012", "*")}, ALLOWED),
        (PULL | {"Resource": REPOSITORY.replace("shop", "shop2")}, SILENT),
        (PULL | {"Resource": REPOSITORY.replace("shop", "SHOP")}, SILENT),  # resources are
        (PULL | {"Resource": REPOSITORY.removesuffix("hop")}, SILENT),  # no substring
        (PULL | {"Effect": "Deny"}, DENIED),
        ({"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}, ALLOWED),
        ({"Effect": "Allow", "NotAction": "ecr:*", "Resource": "*"}, SILENT),
        ({"Effect": "Allow", "Action": "ecr:*", "NotResource": REPOSITORY}, SILENT),
    ],
)
def test_a_statement_speaks_of_an_action_and_a_resource(statement, verdict):
    assert says(statement) is verdict


def test_a_deny_wins_wherever_it_stands():
    deny = {"Effect": "Deny", "Action": "ecr:*", "Resource": "*"}
    for statements in ((PULL, deny), (deny, PULL)):
        assert judge(policy(*statements), Request("ecr:BatchGetImage", REPOSITORY)) is DENIED


def test_a_single_statement_needs_no_list():
    assert judge({"Statement": PULL}, Request("ecr:BatchGetImage", REPOSITORY)) is ALLOWED
    assert judge({}, Request("ecr:BatchGetImage", REPOSITORY)) is SILENT


def test_a_token_is_for_no_repository():
    """GetAuthorizationToken supports no resource-level permission: it needs "*" (Service Authorization Reference)."""
    token = PULL | {"Action": "ecr:GetAuthorizationToken"}
    assert says(token, "ecr:GetAuthorizationToken", "*") is SILENT
    assert says(token | {"Resource": "*"}, "ecr:GetAuthorizationToken", "*") is ALLOWED


def test_a_log_groups_own_arn_does_not_mean_its_streams():
    create = {"Effect": "Allow", "Action": "logs:CreateLogStream"}
    group = "arn:aws:logs:us-east-1:123456789012:log-group:/ecs/shop"
    assert says(create | {"Resource": f"{group}:*"}, "logs:CreateLogStream", STREAM) is ALLOWED
    assert says(create | {"Resource": group}, "logs:CreateLogStream", STREAM) is SILENT


@pytest.mark.parametrize(
    ("condition", "met"),
    [
        ({"StringEquals": {"aws:SourceAccount": "123456789012"}}, True),
        ({"StringEquals": {"AWS:sourceaccount": ["1", "123456789012"]}}, True),
        ({"StringEquals": {"aws:SourceAccount": "210987654321"}}, False),
        ({"StringEquals": {"aws:PrincipalOrgID": "o-1"}}, False),  # no such key in the request
        ({"StringEqualsIfExists": {"aws:PrincipalOrgID": "o-1"}}, True),
        ({"StringNotEquals": {"aws:PrincipalOrgID": "o-1"}}, True),
        ({"StringNotEquals": {"aws:SourceAccount": ["1", "123456789012"]}}, False),
        ({"StringLike": {"aws:SourceAccount": "1234*"}}, True),
        ({"ArnLike": {"aws:SourceArn": "arn:aws:ecs:us-east-1:123456789012:*"}}, True),
        ({"ArnLike": {"aws:SourceArn": "arn:aws:ecs:eu-west-1:123456789012:*"}}, False),
        ({"Bool": {"aws:SecureTransport": "true"}}, True),
        ({"Bool": {"aws:SecureTransport": False}}, False),
        ({"Null": {"aws:TokenIssueTime": "true"}}, True),
        ({"Null": {"aws:SourceAccount": "true"}}, False),
        ({"NumericLessThan": {"aws:MultiFactorAuthAge": "300"}}, False),
        ({"ForAllValues:StringEquals": {"aws:TagKeys": ["a"]}}, True),
        ({"ForAnyValue:StringEquals": {"aws:TagKeys": ["a"]}}, False),
        ({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, False),  # not known here
        (
            {
                "StringEquals": {"aws:SourceAccount": "123456789012"},
                "ArnLike": {"aws:SourceArn": "arn:aws:s3:*"},
            },
            False,  # all have to be met
        ),
    ],
)
def test_a_statement_with_a_condition_that_is_not_met_says_nothing(condition, met):
    context = {
        "aws:sourceaccount": "123456789012",
        "aws:sourcearn": "arn:aws:ecs:us-east-1:123456789012:task/lab/1",
        "aws:securetransport": "true",
    }
    for effect, verdict in (("Allow", ALLOWED), ("Deny", DENIED)):
        statement = {"Effect": effect, "Action": "*", "Resource": "*", "Condition": condition}
        assert says(statement, **context) is (verdict if met else SILENT)


def test_a_condition_key_that_is_not_known_is_logged(caplog):
    elsewhere = {"StringNotEquals": {"aws:RequestedRegion": "us-east-1"}}
    deny = {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": elsewhere}
    assert says(deny, **{"aws:requestedregion": "us-east-1"}) is SILENT
    assert not caplog.records
    assert says(deny) is DENIED  # as IAM: a negated operator is met where there is no such key
    assert "the condition key aws:RequestedRegion is not known here" in caplog.text


@pytest.mark.parametrize(
    ("statement", "verdict"),
    [
        ({"Principal": {"Service": ECS_TASKS}}, ALLOWED),
        ({"Principal": {"Service": ["ec2.amazonaws.com", ECS_TASKS]}}, ALLOWED),
        ({"Principal": {"Service": "ecs.amazonaws.com"}}, SILENT),
        ({"Principal": {"AWS": "arn:aws:iam::123456789012:root"}}, SILENT),
        ({"Principal": "*"}, ALLOWED),
        ({"Principal": {"Service": ECS_TASKS}, "Action": "sts:TagSession"}, SILENT),
        ({"Principal": {"Service": ECS_TASKS}, "Effect": "Deny"}, DENIED),
    ],
)
def test_a_trust_policy_names_who_may_assume(statement, verdict):
    trust = policy({"Effect": "Allow", "Action": "sts:AssumeRole", **statement})
    assert judge(trust, Request("sts:AssumeRole", service=ECS_TASKS)) is verdict


def test_moto_still_leaves_it_to_us():
    """When this fails, moto may have filled a gap: see whether `policies.py` can be smaller."""
    trust = {"Effect": "Deny", "Action": "sts:AssumeRole", "Principal": {"Service": ECS_TASKS}}
    with pytest.raises(TypeError):
        IAMPolicyStatement(trust).is_action_permitted("sts:AssumeRole", principal=ECS_TASKS)
    assert IAMPolicyStatement(trust).is_action_permitted("sts:AssumeRole") is PermissionResult.PERMITTED
    unmet = PULL | {"Condition": {"StringEquals": {"a": "b"}}, "Effect": "Deny"}
    asked = {"incoming_condition_values": {"a": "c"}}
    found = IAMPolicy(json.dumps(policy(unmet))).is_action_permitted("ecr:BatchGetImage", REPOSITORY, **asked)
    assert found is PermissionResult.DENIED
