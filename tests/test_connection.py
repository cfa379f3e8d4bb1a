"""`connect`: where calls go, in an environment, too, that wants to lead them elsewhere; what tasks run as; connecting again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from helpers import connection, sandbox, session, this_machine
from helpers.errors import SetupError, TutorialError

ASK = """
import json, os, subprocess, sys
import boto3
before = boto3.client("sts") if {early} else None
from helpers import connect
lab = connect(region="eu-west-1")
told = {{}}
for service in ("sts", "ecs", "cloudformation", "s3", "elbv2", "cloudwatch"):
    client = boto3.client(service)
    told[service] = client.meta.endpoint_url
credentials = boto3.Session().get_credentials()
told["key"], told["token"] = credentials.access_key, credentials.token
told["profiles"] = boto3.Session().available_profiles
told["account"] = boto3.client("sts").get_caller_identity()["Account"]
told["region"] = boto3.client("ecs").meta.region_name
aws = os.path.join(os.path.dirname(sys.executable), "aws")
cli = subprocess.run([aws, "sts", "get-caller-identity"], capture_output=True, text=True, timeout=60)
told["cli"] = json.loads(cli.stdout)["Account"] if cli.returncode == 0 else cli.stderr
told["endpoint"] = lab.running.endpoint
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    state = tmp_path_factory.mktemp("a sandbox")
    yield state
    sandbox.stop(state)


@pytest.fixture
def hostile(tmp_path: Path, state: Path) -> dict[str, str]:
    """A developer's machine, with everything that could send a call to a real account."""
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws" / "credentials").write_text(
        "[default]\naws_access_key_id = AKIAREALREALREALREAL\naws_secret_access_key = real\n"
        "[production]\naws_access_key_id = AKIAPRODPRODPRODPROD\naws_secret_access_key = real\n"
    )
    (home / ".aws" / "config").write_text(
        "[default]\nregion = us-west-2\nendpoint_url = http://127.0.0.1:9\nservices = elsewhere\n"
        "[profile production]\nregion = us-west-2\n"
        "[services elsewhere]\nsts =\n  endpoint_url = http://127.0.0.1:9\necs =\n  endpoint_url = http://127.0.0.1:9\n"
    )
    here = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return here | {
        "HOME": str(home),
        "SANDBOX_STATE": str(state),
        "PYTHONPATH": str(session.CHECKOUT),
        "AWS_PROFILE": "production",
        "AWS_DEFAULT_PROFILE": "production",
        "AWS_ACCESS_KEY_ID": "AKIAREALREALREALREAL",
        "AWS_SECRET_ACCESS_KEY": "real",
        "AWS_SESSION_TOKEN": "real",
        "AWS_REGION": "us-west-2",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:9",
        "AWS_ENDPOINT_URL_ECS": "http://127.0.0.1:9",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
        "AWS_ROLE_ARN": "arn:aws:iam::999999999999:role/real",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9",
        "AWS_USE_FIPS_ENDPOINT": "true",
        "AWS_USE_DUALSTACK_ENDPOINT": "true",
        "AWS_CA_BUNDLE": "/nowhere",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }


