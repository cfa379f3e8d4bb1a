"""Each resource type against the real endpoint and moto; an ECS service against a service that a test moves by hand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import botocore.session
import pytest
from botocore.exceptions import ClientError

from helpers.sandbox.clock import AwsClock
from helpers.sandbox.cloudformation.ecs_resources import Cluster, Service
from helpers.sandbox.cloudformation.handler import (
    Cancelled,
    Context,
    HandlerError,
    TimedOut,
    call,
    reason,
    shaped,
)
from helpers.sandbox.cloudformation.schemas import known_types, schema
from helpers.sandbox.endpoint import Call, Endpoint
from helpers.sandbox.resources import HANDLERS
from helpers.sandbox.stacks import CloudFormation
from tests.sandbox.manual_clock import ManualClock

REGION = "us-east-1"
TEMPLATES = Path(__file__).parents[2] / "templates"
AWS = str(Path(sys.executable).parent / "aws")
ALL = ["CAPABILITY_NAMED_IAM"]
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "sts:AssumeRole"}],
}
ALLOW = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
SERVICE_ROLLOUT = "Error occurred during operation 'ECS Deployment Circuit Breaker was triggered'."


class Unwaited(Service):
    """The service without the wait: moto starts no task."""

    def _wait(self, ctx, service):
        pass


@pytest.fixture(scope="module")
def cloud():
    endpoint = Endpoint()
    formation = CloudFormation(
        AwsClock(30),
        endpoint.client,
        start=lambda name, work: work(),
        handlers={**HANDLERS, Service.type: Unwaited()},
    )
    endpoint.add(formation.operations())
    endpoint.start()
    ec2 = endpoint.client("ec2", REGION)
    yield SimpleNamespace(
        endpoint=endpoint,
        client=lambda service: endpoint.client(service, REGION),
        formation=endpoint.client("cloudformation", REGION),
        vpc=ec2.describe_vpcs()["Vpcs"][0]["VpcId"],
        subnets=[one["SubnetId"] for one in ec2.describe_subnets()["Subnets"]][:3],
    )
    endpoint.stop()


def tags(value):
    return [{"Key": "own", "Value": value}]


def container(**more):
    return {"Name": "app", "Image": "x", "PortMappings": [{"ContainerPort": 80}], **more}


def task(**more):
    fargate = {"Cpu": 256, "Memory": 512, "NetworkMode": "awsvpc", "RequiresCompatibilities": ["FARGATE"]}
    return {
        "Type": "AWS::ECS::TaskDefinition",
        "Properties": {**fargate, "ContainerDefinitions": [container(**more)]},
    }


# --- every type ---------------------------------------------------------------------------------------------------

# name: (type, properties, what the update changes in them (None: gone), other resources, what to look at, and what is
# then seen of it after create and after update)
POINTS = {
    "role": (
        "AWS::IAM::Role",
        {
            "AssumeRolePolicyDocument": TRUST,
            "Policies": [{"PolicyName": "a", "PolicyDocument": ALLOW}],
            "Description": "one",
            "Tags": tags("1"),
        },
        {
            "Policies": [{"PolicyName": "b", "PolicyDocument": ALLOW}],
            "MaxSessionDuration": "7200",
            "Tags": tags("2"),
        },
        {},
        lambda c, i: (
            c("iam").list_role_policies(RoleName=i)["PolicyNames"],
            c("iam").get_role(RoleName=i)["Role"]["MaxSessionDuration"],
            {one["Key"]: one["Value"] for one in c("iam").list_role_tags(RoleName=i)["Tags"]},
        ),
        ((["a"], 3600, {"own": "1", "project": "lab"}), (["b"], 7200, {"own": "2", "project": "other"})),
    ),
    "policy": (
        "AWS::IAM::Policy",
        {"PolicyName": "p", "PolicyDocument": ALLOW, "Roles": [{"Ref": "Role"}]},
        {"PolicyName": "q"},
        {
            "Role": {
                "Type": "AWS::IAM::Role",
                "Properties": {"AssumeRolePolicyDocument": TRUST, "RoleName": "holder"},
            }
        },
        lambda c, i: c("iam").list_role_policies(RoleName="holder")["PolicyNames"],
        (["p"], ["q"]),
    ),
    "logs": (
        "AWS::Logs::LogGroup",
        {"RetentionInDays": "7", "Tags": tags("1")},
        {"RetentionInDays": None},
        {},
        lambda c, i: (
            c("logs").describe_log_groups(logGroupNamePrefix=i)["logGroups"][0].get("retentionInDays")
        ),
        (7, None),
    ),
    "cluster": (
        "AWS::ECS::Cluster",
        {
            "ClusterSettings": [{"Name": "containerInsights", "Value": "enabled"}],
            "CapacityProviders": ["FARGATE"],
        },
        {
            "ClusterSettings": [{"Name": "containerInsights", "Value": "disabled"}],
            "CapacityProviders": ["FARGATE_SPOT"],
        },
        {},
        lambda c, i: [
            (one["settings"][0]["value"], one["capacityProviders"])
            for one in c("ecs").describe_clusters(clusters=[i], include=["SETTINGS"])["clusters"]
        ],
        ([("enabled", ["FARGATE"])], [("disabled", ["FARGATE_SPOT"])]),
    ),
    "balancer": (
        "AWS::ElasticLoadBalancingV2::LoadBalancer",
        {
            "Subnets": "SUBNETS",
            "Scheme": "internal",
            "LoadBalancerAttributes": [{"Key": "idle_timeout.timeout_seconds", "Value": 61}],
        },
        {"LoadBalancerAttributes": [{"Key": "idle_timeout.timeout_seconds", "Value": "62"}]},
        {},
        lambda c, i: [
            one["Value"]
            for one in c("elbv2").describe_load_balancer_attributes(LoadBalancerArn=i)["Attributes"]
            if one["Key"] == "idle_timeout.timeout_seconds"
        ],
        (["61"], ["62"]),
    ),
    "targets": (
        "AWS::ElasticLoadBalancingV2::TargetGroup",
        {
            **{"VpcId": "VPC", "Port": 3000, "Protocol": "HTTP", "TargetType": "ip"},
            **{
                "HealthCheckPath": "/h",
                "HealthCheckIntervalSeconds": "10",
                "Matcher": {"HttpCode": "200-299"},
            },
            "TargetGroupAttributes": [{"Key": "deregistration_delay.timeout_seconds", "Value": 60}],
        },
        {
            **{"HealthCheckPath": "/i", "HealthCheckIntervalSeconds": None},
            "TargetGroupAttributes": [{"Key": "deregistration_delay.timeout_seconds", "Value": 30}],
        },
        {},
        lambda c, i: (
            [
                (one["HealthCheckPath"], one["HealthCheckIntervalSeconds"], one["Matcher"]["HttpCode"])
                for one in c("elbv2").describe_target_groups(TargetGroupArns=[i])["TargetGroups"]
            ],
            [
                one["Value"]
                for one in c("elbv2").describe_target_group_attributes(TargetGroupArn=i)["Attributes"]
                if one["Key"] == "deregistration_delay.timeout_seconds"
            ],
        ),
        (([("/h", 10, "200-299")], ["60"]), ([("/i", 30, "200-299")], ["30"])),
    ),
    "listener": (
        "AWS::ElasticLoadBalancingV2::Listener",
        {
            **{"LoadBalancerArn": {"Ref": "Balancer"}, "Port": 80, "Protocol": "HTTP"},
            "DefaultActions": [{"Type": "forward", "TargetGroupArn": {"Ref": "Targets"}}],
        },
        {"Port": 81},
        {
            "Balancer": {
                "Type": "AWS::ElasticLoadBalancingV2::LoadBalancer",
                "Properties": {"Subnets": "SUBNETS"},
            },
            "Targets": {
                "Type": "AWS::ElasticLoadBalancingV2::TargetGroup",
                "Properties": {"VpcId": "VPC", "Port": 80, "Protocol": "HTTP"},
            },
        },
        lambda c, i: [one["Port"] for one in c("elbv2").describe_listeners(ListenerArns=[i])["Listeners"]],
        ([80], [81]),
    ),
    "group": (
        "AWS::EC2::SecurityGroup",
        {
            **{"GroupDescription": "d", "VpcId": "VPC"},
            "SecurityGroupIngress": [
                {"IpProtocol": "tcp", "FromPort": "80", "ToPort": 80, "CidrIp": "0.0.0.0/0"}
            ],
            "SecurityGroupEgress": [
                {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "CidrIp": "10.0.0.0/8"}
            ],
        },
        {"SecurityGroupIngress": [{"IpProtocol": -1, "CidrIpv6": "::/0"}], "SecurityGroupEgress": None},
        {},
        lambda c, i: [
            (
                [(rule["IpProtocol"], rule.get("FromPort")) for rule in one["IpPermissions"]],
                [rule["IpProtocol"] for rule in one["IpPermissionsEgress"]],
            )
            for one in c("ec2").describe_security_groups(GroupIds=[i])["SecurityGroups"]
        ],
        ([([("tcp", 80)], ["tcp"])], [([("-1", None)], ["-1"])]),
    ),
    "ingress": (
        "AWS::EC2::SecurityGroupIngress",
        {
            **{
                "GroupId": {"Fn::GetAtt": ["Group", "GroupId"]},
                "IpProtocol": "tcp",
                "FromPort": 1,
                "ToPort": 2,
            },
            **{"CidrIp": "10.0.0.0/8", "Description": "one"},
        },
        {"Description": "two"},
        {
            "Group": {
                "Type": "AWS::EC2::SecurityGroup",
                "Properties": {"GroupDescription": "d", "VpcId": "VPC"},
            }
        },
        lambda c, i: [
            rule["IpRanges"][0]["Description"]
            for group in c("ec2").describe_security_groups()["SecurityGroups"]
            for rule in group["IpPermissions"]
            if rule.get("FromPort") == 1
        ],
        (["one"], ["two"]),
    ),
    "alarm": (
        "AWS::CloudWatch::Alarm",
        {
            **{"Namespace": "AWS/ECS", "MetricName": "CPUUtilization", "Statistic": "Average", "Period": 60},
            **{"EvaluationPeriods": 3, "Threshold": "80", "ComparisonOperator": "GreaterThanThreshold"},
            **{"Dimensions": [{"Name": "ClusterName", "Value": "c"}], "Tags": tags("1")},
        },
        {"Threshold": 70},
        {},
        lambda c, i: [
            (one["Threshold"], one["Dimensions"][0]["Value"])
            for one in c("cloudwatch").describe_alarms(AlarmNames=[i])["MetricAlarms"]
        ],
        ([(80.0, "c")], [(70.0, "c")]),
    ),
    "repository": (
        "AWS::ECR::Repository",
        {"ImageTagMutability": "IMMUTABLE", "RepositoryPolicyText": ALLOW, "Tags": tags("1")},
        {"ImageTagMutability": None, "RepositoryPolicyText": None},
        {},
        lambda c, i: [
            one["imageTagMutability"]
            for one in c("ecr").describe_repositories(repositoryNames=[i])["repositories"]
        ],
        (["IMMUTABLE"], ["MUTABLE"]),
    ),
    "parameter": (
        "AWS::SSM::Parameter",
        {"Type": "String", "Value": "one", "Tags": {"own": "1"}},
        {"Value": "two"},
        {},
        lambda c, i: c("ssm").get_parameter(Name=i)["Parameter"]["Value"],
        ("one", "two"),
    ),
}


@pytest.mark.parametrize("name", POINTS)
def test_a_type_from_create_to_delete(cloud, name):
    kind, properties, change, others, look, (first, second) = POINTS[name]
    stack, formation = f"type-{name}", cloud.formation

    def template(properties):
        text = json.dumps({"Resources": {"It": {"Type": kind, "Properties": properties}, **others}})
        return text.replace('"SUBNETS"', json.dumps(cloud.subnets)).replace('"VPC"', json.dumps(cloud.vpc))

    def seen():
        found = formation.describe_stack_resource(StackName=stack, LogicalResourceId="It")[
            "StackResourceDetail"
        ]
        assert found["ResourceStatus"].endswith("_COMPLETE"), found.get("ResourceStatusReason")
        return look(cloud.client, found["PhysicalResourceId"])

    project = [{"Key": "project", "Value": "lab"}]
    stack_id = formation.create_stack(
        StackName=stack,
        TemplateBody=template(properties),
        Capabilities=ALL,
        Tags=project,
        OnFailure="DO_NOTHING",
    )["StackId"]
    assert seen() == first
    after = {key: value for key, value in {**properties, **change}.items() if value is not None}
    project = [{"Key": "project", "Value": "other"}]
    formation.update_stack(StackName=stack, TemplateBody=template(after), Capabilities=ALL, Tags=project)
    assert formation.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"] == "UPDATE_COMPLETE"
    assert seen() == second
    formation.delete_stack(StackName=stack)
    (gone,) = formation.describe_stacks(StackName=stack_id)["Stacks"]
    assert gone["StackStatus"] == "DELETE_COMPLETE", gone.get("StackStatusReason")


@pytest.mark.parametrize("kind", HANDLERS)
def test_a_handler_names_only_properties_and_attributes_that_aws_has(kind):
    handler, known = HANDLERS[kind], schema(kind).document["properties"].keys()
    assert set(handler.acted.split()) | set(handler.recorded.split()) <= known
    # Value and Type of a parameter, and VpcId of a group, are documented attributes that the schema has as properties.
    assert set(handler.attributes.split()) <= schema(kind).read_only | known | {"VpcId"}
    assert handler.name is None or handler.name in schema(kind).create_only


def test_names_as_cloudformation_makes_them():
    def name(stack, logical, longest):
        return Context(lambda service: None, ManualClock(), lambda s: None, stack, logical).name(longest)

    stack, logical, tail = name("shop", "Cluster", 255).split("-")
    assert (stack, logical, len(tail)) == ("shop", "Cluster", 12)
    assert len(name("a-rather-long-stack-name", "TargetGroupOfTheService", 32)) == 32
    assert name("shop", "TargetGroup", 32) != name("shop", "TargetGroup", 32)


# --- from template to API -----------------------------------------------------------------------------------------


def test_shapes_follow_the_service_and_leave_map_keys_alone():
    model = botocore.session.get_session().get_service_model("ecs")
    shape = model.operation_model("RegisterTaskDefinition").input_shape.members["containerDefinitions"]
    written = container(
        Essential="true",
        DockerLabels={"Some.Label": 1},
        LogConfiguration={"LogDriver": "awslogs", "Options": {"awslogs-group": "g", "Mode": "non-blocking"}},
        StopTimeout="30",
        Environment=[{"Name": "PORT", "Value": 3000}],
        LinuxParameters={"InitProcessEnabled": True},
    )
    assert shaped([written], shape, "ContainerDefinitions") == [
        {
            "name": "app",
            "image": "x",
            "portMappings": [{"containerPort": 80}],
            "essential": True,
            "dockerLabels": {"Some.Label": "1"},
            "logConfiguration": {
                "logDriver": "awslogs",
                "options": {"awslogs-group": "g", "Mode": "non-blocking"},
            },
            "stopTimeout": 30,
            "environment": [{"name": "PORT", "value": "3000"}],
            "linuxParameters": {"initProcessEnabled": True},
        }
    ]
    with pytest.raises(HandlerError, match=r"does not support ContainerDefinitions\.Foo"):
        shaped([{"Foo": 1}], shape, "ContainerDefinitions")


def test_the_reason_of_a_refused_call(cloud):
    ecs = cloud.client("ecs")
    with pytest.raises(ClientError) as caught:
        call(ecs, "DescribeServices", {"Cluster": "no-such-cluster", "Services": ["x"]})
    told = reason(caught.value, ecs, "token")
    assert told.startswith(
        'Resource handler returned message: "Cluster not found. (Service: Ecs, Status Code: 400, Request ID: '
    )
    assert told.endswith(')" (RequestToken: token, HandlerErrorCode: NotFound)')


@pytest.mark.parametrize(
    ("operation", "code", "told"),
    [
        (
            "CreateService",
            "InvalidParameterException",
            "Invalid request provided: CreateService error: no. (Service: AmazonECS; Status Code: 400; Error Code: "
            "InvalidParameterException; Request ID: token; Proxy: null)",
        ),
        (
            "RegisterTaskDefinition",
            "ClientException",
            "Invalid request provided: Create TaskDefinition: no. (Service: AmazonECS; Status Code: 400; Error Code: "
            "ClientException; Request ID: token; Proxy: null)",
        ),
        ("DeleteCluster", "ClientException", "no. (Service: Ecs, Status Code: 400, Request ID: token)"),
    ],
)
def test_what_ecs_refuses_is_told_in_the_words_of_its_handlers(cloud, operation, code, told):
    """As in aws-amplify/amplify-cli issue 12972 and aws/aws-cdk issue 27360."""
    error = ClientError({"Error": {"Code": code, "Message": "no."}}, operation)
    assert reason(error, cloud.client("ecs"), "token") == (
        f'Resource handler returned message: "{told}" (RequestToken: token, HandlerErrorCode: InvalidRequest)'
    )


# --- schemas ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "properties", "conformed", "problems"),
    [
        ("AWS::ECS::TaskDefinition", {"Cpu": 256}, {"Cpu": "256"}, []),
        ("AWS::ECS::Service", {"DesiredCount": "2"}, {"DesiredCount": 2}, []),
        ("AWS::ECS::Service", {"EnableExecuteCommand": "true"}, {"EnableExecuteCommand": True}, []),
        (
            "AWS::ECS::Service",
            {"DesiredCount": "two"},
            None,
            ["#/DesiredCount: expected type: Integer, found: String"],
        ),
        (
            "AWS::ECS::Service",
            {"LoadBalancers": {}},
            None,
            ["#/LoadBalancers: expected type: JSONArray, found: JSONObject"],
        ),
        ("AWS::ECS::Service", {"ServiceArn": "x"}, None, ["#: extraneous key [ServiceArn] is not permitted"]),
        (
            "AWS::ECS::Service",
            {"NetworkConfiguration": {"AwsvpcConfiguration": {"Subnets": ["a"], "Public": 1}}},
            None,
            ["#/NetworkConfiguration/AwsvpcConfiguration: extraneous key [Public] is not permitted"],
        ),
        (
            "AWS::ECS::Service",
            {"LaunchType": "CLOUD"},
            None,
            ["#/LaunchType: failed validation constraint for keyword [enum]"],
        ),
        (
            "AWS::ECS::Cluster",
            {"ClusterSettings": [{"Name": "a", "Value": 1}]},
            {"ClusterSettings": [{"Name": "a", "Value": "1"}]},
            [],
        ),
        ("AWS::IAM::Role", {}, {}, ["#: required key [AssumeRolePolicyDocument] not found"]),
    ],
)
def test_properties_conform_to_the_schema(kind, properties, conformed, problems):
    got, found = schema(kind).conform(properties)
    assert found == problems
    assert conformed is None or got == conformed


def test_what_replaces_a_resource():
    assert {"Cluster", "ServiceName"} <= schema("AWS::ECS::Service").create_only
    assert "TaskDefinition" not in schema("AWS::ECS::Service").create_only
    assert "LaunchType" in schema("AWS::ECS::Service").conditional
    assert "ContainerDefinitions" in schema("AWS::ECS::TaskDefinition").create_only
    assert "AWS::Lambda::Function" in known_types()


def test_reading_schemas_does_not_import_cfn_lint():
    code = "import sys, helpers.sandbox.resources as r; r.schema = 1; print('cfnlint' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --- an ECS service -----------------------------------------------------------------------------------------------

ARN = f"arn:aws:ecs:{REGION}:123456789012:service/lab/shop"


def deployment(number, state, status="PRIMARY", task_definition="shop:1", why=""):
    return {
        **{"id": f"ecs-svc/{number}", "status": status, "rolloutState": state, "rolloutStateReason": why},
        "taskDefinition": task_definition,
    }


class Ecs:
    """ECS's client with one service, whose next looks are given: (running, desired, deployments)."""

    def __init__(self, *looks):
        self.looks, self.calls = list(looks), []
        self.meta = SimpleNamespace(service_model=botocore.session.get_session().get_service_model("ecs"))

    def _service(self):
        running, desired, deployments = self.looks[0]
        status = "ACTIVE" if deployments else "INACTIVE"
        return {
            **{"serviceArn": ARN, "serviceName": "shop", "status": status, "deployments": deployments},
            **{"runningCount": running, "desiredCount": desired},
        }

    def describe_services(self, cluster, services):
        assert (cluster, services) == ("lab", ["shop"])
        if len(self.looks) > 1:
            self.looks.pop(0)
        return {"services": [self._service()]}

    def __getattr__(self, name):
        def answer(**arguments):
            self.calls.append((name, arguments))
            return {"service": self._service()}

        return answer


