"""`broken.mend()` after a learner's wrong cures: what these changed is as the template has it again. On moto's records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from moto import mock_aws

from helpers.faults import FAULTS, scaling
from helpers.faults.place import Place
from helpers.faults.put_back import put_back
from helpers.faults.revisions import unbroken
from helpers.faults.scaling import as_templated, of_service
from helpers.templates import template

NAME, REGION = "shop", "us-east-1"
ANYWHERE = {"IpProtocol": "tcp", "FromPort": 3000, "ToPort": 3000, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
COUNT = {"ScalableDimension": "ecs:service:DesiredCount"}


class Shop(Place):
    """The course's service with its load balancer, role and auto scaling; the stack is made up of them."""

    made: dict[str, str]
    body: str
    good: str

    def resource(self, logical_id: str) -> str:
        return self.made[logical_id]

    @property
    def stack(self) -> dict[str, Any]:
        given = {"SubnetIds": self.made["Subnet"], "HealthCheckPath": "/healthcheck", "Name": NAME}
        return {
            "StackStatus": "UPDATE_COMPLETE",
            "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
            "Outputs": [{"OutputKey": "TaskDefinitionArn", "OutputValue": self.good}],
        }

    @property
    def template_body(self) -> str:
        return self.body


def register() -> str:
    answer = boto3.client("ecs").register_task_definition(
        family=NAME, containerDefinitions=[{"name": "app", "image": "app", "memory": 8}]
    )
    return answer["taskDefinition"]["taskDefinitionArn"]


def made() -> dict[str, str]:
    ec2, elbv2, iam = boto3.client("ec2"), boto3.client("elbv2"), boto3.client("iam")
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    groups = [
        ec2.create_security_group(GroupName=name, Description=name, VpcId=vpc)["GroupId"]
        for name in ("tasks", "balancer", "another")
    ]
    target = elbv2.create_target_group(Name="t", Protocol="HTTP", Port=3000, VpcId=vpc, TargetType="ip")
    iam.create_role(RoleName="execution", AssumeRolePolicyDocument="{}")
    return {
        **dict(zip(("TaskSecurityGroup", "LoadBalancerSecurityGroup", "Another"), groups, strict=True)),
        "TargetGroup": target["TargetGroups"][0]["TargetGroupArn"],
        "TaskExecutionRole": "execution",
        "Subnet": subnet,
    }


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    with mock_aws():
        ecs, real = boto3.client("ecs"), boto3.client
        place = Shop(NAME, REGION)
        object.__setattr__(place, "made", made())
        object.__setattr__(place, "good", register())
        object.__setattr__(place, "body", template("08").body)
        stack = SimpleNamespace(
            describe_stacks=lambda **_: {"Stacks": [place.stack]},
            get_template=lambda **_: {"TemplateBody": place.body},
            update_stack=lambda **asked: object.__setattr__(place, "body", asked["TemplateBody"]),
        )
        monkeypatch.setattr(
            boto3, "client", lambda name, **more: stack if name == "cloudformation" else real(name, **more)
        )
        monkeypatch.setattr(scaling, "patience", lambda minutes: minutes)
        monkeypatch.setattr(scaling, "polls", lambda minutes: iter([None]))
        monkeypatch.setattr(scaling, "wait_for", lambda name: None)
        ecs.create_cluster(clusterName=NAME)
        vpc = {"subnets": [place.made["Subnet"]], "securityGroups": [place.made["TaskSecurityGroup"]]}
        ecs.create_service(
            cluster=NAME,
            serviceName=NAME,
            taskDefinition=place.good,
            desiredCount=2,
            launchType="FARGATE",
            networkConfiguration={"awsvpcConfiguration": vpc | {"assignPublicIp": "ENABLED"}},
        )
        put_back(place, FAULTS["security-group"])  # nothing of the above is as the template has it yet
        yield place


def mend(place: Shop, name: str) -> None:
    """As Broken.mend does."""
    put_back(place, FAULTS[name])
    FAULTS[name].mend(place)


def rules(place: Shop, group: str) -> dict[str, Any]:
    (found,) = boto3.client("ec2").describe_security_groups(GroupIds=[place.made[group]])["SecurityGroups"]
    return found


def test_a_port_that_was_opened_to_everybody_is_closed_again(shop):
    group, ec2 = shop.made["TaskSecurityGroup"], boto3.client("ec2")
    theirs = {"IpProtocol": "tcp", "FromPort": 3000, "ToPort": 3000}
    theirs["UserIdGroupPairs"] = [{"GroupId": shop.made["Another"]}]
    ec2.revoke_security_group_ingress(
        GroupId=group, IpPermissions=rules(shop, "TaskSecurityGroup")["IpPermissions"]
    )
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[ANYWHERE])
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[theirs])
    fault = FAULTS["security-group"]
    assert len(fault.lacking(shop)) == 2
    fault.mend(shop)
    assert fault.lacking(shop) == []
    (rule,) = rules(shop, "TaskSecurityGroup")["IpPermissions"]
    assert (rule["FromPort"], rule["ToPort"], rule["IpRanges"]) == (3000, 3000, [])
    assert [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == [shop.made["LoadBalancerSecurityGroup"]]


def test_another_group_and_a_way_out_for_one_port_are_no_way_out(shop):
    group, ec2 = shop.made["TaskSecurityGroup"], boto3.client("ec2")
    ec2.revoke_security_group_egress(
        GroupId=group, IpPermissions=rules(shop, "TaskSecurityGroup")["IpPermissionsEgress"]
    )
    narrow = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}
    ec2.authorize_security_group_egress(GroupId=group, IpPermissions=[narrow])
    vpc = {"subnets": [shop.made["Subnet"]], "securityGroups": [shop.made["Another"]]}
    shop.update(networkConfiguration={"awsvpcConfiguration": vpc | {"assignPublicIp": "DISABLED"}})
    FAULTS["no-way-out"].mend(shop)
    (rule,) = rules(shop, "TaskSecurityGroup")["IpPermissionsEgress"]
    assert (rule["IpProtocol"], rule["IpRanges"]) == ("-1", [{"CidrIp": "0.0.0.0/0"}])
    now = shop.service.record["networkConfiguration"]["awsvpcConfiguration"]
    assert (now["securityGroups"], now["assignPublicIp"]) == ([group], "ENABLED")


