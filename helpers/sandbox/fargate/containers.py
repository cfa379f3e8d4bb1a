"""Stands in for Fargate's container runtime: a task is a container of this machine's Docker Engine.

Differs:
- A task's port is published on 127.0.0.1, at a free one; its network is a bridge of the sandbox's own, on which it sees
  this machine, the other tasks and, unlike a task without public address, the internet.
- It is held to its vCPU and memory by the kernel, as on Fargate. Tasks that ask for more than this machine has share it.
- PORT is what the task definition says, or nothing; without ulimits of its own a task has the engine's.
- An image of another architecture than the task definition's is not started, though the engine might: `unfit.py` says
  what Fargate says.
- Of a container the engine keeps its last lines (`docker logs`), until it ends; then the container goes.
- A task is one container.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from helpers.sandbox.clock import Clock
from helpers.sandbox.ecs.stopped_reasons import not_started
from helpers.sandbox.fargate import engine
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
from helpers.sandbox.fargate.stats import Stats
from helpers.sandbox.fargate.unfit import UnfitTask
from helpers.sandbox.registry import CannotPullContainer

if TYPE_CHECKING:
    from docker import DockerClient

log = logging.getLogger("sandbox.tasks")

KEPT_BY_THE_ENGINE = {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}}
COMMANDS = 8  # signals sent to containers at once
LONGEST_LINE = 256 * 1024  # bytes of a line that is held back until it ends
ENDS_WITHIN = 10.0  # real seconds for all containers to be gone when the sandbox ends
KILL_AGAIN = (
    5.0  # real seconds after which a container that was to be killed and is still there is killed again
)
AWAY = 30  # real seconds without an answer of the engine, after which a container counts as gone with it
LOOKS_FOR_OOM = (
    5  # a tenth of a real second apart: the engine writes some time after the end that it was for memory
)
PROBE = 0.05  # real seconds; near by, a connection is taken or refused at once


class ContainerRuntime:
    """Tasks as containers of `client`'s engine.

    `images(reference, region)` has the image in the engine and gives the name it has there, or raises
    CannotPullContainer. `metadata(gateway)` gives the address of the task metadata endpoint as a container reaches it:
    `gateway` is this machine's address in the containers' network, None where the engine is on another machine. Every
    task gets `environment` beneath its own. All that this makes carries `labels`, of `engine.new_labels` unless told.
    `on_start` is told of each task. `at_end` is told the command that removes all this made, for when the sandbox cannot
    do so itself, and an empty one when there is nothing left. `forget_images` is called when all tasks have ended.
    """

    name = "container"

    def __init__(
        self,
        state: Path,
        client: DockerClient,
        clock: Clock,
        images: Callable[[str, str], str],
        *,
        metadata: Callable[[str | None], str] | None = None,
        environment: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        on_start: Callable[[RunningTask], None] = lambda task: None,
        at_end: Callable[[list[str]], None] = lambda command: None,
        forget_images: Callable[[], None] = lambda: None,
    ):
        self.state, self.client, self.clock, self.images = state.resolve(), client, clock, images
        self.environment, self.at_end, self.forget_images = dict(environment or {}), at_end, forget_images
        self.labels = {**engine.new_labels(state), **(labels or {})}
        self.run = self.labels[engine.RUN]
        self._tasks = self.state / "tasks"
        shutil.rmtree(self._tasks, ignore_errors=True)  # what an earlier sandbox left
        for gone in engine.sweep(client, engine.SANDBOX, self.labels[engine.SANDBOX]):
            log.info("left by an earlier sandbox, and removed: %s", gone)
        self.near = engine.is_near(client)
        self.cpus = int(client.info()["NCPU"])
        at_end(engine.sweeper(self.run))
        self._lock = threading.Lock()
        self.network, self._range = f"tutorial-{self.run}", None
        self._have_network()
        gateway = engine.gateway_of(client, self.network) if self.near else None
        self.metadata_url = metadata(gateway) if metadata else None
        self._commands = ThreadPoolExecutor(COMMANDS, thread_name_prefix="containers")
        self.closing = threading.Event()
        self._pulled: dict[str, str] = {}
        self._started = StartedTasks(clock, on_start)

    def pull(self, image: str, region: str) -> str:
        try:
            name = self.images(image, region)
        except CannotPullContainer as error:
            raise CannotPullContainerError(error.reason) from error
        self._pulled[image] = name
        return name

    def start(self, spec: TaskSpec) -> RunningTask:
        name = self._pulled.get(spec.image) or self.pull(spec.image, spec.region)
        self._started.sweep()
        directory = self._tasks / spec.task_id
        try:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "output.log").touch()
        except OSError as error:
            raise CannotStartContainerError(str(error)) from error
        try:
            with _as_ecs_says_it():
                image = self.client.api.inspect_image(name)
                if not fits(image.get("Architecture", "amd64"), spec):
                    return self._started.add(UnfitTask(spec, _program(image, spec), directory))
                self._have_network()
                about, output = self._launch(spec, name)
        except CannotStartContainerError:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        stop_signal = image["Config"].get("StopSignal") or "SIGTERM"
        task = ContainerTask(self, spec, about, output, directory, stop_signal)
        named = (spec.task_id, task.container_id[:12], task.pid, task.address[1])
        log.info("task %s: container %s, process %d, port %d", *named)
        return self._started.add(task)

    def close(self) -> None:
        self.closing.set()
        running = self._started.running()
        for task in running:
            task.kill()
        deadline = self.clock.monotonic() + ENDS_WITHIN
        for task in running:
            task.wait(max(0.0, deadline - self.clock.monotonic()))
        self._commands.shutdown()
        try:
            engine.sweep(self.client, engine.SANDBOX, self.labels[engine.SANDBOX])
        except _engine_errors() as error:
            log.warning("not all that was made in the engine could be removed: %s", error)
        else:
            self.at_end([])
        self.forget_images()

    def signal(self, container_id: str, number: str) -> None:
        """Send a signal to a container's first process, without waiting for the engine."""
        with contextlib.suppress(RuntimeError):  # the sandbox has ended, and this container with it
            self._commands.submit(self._signal, container_id, number)

    def _signal(self, container_id: str, number: str) -> None:
        from docker.errors import APIError

        try:
            self.client.api.kill(container_id, number)
        except APIError as error:
            if error.status_code not in (404, 409):  # it has ended
                log.warning("container %s: %s not sent: %s", container_id[:12], number, error)
        except _engine_errors() as error:
            log.warning("container %s: %s not sent: %s", container_id[:12], number, error)

    def _remove(self, container_id: str) -> None:
        try:
            self.client.api.remove_container(container_id, force=True, v=True)
        except _engine_errors() as error:
            if getattr(error, "status_code", None) not in (404, 409):
                log.warning("container %s not removed: %s", container_id[:12], error)

    def _have_network(self) -> None:
        """`docker system prune` takes it away while no task runs: then it is made again, with the addresses it had."""
        from docker.errors import APIError

        api = self.client.api
        with self._lock:
            if self._range and api.networks(names=[self.network]):
                return
            try:
                made = api.create_network(self.network, driver="bridge", labels=self.labels, ipam=self._range)
            except APIError as error:
                raise engine.EngineMissing(
                    f"the Docker Engine cannot make a network: {error.explanation}. `docker network prune` removes those "
                    "that nothing uses."
                ) from error
            self._range = api.inspect_network(made["Id"])["IPAM"]

    def _launch(self, spec: TaskSpec, image: str) -> tuple[dict[str, Any], Any]:
        """A container that runs: what the engine says of it, and what it writes to (stdout, stderr)."""
        api, container_id, output = self.client.api, self._create(spec, image), None
        try:
            # Before the start, so that nothing it says is missed.
            output = api.attach(container_id, stdout=True, stderr=True, stream=True, demux=True)
            api.start(container_id)
            return api.inspect_container(container_id), output
        except _engine_errors():
            self._remove(container_id)
            _close(output)
            raise

    def _create(self, spec: TaskSpec, image: str) -> str:
        from docker.types import Ulimit

        api, port = self.client.api, spec.container_port
        host = api.create_host_config(
            nano_cpus=round(min(spec.cpu / UNITS, self.cpus) * 1e9),
            mem_limit=spec.memory * MIB,
            memswap_limit=spec.memory * MIB,
            network_mode=self.network,
            port_bindings={port: ("127.0.0.1",)} if port else None,
            read_only=spec.read_only_root,
            ulimits=[Ulimit(name=name, soft=soft, hard=hard) for name, soft, hard in spec.ulimits],
            log_config=KEPT_BY_THE_ENGINE,
            init=False,
        )
        made = api.create_container(
            image,
            name=_container_name(spec),
            hostname=_host_name(spec),
            command=spec.command,
            entrypoint=spec.entry_point,
            environment=self._environment(spec),
            user=spec.user,
            working_dir=spec.working_directory,
            ports=[port] if port else None,
            labels={**self.labels, engine.TASK: spec.task_id},
            host_config=host,
            use_config_proxy=False,  # a learner's proxy is no part of Fargate
        )
        return made["Id"]

    def _environment(self, spec: TaskSpec) -> dict[str, str]:
        """What ECS adds to the image's and the task definition's."""
        return {
            "AWS_EC2_METADATA_DISABLED": "true",  # on an EC2 instance it would hand out that machine's credentials
            **self.environment,
            **spec.environment,
            **added_by_ecs(spec, self.metadata_url),
        }


