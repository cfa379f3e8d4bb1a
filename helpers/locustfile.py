"""The visitors: what Locust runs, in a process of its own, for `helpers.load`.

Closed loop: each user asks, waits for the answer, and asks again at the next beat of a constant rate; one that
is answered late does not catch up. How many users, and how fast each, stands in a small control file that
`traffic.py` replaces while the load runs. Every answer goes into a record of JSON lines:

    {"start": T}                           real epoch seconds of the first user; bins count from here
    {"at": T, "users": N, "each": R}       from now on N users, R requests a real second each
    {"bin": K, "ms": […], "failed": {…}}   what ended in [start + K/4 s, start + (K+1)/4 s)
    {"stopped": T}                         the last answer is in
"""

from __future__ import annotations

import itertools
import json
import os
import select
import time
from collections import Counter, defaultdict
from pathlib import Path

import gevent
from locust import FastHttpUser, LoadTestShape, events, task

URL = os.environ["TUTORIAL_LOAD_URL"]
CONTROL = Path(os.environ["TUTORIAL_LOAD_CONTROL"])
RECORD = Path(os.environ["TUTORIAL_LOAD_RECORD"])
# Real seconds: whatever happens to the parent, no load is longer.
SECONDS = float(os.environ["TUTORIAL_LOAD_SECONDS"])
BIN = 0.25  # real seconds
AT_ONCE = 1000  # users started or stopped in a second: a step is a step
STARTED = time.time()
PARENT = os.getppid()

latencies: dict[int, list[float]] = defaultdict(list)
failures: dict[int, Counter[str]] = defaultdict(Counter)
pace: dict = {}
origin: float | None = None
turn = itertools.count()


def write(line: dict) -> None:
    with RECORD.open("a") as lines:
        lines.write(json.dumps(line) + "\n")


def read_control() -> dict:
    return json.loads(CONTROL.read_text())


def flush(before: float) -> None:
    """Writes the bins that ended before a real epoch time; no request can enter them any more."""
    for number in sorted(set(latencies) | set(failures)):
        if origin + (number + 1) * BIN <= before:
            write({"bin": number, "ms": latencies.pop(number, []), "failed": failures.pop(number, {})})


@events.request.add_listener
def record(response_time: float, response, exception, **_: object) -> None:
    number = int((time.time() - origin) / BIN)
    if exception is None:
        latencies[number].append(round(response_time, 1))
    else:
        failures[number][reason(response, exception)] += 1


def reason(response, exception: Exception) -> str:
    status = getattr(response, "status_code", 0)
    return f"HTTP {status}" if status else f"{type(exception).__name__}: {exception}"


@events.test_stop.add_listener
def finish(**_: object) -> None:
    flush(before=float("inf"))
    write({"stopped": time.time()})


@events.init.add_listener
def keep_watch(**_: object) -> None:
    gevent.spawn(watch)


def watch() -> None:
    """Flushes the record, and ends this process when its parent is gone or its time is over."""
    while True:
        gevent.sleep(0.2)
        if origin:
            flush(before=time.time())
        if parent_gone() or time.time() - STARTED > SECONDS:
            os._exit(3)


def parent_gone() -> bool:
    """The parent holds the other end of our standard input; a killed parent closes it, too."""
    readable, _, _ = select.select([0], [], [], 0)
    return os.getppid() != PARENT or bool(readable and os.read(0, 1) == b"")


class Visitor(FastHttpUser):
    host = URL
    connection_timeout = 10.0  # as long as a load balancer tries to connect
    network_timeout = 60.0  # a load balancer's idle timeout

    def on_start(self) -> None:
        # Spread over one beat by the golden ratio, or else all would ask at the same moment, for ever.
        gevent.sleep(next(turn) * 0.618034 % 1 / pace["each"])
        self.due = time.perf_counter()

    def wait_time(self) -> float:
        """Until the next beat; at once if that is over. (constant_throughput would undo the spread.)"""
        now = time.perf_counter()
        self.due = max(self.due + 1 / pace["each"], now)
        return self.due - now

    @task
    def visit(self) -> None:
        self.client.get(URL, name="visit")


class AsTold(LoadTestShape):
    """What the control file says. Locust asks once a second; waiting here for a change makes that 0.1 s."""

    def tick(self) -> tuple[int, float] | None:
        global origin, pace
        asked = time.time()
        while (told := read_control()) == pace and time.time() - asked < 1:
            gevent.sleep(0.1)
        if told["stop"]:
            return None
        if told != pace:
            pace = told
            now = time.time()
            if origin is None:
                origin = now
                write({"start": now})
            write({"at": now, "users": told["users"], "each": told["each"]})
        return told["users"], AT_ONCE
