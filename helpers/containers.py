"""`run_container`: an image as one container of the Docker Engine, with a task's CPU and memory and nothing of ECS.

What is said of `helpers.started_app.App` holds for it; the kernel keeps the limits.
"""

from __future__ import annotations

import atexit
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from helpers import builds, started_app
from helpers.app_directory import check_command
from helpers.builds import DockerImage
from helpers.engine import refused, unless_gone
from helpers.errors import TutorialError
from helpers.started_app import DIES_WITHIN, STOP_TIMEOUT, App, AppNotStarted

if TYPE_CHECKING:
    from docker import DockerClient

OWNER = "tutorial.app"  # label; its value is the machine and process that started the container
PORT = 3000  # what the app listens on in its container when neither its environment nor its image says
LINES = 10  # of the log
SETTLES = 0.2  # real seconds from one look at the log to the next: the engine has it a moment after the app wrote it
MIB = 2**20


@dataclass(frozen=True)
class End:
    """What is kept of a container: it is removed once it has ended."""

    exit_code: int
    out_of_memory: bool
    log: str
    cpu_seconds: float


class ContainerApp(App):
    """A running container. `url`: where it answers; `vcpu`, `memory` (MiB): what it may use; `port`: inside it."""

    def __init__(
        self, engine: DockerClient, container: str, image: DockerImage, vcpu: float, memory: int, port: int
    ):
        from helpers import this_machine

        self._engine, self._id, self._end = engine, container, None
        self.image, self.vcpu, self.memory, self.port = image, vcpu, memory, port
        state = self._inspect()
        self._stop_signal = state["Config"].get("StopSignal") or "SIGTERM"
        published = (state["NetworkSettings"]["Ports"].get(f"{port}/tcp") or [{}])[0]
        self.url = f"http://127.0.0.1:{published.get('HostPort', port)}"
        self._used = 0.0
        self._clock: Callable[[], float] | None = this_machine.cpu_clock(state["State"]["Pid"], container)

    @property
    def running(self) -> bool:
        return self._look() is None

    @property
    def exit_code(self) -> int | None:
        """0, 1, 137 after SIGKILL; None while it runs."""
        end = self._look()
        return None if end is None else end.exit_code

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel killed one of its processes because it used more than its memory."""
        end = self._look()
        return end is not None and end.out_of_memory

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds that all its processes have used. An engine in a virtual machine tells once a second."""
        end = self._look()
        return end.cpu_seconds if end else self._cpu_now()

    @property
    def log(self) -> str:
        """The last lines that it wrote to standard output and standard error."""
        if end := self._look():
            return end.log
        text, last = self._log_now(), None
        while text != last and self.running:
            time.sleep(SETTLES)
            text, last = self._log_now(), text
        return text

    def over_memory(self) -> bool:
        """Never for longer than a moment: the kernel looks at each page."""
        return False

    def processes(self) -> list[dict[str, str]]:
        """Its processes: UID, PID and PPID as the engine's machine numbers them, and CMD, the command line."""
        found = self._engine.api.top(self._id, ps_args="-o uid,pid,ppid,args")
        return [dict(zip(("UID", "PID", "PPID", "CMD"), row, strict=True)) for row in found["Processes"]]

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """As `docker stop`: SIGTERM to its first process, SIGKILL to all that is left after `timeout` real seconds.
        Returns when it is gone."""
        self._signal(self._stop_signal)
        if not self._until_gone(timeout):
            self.kill()

    def kill(self) -> None:
        """End it as a crash would: SIGKILL. Returns when it is gone."""
        self._signal("SIGKILL")
        self._until_gone(DIES_WITHIN)

    def _signal(self, name: str) -> None:
        from docker.errors import APIError

        if self._end is None:
            with suppress(APIError), unless_gone():  # it has ended
                self._engine.api.kill(self._id, name)

    def _until_gone(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.running and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self.running

    def _inspect(self) -> dict[str, Any]:
        return self._engine.api.inspect_container(self._id)

    def _look(self) -> End | None:
        """How it ended, None while it runs. An ended one is removed at the first look."""
        from docker.errors import APIError, NotFound

        if self._end is None:
            with unless_gone():
                try:
                    state = self._inspect()["State"]
                    if state["Running"]:
                        return None
                    end = End(state["ExitCode"], state["OOMKilled"], self._log_now(), self._used)
                    with suppress(APIError):
                        self._engine.api.remove_container(self._id, force=True, v=True)
                except NotFound:  # somebody else has removed it
                    end = End(137, False, "", self._used)
            self._end = end
            self._engine.close()
        return self._end

    def _log_now(self) -> str:
        text = self._engine.api.logs(self._id, tail=LINES).decode(errors="replace")
        return "\n".join(text.splitlines()[-LINES:])

    def _cpu_now(self) -> float:
        if self._clock is not None:
            with suppress(OSError):  # it ends just now
                self._used = self._clock()
        else:
            told = self._engine.api.stats(self._id, stream=False, one_shot=True)
            self._used = max(self._used, told["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9)
        return self._used

    def __repr__(self) -> str:
        if self.running:
            state = f"with {self.vcpu:g} vCPU, running at {self.url}"
        elif self.out_of_memory:
            state = f"killed for using more than its {self.memory} MiB, exit code {self.exit_code}"
        else:
            state = f"ended with exit code {self.exit_code}"
        return f"one container of {self.image.name}, {state}"


def run_container(
    image: DockerImage | str,
    *,
    vcpu: float = 0.25,
    memory: int = 512,
    command: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> ContainerApp:
    """Start a container and return when the app in it answers. The one that this notebook ran before is ended first.

    `image`: what `build_image` made, or the name of one that the engine has. `memory` in MiB. `command`: its words; the
    image's unless told. `environment` comes on top of the image's; PORT is the image's first exposed port, else 3000.
    AppNotStarted if it does not answer; other TutorialErrors if it cannot be started.
    """
    settings = started_app.check_settings(vcpu, memory, environment)
    check_command(command)
    image = builds.image(image) if isinstance(image, str) else image
    started_app.end_the_last()
    started = start_container(image, vcpu, memory, command, settings)
    started_app.remember(started)
    wait_until_it_answers(started)
    return started


def wait_until_it_answers(started: ContainerApp) -> None:
    """As of any app; AppNotStarted says, too, what only a container can have wrong."""
    image = started.image
    try:
        started_app.wait_until_it_answers(started)
    except AppNotStarted as told:
        if told.app.exit_code == 137 and not told.app.out_of_memory:
            told.next += " And on 0.0.0.0: on 127.0.0.1 nobody outside the container reaches it."
        if "exec format error" in told.seen:
            told.next = f"Its image is for {image.architecture}. Build it for this engine's processor: build_image(…)."
        raise


def try_container(image: DockerImage | str, **settings: Any) -> ContainerApp:
    """As `run_container`, but an app that ends before it answers is a result, too."""
    try:
        return run_container(image, **settings)
    except AppNotStarted as told:
        return told.app


def start_container(
    image: DockerImage,
    vcpu: float,
    memory: int,
    command: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> ContainerApp:
    """As `run_container`, but it neither waits until it answers nor ends the one before."""
    from docker.errors import APIError, ImageNotFound

    from helpers import this_machine

    environment = {"PORT": str(image.port or PORT), **(environment or {})}
    port = _port(environment["PORT"])
    engine = this_machine.find_engine()
    container = None
    try:
        _sweep(engine)
        api = engine.api
        container = api.create_container(
            image.id,
            command=list(command) if command else None,
            environment=environment,
            ports=[port],
            labels={OWNER: _owner(), **this_machine.engine_labels()},
            host_config=api.create_host_config(
                port_bindings={port: ("127.0.0.1", None)},
                nano_cpus=round(vcpu * 1e9),
                mem_limit=memory * MIB,
                memswap_limit=memory * MIB,
            ),
        )["Id"]
        api.start(container)
        return ContainerApp(engine, container, image, vcpu, memory, port)
    except APIError as problem:
        if container is not None:
            engine.api.remove_container(container, force=True, v=True)
        engine.close()
        if isinstance(problem, ImageNotFound):
            raise TutorialError(
                f"The engine has the image {image.name} no more.", next="Build it again: build_image(…)."
            ) from None
        raise refused("The container cannot be started.", problem) from None


def _port(text: str) -> int:
    if text.isdigit() and 0 < int(text) < 65536:
        return int(text)
    raise TutorialError("PORT has to be a number from 1 to 65535.", seen=f"PORT={text!r}")


def _owner() -> str:
    return f"{socket.gethostname()}/{os.getpid()}"


def _sweep(engine: DockerClient) -> None:
    """Remove what processes of this machine left that are gone."""
    import psutil
    from docker.errors import APIError

    for container in engine.api.containers(all=True, filters={"label": OWNER}):
        machine, _, pid = container["Labels"][OWNER].rpartition("/")
        if machine == socket.gethostname() and pid.isdigit() and not psutil.pid_exists(int(pid)):
            with suppress(APIError):
                engine.api.remove_container(container["Id"], force=True, v=True)


@atexit.register
def _end_mine() -> None:
    last = started_app.last_run()
    if isinstance(last, ContainerApp) and last._end is None:
        with suppress(Exception):  # the process ends, and the next one sweeps
            last.kill()
