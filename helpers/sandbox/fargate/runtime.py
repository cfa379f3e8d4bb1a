"""What tasks run as: the interface of both runtimes, processes (`tasks.py`) and containers (`fargate/containers.py`), and
what they share."""

from __future__ import annotations

import shutil
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from helpers.sandbox.clock import Clock

UNITS = 1024  # CPU units in a vCPU
MIB = 2**20
STOP_TIMEOUT = 30.0  # real seconds; ECS's default on Fargate
KEEP = 3600.0  # real seconds that an ended task's output stays
OUTPUT_MOST = 32 * 2**20  # bytes of a running task's output; what is more makes room for what comes
ARCHITECTURES = {"amd64": "X86_64", "arm64": "ARM64"}  # Docker's names to ECS's
OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"  # ECS's reason for the container


class CannotPullContainerError(Exception):
    """A task's image cannot be had. Its text is what follows the error's name in ECS's `stoppedReason`; `takes`: AWS
    seconds from the task's creation until Fargate says so."""

    def __init__(self, reason: str, takes: float = 0.0):
        super().__init__(reason)
        self.takes = takes


class CannotStartContainerError(Exception):
    """A task's program cannot be started. Its text as above."""


@dataclass(frozen=True)
class TaskSpec:
    """What to run. `cpu` in CPU units, `memory` in MiB, `stop_timeout` in real seconds."""

    task_arn: str
    region: str
    cluster_arn: str
    family: str
    revision: int
    availability_zone: str
    private_ip: str
    container_name: str
    image: str  # the full reference, "<registry>/<repository>@sha256:…"
    cpu: int
    memory: int
    command: list[str] | None = None  # None: the image's
    environment: dict[str, str] = field(default_factory=dict)
    container_port: int | None = None
    stop_timeout: float = STOP_TIMEOUT
    log_group: str | None = None
    log_stream: str | None = None
    # What a container has and a process has not.
    entry_point: list[str] | None = None  # None: the image's
    user: str | None = None  # None: the image's
    working_directory: str | None = None  # None: the image's
    read_only_root: bool = False
    ulimits: tuple[tuple[str, int, int], ...] = ()  # name, soft, hard
    architecture: str = "X86_64"  # or "ARM64"

    @property
    def task_id(self) -> str:
        return self.task_arn.rsplit("/", 1)[-1]


class RunningTask(Protocol):
    """A task that was started, until long after its end. All methods may be called from any thread."""

    spec: TaskSpec
    pid: int
    address: tuple[str, int]
    output: Path  # what it wrote to stdout and stderr, from its byte `dropped` on
    dropped: int
    out_of_memory: bool

    def poll(self) -> int | None:
        """Its exit code as a container's, None while it runs. Call it often: limits are enforced here."""

    def listening(self) -> bool:
        """Whether it takes connections at its address."""

    def stop(self, timeout: float | None = None) -> None:
        """SIGTERM; `poll` sends SIGKILL after `timeout` real seconds, `stop_timeout` unless told. Returns at once."""

    def kill(self) -> None:
        """SIGKILL to all its processes."""

    def cpu_seconds(self) -> float:
        """CPU seconds used since its start by all its processes."""

    def memory_bytes(self) -> int:
        """Resident memory in bytes, 0 once it ended."""


class Runtime(Protocol):
    """What tasks run as: processes or containers."""

    name: str

    def pull(self, image: str, region: str) -> Any:
        """Have the image that a reference names. CannotPullContainerError."""

    def start(self, spec: TaskSpec) -> RunningTask:
        """Start a task. CannotPullContainerError, CannotStartContainerError."""

    def close(self) -> None:
        """Kill what still runs."""


def fits(there: str, spec: TaskSpec) -> bool:
    """Whether an image for a processor, as Docker calls it, is for the one that the task definition names."""
    return ARCHITECTURES.get(there, there) == spec.architecture


def added_by_ecs(spec: TaskSpec, metadata_url: str | None) -> dict[str, str]:
    """The variables that ECS gives every container, over all others."""
    added = {
        "AWS_REGION": spec.region,
        "AWS_DEFAULT_REGION": spec.region,
        "AWS_EXECUTION_ENV": "AWS_ECS_FARGATE",
    }
    if metadata_url:
        added["ECS_CONTAINER_METADATA_URI_V4"] = f"{metadata_url}/v4/{spec.task_id}"
    return added


class StartedTasks:
    """What a runtime has started: tasks that run, and for KEEP real seconds the output of those that ended.

    `on_start` is told of each.
    """

    def __init__(self, clock: Clock, on_start: Callable[[RunningTask], None]):
        self.clock, self.on_start = clock, on_start
        self._lock = threading.Lock()
        self._running: dict[str, Any] = {}  # by id: ProcessTask, ContainerTask or UnfitTask
        self._ended: deque[tuple[float, Path]] = deque()

    def add(self, task: Any) -> RunningTask:
        with self._lock:
            self._running[task.spec.task_id] = task
        self.on_start(task)
        return task

    def running(self) -> list[Any]:
        with self._lock:
            return list(self._running.values())

    def sweep(self) -> None:
        """Forget the tasks that ended, and after KEEP their output."""
        now = self.clock.monotonic()
        with self._lock:
            for task_id, task in list(self._running.items()):
                if task.ended:
                    del self._running[task_id]
                    self._ended.append((now, task.directory))
            while self._ended and self._ended[0][0] < now - KEEP:
                shutil.rmtree(self._ended.popleft()[1], ignore_errors=True)
