"""The events of a Docker build: followed, a line for each step, and a failure among them as one error."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from helpers.engine import MAKE_ROOM, NO_ROOM, NO_WAY_OUT, engine_gone
from helpers.errors import TutorialError

WORTH_TELLING = 0.5  # real seconds that a step took
LAST_LINES = 12  # of a failed step's output
WIDTH = 96  # columns of an instruction that are shown
# npm's: a log that is gone with the build, and what nobody asked for
NOISE = re.compile(r"^npm notice|^npm (ERR!|error)( A complete log of this run .*)?$")
USAGE = re.compile(r"^npm (ERR!|error) (Clean install a project|Usage:)")
ELSEWHERE = {  # where the same base image is, too
    "public.ecr.aws/docker/library/": "",
    "": "public.ecr.aws/docker/library/",
}


@dataclass(frozen=True)
class Step:
    """An instruction that the builder is at. `number` from 1; `line` in the Dockerfile, None where it cannot be known."""

    number: int
    text: str
    line: int | None

    @property
    def instruction(self) -> str:
        return self.text.split()[0].upper() if self.text else ""

    @property
    def where(self) -> str:
        return f"line {self.line} of the Dockerfile" if self.line else f"step {self.number} of the build"


class Progress:
    """Follows the events of one build: says a line for each step and keeps what a failure needs."""

    def __init__(
        self, dockerfile: str, say: Callable[[str], None], clock: Callable[[], float] = time.perf_counter
    ):
        self._positions, self._say, self._clock = positions(dockerfile), say, clock
        self.dockerfile = dockerfile
        self.step: Step | None = None
        self.output: deque[str] = deque(maxlen=LAST_LINES)
        self._line = ""  # of the output, not ended yet
        self._usage = False  # npm explains its options, after what is wrong
        self._began, self._open = 0.0, False
        self._waits: str | None = None  # the step's line, until it is known whether it has to be made
        self._kept: list[str] = []  # the lines of steps that came from the cache, one after the other
        self._made: list[list[str]] = []  # for each stage the ids that its steps made

    def follow(self, events: Iterable[dict[str, Any]]) -> str:
        """The id of the image that they lead to. TutorialError when they end in anything else."""
        identity = None
        for event in events:
            if "error" in event or "errorDetail" in event:
                self._end("failed")
                message = (
                    (event.get("errorDetail") or {}).get("message") or event.get("error") or "no reason given"
                )
                raise self.failure(message)
            identity = (event.get("aux") or {}).get("ID") or identity
            if event.get("status", "").startswith("Pulling from"):
                self._announce()
                self._say("  (pulling)")
            self._take(event.get("stream", ""))
        self._end()
        self._tell_kept()
        if identity is None:
            raise engine_gone(f"its answer broke off at {self.step.where if self.step else 'the beginning'}")
        return identity

    def others(self) -> list[str]:
        """What the stages before the last one ended in: images without a name, good for the next build's cache."""
        return [ids[-1] for ids in self._made[:-1] if ids]

    def failure(self, message: str) -> TutorialError:
        return explain(
            message, self.step, [*self.output, *([self._line] if self._line else [])], self.dockerfile
        )

    def _take(self, text: str) -> None:
        if begins := re.fullmatch(r"Step (\d+)/(\d+) : (.*)", text, re.DOTALL):
            self._begin(int(begins[1]), int(begins[2]), " ".join(begins[3].split()))
            return
        if text == " ---> Using cache\n" and self._waits:
            self._kept.append(self._waits)
            self._waits = None
            return
        if text.strip():
            self._announce()
        if made := re.fullmatch(r" ---> ([0-9a-f]{12})\n", text):
            if self._made:
                self._made[-1].append(made[1])
        elif not re.match(r" ---> |Removing intermediate container |Successfully |\n$", text):
            self._put(text)

    def _begin(self, number: int, total: int, text: str) -> None:
        self._end()
        count = len(self._positions)
        word, line = self._positions[number - 1] if number <= count else ("", None)
        self.step = Step(number, text, line if text.upper().startswith(f"{word} ") else None)
        self.output.clear()
        self._line, self._usage, self._began = "", False, self._clock()
        if self.step.instruction == "FROM":
            self._made.append([])
        # What comes after the Dockerfile's own instructions are our labels.
        if number <= count or not count:
            total = min(total, count) or total
            self._waits = f"{number:>2}/{total} {cut(text)}"
            if self.step.instruction in ("ARG", "FROM"):  # never in the cache
                self._announce()

    def _announce(self) -> None:
        if self._waits:
            self._tell_kept()
            self._say(self._waits)
            self._waits, self._open = None, True

    def _tell_kept(self) -> None:
        if len(self._kept) == 1:
            self._say(f"{self._kept[0]}  from the cache\n")
        elif self._kept:
            first, last = (line.partition("/")[0] for line in (self._kept[0], self._kept[-1]))
            self._say(f"{first}–{last.strip()} from the cache\n")
        self._kept = []

    def _end(self, outcome: str = "") -> None:
        self._announce()
        if self._open:
            self._say(f"  {outcome or self._took()}".rstrip() + "\n")
        self._open = False

    def _took(self) -> str:
        seconds = self._clock() - self._began
        return f"{seconds:.1f} s" if seconds >= WORTH_TELLING else ""

    def _put(self, text: str) -> None:
        """A program's output: colours taken out, of a line that overwrites itself the last state."""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
        *whole, self._line = (self._line + plain).split("\n")
        for line in (line.rstrip("\r").rpartition("\r")[2] for line in whole):
            self._usage = self._usage or bool(USAGE.search(line))
            if line.strip() and not (NOISE.search(line) or (self._usage and line.startswith("npm "))):
                self.output.append(line)


