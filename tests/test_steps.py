"""helpers/steps.py: what counts as done by AWS's records (botocore's stubs answer), and what is caught up with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import boto3
import nbformat
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from nbformat.v4 import new_code_cell, new_notebook

from helpers import session, steps
from helpers.errors import StackFailed, TutorialError
from tests.lab import StubLab

BY_NUMBER = {step.number: step for step in steps.JOURNEY}
SERVICE = BY_NUMBER["07"]
REPOSITORY = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/shop"
DIGEST = f"sha256:{'a' * 64}"


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """A stack of one status that holds one resource."""

    def answer(
        status: str | None, kind: str = "AWS::ECS::Service", resource: str = "CREATE_COMPLETE"
    ) -> None:
        client = boto3.client("cloudformation", region_name="eu-west-1")
        stub = Stubber(client)
        if status is None:
            stub.add_client_error("describe_stacks", "ValidationError", "Stack with id shop does not exist")
        else:
            found = {"StackName": "shop", "StackStatus": status, "CreationTime": 0}
            stub.add_response("describe_stacks", {"Stacks": [found]}, {"StackName": "shop"})
            held = {
                "LogicalResourceId": "X",
                "ResourceType": kind,
                "Timestamp": 0,
                "ResourceStatus": resource,
            }
            stub.add_response("describe_stack_resources", {"StackResources": [held]}, {"StackName": "shop"})
        stub.activate()
        monkeypatch.setattr(steps.boto3, "client", lambda service, region_name: client)

    return answer


@pytest.mark.parametrize(
    ("answer", "is_done"),
    [
        ((None,), False),
        (("REVIEW_IN_PROGRESS",), False),
        (("DELETE_COMPLETE",), False),
        (("CREATE_COMPLETE",), True),
        (("UPDATE_COMPLETE", "AWS::ECS::Service", "UPDATE_COMPLETE"), True),
        (("UPDATE_ROLLBACK_COMPLETE",), True),
        (("UPDATE_ROLLBACK_COMPLETE", "AWS::ECS::Service", "DELETE_COMPLETE"), False),
        (("CREATE_COMPLETE", "AWS::ECS::Service", "CREATE_FAILED"), False),
        (("CREATE_COMPLETE", "AWS::ECS::TaskDefinition"), False),
    ],
)
def test_a_step_is_done_when_the_stack_holds_what_it_adds(stack, answer, is_done):
    stack(*answer)
    assert steps.done(SERVICE, "shop", "eu-west-1") is is_done


@pytest.mark.parametrize(
    "status", ["ROLLBACK_COMPLETE", "CREATE_FAILED", "UPDATE_ROLLBACK_FAILED", "DELETE_FAILED"]
)
def test_a_failed_stack_is_told_and_not_built_upon(stack, status):
    stack(status)
    with pytest.raises(StackFailed, match=status):
        steps.done(SERVICE, "shop", "eu-west-1")


@pytest.fixture
def moving(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """A stack that goes through these statuses, one at each look."""

    def answer(*statuses: str) -> None:
        client = boto3.client("cloudformation", region_name="eu-west-1")
        stub = Stubber(client)
        for status in statuses:
            found = {"StackName": "shop", "StackId": "shop", "StackStatus": status, "CreationTime": 0}
            stub.add_response("describe_stacks", {"Stacks": [found]}, {"StackName": "shop"})
        stub.add_response("describe_stack_resources", {"StackResources": []}, {"StackName": "shop"})
        stub.activate()
        monkeypatch.setattr(steps.boto3, "client", lambda service, region_name: client)
        monkeypatch.setattr(session, "current", lambda: StubLab(speed=600))

    return answer


@pytest.mark.parametrize(
    "statuses",
    [
        ("UPDATE_IN_PROGRESS", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "UPDATE_COMPLETE"),
        ("DELETE_IN_PROGRESS", "DELETE_COMPLETE"),
    ],
)
def test_a_stack_that_an_interrupted_cell_left_in_motion_is_waited_for(moving, statuses):
    moving(*statuses)
    assert steps.done(SERVICE, "shop", "eu-west-1") is False


def test_a_stack_that_never_comes_to_rest_is_told(moving, monkeypatch):
    monkeypatch.setattr(steps, "PATIENCE", 0)
    moving(*["UPDATE_IN_PROGRESS"] * 3)
    with pytest.raises(TutorialError, match="Wait until it is done"):
        steps.done(SERVICE, "shop", "eu-west-1")


def test_a_call_that_is_refused_does_not_read_as_absent(monkeypatch):
    client = boto3.client("cloudformation", region_name="eu-west-1")
    monkeypatch.setattr(steps.boto3, "client", lambda service, region_name: client)
    with Stubber(client) as stub:
        stub.add_client_error("describe_stacks", "AccessDenied", "User is not authorized")
        with pytest.raises(client.exceptions.ClientError, match="not authorized"):
            steps.done(SERVICE, "shop", "eu-west-1")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Canned answers: (service, operation, answer or error code), in the order of the calls to each service."""
    stubs: dict[str, Stubber] = {}

    def answers(*canned: tuple[str, str, dict | str]) -> None:
        for service, operation, answer in canned:
            if service not in stubs:
                stubs[service] = Stubber(boto3.client(service, region_name="eu-west-1"))
                stubs[service].activate()
            if isinstance(answer, str):
                stubs[service].add_client_error(operation, answer, f"{answer}: not authorized or not there")
            else:
                stubs[service].add_response(operation, answer)
        clients = {service: stub.client for service, stub in stubs.items()}
        monkeypatch.setattr(steps.boto3, "client", lambda service, region_name: clients[service])

    yield answers
    for stub in stubs.values():
        stub.assert_no_pending_responses()


