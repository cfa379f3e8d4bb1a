"""The journey as data: each step's notebook, and what in AWS's own records shows that it is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

from helpers.errors import StackFailed, TutorialError

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
TAG = "tutorial"  # its value is the lab's name
BEYOND_REPAIR = {
    "CREATE_FAILED",
    "ROLLBACK_COMPLETE",
    "ROLLBACK_FAILED",
    "DELETE_FAILED",
    "UPDATE_FAILED",
    "UPDATE_ROLLBACK_FAILED",
}


@dataclass(frozen=True)
class Step:
    """One notebook. `adds`: the CloudFormation type of the resource by whose presence in the stack it is known as done;
    None for a notebook that leaves nothing in AWS for a later one."""

    number: str
    notebook: str
    title: str
    adds: str | None = None


JOURNEY = (
    Step("00", "00-start-here.ipynb", "Start here"),
    Step(
        "06", "06-create-the-task-definition.ipynb", "Create the task definition", "AWS::ECS::TaskDefinition"
    ),
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
    Step("10", "10-load-test.ipynb", "Load test"),
)


def done(step: Step, name: str, region: str) -> bool:
    """Whether the stack `name` holds what this step adds, complete. TutorialError when the stack cannot be built upon."""
    if step.adds is None:
        return True
    cloudformation = boto3.client("cloudformation", region_name=region)
    status = _status(cloudformation, name)
    if status is None or status in ("REVIEW_IN_PROGRESS", "DELETE_COMPLETE"):
        return False
    if status.endswith("_IN_PROGRESS"):
        raise TutorialError(
            f"The stack {name} is being changed.",
            seen=status,
            next="Wait until it is done, then run this again.",
        )
    if status in BEYOND_REPAIR:
        raise StackFailed(
            f"The stack {name} has failed, and nothing can be built on it.",
            seen=status,
            next=f"Read its events: `aws cloudformation describe-stack-events --stack-name {name}`. Then delete it "
            f"(`aws cloudformation delete-stack --stack-name {name}`) and run this again.",
        )
    resources = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
    return any(
        resource["ResourceType"] == step.adds
        and resource["ResourceStatus"].endswith("_COMPLETE")
        and resource["ResourceStatus"] != "DELETE_COMPLETE"
        for resource in resources
    )


def other_labs(name: str, region: str) -> list[str]:
    """The names of labs in this region that are not this one, by their stacks' tag."""
    stacks = boto3.client("cloudformation", region_name=region).describe_stacks()["Stacks"]
    names = {tag["Value"] for stack in stacks for tag in stack.get("Tags", []) if tag["Key"] == TAG}
    return sorted(names - {name})


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


def _status(cloudformation: Any, name: str) -> str | None:
    try:
        return cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationError" and "does not exist" in str(error):
            return None
        raise
