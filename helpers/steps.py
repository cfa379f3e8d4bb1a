"""The journey as data: each step's notebook, and what in AWS's own records shows that it is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

from helpers.calls import polls
from helpers.errors import StackFailed, TutorialError

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
TAG = "tutorial"  # its value is the lab's name
PATIENCE = (
    40.0  # AWS minutes for a change that is going on; a failing deployment and its rollback take the longest
)
MOST_REPOSITORIES = 20  # asked for their tags, one call each
BEYOND_REPAIR = {
    "CREATE_FAILED",
    "ROLLBACK_COMPLETE",
    "ROLLBACK_FAILED",
    "DELETE_FAILED",
    "UPDATE_FAILED",
    "UPDATE_ROLLBACK_FAILED",
}


REPOSITORY = "an ECR repository"
IMAGE = "an image in the ECR repository"
TASK_DEFINITION = "AWS::ECS::TaskDefinition"


@dataclass(frozen=True)
class Step:
    """One notebook. `adds`: what is there once it is done: REPOSITORY, IMAGE, or the CloudFormation type of a resource
    in the stack; None for a notebook that leaves nothing in AWS for a later one."""

    number: str
    notebook: str
    title: str
    adds: str | None = None


JOURNEY = (
    Step("00", "00-start-here.ipynb", "Start here"),
    Step("01", "01-install-docker.ipynb", "Install Docker"),
    Step("02", "02-write-the-dockerfile.ipynb", "Write the Dockerfile"),
    Step("03", "03-build-and-test-the-image.ipynb", "Build and test the image"),
    Step("04", "04-create-the-ecr-repository.ipynb", "Create the ECR repository", REPOSITORY),
    Step("05", "05-push-the-image.ipynb", "Push the image", IMAGE),
    Step("06", "06-create-the-task-definition.ipynb", "Create the task definition", TASK_DEFINITION),
    Step(
        "07",
        "07-create-the-cluster-and-service.ipynb",
        "Create the cluster and the service",
        "AWS::ECS::Service",
    ),
    Step(
        "08",
        "08-set-up-auto-scaling.ipynb",
        "Set up auto scaling",
        "AWS::ApplicationAutoScaling::ScalingPolicy",
    ),
    Step("09", "09-test-the-app.ipynb", "Test the app"),
    Step("10", "10-load-test.ipynb", "Load test"),
)


def done(step: Step, name: str, region: str) -> bool:
    """Whether AWS holds what this step adds for the lab `name`, complete. TutorialError when the stack cannot be built
    upon."""
    if step.adds is None:
        return True
    if step.adds == REPOSITORY:
        return _repository(name, region) is not None
    if step.adds == IMAGE:
        return _has_a_tagged_image(name, region)
    stack = _stack(name, region)
    if stack is None or not _holds(stack["StackName"], step.adds, region):
        return False
    # A task definition whose image is gone starts no task: 06 points it to one that is there.
    return step.adds != TASK_DEFINITION or not _image_is_gone(stack, name, region)


def other_labs(name: str, region: str) -> list[str]:
    """The names of labs in this region that are not this one, by the tag of their stacks and repositories."""
    stacks = boto3.client("cloudformation", region_name=region).describe_stacks()["Stacks"]
    tags = [tag for stack in stacks for tag in stack.get("Tags", [])]
    ecr = boto3.client("ecr", region_name=region)
    repositories = ecr.describe_repositories()["repositories"]
    for repository in repositories[:MOST_REPOSITORIES]:
        tags += ecr.list_tags_for_resource(resourceArn=repository["repositoryArn"])["tags"]
    return sorted({tag["Value"] for tag in tags if tag["Key"] == TAG} - {name})


def catch_up(
    through: str,
    parameters: dict[str, Any],
    *,
    notebooks: Path = NOTEBOOKS,
    is_done: Callable[[Step, str, str], bool] = done,
    execute: Callable[..., Any] | None = None,
) -> list[str]:
    """Execute the notebooks up to and including number `through` whose results are absent; the numbers of those.

    Each from its file, in a fresh kernel, with those of `parameters` (`name` and `region` among them) that it has, and
    without its exercises.
    """
    if through not in {step.number for step in JOURNEY}:
        raise TutorialError(
            f"There is no step {through!r}.",
            next=f"Name one of: {', '.join(step.number for step in JOURNEY)}.",
        )
    executed = []
    for step in JOURNEY:
        file = notebooks / step.notebook
        if (
            step.number > through
            or not file.exists()
            or is_done(step, parameters["name"], parameters["region"])
        ):
            continue
        print(f"catching up: {step.number} {step.title} … ", end="", flush=True)
        began = time.monotonic()
        _execute_for_its_results(file, parameters, execute)
        print(f"{time.monotonic() - began:.0f} s")
        executed.append(step.number)
    return executed


def _execute_for_its_results(
    file: Path, parameters: dict[str, Any], execute: Callable[..., Any] | None
) -> None:
    from helpers import run  # papermill takes a second to load, and mostly there is nothing to catch up with

    notebook = run.read(file)
    notebook.cells = [cell for cell in notebook.cells if "exercise" not in cell.metadata.get("tags", [])]
    known = {name: value for name, value in parameters.items() if name in run.parameters_of(notebook)}
    try:
        (execute or run.execute)(notebook, None, known, cwd=file.parent)
    except TutorialError as problem:
        print("failed")
        raise TutorialError(
            f"Catching up failed in {file.name}.",
            seen=str(problem),
            next=f"Open notebooks/{file.name} and run it there.",
        ) from None


def _repository(name: str, region: str) -> dict[str, Any] | None:
    ecr = boto3.client("ecr", region_name=region)
    try:
        return ecr.describe_repositories(repositoryNames=[name])["repositories"][0]
    except ecr.exceptions.RepositoryNotFoundException:
        return None


def _has_a_tagged_image(name: str, region: str) -> bool:
    ecr = boto3.client("ecr", region_name=region)
    try:
        return bool(ecr.list_images(repositoryName=name, filter={"tagStatus": "TAGGED"}).get("imageIds"))
    except ecr.exceptions.RepositoryNotFoundException:
        return False


def _stack(name: str, region: str) -> dict[str, Any] | None:
    """The stack `name` at rest; None when there is none. TutorialError when it cannot be built upon."""
    cloudformation = boto3.client("cloudformation", region_name=region)
    try:
        stack = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationError" and "does not exist" in str(error):
            return None
        raise
    if _moves(stack):  # an interrupted cell may have left it so
        stack = _at_rest(cloudformation, stack)
    status = stack["StackStatus"]
    if status in ("REVIEW_IN_PROGRESS", "DELETE_COMPLETE"):
        return None
    if _moves(stack):
        raise TutorialError(
            f"The stack {name} is being changed.",
            seen=f"{status}, after {PATIENCE:g} AWS minutes of waiting",
            next="Wait until it is done, then run this again.",
        )
    if status in BEYOND_REPAIR:
        raise StackFailed(
            f"The stack {name} has failed, and nothing can be built on it.",
            seen=status,
            next=f"Read its events: `aws cloudformation describe-stack-events --stack-name {name}`. Then delete it "
            f"(`aws cloudformation delete-stack --stack-name {name}`) and run this again.",
        )
    return stack


def _moves(stack: dict[str, Any]) -> bool:
    return stack["StackStatus"].endswith("_IN_PROGRESS") and stack["StackStatus"] != "REVIEW_IN_PROGRESS"


def _at_rest(cloudformation: Any, stack: dict[str, Any]) -> dict[str, Any]:
    """The stack once nothing moves any more, or as it is when PATIENCE is over."""
    for _ in polls(PATIENCE):
        stack = cloudformation.describe_stacks(StackName=stack["StackId"])["Stacks"][0]
        if not _moves(stack):
            break
    return stack


def _holds(stack_name: str, kind: str, region: str) -> bool:
    cloudformation = boto3.client("cloudformation", region_name=region)
    resources = cloudformation.describe_stack_resources(StackName=stack_name)["StackResources"]
    return any(
        resource["ResourceType"] == kind
        and resource["ResourceStatus"].endswith("_COMPLETE")
        and resource["ResourceStatus"] != "DELETE_COMPLETE"
        for resource in resources
    )


def _image_is_gone(stack: dict[str, Any], name: str, region: str) -> bool:
    """Whether the stack's image is one of this lab's repository by digest, and no longer there."""
    parameters = {
        each["ParameterKey"]: each.get("ParameterValue", "") for each in stack.get("Parameters", [])
    }
    repository, _, digest = parameters.get("Image", "").partition("@")
    if not digest or not repository.endswith(f"/{name}"):
        return False
    ecr = boto3.client("ecr", region_name=region)
    try:
        ecr.describe_images(repositoryName=name, imageIds=[{"imageDigest": digest}])
    except (ecr.exceptions.ImageNotFoundException, ecr.exceptions.RepositoryNotFoundException):
        return True
    return False
