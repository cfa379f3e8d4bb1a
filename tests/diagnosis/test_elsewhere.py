"""Images and log groups of another region or account: they are asked for where they are."""

from __future__ import annotations

import json

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError

from helpers.diagnosis import fixes
from helpers.diagnosis.evidence import gather
from helpers.diagnosis.facts import Evidence
from helpers.diagnosis.image import image_missing
from helpers.diagnosis.role import execution_role, log_permissions
from tests import shop
from tests.answers import Answers, aws
from tests.diagnosis.recorded import failing
from tests.story import START
from tests.test_diagnose import Partly
from tests.test_failures import refused

__all__ = ["aws"]
ABSENT = refused("RepositoryNotFoundException", "no such repository")


def asked(aws: Answers, monkeypatch, host: str, logs: str, answer: dict | Exception, groups: object = None):
    """(the evidence, regions by service, parameters of describe_images)"""
    shop.open_shop(aws)
    container = shop.container() | {"image": f"{host}/shop:v1"}
    container["logConfiguration"]["options"]["awslogs-region"] = logs
    aws["ecs", "DescribeTaskDefinition"] = {"taskDefinition": {"containerDefinitions": [container]}}
    aws["ecr", "DescribeImages"] = answer
    aws["logs", "DescribeLogGroups"] = groups or {"logGroups": []}
    aws.answers = Partly(aws.answers, refused("AccessDenied"))
    regions: dict[str, set] = {}

    def client(name: str, region_name: str = "") -> object:
        regions.setdefault(name, set()).add(region_name)
        return aws.client(name)

    monkeypatch.setattr(boto3, "client", client)
    evidence = gather("shop", "shop", "", START, "us-east-1")
    parameters = next(given for _, operation, given in aws.calls if operation == "DescribeImages")
    return evidence, regions, parameters


@pytest.mark.parametrize(
    ("host", "region", "missing"),
    [
        ("123456789012.dkr.ecr.us-east-1.amazonaws.com", "", True),
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", "eu-west-1", True),
        ("123456789012.dkr-ecr.eu-west-1.on.aws", "eu-west-1", True),
        ("210987654321.dkr.ecr.us-east-1.amazonaws.com", "", False),
        ("210987654321.dkr.ecr-fips.us-west-2.amazonaws.com", "us-west-2", False),
    ],
)
def test_an_image_is_looked_for_in_its_own_registry(aws, monkeypatch, host, region, missing):
    evidence, regions, parameters = asked(aws, monkeypatch, host, "us-east-1", ABSENT)
    assert parameters["registryId"] == host[:12]
    assert regions["ecr"] == {region}
    assert bool(evidence.one("image").get("missing")) is missing
    assert ("image" in evidence.unread) is not missing


@pytest.mark.parametrize(
    ("host", "client", "registry"),
    [
        ("123456789012.dkr.ecr.us-east-1.amazonaws.com", '"ecr"', ""),
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", '"ecr", region_name="eu-west-1"', ""),
        ("210987654321.dkr-ecr.us-east-1.on.aws", '"ecr"', 'registryId="210987654321"'),
        (
            "210987654321.dkr.ecr-fips.us-west-2.amazonaws.com",
            '"ecr", region_name="us-west-2"',
            'registryId="210987654321"',
        ),
    ],
)
def test_the_call_that_is_proposed_asks_the_images_own_registry(host, client, registry):
    answers = failing(
        "CannotPullContainerError: manifest unknown: not found", container={"image": f"{host}/web:v1"}
    )
    (missing,) = image_missing(Evidence(answers | {"image": None}))
    for call in (missing.fix, missing.decide):
        assert f"boto3.client({client}).describe_images(" in call
        assert 'repositoryName="web"' in call
        assert registry in call
        assert ("registryId" in call) is bool(registry)


def test_a_permission_is_missed_and_granted_where_image_and_log_are():
    container = shop.container() | {"image": "210987654321.dkr.ecr.us-west-2.amazonaws.com/web:v1"}
    container["logConfiguration"]["options"]["awslogs-region"] = "eu-west-1"
    evidence = Evidence(failing(container=container) | {"execution_policies": []})
    (pull,), (write,) = execution_role(evidence), log_permissions(evidence)
    for told in (pull.fix, pull.decide):
        assert "arn:aws:ecr:us-west-2:210987654321:repository/web" in told
    for told in (write.fix, write.decide):
        assert "arn:aws:logs:eu-west-1:123456789012:log-group:/ecs/shop" in told


def test_a_log_group_is_looked_for_in_its_region(aws, monkeypatch):
    host = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
    _, regions, _ = asked(aws, monkeypatch, host, "eu-west-1", {"imageDetails": []})
    assert "eu-west-1" in regions["logs"]


def test_that_another_region_is_not_reached_leaves_the_rest(aws, monkeypatch):
    host = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
    lost = EndpointConnectionError(endpoint_url="https://logs.eu-wset-1.amazonaws.com")
    evidence, _, _ = asked(aws, monkeypatch, host, "eu-wset-1", {"imageDetails": []}, lost)
    assert "EndpointConnectionError" in evidence.unread["log_groups"]
    assert evidence.has("image")
    assert evidence.has("scalable_targets")


def test_a_template_of_json_is_looked_into_as_one_of_yaml(aws):
    shop.open_shop(aws)
    service = {"Type": "AWS::ECS::Service", "Properties": {"DesiredCount": 2, "Cluster": {"Ref": "Cluster"}}}
    aws["cloudformation", "DescribeStacks"] = {
        "Stacks": [{"StackName": "shop", "StackStatus": "UPDATE_COMPLETE", "CreationTime": START}]
    }
    aws["cloudformation", "GetTemplate"] = {"TemplateBody": json.dumps({"Resources": {"App": service}})}
    aws.answers = Partly(aws.answers, refused("AccessDenied"))
    evidence = gather("shop", "shop", "shop", START, "us-east-1")
    assert fixes.value_of(evidence, "AWS::ECS::Service", "DesiredCount") == "2"
    assert "-      DesiredCount: 2" in fixes.diff(evidence, "AWS::ECS::Service", "", removed="DesiredCount:")