def context(ecs, **more):
    clock = ManualClock()
    seen = []
    ctx = Context(
        lambda service: ecs, clock, lambda s: clock.advance(s * clock.speed), "stack", "Service", **more
    )
    ctx.initiated = seen.append
    return ctx, seen


PROPERTIES = {"Cluster": "lab", "ServiceName": "shop", "TaskDefinition": "shop:1"}


def test_a_service_is_created_when_it_is_steady():
    going, done = deployment(1, "IN_PROGRESS"), deployment(1, "COMPLETED")
    ecs = Ecs((0, 2, [going]), (1, 2, [going]), (2, 2, [going]), (2, 2, [done]))
    ctx, seen = context(ecs, tags={"project": "lab", "aws:cloudformation:stack-name": "stack"})
    assert Service().create(ctx, {**PROPERTIES, "DesiredCount": 2}) == ARN
    assert seen == [ARN]
    assert len(ecs.looks) == 1
    ((name, sent),) = ecs.calls
    assert (name, sent["desiredCount"], sent["serviceName"]) == ("create_service", 2, "shop")
    assert sent["tags"] == [
        {"key": "project", "value": "lab"}
    ]  # CloudFormation's own tags are not for services


def test_desired_count_is_one_at_first_and_left_alone_later():
    ecs = Ecs((1, 1, [deployment(1, "COMPLETED")]))
    Service().create(context(ecs)[0], PROPERTIES)
    assert ecs.calls[0][1]["desiredCount"] == 1
    ecs = Ecs((7, 7, [deployment(1, "COMPLETED")]))
    ctx, _ = context(ecs)
    with_count, without = {**PROPERTIES, "DesiredCount": 2}, {**PROPERTIES, "TaskDefinition": "shop:2"}
    Service().update(ctx, ARN, with_count, without)
    name, sent = ecs.calls[0]
    assert name == "update_service"
    assert "desiredCount" not in sent
    assert (sent["cluster"], sent["service"], sent["taskDefinition"]) == ("lab", "shop", "shop:2")


