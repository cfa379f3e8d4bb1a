"""Faults in what the task execution role may do, and in the log group that it writes to."""

from __future__ import annotations

import json
from random import Random

import boto3

from helpers.calls import client
from helpers.faults.fault import Fault
from helpers.faults.place import Place

POLICY = "start-a-task"  # the template's name of it
READ_IMAGE = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
WRITE_LOG = ["logs:CreateLogStream", "logs:PutLogEvents"]
RETENTION = 7  # days; the template's


def _allow(place: Place, statements: list[dict]) -> None:
    document = {"Version": "2012-10-17", "Statement": statements}
    client("iam").put_role_policy(
        RoleName=place.resource("TaskExecutionRole"), PolicyName=POLICY, PolicyDocument=json.dumps(document)
    )


def _statements(place: Place) -> list[dict]:
    """The template's, to take something from."""
    account = client("sts").get_caller_identity()["Account"]
    partition = boto3.session.Session().get_partition_for_region(place.region)
    repository = f"arn:{partition}:ecr:{place.region}:{account}:repository/{place.name}"
    group = f"arn:{partition}:logs:{place.region}:{account}:log-group:/ecs/{place.name}:*"
    return [
        {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"},
        {"Effect": "Allow", "Action": READ_IMAGE, "Resource": repository},
        {"Effect": "Allow", "Action": WRITE_LOG, "Resource": group},
    ]


def _no_images(place: Place, rng: Random) -> None:
    token, image, log = _statements(place)
    wrong = rng.choice(("token", "action", "repository"))
    if wrong == "action":
        image = image | {"Action": [action for action in READ_IMAGE if action != "ecr:BatchGetImage"]}
    elif wrong == "repository":
        image = image | {"Resource": image["Resource"] + rng.choice(("-staging", "-old", "-base"))}
    _allow(place, [image, log] if wrong == "token" else [token, image, log])
    place.lose_a_task()


def _no_logs(place: Place, rng: Random) -> None:
    token, image, log = _statements(place)
    if rng.random() < 0.5:
        group = log["Resource"].removesuffix(":*")
        log = log | {"Resource": f"{group}-{rng.choice(('staging', 'old', 'archive'))}:*"}
        _allow(place, [token, image, log])
    else:
        _allow(place, [token, image])
    place.lose_a_task()


def _all_allowed(place: Place) -> None:
    """The policy as the template has it: the token, this repository's images, this log group."""
    account = client("sts").get_caller_identity()["Account"]
    partition = boto3.session.Session().get_partition_for_region(place.region)
    here = f"{place.region}:{account}"
    statements = [
        {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"},
        {
            "Effect": "Allow",
            "Action": ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            "Resource": f"arn:{partition}:ecr:{here}:repository/{place.name}",
        },
        {
            "Effect": "Allow",
            "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
            "Resource": f"arn:{partition}:logs:{here}:log-group:/ecs/{place.name}:*",
        },
    ]
    client("iam").put_role_policy(
        RoleName=place.resource("TaskExecutionRole"),
        PolicyName="start-a-task",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": statements}),
    )


def allow_nothing_else(place: Place) -> None:
    """Without the policies and the boundary that the template does not give the execution role."""
    iam, role = client("iam"), place.resource("TaskExecutionRole")
    for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        if name != POLICY:
            iam.delete_role_policy(RoleName=role, PolicyName=name)
    for policy in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
        iam.detach_role_policy(RoleName=role, PolicyArn=policy["PolicyArn"])
    if "PermissionsBoundary" in iam.get_role(RoleName=role)["Role"]:
        iam.delete_role_permissions_boundary(RoleName=role)


def _trust(place: Place, service: str) -> None:
    account = client("sts").get_caller_identity()["Account"]
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": service},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"aws:SourceAccount": account}},
    }
    client("iam").update_assume_role_policy(
        RoleName=place.resource("TaskExecutionRole"),
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
    )


def _distrust(place: Place, rng: Random) -> None:
    _trust(place, rng.choice(("ecs.amazonaws.com", "ec2.amazonaws.com", "lambda.amazonaws.com")))
    place.lose_a_task()


def _trust_ecs_tasks(place: Place) -> None:
    """ECS may assume the role for its tasks, for this account's alone."""
    account = client("sts").get_caller_identity()["Account"]
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "ecs-tasks.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"aws:SourceAccount": account}},
    }
    client("iam").update_assume_role_policy(
        RoleName=place.resource("TaskExecutionRole"),
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
    )


