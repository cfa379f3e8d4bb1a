"""`run_app`: the app as one process on this machine, with a task's CPU and without anything of ECS around it."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.errors import TutorialError

if TYPE_CHECKING:
    from helpers.sandbox.tasks import RunningTask

ANSWERS_WITHIN = 20.0  # real seconds; a quarter of a vCPU starts Node.js in one or two
_running: App | None = None


class App:
    """A running app. `url`: where it answers; `vcpu`: what it may use."""

    def __init__(self, process: RunningTask, vcpu: float):
        self._process, self.vcpu = process, vcpu
        host, port = process.address
        self.url = f"http://{host}:{port}"

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """As a container's: 0, 1, 137 after SIGKILL; None while it runs."""
        return self._process.poll()

    @property
    def log(self) -> str:
        """The last lines that it wrote to standard output and standard error."""
        return "\n".join(self._process.output.read_text(errors="replace").splitlines()[-10:])

    def kill(self) -> None:
        """End it as a crash would: SIGKILL. Returns when it is gone."""
        self._process.kill()
        deadline = time.monotonic() + 5
        while self.running and time.monotonic() < deadline:
            time.sleep(0.01)

    def __repr__(self) -> str:
        state = f"running at {self.url}" if self.running else f"ended with exit code {self.exit_code}"
        return f"one process with {self.vcpu:g} vCPU, {state}"


def run_app(app_dir: str | Path, *, vcpu: float = 0.25) -> App:
    """Start the app and return when it answers. The one that this notebook ran before is ended first.

    `app_dir`: where its package.json is; a relative one starts at the checkout. TutorialError if it does not answer.
    """
    global _running
    from helpers import session
    from helpers.images import start_command

    app, command = start_command(app_dir)
    if _running is not None:
        _running.kill()
    started = App(session.run_process(app, command, vcpu=vcpu), vcpu)
    _wait_until_it_answers(started)
    _running = started
    return started


def _wait_until_it_answers(app: App) -> None:
    deadline = time.monotonic() + ANSWERS_WITHIN
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(app.url, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return  # any answer is an answer
        except OSError:
            if not app.running:
                break
            time.sleep(0.05)
    why = (
        f"it ended with exit code {app.exit_code}"
        if not app.running
        else f"no answer in {ANSWERS_WITHIN:g} s"
    )
    app.kill()
    raise TutorialError(
        "The app did not start.",
        seen=f"{why}; its last lines:\n{app.log}",
        next="Mend the app. It must listen on the port that the environment variable PORT names.",
    )
