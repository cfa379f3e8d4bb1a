"""A Dockerfile for an app that has none, from what its directory says: `propose_dockerfile`. It is read before it is
used: what a package.json does not say, nobody can guess."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.app_directory import CHECKOUT, package_of
from helpers.errors import TutorialError

GALLERY = "public.ecr.aws/docker/library/node"
MAJORS = (24, 22, 20, 18)  # of Node.js, that have long-term support or had it; the first that fits is taken
PORT = 3000
IGNORED = (".git", ".gitignore", ".dockerignore", "Dockerfile", "node_modules", "npm-debug.log*", ".env*")
OUTPUTS = {"dist", "build", "out", "lib"}  # where builds put what they make, unless tsconfig.json says
DEVELOPMENT = {"nodemon", "ts-node", "ts-node-dev", "tsx", "vite"}


@dataclass(frozen=True)
class Manager:
    """A package manager. `install`: all packages; `production`: those that the app needs at run time."""

    name: str
    lock: str
    install: str
    production: str


MANAGERS = (
    Manager(
        "npm", "package-lock.json", "npm ci --no-audit --no-fund", "npm ci --omit=dev --no-audit --no-fund"
    ),
    Manager(
        "npm", "npm-shrinkwrap.json", "npm ci --no-audit --no-fund", "npm ci --omit=dev --no-audit --no-fund"
    ),
    Manager(
        "pnpm",
        "pnpm-lock.yaml",
        "corepack enable && pnpm install --frozen-lockfile",
        "corepack enable && pnpm install --frozen-lockfile --prod",
    ),
    Manager(
        "yarn", "yarn.lock", "yarn install --frozen-lockfile", "yarn install --frozen-lockfile --production"
    ),
)
BERRY = Manager(
    "yarn",
    "yarn.lock",
    "corepack enable && yarn install --immutable",
    "corepack enable && yarn workspaces focus --production",
)
NO_LOCK = Manager(
    "npm", "", "npm install --no-audit --no-fund", "npm install --omit=dev --no-audit --no-fund"
)


@dataclass(frozen=True)
class Proposal:
    """`dockerfile` and `dockerignore`: their texts, the second "" where the app has one. `why`: a line for each choice;
    `doubts`: what to look at. Nothing is written before `write()`."""

    app: Path = field(repr=False)
    dockerfile: str
    dockerignore: str
    why: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    def write(self) -> list[Path]:
        """Write the files that are not there yet; which. TutorialError where there is a Dockerfile."""
        file = self.app / "Dockerfile"
        try:
            with file.open("x", encoding="utf-8") as new:
                new.write(self.dockerfile)
            written = [file]
            if self.dockerignore:
                with (self.app / ".dockerignore").open("x", encoding="utf-8") as new:
                    new.write(self.dockerignore)
                written.append(self.app / ".dockerignore")
        except FileExistsError as there:
            raise TutorialError(
                f"{Path(there.filename).name} is there already, and stays as it is.",
                seen=there.filename,
                next="Compare it with the proposal; remove it first if you want this one.",
            ) from None
        except OSError as problem:
            raise TutorialError(
                "The proposal cannot be written.",
                seen=str(problem),
                next="May you write there, and is there room?",
            ) from None
        return written

    def __repr__(self) -> str:
        lines = [
            f"# A proposal for {self.app.name}. write() puts it there; until then nothing is changed.",
            "",
        ]
        lines += [f"# - {line}" for line in self.why]
        lines += [f"# ? {line}" for line in self.doubts]
        lines += ["", self.dockerfile.rstrip()]
        if self.dockerignore:
            lines += ["", "# And as .dockerignore:", *(f"#   {line}" for line in self.dockerignore.split())]
        return "\n".join(lines)


def propose_dockerfile(app_dir: str | Path) -> Proposal:
    """A Dockerfile for a Node.js app, from its package.json and lock file. A relative `app_dir` starts at the checkout.

    TutorialError when there is no package.json, or when it does not say how the app starts.
    """
    app = CHECKOUT / app_dir
    package = package_of(app)
    why: list[str] = []
    doubts: list[str] = []
    major = _major(app, package, why, doubts)
    manager = _manager(app, package, why, doubts)
    settings, command = _start(app, package, doubts)
    scripts = package.get("scripts") or {}
    output = _output(app, command) if "build" in scripts else ""
    if "build" in scripts:
        what = f"only {output}/ of what it makes goes on" if output else "all that it makes goes on"
        why.append(f"its script `build` runs in a stage of its own, with all packages; {what}")
    why.append(f"it starts with `{shlex.join(command)}`, which is process 1 and gets SIGTERM")
    needed = manager if package.get("dependencies") or package.get("optionalDependencies") else None
    text = _dockerfile(major, manager, needed, scripts, output, settings, command, _files_of(app, manager))
    has_ignore = (app / ".dockerignore").is_file()
    if has_ignore and "node_modules" not in (app / ".dockerignore").read_text(encoding="utf-8").split():
        doubts.append(".dockerignore does not name node_modules: yours would be laid over those of the image")
    doubts.append(f"does it listen on PORT, {PORT} if that is not set, and on 0.0.0.0?")
    ignored = "" if has_ignore else "".join(f"{line}\n" for line in (*IGNORED, *([output] if output else [])))
    return Proposal(app, text, ignored, tuple(why), tuple(doubts))


def dockerfile_of(app_dir: str | Path, *, write: bool = False) -> str:
    """The text of an app's Dockerfile. Where it has none: of the proposal, which is shown, and written only if told to."""
    file = CHECKOUT / app_dir / "Dockerfile"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    proposal = propose_dockerfile(app_dir)
    print(proposal)
    if write:
        print(f"\nwritten: {', '.join(path.name for path in proposal.write())}")
    else:
        print("\nNothing is written. With the parameter write_dockerfile = True it is.")
    return proposal.dockerfile


