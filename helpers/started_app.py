"""A started app: `App`, what it may be given, the wait until it answers, and which one this notebook started last.

It has a task's CPU and memory and nothing of ECS around it. As with a container, the first process is the app: SIGTERM goes to it alone, and when it has ended, the rest goes, too.
"""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPException
from numbers import Integral, Real
from typing import TYPE_CHECKING

from helpers.errors import TutorialError

if TYPE_CHECKING:
    from helpers.sandbox.fargate.runtime import RunningTask

# Real seconds
ANSWERS_WITHIN = 20.0  # a quarter of a vCPU starts Node.js in one or two
STOP_TIMEOUT = 30.0  # between SIGTERM and SIGKILL: what ECS waits unless told; `docker stop` waits 10
DIES_WITHIN = 5.0  # after SIGKILL
WATCH = 0.05  # between two looks at an app that no cell looks at
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
            raise not_there(self, error) from None

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
        check_number("timeout", timeout, Real, *STOP)
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
    """What `remember` was told last, None before and after `end_the_last`."""
    return _running


def check_settings(vcpu: object, memory: object, environment: object) -> dict[str, str]:
    """The environment as texts. TutorialError for what cannot be."""
    check_number("vcpu", vcpu, Real, *VCPU)
    check_number("memory", memory, Integral, *MEMORY)
    return _settings(environment)


def check_number(
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


def not_there(app: App, error: Exception) -> TutorialError:
    """What to raise when a request found nobody."""
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
