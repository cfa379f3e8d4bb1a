"""The programs that apps run with on this machine, and `run_process`: an app without ECS."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import session
from helpers.errors import SetupError, TutorialError

if TYPE_CHECKING:
    from docker import DockerClient

    from helpers.sandbox.fargate.node import Node
    from helpers.sandbox.fargate.runtime import RunningTask
    from helpers.sandbox.tasks import ProcessRuntime

_numbers = count(1)  # of the apps run without ECS


def find_node() -> Node:
    """The Node.js that tasks run with: path, version, and the command for its npm. SetupError when there is none."""
    from helpers.sandbox.fargate import node

    try:
        return node.find_node()
    except node.NodeMissing as error:
        raise SetupError("There is no Node.js to run the app with.", seen=str(error)) from None


def find_envoy() -> Path:
    """The load balancer's program. SetupError when there is none."""
    from helpers.sandbox.elb import envoy

    try:
        return envoy.find_envoy()
    except envoy.EnvoyError as error:
        raise SetupError("Envoy, the load balancer, was not found.", seen=str(error)) from None


def find_engine() -> DockerClient:
    """A client of the Docker Engine that `docker` uses. SetupError when none answers."""
    from helpers.sandbox.fargate import engine

    try:
        return engine.find_engine()
    except engine.EngineMissing as error:
        raise SetupError("There is no Docker Engine to work with.", seen=str(error)) from None


def best_runtime() -> tuple[str, str]:
    """What tasks run as unless somebody says otherwise, "container" or "process"; and what containers lack, if anything."""
    from helpers.sandbox.fargate import engine

    try:
        client = engine.find_engine()
        try:
            if not engine.is_near(client):
                return (
                    "process",
                    "the Docker Engine is not this machine's own but in a virtual or another one.",
                )
            return ("process", lacking) if (lacking := lacks_registry(client)) else ("container", "")
        finally:
            client.close()
    except engine.EngineMissing as error:
        return "process", str(error)


def lacks_registry(client: DockerClient) -> str:
    """Why no image could be pushed and pulled; "" if it could."""
    from helpers.sandbox.ecr import distribution, distribution_container, distribution_program

    if shutil.which(distribution_program.PROGRAM) or distribution_container.find_image(client):
        return ""
    return f"there is no program to keep images. {distribution.ADVICE}"


def cpu_clock(pid: int, container_id: str) -> Callable[[], float] | None:
    """What reads a container's CPU seconds from this machine's kernel; None where that is another machine's."""
    from helpers.sandbox.fargate import engine

    found = engine.find_cgroup(pid, container_id)
    return found.cpu_seconds if found else None


def engine_labels() -> dict[str, str]:
    """Labels for what is made in the engine and goes with this checkout's sandbox, at the latest with its next start."""
    from helpers.sandbox.fargate import engine

    return {engine.SANDBOX: engine.sandbox_label(session.state_directory())}


def run_process(
    app: Path,
    command: list[str],
    *,
    vcpu: float,
    memory: int = 512,
    environment: Mapping[str, str] | None = None,
) -> RunningTask:
    """Run an app on this machine without ECS, held to `vcpu` and `memory` (MiB). It ends with this Python process, at
    the latest. TutorialError when there is no such program."""
    from helpers.sandbox.fargate.runtime import CannotStartContainerError, TaskSpec

    number = next(_numbers)
    spec = TaskSpec(
        task_arn=f"this-machine/{number}-{os.getpid()}",
        region=session.current().region,
        cluster_arn="",
        family="",
        revision=0,
        availability_zone="",
        private_ip="",
        container_name="app",
        image=str(app),
        command=command,
        cpu=round(vcpu * 1024),
        memory=memory,
        environment=dict(environment or {}),
    )
    try:
        return _runtime_of(session.current().state).start(spec)
    except CannotStartContainerError as error:
        raise TutorialError(
            "The app cannot be run on this machine.",
            seen=str(error),
            next=f"Mend that; the command was {shlex.join(command)}.",
        ) from None


@cache
def _runtime_of(state: Path) -> ProcessRuntime:
    """What runs apps without ECS, this process's own. It ends with this process, by its own doing or by that of the host
    process, which sees this one's end."""
    import atexit

    import psutil

    from helpers.sandbox.clock import AwsClock
    from helpers.sandbox.fargate.host import Host
    from helpers.sandbox.registry import Image
    from helpers.sandbox.tasks import ProcessRuntime

    own = state / "alone" / str(os.getpid())
    for other in own.parent.glob("[0-9]*"):
        if not psutil.pid_exists(int(other.name)):
            shutil.rmtree(other, ignore_errors=True)
    host = Host()
    host.start()
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    atexit.register(host.stop)
    runtime = ProcessRuntime(own, host, AwsClock(1), lambda reference, region: Image(Path(reference), []))
    atexit.register(runtime.close)  # the last to be registered is the first to be called
    return runtime
