"""The ECS API's operations on services and tasks: AWS's codes and texts, the shapes that boto3's users read."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime

import boto3
import pytest
from botocore.exceptions import ClientError

from helpers.sandbox.endpoint import AwsError, Endpoint
from helpers.sandbox.records import Records
from helpers.sandbox.scheduler import Scheduler
from tests.sandbox.ecs_world import (
    BALANCER,
    CLUSTER,
    GROUP,
    NETWORK,
    REGION,
    FakeBalancer,
    FakeLogs,
    FakeRuntime,
    Inline,
    World,
)
from tests.sandbox.manual_clock import ManualClock


@pytest.fixture
def world() -> World:
    return World()


def vpc(**changed):
    return {"awsvpcConfiguration": {**NETWORK["awsvpcConfiguration"], **changed}}


NO_NETWORK = "Network Configuration must be provided when networkMode 'awsvpc' is specified."


@pytest.mark.parametrize(
    ("params", "code", "message"),
    [
        ({"cluster": "nowhere"}, "ClusterNotFoundException", "Cluster not found."),
        ({"cluster": "gone"}, "ClusterNotFoundException", "The referenced cluster was inactive."),
        ({"taskDefinition": "app:9"}, "ClientException", "Unable to describe task definition."),
        ({"taskDefinition": "app:3"}, "ClientException", "TaskDefinition is inactive"),
        (
            {"taskDefinition": "app:4"},
            "InvalidParameterException",
            "Task definition does not support launch_type FARGATE.",
        ),
        ({"networkConfiguration": {}}, "InvalidParameterException", NO_NETWORK),
        ({"networkConfiguration": vpc(subnets=[])}, "InvalidParameterException", "subnets can not be empty."),
        (
            {"networkConfiguration": vpc(subnets=["subnet-x"])},
            "InvalidParameterException",
            "Error retrieving subnet information for [subnet-x]: The subnet ID 'subnet-x' does not exist "
            "(ErrorCode: InvalidSubnetID.NotFound)",
        ),
        (
            {"networkConfiguration": vpc(securityGroups=["sg-x"])},
            "InvalidParameterException",
            "Error retrieving security group information for [sg-x]: The security group 'sg-x' does not exist "
            "(ErrorCode: InvalidGroup.NotFound)",
        ),
        (
            {"loadBalancers": [BALANCER | {"containerName": "web"}]},
            "InvalidParameterException",
            "The container web does not exist in the task definition.",
        ),
        (
            {"loadBalancers": [BALANCER | {"containerPort": 80}]},
            "InvalidParameterException",
            "The container app did not have a container port 80 defined.",
        ),
        (
            {"loadBalancers": [], "healthCheckGracePeriodSeconds": 5},
            "InvalidParameterException",
            "Health check grace period is only valid for services configured to use load balancers",
        ),
        (
            {"deploymentConfiguration": {"minimumHealthyPercent": 100, "maximumPercent": 100}},
            "InvalidParameterException",
            "Both maximumPercent and minimumHealthyPercent cannot be 100 as this will block deployments.",
        ),
        (
            {"capacityProviderStrategy": [{"capacityProvider": "FARGATE"}]},
            "InvalidParameterException",
            "Specifying both a launch type and capacity provider strategy is not supported. Remove one and try again.",
        ),
        (
            {"deploymentController": {"type": "CODE_DEPLOY"}},
            "UnsupportedFeatureException",
            "The sandbox does not act on the deployment controller CODE_DEPLOY: use ECS.",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_create_service_refuses(world, params, code, message):
    world.ecs.clusters["gone"] = "INACTIVE"
    world.ecs.definitions[world.ecs.register(3)]["status"] = "INACTIVE"
    world.ecs.definitions[world.ecs.register(4)]["requiresCompatibilities"] = ["EC2"]
    with pytest.raises(AwsError) as refused:
        world.create(1, **{"taskDefinition": "app:1", **params})
    assert (refused.value.code, refused.value.message) == (code, message)
    assert not world.scheduler.services


def test_a_target_group_without_a_load_balancer(world):
    world.balancer.used = False
    with pytest.raises(AwsError) as refused:
        world.create(1)
    assert refused.value.code == "InvalidParameterException"
    expected = f"The target group with targetGroupArn {GROUP} does not have an associated load balancer."
    assert refused.value.message == expected


def test_the_same_name_twice(world):
    world.create(1, clientToken="token")
    with pytest.raises(
        AwsError, match=r"InvalidParameterException: Creation of service was not idempotent\."
    ):
        world.create(1)
    assert world.create(1, clientToken="token").name == "web"
    world.run(60)
    world.call("DeleteService", service="web", force=True)
    with pytest.raises(AwsError, match=r"Unable to Start a service that is still Draining\."):
        world.create(1)


def test_update_and_delete_refuse(world):
    with pytest.raises(AwsError, match=r"ServiceNotFoundException: Service not found\."):
        world.call("UpdateService", service="web", desiredCount=1)
    with pytest.raises(AwsError, match=r"ServiceNotFoundException: Service not found\."):
        world.call("DeleteService", service="web")
    world.steady(1)
    with pytest.raises(AwsError, match=r"The service cannot be stopped while it is scaled above 0\."):
        world.call("DeleteService", service="web")
    world.call("DeleteService", service="web", force=True)
    with pytest.raises(AwsError, match=r"ServiceNotActiveException: Service was not ACTIVE\."):
        world.call("UpdateService", service="web", desiredCount=1)


def test_a_service_as_described(world):
    tags = [{"key": "project", "value": "lab"}]
    world.steady(
        2, tags=tags, enableECSManagedTags=True, propagateTags="SERVICE", healthCheckGracePeriodSeconds=7
    )
    (shape,) = world.call("DescribeServices", services=["web"], include=["TAGS"])["services"]
    events, deployments = shape.pop("events"), shape.pop("deployments")
    created = shape.pop("createdAt")
    assert created == datetime.fromtimestamp(1_800_000_000, UTC)
    assert shape == {
        "serviceArn": "arn:aws:ecs:us-east-1:123456789012:service/lab/web",
        "serviceName": "web",
        "clusterArn": CLUSTER,
        "status": "ACTIVE",
        "desiredCount": 2,
        "runningCount": 2,
        "pendingCount": 0,
        "launchType": "FARGATE",
        "platformVersion": "LATEST",
        "platformFamily": "Linux",
        "taskDefinition": world.definition,
        "loadBalancers": [BALANCER],
        "serviceRegistries": [],
        "placementConstraints": [],
        "placementStrategy": [],
        "networkConfiguration": NETWORK,
        "deploymentConfiguration": {
            "maximumPercent": 200,
            "minimumHealthyPercent": 100,
            "strategy": "ROLLING",
            "bakeTimeInMinutes": 0,
            "deploymentCircuitBreaker": {"enable": False, "rollback": False},
        },
        "roleArn": "arn:aws:iam::123456789012:role/aws-service-role/ecs.amazonaws.com/AWSServiceRoleForECS",
        "healthCheckGracePeriodSeconds": 7,
        "schedulingStrategy": "REPLICA",
        "deploymentController": {"type": "ECS"},
        "availabilityZoneRebalancing": "ENABLED",
        "propagateTags": "SERVICE",
        "enableECSManagedTags": True,
        "tags": tags,
    }
    (deployment,) = deployments
    assert deployment["id"].startswith("ecs-svc/")
    assert {
        name: deployment[name] for name in ("desiredCount", "runningCount", "pendingCount", "failedTasks")
    } == {
        "desiredCount": 2,
        "runningCount": 2,
        "pendingCount": 0,
        "failedTasks": 0,
    }
    assert deployment["networkConfiguration"] == NETWORK
    assert events[0]["createdAt"] >= events[-1]["createdAt"]
    assert events[-1]["message"].startswith("(service web) has started 2 tasks: (task ")
    managed = [
        {"key": "aws:ecs:clusterName", "value": "lab"},
        {"key": "aws:ecs:serviceName", "value": "web"},
    ]
    assert world.tasks()[0].tags == tags + managed


def test_what_is_not_there_is_a_failure_and_no_error(world):
    answer = world.call("DescribeServices", services=["nobody"])
    missing = "arn:aws:ecs:us-east-1:123456789012:service/lab/nobody"
    assert answer == {"services": [], "failures": [{"arn": missing, "reason": "MISSING"}]}
    answer = world.call("DescribeTasks", tasks=["0" * 32])
    missing = f"arn:aws:ecs:us-east-1:123456789012:task/lab/{'0' * 32}"
    assert answer == {"tasks": [], "failures": [{"arn": missing, "reason": "MISSING"}]}
    with pytest.raises(AwsError, match=r"InvalidParameterException: The referenced task was not found\."):
        world.call("StopTask", task="nobody")


def test_at_most_a_hundred_events_are_kept(world):
    service = world.create(0)
    for number in range(150):
        service.tell(0.0, f"event {number}.")
    events = world.describe()["events"]
    assert len(events) == 100
    assert events[0]["message"] == "(service web) event 149."


def test_services_are_listed_page_by_page(world):
    for number in range(12):
        world.create(0, serviceName=f"web{number:02}")
    first = world.call("ListServices")
    assert len(first["serviceArns"]) == 10
    second = world.call("ListServices", nextToken=first["nextToken"])
    assert [arn[-5:] for arn in second["serviceArns"]] == ["web10", "web11"]
    assert "nextToken" not in second


def test_tasks_are_listed_by_what_they_belong_to(world):
    service = world.steady(2)
    lone = world.call(
        "RunTask", taskDefinition="app", launchType="FARGATE", networkConfiguration=NETWORK, startedBy="me"
    )["tasks"][0]["taskArn"]
    first, second = (task.arn for task in world.tasks() if task.service_arn)
    assert world.call("ListTasks")["taskArns"] == [first, second, lone]
    assert world.call("ListTasks", serviceName="web")["taskArns"] == [first, second]
    assert world.call("ListTasks", serviceName=service.arn)["taskArns"] == [first, second]
    assert world.call("ListTasks", startedBy="me")["taskArns"] == [lone]
    assert world.call("ListTasks", startedBy=service.primary.id)["taskArns"] == [first, second]
    assert world.call("ListTasks", family="other")["taskArns"] == []
    assert world.call("ListTasks", launchType="EC2")["taskArns"] == []
    world.call("StopTask", task=first)
    assert world.call("ListTasks", serviceName="web")["taskArns"] == [second]
    assert world.call("ListTasks", serviceName="web", desiredStatus="STOPPED")["taskArns"] == [first]


def test_a_task_as_described(world):
    service = world.steady(1)
    (task,) = world.tasks()
    before = task.last_status
    (shape,) = world.call("DescribeTasks", tasks=[task.arn], include=["TAGS"])["tasks"]
    assert task.last_status == before
    assert shape["taskArn"].startswith("arn:aws:ecs:us-east-1:123456789012:task/lab/")
    assert (shape["lastStatus"], shape["desiredStatus"]) == ("RUNNING", "RUNNING")
    assert (shape["group"], shape["startedBy"]) == ("service:web", service.primary.id)
    assert (shape["cpu"], shape["memory"], shape["launchType"]) == ("256", "512", "FARGATE")
    assert (shape["connectivity"], shape["healthStatus"]) == ("CONNECTED", "UNKNOWN")
    assert shape["createdAt"] < shape["pullStartedAt"] < shape["pullStoppedAt"] < shape["startedAt"]
    (attachment,) = shape["attachments"]
    assert attachment["type"] == "ElasticNetworkInterface"
    details = {detail["name"]: detail["value"] for detail in attachment["details"]}
    assert re.fullmatch("([0-9a-f]{2}:){5}[0-9a-f]{2}", details.pop("macAddress"))
    assert details == {
        "subnetId": task.subnet_id,
        "networkInterfaceId": task.eni_id,
        "privateIPv4Address": task.private_ip,
        "privateDnsName": f"ip-{task.private_ip.replace('.', '-')}.ec2.internal",
    }
    (container,) = shape["containers"]
    assert (container["name"], container["lastStatus"]) == ("app", "RUNNING")
    assert (container["image"], container["imageDigest"]) == ("repository@sha256:1", "sha256:1")
    assert container["networkInterfaces"] == [
        {"attachmentId": attachment["id"], "privateIpv4Address": task.private_ip}
    ]
    assert "stopCode" not in shape


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"launchType": "EC2"}, "No Container Instances were found in your cluster."),
        ({"count": 11}, "Count must be between 1 and 10."),
        ({"networkConfiguration": {}}, NO_NETWORK),
        (
            {"overrides": {"containerOverrides": [{"name": "web"}]}},
            "Override for container named web is not a container in the TaskDefinition.",
        ),
    ],
)
def test_run_task_refuses(world, params, message):
    asked = {"taskDefinition": "app", "launchType": "FARGATE", "networkConfiguration": NETWORK, **params}
    with pytest.raises(AwsError) as refused:
        world.call("RunTask", **asked)
    assert (refused.value.code, refused.value.message) == ("InvalidParameterException", message)
    assert world.tasks() == []


def test_start_task_is_refused(world):
    with pytest.raises(AwsError, match="No Container Instances"):
        world.call("StartTask", taskDefinition="app", containerInstances=["i"])


def test_tags_of_services_and_tasks_are_ours_and_others_are_motos(world):
    service = world.steady(1)
    (task,) = world.tasks()
    for arn in (service.arn, task.arn):
        world.call(
            "TagResource", resourceArn=arn, tags=[{"key": "a", "value": "1"}, {"key": "b", "value": "2"}]
        )
        world.call("TagResource", resourceArn=arn, tags=[{"key": "a", "value": "3"}])
        world.call("UntagResource", resourceArn=arn, tagKeys=["b"])
        assert world.call("ListTagsForResource", resourceArn=arn) == {"tags": [{"key": "a", "value": "3"}]}
    assert world.call("ListTagsForResource", resourceArn=CLUSTER) == {"forwarded": True}
    with pytest.raises(AwsError, match="InvalidParameterException"):
        world.call("ListTagsForResource", resourceArn=f"{service.arn}-not")


def test_a_cluster_in_use_is_not_deleted(world):
    world.steady(2)
    (cluster,) = world.call("DescribeClusters", clusters=["lab"])["clusters"]
    assert (cluster["activeServicesCount"], cluster["runningTasksCount"]) == (1, 2)
    with pytest.raises(AwsError) as refused:
        world.call("DeleteCluster")
    assert refused.value.code == "ClusterContainsServicesException"
    assert refused.value.message == "The Cluster cannot be deleted while Services are active."
    world.call("DeleteService", service="web", force=True)
    world.run(62)
    with pytest.raises(
        AwsError, match=r"ClusterContainsTasksException: The Cluster cannot be .* Tasks are active\."
    ):
        world.call("DeleteCluster")
    world.run(20)
    assert world.call("DeleteCluster") == {"forwarded": True}


class TestThroughBoto3:
    """The whole way: boto3, the endpoint's parser, moto's clusters and definitions, and back. Processes are fakes."""

    @pytest.fixture
    def endpoint(self):
        endpoint = Endpoint()
        endpoint.start()
        yield endpoint
        endpoint.stop()

    def test_a_service_from_creation_to_deletion(self, endpoint):
        clock, records, balancer = ManualClock(), Records(), FakeBalancer(ManualClock())
        scheduler = Scheduler(
            clock,
            records,
            endpoint.client,
            FakeRuntime(),
            lambda group: dict.fromkeys(registered(records), balancer.first),
            FakeLogs(),
            executor=Inline(),
            rng=random.Random(1),
        )
        endpoint.add(scheduler.operations())
        session = boto3.session.Session("test", "test", region_name=REGION)
        ecs, elbv2, ec2 = (
            session.client(name, endpoint_url=endpoint.url) for name in ("ecs", "elbv2", "ec2")
        )

        def run(seconds: int) -> None:
            for _ in range(seconds):
                clock.advance(1)
                scheduler.step()

        subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]][:2]
        vpc_id = ec2.describe_subnets(SubnetIds=subnets)["Subnets"][0]["VpcId"]
        ecs.create_cluster(clusterName="lab")
        revision = ecs.register_task_definition(
            family="app",
            cpu="256",
            memory="512",
            networkMode="awsvpc",
            requiresCompatibilities=["FARGATE"],
            containerDefinitions=[
                {"name": "app", "image": "repository@sha256:1", "portMappings": [{"containerPort": 3000}]}
            ],
        )["taskDefinition"]["taskDefinitionArn"]
        group = elbv2.create_target_group(
            Name="web", Protocol="HTTP", Port=80, VpcId=vpc_id, TargetType="ip"
        )["TargetGroups"][0]["TargetGroupArn"]
        asked = {
            "cluster": "lab",
            "serviceName": "web",
            "taskDefinition": "app",
            "desiredCount": 2,
            "launchType": "FARGATE",
            "networkConfiguration": {"awsvpcConfiguration": {"subnets": subnets}},
            "loadBalancers": [{"targetGroupArn": group, "containerName": "app", "containerPort": 3000}],
        }
        with pytest.raises(ClientError, match="does not have an associated load balancer") as refused:
            ecs.create_service(**asked)
        assert refused.value.response["Error"]["Code"] == "InvalidParameterException"
        balancer_arn = elbv2.create_load_balancer(Name="web", Subnets=subnets)["LoadBalancers"][0][
            "LoadBalancerArn"
        ]
        elbv2.create_listener(
            LoadBalancerArn=balancer_arn,
            Protocol="HTTP",
            Port=80,
            DefaultActions=[{"Type": "forward", "TargetGroupArn": group}],
        )
        service = ecs.create_service(**asked)["service"]
        assert service["taskDefinition"] == revision
        assert service["createdAt"].timestamp() == clock.time()
        run(60)
        ecs.get_waiter("services_stable").wait(cluster="lab", services=["web"])
        arns = ecs.list_tasks(cluster="lab", serviceName="web")["taskArns"]
        tasks = ecs.describe_tasks(cluster="lab", tasks=arns)["tasks"]
        assert [task["lastStatus"] for task in tasks] == ["RUNNING", "RUNNING"]
        assert ecs.describe_clusters(clusters=["lab"])["clusters"][0]["runningTasksCount"] == 2
        health = elbv2.describe_target_health(TargetGroupArn=group)["TargetHealthDescriptions"]
        addresses = {task["containers"][0]["networkInterfaces"][0]["privateIpv4Address"] for task in tasks}
        assert {(target["Target"]["Id"], target["Target"]["Port"]) for target in health} == {
            (address, 3000) for address in addresses
        }
        with pytest.raises(ecs.exceptions.ClusterContainsServicesException):
            ecs.delete_cluster(cluster="lab")
        with pytest.raises(ecs.exceptions.ServiceNotFoundException):
            ecs.update_service(cluster="lab", service="nobody", desiredCount=1)
        ecs.delete_service(cluster="lab", service="web", force=True)
        run(330)
        ecs.get_waiter("services_inactive").wait(cluster="lab", services=["web"])
        assert ecs.list_tasks(cluster="lab")["taskArns"] == []
        ecs.delete_cluster(cluster="lab")


def registered(records: Records) -> list[tuple[str, int]]:
    return [(task.private_ip, 3000) for task in records.tasks.values()]