class ContainerTask:
    """A RunningTask that is a container. A thread of its own reads what it says, and sees its end."""

    def __init__(
        self,
        runtime: ContainerRuntime,
        spec: TaskSpec,
        about: dict[str, Any],
        output: Iterable[tuple[bytes | None, bytes | None]],
        directory: Path,
        stop_signal: str,
    ):
        self.spec, self.directory, self.container_id = spec, directory, about["Id"]
        self.pid: int = about["State"]["Pid"]
        self.address = ("127.0.0.1", _published(about, spec.container_port))
        self.output = directory / "output.log"
        self.dropped = 0
        self.out_of_memory = False
        self._runtime, self._clock, self._stop_signal = runtime, runtime.clock, stop_signal
        self._own_address = about["NetworkSettings"]["Networks"][runtime.network]["IPAddress"]
        self._lock = threading.RLock()
        self._code: int | None = None
        self._cpu = 0.0
        self._kill_at: float | None = None
        self._killed = False  # by us
        self._ended = threading.Event()
        self._usage = engine.find_cgroup(self.pid, self.container_id) or (
            Stats(runtime.client.api.stats(self.container_id, decode=True))
            if about["State"]["Running"]
            else None
        )
        self._follower = threading.Thread(
            target=self._follow, args=(output,), name=f"container {self.container_id[:12]}", daemon=True
        )
        self._follower.start()

    @property
    def ended(self) -> bool:
        """Whether its exit code is known."""
        return self._ended.is_set()

    def poll(self) -> int | None:
        with self._lock:
            if self._code is None and self._kill_at is not None:
                now = self._clock.monotonic()
                if now >= self._kill_at:
                    log.info("task %s: still there when its stop timeout was over: killed", self.spec.task_id)
                    self._kill_at = now + KILL_AGAIN
                    self.kill()
            return self._code

    def listening(self) -> bool:
        if self._code is not None or not self.address[1]:
            return False
        if self._runtime.near:
            # Its own address: the published port is the engine's, which takes a connection before the app can.
            return _takes(self._own_address, self.spec.container_port or 0)
        return _keeps(*self.address)

    def stop(self, timeout: float | None = None) -> None:
        with self._lock:
            if self._code is None and self._kill_at is None:
                wait = self.spec.stop_timeout if timeout is None else timeout
                self._kill_at = self._clock.monotonic() + wait
                self._runtime.signal(self.container_id, self._stop_signal)

    def kill(self) -> None:
        if self._code is None:
            self._killed = True
            self._runtime.signal(self.container_id, "SIGKILL")

    def wait(self, timeout: float) -> int | None:
        """Its exit code, waited for at most so many real seconds."""
        self._ended.wait(timeout)
        return self._code

    def cpu_seconds(self) -> float:
        with self._lock:
            if self._code is None and self._usage:
                with contextlib.suppress(OSError, ValueError):  # it is just ending
                    self._cpu = max(self._cpu, self._usage.cpu_seconds())
            return self._cpu

    def memory_bytes(self) -> int:
        with self._lock:
            if self._code is None and self._usage:
                with contextlib.suppress(OSError, ValueError):
                    return self._usage.memory_bytes()
            return 0

    def _follow(self, output: Iterable[tuple[bytes | None, bytes | None]]) -> None:
        """Write down what it says, until it ends."""
        try:
            with open(self.output, "ab", buffering=0) as file:
                for whole in whole_lines(output):
                    self._write(file, whole)
        except OSError as error:
            log.warning("task %s: its output can no longer be written: %s", self.spec.task_id, error)
            for _ in output:  # or it would stand still
                pass
        except _engine_errors() as error:
            log.warning("task %s: its output can no longer be read: %s", self.spec.task_id, error)
        _close(output)
        self._bury()

    def _write(self, file: BinaryIO, data: bytes) -> None:
        """A chatty app must not fill the disk. Room is made between lines."""
        file.write(data)
        size = file.tell()
        if size > OUTPUT_MOST:
            # In this order: whoever reads in between finds nothing, and not the same again.
            os.truncate(self.output, 0)
            self.dropped += size
            log.info("task %s: %d MB of its output dropped", self.spec.task_id, size // 10**6)

    def _bury(self) -> None:
        self.cpu_seconds()
        state = self._last_state()
        with self._lock:
            self.out_of_memory = bool(state.get("OOMKilled"))
            self._code = state.get("ExitCode", 137)
        self._runtime._remove(self.container_id)
        self._ended.set()
        memory = ", out of memory" if self.out_of_memory else ""
        log.info("task %s: exited with %d%s", self.spec.task_id, self._code, memory)

    def _last_state(self) -> dict[str, Any]:
        """The engine's record of its end; empty when it has none, since somebody removed the container or the engine
        is gone."""
        api = self._runtime.client.api
        for _ in range(AWAY):
            try:
                api.wait(self.container_id)  # however long: it may have closed its output and go on
                for _ in range(LOOKS_FOR_OOM):
                    state = api.inspect_container(self.container_id)["State"]
                    if self._killed or state.get("ExitCode") != 137 or state.get("OOMKilled"):
                        break
                    self._runtime.closing.wait(0.1)
                return state
            except _engine_errors() as error:
                if getattr(error, "status_code", None) == 404:
                    break
                log.warning("task %s: the engine does not tell of its end: %s", self.spec.task_id, error)
                if self._runtime.closing.wait(1.0):
                    break
        return {}


def whole_lines(output: Iterable[tuple[bytes | None, bytes | None]]) -> Iterator[bytes]:
    """What was written to stdout and stderr, as it comes, but no line of one within a line of the other."""
    begun = [b"", b""]
    for parts in output:
        for stream, part in enumerate(parts):
            if part:
                whole, newline, begun[stream] = (begun[stream] + part).rpartition(b"\n")
                if len(begun[stream]) > LONGEST_LINE:
                    whole, newline, begun[stream] = whole + newline + begun[stream], b"", b""
                if whole or newline:
                    yield whole + newline
    if rest := b"\n".join(filter(None, begun)):
        yield rest


def _close(output: Any) -> None:
    """Let go of the connection that a container's output comes by; it may have ended itself."""
    with contextlib.suppress(Exception):
        output.close()
    with contextlib.suppress(Exception):
        output._response.close()  # or the socket stays until the next garbage collection


def _program(image: dict[str, Any], spec: TaskSpec) -> str:
    """The first word of what a container would run."""
    words = (
        spec.entry_point or image["Config"].get("Entrypoint") or spec.command or image["Config"].get("Cmd")
    )
    return (words or ["/"])[0]


def _published(about: dict[str, Any], port: int | None) -> int:
    """The port of this machine that leads to a container's; 0 if none does, or it has ended already."""
    ports = about["NetworkSettings"]["Ports"] or {}
    return int((ports.get(f"{port}/tcp") or [{"HostPort": 0}])[0]["HostPort"])


def _container_name(spec: TaskSpec) -> str:
    """As the ECS agent names them."""
    name = f"ecs-{spec.family}-{spec.revision}-{spec.container_name}-{spec.task_id}"
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)


