"""Services that are not like the course's, as they are met on AWS: what is in order there is no cause, and what is not is
told as what it is. Answers of a healthy service, changed into those that AWS would give."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import timedelta

import pytest

from helpers.diagnose import judge
from helpers.diagnosis.facts import Evidence
from helpers.diagnosis.finding import NOTED
from helpers.diagnosis.table import examine
from tests.diagnosis.recorded import NOW, event, failing, healthy, stack_event, unwell

GITHUB = "https://github.com"
OTHER = "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/other/1234567890123456"


# In order


def asks_on_a_port_of_its_own() -> dict:
    answers = healthy()
    answers["target_groups"][0]["HealthCheckPort"] = "8081"
    return answers


def shares_a_load_balancer_with_one_that_fails() -> dict:
    answers = healthy()
    answers["balancer_groups"].append({"TargetGroupArn": OTHER, "TargetGroupName": "other"})
    points = [{"time": NOW - timedelta(minutes=minute), "value": 20.0} for minute in (40, 31, 22, 13)]
    answers["metrics"] = {"HTTPCode_ELB_502_Count": points}
    answers["stopped"] = []
    return answers


def on_machines_of_ones_own() -> dict:
    """The machine's role pulls the image, its network leads to ECR, and its processor is Graviton."""
    answers = healthy()
    answers["service"] |= {"launchType": "EC2"}
    answers["service"]["networkConfiguration"]["awsvpcConfiguration"]["assignPublicIp"] = "DISABLED"
    del answers["task_definition"]["executionRoleArn"]
    answers["task_definition"].pop("runtimePlatform", None)
    for name in ("execution_role", "execution_policies"):
        del answers[name]
    answers["image_platforms"] = {"platforms": ["arm64"]}
    return answers


def on_machines_of_ones_own_while_it_deploys() -> dict:
    answers = on_machines_of_ones_own()
    primary = answers["service"]["deployments"][0]
    primary |= {"rolloutState": "IN_PROGRESS", "createdAt": NOW - timedelta(hours=1)}
    return answers


def in_govcloud() -> dict:
    text = json.dumps(healthy(), default=lambda moment: {"time": moment.isoformat()})
    from tests.diagnosis.recorded import _read

    moved = text.replace("arn:aws:", "arn:aws-us-gov:").replace("us-east-1", "us-gov-west-1")
    return json.loads(moved, object_hook=_read)


def allowed_by_the_repository() -> dict:
    """The role gets a token, and the repository's policy lets it pull."""
    answers = healthy()
    for policy in answers["execution_policies"]:
        for statement in policy["document"]["Statement"]:
            if "ecr:BatchGetImage" in statement["Action"]:
                statement["Action"] = ["ecr:DescribeImages"]
    reads = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    whom = {"AWS": answers["task_definition"]["executionRoleArn"]}
    policy = {"Statement": [{"Effect": "Allow", "Principal": whom, "Action": reads}]}
    answers["repository_policy"] = {"policyText": json.dumps(policy)}
    return answers


def quiet_at_its_minimum() -> dict:
    """Requests per target: no visitor, no datapoint."""
    answers = healthy()
    for alarm in answers["alarms"]:
        alarm |= {
            "Namespace": "AWS/ApplicationELB",
            "MetricName": "RequestCountPerTarget",
            "StateValue": "INSUFFICIENT_DATA",
            "StateUpdatedTimestamp": NOW - timedelta(hours=3),
        }
    return answers


def held_by_memory(tasks: int) -> dict:
    """So many tasks, two would do for the CPU, and memory is between its thresholds."""
    answers = healthy()
    answers["service"] |= {"desiredCount": tasks, "runningCount": tasks}
    second = copy.deepcopy(answers["policies"][0])
    second["PolicyName"] = "memory"
    second["Alarms"] = [{"AlarmName": "TargetTracking-service/shop/shop-AlarmLow-memory"}]
    answers["policies"].append(second)
    low = next(alarm for alarm in answers["alarms"] if "AlarmLow" in alarm["AlarmName"])
    low |= {"StateValue": "ALARM", "StateUpdatedTimestamp": NOW - timedelta(minutes=9)}
    other = low | {"AlarmName": "TargetTracking-service/shop/shop-AlarmLow-memory", "StateValue": "OK"}
    answers["alarms"].append(other)
    return answers


def logs_elsewhere() -> dict:
    """Isolated subnets with the endpoints for ECR, and a log that does not go to CloudWatch."""
    answers = healthy()
    for table in answers["route_tables"]:
        table["Routes"] = [route for route in table["Routes"] if route.get("GatewayId") == "local"]
    names = ("ecr.api", "ecr.dkr", "s3")
    answers["endpoints"] = [{"ServiceName": f"com.amazonaws.us-east-1.{name}"} for name in names]
    answers["task_definition"]["containerDefinitions"][0]["logConfiguration"] = {"logDriver": "splunk"}
    return answers


