"""What AWS has no call for, asked of the sandbox; `helpers/sandbox/control.py` answers."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from helpers.errors import SandboxRefuses, TutorialError


def post(endpoint: str, path: str, *, within: float) -> None:
    """POST to `/_sandbox/<path>` of the sandbox at `endpoint`, which answers `within` so many real seconds.

    SandboxRefuses, in its own words; TutorialError when it does not answer.
    """
    request = urllib.request.Request(f"{endpoint}/_sandbox/{path}", method="POST")
    try:
        urllib.request.urlopen(request, timeout=within).close()
    except urllib.error.HTTPError as answer:
        with answer:
            message = _message(answer.read())
        raise SandboxRefuses("The sandbox does not do this.", seen=message) from None
    except OSError as error:
        raise TutorialError(
            "The sandbox does not answer.",
            seen=str(getattr(error, "reason", error)),
            next="Connect again, and catch up.",
        ) from None


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:200]