@pytest.mark.parametrize(
    ("looks", "polls"),
    [
        # No rollback: the deployment itself ends in FAILED.
        ([(0, 2, [deployment(1, "FAILED")])], 1),
        # ECS rolls back: the failure is told once the rollback is done.
        (
            [
                (
                    2,
                    2,
                    [
                        deployment(2, "IN_PROGRESS", task_definition="shop:1"),
                        deployment(1, "FAILED", "ACTIVE", "shop:2"),
                    ],
                ),
                (2, 2, [deployment(2, "COMPLETED", task_definition="shop:1")]),
            ],
            2,
        ),
        # A look that came too late to see the failure: the task definition is not the one asked for.
        ([(2, 2, [deployment(2, "COMPLETED", task_definition="shop:1")])], 1),
    ],
)
def test_a_deployment_that_the_circuit_breaker_stops(looks, polls):
    begun = (2, 2, [deployment(1, "IN_PROGRESS", task_definition="shop:2")])
    ecs = Ecs(begun, *looks)
    with pytest.raises(HandlerError) as caught:
        Service().update(context(ecs)[0], ARN, PROPERTIES, {**PROPERTIES, "TaskDefinition": "shop:2"})
    assert (str(caught.value), caught.value.code) == (SERVICE_ROLLOUT, "GeneralServiceException")
    assert len(ecs.looks) == 1