def with_a_sidecar_that_is_killed_at_a_scale_in() -> dict:
    answers = healthy()
    task = failing("", stopped="Scaling activity initiated by (deployment ecs-svc/8)", code=0)["stopped"][0]
    task["containers"].insert(0, {"name": "xray", "exitCode": 137})
    answers["stopped"] = [task | {"stopCode": "ServiceSchedulerInitiated"}]
    answers["task_definition"]["containerDefinitions"].append({"name": "xray", "essential": True})
    return answers


def of_a_stack_with_several_services() -> dict:
    """Another service's DesiredCount, and another target group's path."""
    answers = healthy()
    answers["template"] += (
        "  OtherService:\n    Type: AWS::ECS::Service\n    Properties:\n      DesiredCount: 1\n"
    )
    first = {"LogicalResourceId": "OtherService", "ResourceType": "AWS::ECS::Service"}
    answers["stack_resources"].insert(0, first | {"PhysicalResourceId": "arn:aws:ecs:x:1:service/a/other"})
    answers["activities"] = [{"Description": "Setting desired count to 2.", "StatusCode": "Successful"}]
    return answers


def deployed_by_codedeploy() -> dict:
    """Whether AWS answers an empty list of deployments then is inferred from its documentation."""
    answers = healthy()
    answers["service"] |= {"deploymentController": {"type": "CODE_DEPLOY"}, "deployments": []}
    answers["service"]["taskSets"] = [{"id": "ecs-svc/1", "status": "PRIMARY"}]
    return answers


def on_spot() -> dict:
    """A task was taken back and replaced."""
    answers = healthy()
    (task, *_) = failing(stopped="Your Spot Task was interrupted.", stop_code="SpotInterruption")["stopped"]
    answers["stopped"] = [task, task]
    return answers


WELL = (
    asks_on_a_port_of_its_own,
    shares_a_load_balancer_with_one_that_fails,
    on_machines_of_ones_own,
    in_govcloud,
    allowed_by_the_repository,
    quiet_at_its_minimum,
    logs_elsewhere,
    with_a_sidecar_that_is_killed_at_a_scale_in,
    of_a_stack_with_several_services,
    deployed_by_codedeploy,
    on_spot,
)


@pytest.mark.parametrize("build", WELL, ids=lambda build: build.__name__)
def test_what_is_in_order_is_no_cause(build):
    diagnosis = judge(Evidence(build()))
    assert (diagnosis.causes, diagnosis.healthy, diagnosis.status) == ((), True, 0), diagnosis


@pytest.mark.parametrize(
    "build",
    [on_machines_of_ones_own, in_govcloud, allowed_by_the_repository, logs_elsewhere],
    ids=lambda build: build.__name__,
)
def test_nor_does_it_wait_to_happen(build):
    assert not judge(Evidence(build())).notes


def test_a_machine_of_ones_own_is_not_blamed_while_it_deploys():
    assert judge(Evidence(on_machines_of_ones_own_while_it_deploys())).causes == ()


def test_a_second_policy_that_holds_is_a_cause_above_the_minimum_and_never_certain():
    assert judge(Evidence(held_by_memory(2))).causes == ()
    (cause,) = judge(Evidence(held_by_memory(4))).causes
    assert (cause.rule, cause.probable) == ("two-policies", False)


# Not in order, and what it is


def closed_to_the_second_port() -> dict:
    """Two target groups; the security group lets the load balancer in on the first one's port only."""
    answers = failing(stopped="Task failed ELB health checks in (target-group other)", code=143)
    answers["service"]["loadBalancers"].append(
        {"targetGroupArn": OTHER, "containerName": "app", "containerPort": 9090}
    )
    answers["target_groups"].append({**answers["target_groups"][0], "TargetGroupArn": OTHER, "Port": 9090})
    answers["target_groups"].reverse()
    answers["target_health"].append(
        {
            "Target": {"Id": "172.31.0.9", "Port": 9090},
            "TargetHealth": {"State": "unhealthy", "Reason": "Target.Timeout"},
            "TargetGroupArn": OTHER,
        }
    )
    return answers


def a_mount_that_is_refused() -> dict:
    return failing(
        stopped="ResourceInitializationError: failed to invoke EFS utils commands to set up EFS volumes: stderr: "
        "b'mount.nfs4: mounting fs-1:/data failed, reason given by server: No such file or directory'"
    )