def _host_name(spec: TaskSpec) -> str:
    domain = "ec2.internal" if spec.region == "us-east-1" else f"{spec.region}.compute.internal"
    return f"ip-{spec.private_ip.replace('.', '-')}.{domain}"


def _takes(host: str, port: int) -> bool:
    """Whether connections are taken there."""
    with socket.socket() as probe:
        probe.settimeout(PROBE)
        return probe.connect_ex((host, port)) == 0


def _keeps(host: str, port: int) -> bool:
    """Whether connections are taken there and not closed at once, as the engine does while the app does not listen."""
    with socket.socket() as probe:
        probe.settimeout(PROBE)
        try:
            probe.connect((host, port))
            return probe.recv(1) != b""
        except TimeoutError:
            return True
        except OSError:
            return False


def _engine_errors() -> tuple[type[Exception], ...]:
    """All that the engine's client raises; imported late, as it takes a while."""
    from docker.errors import DockerException
    from requests.exceptions import BaseHTTPError as HTTPError

    return DockerException, HTTPError, OSError


@contextlib.contextmanager
def _as_ecs_says_it() -> Iterator[None]:
    from docker.errors import APIError

    try:
        yield
    except APIError as error:
        words = str(error.explanation or error)
        _, begins, rest = words.partition("OCI runtime create failed")
        raise CannotStartContainerError(not_started(begins + rest) if begins else words) from error
    except _engine_errors() as error:
        raise CannotStartContainerError(f"the Docker Engine does not answer: {error}") from error
    except engine.EngineMissing as error:
        raise CannotStartContainerError(str(error)) from error
