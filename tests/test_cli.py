"""The command line: what each command passes on, and what a foreseeable problem looks like."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from click.testing import CliRunner
from moto import mock_aws

from helpers import __main__ as command_line
from helpers import builds, install, preflight, session, status
from helpers import jupyter as jupyterlab
from helpers import run as runner
from helpers.errors import TutorialError
from helpers.sandbox import Sandbox


def call(*arguments: str):
    return CliRunner().invoke(command_line.cli, arguments, catch_exceptions=False)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list:
    calls: list = []
    monkeypatch.setattr(runner, "run", lambda *args, **options: calls.append((args, options)) or 0)
    return calls


def test_run_passes_on_what_it_is_given(given):
    assert call("run").exit_code == 0
    assert given[0] == (((), {}), {"speed": None, "keep": False, "write": False, "target": "sandbox"})
    call("run", "07", "10", "-p", "name", "shop", "-p", "teardown", "false", "--speed", "60", "--keep")
    (notebooks, parameters), options = given[1]
    assert notebooks == ("07", "10")
    assert parameters == {"name": "shop", "teardown": False}
    assert (options["speed"], options["keep"]) == (60.0, True)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("shop", "shop"),
        ("07", "07"),
        ("7", 7),
        ("0.25", 0.25),
        ("true", True),
        ("None", None),
        ("[1, 2]", [1, 2]),
        ("('architecture', 'app-exits')", ("architecture", "app-exits")),
        ("{[]: 1}", "{[]: 1}"),
        ("a b", "a b"),
        ("../app", "../app"),
    ],
)
def test_a_parameter_is_read_as_it_is_meant(text, value):
    assert command_line.value_of(text) == value


@pytest.mark.parametrize(
    "arguments", [("run", "--speed", "0"), ("run", "--target", "aws"), ("run", "-p", "name")]
)
def test_what_cannot_be_is_refused(given, arguments):
    assert call(*arguments).exit_code == 2
    assert given == []


def test_a_foreseeable_problem_is_a_message(monkeypatch):
    def fails(*_, **__):
        raise TutorialError("There is no notebook 99.", next="Name another.")

    monkeypatch.setattr(runner, "run", fails)
    result = call("run", "99")
    assert result.exit_code == 1
    assert result.output == "Error: There is no notebook 99.\nNext: Name another.\n"


def test_status_and_stop_without_a_sandbox_say_so(monkeypatch):
    monkeypatch.setattr(session, "attach", lambda: None)
    monkeypatch.setattr(session, "stop", lambda: False)
    result = call("status")
    assert (result.exit_code, result.output.splitlines()[0]) == (1, "Error: No sandbox is up.")
    assert call("stop").output == "no sandbox was up\n"


def test_status_shows_aws_time_and_where_the_reasons_are(monkeypatch, tmp_path):
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    at = (str(tmp_path), 1, "http://127.0.0.1:1", 30.0, "process")
    running = Sandbox(*at, real_epoch=time.time(), aws_epoch=now.timestamp())
    monkeypatch.setattr(session, "attach", lambda: running)
    monkeypatch.setattr(status, "status", lambda region: f"tables of {region}")
    monkeypatch.setattr(session, "isolate", lambda *_: None)
    said = call("status", "--region", "eu-west-1").output
    assert re.match(r"AWS time 2026-01-02 03:0\d:\d\d UTC, 30 times as fast as yours, in eu-west-1\n", said)
    assert str(tmp_path / "sandbox.log") in said
    assert said.endswith("tables of eu-west-1\n")
    assert "paused" not in said
    replace(running, paused=True).write()
    assert "\nAWS time is paused: it stands at 2026-01-02 03:04:05 UTC" in call("status").output


def test_clean_stops_every_sandbox_of_the_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(command_line, "ROOT", tmp_path)
    kept = tmp_path / "runs" / "2026" / "sandbox"
    kept.mkdir(parents=True)
    (kept / "state.json").touch()
    stopped = []
    monkeypatch.setattr(session, "stop", lambda state: stopped.append(state) or True)
    result = call("clean")
    assert set(stopped) == {tmp_path / ".sandbox", kept}
    assert "stopped the sandbox of runs/2026/sandbox" in result.output
    assert result.output.endswith("removed: runs\n")
    assert not (tmp_path / "runs").exists()
    assert call("clean").output.endswith("there was nothing to remove\n")


def test_clean_of_all_takes_the_images_out_of_an_engine_that_is_there(monkeypatch, tmp_path):
    monkeypatch.setattr(command_line, "ROOT", tmp_path)
    monkeypatch.setattr(builds, "remove_all", lambda: ["shop:v1", "shop:v2"])
    assert "removed from the Docker Engine: 2 images" in call("clean", "--all").output

    def no_engine():
        raise TutorialError("There is no engine.")

    monkeypatch.setattr(builds, "remove_all", no_engine)
    assert "Docker" not in call("clean", "--all").output


def test_status_of_a_region_that_is_none_says_so():
    assert 'Say region="us-east-' in call("status", "--region", "us-east-9").output


def test_test_runs_style_and_tests_in_a_sandbox_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setattr(command_line, "ROOT", tmp_path)
    ran, stopped = [], []

    class Process:
        def __init__(self, command, cwd, env):
            ran.append(command[2:])
            assert Path(env["SANDBOX_STATE"]).parents[1] == tmp_path / "runs"
            self.failed = command[2] == "pytest" and "-x" in command

        def wait(self) -> int:
            return int(self.failed)

    monkeypatch.setattr(command_line.subprocess, "Popen", Process)
    monkeypatch.setattr(session, "stop", stopped.append)
    result = call("test")
    assert (result.exit_code, "all green" in result.output) == (0, True)
    assert [step[:2] for step in ran] == [["ruff", "check"], ["ruff", "format"], ["pytest", "--cov"]]
    assert len(stopped) == 1
    result = call("test", "-x", "tests/test_cli.py")
    assert result.exit_code == 1
    assert ran[-1] == ["pytest", "-x", "tests/test_cli.py"]
    assert result.output.splitlines()[-1].endswith(": tests failed")
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.fixture
def jupyter(monkeypatch, tmp_path) -> list:
    """The command lines of JupyterLab that were run; pages that were opened."""
    ran: list = []
    monkeypatch.setattr(sys, "prefix", str(tmp_path))  # its settings are not to be those of this environment
    monkeypatch.setattr(jupyterlab, "running", lambda copies: None)
    monkeypatch.setattr(command_line.subprocess, "Popen", lambda command, **_: ran.append(command))
    monkeypatch.setattr(command_line, "_finish", lambda process: 0)
    monkeypatch.setattr(command_line.webbrowser, "open", ran.append)
    monkeypatch.setattr(session, "attach", lambda: None)
    return ran


def test_lab_makes_the_copies_and_opens_the_first(jupyter, tmp_path):
    result = call("lab", "--work", str(tmp_path / "my work"), "--no-browser", "--port", "9000")
    assert result.exit_code == 0
    assert "copied, to be yours" in result.output
    assert (tmp_path / "my work" / "00-start-here.ipynb").exists()
    (command,) = jupyter
    assert command[-3:] == ["--no-browser", "--port", "9000"]
    assert f"--ServerApp.root_dir={tmp_path}" in command
    assert "--LabApp.default_url=/lab/tree/my%20work/00-start-here.ipynb" in command
    settings = json.loads((tmp_path / "share/jupyter/lab/settings/overrides.json").read_text())
    assert settings["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"
    assert settings["@jupyterlab/notebook-extension:tracker"]["windowingMode"] == "none"


def test_without_an_option_the_copies_are_beside_the_notebooks():
    option = next(each for each in command_line.lab_command.params if each.name == "work")
    assert option.default == install.ROOT / "work"


def test_an_option_of_jupyter_is_given_once(tmp_path):
    theirs = ["--LabApp.default_url=/tree", "--debug"]
    command = jupyterlab.command(tmp_path / "work", theirs)
    assert command[-2:] == theirs
    names = [argument.split("=")[0] for argument in command]
    assert names.count("--LabApp.default_url") == 1
    assert "--Application.log_level" not in names


def test_a_lab_that_is_up_is_opened_again(jupyter, monkeypatch, tmp_path):
    monkeypatch.setattr(jupyterlab, "running", lambda copies: "http://here/lab")
    assert "up already: http://here/lab" in call("lab", "--work", str(tmp_path)).output
    assert jupyter == ["http://here/lab"]
    call("lab", "--work", str(tmp_path), "--no-browser")
    assert jupyter == ["http://here/lab"]


def test_a_lab_that_is_up_keeps_its_own_speed_and_says_so(jupyter, monkeypatch, tmp_path):
    monkeypatch.setattr(jupyterlab, "running", lambda copies: "http://here/lab")
    monkeypatch.delenv("SANDBOX_SPEED", raising=False)
    assert "settings" not in call("lab", "--work", str(tmp_path)).output
    monkeypatch.setenv("SANDBOX_SPEED", "10")
    said = call("lab", "--work", str(tmp_path)).output
    assert "keeps the settings that it was started with; SANDBOX_SPEED=10 does not reach it" in said
    assert "To end it: File > Shut Down" in said


def test_a_server_that_has_ended_or_is_of_another_place_is_not_taken_for_this_one(monkeypatch, tmp_path):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        here = {
            "url": f"http://127.0.0.1:{nobody.getsockname()[1]}/",
            "token": "t",
            "root_dir": str(tmp_path),
        }
        (tmp_path / "jpserver-1.json").write_text("{")
        (tmp_path / "jpserver-2.json").write_text(json.dumps(here))
        (tmp_path / "jpserver-3.json").write_text(json.dumps(here | {"root_dir": "/elsewhere"}))
        assert jupyterlab.running(tmp_path / "work") is None
    monkeypatch.setattr(jupyterlab, "_answers", lambda server: True)
    assert jupyterlab.running(tmp_path / "work") == f"{here['url']}lab/tree/work/00-start-here.ipynb?token=t"


def test_ctrl_c_ends_the_lab_and_says_what_is_still_up(jupyter, monkeypatch, tmp_path):
    def interrupted(process):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "_finish", interrupted)
    assert "still up" not in call("lab", "--work", str(tmp_path)).output
    monkeypatch.setattr(session, "attach", lambda: SimpleNamespace())
    result = call("lab", "--work", str(tmp_path))
    assert result.exit_code == 0
    assert "The sandbox is still up: python3 -m helpers stop" in result.output


def test_reset_keeps_what_was_there(jupyter, tmp_path):
    call("lab", "--work", str(tmp_path / "work"))
    mine = tmp_path / "work" / "07-create-the-cluster-and-service.ipynb"
    mine.write_text("mine")
    result = call("reset", "07", "--work", str(tmp_path / "work"))
    (old,) = mine.parent.glob("07-*-until-*.ipynb")
    assert old.read_text() == "mine"
    assert old.name in result.output
    assert call("reset").exit_code == 2


@pytest.mark.parametrize(("ready", "status"), [(True, 0), (False, 1)])
def test_preflight_ends_with_its_verdict(monkeypatch, ready, status):
    monkeypatch.setattr(preflight, "preflight", lambda say: say("told") or ready)
    result = call("preflight")
    assert (result.exit_code, result.output) == (status, "told\n")


def test_download_goes_to_the_folder_that_is_named(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(install, "download", lambda *arguments: given.append(arguments))
    monkeypatch.chdir(tmp_path)
    call("download")
    call("download", "on a stick")
    assert [folder for folder, environment in given] == [tmp_path / "packages", tmp_path / "on a stick"]


def test_a_table_is_aligned_and_an_empty_one_says_so():
    rows = [{"task": "a", "state": "RUNNING"}, {"task": "long", "state": ""}]
    assert status.table(rows) == "  task  state\n  a     RUNNING\n  long"
    assert status.table([]) == "  none"


def test_nothing_in_the_environment_stands_in_for_the_standard_library(checkout, tmp_path):
    """A PYTHONPATH that holds modules named like the standard library's, and like click."""
    for name in ("json", "pathlib", "subprocess", "ast", "click", "helpers"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hostile')")

    def python(*arguments: str) -> str:
        settings = {**os.environ, "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=checkout, env=settings, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    assert "hostile" in python("-c", "import pathlib")
    assert "hostile" not in python("-m", "helpers", "stop", "--help")


def test_status_shows_what_aws_says_is_there():
    with mock_aws():
        ecs = boto3.client("ecs", region_name="us-east-1")
        ecs.create_cluster(clusterName="shop")
        ecs.register_task_definition(
            family="app", containerDefinitions=[{"name": "app", "image": "app", "memory": 8}]
        )
        ecs.create_service(cluster="shop", serviceName="web", taskDefinition="app", desiredCount=2)
        elbv2 = boto3.client("elbv2", region_name="us-east-1")
        vpc = boto3.client("ec2", region_name="us-east-1").describe_vpcs()["Vpcs"][0]["VpcId"]
        group = elbv2.create_target_group(Name="web", Protocol="HTTP", Port=80, VpcId=vpc, TargetType="ip")
        arn = group["TargetGroups"][0]["TargetGroupArn"]
        elbv2.register_targets(TargetGroupArn=arn, Targets=[{"Id": "172.31.0.9", "Port": 3000}])
        alarm = {"Namespace": "N", "MetricName": "M", "Period": 60, "EvaluationPeriods": 3, "Threshold": 70}
        boto3.client("cloudwatch", region_name="us-east-1").put_metric_alarm(
            AlarmName="high", ComparisonOperator="GreaterThanThreshold", Statistic="Average", **alarm
        )
        said = status.status("us-east-1")
    sections = dict(section.split("\n", 1) for section in said.split("\n\n"))
    assert list(sections) == ["Services", "Tasks", "Targets", "Alarms"]
    assert sections["Services"].splitlines()[1].split()[:4] == ["shop", "web", "ACTIVE", "2"]
    assert sections["Tasks"] == "  none"
    assert "172.31.0.9:3000" in sections["Targets"]
    assert sections["Alarms"].splitlines()[1].split()[0] == "high"