# --- which Node.js ----------------------------------------------------------------------------------------------------


def _major(app: Path, package: dict[str, Any], why: list[str], doubts: list[str]) -> int:
    wanted, source = (package.get("engines") or {}).get("node"), "package.json's engines"
    for name in (".nvmrc", ".node-version"):
        if not wanted and (app / name).is_file():
            wanted, source = (app / name).read_text(encoding="utf-8").strip(), name
    if not wanted:
        why.append(f"Node.js {MAJORS[0]}: package.json does not ask for one; say so with `engines`")
        return MAJORS[0]
    fits = majors(wanted)
    major = next((each for each in MAJORS if fits(each)), None)
    if major is None:
        named = re.search(r"\d+", wanted)
        major = int(named[0]) if named else MAJORS[0]
        doubts.append(
            f"{source} asks for Node.js {wanted}, which has no long-term support any more, or never had"
        )
    why.append(f"Node.js {major}: {source} asks for {wanted}")
    return major


def majors(wanted: str) -> Callable[[int], bool]:
    """Whether some version of a major is within a range of npm's, such as ">=20 <23" or "18 || ^20.1"."""

    def fits(major: int) -> bool:
        return any(_within(major, part) for part in wanted.split("||"))

    return fits


def _within(major: int, part: str) -> bool:
    if between := re.fullmatch(r"\s*v?(\d+)\S*\s+-\s+v?(\d+)\S*\s*", part):
        return int(between[1]) <= major <= int(between[2])
    for sign, number, rest in re.findall(r"(>=|<=|>|<|\^|~|=)?\s*v?(\d+|[xX*])((?:\.(?:\d+|[xX*]))*)", part):
        if not number.isdigit():
            continue
        bound, whole = int(number), not re.search(r"[1-9]", rest)
        # Of a major there are versions above any that is named in it, and below unless that is its first.
        holds = {
            ">=": major >= bound,
            ">": major >= bound if rest else major > bound,
            "<=": major <= bound,
            "<": major < bound if whole else major <= bound,
        }.get(sign, major == bound)
        if not holds:
            return False
    return True


# --- its packages -----------------------------------------------------------------------------------------------------


def _manager(app: Path, package: dict[str, Any], why: list[str], doubts: list[str]) -> Manager | None:
    """None for an app that needs no package at all."""
    manager = next((each for each in MANAGERS if (app / each.lock).is_file()), None)
    if manager and manager.name == "yarn" and (app / ".yarnrc.yml").is_file():
        manager = BERRY
    if manager:
        why.append(f"packages by {manager.name}, as {manager.lock} says and nothing else")
        return manager
    if package.get("dependencies") or package.get("devDependencies"):
        why.append("packages by npm; there is no lock file")
        doubts.append(
            "without a lock file two builds may get different packages: run `npm install`, commit the lock"
        )
        return NO_LOCK
    why.append("no packages: it needs none")
    return None