def a_health_check_of_the_container() -> dict:
    """AWS's words: https://repost.aws/knowledge-center/ecs-task-stopped; that curl is not in the image is the report of
    https://openillumi.com/?p=117214, and of many others."""
    check = {"command": ["CMD-SHELL", "curl -f http://localhost:3000/ || exit 1"], "startPeriod": 10}
    return failing(
        stopped="Task failed container health checks",
        code=143,
        stop_code="ServiceSchedulerInitiated",
        container={"healthCheck": check},
        lines=["listening on 3000", "/bin/sh: 1: curl: not found"],
    )


def a_path_that_is_right_and_has_a_comment() -> dict:
    answers = unwell(failing(stopped="Task failed ELB health checks", tasks=2), "Target.FailedHealthChecks")
    path = "HealthCheckPath: !Ref HealthCheckPath"
    answers["template"] = answers["template"].replace(path, "HealthCheckPath: /healthcheck  # cheap")
    answers["service"]["healthCheckGracePeriodSeconds"] = 0
    return answers


def a_secret_that_may_not_be_read() -> dict:
    """GiamPy5/terraform-aws-directus, issue 10, but for the secret's name."""
    said = (
        "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable "
        "to retrieve secret from asm: service call has been retried 1 time(s): failed to fetch secret "
        "arn:aws:secretsmanager:eu-central-1:123456789012:secret:shop-EaPYTy from secrets manager: AccessDeniedException: "
        "Access to KMS is not allowed status code: 400, request id: a87a66d9-f839-4353-b8c2-9984b1465695"
    )
    secret = {
        "name": "PASSWORD",
        "valueFrom": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:shop-EaPYTy",
    }
    return failing(stopped=said, container={"secrets": [secret]})


def a_secret_that_is_not_reached() -> dict:
    """umotif-public/terraform-aws-ecs-fargate, issue 50."""
    return failing(
        stopped="ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval "
        "failed: unable to retrieve secrets from ssm: service call has been retried 5 time(s): RequestCanceled: request "
        "context canceled caused by: context deadli..."
    )


def a_secret_that_is_no_json() -> dict:
    """rileydakota/valheim-ecs-fargate-cdk, issue 9."""
    return failing(
        stopped="ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval "
        "failed: unable to retrieve secret from asm: service call has been retried 1 time(s): invalid character '\\'' "
        "looking for beginning of value"
    )


def too_many_pulls() -> dict:
    """The registry's words as in apptension/saas-boilerplate, issue 204; ECS's before them as in nextflow-io/nextflow,
    issue 5681."""
    said = (
        "CannotPullContainerError: ref pull has been retried 1 time(s): failed to copy: httpReadSeeker: failed open: "
        "unexpected status code https://registry-1.docker.io/v2/library/nginx/manifests/sha256:86e3: 429 Too Many Requests "
        "- Server message: toomanyrequests: You have reached your pull rate limit. You may increase the limit by "
        "authenticating and upgrading: https://www.docker.com/increase-rate-limit"
    )
    return failing(said, stopped="Task failed to start", container={"image": "nginx:1.29"})


def a_new_account() -> dict:
    """aws-samples/baseline-environment-on-aws, issue 238."""
    said = (
        'Resource handler returned message: "Unable to assume the service linked role. Please verify that the ECS service '
        "linked role exists. (Service: AmazonECS; Status Code: 400; Error Code: InvalidParameterException; Request ID: "
        '22e06152-22fe-4af1-90e2-937ce3e62c01; Proxy: null)" (RequestToken: 70f29b80-2c90-67be-ab25-097676cebf8c, '
        "HandlerErrorCode: InvalidRequest)"
    )
    return stack_event(healthy(), "AWS::ECS::Service", "CREATE_FAILED", said)


def no_room_for_a_deployment() -> dict:
    """AWS's words: Amazon ECS Developer Guide, "Amazon ECS service event messages"."""
    answers = failing(tasks=0)
    answers["service"]["deploymentConfiguration"] |= {"minimumHealthyPercent": 100, "maximumPercent": 149}
    answers["service"]["runningCount"] = 2
    said = (
        "(service shop) was unable to stop or start tasks during a deployment because of the service deployment "
        "configuration. Update the minimumHealthyPercent or maximumPercent value and try again."
    )
    return event(answers, said)


UNWELL: dict[Callable[[], dict], str] = {
    closed_to_the_second_port: "security-group",
    a_health_check_of_the_container: "container-health-check",
    a_secret_that_may_not_be_read: "secrets",
    a_secret_that_is_not_reached: "secrets",
    a_secret_that_is_no_json: "secrets",
    too_many_pulls: "pull-limit",
    a_new_account: "service-linked-role",
    no_room_for_a_deployment: "deployment-configuration",
}