@pytest.mark.parametrize("early", [False, True], ids=["boto3 fresh", "boto3 used before"])
def test_no_real_credential_and_no_real_endpoint_can_be_used(hostile, early):
    if early:  # a default session made before knows the profile; it must be forgotten
        hostile["AWS_PROFILE"] = "default"
    code = ASK.format(early=early)
    done = subprocess.run(
        [sys.executable, "-c", code], env=hostile, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    endpoint = told["endpoint"]
    assert {told[name] for name in ("sts", "ecs", "cloudformation", "s3", "elbv2", "cloudwatch")} == {
        endpoint
    }
    assert endpoint.startswith("http://127.0.0.1:")
    assert (told["key"], told["token"], told["profiles"]) == ("sandbox", None, [])
    assert told["account"] == told["cli"] == "123456789012"
    assert told["region"] == "eu-west-1"


def test_aws_is_not_there_yet_and_says_so():
    with pytest.raises(TutorialError, match="not there yet"):
        connection.connect("aws", spend=True)


def test_an_unknown_target_is_refused():
    with pytest.raises(TutorialError, match="no such target"):
        connection.connect("azure")


def test_tasks_run_as_nothing_but_processes_and_containers():
    with pytest.raises(TutorialError, match=r"(?s)cannot run as that.*'virtual machine'.*'container'"):
        connection.connect(runtime="virtual machine")


@pytest.fixture
def no_engine(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    monkeypatch.delenv("SANDBOX_RUNTIME", raising=False)


@pytest.fixture
def started(monkeypatch, tmp_path) -> dict:
    """What a sandbox was to be started with; none is."""
    asked: dict = {}

    def start(state, **options):
        asked.update(options)
        raise sandbox.SandboxError("not in this test")

    monkeypatch.setattr(sandbox, "start", start)
    monkeypatch.setenv("SANDBOX_STATE", str(tmp_path / "state"))
    return asked


def test_containers_asked_for_by_name_want_an_engine(no_engine, started):
    with pytest.raises(SetupError, match=r"(?s)no Docker Engine to work with.*no\.sock.*notebook 01"):
        connection.connect(runtime="container")
    assert not started


def test_without_an_engine_tasks_are_processes_and_the_reason_is_kept(no_engine, started):
    with pytest.raises(TutorialError, match="not in this test"):
        connection.connect()
    assert started["runtime"] == "process"
    assert "no Docker Engine answers" in started["why"]


def test_a_whole_run_can_be_told_what_tasks_run_as(started, monkeypatch):
    monkeypatch.setenv("SANDBOX_RUNTIME", "process")
    with pytest.raises(TutorialError, match="not in this test"):
        connection.connect()
    assert (started["runtime"], started["why"]) == ("process", "")


def test_with_an_engine_and_a_registry_tasks_are_containers(engine, started, monkeypatch):
    monkeypatch.delenv("SANDBOX_RUNTIME", raising=False)
    kind, lacking = this_machine.best_runtime()
    assert (kind == "container") == (lacking == "")
    with pytest.raises(TutorialError, match="not in this test"):
        connection.connect()
    assert (started["runtime"], started["why"]) == (kind, lacking)


def test_a_lab_says_what_the_app_runs_as(monkeypatch):
    monkeypatch.setattr("helpers.costs.of_lab", lambda name: "")
    here = sandbox.Sandbox("/nowhere", 1, "http://127.0.0.1:1", 30, "container", 0, 0)
    assert "the app's containers" in repr(connection.Lab("sandbox", "us-east-1", "shop", here))
    here = replace(here, runtime="process", why="no Docker Engine answers.")
    words = repr(connection.Lab("sandbox", "us-east-1", "shop", here))
    assert "the app's Node processes" in words
    assert "Not containers: no Docker Engine answers (notebook 01; none is needed)." in words


@pytest.fixture
def unconnected(state, monkeypatch) -> None:
    """A process that has not connected yet; what it changes in its environment is undone."""
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"SANDBOX_STATE": str(state)})


def test_another_speed_than_the_running_one_is_told(unconnected):
    connection.connect()
    with pytest.raises(TutorialError, match=r"(?s)another speed.*speed 30.*60 was asked.*helpers stop"):
        connection.connect(speed=60)


def test_another_runtime_than_the_running_one_is_told(unconnected, monkeypatch):
    connection.connect()
    there = replace(session.attach(), runtime="container")
    monkeypatch.setattr(sandbox, "attach", lambda state: there)
    assert connection.connect().runtime == "container"  # "auto" takes what is there
    with pytest.raises(TutorialError, match=r"(?s)another runtime.*container, while process.*helpers stop"):
        connection.connect(runtime="process")


