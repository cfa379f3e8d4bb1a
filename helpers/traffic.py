"""`load`: visitors for a service, made by Locust in a process of its own, and the report of what they saw.

The load is a closed loop, as people are: so many users, each at a constant rate, each waiting for its answer. A
service that is asked for more than it can do answers late and less often, and no endless queue builds up: with
`PER_USER` requests a second each, a service that can do 1/1.3 of what it is offered answers after about
1.3 / PER_USER seconds, which is 0.33 s, however large or small the load is.
"""

from __future__ import annotations

import io
import ipaddress
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from helpers.checks import in_notebook
from helpers.errors import LoadFailed, TutorialError
from helpers.report import AwsTime, Record, Report, Span

if TYPE_CHECKING:
    from helpers.services import Service

PER_USER = 4.0  # requests a real second; see above
MOST_RATE = 2000.0  # requests a real second: what one Locust process can keep up with
MOST_MINUTES = 90.0  # AWS minutes under load against AWS itself; the sandbox has no such bound
LAG = 1.0  # real seconds that the record may be behind, in a plot that is still growing
START_WITHIN = 30.0  # real seconds for Locust to start; takes 1–2
LOCUSTFILE = Path(__file__).with_name("locustfile.py")
DRAWING = 10  # times as long as a live plot took to draw, the next one waits
STOP_WITHIN = 20.0  # real seconds for the last answers

Until = Callable[["Progress"], bool]


@dataclass(frozen=True)
class Phase:
    """`rate` requests a real second for so many AWS `minutes`, or `until(progress)`, but `at_most` AWS minutes.

    `action()` is called once, when the phase begins. Visitors go on meanwhile, but until it returns neither `until`
    nor `watch` is asked; what it raises ends the load.
    """

    minutes: float | None = None
    rate: float = 0.0
    name: str = ""
    until: Until | None = None
    at_most: float = 30.0
    users: int | None = None  # by default as many as ask PER_USER times a second each
    action: Callable[[], object] | None = None

    @property
    def longest(self) -> float:
        """AWS minutes."""
        return self.at_most if self.minutes is None else self.minutes

    def pace(self) -> dict:
        users = self.users or math.ceil(self.rate / PER_USER)
        return {
            "users": users if self.rate else 0,
            "each": self.rate / users if self.rate else 1.0,
            "stop": False,
        }


@dataclass(frozen=True)
class Progress:
    """What `until` and `watch` are told about once a second."""

    phase: str
    minutes: float  # AWS minutes in this phase
    now: datetime  # AWS time
    report: Report  # so far


def load(
    url: str, phases: Sequence[Phase], *, watch: Service | Callable[[Progress], object] | None = None
) -> Report:
    """Sends visitors to `url`, phase by phase, and reports what they saw.

    `watch`: a service draws a live plot, a callable is called with the Progress, about once a real second.
    In the sandbox only loopback addresses can be loaded, on AWS only load balancers of this account. Locust ends
    with this call, however the call ends.
    """
    from helpers import pauses, session

    lab = session.current()
    pauses.refuse_to_wait(lab)
    _refuse_what_is_not_yours(url, lab.target)
    _refuse_too_much(phases, lab.target)
    watching = _Watching(watch) if hasattr(watch, "counts") else None
    tell = watching.show if watching else watch
    clock = AwsTime.of(lab)
    seconds = sum(phase.longest for phase in phases) * 60 / lab.speed
    every = 1.0 if lab.target == "sandbox" else 10.0
    spans: list[Span] = []
    with _locust(url, phases[0], seconds) as locust:
        for number, phase in enumerate(phases):
            name = phase.name or f"phase {number + 1}"
            begin = locust.pace(phase) if number else locust.started()
            if phase.action:
                phase.action()
            for moment in _moments(begin, phase.longest * 60 / lab.speed, every):
                # A sandbox that has ended fails all requests, and says nothing else; a paused one counts none.
                pauses.refuse_to_wait(session.current())
                locust.read()
                so_far = (*spans, Span(name, begin, moment - LAG, counted=moment - LAG))
                report = Report(url, locust.record, clock, so_far, lab.target, lab.runtime)
                progress = Progress(name, (moment - begin) * lab.speed / 60, clock.at(moment), report)
                if tell:
                    tell(progress)
                if phase.until and phase.until(progress):
                    break
            spans.append(Span(name, begin, end := time.time(), counted=end))
        locust.stop()
    spans[-1] = replace(spans[-1], counted=math.inf)
    report = Report(url, locust.record, clock, tuple(spans), lab.target, lab.runtime)
    if watching:
        watching.show(Progress(spans[-1].name, 0.0, lab.now(), report), last=True)
    return report


def saturate(url: str, minutes: float = 4.0, *, users: int = 40, watch: Service | None = None) -> Report:
    """As much as the service can do: `users` who ask again at once, reported after a minute of warming up.

    `.rate` is the service's throughput at 100 % CPU; with few enough users, latency stays at users / throughput.
    """
    phases = [
        Phase(1, MOST_RATE, "warm-up", users=users),
        Phase(minutes, MOST_RATE, "saturated", users=users),
    ]
    return load(url, phases, watch=watch).during("saturated")


def _moments(begin: float, longest: float, every: float) -> Iterator[float]:
    """Real epoch times, `every` real seconds, until the phase is over."""
    due = begin + every
    while (now := time.time()) < begin + longest:
        if now >= due:
            due = now + every
            yield now
        time.sleep(max(0.0, min(due, begin + longest) - time.time()))


