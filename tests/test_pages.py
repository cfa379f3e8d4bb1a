"""A page in a cell, against a small HTTP server."""

from __future__ import annotations

import socket
import threading
from contextlib import closing
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from helpers.errors import TutorialError
from helpers.pages import MOST_BYTES, page

HELLO = """<!doctype html><html><head><title>Shop</title><style>p{color:red}</style></head>
<body><script>alert("no")</script><p>Hello <b>you</b> &amp; me, you said "hi"</p><a href="/next">next</a></body></html>"""
ANSWERS = {
    "/": (200, "text/html; charset=utf-8", HELLO.encode()),
    "/visits": (200, "application/json", b'{"visits":1}'),
    "/umlaut": (200, "text/html; charset=iso-8859-1", "<p>grün</p>".encode("iso-8859-1")),
    "/unknown": (200, "text/html; charset=klingon", b"<p>nuqneH</p>"),
    "/gone": (502, "text/html", b"<h1>Bad Gateway</h1>"),
    "/long": (200, "text/plain", b"x" * (MOST_BYTES + 1)),
}


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        status, kind, body = ANSWERS[self.path]
        self.send_response(status)
        self.send_header("Content-Type", kind if "html" in self.headers["Accept"] else "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def url():
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class Frames(HTMLParser):
    """The attributes of each tag of a kind, as a browser reads them."""

    def __init__(self, html: str):
        super().__init__()
        self.frames, self.links = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        {"iframe": self.frames, "a": self.links}.get(tag, []).append(dict(attrs))


def test_the_frame_holds_what_the_server_answered_and_links_lead_to_the_app(url):
    (frame,) = Frames(page(url + "/")._repr_html_()).frames
    assert frame["srcdoc"].endswith(HELLO)
    assert frame["srcdoc"].startswith(f'<base href="{url}/" target="_blank">')


def test_the_frame_runs_no_script_and_has_no_place_in_the_notebook(url):
    (frame,) = Frames(page(url + "/")._repr_html_()).frames
    allowed = set(frame["sandbox"].split())
    assert not allowed & {"allow-scripts", "allow-same-origin", "allow-top-navigation", "allow-forms"}
    assert "src" not in frame


def test_the_address_is_offered_beside_it(url):
    assert Frames(page(url + "/")._repr_html_()).links[0]["href"] == url + "/"


def test_as_text_it_is_what_a_reader_sees(url):
    assert repr(page(url + "/")) == f'{url}/ answered 200: Hello you & me, you said "hi" next'


def test_what_is_not_html_is_shown_as_it_came(url):
    json = page(url + "/visits")
    assert json.text == '{"visits":1}'
    assert "<pre>{&quot;visits&quot;:1}</pre>" in Frames(json._repr_html_()).frames[0]["srcdoc"]


def test_an_error_page_is_a_page(url):
    assert (page(url + "/gone").status, page(url + "/gone").text) == (502, "Bad Gateway")


def test_other_character_sets_are_read(url):
    assert page(url + "/umlaut").text == "grün"
    assert page(url + "/unknown").text == "nuqneH"


def test_no_notebook_gets_more_than_it_can_hold(url):
    assert len(page(url + "/long").body) == MOST_BYTES


def test_nobody_answering_is_told(url):
    with pytest.raises(TutorialError, match="Nobody answers"):
        page("http://127.0.0.1:1/")


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"


@pytest.mark.parametrize(
    "said",
    [
        HEAD + b"Content-Length: 100\r\n\r\n<p>Hel",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n64\r\n<p>Hel",
        HEAD.replace(b"200 OK", b"502 Bad Gateway") + b"Content-Length: 100\r\n\r\n<p>Hel",
        b"hello\r\n\r\n",
    ],
    ids=["cut", "cut in a chunk", "an error page, cut", "no HTTP"],
)
def test_an_answer_that_breaks_off_is_told(said):
    def answer() -> None:
        with closing(server.accept()[0]) as connection:
            connection.recv(65536)
            connection.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=answer)
        answering.start()
        with pytest.raises(TutorialError, match="no whole answer"):
            page(f"http://127.0.0.1:{server.getsockname()[1]}/")
        answering.join()


@pytest.mark.parametrize("address", ["file:///etc/hostname", "127.0.0.1", ""])
def test_only_http_is_asked(address):
    with pytest.raises(TutorialError, match="http"):
        page(address)
