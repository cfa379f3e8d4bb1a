"""Cells interrupted, kernels restarted and killed, and a sandbox that dies: with real kernels, tasks and load."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import boto3
import psutil
import pytest

from helpers import run, sandbox, session, steps
from tests.robust.kernel import Kernel
from tests.robust.notebooks import NOTEBOOKS, opening
from tests.waiting import until

pytestmark = pytest.mark.timeout(400)
NAME = "cool-nodejs-app"
CONNECT = "import boto3\nfrom helpers import connect, load, service, wait_for\nlab = connect()"
SERVICE = """
from helpers.traffic import Phase
outputs = wait_for(lab.name)
app = service(outputs["ClusterName"], outputs["ServiceName"])
"""


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A sandbox with the service of notebook 07."""
    state = tmp_path_factory.mktemp("kernels") / "sandbox"
    eight = next(path for path in NOTEBOOKS if path.name.startswith("08"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SANDBOX_STATE", str(state))
        patch.setenv("SANDBOX_SPEED", "60")
        run.execute(opening(eight), None, {}, eight.parent)
    yield state
    sandbox.stop(state)


@pytest.fixture
def kernel(state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    monkeypatch.setenv("SANDBOX_STATE", str(state))
    monkeypatch.setenv("SANDBOX_SPEED", "60")
    with Kernel(NOTEBOOKS[0].parent) as kernel:
        connected = kernel.cell(CONNECT)
        assert not connected.error, connected.value
        yield kernel


@pytest.fixture
def aws(state: Path, monkeypatch: pytest.MonkeyPatch):
    """This process's clients for the kernels' sandbox."""
    here = sandbox.attach(state)
    environ = dict(os.environ)
    session.isolate(environ, here.endpoint, "us-east-1", state)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    own = boto3.session.Session()
    return own.client


def tasks(aws) -> set[str]:
    return set(aws("ecs").list_tasks(cluster=NAME, serviceName=NAME)["taskArns"])


class TestALoadEndsWithItsCell:
    """However the cell ends, its visitors go, and the service stays as it is."""

    @pytest.fixture
    def loading(self, kernel) -> tuple[Kernel, str, list[psutil.Process]]:
        assert not kernel.cell(SERVICE).error
        message = kernel.begin('load(outputs["Url"], [Phase(minutes=600, rate=20)], watch=print)')
        until(lambda: kernel.children("locust"), 60)
        while "Progress" not in kernel.client.get_iopub_msg(timeout=60)["content"].get("text", ""):
            pass  # the first visitors are there
        return kernel, message, kernel.children("locust")

    @pytest.mark.parametrize("how", ["interrupted", "restarted", "killed", "shut down"])
    def test_the_load_ends(self, loading, aws, how):
        kernel, message, visitors = loading
        before = tasks(aws)
        if how == "interrupted":
            kernel.manager.interrupt_kernel()
        elif how == "restarted":
            kernel.restart()
        elif how == "killed":
            kernel.kill()
        else:
            kernel.manager.shutdown_kernel()
        assert psutil.wait_procs(visitors, timeout=10)[1] == []
        assert tasks(aws) == before
        assert len(before) == 2
        if how == "interrupted":
            assert kernel.end(message).error == "KeyboardInterrupt"
            again = kernel.cell('report = load(outputs["Url"], [Phase(minutes=1, rate=20)])\nreport.failed')
            assert again.said == "0", again.shown


def test_catching_up_that_was_interrupted_is_taken_up_again(kernel, aws):
    """The kernel that executes an earlier notebook ends, and CloudFormation is waited for, not run into."""
    cell = 'lab = connect(name="second")\nlab.catch_up(through="07")'
    message = kernel.begin(cell)

    def moving() -> bool:
        found = [
            stack
            for stack in aws("cloudformation").describe_stacks()["Stacks"]
            if stack["StackName"] == "second"
        ]
        return any(stack["StackStatus"] in ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS") for stack in found)

    until(moving, 60)
    nested = kernel.children("ipykernel_launcher")
    assert nested
    kernel.manager.interrupt_kernel()
    assert kernel.end(message).error == "KeyboardInterrupt"
    assert psutil.wait_procs(nested, timeout=10)[1] == []
    assert not kernel.children("ipykernel_launcher")
    again = kernel.cell(cell)
    assert not again.error, again.shown
    assert steps.done(next(s for s in steps.JOURNEY if s.number == "07"), "second", "us-east-1")
    gone = kernel.cell('boto3.client("cloudformation").delete_stack(StackName="second")\nwait_for("second")')
    assert not gone.error, gone.shown


def test_catching_up_ends_with_a_kernel_that_is_killed(kernel):
    kernel.begin('lab = connect(name="third")\nlab.catch_up(through="06")')
    nested = until(lambda: kernel.children("ipykernel_launcher"), 60)
    kernel.kill()
    assert psutil.wait_procs(nested, timeout=20)[1] == []


@pytest.mark.parametrize(
    ("begin", "wait", "back"),
    [
        (
            'boto3.client("ecs").update_service(cluster=app.cluster, service=app.name, desiredCount=3)',
            "app.until_steady(desired=3)",
            'boto3.client("ecs").update_service(cluster=app.cluster, service=app.name, desiredCount=2)\napp.until_steady(desired=2)',
        ),
        ("", 'app.until_alarm("AlarmHigh", "ALARM", timeout=1e6)', ""),
    ],
    ids=["until_steady", "until_alarm"],
)
def test_what_waits_can_be_interrupted_and_run_again(kernel, begin, wait, back):
    assert not kernel.cell(SERVICE).error
    message = kernel.begin(f"{begin}\nprint('waiting')\n{wait}")
    while "waiting" not in kernel.client.get_iopub_msg(timeout=60)["content"].get("text", ""):
        pass
    kernel.manager.interrupt_kernel()
    assert kernel.end(message).error == "KeyboardInterrupt"
    if back:
        again = kernel.cell(f"{wait}\n{back}")
        assert not again.error, again.shown


def test_a_sandbox_that_died_is_told_at_the_next_call_and_catching_up_rebuilds(kernel, state):
    """Last of all: it ends this module's sandbox."""
    assert not kernel.cell(SERVICE + 'ecs = boto3.client("ecs")\nurl = outputs["Url"]').error
    here = sandbox.attach(state)
    everything = psutil.Process(here.pid).children(recursive=True)
    loading = kernel.begin("load(url, [Phase(minutes=600, rate=20)])")
    visitors = until(lambda: kernel.children("locust"), 60)
    os.kill(here.pid, signal.SIGKILL)
    assert psutil.wait_procs(everything, timeout=20)[1] == []
    assert kernel.end(loading).error == "SandboxGone"
    assert psutil.wait_procs(visitors, timeout=10)[1] == []
    for call in (
        "ecs.list_clusters()",
        'boto3.client("cloudformation").describe_stacks()',
        "app.counts()",
        "load(url, [Phase(minutes=1, rate=4)])",
        'lab.catch_up(through="07")',
        "lab",
    ):
        told = kernel.cell(call)
        assert "has ended" in told.shown, (call, told.shown)
        assert "connect(...)` again" in told.shown
        assert "Traceback" not in told.shown
    for call, error in (
        ("from urllib.request import urlopen\nurlopen(url)", "URLError"),
        ("from helpers.pages import page\npage(url)", "TutorialError"),
    ):
        plain = kernel.cell(call)
        assert plain.error == error
        assert "The sandbox that this notebook was connected to has ended" in plain.said

    (state / "ports.json").unlink()  # a new one would take the same ports again
    assert not kernel.cell(CONNECT).error
    old = kernel.cell("ecs.list_clusters()")
    assert "Run the cell that makes the client" in old.shown, old.shown
    rebuilt = kernel.cell('lab.catch_up(through="07")' + SERVICE + "app.counts()")
    assert "'healthy': 2" in rebuilt.said, rebuilt.shown


def test_a_sandbox_in_the_place_of_another_is_told(kernel, state):
    sandbox.stop(state)
    other = sandbox.start(state, speed=60, runtime="process")
    told = kernel.cell("boto3.client('sts').get_caller_identity()")
    assert told.error == "SandboxGone"
    assert "Another sandbox has taken the place" in told.shown
    assert str(other.pid) in told.shown
