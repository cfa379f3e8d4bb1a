"""Apps that are really wrong lose requests as behind an Application Load Balancer: 502, and only with them.

Sources: "Troubleshoot your Application Load Balancers", HTTP 502 (the target closed the connection with a TCP RST or FIN
while a request was outstanding; keep-alive shorter than the load balancer's idle timeout), and aws-facts, sections 4 and 7.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from helpers import sandbox, session
from tests.sandbox.live import Live, get, write_app
from tests.sandbox.served import Served, serve

# `?busy=<ms>` holds up the event loop, as rendering and parsing do; `?wait=<ms>` waits for something else.
APP = """
const http = require('node:http');
const server = http.createServer((request, response) => {
  const asked = new URL(request.url, 'http://x').searchParams;
  const began = Date.now();
  while (Date.now() - began < Number(asked.get('busy') || 0));
  setTimeout(() => response.end('ok'), Number(asked.get('wait') || 0));
});
%s
server.listen(process.env.PORT, process.env.HOST, () => console.log('ready'));
"""
PATIENT = "server.keepAliveTimeout = 65000;\n"
DRAINS = (
    "process.on('SIGTERM', () => { server.close(() => process.exit(0)); server.closeIdleConnections(); });\n"
)


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    live = Live(tmp_path_factory.mktemp("wrong") / "sandbox", speed=60)
    yield live
    sandbox.stop(live.state)


@pytest.fixture(scope="module")
def serving(live, tmp_path_factory):
    """Serves apps, all at once, and says what a visit to each gives. They end with the sandbox."""

    def make(
        visit: Callable[[Served], Any], apps: dict[str, tuple[str, dict[str, Any]]]
    ) -> dict[str, Future]:
        environ = dict(os.environ)
        session.isolate(environ, live.here.endpoint, "us-east-1", live.state)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "environ", environ)
            places = {name: tmp_path_factory.mktemp(name) / name for name in apps}
            images = {
                name: live.push(write_app(places[name], APP % code), name) for name, (code, _) in apps.items()
            }

        live.role()  # by one for all of them

        def visited(name: str) -> Any:
            return visit(serve(live, name, images[name], **apps[name][1]))

        with ThreadPoolExecutor() as pool:
            return {name: pool.submit(visited, name) for name in apps}

    return make


# ---- keep-alive ----

# Node 20 and later wait a second longer than keepAliveTimeout says (keepAliveTimeoutBuffer, or a constant before it).
IDLE_LIMIT = 1.05  # real seconds, with a keepAliveTimeout of 50 ms
# A wave comes this much before the connections of the last one reach that limit, real seconds: the app is BUSY from
# shortly before it until well after the limit, however late this machine makes either.
OFFSETS = (-0.45, -0.35)
BUSY = 900  # milliseconds


def waves(url: str) -> Counter[str]:
    """Visitors who come six at a time about once a second, while one page in between keeps the app from all else."""
    seen: Counter[str] = Counter()
    with ThreadPoolExecutor(8) as pool:
        for offset in OFFSETS:
            # Answered all at once, so that there are six connections; they are idle from here on.
            seen.update(pool.map(get, [f"{url}/?wait=200"] * 6))
            began = time.monotonic()
            time.sleep(IDLE_LIMIT + offset - 0.02)
            slow = pool.submit(get, f"{url}/?busy={BUSY}")
            time.sleep(max(0.0, began + IDLE_LIMIT + offset - time.monotonic()))
            seen.update(pool.map(get, [f"{url}/"] * 6))
            seen[slow.result()] += 1
    return seen


def test_a_keep_alive_shorter_than_the_load_balancers_loses_requests_under_load(serving):
    """The load balancer sends a request on a connection that the app has given up but, being busy, not closed yet."""
    apps = {"short": (DRAINS + "server.keepAliveTimeout = 50;", {}), "patient": (DRAINS + PATIENT, {})}
    seen = serving(lambda served: waves(served.url), apps)
    short, patient = seen["short"].result(), seen["patient"].result()
    print(f"keep-alive of 50 ms: {dict(short)}; of 65 s: {dict(patient)}")
    assert set(short) == {"ok", "HTTP 502"}
    assert set(patient) == {"ok"}


# ---- SIGTERM ----


def under_way(url: str, ended: threading.Event, seen: Counter[str]) -> None:
    while not ended.is_set():
        seen[get(f"{url}/?wait=6000")] += 1


def scaled_in(served: Served) -> tuple[Counter[str], list[dict[str, Any]]]:
    """What six visitors of slow pages see while one of two tasks is stopped, and a deployment replaces the other; and
    these two tasks at their end."""
    seen, ended = Counter(), threading.Event()
    visitors = [threading.Thread(target=under_way, args=(served.url, ended, seen)) for _ in range(6)]
    for visitor in visitors:
        visitor.start()
        time.sleep(0.5)  # at any moment, some have just begun
    served.update(desiredCount=1)
    served.update(forceNewDeployment=True)
    ended.set()
    for visitor in visitors:
        visitor.join(70)
    return seen, served.live.until(lambda: len(stopped := served.stopped()) == 2 and stopped)


@dataclass
class Case:
    at_sigterm: str
    exit_code: int
    lost: bool
    command: list[str] | None = None

    def app(self) -> tuple[str, dict[str, Any]]:
        # Whoever is killed is killed before a request ends that was under way when it was told to stop.
        patience = 1 if self.exit_code == 137 else 30
        command = {"command": self.command} if self.command else {}
        return PATIENT + self.at_sigterm, {"tasks": 2, "delay": 1, "stopTimeout": patience, **command}


CASES = {
    "drains": Case(DRAINS, 0, False),
    "swallows": Case("process.on('SIGTERM', () => console.log('later'));\n", 137, True),
    # A shell that waits for what it started, as `npm start` has one: the signal ends it and reaches nobody else. As
    # process 1 of a container it would not end by it, and be killed as the one above.
    "shell": Case(DRAINS, 143, True, ["sh", "-c", "node server.js; exit $?"]),
}


@pytest.fixture(scope="module")
def outcomes(serving) -> dict[str, Future]:
    return serving(scaled_in, {name: case.app() for name, case in CASES.items()})


@pytest.mark.parametrize("name", CASES)
def test_a_sigterm_that_is_lost_cuts_the_requests_in_flight(outcomes, name):
    """Requests that outlast the deregistration delay: who hears SIGTERM answers them, who does not is cut off."""
    case, (seen, stopped) = CASES[name], outcomes[name].result()
    print(f"{name}: {dict(seen)}")
    assert set(seen) == ({"ok", "HTTP 502"} if case.lost else {"ok"})
    assert {one["containers"][0]["exitCode"] for one in stopped} == {case.exit_code}
    assert all(one["stopCode"] == "ServiceSchedulerInitiated" for one in stopped)
