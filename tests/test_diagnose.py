"""What the doctor asks of AWS, how it takes refusals, and the command line. The rules' own tests are in tests/diagnosis."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from botocore.exceptions import (
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from click.testing import CliRunner

from helpers import __main__ as command_line
from helpers import session
from helpers.diagnose import Diagnosis, diagnose
from helpers.diagnosis.evidence import gather
from helpers.diagnosis.finding import PROVEN, Finding
from helpers.diagnosis.reader import ASKED, Reader
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
    ("error", "calls"),
    [
        (
            SandboxGone(
                "The sandbox that this notebook was connected to has ended, and what it held is gone."
            ),
            1,
        ),
        (NoCredentialsError(), 1),
        (
            EndpointConnectionError(endpoint_url="http://127.0.0.1:1"),
            2,
        ),  # one service alone may be out of reach
    ],
)
def test_with_nothing_to_be_reached_it_soon_asks_no_more_and_says_why(lab, error, calls):
    lab.answers = Refusing(error)
    diagnosis = diagnose("shop", "shop")
    assert (diagnosis.healthy, diagnosis.status) == (False, 2)
    assert len(lab.calls) == calls
    assert str(error).split(":")[0] in " ".join(str(diagnosis).split())


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="https://elasticloadbalancing.us-east-1.amazonaws.com/"),
        ConnectTimeoutError(endpoint_url="https://elasticloadbalancing.us-east-1.amazonaws.com/"),
        ReadTimeoutError(endpoint_url="https://elasticloadbalancing.us-east-1.amazonaws.com/"),
    ],
)
def test_one_service_out_of_reach_is_asked_once_and_the_others_are_read(lab, error):
    shop.open_shop(lab)
    lab.answers = {key: error if key[0] == "elbv2" else answer for key, answer in lab.answers.items()}
    lab.answers = Partly(lab.answers, refused("AccessDenied", "You may not."))
    diagnosis = diagnose("shop", "shop")
    assert [service for service, *_ in lab.calls].count("elbv2") == 1
    assert diagnosis.unread["target_health"] == diagnosis.unread["target_groups"]
    assert type(error).__name__ in diagnosis.unread["target_health"]
    assert {"service", "task_definition", "alarms"} <= set(diagnosis.checked), "also what is asked later"


def test_an_answer_of_before_is_not_given_for_one_that_is_refused():
    def refuses():
        raise refused("AccessDenied", "You may not.")

    reader = Reader()
    assert reader.read("service", lambda: {"serviceName": "web"}) == {"serviceName": "web"}
    assert reader.read("service", refuses) is None
    assert (reader.answers, reader.unread) == ({}, {"service": "AccessDenied: You may not."})
    assert reader.read("service", lambda: {}) == {}
    assert reader.unread == {}


def test_a_cluster_that_may_not_be_looked_into_has_not_the_services_of_the_last_one(lab):
    shop.open_shop(lab)
    lab["ecs", "ListClusters"] = {"clusterArns": [f"{shop.ARN}:cluster/{name}" for name in ("shop", "b")]}

    def services(asked: dict) -> dict:
        if asked["cluster"] == "b":
            raise refused("AccessDeniedException", "You may not.")
        return {"serviceArns": [f"{shop.ARN}:service/shop/shop"]}

    lab["ecs", "ListServices"] = services
    lab.answers = Partly(lab.answers, refused("AccessDenied"))
    diagnosis = diagnose()
    assert "The service shop in shop" in str(diagnosis)
    assert diagnosis.unread["ecs list_services (b)"] == "AccessDeniedException: You may not."


def test_of_many_clusters_all_are_looked_into_and_of_too_many_it_says_so(lab):
    arns = [f"{shop.ARN}:cluster/c{number:03}" for number in range(120)]
    lab["ecs", "ListClusters"] = lambda asked: {"clusterArns": arns}
    lab["ecs", "ListServices"] = lambda asked: {"serviceArns": []}
    diagnosis = diagnose(service="web")
    assert len([1 for _, operation, _ in lab.calls if operation == "ListServices"]) == 100
    assert "only the first 100 clusters" in " ".join(str(diagnosis).split())
    assert "nothing is deployed" not in str(diagnosis)
    del arns[50:]
    lab["ecs", "ListServices"] = lambda asked: {
        "serviceArns": [f"{shop.ARN}:service/{asked['cluster']}/web"] if asked["cluster"] > "c047" else []
    }
    with pytest.raises(TutorialError, match="web in c048, web in c049"):
        diagnose()


@pytest.mark.parametrize(
    ("cluster", "service"),
    [
        (f"{shop.ARN}:cluster/shop", "shop"),
        ("shop", f"{shop.ARN}:service/shop/shop"),
        ("shop", f"{shop.ARN}:service/shop"),  # the older form
        (None, f"{shop.ARN}:service/shop/shop"),
    ],
)
def test_arns_will_do_for_names(lab, cluster, service):
    shop.open_shop(lab)
    lab.answers = Partly(lab.answers, refused("AccessDenied"))
    assert "The service shop in shop" in str(diagnose(cluster, service))
    asked = next(asked for _, operation, asked in lab.calls if operation == "DescribeServices")
    assert asked == {"cluster": "shop", "services": ["shop"]}


def test_without_a_profile_or_a_region_it_is_told_in_words(aws, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(TutorialError, match="no such AWS profile") as told:
        diagnose()
    assert "nobody" in told.value.seen
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(TutorialError, match="No region is configured"):
        diagnose()
    assert aws.calls == []


def test_with_nothing_deployed_it_says_so(lab):
    lab["ecs", "ListClusters"] = {"clusterArns": []}
    diagnosis = diagnose()
    assert diagnosis.status == 2
    assert "nothing is deployed in us-east-1" in " ".join(str(diagnosis).split())


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


IDENTITY = {"Account": "210987654321", "Arn": "arn:aws:iam::210987654321:user/me", "UserId": "A"}


@pytest.fixture
def own(aws, monkeypatch) -> Answers:
    """The learner's own account, with nothing in it."""
    aws["sts", "GetCallerIdentity"] = IDENTITY
    aws["ecs", "ListClusters"] = {"clusterArns": []}
    monkeypatch.setattr(
        boto3, "client", lambda name, region_name=None: aws.client(name, region_name or here())
    )
    return aws