def _lose_the_log(place: Place, rng: Random) -> None:
    client("logs").delete_log_group(logGroupName=f"/ecs/{place.name}")
    place.lose_a_task()


def _make_the_log(place: Place) -> None:
    logs, group = client("logs"), f"/ecs/{place.name}"
    found = logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]
    if group not in [one["logGroupName"] for one in found]:
        logs.create_log_group(logGroupName=group, tags={"tutorial": place.name})
    logs.put_retention_policy(logGroupName=group, retentionInDays=7)


def _no_retention(place: Place) -> list[str]:
    group = f"/ecs/{place.name}"
    found = client("logs").describe_log_groups(logGroupNamePrefix=group)["logGroups"]
    kept = [one.get("retentionInDays") for one in found if one["logGroupName"] == group]
    if not kept:
        return [f"there is no log group {group}"]
    return (
        []
        if kept == [RETENTION]
        else [f"{group} keeps its lines for {kept[0] or 'ever'}, not {RETENTION} days"]
    )


_ONE_SHORT = (
    "A task went last night, as tasks do, and its replacement does not come up. Nothing was deployed."
)
_STOPPED = (
    "Read the service's events, and the stoppedReason of the tasks that never started: list_tasks with "
    'desiredStatus="STOPPED", describe_tasks. What was being done when it failed, and by whom?'
)

FAULTS = (
    Fault(
        "execution-role",
        "role",
        _ONE_SHORT,
        (
            _STOPPED,
            "The pull was refused. The execution role pulls (executionRoleArn of the task definition): read its policy "
            "with iam.get_role_policy. It wants four actions of ECR, three of them on this very repository.",
            "The policy start-a-task no longer allows what the template's does. Write it again with put_role_policy: "
            "ecr:GetAuthorizationToken on *, and the three reading actions on this repository.",
        ),
        _no_images,
        lambda place: place.stopped_with("CannotPullContainerError", "ResourceInitializationError"),
        _all_allowed,
    ),
    Fault(
        "trust-policy",
        "role",
        _ONE_SHORT,
        (
            _STOPPED,
            "A role has two sides: what it may do, and who may take it on. Read AssumeRolePolicyDocument of the "
            "execution role: iam.get_role.",
            "The role trusts another service than ecs-tasks.amazonaws.com. Write its trust policy again with "
            "update_assume_role_policy.",
        ),
        _distrust,
        lambda place: place.stopped_with("unable to assume"),
        _trust_ecs_tasks,
    ),
    Fault(
        "log-permissions",
        "role",
        _ONE_SHORT,
        (
            _STOPPED,
            "The image was pulled; it failed at the log. The execution role makes the log stream: read its policy with "
            "iam.get_role_policy, and look for the log group's ARN.",
            "The policy start-a-task does not allow logs:CreateLogStream and logs:PutLogEvents on this log group. Write "
            "it again with put_role_policy.",
        ),
        _no_logs,
        lambda place: place.stopped_with("ResourceInitializationError"),
        _all_allowed,
    ),
    Fault(
        "log-group-missing",
        "template",
        _ONE_SHORT,
        (
            _STOPPED,
            "awslogs makes a stream for each task, in a group that has to be there. Which one does the task definition "
            "name, and what does logs.describe_log_groups show?",
            "The log group of the template is gone. Make it again with create_log_group, and give it its retention of "
            "seven days with put_retention_policy.",
        ),
        _lose_the_log,
        lambda place: place.stopped_with("ResourceInitializationError"),
        _make_the_log,
        _no_retention,
    ),
)
