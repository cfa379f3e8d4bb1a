"""Tasks that cannot start, in a real sandbox: the symptom, AWS's words for it, and that it goes away when it is mended."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from helpers import sandbox, session
from helpers.sandbox.ecs.preparation import GIVES_UP
from tests.sandbox.live import Live, write_app

CLUSTER = GROUP = "lab"
HELLO = "console.log('hello');"


class Lab:
    def __init__(self, live: Live, image: str):
        self.live, self.image = live, image
        self.ecs, self.iam, self.logs = live.aws("ecs"), live.aws("iam"), live.aws("logs")
        self.ecs.create_cluster(clusterName=CLUSTER)
        self.logs.create_log_group(logGroupName=GROUP)

    def define(self, family: str, image: str | None = None, group: str = GROUP, **container: Any) -> str:
        options = {
            "awslogs-group": group,
            "awslogs-region": "us-east-1",
            "awslogs-stream-prefix": "ecs",
        }
        logs = {"logDriver": "awslogs", "options": options}
        return self.live.define(family, image or self.image, logConfiguration=logs, **container)

    def redefine(self, definition: str, **changes: Any) -> str:
        made = self.ecs.describe_task_definition(taskDefinition=definition)["taskDefinition"]
        kept = ("family", "requiresCompatibilities", "networkMode", "executionRoleArn", "cpu", "memory")
        asked = {name: made[name] for name in (*kept, "containerDefinitions")}
        return self.ecs.register_task_definition(**asked | changes)["taskDefinition"]["taskDefinitionArn"]

    def network(self, public: str = "ENABLED") -> dict[str, Any]:
        return {"awsvpcConfiguration": {"subnets": self.live.subnets(), "assignPublicIp": public}}

    def run(self, definition: str, public: str = "ENABLED") -> dict[str, Any]:
        """A task run to its end: what DescribeTasks says of it."""
        (task,) = self.ecs.run_task(
            cluster=CLUSTER,
            taskDefinition=definition,
            launchType="FARGATE",
            networkConfiguration=self.network(public),
        )["tasks"]

        def stopped() -> dict[str, Any] | None:
            (now,) = self.ecs.describe_tasks(cluster=CLUSTER, tasks=[task["taskArn"]])["tasks"]
            return now if now["lastStatus"] == "STOPPED" else None

        return self.live.until(stopped)

    def runs(self, definition: str) -> bool:
        """Whether a task starts, says hello and ends."""
        task = self.run(definition)
        (container,) = task["containers"]
        assert task["stopCode"] == "EssentialContainerExited", task["stoppedReason"]
        return container["exitCode"] == 0

    def fails(self, definition: str, **how: Any) -> str:
        """Why a task failed to start."""
        task = self.run(definition, **how)
        assert (task["stopCode"], task["containers"][0].get("exitCode")) == ("TaskFailedToStart", None)
        assert "startedAt" not in task
        return task["stoppedReason"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    live = Live(tmp_path_factory.mktemp("failing") / "state", speed=120)
    app = tmp_path_factory.mktemp("app")
    environ = dict(os.environ)
    session.isolate(environ, live.here.endpoint, "us-east-1", live.state)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        image = live.push(write_app(app, HELLO))
    yield Lab(live, image)
    sandbox.stop(live.state)


def test_an_execution_role_without_permissions(lab):
    """Group 6. First nothing may be asked of ECR, then only the logs are denied, by a Deny."""
    role = lab.live.role("AmazonSQSFullAccess", name="poor")
    definition = lab.redefine(lab.define("poor"), executionRoleArn=role)
    assert re.fullmatch(
        r"ResourceInitializationError: unable to pull secrets or registry auth: .*AccessDeniedException: User: "
        r"arn:aws:sts::123456789012:assumed-role/poor/[0-9a-f]{32} is not authorized to perform: "
        r"ecr:GetAuthorizationToken on resource: \* because no identity-based policy allows the "
        "ecr:GetAuthorizationToken action",
        lab.fails(definition),
    )
    managed = "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
    lab.iam.attach_role_policy(RoleName="poor", PolicyArn=managed)
    denied = {"Effect": "Deny", "Action": "logs:CreateLogStream", "Resource": "*"}
    text = json.dumps({"Version": "2012-10-17", "Statement": denied})
    lab.iam.put_role_policy(RoleName="poor", PolicyName="deny", PolicyDocument=text)
    assert (
        "logs:CreateLogStream on resource: arn:aws:logs:us-east-1:123456789012:log-group:lab:log-stream:ecs/app/"
        in (reason := lab.fails(definition))
    )
    assert reason.endswith("with an explicit deny in an identity-based policy : exit status 1")
    lab.iam.delete_role_policy(RoleName="poor", PolicyName="deny")
    assert lab.runs(definition)


def test_a_role_that_ecs_may_not_assume(lab):
    """Group 6. RunTask answers it; a service tells it and goes on when the trust policy is right."""
    role = lab.live.role(name="distrusted")
    definition = lab.redefine(lab.define("distrusted"), executionRoleArn=role)
    right = lab.iam.get_role(RoleName="distrusted")["Role"]["AssumeRolePolicyDocument"]
    wrong = json.dumps(right).replace("ecs-tasks.amazonaws.com", "ecs.amazonaws.com")
    lab.iam.update_assume_role_policy(RoleName="distrusted", PolicyDocument=wrong)
    words = f"ECS was unable to assume the role '{role}' that was provided for this task."
    with pytest.raises(ClientError, match=re.escape(words)):
        lab.run(definition)
    service = {"cluster": CLUSTER, "service": "distrusted"}
    lab.ecs.create_service(
        cluster=CLUSTER,
        serviceName="distrusted",
        taskDefinition=definition,
        desiredCount=1,
        launchType="FARGATE",
        networkConfiguration=lab.network(),
    )

    def told(what: str) -> bool:
        (found,) = lab.ecs.describe_services(cluster=CLUSTER, services=["distrusted"])["services"]
        return any(what in event["message"] for event in found["events"])

    lab.live.until(lambda: told(f"(service distrusted) failed to launch a task with (error {words}"))
    assert not told("has started")
    lab.iam.update_assume_role_policy(RoleName="distrusted", PolicyDocument=json.dumps(right))
    lab.live.until(lambda: told("has started 1 tasks"))
    lab.ecs.delete_service(**service, force=True)


def test_a_role_that_does_not_exist(lab):
    """Group 6: it is registered, and cannot be assumed."""
    role = "arn:aws:iam::123456789012:role/nobody-made-it"
    definition = lab.redefine(lab.define("nobody"), taskRoleArn=role)
    with pytest.raises(ClientError, match=f"unable to assume the role '{role}'"):
        lab.run(definition)
    lab.live.role(name="nobody-made-it")
    assert lab.runs(definition)


def test_no_way_to_ecr(lab):
    """Group 4: no public address in a subnet whose way out is an internet gateway. Minutes pass before it is told."""
    definition = lab.define("lonely")
    task = lab.run(definition, public="DISABLED")
    assert "There is a connection issue between the task and Amazon ECR." in task["stoppedReason"]
    assert task["stoppedReason"].endswith(":443: i/o timeout")
    assert (task["stoppingAt"] - task["createdAt"]).total_seconds() >= GIVES_UP
    assert lab.runs(definition)


def test_an_image_that_is_not_there(lab):
    """Group 5: a wrong tag, and a repository that nobody made; well again when somebody pushes it."""
    repository = lab.image.partition("@")[0]
    wrong = lab.define("wrong-tag", f"{repository}:v9")
    assert lab.fails(wrong) == (
        f"CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref {repository}:v9"
        f": {repository}:v9: not found"
    )
    nowhere = lab.define("nowhere", f"{repository}-elsewhere:v1")
    assert lab.fails(nowhere).endswith("-elsewhere:v1: not found")
    ecr = lab.live.aws("ecr")
    (image,) = ecr.batch_get_image(
        repositoryName="app", imageIds=[{"imageDigest": lab.image.partition("@")[2]}]
    )["images"]
    ecr.put_image(repositoryName="app", imageManifest=image["imageManifest"], imageTag="v9")
    assert lab.runs(wrong)


def test_an_image_given_as_an_arn(lab):
    """Group 5, as the article has it."""
    arn = "arn:aws:ecr:us-east-1:123456789012:repository/app"
    assert lab.fails(lab.define("arn", arn)).startswith(
        f'CannotPullContainerError: failed to normalize image reference "{arn}"'
    )


def test_an_image_of_another_architecture(lab):
    """Group 5: it starts and ends at once, and only the log says why."""
    definition = lab.define("arm")
    other = {"cpuArchitecture": "ARM64", "operatingSystemFamily": "LINUX"}
    task = lab.run(lab.redefine(definition, runtimePlatform=other))
    assert (task["stopCode"], task["stoppedReason"], task["containers"][0]["exitCode"]) == (
        "EssentialContainerExited",
        "Essential container in task exited",
        1,
    )
    stream = f"ecs/app/{task['taskArn'].rsplit('/', 1)[-1]}"

    def said() -> list[str]:
        events = lab.logs.get_log_events(logGroupName=GROUP, logStreamName=stream)["events"]
        return [event["message"] for event in events]

    assert lab.live.until(said) == ["exec /usr/local/bin/node: exec format error"]
    assert lab.runs(definition)


def test_a_log_group_that_is_not_there(lab):
    """Group 9."""
    definition = lab.define("silent", group="nowhere")
    assert lab.fails(definition).endswith(
        "ResourceNotFoundException: The specified log group does not exist. : exit status 1"
    )
    lab.logs.create_log_group(logGroupName="nowhere")
    assert lab.runs(definition)


@pytest.mark.parametrize(
    ("command", "code"),
    [(["sh", "-c", "exit 1"], 1), (["sh", "-c", "nodde server.js"], 127), (["sh", "-c", "kill -9 $$"], 137)],
)
def test_a_container_that_exits(lab, command, code):
    """Group 7."""
    task = lab.run(lab.define(f"exits-{code}", command=command))
    assert task["stopCode"] == "EssentialContainerExited"
    assert task["stoppedReason"] == "Essential container in task exited"
    assert task["containers"][0]["exitCode"] == code


def test_a_command_that_is_not_there(lab):
    """Group 7: without a shell no container starts."""
    assert lab.fails(lab.define("no-command", command=["nodde", "server.js"])) == (
        "CannotStartContainerError: ResourceInitializationError: failed to create new container runtime task: failed to "
        "create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: "
        '"nodde": executable file not found in $PATH: unknown'
    )


def test_a_repository_with_images_is_not_deleted(lab):
    """Group 9."""
    with pytest.raises(ClientError, match="RepositoryNotEmptyException") as refused:
        lab.live.aws("ecr").delete_repository(repositoryName="app")
    assert refused.value.response["Error"]["Message"] == (
        "The repository with name 'app' in registry with id '123456789012' cannot be deleted because it still contains "
        "images"
    )


@pytest.mark.parametrize(
    ("needs", "container"),
    [
        ("ECR images", {"image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/app:v1"}),
        (
            "log driver awslogs",
            {
                "image": "public.ecr.aws/x/y:1",
                "logConfiguration": {"logDriver": "awslogs", "options": {"awslogs-group": "lab"}},
            },
        ),
    ],
)
def test_without_an_execution_role_it_is_not_registered(lab, needs, container):
    words = f"Fargate requires task definition to have execution role ARN to support {needs}."
    with pytest.raises(ClientError, match=re.escape(words)):
        lab.ecs.register_task_definition(
            family="none",
            requiresCompatibilities=["FARGATE"],
            networkMode="awsvpc",
            cpu="256",
            memory="512",
            containerDefinitions=[{"name": "app", **container}],
        )