def cut(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def with_arguments(dockerfile: str, build_args: Mapping[str, str]) -> str:
    """The Dockerfile with these values as the defaults of its ARGs; every line stays where it is."""
    for name, value in build_args.items():
        pattern = rf"(?mi)^(\s*ARG\s+{re.escape(name)})(=.*|[ \t]*)$"
        dockerfile = re.sub(pattern, lambda match, value=value: f"{match[1]}={value}", dockerfile)
    return dockerfile


def positions(dockerfile: str) -> list[tuple[str, int]]:
    """Of each instruction of a Dockerfile its name and the number of the line that it begins on."""
    found, continued = [], False
    for number, line in enumerate(dockerfile.splitlines(), 1):
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        if not continued:
            found.append((bare.split()[0].upper(), number))
        continued = bare.endswith("\\")
    return found


# --- what went wrong --------------------------------------------------------------------------------------------------


def explain(message: str, step: Step | None, output: list[str], dockerfile: str) -> TutorialError:
    """A failed build as one error. `message`: the builder's; `output`: the last lines of the step."""
    all_said = "\n".join([message, *output])
    if NO_ROOM.search(all_said):
        at = f" at {step.where}" if step else ""
        return TutorialError(
            f"The engine's disk is full: the build stopped{at}.", seen=message, next=MAKE_ROOM
        )
    if step is None:
        return not_a_dockerfile(message, dockerfile)
    if step.instruction == "FROM":
        return _no_base(message, step, dockerfile)
    lines = "".join(f"\n  {line}" for line in output)
    code = re.search(r"returned a non-zero code: (\d+)", message)
    told = f"exit code {code[1]}" if code else message
    return TutorialError(
        f"The image was not built: {step.where} failed.",
        seen=f"{cut(step.text)}: {told}" + (f"; its last lines:{lines}" if lines else ""),
        next=_advice(message, step, all_said, int(code[1]) if code else None),
    )


def _advice(message: str, step: Step, said: str, code: int | None) -> str:
    again = "build again: what stands before it comes from the cache."
    if "requires BuildKit" in message:
        return (
            "This course builds with the engine's classic builder. Take the option out of that line; or build by hand with "
            "`docker build -t <name>:<tag> .` and go on with `helpers.builds.image('<name>:<tag>')`."
        )
    if "exec format error" in said:
        return (
            "The base image is for another processor than the engine's, and nothing here runs its programs. Build for the "
            "engine's own, or let it emulate: `docker run --privileged --rm tonistiigi/binfmt --install all`."
        )
    if "unknown parent image" in message:
        return (
            "The image that this step stands on, the base or what an earlier step made, was removed meanwhile, as "
            "`docker image prune` does. Build again."
        )
    if step.instruction in ("COPY", "ADD"):
        return f"Is the file there, under app_dir, and not named in .dockerignore? Mend that, and {again}"
    if "can only install with an existing package-lock.json" in said or "npm ci` can only install" in said:
        return "`npm ci` wants a lock file: run `npm install` in the app, and copy package-lock.json before this line."
    if re.search(r"npm (ERR!|error) code EUSAGE", said):
        return "package.json and package-lock.json differ: run `npm install` in the app, then build again."
    if re.search(r"SELF_SIGNED_CERT|UNABLE_TO_(GET_ISSUER|VERIFY)|certificate", said, re.IGNORECASE):
        return (
            "Something between the build and the registry opens TLS, a company's proxy for instance. Its certificate has "
            "to be in the image: COPY it, and `ENV NODE_EXTRA_CA_CERTS=<its path>`."
        )
    if re.search(r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ECONNRESET", said):
        return (
            "The build does not reach the registry of packages. Behind a proxy, name it in ~/.docker/config.json "
            "(`proxies`): builds then have it."
        )
    if code == 127:
        return f"The image has no such program. Install it in a line before, or take another base image; then {again}"
    if code == 137:
        return "It was killed, most likely for want of memory: give the engine's virtual machine more, then build again."
    return f"Mend that line, and {again}"


def not_a_dockerfile(message: str, dockerfile: str) -> TutorialError:
    """The builder could not begin."""
    found = re.search(r"parse error (?:on )?line (\d+): (.*)", message, re.DOTALL)
    if found:
        line = dockerfile.splitlines()[int(found[1]) - 1 : int(found[1])]
        return TutorialError(
            f"Docker could not read this Dockerfile: line {found[1]}.",
            seen=f"{''.join(line).strip()!r}: {' '.join(found[2].split())}",
            next="Mend that line. Each begins with an instruction, or goes on after a \\ at the end of the one before.",
        )
    if "no build stage" in message or "cannot be empty" in message:
        return TutorialError(
            "That is no Dockerfile: it has no FROM.",
            seen=message,
            next="Its first instruction names the image to build on: FROM node:24-slim.",
        )
    if NO_ROOM.search(message):
        return TutorialError("The engine's disk is full.", seen=message, next=MAKE_ROOM)
    return TutorialError(
        "The engine did not begin the build.", seen=message, next="Mend that, and build again."
    )


def _no_base(message: str, step: Step, dockerfile: str) -> TutorialError:
    """The image that FROM names cannot be had."""
    base = next((word for word in step.text.split()[1:] if not word.startswith("--")), "")
    argument = re.search(r"\$\{?(\w+)", base)
    if argument:  # the step shows the name as it is written
        default = re.search(rf"(?mi)^\s*ARG\s+{argument[1]}=(\S+)", dockerfile)
        base = default[1].strip("\"'") if default else base
    if "should not be blank" in message:
        why, mend = (
            "it has no value",
            f"Give it one: build_args={{{argument[1]!r}: 'node:24-slim'}}." if argument else "",
        )
        return TutorialError(
            f"The base image has no name: {step.where}.", seen=f"{step.text}: {why}", next=mend
        )
    if "certificate" in message:
        mend = "A proxy opens TLS here: the engine has to trust its certificate (/etc/docker/certs.d, or the system's)."
    elif "toomanyrequests" in message:
        mend = f"Docker Hub lets nobody pull any more for a while. {_mirror(base, argument)}"
    elif "platform" in message:
        mend = "Take a base image that exists for that processor, or leave `platform` out."
    elif NO_WAY_OUT.search(message):
        mend = f"The engine does not reach that registry. {_mirror(base, argument)} Behind a proxy, the engine has to know it."
    else:
        mend = f"Is the name right? {_mirror(base, argument)}"
    return TutorialError(
        f"The base image {base} cannot be had: {step.where}.", seen=f"{step.text}: {message}", next=mend
    )


def _mirror(base: str, argument: re.Match[str] | None) -> str:
    """The same image from elsewhere."""
    prefix = next(known for known in ELSEWHERE if base.startswith(known))
    other = ELSEWHERE[prefix] + base.removeprefix(prefix)
    if prefix == "" and ("/" in base or base.endswith("}")):
        other = "public.ecr.aws/docker/library/node:24-slim"
    if argument:
        return f"Take it from a mirror: build_args={{{argument[1]!r}: {other!r}}}."
    return (
        f"Take it from a mirror, {other} for one. With `ARG NODE_IMAGE={base}` above and `FROM ${{NODE_IMAGE}}` a mirror "
        f"is a build argument: build_args={{'NODE_IMAGE': {other!r}}}."
    )
