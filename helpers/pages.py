"""`page`: an app's page shown in the cell, also where the browser cannot reach the app's address.

What the server answered is put into the notebook, in a frame that runs none of its scripts and may not reach into the
notebook. Links in it lead to the app's own address, in a new tab.
"""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from html import escape
from html.parser import HTMLParser
from urllib.parse import urlsplit

from helpers.errors import TutorialError

ANSWERS_WITHIN = 10.0  # real seconds
MOST_BYTES = 500_000  # a notebook is no place for more
HEIGHT = 300  # pixels
ACCEPT = "text/html,application/xhtml+xml,*/*;q=0.8"  # as a browser asks
UNSEEN = {"script", "style", "title", "head", "template", "noscript"}
VOID = {"meta", "link", "base", "br", "img", "input", "hr"}  # have no end


@dataclass(frozen=True)
class Page:
    """What a server answered to a GET. The repr is its text; in a notebook it is shown as a browser would."""

    url: str
    status: int
    content_type: str
    body: str = field(repr=False)

    @property
    def text(self) -> str:
        """What a reader sees of it, on one line."""
        if not self._is_html:
            return _on_one_line(self.body)
        words = _Words()
        words.feed(self.body)
        words.close()
        return _on_one_line(" ".join(words.seen))

    @property
    def _is_html(self) -> bool:
        return "html" in self.content_type

    def __repr__(self) -> str:
        return f"{self.url} answered {self.status}: {self.text[:500]}"

    def _repr_html_(self) -> str:
        shown = self.body if self._is_html else f"<pre>{escape(self.body)}</pre>"
        base = f'<base href="{escape(self.url)}" target="_blank">'
        frame = (
            f'<iframe sandbox="allow-popups allow-popups-to-escape-sandbox" srcdoc="{escape(base + shown)}" '
            f'title="{escape(self.url)}" width="100%" height="{HEIGHT}" style="border:1px solid #9998"></iframe>'
        )
        return f"<p>{_link(self.url)} answered {self.status}</p>{frame}"


def page(url: str) -> Page:
    """Ask `url` as a browser does, and return the page to be shown. TutorialError when nobody answers.

    An error page (404, 502) is a page, too; `.status` tells.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise TutorialError("page() wants an http:// address.", seen=url, next='Use outputs["Url"].')
    request = urllib.request.Request(url, headers={"Accept": ACCEPT})
    try:
        return _ask(url, request)
    except http.client.HTTPException as error:
        raise TutorialError(
            f"There was no whole answer from {url}.",
            seen=f"{type(error).__name__}: {error}",
            next="Ask again. If that is how it stays, read what the app wrote: does a task end in the middle?",
        ) from None
    except OSError as error:
        raise TutorialError(
            f"Nobody answers at {url}.",
            seen=str(getattr(error, "reason", error)),
            next="Is the service steady? `app.until_steady()` says why not.",
        ) from None


def _ask(url: str, request: urllib.request.Request) -> Page:
    try:
        with urllib.request.urlopen(request, timeout=ANSWERS_WITHIN) as answer:
            return _page(url, answer)
    except urllib.error.HTTPError as answer:
        with answer:
            return _page(url, answer)


def _page(url: str, answer: urllib.response.addinfourl) -> Page:
    kind = answer.headers.get_content_type()
    letters = answer.headers.get_content_charset() or "utf-8"
    body = answer.read(MOST_BYTES)
    if answer.length and len(body) < MOST_BYTES:
        raise http.client.IncompleteRead(body, answer.length)
    try:
        text = body.decode(letters, "replace")
    except LookupError:  # a character set that nobody knows
        text = body.decode("utf-8", "replace")
    return Page(url, answer.status, kind, text)


def _link(url: str) -> str:
    return f'<a href="{escape(url)}" target="_blank" rel="noopener">{escape(url)}</a>'


def _on_one_line(text: str) -> str:
    return re.sub(r"\s+([,.;:!?])", r"\1", " ".join(text.split()))


class _Words(HTMLParser):
    """The text of an HTML page, without what a browser does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self._unseen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in UNSEEN and tag not in VOID:
            self._unseen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._unseen:
            del self._unseen[self._unseen.index(tag) :]

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.seen.append(data)
