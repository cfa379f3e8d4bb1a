"""`run_app`: the app alone on this machine, with a task's CPU and memory and nothing of ECS; what a stop does to a request.

A directory or a snapshot runs as one process; an image that Docker built as a container: helpers/containers.py.
"""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.errors import TutorialError
from helpers.started_app import (
    DIES_WITHIN,
    STOP,
    STOP_TIMEOUT,
    App,
    AppNotStarted,
    check_number,
    check_settings,
    end_the_last,
    not_there,
    remember,
    wait_until_it_answers,
)

if TYPE_CHECKING:
    from helpers.images import Image

# Real seconds
AT_WORK_WITHIN = 20.0  # from a request's way out until the app must be seen working on it
STILL = 0.5  # so long without CPU, and an app that began with a request waits for something else
AT_WORK = 0.02  # CPU seconds since a request, far more than it takes to accept one
TAKES = (0, 60, "real seconds, such as 3")


def run_app(
    app_dir: str | Path | Image,
    *,
    vcpu: float = 0.25,
    memory: int = 512,
    command: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> App:
    """Start the app and return when it answers. The one that this notebook ran before is ended first.

    `app_dir`: where its package.json is; a relative one starts at the checkout. Or an image, what `build_image` returns:
    one that Docker built runs as a container, a snapshot's command as a process in the app's directory. `memory` in MiB.
    `command`: its words, ["npm", "start"]; unless told, the image's, or what package.json's script `start` says, without
    npm. `environment` comes on top of the image's and of what every app gets, PORT among it. AppNotStarted if it does
    not answer; other TutorialErrors if it cannot be run.
    """
    from helpers import containers, this_machine
    from helpers.app_directory import start_command
    from helpers.builds import DockerImage
    from helpers.snapshots import Snapshot

    if isinstance(app_dir, DockerImage):
        return containers.run_container(
            app_dir, vcpu=vcpu, memory=memory, command=command, environment=environment
        )
    settings = check_settings(vcpu, memory, environment)
    if isinstance(app_dir, Snapshot):
        settings = {**shell_of_the_image(), **app_dir.environment, **settings}
        app_dir, command = app_dir.app, app_dir.command if command is None else command
    app, words = start_command(app_dir, command)
    end_the_last()
    process = this_machine.run_process(app, words, vcpu=vcpu, memory=memory, environment=settings)
    started = App(process, vcpu, memory)
    remember(started)
    wait_until_it_answers(started)
    return started


def try_app(app_dir: str | Path | Image, **settings: Any) -> App:
    """As `run_app`, but an app that ends before it answers is a result, too."""
    try:
        return run_app(app_dir, **settings)
    except AppNotStarted as told:
        return told.app


def shell_of_the_image() -> dict[str, str]:
    """The setting that has npm start scripts with the shell that Debian, and so `node:24-slim`, has as sh; empty where
    this machine has none. Another shell may pass a signal on that this one does not."""
    dash = shutil.which("dash")
    return {"npm_config_script_shell": dash} if dash else {}


def has_the_shell(image: object) -> bool:
    """Whether npm starts an image's scripts with that shell: in a container of it always."""
    from helpers.builds import DockerImage

    return isinstance(image, DockerImage) or bool(shell_of_the_image())


# --- a stop in the middle of a request --------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Stopped:
    """What became of a request that was being worked on when the app was stopped, and of the app.

    `outcome`: "HTTP 200", or how the connection ended; `seconds`: real ones from SIGTERM to the app's end; `held`: whether
    the app answers so soon that the request's last line was held back.
    """

    answered: bool
    outcome: str
    exit_code: int | None
    seconds: float
    held: bool = False

    def __repr__(self) -> str:
        request = f"was answered ({self.outcome})" if self.answered else f"got no answer ({self.outcome})"
        half = ", of which the last line came after SIGTERM," if self.held else ""
        return f"The request{half} {request}, and the app ended with exit code {self.exit_code}."


class _Request(threading.Thread):
    """One request: sent when this is made, its answer awaited by the thread."""

    def __init__(self, app: App, path: str):
        super().__init__(daemon=True)
        self.status: int | None = None
        self.outcome = "no answer came"
        self._connection = HTTPConnection(*_address(app), timeout=2 * STOP_TIMEOUT)
        self._send(path)

    def _send(self, path: str) -> None:
        self._connection.request("GET", path)

    def _answer(self) -> HTTPResponse:
        return self._connection.getresponse()

    def run(self) -> None:
        try:
            answer = self._answer()
            answer.read()
            self.status, self.outcome = answer.status, f"HTTP {answer.status}"
        except TimeoutError:
            self.outcome = "it took too long"
        except IncompleteRead:
            self.outcome = "the answer broke off"
        except (OSError, HTTPException):
            self.outcome = "the connection was closed"
        finally:
            self._connection.close()


class _Held(_Request):
    """A request whose last line follows after `takes` real seconds: until then the app has begun with it and waits."""

    def __init__(self, app: App, path: str, takes: float):
        self._takes = takes
        super().__init__(app, path)

    def _send(self, path: str) -> None:
        host, port = self._connection.host, self._connection.port
        self._connection.connect()
        self._connection.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n".encode())

    def _answer(self) -> HTTPResponse:
        connection = self._connection.sock
        connection.settimeout(self._takes)
        with suppress(TimeoutError):
            connection.recv(1, socket.MSG_PEEK)  # an app that goes away meanwhile closes it
        connection.settimeout(2 * STOP_TIMEOUT)
        connection.sendall(b"Connection: close\r\n\r\n")
        answer = HTTPResponse(connection, method="GET")
        answer.begin()
        return answer


def _address(app: App) -> tuple[str, int]:
    host, port = app.url.removeprefix("http://").split(":")
    return host, int(port)


def stop_during_a_request(
    app: App, path: str = "/", *, timeout: float = STOP_TIMEOUT, takes: float = 1.0
) -> Stopped:
    """Send one request, and stop the app once it is seen to be working on it.

    As `App.stop`: SIGTERM, and SIGKILL after `timeout` real seconds. `path` should take longer than about 20 ms of CPU
    time, or wait for something. Where it is answered sooner, the last line of another request is held back for `takes`
    real seconds after SIGTERM.
    """
    if not isinstance(app, App):
        raise TutorialError(
            "There is no app to stop in that.",
            seen=f"{app!r:.80}",
            next="Give it what run_app returns: stop_during_a_request(run_app(app_dir)).",
        )
    check_number("timeout", timeout, Real, *STOP)
    check_number("takes", takes, Real, *TAKES)
    try:
        request = _Request(app, path)
        # On loopback the request is at the app's door by now: what the app uses from here on is for that.
        before = app.cpu_seconds
        request.start()
        held = not _is_at_work(app, request, before)
        if held:
            request = _Held(app, path, takes)
            app.status(path)  # by its answer the app has read what came before
            request.start()
    except OSError as error:
        raise not_there(app, error) from None
    began = time.monotonic()
    app.stop(timeout)
    seconds = time.monotonic() - began
    request.join(DIES_WITHIN)
    return Stopped(request.status is not None, request.outcome, app.exit_code, seconds, held)


def _is_at_work(app: App, request: _Request, before: float) -> bool:
    """True once the app works on it; False when it was answered before that could be seen."""
    now = time.monotonic()
    deadline, used, still_since = now + AT_WORK_WITHIN, before, now
    while request.is_alive() and app.running:
        now, last, used = time.monotonic(), used, app.cpu_seconds
        if used != last:
            still_since = now
        if used - before >= AT_WORK or (used > before and now - still_since >= STILL):
            return True
        if now > deadline:
            raise TutorialError(
                "The app does not begin with the request.",
                seen=f"{app}; no CPU used for it in {AT_WORK_WITHIN:g} s",
                next="Look at app.log.",
            )
        time.sleep(0.002)
    with suppress(RuntimeError):
        request.join(DIES_WITHIN)
    if request.status is not None and app.running:
        return False
    raise TutorialError(
        "The request was over before the app could be stopped.",
        seen=f"{request.outcome}; {app}",
        next="Look at app.log.",
    )