@pytest.mark.parametrize("name", ["health-check-path", "health-check-port"])
def test_a_health_check_is_put_right_whatever_of_it_was_changed(shop, name):
    boto3.client("elbv2").modify_target_group(
        TargetGroupArn=shop.made["TargetGroup"],
        HealthCheckPath="/health",
        HealthCheckPort="8080",
        HealthyThresholdCount=10,
        Matcher={"HttpCode": "404"},
    )
    FAULTS[name].mend(shop)
    arns = [shop.made["TargetGroup"]]
    (now,) = boto3.client("elbv2").describe_target_groups(TargetGroupArns=arns)["TargetGroups"]
    assert (now["HealthCheckPath"], now["HealthCheckPort"]) == ("/healthcheck", "traffic-port")
    assert (now["Matcher"]["HttpCode"], now["HealthyThresholdCount"]) == ("200", 2)


def test_another_role_fault_that_was_made_on_the_way_goes_too(shop):
    iam, role = boto3.client("iam"), "execution"
    deny = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "ecr:*", "Resource": "*"}]}
    iam.put_role_policy(RoleName=role, PolicyName="try", PolicyDocument=json.dumps(deny))
    arn = iam.create_policy(PolicyName="p", PolicyDocument=json.dumps(deny))["Policy"]["Arn"]
    iam.attach_role_policy(RoleName=role, PolicyArn=arn)
    iam.put_role_permissions_boundary(RoleName=role, PermissionsBoundary=arn)
    other = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    trust = {"Version": "2012-10-17", "Statement": [other]}
    iam.update_assume_role_policy(RoleName=role, PolicyDocument=json.dumps(trust))
    boto3.client("logs").delete_log_group(logGroupName=f"/ecs/{NAME}")
    mend(shop, "execution-role")
    assert iam.list_role_policies(RoleName=role)["PolicyNames"] == ["start-a-task"]
    assert iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"] == []
    now = iam.get_role(RoleName=role)["Role"]
    assert not now.get("PermissionsBoundary")
    assert "ecs-tasks.amazonaws.com" in json.dumps(now["AssumeRolePolicyDocument"])
    assert FAULTS["log-group-missing"].lacking(shop) == []


@pytest.mark.parametrize("policies", ["both gone", "the wrong one left", "an own one"])
def test_auto_scaling_is_the_templates_whatever_was_done_to_it(shop, policies):
    autoscaling = boto3.client("application-autoscaling")
    of = of_service(shop) | COUNT
    autoscaling.register_scalable_target(**of, MinCapacity=1, MaxCapacity=2)
    autoscaling.delete_scaling_policy(**of, PolicyName=f"{NAME}-cpu")
    if policies != "both gone":
        own = policies == "an own one"
        metric = f"ECSServiceAverage{'CPU' if own else 'Memory'}Utilization"
        tracks = {"PredefinedMetricSpecification": {"PredefinedMetricType": metric}, "TargetValue": 5.0}
        autoscaling.put_scaling_policy(
            **of,
            PolicyName="mine",
            PolicyType="TargetTrackingScaling",
            TargetTrackingScalingPolicyConfiguration=tracks,
        )
    shop.update(desiredCount=0)
    assert as_templated(shop)
    FAULTS["two-policies"].mend(shop)
    assert as_templated(shop) == []


@pytest.mark.parametrize("name", ["health-check-path", "grace-period"])
def test_another_revision_goes_unless_it_is_the_one_that_is_to_come_up(shop, name):
    other = register()
    off = {"deploymentCircuitBreaker": {"enable": False, "rollback": False}, "maximumPercent": 100}
    shop.update(taskDefinition=other, deploymentConfiguration=off)
    put_back(shop, FAULTS[name])
    assert shop.service.record["deploymentConfiguration"]["maximumPercent"] == 200
    FAULTS[name].mend(shop)
    assert shop.service.record["taskDefinition"] == (other if name == "grace-period" else shop.good)
    assert unbroken(shop) == []


def test_a_template_without_auto_scaling_is_the_courses_again(shop):
    object.__setattr__(shop, "body", template("07").body)
    assert as_templated(shop) == ["the stack's template has no auto scaling any more"]
    mend(shop, "app-exits")
    assert shop.body == template("08").body
    assert as_templated(shop) == []
