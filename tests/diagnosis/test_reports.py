"""The doctor on what others have met on AWS. The words are transcribed from public reports and AWS's documentation, the
source beside each; what a report leaves out is a healthy service's."""

from __future__ import annotations

from datetime import timedelta

import pytest

from helpers.diagnose import judge
from helpers.diagnosis.facts import Evidence
from tests.diagnosis.recorded import NOW, event, failing, healthy, stack_event, unwell

GITHUB = "https://github.com"
INITIALIZATION = "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable to retrieve ecr registry auth: service call has been retried 3 time(s): "
LOGGER = "ResourceInitializationError: failed to validate logger args: create stream has been retried 1 times: failed to create Cloudwatch log stream: "


def reset_to_the_templates_count() -> dict:
    answers = healthy()
    answers["service"]["desiredCount"] = answers["service"]["runningCount"] = 1
    answers["target_health"] = answers["target_health"][:1]
    answers["template"] = answers["template"].replace(
        "      ServiceName:", "      DesiredCount: 1\n      ServiceName:"
    )
    answers["scalable_targets"][0] |= {"MinCapacity": 1, "MaxCapacity": 10}
    answers["activities"] = [{"Description": "Setting desired count to 5.", "StatusCode": "Successful"}]
    return answers


def killed_on_a_wanted_stop() -> dict:
    answers = failing("", stopped="Scaling activity initiated by (deployment ecs-svc/8)", code=137)
    answers["service"] = healthy()["service"]
    for task in answers["stopped"]:
        task["stopCode"] = "ServiceSchedulerInitiated"
    return answers


def closes_idle_connections() -> dict:
    answers = healthy()
    points = [{"time": NOW - timedelta(minutes=minute), "value": 2.0} for minute in (40, 31, 22, 13)]
    answers["metrics"] = {"HTTPCode_ELB_502_Count": points}
    answers["stopped"] = []
    return answers


def without_egress() -> dict:
    answers = failing(
        stopped=INITIALIZATION
        + 'RequestError: send request failed caused by: Post "https://api.ecr.us-west-2.amazonaws.com/ ": dial tcp 34.223.27.76:443: i/o timeout. Please check your task network configuration.'
    )
    for group in answers["security_groups"]:
        group["IpPermissionsEgress"] = []
    return answers


def port_of_another() -> dict:
    answers = unwell(failing(stopped="Task failed ELB health checks"), "Target.FailedHealthChecks")
    answers["target_groups"][0]["HealthCheckPort"] = "80"
    return event(
        answers,
        "(service shop) (port 5005) is unhealthy in (target-group arn:aws:elasticloadbalancing:ap-south-1:377727317375:targetgroup/corpd-Targe-12YF9HTH1OJGJ/e938d1c7734d02a2) due to (reason Health checks failed).",
    )


def closed_to_the_load_balancer() -> dict:
    answers = unwell(failing(stopped="Task failed ELB health checks"), "Target.Timeout", "Request timed out")
    for group in answers["security_groups"]:
        for permission in group["IpPermissions"]:
            permission["UserIdGroupPairs"] = []
    return event(
        answers,
        "(service shop) (port 3000) is unhealthy in (target-group shop) due to (reason Request timed out).",
    )


def image_as_an_arn() -> dict:
    arn = "arn:aws:ecr:us-east-1:000000000000:repository/my-webapp"
    return failing("CannotPullContainerError: invalid reference format", container={"image": arn})


def scalable_target_by_arn() -> dict:
    answers = stack_event(
        healthy(),
        "AWS::ApplicationAutoScaling::ScalableTarget",
        "CREATE_FAILED",
        "Unsupported service namespace, resource type or scalable dimension",
    )
    answers["template"] = answers["template"].replace(
        "ResourceId: !Sub service/${Cluster}/${Service.Name}",
        "ResourceId: !Sub service/${Cluster}/${Service}",
    )
    return answers