def test_a_service_that_never_gets_steady():
    ecs = Ecs((1, 2, [deployment(1, "IN_PROGRESS")]))
    ctx, _ = context(ecs)
    began = ctx.clock.time()
    with pytest.raises(TimedOut) as caught:
        Service().create(ctx, PROPERTIES)
    # Word for word as in aws-solutions-library-samples/guidance-for-modernizing-electric-vehicle-charging-on-aws, issue 44.
    assert (
        reason(caught.value, ecs, "236aecf9")
        == "Resource timed out waiting for completion (RequestToken: 236aecf9)"
    )
    assert 3 * 3600 <= ctx.clock.time() - began < 3 * 3600 + 60


def test_a_stack_waits_for_a_service_for_hours_and_then_rolls_back():
    class Deletable(Ecs):
        def delete_service(self, **which):
            self.looks = [(0, 0, [])]

    ecs, clock = Deletable((1, 2, [deployment(1, "IN_PROGRESS")])), ManualClock()
    formation = CloudFormation(
        clock,
        lambda service, region: ecs,
        start=lambda name, work: work(),
        wait=lambda seconds: clock.advance(seconds * clock.speed),
    )

    def ask(operation, **params):
        answer = formation.operations()["cloudformation", operation]
        return answer(Call("cloudformation", operation, REGION, {"StackName": "stuck", **params}, dict))

    properties = {**PROPERTIES, "DesiredCount": 2, "LaunchType": "FARGATE"}
    ask(
        "CreateStack",
        TemplateBody=json.dumps(
            {"Resources": {"S": {"Type": "AWS::ECS::Service", "Properties": properties}}}
        ),
    )
    events = {
        (one["LogicalResourceId"], one["ResourceStatus"]): one
        for one in ask("DescribeStackEvents")["StackEvents"]
    }
    began, ended = events["stuck", "CREATE_IN_PROGRESS"], events["S", "CREATE_FAILED"]
    waited = (ended["Timestamp"] - began["Timestamp"]).total_seconds()
    assert 3 * 3600 <= waited < 3 * 3600 + 60
    assert re.fullmatch(
        r"Resource timed out waiting for completion \(RequestToken: [-0-9a-f]+\)",
        ended["ResourceStatusReason"],
    )
    assert ("stuck", "ROLLBACK_COMPLETE") in events


