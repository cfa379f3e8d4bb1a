"""Stacks that go wrong as they do on AWS: the symptom, its words, and that it is gone when its cause is.

A whole sandbox with small real apps, at a speed of 120: an AWS minute is half a real second.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from botocore.exceptions import ClientError

from helpers import sandbox
from tests.sandbox.live import Live
from tests.sandbox.stack_of_07 import TEMPLATE, StackOf07

WITHOUT_BREAKER = TEMPLATE.replace("Enable: true", "Enable: false").replace(
    "Rollback: true", "Rollback: false"
)
THESE_FAILED_TO = "The following resource(s) failed to"
TRIGGERED = (
    "Resource handler returned message: \"Error occurred during operation 'ECS Deployment Circuit Breaker was "
    "triggered'.\" (RequestToken: TOKEN, HandlerErrorCode: GeneralServiceException)"
)
WELL = """
const http = require('node:http');
http.createServer((request, response) => response.end('hello')).listen(process.env.PORT, process.env.HOST);
process.on('SIGTERM', () => process.exit(0));
// %s
"""
EXITS = "console.log('about to fail'); process.exit(%d);"


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    live = Live(tmp_path_factory.mktemp("stacks"), speed=120)
    yield live
    sandbox.stop(live.state)


@pytest.fixture(scope="module")
def stack(live, tmp_path_factory):
    """Makes a StackOf07 of this name."""
    apps = tmp_path_factory.mktemp("apps")
    return lambda name: StackOf07(live, name, apps)


# --- the listener ------------------------------------------------------------------------------------------------


def test_a_service_that_is_made_before_the_listener(stack):
    lab = stack("race")
    image = lab.image(WELL % 1)
    assert lab.deploy(image, TEMPLATE.replace("    DependsOn: Listener\n", "")) == "ROLLBACK_COMPLETE"
    why = lab.why("Service", "CREATE_FAILED")
    assert re.fullmatch(
        'Resource handler returned message: "Invalid request provided: CreateService error: The target group with '
        r"targetGroupArn arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/\S+ does not have an associated "
        r"load balancer\. \(Service: AmazonECS; Status Code: 400; Error Code: InvalidParameterException; Request ID: "
        r'\S+; Proxy: null\)" \(RequestToken: TOKEN, HandlerErrorCode: InvalidRequest\)',
        why,
    )
    story = lab.story()
    assert (
        "race",
        "ROLLBACK_IN_PROGRESS",
        f"{THESE_FAILED_TO} create: [Service]. Rollback requested by user.",
    ) in story
    gone = [one for one, status, _ in story if status == "DELETE_COMPLETE"]
    assert gone.index("LoadBalancer") < gone.index("LoadBalancerSecurityGroup")  # each before what it needs
    assert not any(one == "Listener" for one, *_ in story)
    assert lab.delete() == "DELETE_COMPLETE"
    assert lab.deploy(image) == "CREATE_COMPLETE"
    assert lab.delete() == "DELETE_COMPLETE"


def test_the_race_can_be_won(live, stack):
    """A load balancer that is there already takes no time: its listener is first, though no one says that it must."""
    lab = stack("luck")
    image = lab.image(WELL % 1)
    ec2 = live.aws("ec2")
    group = ec2.create_security_group(GroupName="luck", Description="the balancer", VpcId=lab.vpc)["GroupId"]
    (balancer,) = live.aws("elbv2").create_load_balancer(
        Name="luck", Subnets=live.subnets()[:2], SecurityGroups=[group]
    )["LoadBalancers"]
    arn = balancer["LoadBalancerArn"]
    body = TEMPLATE.replace("    DependsOn: Listener\n", "")
    start, end = body.index("  # One address that stays"), body.index("  # It has no name of its own")
    body = body[:start] + body[end : body.index("Outputs:")]
    body = body.replace("LoadBalancerArn: !Ref LoadBalancer", f"LoadBalancerArn: {arn}")
    body = body.replace("SecurityGroupId: !Ref LoadBalancerSecurityGroup", f"SecurityGroupId: {group}")
    assert lab.deploy(image, body) == "CREATE_COMPLETE"
    begun = [one for one, status, _ in lab.story() if status == "CREATE_IN_PROGRESS"]
    assert begun.index("Listener") < begun.index("Service")
    assert lab.delete() == "DELETE_COMPLETE"


# --- a deployment that cannot succeed -----------------------------------------------------------------------------


def test_a_first_deployment_has_nothing_to_go_back_to_and_leaves_its_evidence(stack):
    lab = stack("first")
    assert lab.deploy(lab.image(EXITS % 1)) == "ROLLBACK_COMPLETE"
    assert lab.why("Service", "CREATE_FAILED") == TRIGGERED
    service = lab.service
    assert (service["status"], service["desiredCount"], service["runningCount"]) == ("INACTIVE", 0, 0)
    assert "(service first) (deployment D) deployment failed: tasks failed to start." in lab.told
    assert not any("rolling back" in event for event in lab.told)
    failed = [task for task in lab.stopped() if task["stopCode"] == "EssentialContainerExited"]
    assert len(failed) >= 3
    with pytest.raises(ClientError, match="is in ROLLBACK_COMPLETE state and can not be updated"):
        lab.begin(lab.image(WELL % 1), verb="update_stack")
    assert lab.delete() == "DELETE_COMPLETE"
    assert lab.stopped()  # of a stack that is gone, too
    assert lab.told
    assert lab.why("first", "DELETE_COMPLETE") == ""


@pytest.fixture(scope="module")
def shop(stack):
    lab = stack("shop")
    lab.well = lab.image(WELL % 1)
    assert lab.deploy(lab.well) == "CREATE_COMPLETE"
    return lab


@pytest.mark.parametrize("code", [1, 127, 137])
def test_the_circuit_breaker_takes_the_service_and_the_stack_back(shop, code):
    before = shop.service
    (good,) = before["deployments"]
    shop.began = len(shop.told)
    assert shop.deploy(shop.image(EXITS % code), verb="update_stack") == "UPDATE_ROLLBACK_COMPLETE"
    assert shop.why("Service", "UPDATE_FAILED") == TRIGGERED
    assert [(one, status, why) for one, status, why in shop.story() if one == "shop"] == [
        ("shop", "UPDATE_IN_PROGRESS", "User Initiated"),
        ("shop", "UPDATE_ROLLBACK_IN_PROGRESS", f"{THESE_FAILED_TO} update: [Service]. "),
        ("shop", "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS", ""),
        ("shop", "UPDATE_ROLLBACK_COMPLETE", ""),
    ]
    raw = [event["message"] for event in reversed(shop.service["events"])]
    new = raw[shop.began :]
    failed = next(one for one in new if "deployment failed" in one)
    assert re.fullmatch(
        r"\(service shop\) \(deployment ecs-svc/\d+\) deployment failed: tasks failed to start\.", failed
    )
    assert f"(service shop) rolling back to deployment {good['id']}." in new
    exited = [task for task in shop.stopped() if task["stopCode"] == "EssentialContainerExited"]
    tasks = [task for task in exited if task["containers"][0]["exitCode"] == code]
    assert len(tasks) >= 3
    stream = f"ecs/app/{tasks[-1]['taskArn'].rsplit('/', 1)[-1]}"
    said = shop.live.aws("logs").get_log_events(logGroupName="/ecs/shop", logStreamName=stream)["events"]
    assert [line["message"] for line in said] == ["about to fail"]
    assert {task["stoppedReason"] for task in tasks} == {"Essential container in task exited"}
    after = shop.service
    assert (after["taskDefinition"], after["desiredCount"], after["runningCount"]) == (
        before["taskDefinition"],
        2,
        2,
    )
    (deployment,) = after["deployments"]
    assert deployment["rolloutState"] == "COMPLETED"


def test_while_it_fails_the_deployment_says_why(shop):
    """Without rollback, so that it stays to be read."""
    text = TEMPLATE.replace("Rollback: true", "Rollback: false")
    assert shop.deploy(shop.image(EXITS % 3), text, "update_stack") == "UPDATE_ROLLBACK_COMPLETE"
    assert shop.why("Service", "UPDATE_FAILED") == TRIGGERED
    assert not any("rolling back" in event for event in shop.told[-12:])
    assert shop.deploy(shop.image(WELL % 2), verb="update_stack") == "UPDATE_COMPLETE"


def test_without_a_circuit_breaker_it_goes_on_until_somebody_cancels(shop):
    before = shop.service["taskDefinition"]
    shop.began = len(shop.told)
    shop.begin(shop.image(EXITS % 4), WITHOUT_BREAKER, "update_stack")
    shop.live.until(lambda: shop.service["deployments"][0]["failedTasks"] >= 6)
    primary, serving = shop.service["deployments"]
    assert (primary["rolloutState"], serving["runningCount"]) == ("IN_PROGRESS", 2)
    (stack,) = shop.formation.describe_stacks(StackName="shop")["Stacks"]
    assert stack["StackStatus"] == "UPDATE_IN_PROGRESS"
    unable = "(service shop) is unable to consistently start tasks successfully."
    assert not any(event.startswith(unable) for event in shop.told[shop.began :])  # its tasks did start
    shop.formation.cancel_update_stack(StackName="shop")
    assert shop.rest() == "UPDATE_ROLLBACK_COMPLETE"
    assert shop.why("Service", "UPDATE_FAILED") == "Resource update cancelled"
    assert shop.why("shop", "UPDATE_ROLLBACK_IN_PROGRESS") == "User Initiated"
    assert (shop.service["taskDefinition"], shop.service["runningCount"]) == (before, 2)
    assert shop.service["deploymentConfiguration"]["deploymentCircuitBreaker"]["enable"]


def test_a_desired_count_in_the_template_resets_a_service_that_was_scaled(shop):
    with_count, without = TEMPLATE, TEMPLATE.replace("      DesiredCount: 2\n", "")
    shop.scale(4)
    # An update that does not touch the service leaves it alone.
    other = with_count.replace("RetentionInDays: 7", "RetentionInDays: 14")
    image = shop.formation.describe_stacks(StackName="shop")["Stacks"][0]["Parameters"]
    image = next(one["ParameterValue"] for one in image if one["ParameterKey"] == "Image")
    assert shop.deploy(image, other, "update_stack") == "UPDATE_COMPLETE"
    assert shop.service["desiredCount"] == 4
    assert shop.deploy(shop.image(WELL % 3), other, "update_stack") == "UPDATE_COMPLETE"
    assert shop.service["desiredCount"] == 2
    # Taken out of the template, it is nobody's but auto scaling's.
    assert shop.deploy(shop.well, without, "update_stack") == "UPDATE_COMPLETE"
    shop.scale(4)
    assert shop.deploy(shop.image(WELL % 4), without, "update_stack") == "UPDATE_COMPLETE"
    assert (shop.service["desiredCount"], shop.service["runningCount"]) == (4, 4)
    # Nor does a rollback bring it back.
    assert shop.deploy(shop.image(EXITS % 5), without, "update_stack") == "UPDATE_ROLLBACK_COMPLETE"
    assert shop.service["desiredCount"] == 4


# --- what cannot be deleted ---------------------------------------------------------------------------------------


def test_a_security_group_that_a_task_uses(shop, stack):
    """The group is one stack's, the task another's."""
    ec2, name = shop.live.aws("ec2"), "borders"
    body = {
        "Resources": {
            "Group": {
                "Type": "AWS::EC2::SecurityGroup",
                "Properties": {"GroupDescription": "a border", "VpcId": shop.vpc},
            }
        }
    }
    borders = stack(name)
    borders.since = shop.live.here.now()
    borders.id = shop.formation.create_stack(StackName=name, TemplateBody=json.dumps(body))["StackId"]
    assert borders.rest() == "CREATE_COMPLETE"
    (resource,) = shop.formation.describe_stack_resources(StackName=name)["StackResources"]
    group = resource["PhysicalResourceId"]
    service = shop.service
    network = service["networkConfiguration"]
    groups = network["awsvpcConfiguration"]["securityGroups"]
    (task,) = shop.ecs.run_task(
        cluster="shop",
        taskDefinition=service["taskDefinition"],
        launchType="FARGATE",
        networkConfiguration={
            "awsvpcConfiguration": {**network["awsvpcConfiguration"], "securityGroups": [group, *groups]}
        },
    )["tasks"]
    with pytest.raises(ClientError) as refused:
        ec2.delete_security_group(GroupId=group)
    assert refused.value.response["Error"] == {
        "Code": "DependencyViolation",
        "Message": f"resource {group} has a dependent object",
    }
    assert borders.delete() == "DELETE_FAILED"
    assert (
        f'message: "resource {group} has a dependent object (Service: Ec2, Status Code: 400'
        in borders.why("Group", "DELETE_FAILED")
    )
    assert borders.why(name, "DELETE_FAILED") == f"{THESE_FAILED_TO} delete: [Group]. "
    shop.ecs.stop_task(cluster="shop", task=task["taskArn"])
    assert borders.delete() == "DELETE_COMPLETE"  # it is tried again until the interface is gone


def test_a_repository_with_images(live, stack):
    body = {
        "Resources": {
            "Repository": {"Type": "AWS::ECR::Repository", "Properties": {"RepositoryName": "kept"}}
        }
    }
    lab = stack("kept")

    def deploy(verb: str, **properties: Any) -> str:
        body["Resources"]["Repository"]["Properties"].update(properties)
        lab.since = live.here.now()
        lab.id = getattr(lab.formation, verb)(StackName="kept", TemplateBody=json.dumps(body))["StackId"]
        return lab.rest()

    assert deploy("create_stack") == "CREATE_COMPLETE"
    lab.image(WELL % 1)
    assert lab.delete() == "DELETE_FAILED"
    assert lab.why("Repository", "DELETE_FAILED").startswith(
        "Resource handler returned message: \"The repository with name 'kept' in registry with id '123456789012' cannot "
        "be deleted because it still contains images (Service: Ecr, Status Code: 400"
    )
    live.aws("ecr").delete_repository(repositoryName="kept", force=True)
    assert lab.delete() == "DELETE_COMPLETE"
    assert deploy("create_stack") == "CREATE_COMPLETE"
    lab.image(WELL % 1)
    assert deploy("update_stack", EmptyOnDelete=True) == "UPDATE_COMPLETE"
    assert lab.delete() == "DELETE_COMPLETE"
