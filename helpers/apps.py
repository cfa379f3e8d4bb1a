"""`run_app`: the app as one process on this machine, with a task's CPU and memory and nothing of ECS around it.

An image that Docker built runs as a container instead: helpers/containers.py. As with a container, the first process is the app: SIGTERM goes to it alone, and when it has ended, the rest goes, too.
"""

from __future__ import annotations

import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.errors import TutorialError

if TYPE_CHECKING:
    from helpers.images import Image
    from helpers.sandbox.tasks import RunningTask

# Real seconds
ANSWERS_WITHIN = 20.0  # a quarter of a vCPU starts Node.js in one or two
STOP_TIMEOUT = 30.0  # between SIGTERM and SIGKILL: what ECS waits unless told; `docker stop` waits 10
DIES_WITHIN = 5.0  # after SIGKILL
AT_WORK_WITHIN = 20.0  # from a request's way out until the app must be seen working on it
STILL = 0.5  # so long without CPU, and an app that began with a request waits for something else
WATCH = 0.05  # between two looks at an app that no cell looks at
AT_WORK = 0.02  # CPU seconds since a request, far more than it takes to accept one
MIB = 2**20
VCPU = (0.01, 16, "vCPU, such as 0.25")  # at most what the largest task on Fargate has; so the next
MEMORY = (1, 122_880, "MiB, a whole number such as 512")
STOP = (0, 3600, "real seconds, such as 30")
TAKES = (0, 60, "real seconds, such as 3")
_running: App | None = None