def test_a_wait_for_a_service_can_be_cancelled():
    ecs = Ecs((1, 2, [deployment(1, "IN_PROGRESS")]))
    with pytest.raises(Cancelled):
        Service().create(context(ecs, cancelled=lambda: True)[0], PROPERTIES)


def test_a_service_is_scaled_to_zero_and_waited_for_when_deleted():
    done = [deployment(1, "COMPLETED")]
    ecs = Ecs((2, 0, done), (1, 0, done), (1, 0, []), (0, 0, []))
    Service().delete(context(ecs)[0], ARN, PROPERTIES)
    assert ecs.calls == [
        ("update_service", {"cluster": "lab", "service": "shop", "desiredCount": 0}),
        ("delete_service", {"cluster": "lab", "service": "shop", "force": True}),
    ]
    assert len(ecs.looks) == 1


def test_new_tags_do_not_redeploy_a_service():
    ecs = Ecs((2, 2, [deployment(1, "COMPLETED")]))
    ctx, _ = context(ecs, tags={"project": "new"}, old_tags={"project": "old", "team": "a"})
    Service().update(ctx, ARN, PROPERTIES, PROPERTIES)
    assert ecs.calls == [
        ("tag_resource", {"resourceArn": ARN, "tags": [{"key": "project", "value": "new"}]}),
        ("untag_resource", {"resourceArn": ARN, "tagKeys": ["team"]}),
    ]