def test_connecting_again_leaves_nothing_of_the_first_behind(unconnected):
    connection.connect(region="eu-west-1", name="first")
    old = boto3.client("ecs")
    old.create_cluster(clusterName="first")
    connection.connect(region="eu-west-1", name="second")
    assert old.list_clusters()["clusterArns"]  # the same place: a client may be kept
    lab = connection.connect(region="us-west-2", name="second")
    assert boto3.client("ecs").meta.region_name == lab.region == os.environ["AWS_REGION"] == "us-west-2"
    assert boto3.client("ecs").list_clusters()["clusterArns"] == []
    assert boto3.client("ecs", region_name="eu-west-1").list_clusters()["clusterArns"]  # asked for by name
    with pytest.raises(TutorialError, match=r"(?s)before the last.*speaks to eu-west-1.*us-west-2"):
        old.list_clusters()
    connection.connect(region="eu-west-1")
    assert old.list_clusters()["clusterArns"]
    old.delete_cluster(cluster="first")


def test_each_checkout_has_a_sandbox_of_its_own_and_a_client_knows_its(unconnected, tmp_path, monkeypatch):
    first = connection.connect()
    old = boto3.client("sts")
    monkeypatch.setitem(os.environ, "SANDBOX_STATE", str(tmp_path / "another"))
    try:
        second = connection.connect()
        assert second.running.endpoint != first.running.endpoint
        with pytest.raises(TutorialError, match="before the last"):
            old.get_caller_identity()
    finally:
        session.stop()
    with pytest.raises(TutorialError, match=r"(?s)has ended.*connect.*catch_up"):
        boto3.client("sts").get_caller_identity()
    with pytest.raises(TutorialError, match="has ended"):
        session.current()


def test_a_sandbox_that_ends_in_the_middle_of_a_call_is_told(unconnected, monkeypatch):
    """As botocore sees it: the connection is refused, and only then is the sandbox found to be gone."""
    lab = connection.connect()
    client = boto3.client("sts")
    there = iter([lab.running])
    monkeypatch.setattr(sandbox, "attach", lambda state: next(there, None))

    def refuse(**_: object):
        raise EndpointConnectionError(endpoint_url=lab.running.endpoint)

    client.meta.events.register_last("before-send", refuse)
    with pytest.raises(TutorialError, match="has ended"):
        client.get_caller_identity()


def test_a_call_that_fails_while_the_sandbox_is_there_fails_as_aws_lets_it(unconnected):
    connection.connect()
    with pytest.raises(ClientError, match=r"AccessDenied|NoSuchEntity|not found"):
        boto3.client("iam").get_role(RoleName="nobody")


def test_the_lab_says_where_it_is_and_what_that_costs(state, monkeypatch):
    monkeypatch.setenv("SANDBOX_STATE", str(state))
    lab = connection.connect(region="eu-west-1", name="shop")
    words = repr(lab)
    assert "shop in eu-west-1" in words
    assert "No AWS account" in words
    assert "30 times" in words
    assert "On AWS" in words
    assert session.current() is lab


def test_another_lab_in_the_region_is_told(state, monkeypatch, capsys):
    monkeypatch.setenv("SANDBOX_STATE", str(state))
    lab = connection.connect(name="cafe")
    group = "Resources: {Group: {Type: AWS::Logs::LogGroup}}"
    cloudformation = boto3.client("cloudformation")
    cloudformation.create_stack(
        StackName="shop", TemplateBody=group, Tags=[{"Key": "tutorial", "Value": "shop"}]
    )
    lab.catch_up(through="00")
    assert "also here: shop" in capsys.readouterr().out
    cloudformation.delete_stack(StackName="shop")
    cloudformation.get_waiter("stack_delete_complete").wait(StackName="shop", WaiterConfig={"Delay": 1})
    lab.catch_up(through="00")
    assert "also here" not in capsys.readouterr().out