@pytest.mark.parametrize("number", ["00", "01", "02", "03", "09", "10"])
def test_what_leaves_nothing_in_aws_needs_no_catching_up(number, aws):
    assert steps.done(BY_NUMBER[number], "shop", "eu-west-1")


def test_04_is_done_when_the_repository_is_there(aws):
    aws(("ecr", "describe_repositories", {"repositories": [{"repositoryName": "shop"}]}))
    assert steps.done(BY_NUMBER["04"], "shop", "eu-west-1")
    aws(("ecr", "describe_repositories", "RepositoryNotFoundException"))
    assert not steps.done(BY_NUMBER["04"], "shop", "eu-west-1")


@pytest.mark.parametrize(
    ("answer", "is_done"),
    [
        ({"imageIds": [{"imageTag": "v1", "imageDigest": DIGEST}]}, True),
        ({}, False),
        ("RepositoryNotFoundException", False),
    ],
)
def test_05_is_done_when_the_repository_holds_a_tagged_image(aws, answer, is_done):
    aws(("ecr", "list_images", answer))
    assert steps.done(BY_NUMBER["05"], "shop", "eu-west-1") is is_done


@pytest.mark.parametrize(("number", "operation"), [("04", "describe_repositories"), ("05", "list_images")])
def test_a_registry_that_refuses_does_not_read_as_absent(aws, number, operation):
    aws(("ecr", operation, "AccessDeniedException"))
    with pytest.raises(ClientError, match="not authorized"):
        steps.done(BY_NUMBER[number], "shop", "eu-west-1")


def a_stack_with(kind: str, image: str) -> list[tuple[str, str, dict]]:
    stack = {
        "StackName": "shop",
        "StackStatus": "CREATE_COMPLETE",
        "CreationTime": 0,
        "Parameters": [{"ParameterKey": "Image", "ParameterValue": image}],
    }
    held = {
        "LogicalResourceId": "X",
        "ResourceType": kind,
        "Timestamp": 0,
        "ResourceStatus": "CREATE_COMPLETE",
    }
    return [
        ("cloudformation", "describe_stacks", {"Stacks": [stack]}),
        ("cloudformation", "describe_stack_resources", {"StackResources": [held]}),
    ]


@pytest.mark.parametrize(
    ("answer", "is_done"),
    [
        ({"imageDetails": [{"imageDigest": DIGEST}]}, True),
        ("ImageNotFoundException", False),
        ("RepositoryNotFoundException", False),
    ],
)
def test_06_is_done_only_while_its_image_is_there(aws, answer, is_done):
    aws(
        *a_stack_with("AWS::ECS::TaskDefinition", f"{REPOSITORY}@{DIGEST}"),
        ("ecr", "describe_images", answer),
    )
    assert steps.done(BY_NUMBER["06"], "shop", "eu-west-1") is is_done


@pytest.mark.parametrize(
    "image", ["", f"{REPOSITORY}:v1", f"123456789012.dkr.ecr.eu-west-1.amazonaws.com/other@{DIGEST}"]
)
def test_an_image_that_is_not_the_labs_own_is_not_looked_for(aws, image):
    aws(*a_stack_with("AWS::ECS::TaskDefinition", image))
    assert steps.done(BY_NUMBER["06"], "shop", "eu-west-1")


def test_a_service_is_done_whatever_became_of_the_image(aws):
    aws(*a_stack_with("AWS::ECS::Service", f"{REPOSITORY}@{DIGEST}"))
    assert steps.done(SERVICE, "shop", "eu-west-1")


def test_other_labs_are_found_by_the_tag_of_a_stack_or_a_repository(aws):
    def stack(name: str) -> dict:
        tags = [{"Key": "tutorial", "Value": name}, {"Key": "owner", "Value": "me"}]
        return {"StackName": name, "StackStatus": "CREATE_COMPLETE", "CreationTime": 0, "Tags": tags}

    def repository(name: str) -> dict:
        return {"repositoryArn": f"arn:aws:ecr:eu-west-1:123456789012:repository/{name}"}

    aws(
        ("cloudformation", "describe_stacks", {"Stacks": [stack("shop"), stack("blog")]}),
        ("ecr", "describe_repositories", {"repositories": [repository("wiki"), repository("not-a-lab")]}),
        ("ecr", "list_tags_for_resource", {"tags": [{"Key": "tutorial", "Value": "wiki"}]}),
        ("ecr", "list_tags_for_resource", {"tags": []}),
    )
    assert steps.other_labs("shop", "eu-west-1") == ["blog", "wiki"]