# --- what is in the way -------------------------------------------------------------------------------------------


def create(cloud, stack, resources, **params):
    text = json.dumps({"Resources": resources})
    stack_id = cloud.formation.create_stack(StackName=stack, TemplateBody=text, Capabilities=ALL, **params)[
        "StackId"
    ]
    return cloud.formation.describe_stacks(StackName=stack_id)["Stacks"][0]


def why(cloud, stack, status):
    events = cloud.formation.describe_stack_events(StackName=stack)["StackEvents"]
    told = [one["ResourceStatusReason"] for one in events if one["ResourceStatus"] == status]
    return next(reason for reason in told if "Resource handler returned" in reason)


def test_a_repository_with_images_is_not_deleted(cloud):
    stack = create(
        cloud, "images", {"R": {"Type": "AWS::ECR::Repository", "Properties": {"RepositoryName": "full"}}}
    )
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    config = {
        "mediaType": "application/vnd.docker.container.image.v1+json",
        "size": 1,
        "digest": f"sha256:{'0' * 64}",
    }
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": []})
    cloud.client("ecr").put_image(repositoryName="full", imageManifest=manifest, imageTag="1")
    cloud.formation.delete_stack(StackName="images")
    assert cloud.formation.describe_stacks(StackName="images")["Stacks"][0]["StackStatus"] == "DELETE_FAILED"
    told = "The repository with name 'full' in registry with id '123456789012' cannot be deleted because it still"
    seen = why(cloud, stack["StackId"], "DELETE_FAILED")
    assert told in seen
    assert "HandlerErrorCode: GeneralServiceException" in seen  # pulumi/pulumi-aws-native issue 1270
    cloud.client("ecr").delete_repository(repositoryName="full", force=True)
    cloud.formation.delete_stack(StackName="images")
    assert (
        cloud.formation.describe_stacks(StackName=stack["StackId"])["Stacks"][0]["StackStatus"]
        == "DELETE_COMPLETE"
    )