def here() -> str:
    return boto3.DEFAULT_SESSION.region_name


def test_with_aws_it_says_first_which_account_and_region_it_looks_at(own):
    result = call("--aws", "--region", "eu-west-1")
    assert result.exit_code == 2
    first, *rest = (" ".join(part.split()) for part in result.output.split("\n\n"))
    assert "the account 210987654321 in eu-west-1" in first
    assert "Nothing is changed" in first
    assert "nothing is deployed in eu-west-1" in " ".join(rest)
    assert set(own.regions) == {"eu-west-1"}
    assert all(operation.startswith(READING) for _, operation, _ in own.calls)


def test_an_account_that_may_not_be_read_is_no_reason_to_stop(own):
    own["sts", "GetCallerIdentity"] = refused("AccessDenied", "You may not.")
    said = " ".join(call("--aws").output.split())
    assert "an account that could not be read in us-east-1" in said
    assert "sts get_caller_identity: AccessDenied: You may not." in said
    assert "nothing is deployed in us-east-1" in said


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-2"),
        ({"AWS_PROFILE": "mine"}, "eu-north-1"),
    ],
)
def test_with_aws_the_region_is_the_configured_one(own, monkeypatch, tmp_path, variables, region):
    lines = ("[profile mine]", "region = eu-north-1", "aws_access_key_id = a", "aws_secret_access_key = b")
    (tmp_path / "config").write_text("\n".join(lines))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    own._session = boto3.session.Session()  # the fixture's has read the configuration of before
    assert f"the account 210987654321 in {region}," in " ".join(call("--aws").output.split())
    assert set(own.regions) == {region}


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"AWS_PROFILE": "nobody"}, "no such AWS profile"),
        ({"AWS_DEFAULT_REGION": None}, "No region is configured"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no credentials were found"),
        ({"AWS_SECRET_ACCESS_KEY": None}, "no credentials were found"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:4566"}, "lead to the sandbox"),
        ({"AWS_ENDPOINT_URL_ECS": "http://localhost:4566"}, "lead to the sandbox"),
    ],
)
def test_what_keeps_aws_from_being_asked_is_told_in_words(own, monkeypatch, variables, told):
    for name, value in variables.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    result = call("--aws")
    assert result.exit_code == 2
    assert told in result.output
    assert "Next: " in result.output
    assert own.calls == []


def test_the_calls_to_aws_give_up_soon(own):
    call("--aws")
    config = boto3.DEFAULT_SESSION.client("ecs").meta.config
    assert config.connect_timeout <= 5
    assert config.retries["total_max_attempts"] <= 3


def test_the_doctor_knows_neither_the_sandbox_nor_its_faults():
    """What it says is read from AWS's API alone, so that it holds on AWS."""
    helpers = Path(command_line.__file__).parent
    for path in [helpers / "diagnose.py", *(helpers / "diagnosis").glob("*.py")]:
        used = imports(path)
        assert not {name for name in used if within(name, "helpers.sandbox")}, path.name
        assert not {name for name in used if within(name, "helpers.faults")}, path.name
        assert not {name for name in used if within(name, "moto")}, path.name
        assert "sandbox" not in path.read_text().lower(), path.name