def _refuse_what_is_not_yours(url: str, target: str) -> None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host:
        raise TutorialError(
            "load() wants an http:// address.", seen=url, next="Use service(cluster, name).url."
        )
    if _loopback(host):
        return
    if target == "sandbox":
        raise TutorialError(
            "The sandbox loads nothing but itself.",
            seen=f"{url} is not on this machine",
            next="Use service(cluster, name).url.",
        )
    import boto3

    pages = boto3.client("elbv2").get_paginator("describe_load_balancers").paginate()
    own = [balancer["DNSName"].lower() for page in pages for balancer in page["LoadBalancers"]]
    if host not in own:
        raise TutorialError(
            "You may only load what is your own.",
            seen=f"{host} is no load balancer of this account and region",
            next=f"Use one of: {', '.join(own) or 'none there yet'}.",
        )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_too_much(phases: Sequence[Phase], target: str) -> None:
    if not phases:
        raise TutorialError("load() wants at least one Phase.", next='Try [Phase(5, rate=20, name="calm")].')
    for phase in phases:
        if not 0 <= phase.rate <= MOST_RATE or not phase.longest > 0:
            raise TutorialError(
                f"A phase has a rate of 0 to {MOST_RATE:.0f} requests a second, and lasts more than 0 minutes.",
                seen=f"{phase.name or 'a phase'}: {phase.rate} a second for {phase.longest} minutes",
                next="Change the phase.",
            )
    loaded = sum(phase.longest for phase in phases if phase.rate)
    if target != "sandbox" and loaded > MOST_MINUTES:
        raise TutorialError(
            f"Against AWS a load lasts at most {MOST_MINUTES:.0f} minutes; it costs money.",
            seen=f"{loaded:.0f} minutes",
            next="Shorten the phases.",
        )


class _Locust:
    """A Locust process, its control file and its record."""

    def __init__(self, directory: Path, url: str, first: Phase, seconds: float):
        self.record = Record()
        self._control = directory / "control.json"
        self._lines = directory / "record.jsonl"
        self._output = directory / "output.txt"
        self._read_to = 0
        self._tell(first.pace())
        self._lines.touch()
        options = [
            "--headless",
            "--only-summary",
            "--loglevel",
            "ERROR",
            "--stop-timeout",
            f"{STOP_WITHIN:.0f}",
        ]
        own = {
            "TUTORIAL_LOAD_URL": url,
            "TUTORIAL_LOAD_CONTROL": str(self._control),
            "TUTORIAL_LOAD_RECORD": str(self._lines),
            "TUTORIAL_LOAD_SECONDS": str(seconds + START_WITHIN + STOP_WITHIN),
        }
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *options],
                # The learner's own Locust settings (LOCUST_*, a locust.conf here) must not change the load.
                env={k: v for k, v in os.environ.items() if not k.startswith("LOCUST_")} | own,
                cwd=directory,
                stdin=subprocess.PIPE,  # never written to: its end tells Locust that we are gone
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def started(self) -> float:
        """Waits for the first visitors; their real epoch time."""
        self._wait(lambda: self.record.start, START_WITHIN, "Locust did not start.")
        return self.record.start

    def pace(self, phase: Phase) -> float:
        """Makes it the phase's load; the real epoch time from which it is."""
        self._tell(phase.pace())
        return time.time()

    def stop(self) -> None:
        """No more requests; returns when the last answer is in."""
        self._tell({"users": 0, "each": 1.0, "stop": True})
        self._wait(lambda: self.record.stopped, STOP_WITHIN + 5, "Locust did not stop.")

    def read(self) -> None:
        """Takes in the whole lines that Locust has written since."""
        ended = self.process.poll() is not None  # asked first, so that the last lines are there to be read
        with self._lines.open() as lines:
            lines.seek(self._read_to)
            while (line := lines.readline()).endswith("\n"):
                self.record.add(json.loads(line))
                self._read_to = lines.tell()
        if ended and self.record.stopped is None:
            self._fail("Locust ended early.")

    def end(self) -> None:
        """Whatever happened: the process is gone when this returns."""
        self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _tell(self, told: dict) -> None:
        new = self._control.with_suffix(".new")
        new.write_text(json.dumps(told))
        new.replace(self._control)

    def _wait(self, until: Callable[[], object], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() > deadline:
                self._fail(what)
            time.sleep(0.05)
            self.read()

    def _fail(self, what: str) -> None:
        words = self._output.read_text(errors="replace").strip().splitlines()[-12:]
        raise LoadFailed(what, seen="\n".join(words) or "no output", next="Run the cell again.")


@contextmanager
def _locust(url: str, first: Phase, seconds: float) -> Iterator[_Locust]:
    """A Locust for at most so many real seconds, that ends with the block."""
    with tempfile.TemporaryDirectory(prefix="tutorial-load-") as directory:
        locust = _Locust(Path(directory), url, first, seconds)
        try:
            yield locust
        finally:
            locust.end()


class _Watching:
    """A figure that is redrawn in place: the load, and the service's tasks as ECS counts them."""

    def __init__(self, service: Service):
        self.service, self.handle, self.counts, self.plot = service, None, [], None
        self.not_before = 0.0

    def show(self, progress: Progress, last: bool = False) -> None:
        if not in_notebook():
            return
        self.counts.append((progress.now, self.service.counts()))
        began = time.monotonic()
        if began < self.not_before and not last:
            return
        self._draw(progress)
        # A slow machine has better things to do than to draw: its tasks share the CPU with this kernel.
        self.not_before = time.monotonic() + DRAWING * (time.monotonic() - began)

    def _draw(self, progress: Progress) -> None:
        from IPython.display import Image, display

        from helpers.plots import LivePlot

        self.plot = self.plot or LivePlot()
        png = io.BytesIO()
        self.plot.update(progress.report, self.counts).savefig(png)
        if self.handle is None:
            self.handle = display(Image(png.getvalue()), display_id=True)
        else:
            self.handle.update(Image(png.getvalue()))
