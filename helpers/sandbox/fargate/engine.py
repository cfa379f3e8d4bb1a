"""Stands in for the machines under Fargate, where a Docker Engine can be had: finds it, and clears up in it.

Differs: it is the engine that the `docker` command would use, so that a learner can look on with `docker ps`. What the
sandbox makes there carries labels: `tutorial.sandbox` names the sandbox's state directory, `tutorial.run` this one run
of it, `tutorial.task` the task.

Run as `python -I engine.py <run>` it removes what that run has left; the host process does so when the sandbox was
killed. Hence nothing of `helpers` is imported here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docker import DockerClient

SANDBOX, RUN, TASK = "tutorial.sandbox", "tutorial.run", "tutorial.task"  # labels
ANSWERS_WITHIN = 5.0  # real seconds for an engine that may not be there
WORKS_WITHIN = 60.0  # real seconds for what it is asked to do; ten starts at once take three
CONNECTIONS = 64  # at once: one for each task's output
STILL_COMING = 1.0  # real seconds in which the engine may still carry out what a killed sandbox had asked for


class EngineMissing(Exception):
    """No Docker Engine that can run tasks; says what was seen and what to do."""


def find_engine() -> DockerClient:
    """A client of the engine that `docker` would use: by DOCKER_HOST, else by the current context."""
    import docker
    from docker.errors import DockerException

    where = "the current context"
    try:
        where, options = _target()
        _knock(where)
        client = docker.DockerClient(**options, timeout=ANSWERS_WITHIN, max_pool_size=CONNECTIONS)
        about = client.version()
    except (DockerException, OSError, ValueError) as error:
        raise EngineMissing(_why_not(where, error)) from error
    if about.get("Os", "linux") != "linux":
        client.close()
        raise EngineMissing(
            "the Docker Engine runs Windows containers, and the app's are Linux containers. In Docker Desktop's menu "
            "choose 'Switch to Linux containers'."
        )
    client.api.timeout = WORKS_WITHIN
    return client


def is_near(client: DockerClient) -> bool:
    """Whether the engine's networks are this machine's: Linux, without a virtual machine or a network namespace between."""
    if client.version().get("KernelVersion") != os.uname().release:
        return False
    gateway = gateway_of(client, "bridge")
    return gateway is not None and _can_bind(gateway)


def gateway_of(client: DockerClient, network: str) -> str | None:
    """The address that this machine, or the engine's virtual one, has in a network.

    Of the default bridge, an engine does not tell it between its first start and its second
    (github.com/moby/moby/issues/26799): it is the range's first then, which the engine took.
    """
    from docker.errors import NotFound

    try:
        attributes = client.networks.get(network).attrs
    except NotFound:
        return None
    ranges = (attributes.get("IPAM") or {}).get("Config") or []
    told = next((part["Gateway"] for part in ranges if "." in part.get("Gateway", "")), None)
    subnets = (part["Subnet"] for part in ranges if "." in part.get("Subnet", ""))
    return told or next((str(next(ip_network(subnet).hosts())) for subnet in subnets), None)


def sandbox_label(state: Path) -> str:
    """The value of the label `tutorial.sandbox`: it tells no path."""
    return hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:16]


def new_labels(state: Path) -> dict[str, str]:
    """The labels of what one run of the sandbox on this state directory makes."""
    return {SANDBOX: sandbox_label(state), RUN: uuid.uuid4().hex[:16]}


def sweep(client: DockerClient, label: str, value: str) -> list[str]:
    """Remove the containers and networks with this label, running or not; what went, in words."""
    from docker.errors import APIError, NotFound

    wanted, api = {"label": f"{label}={value}"}, client.api

    def remove(container: dict[str, Any]) -> str:
        try:
            api.remove_container(container["Id"], force=True, v=True)
        except NotFound:
            pass
        except APIError as error:
            if error.status_code != 409:  # somebody else removes it already
                raise
        return f"container {container['Id'][:12]}"

    containers = api.containers(all=True, filters=wanted)
    with ThreadPoolExecutor(8) as workers:
        gone = list(workers.map(remove, containers))
    for network in api.networks(filters=wanted):
        with contextlib.suppress(NotFound):
            api.remove_network(network["Id"])
            gone.append(f"network {network['Name']}")
    return gone


def sweeper(run: str) -> list[str]:
    """The command that removes what a run of the sandbox has left."""
    return [sys.executable, "-I", os.path.abspath(__file__), run]


@dataclass(frozen=True)
class Cgroup:
    """The files in which the kernel counts what a container uses, for cgroup version 1 or 2."""

    cpu: str
    memory: str
    memory_details: str
    version: int

    def cpu_seconds(self) -> float:
        """CPU seconds since its start by all its processes. OSError when the container has ended."""
        with open(self.cpu) as file:
            if self.version == 1:
                return int(file.read()) / 1e9  # cpuacct.usage, nanoseconds
            return next(int(line.split()[1]) for line in file if line.startswith("usage_usec")) / 1e6

    def memory_bytes(self) -> int:
        """What counts against its limit, without the page cache, as the ECS agent reports it. OSError as above."""
        with open(self.memory) as file:
            used = int(file.read())
        cache = "total_cache " if self.version == 1 else "file "
        with open(self.memory_details) as file:
            return max(0, used - next((int(line.split()[1]) for line in file if line.startswith(cache)), 0))


def find_cgroup(pid: int, container_id: str, proc: Path = Path("/proc")) -> Cgroup | None:
    """The files of the container whose first process is `pid`; None where they cannot be read here.

    Another machine's process id, such as a virtual machine's, is told by the path: it must name the container.
    """
    try:
        groups = dict(_groups(proc / str(pid) / "cgroup"))
        mounts = list(_mounts(proc / "self" / "mountinfo"))
    except OSError:
        return None

    def directory(controller: str) -> Path | None:
        path = groups.get(controller, "")
        if container_id not in path:
            return None
        for name, root, mounted_at in mounts:
            if name == controller:
                inside = os.path.relpath(path, root) if path.startswith(root) else path.lstrip("/")
                return Path(mounted_at) / inside
        return None

    cpu, memory, unified = directory("cpuacct"), directory("memory"), directory("")
    if cpu and memory:
        names = (cpu / "cpuacct.usage", memory / "memory.usage_in_bytes", memory / "memory.stat")
        found = Cgroup(*map(str, names), version=1)
    elif unified:
        names = (unified / "cpu.stat", unified / "memory.current", unified / "memory.stat")
        found = Cgroup(*map(str, names), version=2)
    else:
        return None
    try:
        found.cpu_seconds()
        found.memory_bytes()
    except (OSError, ValueError, StopIteration):
        return None
    return found


def _groups(file: Path) -> Iterator[tuple[str, str]]:
    """(controller, path) from /proc/<pid>/cgroup; version 2 has the controller ""."""
    for line in file.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


def _mounts(file: Path) -> Iterator[tuple[str, str, str]]:
    """(controller, the path in its hierarchy that is mounted, where) from /proc/<pid>/mountinfo."""
    for line in file.read_text().splitlines():
        before, _, after = line.partition(" - ")
        root, mounted_at = before.split()[3:5]
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            yield "", root, mounted_at
        elif kind == "cgroup":
            for option in options.split(","):
                yield option, root, mounted_at


def _target() -> tuple[str, dict[str, Any]]:
    """The address of the engine, and what DockerClient is to be told."""
    from docker.context import ContextAPI
    from docker.utils import kwargs_from_env

    if host := os.environ.get("DOCKER_HOST"):
        options = kwargs_from_env()
    else:
        name = os.environ.get("DOCKER_CONTEXT")
        context = ContextAPI.get_context(name)
        if context is None or not context.Host:
            raise ValueError(f"there is no context {name or 'as the one that docker uses'}")
        host, options = context.Host, {"base_url": context.Host}
        if context.TLSConfig and not host.startswith(("unix:", "npipe:")):
            options["tls"] = context.TLSConfig
    return host, options


def _knock(where: str) -> None:
    """Connect once, as the SDK does, but without leaving the socket open when nobody is there."""
    if where.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(ANSWERS_WITHIN)
            probe.connect(where.removeprefix("unix://"))


def _why_not(where: str, error: BaseException) -> str:
    reasons = list(_causes(error))
    if any(isinstance(reason, PermissionError) for reason in reasons):
        user = shlex.quote(os.environ.get("USER") or "$USER")
        return (
            f"this user may not talk to the Docker Engine at {where}. On Linux: `sudo usermod -aG docker {user}`, then log "
            "out and in again."
        )
    if any(isinstance(reason, FileNotFoundError | ConnectionRefusedError) for reason in reasons):
        start = (
            "Start Docker Desktop" if sys.platform != "linux" else "Start it (`sudo systemctl start docker`)"
        )
        return f"no Docker Engine answers at {where}. {start}, or install it: see notebook 01."
    if any("timed out" in str(reason) for reason in reasons):
        return f"the Docker Engine at {where} did not answer within {ANSWERS_WITHIN:.0f} s. Restart it."
    return f"no Docker Engine answers at {where}: {error}. See notebook 01."


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and all that it came from: requests and urllib3 hide the system's error in their arguments."""
    pending, seen = [error], set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        pending += [
            cause
            for cause in (current.__cause__, current.__context__, *current.args)
            if isinstance(cause, BaseException)
        ]


def _can_bind(address: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def main(run: str) -> int:
    """Remove what a killed sandbox's run left. Twice: the engine may still be making what it had been asked for."""
    try:
        client = find_engine()
    except EngineMissing as error:
        print(f"nothing removed from the engine: {error}", file=sys.stderr)
        return 1
    for wait in (0.0, STILL_COMING):
        time.sleep(wait)
        for gone in sweep(client, RUN, run):
            print(f"the sandbox was killed: {gone} removed", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
