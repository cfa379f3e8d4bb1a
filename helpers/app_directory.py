"""An app's directory: its package.json, how that says to start it, and which of its files an image takes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.errors import TutorialError

CHECKOUT = Path(__file__).resolve().parents[1]
NEVER = (".git", "node_modules/.cache", ".DS_Store")
SHELL_SIGNS = set("&|;<>$`()*?=")


def start_command(
    app_dir: str | Path, command: Sequence[str] | None = None, *, installed: bool = True
) -> tuple[Path, list[str]]:
    """Where an app is, and how its package.json says to start it, or `command`. A relative `app_dir` starts at the
    checkout. `installed`: whether its packages must be there."""
    if not isinstance(app_dir, str | Path):
        raise TutorialError(
            "An app's directory is a path.", seen=f"app_dir={app_dir!r:.80}", next='Say "sample-app".'
        )
    app = CHECKOUT / app_dir
    package = _package(app, installed)
    check_command(command)
    return app, list(command) if command else _command(app, package)


def check_command(command: object) -> None:
    """TutorialError when it is neither None nor a list of words."""
    words = command if isinstance(command, Sequence) else [command]
    if command is not None and not all(isinstance(word, str) for word in words):
        raise TutorialError(
            "A command is a list of words.",
            seen=f"command={command!r:.80}",
            next='Say ["node", "server.js"].',
        )
    if isinstance(command, str):
        raise TutorialError(
            "A command is a list of words: there is no shell to take it apart.",
            seen=f"command={command!r}",
            next=f"Say command={shlex.split(command)!r}.",
        )


def copy_app(app_dir: str | Path, to: str | Path) -> Path:
    """A copy of the app's directory, with the packages that are there, at `to`, which must not exist yet; returns where it is."""
    app, _ = start_command(app_dir, installed=False)
    return Path(shutil.copytree(app, to, symlinks=True))


def files_of(app_dir: str | Path) -> dict[str, Path]:
    """What an image of the app would hold of its directory: path inside the app → file."""
    return files_in(start_command(app_dir, installed=False)[0])


# --- package.json -----------------------------------------------------------------------------------------------------


def package_of(app: Path) -> dict[str, Any]:
    """An app's package.json. TutorialError when there is none, or no JSON in it."""
    file = app / "package.json"
    if not file.is_file():
        raise TutorialError(
            f"There is no Node.js app in {app}.",
            seen="no package.json",
            next="Set app_dir to the directory that holds the app's package.json.",
        )
    try:
        package = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TutorialError(f"{file} is not JSON.", seen=str(error), next="Mend that line.") from error
    if not isinstance(package, dict):
        raise TutorialError(f"{file} holds no object.", next='It begins with {"name": …}.')
    return package


def _package(app: Path, installed: bool) -> dict[str, Any]:
    package = package_of(app)
    if installed and package.get("dependencies") and not (app / "node_modules").is_dir():
        raise TutorialError(
            f"The dependencies of {package.get('name', app.name)} are not installed.",
            seen=f"no node_modules in {app}",
            next=f"Run `npm ci` in {app}.",
        )
    return package


def _command(app: Path, package: dict[str, Any]) -> list[str]:
    """package.json's start script as words. Not by way of npm: as process 1 it would swallow SIGTERM."""
    start = package.get("scripts", {}).get("start") or (
        "node server.js" if (app / "server.js").exists() else ""
    )
    if not start:
        raise TutorialError(
            f"How to start {package.get('name', app.name)} is not said.",
            seen="no script `start` in package.json, no server.js",
            next='Add to package.json: "scripts": {"start": "node <file>"}.',
        )
    if SHELL_SIGNS & set(start):
        raise TutorialError(
            "The script `start` needs a shell, and a container's command should not.",
            seen=start,
            next="Make it one plain command such as `node server.js`, with settings in the environment.",
        )
    return shlex.split(start)


# --- what goes into an image ------------------------------------------------------------------------------------------


def files_in(app: Path) -> dict[str, Path]:
    """Path inside the app → file, sorted: what .dockerignore leaves, and node_modules without what only tests need."""
    ignored, development = ignored_by(app / ".dockerignore"), _development(app / "package-lock.json")
    found = {}
    for path in app.rglob("*"):
        name = path.relative_to(app).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        if any(f"/{never}/" in f"/{name}/" for never in NEVER):
            continue
        if name.startswith("node_modules/"):
            # In an image they come from `npm ci --omit=dev`, whatever .dockerignore says about the directory.
            wanted = not any(name.startswith(f"{package}/") for package in development)
        else:
            wanted = not ignored(name)
        if wanted and path.is_symlink() and not path.resolve().is_relative_to(app.resolve()):
            raise TutorialError(
                f"{name} is a link that leads out of the app.",
                seen=f"{name} -> {path.readlink()}",
                next="Put a copy of the file in its place, or name the link in .dockerignore.",
            )
        if wanted:
            found[name] = path
    return dict(sorted(found.items()))


def _development(lock: Path) -> list[str]:
    """The directories of packages that only development needs."""
    if not lock.is_file():
        return []
    packages = json.loads(lock.read_text(encoding="utf-8")).get("packages", {})
    return [name for name, package in packages.items() if package.get("dev")]


def ignored_by(file: Path) -> Any:
    """A predicate on paths, by the rules of .dockerignore: the last line that matches a path or a parent decides."""
    rules = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        line = line.strip()
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").strip().strip("/").removeprefix("./")
            rules.append((not line.startswith("!"), re.compile(_expression(pattern) + "(/.*)?")))

    def ignored(name: str) -> bool:
        return next((hides for hides, expression in reversed(rules) if expression.fullmatch(name)), False)

    return ignored


def _expression(pattern: str) -> str:
    """.dockerignore's wildcards as a regular expression."""
    signs = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", pattern)
    return "".join(signs.get(part) or (part if part.startswith("[") else re.escape(part)) for part in parts)
