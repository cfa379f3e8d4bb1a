"""Stands in for Fargate: pulls a task's image and runs its container.

Differs: in the process runtime a task is a process of this machine, not a container (that one is
`fargate/containers.py`).
- Its image is a snapshot of an app's directory; the program that runs it is this machine's Node.js.
- On Fargate each task has a network interface, and all may listen on the same port. Here they share loopback: each is
  told a free port in PORT, whatever the container port is, and 127.0.0.1 in HOST. An app must listen on PORT.
- It sees this machine's files. Its working directory is its own copy of the image, node_modules excepted, which all
  tasks of an image share; the copy goes when the task ends.
- Entry point, user, working directory, read-only root and ulimits of a task definition are not acted on.
- It has no process namespace. A Node.js app without a SIGTERM handler ends at once with 143; as a container's first
  process it would ignore the signal and be killed after stopTimeout (137).
- A task is one container. An image that is for another processor than the task definition's is not run.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from helpers.sandbox.clock import Clock
from helpers.sandbox.ecs.stopped_reasons import not_started
from helpers.sandbox.fargate.host import Host
from helpers.sandbox.fargate.node import NodeMissing, find_node
from helpers.sandbox.fargate.ports import FreePorts, Port
from helpers.sandbox.fargate.runtime import (
    MIB,
    OUTPUT_MOST,
    UNITS,
    CannotPullContainerError,
    CannotStartContainerError,
    RunningTask,
    StartedTasks,
    TaskSpec,
    added_by_ecs,
    fits,
)
from helpers.sandbox.fargate.unfit import UnfitTask
from helpers.sandbox.registry import CannotPullContainer, Image

log = logging.getLogger("sandbox.tasks")

NOT_IN_PATH = "executable file not found in $PATH"
LOOK = 0.25  # real seconds between two looks at a task's memory and its output


class ProcessRuntime:
    """Tasks as processes.

    `images` finds the image that a reference names, for a task in a region: `Registry.image`. `metadata_url` is the
    address of the task metadata endpoint. Every task gets `environment`, e.g. this sandbox's endpoint, beneath its
    own. `on_start` is told of each task, so that nothing it says is missed however short it lives.
    """

    name = "process"

    def __init__(
        self,
        state: Path,
        host: Host,
        clock: Clock,
        images: Callable[[str, str], Image],
        *,
        metadata_url: str | None = None,
        environment: Mapping[str, str] | None = None,
        on_start: Callable[[RunningTask], None] = lambda task: None,
    ):
        self.state, self.host, self.clock, self.images = state.resolve(), host, clock, images
        self.metadata_url, self.environment = metadata_url, dict(environment or {})
        self._tasks = self.state / "tasks"
        shutil.rmtree(self._tasks, ignore_errors=True)  # what an earlier sandbox left
        self._lock = threading.Lock()
        self._ports = FreePorts()
        self._started = StartedTasks(clock, on_start)

    def pull(self, image: str, region: str) -> Image:
        try:
            return self.images(image, region)
        except CannotPullContainer as error:
            raise CannotPullContainerError(error.reason) from error
        except OSError as error:
            raise CannotPullContainerError(f"failed to register layer: {error}") from error

    def start(self, spec: TaskSpec) -> RunningTask:
        image = self.pull(spec.image, spec.region)
        self._started.sweep()
        command = spec.command or image.command
        if not command:
            raise CannotStartContainerError("no command specified")
        directory = self._tasks / spec.task_id
        if not fits(image.architecture, spec):
            return self._started.add(UnfitTask(spec, command[0], directory))
        port = self._ports.take()
        try:
            (directory / "tmp").mkdir(parents=True, exist_ok=True)
            copy_app(image.rootfs, directory / "app")
            environment = self._environment(spec, image, directory, port.number)
            with open(directory / "output.log", "ab") as output:
                process = self.host.spawn(
                    command,
                    vcpu=spec.cpu / UNITS,
                    cwd=directory / "app",
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
        except (OSError, NodeMissing) as error:
            port.release()
            shutil.rmtree(directory, ignore_errors=True)
            raise CannotStartContainerError(_why_not_started(command, error)) from error
        task = ProcessTask(spec, process, self.host, self.clock, directory, port)
        log.info("task %s: %s runs as process %d on port %d", spec.task_id, command, task.pid, port.number)
        return self._started.add(task)

    def close(self) -> None:
        running = self._started.running()
        for task in running:
            task.kill()
        for task in running:
            task.wait(5)

    def _environment(self, spec: TaskSpec, image: Image, directory: Path, port: int) -> dict[str, str]:
        """What the task sees: nothing of the sandbox's own environment, which may hold somebody's credentials."""
        with self._lock:
            commands = find_node().commands(self.state / "node")
        return {
            "PATH": f"{commands}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(directory / "tmp"),
            "TMPDIR": str(directory / "tmp"),
            "LANG": "C.UTF-8",
            "AWS_EC2_METADATA_DISABLED": "true",  # on an EC2 instance it would hand out that machine's credentials
            "NPM_CONFIG_UPDATE_NOTIFIER": "false",  # npm would ask its registry for news
            **self.environment,
            **{name: value for name, value in image.environment.items() if name != "PATH"},
            **spec.environment,
            "PORT": str(port),
            "HOST": "127.0.0.1",
            **added_by_ecs(spec, self.metadata_url),
        }


class ProcessTask:
    """A RunningTask that is a process group."""

    def __init__(
        self,
        spec: TaskSpec,
        process: subprocess.Popen[bytes],
        host: Host,
        clock: Clock,
        directory: Path,
        port: Port,
    ):
        self.spec, self.directory, self.pid = spec, directory, process.pid
        self.address = ("127.0.0.1", port.number)
        self.output = directory / "output.log"
        self.dropped = 0
        self.out_of_memory = False
        self._process, self._host, self._clock, self._port = process, host, clock, port
        self._lock = threading.RLock()
        self._code: int | None = None
        self._cpu = 0.0
        self._kill_at: float | None = None
        self._look_at = time.monotonic()

    @property
    def ended(self) -> bool:
        """Whether `poll` has told its exit code."""
        return self._code is not None

    def poll(self) -> int | None:
        with self._lock:
            if self._code is None:
                self._enforce(self._clock.monotonic())
                if self._has_exited():
                    self._bury()
            return self._code

    def listening(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.05)  # on loopback a connection is taken or refused at once
            return probe.connect_ex(self.address) == 0

    def stop(self, timeout: float | None = None) -> None:
        with self._lock:
            if self.poll() is None and self._kill_at is None:
                wait = self.spec.stop_timeout if timeout is None else timeout
                self._kill_at = self._clock.monotonic() + wait
                os.kill(self.pid, signal.SIGTERM)  # a container's first process alone gets it
                self._signal_all(signal.SIGCONT)  # whoever stopped it, it must be able to drain

    def kill(self) -> None:
        with self._lock:
            if self._code is None:
                self._signal_all(signal.SIGKILL)

    def wait(self, timeout: float) -> int | None:
        """Its exit code, waited for at most so many real seconds."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        return self.poll()

    def cpu_seconds(self) -> float:
        with self._lock:
            if self._code is None:
                self._cpu = max(self._cpu, self._host.cpu_seconds(self.pid))
            return self._cpu

    def memory_bytes(self) -> int:
        with self._lock:
            return self._host.memory_bytes(self.pid) if self._code is None else 0

    def _signal_all(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _enforce(self, now: float) -> None:
        if self._kill_at is not None and now >= self._kill_at:
            log.info("task %s: still there when its stop timeout was over: killed", self.spec.task_id)
            self._kill_at = float("inf")
            self.kill()
        real = time.monotonic()
        if real >= self._look_at:  # in a pause of AWS time, too
            self._look_at = real + LOOK
            self._make_room()
            used = self._host.memory_bytes(self.pid)
            if used > self.spec.memory * MIB and not self.out_of_memory:
                self.out_of_memory = True
                log.info(
                    "task %s: %d MiB of %d used: killed", self.spec.task_id, used // MIB, self.spec.memory
                )
                self.kill()

    def _make_room(self) -> None:
        """A chatty app must not fill the disk. It writes at the file's end, wherever that is now."""
        size = self.output.stat().st_size if self.output.exists() else 0
        if size > OUTPUT_MOST:
            # In this order: whoever reads in between finds nothing, and not the same again.
            os.truncate(self.output, 0)
            self.dropped += size
            log.info("task %s: %d MB of its output dropped", self.spec.task_id, size // 10**6)

    def _has_exited(self) -> bool:
        """Whether the first process has ended; it stays a zombie, so that its id stays the group's."""
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            return self._process.poll() is not None
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def _bury(self) -> None:
        """A container ends with its first process: kill the rest, and clear up."""
        self.cpu_seconds()
        if self._process.returncode is None or not hasattr(os, "waitid"):
            self.kill()
        code = self._process.wait()
        self._code = code if code >= 0 else 128 - code
        self._host.forget(self._process)
        self._port.release()
        shutil.rmtree(self.directory / "app", ignore_errors=True)
        shutil.rmtree(self.directory / "tmp", ignore_errors=True)
        log.info("task %s: exited with %d", self.spec.task_id, self._code)


def copy_app(source: Path, target: Path) -> None:
    """Copy an app; its `node_modules` become links to the source's, which is large and not written to."""
    shared: list[Path] = []

    def passed_over(directory: str, names: list[str]) -> list[str]:
        found = [name for name in names if name == "node_modules"]
        shared.extend(Path(directory) / name for name in found)
        return found

    shutil.rmtree(target, ignore_errors=True)
    source = source.resolve()
    shutil.copytree(source, target, symlinks=True, ignore=passed_over)
    for modules in shared:
        (target / modules.relative_to(source)).symlink_to(modules, target_is_directory=True)


def _why_not_started(command: list[str], error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        program = command[0]
        missing = f"stat {program}: no such file or directory" if "/" in program else NOT_IN_PATH
        return not_started(
            "OCI runtime create failed: runc create failed: unable to start container process: "
            f'exec: "{program}": {missing}: unknown'
        )
    return str(error)