@pytest.mark.parametrize(
    ("kind", "properties"),
    [
        ("AWS::ECS::Cluster", {"ClusterName": "twice"}),
        ("AWS::Logs::LogGroup", {"LogGroupName": "/twice"}),
        ("AWS::ElasticLoadBalancingV2::LoadBalancer", {"Name": "twice", "Subnets": "SUBNETS"}),
    ],
)
def test_a_name_that_is_taken(cloud, kind, properties):
    properties = {key: cloud.subnets if value == "SUBNETS" else value for key, value in properties.items()}
    resources = {"R": {"Type": kind, "Properties": properties}}
    short = kind.rsplit("::")[-1]
    assert create(cloud, f"first-{short}", resources)["StackStatus"] == "CREATE_COMPLETE"
    assert create(cloud, f"second-{short}", resources)["StackStatus"] == "ROLLBACK_COMPLETE"
    assert "HandlerErrorCode: AlreadyExists" in why(cloud, f"second-{short}", "CREATE_FAILED")
    cloud.formation.delete_stack(StackName=f"first-{short}")


@pytest.mark.parametrize(
    ("task", "tried"),
    [("STOPPED", 900 / 30), ("STOPPING", 900 / 30 + 120), (None, 900 / 30)],
    ids=["in use for good", "while a task still stops", "no task"],
)
def test_a_security_group_in_use_is_tried_until_it_is_free(task, tried):
    """900 AWS seconds; an app that ends may take its stopTimeout on top, in real seconds."""
    handler = HANDLERS["AWS::EC2::SecurityGroup"]
    refused = ClientError(
        {"Error": {"Code": "DependencyViolation", "Message": "in use"}}, "DeleteSecurityGroup"
    )
    answers = [refused, refused, None]

    def delete_security_group(GroupId):
        if answer := answers.pop(0):
            raise answer

    api = SimpleNamespace(
        delete_security_group=delete_security_group,
        list_clusters=lambda: {"clusterArns": ["lab"]},
        list_tasks=lambda cluster, desiredStatus: {"taskArns": ["t"] if task else []},
        describe_tasks=lambda cluster, tasks: {"tasks": [{"lastStatus": task}]},
    )
    handler.delete(context(api)[0], "sg-1", {})
    assert answers == []
    answers = [refused] * 10_000
    ctx, _ = context(api)
    began = ctx.clock.monotonic()
    with pytest.raises(ClientError, match="in use"):
        handler.delete(ctx, "sg-1", {})
    assert tried <= ctx.clock.monotonic() - began < tried + 1


# --- the journey's templates --------------------------------------------------------------------------------------


def journey(cloud, name, step, image="a"):
    text = (TEMPLATES / step).read_text()
    given = {
        "Name": name,
        "Image": f"123456789012.dkr.ecr.{REGION}.amazonaws.com/{name}@sha256:{image * 64}",
        "VpcId": cloud.vpc,
        "SubnetIds": ",".join(cloud.subnets),
    }
    declared = {p["ParameterKey"] for p in cloud.formation.validate_template(TemplateBody=text)["Parameters"]}
    return text, {key: value for key, value in given.items() if key in declared}


