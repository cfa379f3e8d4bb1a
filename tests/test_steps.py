"""helpers/steps.py: what counts as done by AWS's records (botocore's stubs answer), and what is caught up with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import boto3
import nbformat
import pytest
from botocore.stub import Stubber
from nbformat.v4 import new_code_cell, new_notebook

from helpers import steps
from helpers.errors import StackFailed, TutorialError

SERVICE = next(step for step in steps.JOURNEY if step.number == "07")


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


def test_a_stack_in_motion_is_waited_for_by_the_learner(stack):
    stack("UPDATE_IN_PROGRESS")
    with pytest.raises(TutorialError, match="Wait until it is done"):
        steps.done(SERVICE, "shop", "eu-west-1")


def test_a_call_that_is_refused_does_not_read_as_absent(monkeypatch):
    client = boto3.client("cloudformation", region_name="eu-west-1")
    monkeypatch.setattr(steps.boto3, "client", lambda service, region_name: client)
    with Stubber(client) as stub:
        stub.add_client_error("describe_stacks", "AccessDenied", "User is not authorized")
        with pytest.raises(client.exceptions.ClientError, match="not authorized"):
            steps.done(SERVICE, "shop", "eu-west-1")


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
            "06", PARAMETERS, notebooks=notebooks, is_done=lambda *_: _[0].adds is None, execute=fails
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
    with pytest.raises(TutorialError, match="no step '05'"):
        steps.catch_up("05", PARAMETERS)


def test_the_journey_is_that_of_the_notebooks(checkout):
    there = {path.name for path in (checkout / "notebooks").glob("[0-9][0-9]-*.ipynb")}
    assert there == {step.notebook for step in steps.JOURNEY}
    assert all(step.notebook.startswith(step.number) for step in steps.JOURNEY)
