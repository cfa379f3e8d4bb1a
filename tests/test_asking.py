"""What an app says of itself, asked of a small server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from helpers.asking import ask, said
from helpers.errors import TutorialError

ANSWERS = {
    "/": (200, '{"task": "a", "zone": "us-east-1a"}'),
    "/missing": (404, '{"task": "b"}'),
    "/text": (200, "hello"),
    "/list": (200, "[1]"),
    "/gateway": (502, "<html>bad gateway</html>"),
}


class Says(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, text = ANSWERS[self.path]
        self.send_response(status if self.headers["Accept"] == "application/json" else 406)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Says) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_it_is_the_json_that_the_app_answers_with_whatever_the_status(url):
    assert ask(url) == {"task": "a", "zone": "us-east-1a"}
    assert ask(url, "/missing") == {"task": "b"}


def test_an_app_that_answers_otherwise_says_nothing_of_itself(url):
    assert ask(url, "/text") == ask(url, "/list") == {}


def test_what_is_not_the_apps_answer_is_told(url):
    with pytest.raises(TutorialError, match=r"(?s)No app answers at .*/gateway.*502"):
        ask(url, "/gateway")
    with pytest.raises(TutorialError, match="refused"):
        ask("http://127.0.0.1:1")


def test_a_line_of_log_may_be_json_or_not():
    assert said('{"path": "/"}') == {"path": "/"}
    assert said("GET /") == said("3") == {}
