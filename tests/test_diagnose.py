"""What the doctor asks of AWS, how it takes refusals, and the command line. The rules' own tests are in tests/diagnosis."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from botocore.exceptions import EndpointConnectionError
from click.testing import CliRunner

from helpers import __main__ as command_line
from helpers import session
from helpers.diagnose import Diagnosis, diagnose
from helpers.diagnosis.evidence import gather
from helpers.diagnosis.finding import PROVEN, Finding
from helpers.diagnosis.reader import ASKED
from helpers.errors import SandboxGone, TutorialError
from tests import shop
from tests.answers import Answers, aws
from tests.story import START
from tests.test_failures import refused
from tests.test_imports import imports, within

__all__ = ["aws"]
READING = ("Describe", "List", "Get", "BatchGet")


class Refusing(dict):
    """Every call is answered by the same error."""

    def __init__(self, error: Exception):
        self.error = error

    def __missing__(self, key):
        return self.error


@pytest.fixture
def lab(aws: Answers, monkeypatch) -> Answers:
    """Answers where `connect` leads."""
    monkeypatch.setattr(session, "connected", lambda: SimpleNamespace(now=lambda: START, region="us-east-1"))
    return aws


def test_without_permissions_it_says_so_of_each_call(lab):
    lab.answers = Refusing(refused("AccessDeniedException", "You may not."))
    diagnosis = diagnose("shop", "shop")
    assert (diagnosis.status, diagnosis.causes) == (2, ())
    assert diagnosis.unread["service"] == "AccessDeniedException: You may not."
    assert "ecs describe_services" in str(diagnosis)


def test_what_may_not_be_read_does_not_keep_the_rest_from_being_read(lab):
    shop.open_shop(lab)
    lab.answers = Partly(lab.answers, refused("AccessDenied", "You may not."))
    diagnosis = diagnose("shop", "shop")
    assert diagnosis.unread["stack"] == "AccessDenied: You may not."
    assert {"service", "stopped", "target_health"} <= set(diagnosis.checked)
    assert "2 tasks desired" in str(diagnosis)


class Partly(dict):
    """These answers, and the same error for every other call."""

    def __init__(self, answers: dict, error: Exception):
        super().__init__(answers)
        self.error = error

    def __missing__(self, key):
        return self.error


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="http://127.0.0.1:1"),
        SandboxGone("The sandbox that this notebook was connected to has ended, and what it held is gone."),
    ],
)
def test_with_the_sandbox_down_it_asks_once_and_says_why(lab, error):
    lab.answers = Refusing(error)
    diagnosis = diagnose("shop", "shop")
    assert (diagnosis.healthy, diagnosis.status) == (False, 2)
    assert len(lab.calls) == 1
    assert str(error).split(":")[0] in " ".join(str(diagnosis).split())


def test_with_nothing_deployed_it_says_so(lab):
    lab["ecs", "ListClusters"] = {"clusterArns": []}
    diagnosis = diagnose()
    assert diagnosis.status == 2
    assert "nothing is deployed" in str(diagnosis)


def test_a_service_that_is_not_there_is_named(lab):
    lab.answers = Refusing(refused("ClusterNotFoundException", "Cluster not found."))
    assert diagnose("shop", "shop").unread["service"] == "ClusterNotFoundException: Cluster not found."


def test_the_only_service_need_not_be_named(lab):
    shop.open_shop(lab)
    lab["ecs", "ListClusters"] = {"clusterArns": [f"{shop.ARN}:cluster/shop"]}
    lab["ecs", "ListServices"] = {"serviceArns": [f"{shop.ARN}:service/shop/shop"]}
    lab.answers = Partly(lab.answers, refused("AccessDenied"))
    assert "The service shop in shop" in str(diagnose())


def test_of_several_services_one_has_to_be_named(lab):
    lab["ecs", "ListClusters"] = {"clusterArns": [f"{shop.ARN}:cluster/shop"]}
    arns = [f"{shop.ARN}:service/shop/{name}" for name in ("one", "two")]
    lab["ecs", "ListServices"] = {"serviceArns": arns}
    with pytest.raises(TutorialError, match=r"one in shop, two in shop"):
        diagnose()


def test_a_name_that_is_none_is_told_with_those_that_are(lab):
    lab["ecs", "ListClusters"] = {"clusterArns": [f"{shop.ARN}:cluster/shop"]}
    lab["ecs", "ListServices"] = {"serviceArns": [f"{shop.ARN}:service/shop/shop"]}
    diagnosis = diagnose(service="shoop")
    assert diagnosis.status == 2
    assert "no service shoop, but shop in shop" in " ".join(str(diagnosis).split())


def test_it_only_reads_and_not_for_ever(lab):
    shop.open_shop(lab)
    lab.answers = Partly(lab.answers, refused("AccessDenied"))
    diagnose("shop", "shop")
    assert all(operation.startswith(READING) for _, operation, _ in lab.calls)
    assert len(lab.calls) <= 50


def test_a_hundred_pages_of_events_are_not_all_read(lab):
    stack = {
        "StackName": "shop",
        "StackId": "arn:1",
        "StackStatus": "UPDATE_IN_PROGRESS",
        "CreationTime": START,
    }
    lab["cloudformation", "DescribeStacks"] = {"Stacks": [stack]}
    event = {
        "StackId": "arn:1",
        "EventId": "1",
        "StackName": "shop",
        "Timestamp": START,
        "ResourceStatus": "x",
    }
    numbers = iter(range(1000))
    lab["cloudformation", "DescribeStackEvents"] = lambda asked: {
        "StackEvents": [event] * 100,
        "NextToken": str(next(numbers)),
    }
    lab.answers = Partly(lab.answers, refused("AccessDenied"))
    evidence = gather("shop", "shop", "shop", START, "us-east-1")
    assert len(evidence.many("stack_events")) <= 200


def test_every_answer_has_a_name_that_says_where_it_is_from(lab):
    shop.open_shop(lab)
    lab.answers = Partly(lab.answers, refused("AccessDenied"))
    evidence = gather("shop", "shop", "shop", START, "us-east-1")
    assert (set(evidence.answers) | set(evidence.unread)) - {"now", "names"} <= set(ASKED)


def test_that_an_image_or_a_role_is_not_there_is_an_answer(lab):
    shop.open_shop(lab)
    uri = "123456789012.dkr.ecr.us-east-1.amazonaws.com/shop:v1"
    definition = {
        "executionRoleArn": "arn:aws:iam::123456789012:role/gone",
        "containerDefinitions": [{"name": "app", "image": uri}],
    }
    lab["ecs", "DescribeTaskDefinition"] = {"taskDefinition": definition}
    lab["ecr", "DescribeImages"] = refused("ImageNotFoundException", "no such image")
    lab["iam", "GetRole"] = refused("NoSuchEntity", "no such role")
    lab.answers = Partly(lab.answers, refused("AccessDenied"))
    evidence = gather("shop", "shop", "", START, "us-east-1")
    assert evidence.unread.get("image") is None, evidence.unread
    assert evidence.one("image") == {"missing": "ImageNotFoundException: no such image"}
    assert evidence.one("execution_role") == {"missing": "NoSuchEntity: no such role"}


def test_the_logs_of_failed_tasks_are_read(lab):
    shop.open_shop(lab, states=("unhealthy",))
    lab.answers = Partly(lab.answers, refused("AccessDenied"))
    evidence = gather("shop", "shop", "", START, "us-east-1")
    assert evidence.many("logs")[0]["lines"] == list(shop.LAST_LINES)


# The command line


def call(*arguments: str):
    return CliRunner().invoke(command_line.cli, ["doctor", *arguments], catch_exceptions=False)


@pytest.fixture
def up(monkeypatch, tmp_path):
    """A sandbox that is up, as far as the command line sees."""
    now = datetime(2026, 1, 2, tzinfo=UTC)
    running = SimpleNamespace(endpoint="http://127.0.0.1:1", state=str(tmp_path), now=lambda: now)
    monkeypatch.setattr(session, "attach", lambda: running)
    monkeypatch.setattr(session, "isolate", lambda *_: None)
    return now


@pytest.mark.parametrize(
    ("diagnosis", "status"),
    [
        (Diagnosis("all well", checked=("service",)), 0),
        (Diagnosis("not well", (Finding("it is so.", PROVEN, rule="app-exits"),), ("service",)), 1),
        (Diagnosis("who knows", unread={"service": "AccessDenied"}), 2),
    ],
)
def test_the_exit_status_says_how_it_stands(up, monkeypatch, diagnosis, status):
    asked = []
    monkeypatch.setattr(
        "helpers.diagnose.diagnose", lambda *args, **more: asked.append((args, more)) or diagnosis
    )
    result = call("--cluster", "shop", "--service", "web")
    assert result.exit_code == status
    assert diagnosis.about in result.output
    assert asked == [(("shop", "web", None), {"now": up, "region": "us-east-1"})]


def test_several_services_are_too_many_to_say_anything(up, monkeypatch):
    def several(*_, **__):
        raise TutorialError("There are several services.", seen="one in shop, two in shop")

    monkeypatch.setattr("helpers.diagnose.diagnose", several)
    result = call()
    assert (result.exit_code, "one in shop" in result.output) == (2, True)


def test_without_a_sandbox_it_says_what_could_not_be_read(monkeypatch):
    monkeypatch.setattr(session, "attach", lambda: None)
    result = call()
    assert result.exit_code == 2
    assert "no sandbox is up" in result.output


def test_a_region_that_is_none_is_refused(monkeypatch):
    assert 'Say region="us-east-' in call("--region", "us-east-9").output


def test_the_doctor_knows_neither_the_sandbox_nor_its_faults():
    """What it says is read from AWS's API alone, so that it holds on AWS."""
    helpers = Path(command_line.__file__).parent
    for path in [helpers / "diagnose.py", *(helpers / "diagnosis").glob("*.py")]:
        used = imports(path)
        assert not {name for name in used if within(name, "helpers.sandbox")}, path.name
        assert not {name for name in used if within(name, "helpers.faults")}, path.name
        assert not {name for name in used if within(name, "moto")}, path.name
        assert "sandbox" not in path.read_text().lower(), path.name
