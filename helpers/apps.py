"""`run_app`: the app as one process on this machine, with a task's CPU and memory and nothing of ECS around it.

As with a container, the first process is the app: SIGTERM goes to it alone, and when it has ended, the rest goes, too.
"""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, IncompleteRead
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.errors import TutorialError

if TYPE_CHECKING:
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
    app_dir: str | Path,
    *,
    vcpu: float = 0.25,
    memory: int = 512,
    command: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> App:
    """Start the app and return when it answers. The one that this notebook ran before is ended first.

    `app_dir`: where its package.json is; a relative one starts at the checkout. `memory` in MiB. `command`: its words,
    ["npm", "start"]; unless told, what package.json's script `start` says, without npm. `environment` comes on top of
    what every app gets, PORT among it. AppNotStarted if it does not answer; other TutorialErrors if it cannot be run.
    """
    global _running
    from helpers import session
    from helpers.images import start_command

    app, words = start_command(app_dir, command)
    _check_number("vcpu", vcpu, Real, *VCPU)
    _check_number("memory", memory, Integral, *MEMORY)
    settings = _settings(environment)
    last, _running = _running, None
    with suppress(Exception):  # whatever is wrong with that one is no reason not to start another
        if last is not None:
            last.kill()
    process = session.run_process(app, words, vcpu=vcpu, memory=memory, environment=settings)
    _running = started = App(
        process, vcpu, memory
    )  # known before it answers: an interrupted cell leaves none behind
    _wait_until_it_answers(started)
    return started


def try_app(app_dir: str | Path, **settings: Any) -> App:
    """As `run_app`, but an app that ends before it answers is a result, too."""
    try:
        return run_app(app_dir, **settings)
    except AppNotStarted as told:
        return told.app


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


def _wait_until_it_answers(app: App) -> None:
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

    `outcome`: "HTTP 200", or how the connection ended; `seconds`: real ones from SIGTERM to the app's end.
    """

    answered: bool
    outcome: str
    exit_code: int | None
    seconds: float

    def __repr__(self) -> str:
        request = f"was answered ({self.outcome})" if self.answered else f"got no answer ({self.outcome})"
        return f"The request {request}, and the app ended with exit code {self.exit_code}."


class _Request(threading.Thread):
    """One request: sent when this is made, its answer awaited by the thread."""

    def __init__(self, app: App, path: str):
        super().__init__(daemon=True)
        self.status: int | None = None
        self.outcome = "no answer came"
        host, port = app.url.removeprefix("http://").split(":")
        self._connection = HTTPConnection(host, int(port), timeout=2 * STOP_TIMEOUT)
        self._connection.request("GET", path)

    def run(self) -> None:
        try:
            answer = self._connection.getresponse()
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


def stop_during_a_request(app: App, path: str = "/", *, timeout: float = STOP_TIMEOUT) -> Stopped:
    """Send one request, and stop the app once it is seen to be working on it.

    As `App.stop`: SIGTERM, and SIGKILL after `timeout` real seconds. TutorialError when the request is over before
    that: `path` must take longer than about 20 ms of CPU time, or wait for something.
    """
    if not isinstance(app, App):
        raise TutorialError(
            "There is no app to stop in that.",
            seen=f"{app!r:.80}",
            next="Give it what run_app returns: stop_during_a_request(run_app(app_dir)).",
        )
    _check_number("timeout", timeout, Real, *STOP)
    try:
        request = _Request(app, path)
    except OSError as error:
        raise _not_there(app, error) from None
    # On loopback the request is at the app's door by now: what the app uses from here on is for that.
    before = app.cpu_seconds
    request.start()
    _wait_until_at_work(app, request, before)
    began = time.monotonic()
    app.stop(timeout)
    seconds = time.monotonic() - began
    request.join(DIES_WITHIN)
    return Stopped(request.status is not None, request.outcome, app.exit_code, seconds)


def _wait_until_at_work(app: App, request: _Request, before: float) -> None:
    now = time.monotonic()
    deadline, used, still_since = now + AT_WORK_WITHIN, before, now
    while request.is_alive() and app.running:
        now, last, used = time.monotonic(), used, app.cpu_seconds
        if used != last:
            still_since = now
        if used - before >= AT_WORK or (used > before and now - still_since >= STILL):
            return
        if now > deadline:
            raise TutorialError(
                "The app does not begin with the request.",
                seen=f"{app}; no CPU used for it in {AT_WORK_WITHIN:g} s",
                next="Look at app.log.",
            )
        time.sleep(0.002)
    with suppress(RuntimeError):
        request.join(DIES_WITHIN)
    raise TutorialError(
        "The request was over before the app could be stopped.",
        seen=f"{request.outcome}; {app}",
        next='Ask for something that takes longer; the sample app with environment={"WORK_MS": "500"}.',
    )