@pytest.mark.parametrize("build", UNWELL, ids=lambda build: build.__name__)
def test_what_is_not_in_order_is_told_as_what_it_is(build):
    diagnosis = judge(Evidence(build()))
    assert diagnosis.causes[0].rule == UNWELL[build], diagnosis
    assert diagnosis.causes[0].probable


def test_the_closed_port_is_the_second_ones():
    (cause, *_) = judge(Evidence(closed_to_the_second_port())).causes
    assert "on port 9090" in cause.cause


def test_a_mount_that_is_refused_is_no_wrong_command():
    assert "command-not-found" not in {
        finding.rule for finding in examine(Evidence(a_mount_that_is_refused()))
    }


def test_a_containers_own_check_does_not_read_as_too_short_a_grace_period():
    found = {finding.rule: finding for finding in examine(Evidence(a_health_check_of_the_container()))}
    assert "grace-period" not in found
    assert "curl -f" in found["container-health-check"].cause
    assert any("curl: not found" in line for line in found["container-health-check"].evidence)


def test_a_comment_in_the_template_is_no_drift():
    found = {finding.rule: finding for finding in examine(Evidence(a_path_that_is_right_and_has_a_comment()))}
    assert found.get("health-check-path") is None


SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:shop-EaPYTy"
PARAMETER = "arn:aws:ssm:us-east-1:123456789012:parameter/shop"


@pytest.mark.parametrize(
    ("said", "value", "action", "resource"),
    [
        (
            "failed to fetch secret {} from secrets manager: AccessDeniedException",
            SECRET,
            "secretsmanager:GetSecretValue",
            SECRET,
        ),
        (
            "unable to retrieve secret from asm: AccessDenied",
            f"{SECRET}:password::",
            "secretsmanager:GetSecretValue",
            SECRET,
        ),
        (
            "unable to retrieve secrets from ssm: AccessDeniedException",
            PARAMETER,
            "ssm:GetParameters",
            PARAMETER,
        ),
        ("failed to fetch secret {}: Access to KMS is not allowed", SECRET, "kms:Decrypt", "<the key's ARN>"),
    ],
)
def test_a_role_gets_what_the_secret_needs_and_no_more(said, value, action, resource):
    words = f"ResourceInitializationError: unable to pull secrets or registry auth: {said.format(SECRET)}"
    secrets = [{"name": "PASSWORD", "valueFrom": value}]
    (cause, *_) = judge(Evidence(failing(stopped=words, container={"secrets": secrets}))).causes
    assert cause.rule == "secrets"
    (statement,) = json.loads(cause.fix.split("'''")[1])["Statement"]
    assert (statement["Action"], statement["Resource"]) == ([action], resource)


@pytest.mark.parametrize(
    ("image", "copy"),
    [
        ("nginx:1.29", "public.ecr.aws/docker/library/nginx:1.29"),
        ("docker.io/library/node:24", "public.ecr.aws/docker/library/node:24"),
        ("acme/shop:1", ""),
        ("public.ecr.aws/acme/shop:1", ""),
    ],
)
def test_a_copy_in_the_public_gallery_is_offered_of_official_images_alone(image, copy):
    answers = too_many_pulls()
    answers["task_definition"]["containerDefinitions"][0]["image"] = image
    fix = judge(Evidence(answers)).causes[0].fix
    assert ("docker/library" in fix) is bool(copy)
    assert copy in fix


@pytest.mark.parametrize("partition", ["aws", "aws-cn"])
def test_a_trust_policy_is_mended_for_this_account_alone(partition):
    answers = healthy()
    answers["task_definition"]["taskDefinitionArn"] = (
        f"arn:{partition}:ecs:us-east-1:123456789012:task-definition/shop:1"
    )
    answers["execution_role"] = {"missing": "NoSuchEntity: no role"}
    event(
        answers, "(service shop) failed to launch a task with (error ECS was unable to assume the role 'x')"
    )
    answers["service"]["runningCount"] = 1
    fix = judge(Evidence(answers)).causes[0].fix
    assert json.loads(fix.split("'''")[1])["Statement"][0]["Condition"] == {
        "StringEquals": {"aws:SourceAccount": "123456789012"}
    }
    assert f"arn:{partition}:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy" in fix


def test_502s_that_may_be_anothers_are_noted_only():
    found = {f.rule: f.weight for f in examine(Evidence(shares_a_load_balancer_with_one_that_fails()))}
    assert found == {"keep-alive": NOTED}
