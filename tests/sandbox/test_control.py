"""The one thing at the endpoint that is not AWS's: who may ask, and what for."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest

from helpers.errors import TutorialError
from helpers.faults import kill_task
from helpers.sandbox.control import PREFIX, Control
from helpers.sandbox.endpoint import Endpoint
from helpers.sandbox.records import Records
from tests.sandbox.task_record import task_record

ID = "0123456789abcdef0123456789abcdef"
KILL = f"/_sandbox/tasks/{ID}/kill"


class Process:
    pid = 4711

    def __init__(self):
        self.code = None

    def poll(self):
        return self.code

    def kill(self):
        self.code = 137


@pytest.fixture
def process():
    return Process()


@pytest.fixture
def control(process) -> Control:
    records = Records()
    arn = f"arn:aws:ecs:us-east-1:123456789012:task/shop/{ID}"
    records.tasks[arn] = task_record(arn, last_status="RUNNING", process=process)
    return Control(records)


def ask(control: Control, path: str = KILL, method: str = "POST", **more: str) -> tuple[int, dict]:
    told: list[str] = []
    environ = {"PATH_INFO": path, "REQUEST_METHOD": method, "REMOTE_ADDR": "127.0.0.1", **more}
    (body,) = control(environ, lambda status, headers: told.append(status))
    return int(told[0].split()[0]), json.loads(body)


def test_a_running_task_is_killed_and_its_record_left_to_the_scheduler(control, process):
    assert ask(control) == (200, {"pid": 4711})
    assert process.code == 137
    (task,) = control.records.tasks.values()
    assert (task.last_status, task.desired_status, task.exit_code) == ("RUNNING", "RUNNING", None)


def test_what_has_ended_cannot_be_killed(control, process):
    process.code = 0
    status, answer = ask(control)
    assert (status, "no running process" in answer["message"]) == (409, True)


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"path": KILL.replace("0", "f")}, 404),
        ({"path": "/_sandbox/tasks/../kill"}, 404),
        ({"path": "/_sandbox/stop"}, 404),
        ({"path": KILL + "/"}, 404),
        ({"method": "GET"}, 405),
        ({"REMOTE_ADDR": "10.0.0.7"}, 403),
        ({"REMOTE_ADDR": ""}, 403),
        ({"HTTP_ORIGIN": "http://127.0.0.1:8888"}, 403),
        ({"HTTP_ORIGIN": "null"}, 403),
        ({"HTTP_REFERER": "http://evil.example/"}, 403),
    ],
)
def test_anything_else_is_refused(control, process, more, status):
    assert ask(control, **more)[0] == status
    assert process.code is None


def test_time_is_stopped_and_let_go_on_as_asked():
    asked = []
    control = Control(Records(), pause=lambda: asked.append("pause"), resume=lambda: asked.append("resume"))
    assert ask(control, "/_sandbox/pause") == (200, {"paused": True})
    assert ask(control, "/_sandbox/resume") == (200, {"paused": False})
    assert ask(control, "/_sandbox/pause", method="GET")[0] == 405
    assert ask(control, "/_sandbox/pause", REMOTE_ADDR="10.0.0.7")[0] == 403
    assert ask(control, "/_sandbox/resume", HTTP_ORIGIN="http://evil.example")[0] == 403
    assert asked == ["pause", "resume"]


@pytest.fixture
def endpoint(control):
    endpoint = Endpoint()
    endpoint.mount(PREFIX, control)
    endpoint.start()
    yield endpoint
    endpoint.stop()


def test_it_is_reached_over_http_and_aws_is_answered_as_before(endpoint, process):
    kill_task("sandbox", endpoint.url, f"arn:aws:ecs:us-east-1:123456789012:task/shop/{ID}")
    assert process.code == 137
    assert endpoint.client("sts", "us-east-1").get_caller_identity()["Account"] == "123456789012"


def test_a_refusal_says_why_and_what_to_do(endpoint, process):
    process.code = 0
    with pytest.raises(TutorialError, match="no running process") as refused:
        kill_task("sandbox", endpoint.url, ID)
    assert "app.tasks" in refused.value.next


def test_a_web_page_cannot_ask(endpoint, process):
    request = urllib.request.Request(
        endpoint.url + KILL, method="POST", headers={"Origin": "http://a.example"}
    )
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=5)
    assert process.code is None


def test_on_aws_there_is_no_such_call():
    with pytest.raises(TutorialError, match="no single call") as refused:
        kill_task("aws", "http://127.0.0.1:1", ID)
    assert "Fault Injection" in refused.value.next


def test_a_sandbox_that_is_gone_is_told():
    with pytest.raises(TutorialError, match="does not answer"):
        kill_task("sandbox", "http://127.0.0.1:1", ID)
