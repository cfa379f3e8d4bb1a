"""What the sandbox answers to what AWS has no call for, and what of it a notebook is told."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from helpers import control
from helpers.errors import SandboxRefuses, TutorialError
from helpers.faults import kill_task

ANSWERS = {
    "/_sandbox/pause": (200, b"{}"),
    "/_sandbox/tasks/1/kill": (409, b'{"message": "Task 1 is STOPPED."}'),
    "/_sandbox/broken": (500, b"<h1>Internal Server Error</h1>"),
}


class Sandbox(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        status, body = ANSWERS[self.path]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def endpoint():
    with HTTPServer(("127.0.0.1", 0), Sandbox) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_is_done_is_not_told(endpoint):
    control.post(endpoint, "pause", within=5)


@pytest.mark.parametrize(
    ("path", "words"), [("tasks/1/kill", "Task 1 is STOPPED."), ("broken", "<h1>Internal")]
)
def test_a_refusal_is_in_the_sandboxs_words(endpoint, path, words):
    with pytest.raises(SandboxRefuses) as refusal:
        control.post(endpoint, path, within=5)
    assert refusal.value.seen.startswith(words)


def test_what_cannot_be_killed_is_told_with_what_to_do(endpoint):
    with pytest.raises(TutorialError, match=r"(?s)nothing to kill.*Task 1 is STOPPED.*RUNNING"):
        kill_task("sandbox", endpoint, "arn:aws:ecs:us-east-1:123456789012:task/lab/1")


def test_a_sandbox_that_is_gone_is_told():
    with pytest.raises(TutorialError, match=r"(?s)does not answer.*refused.*catch up"):
        control.post("http://127.0.0.1:1", "pause", within=5)