class App:
    """A running app. `url`: where it answers; `vcpu`, `memory` (MiB): what it may use."""

    def __init__(self, process: RunningTask, vcpu: float, memory: int = 512):
        self._process, self.vcpu, self.memory = process, vcpu, memory
        host, port = process.address
        self.url = f"http://{host}:{port}"
        threading.Thread(target=self._watch, name=f"app on port {port}", daemon=True).start()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """As a container's: 0, 1, 137 after SIGKILL; None while it runs."""
        return self._process.poll()

    @property
    def out_of_memory(self) -> bool:
        """Whether it was killed because it used more than its memory, which is looked at each quarter second."""
        return self._process.out_of_memory

    def status(self, path: str = "/") -> int:
        """The HTTP status that it answers with. TutorialError when it does not answer."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=ANSWERS_WITHIN) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except (OSError, HTTPException) as error:
            raise _not_there(self, error) from None

    def over_memory(self) -> bool:
        """Whether it uses more than its memory now, and will be killed for that at the next look."""
        return self._process.memory_bytes() > self.memory * MIB

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds that all its processes have used."""
        return self._process.cpu_seconds()

    @property
    def log(self) -> str:
        """The last lines that it wrote to standard output and standard error."""
        return "\n".join(self._process.output.read_text(errors="replace").splitlines()[-10:])

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """End it as ECS and `docker stop` do: SIGTERM to its first process, SIGKILL to all that is left after `timeout`
        real seconds. Returns when it is gone."""
        _check_number("timeout", timeout, Real, *STOP)
        self._process.stop(timeout)
        self._until_gone(timeout + DIES_WITHIN)

    def kill(self) -> None:
        """End it as a crash would: SIGKILL. Returns when it is gone."""
        self._process.kill()
        self._until_gone(DIES_WITHIN)

    def _until_gone(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (self.running or self._process.listening()) and time.monotonic() < deadline:
            time.sleep(0.002)  # until this look, what the first process has left behind goes on

    def _watch(self) -> None:
        """Its limits hold, and its rest goes with its first process, whether or not a cell looks at it."""
        while self.running:
            time.sleep(WATCH)

    def __repr__(self) -> str:
        if self.running:
            state = f"running at {self.url}"
        elif self.out_of_memory:
            state = f"killed for using more than its {self.memory} MiB of memory, exit code {self.exit_code}"
        else:
            state = f"ended with exit code {self.exit_code}"
        return f"one process with {self.vcpu:g} vCPU, {state}"


class AppNotStarted(TutorialError):
    """An app never answered. `app`: what is left of it, with its exit code and its log."""

    def __init__(self, app: App, what: str, *, seen: str, next: str):
        super().__init__(what, seen=seen, next=next)
        self.app = app


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
    from helpers import session
    from helpers.app_directory import start_command
    from helpers.builds import DockerImage
    from helpers.snapshots import Snapshot

    if isinstance(app_dir, DockerImage):
        from helpers import containers

        return containers.run_container(
            app_dir, vcpu=vcpu, memory=memory, command=command, environment=environment
        )
    settings = check_settings(vcpu, memory, environment)
    if isinstance(app_dir, Snapshot):
        settings = {**shell_of_the_image(), **app_dir.environment, **settings}
        app_dir, command = app_dir.app, app_dir.command if command is None else command
    app, words = start_command(app_dir, command)
    end_the_last()
    process = session.run_process(app, words, vcpu=vcpu, memory=memory, environment=settings)
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


def end_the_last() -> None:
    """End the app that this notebook ran last, process or container."""
    global _running
    last, _running = _running, None
    with suppress(Exception):  # whatever is wrong with that one is no reason not to start another
        if last is not None:
            last.kill()


def remember(app: App) -> None:
    """The app that this notebook runs now. Known before it answers: an interrupted cell leaves none behind."""
    global _running
    _running = app


def last_run() -> App | None:
    return _running


def shell_of_the_image() -> dict[str, str]:
    """The setting that has npm start scripts with the shell that Debian, and so `node:24-slim`, has as sh; empty where
    this machine has none. Another shell may pass a signal on that this one does not."""
    dash = shutil.which("dash")
    return {"npm_config_script_shell": dash} if dash else {}


def has_the_shell(image: object) -> bool:
    """Whether npm starts an image's scripts with that shell: in a container of it always."""
    from helpers.builds import DockerImage

    return isinstance(image, DockerImage) or bool(shell_of_the_image())


def check_settings(vcpu: object, memory: object, environment: object) -> dict[str, str]:
    """The environment as texts. TutorialError for what cannot be."""
    _check_number("vcpu", vcpu, Real, *VCPU)
    _check_number("memory", memory, Integral, *MEMORY)
    return _settings(environment)


def _check_number(
    name: str, value: object, kind: type[Real | Integral], low: float, high: float, unit: str
) -> None:
    """TutorialError when it is not a number of that kind, from `low` to `high`."""
    if isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high:
        return
    raise TutorialError(
        f"{name} cannot be that.",
        seen=f"{name}={value!r:.80}",
        next=f"Say a number from {low:g} to {high:,}, in {unit}; without quotation marks.",
    )


def _settings(environment: object) -> dict[str, str]:
    """An app's environment; a value may be a number."""
    given = {} if environment is None else environment
    if isinstance(given, Mapping):
        settings = {name: str(value) for name, value in given.items()}
        if all(isinstance(name, str) and name and "=" not in name for name in settings) and not any(
            "\0" in text for text in (*settings, *settings.values())
        ):
            return settings
    raise TutorialError(
        "An environment is a name and a value for each variable.",
        seen=f"environment={environment!r:.80}",
        next='Say environment={"WORK_MS": "200"}.',
    )


def _not_there(app: App, error: Exception) -> TutorialError:
    return TutorialError(
        "The app takes no requests.", seen=f"{app}; {error}", next="Start it with run_app()."
    )


def _answers(url: str, patience: float) -> bool:
    try:
        urllib.request.urlopen(url, timeout=max(0.1, patience)).close()
    except urllib.error.HTTPError as error:
        error.close()  # any answer is an answer
    except (OSError, HTTPException):
        return False
    return True


def wait_until_it_answers(app: App) -> None:
    """Return once it answers. AppNotStarted, and the app ended, when it does not in time."""
    deadline = time.monotonic() + ANSWERS_WITHIN
    while time.monotonic() < deadline:
        if _answers(app.url, deadline - time.monotonic()) and not app.over_memory():
            return
        if not app.running:
            break
        time.sleep(0.05)
    next = "Mend the app. It must listen on the port that the environment variable PORT names."
    if app.running:
        why = f"no answer in {ANSWERS_WITHIN:g} s"
        app.kill()
    elif app.out_of_memory:
        why = f"it used more than its {app.memory} MiB of memory and was killed, exit code {app.exit_code}"
        next = "Give it more, or make it need less. A small Node.js app needs about 100 MiB."
    else:
        why = f"it ended with exit code {app.exit_code}"
    said = f"its last lines:\n{app.log}" if app.log else "it wrote nothing"
    raise AppNotStarted(app, "The app did not start.", seen=f"{why}; {said}", next=next)


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
    _check_number("timeout", timeout, Real, *STOP)
    _check_number("takes", takes, Real, *TAKES)
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
        raise _not_there(app, error) from None
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
