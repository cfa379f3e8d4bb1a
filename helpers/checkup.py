"""What this machine has for the course, and for each gap what to do next.

Facts are gathered (machine_facts.py), judged (`findings`, pure) and shown. Docker is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

from helpers.display import table
from helpers.errors import TutorialError
from helpers.machine_facts import LINUX, MACOS, WSL, Docker, Facts, Program, gather

DISK = 10**9  # bytes; the set-up done, runs and a sandbox's state are far from filling it
ROOM_FOR_IMAGES = 5 * 10**9  # bytes; base images of two versions, a build cache
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


def _without_home(text: str) -> str:
    """A home directory is nobody's business: the table may be shown to others."""
    return text.replace(str(Path.home()), "~") if len(str(Path.home())) > 1 else text
