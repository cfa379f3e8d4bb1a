"""`ask`: what an app says of itself, as the sample app does in JSON; of an app that does not, nothing is known."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

from helpers.errors import TutorialError

ANSWERS_WITHIN = 10.0  # real seconds


def ask(url: str, path: str = "/") -> dict[str, Any]:
    """The JSON object that `path` answers with, `{}` when it answers with anything else.

    TutorialError when nobody answers, or the load balancer does in the app's place.
    """
    request = urllib.request.Request(url + path, headers={"Accept": "application/json"})
    try:
        with _answer(request) as answer:
            return said(answer.read().decode(errors="replace"))
    except (OSError, HTTPException) as error:
        raise TutorialError(
            f"No app answers at {url}{path}.",
            seen=str(error),
            next="Is the service steady? `app.until_steady()` says why not.",
        ) from None


def said(text: str) -> dict[str, Any]:
    """A text's JSON object; `{}` when it is none, as a line of log may be."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _answer(request: urllib.request.Request) -> Any:
    """An error of the app's own is an answer, too."""
    try:
        return urllib.request.urlopen(request, timeout=ANSWERS_WITHIN)
    except urllib.error.HTTPError as error:
        if error.code in (502, 503, 504):  # the load balancer's
            error.close()
            raise
        return error