def test_an_account_full_of_repositories_is_not_asked_for_each_ones_tags(aws):
    there = [
        {"repositoryArn": f"arn:aws:ecr:eu-west-1:123456789012:repository/r{number}"} for number in range(500)
    ]
    aws(
        ("cloudformation", "describe_stacks", {"Stacks": []}),
        ("ecr", "describe_repositories", {"repositories": there}),
        *[("ecr", "list_tags_for_resource", {"tags": []})] * steps.MOST_REPOSITORIES,
    )
    assert steps.other_labs("shop", "eu-west-1") == []


class Executed:
    """Stands in for run.execute; keeps what it was given."""

    def __init__(self) -> None:
        self.given: list[tuple[list[str], dict]] = []

    def __call__(self, notebook, output, parameters, cwd) -> None:
        assert output is None
        self.given.append(([cell.source for cell in notebook.cells], parameters))


@pytest.fixture
def notebooks(tmp_path: Path) -> Path:
    for step in steps.JOURNEY:
        cells = [
            new_code_cell("name = 'x'\nregion = 'y'", metadata={"tags": ["parameters"]}),
            new_code_cell(step.number),
            new_code_cell("try it", metadata={"tags": ["exercise"]}),
        ]
        nbformat.write(new_notebook(cells=cells), tmp_path / step.notebook)
    return tmp_path


PARAMETERS = {"name": "shop", "region": "eu-west-1", "my_guess": 3}


def test_what_is_absent_is_executed_in_order_without_exercises(notebooks, capsys):
    executed = Executed()
    absent = {"07", "08"}
    numbers = steps.catch_up(
        "08",
        PARAMETERS,
        notebooks=notebooks,
        is_done=lambda step, name, region: step.number not in absent,
        execute=executed,
    )
    assert numbers == ["07", "08"]
    assert [cells[1:] for cells, _ in executed.given] == [["07"], ["08"]]
    assert executed.given[0][1] == {"name": "shop", "region": "eu-west-1"}
    said = capsys.readouterr().out.splitlines()
    assert [line[:28] for line in said] == ["catching up: 07 Create the c", "catching up: 08 Set up auto "]


def test_nothing_later_is_executed_and_nothing_is_said_when_all_is_there(notebooks, capsys):
    executed = Executed()

    def only_later_is_missing(step, name, region):
        assert (name, region) == ("shop", "eu-west-1")
        return step.number <= "06"

    assert (
        steps.catch_up("06", PARAMETERS, notebooks=notebooks, is_done=only_later_is_missing, execute=executed)
        == []
    )
    assert executed.given == []
    assert capsys.readouterr().out == ""


def test_a_failure_on_the_way_names_the_notebook(notebooks):
    def fails(*_, **__):
        raise TutorialError("no subnet")

    with pytest.raises(TutorialError, match="06-create-the-task-definition") as raised:
        steps.catch_up(
            "06", PARAMETERS, notebooks=notebooks, is_done=lambda *_: _[0].number != "06", execute=fails
        )
    assert "no subnet" in str(raised.value)


def test_it_works_inside_a_kernel(tmp_path):
    """A notebook that catches up executes another one while its own event loop runs."""
    from helpers import run

    marker = tmp_path / "was-here"
    inner = new_notebook(cells=[new_code_cell(f"open({str(marker)!r}, 'w').write('yes')")])
    nbformat.write(inner, tmp_path / "06-create-the-task-definition.ipynb")
    code = (
        "from pathlib import Path\nfrom helpers import steps\n"
        f"steps.catch_up('06', {PARAMETERS!r}, notebooks=Path({str(tmp_path)!r}), is_done=lambda step, *_: not step.adds)"
    )
    run.execute(new_notebook(cells=[new_code_cell(code)]), None, {}, tmp_path)
    assert marker.read_text() == "yes"


def test_a_step_that_does_not_exist_is_told():
    with pytest.raises(TutorialError, match="no step '11'"):
        steps.catch_up("11", PARAMETERS)


def test_the_task_definition_is_caught_up_with_after_repository_and_image(notebooks):
    executed = Executed()
    numbers = steps.catch_up(
        "06", PARAMETERS, notebooks=notebooks, is_done=lambda step, *_: not step.adds, execute=executed
    )
    assert numbers == ["04", "05", "06"]
    assert [cells[1] for cells, _ in executed.given] == numbers


def test_a_notebook_that_is_not_there_is_left_out(notebooks):
    (notebooks / BY_NUMBER["05"].notebook).unlink()
    numbers = steps.catch_up(
        "06", PARAMETERS, notebooks=notebooks, is_done=lambda step, *_: not step.adds, execute=Executed()
    )
    assert numbers == ["04", "06"]


def test_the_journey_is_that_of_the_notebooks(checkout):
    there = {path.name for path in (checkout / "notebooks").glob("[0-9][0-9]-*.ipynb")}
    assert there == {step.notebook for step in steps.JOURNEY}
    assert all(step.notebook.startswith(step.number) for step in steps.JOURNEY)
