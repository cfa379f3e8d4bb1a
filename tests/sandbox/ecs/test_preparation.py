"""What Fargate asks before a container starts: in which order, and AWS's words where it is refused.

The texts are transcribed from public reports; see `stopped_reasons.py` for each one's source.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from botocore.exceptions import ClientError

from helpers.sandbox.ecr.references import Reference, read_reference
from helpers.sandbox.ecr.snapshots import CannotPullContainer
from helpers.sandbox.ecs.placement import Definition
from helpers.sandbox.ecs.preparation import GIVES_UP, Preparation, UnableToAssume
from helpers.sandbox.fargate.runtime import CannotPullContainerError
from helpers.sandbox.logs import LogRefused, ResourceInitializationError
from helpers.sandbox.records import Task
from tests.sandbox.task_record import task_record

REGION = "us-east-1"
SHOP = f"123456789012.dkr.ecr.{REGION}.amazonaws.com/shop"
IMAGE = f"{SHOP}:v1"
ROLE = "arn:aws:iam::123456789012:role/path/shop-execution"
ID = "bc88e9b6acd947589d99b68067f8de59"
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


class World:
    """Says yes to all, until a test takes something away."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.no_way: set[str] = set()
        self.denied: set[str] = set()
        self.distrusted: set[str] = set()
        self.missing: str | None = None
        self.group_missing = False
        self.public_ip: set[bool] = set()
        self.regions: set[str] = set()
        self.preparation = Preparation(self, self, self, self)

    def way_out(self, region: str, subnet_id: str, groups: list[str], *, public_ip: bool, service: str):
        self.asked.append(service)
        self.public_ip.add(public_ip)
        return "no route" if service in self.no_way else None

    def trusts(self, role: str, service: str, context: dict[str, str]) -> bool:
        assert service == "ecs-tasks.amazonaws.com"
        assert context == {
            "aws:sourcearn": f"arn:aws:ecs:{REGION}:123456789012:*",
            "aws:requestedregion": REGION,
        }
        return role not in self.distrusted

    def why_not(self, role: str, action: str, resource: str, context: dict[str, str]) -> str | None:
        self.regions.add(context["aws:requestedregion"])
        self.asked.append(f"{action} {resource}")
        why = f"because no identity-based policy allows the {action} action"
        return why if action in self.denied else None

    def read(self, image: str) -> Reference | None:
        return read_reference(image, {})

    def find(self, image: str, platform: str) -> None:
        self.asked.append(platform)
        if self.missing:
            raise CannotPullContainer(self.missing)

    def open_stream(self, task: Task, container: dict[str, Any]) -> tuple[str, str] | None:
        self.asked.append("stream")
        if self.group_missing:
            told = {"Code": "ResourceNotFoundException", "Message": "The specified log group does not exist."}
            raise LogRefused("CreateLogStream", ClientError({"Error": told}, "CreateLogStream"))
        return ("/ecs/shop", f"ecs/app/{task.id}")

    def prepare(self, image: str = IMAGE, role: str | None = ROLE, architecture: str = "X86_64", **options):
        container = {
            "name": "app",
            "image": image,
            "logConfiguration": {
                "logDriver": "awslogs",
                "options": {
                    "awslogs-group": "/ecs/shop",
                    "awslogs-region": REGION,
                    "awslogs-stream-prefix": "ecs",
                    **options,
                },
            },
        }
        raw = {
            "containerDefinitions": [container],
            "runtimePlatform": {"cpuArchitecture": architecture},
            **({"executionRoleArn": role, "taskRoleArn": f"{role}-task"} if role else {}),
        }
        arn = f"arn:aws:ecs:{REGION}:123456789012:task-definition/shop:1"
        self.definition = Definition(arn, "shop", 1, 256, 512, raw)
        task = task_record(f"arn:aws:ecs:{REGION}:123456789012:task/shop/{ID}", image=image, public_ip=False)
        return self.preparation.prepare(task, self.definition, container)


@pytest.fixture
def world() -> World:
    return World()


def test_the_role_is_asked_in_the_region_that_is_called(world):
    world.prepare()
    assert world.regions == {REGION}
    world.regions.clear()
    world.prepare(f"{SHOP.replace(REGION, 'eu-west-1')}:v1", **{"awslogs-region": "eu-central-1"})
    assert world.regions == {"eu-west-1", "eu-central-1"}


REPOSITORY = f"arn:aws:ecr:{REGION}:123456789012:repository/shop"
STREAM = f"arn:aws:logs:{REGION}:123456789012:log-group:/ecs/shop:log-stream:ecs/app/{ID}"


def test_the_order_is_fargates(world):
    assert world.prepare() == ("/ecs/shop", f"ecs/app/{ID}")
    assert world.asked == [
        "ecr.api",
        "ecr:GetAuthorizationToken *",
        "ecr.dkr",
        f"ecr:BatchGetImage {REPOSITORY}",
        "linux/amd64",
        "logs",
        f"logs:CreateLogStream {STREAM}",
        "stream",
        f"ecr:GetDownloadUrlForLayer {REPOSITORY}",
        "s3",
    ]
    assert world.public_ip == {False}


def test_an_image_of_another_registry_needs_nothing_of_ecr(world):
    world.prepare("public.ecr.aws/docker/library/node:24", role=None)
    assert world.asked == ["linux/amd64", "logs", "stream"]


def test_the_driver_that_makes_the_group_needs_more(world):
    world.denied = {"logs:CreateLogGroup"}
    world.prepare()
    with pytest.raises(ResourceInitializationError, match=r"Cloudwatch log group: .*logs:CreateLogGroup on"):
        world.prepare(**{"awslogs-create-group": "true"})