def test_the_journey_by_change_sets_and_waiters(cloud):
    formation, name = cloud.formation, "journey"
    steps = ("06-task-definition.yaml", "07-service.yaml", "08-auto-scaling.yaml")
    fast = {"Delay": 0.05, "MaxAttempts": 20}
    for number, step in enumerate(steps):
        text, given = journey(cloud, name, step)
        change = {"StackName": name, "ChangeSetName": f"step-{number}"}
        formation.create_change_set(
            **change,
            ChangeSetType="UPDATE" if number else "CREATE",
            TemplateBody=text,
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        formation.get_waiter("change_set_create_complete").wait(**change, WaiterConfig=fast)
        formation.execute_change_set(**change)
        done = formation.get_waiter("stack_update_complete" if number else "stack_create_complete")
        done.wait(StackName=name, WaiterConfig=fast)
    outputs = {
        o["OutputKey"]: o["OutputValue"]
        for o in formation.describe_stacks(StackName=name)["Stacks"][0]["Outputs"]
    }
    assert outputs["LoadBalancerFullName"].startswith(f"app/{name}/")
    assert outputs["TargetGroupFullName"].startswith("targetgroup/journey-TargetGroup-")
    assert outputs["Url"].startswith("http://")
    physical = {
        one["LogicalResourceId"]: one["PhysicalResourceId"]
        for one in formation.describe_stack_resources(StackName=name)["StackResources"]
    }
    assert physical["ScalableTarget"] == f"service/{name}/{name}|ecs:service:DesiredCount|ecs"
    described = cloud.client("ecs").describe_task_definition(taskDefinition=physical["TaskDefinition"])[
        "taskDefinition"
    ]
    assert (described["cpu"], described["memory"], described["networkMode"]) == ("256", "512", "awsvpc")
    formation.delete_stack(StackName=name)
    formation.get_waiter("stack_delete_complete").wait(StackName=outputs["Url"] and name, WaiterConfig=fast)
    assert not [
        g
        for g in cloud.client("logs").describe_log_groups()["logGroups"]
        if g["logGroupName"] == f"/ecs/{name}"
    ]


def test_the_cli_deploys_creates_updates_and_sees_no_change(cloud, tmp_path):
    name, step = "by-cli", "06-task-definition.yaml"
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("AWS_")},
        **{"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": REGION},
        **{
            "AWS_ENDPOINT_URL": cloud.endpoint.url,
            "AWS_CONFIG_FILE": str(tmp_path / "none"),
            "AWS_PAGER": "",
        },
    }

    def aws(*arguments):
        return subprocess.run(
            [AWS, "cloudformation", *arguments], env=environment, capture_output=True, text=True
        )

    def deploy(image):
        _, given = journey(cloud, name, step, image)
        overrides = [f"{key}={value}" for key, value in given.items()]
        arguments = (
            "--stack-name",
            name,
            "--template-file",
            str(TEMPLATES / step),
            "--parameter-overrides",
            *overrides,
        )
        return aws("deploy", *arguments, "--capabilities", "CAPABILITY_IAM", "--tags", "project=lab")

    first = deploy("a")
    assert "Successfully created/updated stack - by-cli" in first.stdout, first.stderr
    second = deploy("b")
    assert "Successfully created/updated stack" in second.stdout, second.stderr
    third = deploy("b")
    assert "No changes to deploy" in third.stdout + third.stderr
    (stack,) = cloud.formation.describe_stacks(StackName=name)["Stacks"]
    assert stack["StackStatus"] == "UPDATE_COMPLETE"
    assert stack["Outputs"][0]["OutputValue"].endswith(f"task-definition/{name}:2")
    cloud.formation.delete_stack(StackName=name)


def test_a_service_without_depends_on_meets_a_target_group_without_a_load_balancer(cloud):
    """The race of the published design: AWS makes the service while the load balancer is still in the making."""
    text, given = journey(cloud, "race", "07-service.yaml")
    formation = cloud.formation
    formation.create_stack(
        StackName="race",
        TemplateBody=text.replace("    DependsOn: Listener\n", ""),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
        Capabilities=["CAPABILITY_IAM"],
    )
    events = reversed(formation.describe_stack_events(StackName="race")["StackEvents"])
    begun = list(
        dict.fromkeys(e["LogicalResourceId"] for e in events if e["ResourceStatus"] == "CREATE_IN_PROGRESS")
    )
    assert begun.index("LoadBalancer") < begun.index("Service") < begun.index("Listener")
    formation.delete_stack(StackName="race")


@pytest.mark.parametrize(("stopping", "goes"), [(0, True), (130, True), (150, False)])
def test_a_cluster_is_deleted_when_its_tasks_have_had_their_time_to_stop(stopping, goes):
    """`stopping`: real seconds for which tasks are still there; AWS's own 600 seconds are 20 of them."""

    class TasksThere(Exception):
        pass

    def delete_cluster(cluster):
        if ctx.clock.monotonic() - began < stopping:
            raise TasksThere

    exceptions = SimpleNamespace(ClusterContainsTasksException=TasksThere)
    ctx, _ = context(SimpleNamespace(delete_cluster=delete_cluster, exceptions=exceptions))
    began = ctx.clock.monotonic()
    with nullcontext() if goes else pytest.raises(HandlerError, match="Cluster lab did not stabilize"):
        Cluster().delete(ctx, "lab", {})
