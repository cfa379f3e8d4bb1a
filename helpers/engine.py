"""The Docker Engine as the other helpers ask it: a client for once, and an error that says what to do when it fails."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from helpers.errors import TutorialError

if TYPE_CHECKING:
    from docker import DockerClient

SILENT = 900.0  # real seconds that a step of a build may say nothing
PATIENCE = 60.0  # real seconds for any other answer of the engine
NO_ROOM = re.compile(r"no space left on device|ENOSPC|disk quota exceeded", re.IGNORECASE)
NO_WAY_OUT = re.compile(
    r"no such host|Temporary failure in name resolution|connection refused|i/o timeout|TLS handshake timeout"
    r"|request canceled|Client\.Timeout|network is unreachable|proxyconnect"
)
CHECK_UP = "`from helpers.checkup import checkup; checkup()` says what is there and how to start it."
MAKE_ROOM = (
    "`docker system df` shows what Docker holds; `docker image prune` and `docker builder prune` make room."
)


@contextmanager
def reach(patience: float = PATIENCE) -> Iterator[DockerClient]:
    """A client of the engine, which may be silent for so many real seconds. An engine that goes away is told."""
    from helpers import this_machine

    engine = this_machine.find_engine()
    engine.api.timeout = patience
    try:
        with unless_gone():
            yield engine
    finally:
        engine.close()


@contextmanager
def unless_gone() -> Iterator[None]:
    """TutorialError when the engine goes away in the meantime; what it refuses is still an APIError."""
    from docker.errors import APIError
    from requests.exceptions import BaseHTTPError, RequestException

    try:
        yield
    except APIError:
        raise
    except (RequestException, BaseHTTPError, ConnectionError) as problem:
        raise engine_gone(str(problem)) from None


def engine_gone(seen: str) -> TutorialError:
    return TutorialError(
        "The Docker Engine went away, or says nothing any more.",
        seen=seen,
        next=f"Start it and run this cell again. {CHECK_UP}",
    )


def refused(what: str, problem: Any) -> TutorialError:
    """What the engine answered no to. `problem`: its APIError."""
    said = str(problem.explanation or problem)
    if NO_ROOM.search(said):
        return TutorialError("The engine's disk is full.", seen=said, next=MAKE_ROOM)
    return TutorialError(what, seen=said, next="Mend that, and run this cell again.")