CASES = {
    "no way to ECR": (
        f"{GITHUB}/doctorray117/minecraft-ondemand/issues/74",
        "no-way-out",
        lambda: failing(
            stopped=INITIALIZATION
            + 'RequestError: send request failed caused by: Post "https://api.ecr.us-east-2.amazonaws.com/": dial tcp 10.0.0.1: i/o timeout. Please check your task network configuration.'
        ),
    ),
    "no egress": (
        f"{GITHUB}/aws-samples/generative-ai-sagemaker-cdk-demo/issues/4",
        "no-way-out",
        without_egress,
    ),
    "old platform without a way out": (
        f"{GITHUB}/globaldothealth/list/issues/2662",
        "no-way-out",
        lambda: failing(
            "CannotPullContainerError: Error response from daemon: Get https://1.dkr.ecr.us-east-1.amazonaws.com/v2/: net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)"
        ),
    ),
    "no image for the platform, as an event": (
        f"{GITHUB}/aviswerdlow/relay/issues/71",
        "architecture",
        lambda: event(
            failing(tasks=0),
            "(service relay-temporal-worker) was unable to place a task. Reason: CannotPullContainerError: pull image manifest has been retried 7 time(s): image Manifest does not contain descriptor matching platform 'linux/amd64'.",
        ),
    ),
    "no descriptor for the platform": (
        f"{GITHUB}/aws/containers-roadmap/issues/1120",
        "architecture",
        lambda: failing("CannotPullContainerError: failed to find a descriptor for platform {linux/amd64}"),
    ),
    "exec format error": (
        f"{GITHUB}/aws-samples/amazon-bedrock-serverless-prompt-chaining/issues/213",
        "architecture",
        lambda: failing(code=1, lines=["exec /usr/local/bin/streamlit: exec format error"]),
    ),
    "the role is not assumed": (
        f"{GITHUB}/aws-samples/aws-modern-application-workshop/issues/88",
        "trust-policy",
        lambda: event(
            failing(tasks=0)
            | {
                "execution_role": {
                    "AssumeRolePolicyDocument": {
                        "Statement": [
                            {
                                "Effect": "Allow",
                                "Principal": {"Service": "ecs.amazonaws.com"},
                                "Action": "sts:AssumeRole",
                            }
                        ]
                    }
                }
            },
            "service MythicalMysfits-Service failed to launch a task with (error ECS was unable to assume the role 'arn:aws:iam::281174624655:role/MythicalMysfitsCoreStack-ECSTaskRole-FXO3A6J08BN' that was provided for this task. Please verify that the role being passed has the proper trust relationship and permissions and that your IAM user has permissions to pass this role.).",
        ),
    ),
    "a role that is not there": (
        f"{GITHUB}/boto/boto3/issues/1878",
        "execution-role",
        lambda: event(
            failing(tasks=0)
            | {"execution_role": {"missing": "NoSuchEntity: The role with name null cannot be found."}},
            "service webapp-1 failed to launch a task with (error ECS was unable to assume the role 'arn:aws:iam::123456789:role/null' that was provided for this task. Please verify that the role being passed has the proper trust relationship and permissions and that your IAM user has permissions to pass this role.).",
        ),
    ),
    "no token for ECR": (
        f"{GITHUB}/seekatekode/aws-bootcamp-cruddur-2024",
        "execution-role",
        lambda: (
            failing(
                stopped=INITIALIZATION
                + "AccessDeniedException: User: arn:aws:sts::181900000000:assumed-role/CruddurServiceExecutionRole/3caf853ecb00491db67740079d4a02a7 is not authorized to perform: ecr:GetAuthorizationToken on resource: * because no identity-based policy allows the ecr:GetAuthorizationToken action status code: 400, request id: 802fafcf-b0af-4d34-a105-67c8c3c9b153"
            )
            | {"execution_policies": []}
        ),
    ),
    "the pull is forbidden": (
        f"{GITHUB}/aws/aws-cdk/issues/14457",
        "execution-role",
        lambda: (
            failing(
                'CannotPullContainerError: inspect image has been retried 1 time(s): failed to resolve ref "1.dkr.ecr.us-east-1.amazonaws.com/app:1": unexpected status code [manifests 6981141]: 403 Forbidden'
            )
            | {"execution_policies": None}
        ),
    ),
    "no log stream": (
        f"{GITHUB}/doctorray117/minecraft-ondemand/issues/12",
        "log-permissions",
        lambda: (
            failing(
                stopped=LOGGER
                + "AccessDeniedException: User: arn:aws:sts::zzzzzzzzzzzz:assumed-role/ecs.task.minecraft-server/123456a999ee4b919..."
            )
            | {"execution_policies": None}
        ),
    ),
    "no log group": (
        f"{GITHUB}/cn-terraform/terraform-aws-nexus/issues/35",
        "log-group-missing",
        lambda: (
            failing(
                "CannotStartContainerError: Error response from daemon: failed to initialize logging driver: failed to create Cloudwatch log stream: ResourceNotFoundException: The specified log group does not exist"
            )
            | {"log_groups": None}
        ),
    ),
    "a target group without a load balancer": (
        f"{GITHUB}/umotif-public/terraform-aws-ecs-fargate/issues/43",
        "target-group-unattached",
        lambda: stack_event(
            {name: answer for name, answer in healthy().items() if name != "service"},
            "AWS::ECS::Service",
            "CREATE_FAILED",
            "The target group with targetGroupArn arn:aws:elasticloadbalancing:us-east-1:549567774903:targetgroup/tg-fargate-example/97c07ffe67daf38f does not have an associated load balancer.",
        ),
    ),
    "health checks on another port": (
        f"{GITHUB}/aws/copilot-cli/issues/3772",
        "health-check-port",
        port_of_another,
    ),
    "health checks answered 503": (
        f"{GITHUB}/hashicorp/terraform-aws-consul-ecs/issues/323",
        "health-check-path",
        lambda: unwell(
            failing(stopped="Task failed ELB health checks"),
            "Target.ResponseCodeMismatch",
            "Health checks failed with these codes: [503]",
        ),
    ),
    "health checks that time out": (
        "https://docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-health-checks.html",
        "security-group",
        closed_to_the_load_balancer,
    ),
    "killed for its memory": (
        f"{GITHUB}/aws/amazon-ecs-agent/issues/1187",
        "out-of-memory",
        lambda: failing("OutOfMemoryError: Container killed due to memory usage", code=137),
    ),
    "no such program": (
        f"{GITHUB}/aws/amazon-ecs-cli/issues/1136",
        "command-not-found",
        lambda: failing(
            'CannotStartContainerError: Error response from daemon: OCI runtime create failed: container_linux.go:380: starting container process caused: exec: "python": executable file not found in $PATH: unknown'
        ),
    ),
    "no such image": (
        f"{GITHUB}/CircleCI-Public/circleci-demo-aws-ecs-ecr/issues/4",
        "image-missing",
        lambda: (
            failing(
                "CannotPullContainerError: Error response from daemon: manifest for nginx:0f6b3cdf5e24f0da3dd932acd84fd90e9786a522 not found",
                container={"image": "nginx:0f6b3cdf5e24f0da3dd932acd84fd90e9786a522"},
            )
            | {"image": None}
        ),
    ),
    "no such digest any more": (
        f"{GITHUB}/aws/containers-roadmap/issues/2687",
        "image-missing",
        lambda: (
            failing(
                "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref 12345678-eu-west-1.amazonaws.com/example-service:example-image:image-tag@sha256:sha digest: not found"
            )
            | {"image": {"missing": "ImageNotFoundException: The image with imageId … does not exist"}}
        ),
    ),
    "an image given as an ARN": (
        f"{GITHUB}/localstack/localstack/issues/2601",
        "image-reference",
        image_as_an_arn,
    ),
    "the breaker, and nothing else left to see": (
        f"{GITHUB}/aws/copilot-cli/issues/5586",
        "breaker-rolled-back",
        lambda: stack_event(
            healthy(),
            "AWS::ECS::Service",
            "UPDATE_FAILED",
            "Resource handler returned message: \"Error occurred during operation 'ECS Deployment Circuit Breaker was triggered'.\" (RequestToken: 121161f9-1c97-e3d5-b4d3-8328bb2b676c, HandlerErrorCode: GeneralServiceException)",
        ),
    ),
    "a repository with images": (
        f"{GITHUB}/brentley/appmeshworkshop/issues/31",
        "repository-not-empty",
        lambda: stack_event(
            healthy(),
            "AWS::ECR::Repository",
            "DELETE_FAILED",
            "The repository with name 'appme-cryst-1ohx2vfar9cxh' in registry with id '991225764181' cannot be deleted because it still contains images (Service: AmazonECR; Status Code: 400; Error Code: RepositoryNotEmptyException; Request ID: 450688b7-a9c6-4367-bf73-0d0bce226a34)",
        ),
    ),
    "a scalable target named by ARN": (
        f"{GITHUB}/aws/aws-cdk/issues/14297 and {GITHUB}/getmoto/moto/issues/3304",
        "resource-id",
        scalable_target_by_arn,
    ),
    "a deployment that scales in": (
        f"{GITHUB}/mapbox/ecs-watchbot/issues/349",
        "desired-count",
        reset_to_the_templates_count,
    ),
    "137 at each stop": (
        f"{GITHUB}/hyperdxio/aws-ecs-opentelemetry-sidecar/issues/2",
        "sigterm-lost",
        killed_on_a_wanted_stop,
    ),
    "502 now and then": (
        f"{GITHUB}/OpenCTI-Platform/opencti/issues/17648",
        "keep-alive",
        closes_idle_connections,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_right_cause_comes_first_with_evidence_and_a_fix(name):
    source, rule, answers = CASES[name]
    diagnosis = judge(Evidence(answers()))
    assert diagnosis.causes, f"{name} ({source})"
    first = diagnosis.causes[0]
    assert (first.rule, first.probable) == (rule, True), f"{name} ({source})\n{diagnosis}"
    assert first.evidence
    assert first.fix
    assert len(diagnosis.causes) == 1 or diagnosis.causes[1].weight <= first.weight


def test_the_reports_are_public_and_ten_or_more():
    assert len(CASES) >= 10
    assert all(source.startswith("https://") for source, _, _ in CASES.values())