def test_the_architecture_asked_for_is_the_task_definitions(world):
    world.prepare(architecture="ARM64")
    assert "linux/arm64" in world.asked


@pytest.mark.parametrize("role", [ROLE, f"{ROLE}-task"])
def test_a_role_that_cannot_be_assumed(world, role):
    world.prepare()
    world.preparation.assume(world.definition)
    world.distrusted = {role}
    with pytest.raises(UnableToAssume) as refused:
        world.preparation.assume(world.definition)
    assert refused.value.code == "ClientException"
    assert refused.value.message == (
        f"ECS was unable to assume the role '{role}' that was provided for this task. Please verify that the role being "
        "passed has the proper trust relationship and permissions and that your IAM user has permissions to pass this "
        "role."
    )


USER = rf"User: arn:aws:sts::123456789012:assumed-role/shop-execution/{ID} is not authorized to perform: "
AUTH = "unable to pull secrets or registry auth: "
NO_CONNECTION = r"dial tcp 198\.51\.100\.\d+:443: i/o timeout"


@pytest.mark.parametrize(
    ("lost", "error", "words"),
    [
        (
            "ecr.api",
            ResourceInitializationError,
            re.escape(
                f"{AUTH}The task cannot pull registry auth from Amazon ECR: There is a connection issue between the "
                "task and Amazon ECR. Check your task network configuration. operation error ECR: GetAuthorizationToken, "
                "exceeded maximum number of attempts, 3, https response error StatusCode: 0, RequestID: , request send "
                'failed, Post "https://api.ecr.us-east-1.amazonaws.com/": '
            )
            + NO_CONNECTION,
        ),
        (
            "ecr:GetAuthorizationToken",
            ResourceInitializationError,
            f"{AUTH}execution resource retrieval failed: unable to retrieve ecr registry auth: service call has been "
            r"retried 1 time\(s\): operation error ECR: GetAuthorizationToken, https response error StatusCode: 400, "
            rf"RequestID: {UUID}, api error AccessDeniedException: {USER}ecr:GetAuthorizationToken on resource: \* "
            "because no identity-based policy allows the ecr:GetAuthorizationToken action",
        ),
        (
            "ecr.dkr",
            CannotPullContainerError,
            rf"The task cannot pull {re.escape(IMAGE)} from the Amazon ECR repository .*\. There is a connection issue "
            rf"between the task and Amazon ECR\. Check your task network configuration\. .*: {NO_CONNECTION}",
        ),
        (
            "ecr:BatchGetImage",
            CannotPullContainerError,
            re.escape(
                f"pull image manifest has been retried 1 time(s): failed to resolve ref {IMAGE}: unexpected status from "
                f"HEAD request to https://{SHOP.replace('/shop', '/v2/shop')}/manifests/v1: 403 Forbidden"
            ),
        ),
        (
            "logs",
            ResourceInitializationError,
            re.escape(
                "failed to validate logger args: The task cannot find the Amazon CloudWatch log group defined in the "
                "task definition. There is a connection issue between the task and Amazon CloudWatch. Check your network "
                "configuration. : signal: killed"
            ),
        ),
        (
            "logs:CreateLogStream",
            ResourceInitializationError,
            "failed to validate logger args: create stream has been retried 1 times: failed to create Cloudwatch log "
            "stream: operation error CloudWatch Logs: CreateLogStream, https response error StatusCode: 400, RequestID: "
            f"{UUID}, api error AccessDeniedException: {USER}logs:CreateLogStream on resource: {re.escape(STREAM)} "
            "because no identity-based policy allows the logs:CreateLogStream action : exit status 1",
        ),
        (
            "ecr:GetDownloadUrlForLayer",
            CannotPullContainerError,
            r"ref pull has been retried 1 time\(s\): failed to copy: httpReadSeeker: failed open: unexpected status code "
            "https://.*/v2/shop/blobs/: 403 Forbidden",
        ),
        (
            "s3",
            CannotPullContainerError,
            re.escape(
                f"The task cannot pull {IMAGE} from the registry {IMAGE}. There is a connection issue between the task "
                "and the registry. Check your task network configuration. : failed to copy: httpReadSeeker: failed open: "
                f"failed to do request: Get {IMAGE}: "
            )
            + NO_CONNECTION,
        ),
    ],
)
def test_what_is_missing_is_told_in_awss_words(world, lost, error, words):
    world.no_way, world.denied = {lost}, {lost}
    with pytest.raises(error) as refused:
        world.prepare()
    assert re.fullmatch(words, str(refused.value)), str(refused.value)
    assert refused.value.takes == (0.0 if ":" in lost else GIVES_UP), "only the network takes minutes"
    world.no_way = world.denied = set()
    assert world.prepare()


def test_a_log_group_that_is_not_there(world):
    world.group_missing = True
    with pytest.raises(ResourceInitializationError) as refused:
        world.prepare()
    assert re.fullmatch(
        "failed to validate logger args: create stream has been retried 1 times: failed to create Cloudwatch log stream: "
        "operation error CloudWatch Logs: CreateLogStream, https response error StatusCode: 400, RequestID: "
        f"{UUID}, ResourceNotFoundException: The specified log group does not exist. : exit status 1",
        str(refused.value),
    )


def test_what_the_registry_has_not_cannot_be_pulled(world):
    world.missing = "not found"
    with pytest.raises(CannotPullContainerError, match=r"^not found$"):
        world.prepare()
    assert "stream" not in world.asked, "an image that is not there leaves no log stream"
