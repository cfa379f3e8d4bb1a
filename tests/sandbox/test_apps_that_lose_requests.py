"""Apps that are really wrong lose requests as behind an Application Load Balancer: 502, and only with them.

Sources: "Troubleshoot your Application Load Balancers", HTTP 502 (the target closed the connection with a TCP RST or FIN
while a request was outstanding; keep-alive shorter than the load balancer's idle timeout), and aws-facts, sections 4 and 7.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from helpers import sandbox, session
from tests.sandbox.live import Live, get, write_app
from tests.sandbox.served import serve

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


@pytest.fixture
def serving(live, tmp_path, monkeypatch):
    """Serves an app, and ends all it served."""
    environ = dict(os.environ)
    session.isolate(environ, live.here.endpoint, "us-east-1", live.state)
    monkeypatch.setattr(os, "environ", environ)
    served = []

    def make(name: str, code: str, **options):
        image = live.push(write_app(tmp_path / name, APP % code), name)
        served.append(serve(live, name, image, **options))
        return served[-1]

    yield make
    for one in served:
        one.end()


# ---- keep-alive ----

# Node 20 and later wait a second longer than keepAliveTimeout says (keepAliveTimeoutBuffer, or a constant before it).
IDLE_LIMIT = 1.05  # real seconds, with a keepAliveTimeout of 50 ms
# A wave comes this much before or after the connections of the last one reach that limit, real seconds.
OFFSETS = (-0.15, -0.11, -0.08, -0.05)


def waves(url: str) -> Counter[str]:
    """Visitors who come six at a time about once a second, while one page in between takes the app 200 ms."""
    seen: Counter[str] = Counter()
    with ThreadPoolExecutor(8) as pool:
        for offset in OFFSETS:
            seen.update(pool.map(get, [f"{url}/"] * 6))  # their connections are idle from here on
            began = time.monotonic()
            time.sleep(IDLE_LIMIT + offset - 0.02)
            slow = pool.submit(get, f"{url}/?busy=200")
            time.sleep(began + IDLE_LIMIT + offset - time.monotonic())
            seen.update(pool.map(get, [f"{url}/"] * 6))
            seen[slow.result()] += 1
    return seen


def test_a_keep_alive_shorter_than_the_load_balancers_loses_requests_under_load(serving):
    """The load balancer sends a request on a connection that the app has given up but, being busy, not closed yet."""
    short = waves(serving("short", DRAINS + "server.keepAliveTimeout = 50;").url)
    patient = waves(serving("patient", DRAINS + PATIENT).url)
    print(f"keep-alive of 50 ms: {dict(short)}; of 65 s: {dict(patient)}")
    assert set(short) == {"ok", "HTTP 502"}
    assert set(patient) == {"ok"}


# ---- SIGTERM ----


def under_way(url: str, ended: threading.Event, seen: Counter[str]) -> None:
    while not ended.is_set():
        seen[get(f"{url}/?wait=3600")] += 1


def scaled_in(served) -> Counter[str]:
    """What six visitors of slow pages see while one of two tasks is stopped, and a deployment replaces the other."""
    seen, ended = Counter(), threading.Event()
    visitors = [threading.Thread(target=under_way, args=(served.url, ended, seen)) for _ in range(6)]
    for visitor in visitors:
        visitor.start()
        time.sleep(0.5)  # at any moment, some have just begun
    served.update(desiredCount=1)
    served.update(forceNewDeployment=True)
    ended.set()
    for visitor in visitors:
        visitor.join(20)
    return seen


@pytest.mark.parametrize(
    ("name", "at_sigterm", "command", "exit_code", "lost"),
    [
        ("drains", DRAINS, None, 0, False),
        ("swallows", "process.on('SIGTERM', () => console.log('later'));\n", None, 137, True),
        # A shell that waits for what it started, as `npm start` has one: the signal ends it and reaches nobody else. As
        # process 1 of a container it would not end by it, and be killed as the one above.
        ("shell", DRAINS, ["sh", "-c", "node server.js; exit $?"], 143, True),
    ],
)
def test_a_sigterm_that_is_lost_cuts_the_requests_in_flight(
    serving, name, at_sigterm, command, exit_code, lost
):
    """Requests that outlast the deregistration delay: who hears SIGTERM answers them, who does not is cut off."""
    options = {"command": command} if command else {}
    # Whoever is killed is killed before a request ends that was under way when it was told to stop.
    patience = 1 if exit_code == 137 else 30
    served = serving(name, PATIENT + at_sigterm, tasks=2, delay=1, stopTimeout=patience, **options)
    seen = scaled_in(served)
    stopped = served.live.until(lambda: len(ended := served.stopped()) == 2 and ended)
    print(f"{name}: {dict(seen)}")
    assert set(seen) == ({"ok", "HTTP 502"} if lost else {"ok"})
    assert {one["containers"][0]["exitCode"] for one in stopped} == {exit_code}
    assert all(one["stopCode"] == "ServiceSchedulerInitiated" for one in stopped)