def _files_of(app: Path, manager: Manager | None) -> list[str]:
    """What an installation reads."""
    names = ["package.json", manager.lock if manager else "", ".npmrc", ".yarnrc.yml", "pnpm-workspace.yaml"]
    return [name for name in names if name and (app / name).is_file()]


# --- how it starts ----------------------------------------------------------------------------------------------------


def _start(app: Path, package: dict[str, Any], doubts: list[str]) -> tuple[dict[str, str], list[str]]:
    """Settings and words of the start command, without npm in between."""
    name = package.get("name", app.name)
    start = (package.get("scripts") or {}).get("start") or ""
    if not start:
        main = next(
            (file for file in ("server.js", package.get("main")) if file and (app / file).is_file()), None
        )
        if main is None:
            raise TutorialError(
                f"How to start {name} is not said.",
                seen="no script `start` in package.json, no server.js",
                next='Add to package.json: "scripts": {"start": "node <file>"}.',
            )
        return {}, ["node", main]
    settings, rest = {}, start
    while setting := re.match(
        r"\s*(?:cross-env\s+)?([A-Z_][A-Z0-9_]*)=(\"[^\"]*\"|'[^']*'|[^\s\"'$&|;]*)\s+", rest
    ):
        settings[setting[1]], rest = setting[2].strip("\"'"), rest[setting.end() :]
    if set("&|;<>$`()*?") & set(rest):
        doubts.append(
            "the script `start` needs a shell: see that the server, not the shell, gets SIGTERM (`exec`)"
        )
        return settings, ["sh", "-c", rest]
    words = shlex.split(rest)
    if words[0] in ("npm", "yarn", "pnpm", "npx"):
        doubts.append(
            f"`{rest}` puts {words[0]} before the server, which loses SIGTERM: name the server's file instead"
        )
        return settings, words
    if words[0] in DEVELOPMENT:
        doubts.append(f"{words[0]} is a tool for development: let `start` run what a build made, with node")
    if words[0] != "node":
        words = [f"node_modules/.bin/{words[0]}", *words[1:]]
    return settings, words


def _output(app: Path, command: list[str]) -> str:
    """The directory that a build makes and the app starts from; "" when it cannot be told."""
    file = (
        next((word for word in command[1:] if not word.startswith("-")), "") if command[0] == "node" else ""
    )
    top = Path(file).parts[0] if len(Path(file).parts) > 1 else ""
    told = re.search(r'"outDir"\s*:\s*"(?:\./)?([^"/]+)', _text(app / "tsconfig.json"))
    return top if top and (top in OUTPUTS or (told and told[1] == top)) else ""


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


# --- the text ---------------------------------------------------------------------------------------------------------


def _dockerfile(
    major: int,
    manager: Manager | None,
    needed: Manager | None,
    scripts: dict[str, str],
    output: str,
    settings: dict[str, str],
    command: list[str],
    files: list[str],
) -> str:
    builds = "build" in scripts
    # A script `prepare` is for who develops, and its tool (husky, for instance) is not there at run time.
    spared = "npm pkg delete scripts.prepare && " if "prepare" in scripts else ""
    copied = f"COPY {' '.join(files)} ./"
    run = manager.name if manager else "npm"
    parts = [f"ARG NODE_IMAGE={GALLERY}:{major}-slim", ""]
    if needed and not (builds and not output):
        parts += [
            "FROM ${NODE_IMAGE} AS dependencies",
            "WORKDIR /app",
            copied,
            f"RUN {spared}{needed.production}",
            "",
        ]
    if builds:
        parts += ["FROM ${NODE_IMAGE} AS build", "WORKDIR /app", copied]
        parts += [f"RUN {spared}{manager.install}"] if manager else []
        prune = " && npm prune --omit=dev" if manager and manager.name == "npm" and not output else ""
        parts += ["COPY . .", f"RUN {run} run build{prune}", ""]
    parts += ["FROM ${NODE_IMAGE}", "ENV NODE_ENV=production"]
    parts += [f"ENV {name}={json.dumps(value)}" for name, value in settings.items() if name != "NODE_ENV"]
    parts += ["WORKDIR /app", "USER 1000", f"EXPOSE {PORT}", f"CMD {json.dumps(command)}"]
    if builds and not output:
        parts += ["COPY --from=build /app ./"]
    else:
        parts += ["COPY --from=dependencies /app/node_modules ./node_modules"] if needed else []
        parts += ["COPY . ."]
        parts += [f"COPY --from=build /app/{output} ./{output}"] if builds else []
    return "\n".join(parts) + "\n"
