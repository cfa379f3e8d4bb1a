"""The whole sandbox, as a process: started, found again, worked with, killed."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import psutil
import pytest

from helpers import sandbox, session, templates
from helpers.sandbox.__main__ import _read_ports
from tests.sandbox.live import BURNER, PAGE, Live, Visitors, get, processes_of, write_app

TEMPLATES = session.CHECKOUT / "templates"
STACK = "shop"
AWS_CLI = Path(sys.executable).parent / "aws"


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    state = tmp_path_factory.mktemp("region") / "state with spaces"
    yield Live(state)
    sandbox.stop(state)


@pytest.fixture
def at_sandbox(live, monkeypatch):
    """This process's boto3 and the CLI's processes speak to the sandbox."""
    environ = dict(os.environ)
    session.isolate(environ, live.here.endpoint, "us-east-1", live.state)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return environ


@pytest.fixture
def parameters(live) -> list[str]:
    vpc = live.aws("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    return [f"VpcId={vpc}", f"SubnetIds={','.join(live.subnets())}"]


def deploy(
    environ: dict[str, str], step: str, stack: str, *parameters: str
) -> subprocess.CompletedProcess[str]:
    """`aws cloudformation deploy`, as the README of any project would have it."""
    (template,) = TEMPLATES.glob(f"{step}-*.yaml")
    command = [
        str(AWS_CLI),
        "cloudformation",
        "deploy",
        "--template-file",
        str(template),
        "--stack-name",
        stack,
    ]
    command += ["--capabilities", "CAPABILITY_IAM", "--parameter-overrides", f"Name={stack}", *parameters]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)


def update(live: Live, **parameters: str) -> str:
    """Update the stack with these parameters, the others as they were; its status at the end."""
    cloudformation = live.aws("cloudformation")
    (stack,) = cloudformation.describe_stacks(StackName=STACK)["Stacks"]
    cloudformation.update_stack(
        StackName=STACK,
        UsePreviousTemplate=True,
        Parameters=[
            {"ParameterKey": key, "ParameterValue": parameters[key]}
            if (key := known["ParameterKey"]) in parameters
            else {"ParameterKey": key, "UsePreviousValue": True}
            for known in stack["Parameters"]
        ],
        Capabilities=["CAPABILITY_IAM"],
    )

    def at_rest() -> str:
        status = cloudformation.describe_stacks(StackName=STACK)["Stacks"][0]["StackStatus"]
        return "" if status.endswith("_IN_PROGRESS") else status

    return live.until(at_rest, seconds=60)


@pytest.fixture(scope="module")
def url(live, tmp_path_factory):
    environ = dict(os.environ)
    session.isolate(environ, live.here.endpoint, "us-east-1", live.state)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        image = live.push(write_app(tmp_path_factory.mktemp("one") / "app", PAGE % "one"), STACK)
    vpc = live.aws("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    where = (f"Image={image}", f"VpcId={vpc}", f"SubnetIds={','.join(live.subnets())}")
    done = deploy(environ, "07", STACK, *where)
    assert done.returncode == 0, done.stderr + done.stdout
    (stack,) = live.aws("cloudformation").describe_stacks(StackName=STACK)["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}["Url"]


class TestAService:
    """One stack through its life: deployed by the CLI, rolled forward without a failed request, rolled back."""

    def test_it_answers_when_its_stack_is_complete(self, live, url):
        assert get(url) == "one"
        (stack,) = live.aws("cloudformation").describe_stacks(StackName=STACK)["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE"
        (service,) = live.aws("ecs").describe_services(cluster=STACK, services=[STACK])["services"]
        assert service["runningCount"] == service["desiredCount"] == 2
        assert "has reached a steady state" in service["events"][0]["message"]

    def test_deploying_the_same_again_changes_nothing(self, live, url, at_sandbox):
        done = deploy(at_sandbox, "07", STACK)
        assert "No changes to deploy" in done.stdout + done.stderr

    def test_new_code_is_rolled_out_and_back_without_a_failed_request(self, live, url, at_sandbox, tmp_path):
        (before,) = live.aws("ecr").list_images(repositoryName=STACK)["imageIds"]
        repository = live.aws("ecr").describe_repositories(repositoryNames=[STACK])["repositories"][0]
        old_image = f"{repository['repositoryUri']}@{before['imageDigest']}"
        new_image = live.push(write_app(tmp_path / "app", PAGE % "two"), STACK, "v2")
        with Visitors(url) as visitors:
            assert update(live, Image=new_image) == "UPDATE_COMPLETE"
            assert {get(url) for _ in range(6)} == {"two"}
            assert update(live, Image=old_image) == "UPDATE_COMPLETE"
            assert {get(url) for _ in range(6)} == {"one"}
        assert set(visitors.seen) == {"one", "two"}, visitors.seen
        assert visitors.seen.total() > 300

    def test_code_that_ends_at_once_is_rolled_back_and_the_old_one_goes_on_answering(
        self, live, url, at_sandbox, tmp_path
    ):
        broken = live.push(write_app(tmp_path / "app", "console.log('no'); process.exit(3)"), STACK, "v3")
        with Visitors(url, threads=2) as visitors:
            assert update(live, Image=broken) == "UPDATE_ROLLBACK_COMPLETE"
        events = live.aws("cloudformation").describe_stack_events(StackName=STACK)["StackEvents"]
        failed = [event for event in events if event["ResourceStatus"] == "UPDATE_FAILED"]
        assert any("Circuit Breaker" in event.get("ResourceStatusReason", "") for event in failed)
        stopped = live.aws("ecs").list_tasks(cluster=STACK, desiredStatus="STOPPED")["taskArns"]
        tasks = live.aws("ecs").describe_tasks(cluster=STACK, tasks=stopped)["tasks"]
        assert 3 in {task["containers"][0].get("exitCode") for task in tasks}
        assert set(visitors.seen) == {"one"}, visitors.seen

    def test_the_logs_of_a_task_that_failed_can_be_read(self, live, url):
        logs = live.aws("logs")
        streams = logs.describe_log_streams(logGroupName=f"/ecs/{STACK}")["logStreams"]
        lines = [
            event["message"]
            for stream in streams
            for event in logs.get_log_events(
                logGroupName=f"/ecs/{STACK}", logStreamName=stream["logStreamName"]
            )["events"]
        ]
        assert "no" in lines
        assert all(stream["logStreamName"].startswith("ecs/app/") for stream in streams)

    def test_everything_goes_with_the_stack(self, live, url, at_sandbox):
        from helpers.teardown import left_over

        assert len(left_over(STACK)) > 5
        ran = processes_of(live.here.pid, "server.js")
        assert ran
        cloudformation = live.aws("cloudformation")
        cloudformation.delete_stack(StackName=STACK)
        cloudformation.get_waiter("stack_delete_complete").wait(StackName=STACK, WaiterConfig={"Delay": 1})
        live.aws("ecr").delete_repository(repositoryName=STACK, force=True)
        assert left_over(STACK) == []
        assert not any(process.is_running() for process in ran)


def test_a_known_load_is_reported_as_it_is(live, at_sandbox, tmp_path):
    """A task at half its limit within 3 points; a saturated one within 97 and 100, where CloudWatch ends."""
    ecs = live.aws("ecs")
    ecs.create_cluster(clusterName="known")
    network = {"awsvpcConfiguration": {"subnets": live.subnets(), "assignPublicIp": "ENABLED"}}
    for name, share in (("half", 0.5), ("full", 2)):
        image = live.push(write_app(tmp_path / name, BURNER % share), "known", name)
        ecs.create_service(
            cluster="known",
            serviceName=name,
            taskDefinition=live.define(f"known-{name}", image),
            desiredCount=1,
            launchType="FARGATE",
            networkConfiguration=network,
        )
    # The first minutes hold Node's start; each later one is a measurement.
    points = {name: live.until(lambda name=name: _later(live, name), seconds=40) for name in ("half", "full")}
    for name in points:
        ecs.delete_service(cluster="known", service=name, force=True)
    half = [point["Average"] for point in points["half"]]
    full = [point["Average"] for point in points["full"]]
    assert abs(median(half) - 50) <= 3, half
    assert 97 <= median(full) <= 100, full


def _later(live: Live, service: str) -> list[dict]:
    points = live.datapoints("known", service)
    return [points[time] for time in sorted(points)][2:] if len(points) >= 8 else []


def test_it_is_found_again_and_not_started_twice(live):
    assert sandbox.attach(live.state) == live.here
    assert sandbox.start(live.state, speed=30, runtime="process").pid == live.here.pid


def test_the_time_of_its_state_file_is_the_time_of_its_answers(live):
    role = f"clock-{time.monotonic_ns()}"
    made = live.aws("iam").create_role(RoleName=role, AssumeRolePolicyDocument="{}")["Role"]["CreateDate"]
    assert abs((live.here.now() - made).total_seconds()) < 30 * live.here.speed


@pytest.mark.skipif(
    sys.platform != "linux", reason="other systems do not let a process list another one's sockets"
)
def test_it_listens_on_loopback_only(live):
    listening = []
    for process in processes_of(live.here.pid):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):  # it may end meanwhile
            listening += [
                c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN
            ]
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1"}


def test_every_decision_is_in_the_log_with_its_reason(live):
    log = (live.state / "sandbox.log").read_text()
    for words in ("ready at", "sandbox.scheduler", "sandbox.tasks"):
        assert words in log


@pytest.fixture
def short(tmp_path):
    live = Live(tmp_path / "state", speed=60)
    yield live
    sandbox.stop(live.state)


def test_nothing_of_it_runs_after_a_sigkill(short, monkeypatch, tmp_path):
    environ = dict(os.environ)
    session.isolate(environ, short.here.endpoint, "us-east-1", short.state)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    image = short.push(write_app(tmp_path / "app", BURNER % 2))
    ecs = short.aws("ecs")
    ecs.create_cluster(clusterName="c")
    ecs.run_task(
        cluster="c",
        taskDefinition=short.define("f", image),
        launchType="FARGATE",
        count=2,
        networkConfiguration={
            "awsvpcConfiguration": {"subnets": short.subnets(), "assignPublicIp": "ENABLED"}
        },
    )

    def running() -> list[psutil.Process]:
        found = processes_of(short.here.pid)
        try:
            return found if sum("server.js" in " ".join(one.cmdline()) for one in found) == 2 else []
        except psutil.NoSuchProcess:  # one that only told its version has just ended
            return []

    everything = short.until(running)
    assert any("envoy" in one.name() for one in everything)
    os.kill(short.here.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(everything, timeout=10)
    assert not alive, alive
    assert sandbox.attach(short.state) is None, "its state file must not count"
    again = sandbox.start(short.state, speed=60, runtime="process")
    assert again.pid != short.here.pid, "not even while the next one starts"


def test_a_new_one_takes_the_old_ports_when_they_are_free(short):
    elbv2 = short.aws("elbv2")
    subnets = short.subnets()
    before = elbv2.create_load_balancer(Name="lb", Subnets=subnets)["LoadBalancers"][0]["DNSName"]
    port = int(before.rsplit(":", 1)[1])
    short.until(lambda: port in _read_ports(short.state / "ports.json").get("balancers", {}).values())
    assert sandbox.stop(short.state)
    again = Live(short.state, speed=60)
    assert again.here.endpoint == short.here.endpoint
    after = again.aws("elbv2").create_load_balancer(Name="lb", Subnets=again.subnets())["LoadBalancers"][0][
        "DNSName"
    ]
    assert after == before


def test_a_taken_port_is_no_reason_not_to_start(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        (state / "ports.json").write_text(json.dumps({"endpoint": taken}))
        try:
            assert not sandbox.start(state, speed=30, runtime="process").endpoint.endswith(f":{taken}")
        finally:
            sandbox.stop(state)


@pytest.mark.parametrize(
    "ports", ['{"endpoint": 12', "[]", '{"endpoint": "x"}', '{"balancers": {"a": null}}']
)
def test_files_that_nobody_can_read_are_passed_over(tmp_path, ports):
    (tmp_path / "ports.json").write_text(ports)
    assert _read_ports(tmp_path / "ports.json") == {}
    for content in ('{"state": "x", "pi', '{"hello": 1}', ""):
        (tmp_path / "state.json").write_text(content)
        with sandbox.held(tmp_path):
            assert sandbox.attach(tmp_path) is None


def test_one_that_starts_is_not_stopped_by_somebody_who_only_asks(tmp_path, monkeypatch):
    """`is_held` has the lock itself, shared, for the moment that it takes."""
    with (tmp_path / "lock").open("a+") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        pauses: list[float] = []

        def asked(seconds: float) -> None:
            pauses.append(seconds)
            fcntl.flock(asking, fcntl.LOCK_UN)

        monkeypatch.setattr(sandbox, "time", SimpleNamespace(monotonic=time.monotonic, sleep=asked))
        with sandbox.held(tmp_path):
            assert len(pauses) == 1


def test_one_that_stays_is_waited_for_no_longer_than_anybody_asks(tmp_path, monkeypatch):
    clock = itertools.count(0.0, 0.1)
    with sandbox.held(tmp_path):
        monkeypatch.setattr(
            sandbox, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: None)
        )
        with pytest.raises(sandbox.SandboxError, match="Another sandbox runs"), sandbox.held(tmp_path):
            pass
    assert next(clock) < 1


RACER = "import sys; from pathlib import Path; from helpers import sandbox; print(sandbox.start(Path(sys.argv[1]), speed=30, runtime='process').pid)"


def test_all_who_start_at_once_get_the_same_one_and_no_other_is_left(tmp_path):
    state = tmp_path / "state"
    command = [sys.executable, "-c", RACER, str(state)]
    racers = [subprocess.Popen(command, cwd=session.CHECKOUT, stdout=subprocess.PIPE) for _ in range(3)]
    try:
        told = {racer.communicate(timeout=60)[0].strip() for racer in racers}
        here = sandbox.attach(state)
        assert here is not None
        assert told == {str(here.pid).encode()}
        named = [one for one in psutil.process_iter(["cmdline"]) if str(state) in (one.info["cmdline"] or [])]
        assert [one.pid for one in named] == [here.pid]
    finally:
        sandbox.stop(state)


def test_one_starts_when_the_one_in_its_way_is_about_to_end(tmp_path):
    with sandbox.held(tmp_path):
        starting = subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path)], cwd=session.CHECKOUT, stdout=subprocess.PIPE
        )
        deadline = time.monotonic() + 20
        while "Another" not in sandbox.tail(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.01)
    try:
        pid = int(starting.communicate(timeout=30)[0])
        assert sandbox.attach(tmp_path).pid == pid
    finally:
        sandbox.stop(tmp_path)


def test_whoever_started_one_ends_without_a_warning_while_it_goes_on(tmp_path):
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", RACER, str(tmp_path)]
    try:
        starter = subprocess.run(command, cwd=session.CHECKOUT, capture_output=True, text=True, timeout=60)
        assert (starter.returncode, starter.stderr) == (0, "")
        assert sandbox.attach(tmp_path).pid == int(starter.stdout)
    finally:
        sandbox.stop(tmp_path)


def test_it_ends_when_its_state_directory_is_deleted(tmp_path):
    state = tmp_path / "state"
    here = sandbox.start(state, speed=30, runtime="process")
    everything = processes_of(here.pid)
    shutil.rmtree(state)
    _, alive = psutil.wait_procs(everything, timeout=15)
    assert not alive, alive


def test_stop_ends_one_that_is_only_starting(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    command = [sys.executable, "-m", "helpers.sandbox", "--state", str(state)]
    starting = subprocess.Popen(command, cwd=session.CHECKOUT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not sandbox.is_held(state) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sandbox.stop(state)
    starting.wait(timeout=20)
    assert not sandbox.is_held(state)


def test_stop_without_one_says_so(tmp_path):
    assert sandbox.stop(tmp_path) is False
    assert sandbox.attach(tmp_path) is None


def test_a_state_directory_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(sandbox.SandboxError, match="cannot write"):
        sandbox.start(tmp_path / "file" / "state", speed=30, runtime="process")


def test_the_templates_are_the_files_that_the_notebooks_use():
    assert [templates.template(step).body for step in ("06", "07", "08")] == [
        path.read_text() for path in sorted(TEMPLATES.glob("*.yaml"))
    ]
