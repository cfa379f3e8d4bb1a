from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest

from helpers import bench, session
from helpers.errors import TutorialError


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("from helpers import connect\nlab = connect()", "imports"),
        ("lab.catch_up(through='06')\nlab", "imports"),
        ("outputs = wait_for(name)", "waits"),
        ("app.until_steady()", "waits"),
        ("ecs.get_waiter('services_stable').wait(cluster=name)", "waits"),
        ("from helpers import wait_for\nwait_for(name)", "waits"),
        ("report = load(url, [Phase(5, rate=20)], watch=app)\napp.until_steady()", "load"),
        ("most = traffic.saturate(url)", "load"),
        ("stack = cloudformation.describe_stacks()", "rest"),
        ("%matplotlib inline", "rest"),
        ("'load(url) is only spoken of'", "rest"),
    ],
)
def test_a_cells_time_belongs_to_what_it_calls(source, kind):
    assert bench.kind_of(source) == kind


def cell(source: str, start: str, duration: float, kind: str = "code") -> dict:
    times = {"start_time": f"2026-01-02T03:04:{start}+00:00", "duration": duration}
    return {"cell_type": kind, "source": source, "metadata": {"papermill": times}}


def test_a_notebooks_time_is_split_and_nothing_of_it_is_lost():
    notebook = {
        "metadata": {"papermill": {"start_time": "2026-01-02T03:04:05+00:00", "duration": 20.0}},
        "cells": [
            {"cell_type": "markdown", "source": "not timed", "metadata": {}},
            cell("# Title", "05.75", 0.01, "markdown"),
            cell("lab = connect()", "06", 1.5),
            cell("wait_for(name)", "08", 4.0),
            cell("load(url, phases)", "12", 10.0),
            cell("1 + 1", "22", 0.25),
            {"cell_type": "code", "source": "not run", "metadata": {"papermill": {"duration": None}}},
        ],
    }
    parts = bench.split(notebook)
    assert parts == {"kernel": 0.75, "imports": 1.5, "waits": 4.0, "load": 10.0, "rest": 3.75}
    assert sum(parts.values()) == 20


def test_the_table_adds_up():
    one = {"kernel": 1.0, "imports": 1.0, "waits": 2.0, "load": 0.0, "rest": 1.0}
    lines = bench.journey_table({"00-a": one, "01-b": one}, total=12.5)
    assert [line.split()[-1] for line in lines] == ["all", "5.0", "5.0", "2.5", "12.5"]
    assert lines[-1].split() == ["in", "all", "2.0", "2.0", "4.0", "0.0", "4.5", "12.5"]


LOG = """\
03:04:05 sandbox              ready at http://127.0.0.1:1, 30 AWS seconds a second
03:14:05 sandbox              took: ecs DescribeServices: 120 calls, median 4.2 ms, longest 90.0 ms
03:14:05 sandbox              took: unsigned (another): 1 calls, median 1.0 ms, longest 1.0 ms
03:14:05 sandbox              took: cloudwatch GetMetricData: 3 calls, median 70.5 ms, longest 700.1 ms
03:14:05 sandbox              ended
"""


def test_calls_are_read_from_the_log_the_slowest_first_and_those_beyond_the_goal_marked():
    calls = bench.timings(LOG)
    assert [one["operation"] for one in calls] == ["GetMetricData", "DescribeServices", "(another)"]
    assert calls[1] == {
        "service": "ecs",
        "operation": "DescribeServices",
        "calls": 120,
        "median_ms": 4.2,
        "longest_ms": 90.0,
    }
    assert [line.endswith("slow") for line in bench.calls_table(calls)[1:]] == [True, False, False]


def test_shares_are_ratios_within_a_round_so_that_a_slow_moment_counts_for_both():
    def side(answered: int, failed: int = 0) -> dict:
        return {"answered": answered, "failed": failed, "seconds": 2.0}

    rounds = [
        {"direct": side(10000), "balancer": side(5000)},
        {"direct": side(2000), "balancer": side(1000, failed=1)},
        {"direct": side(8000), "balancer": side(4000)},
    ]
    found = bench.shares(rounds)
    assert (found["direct_per_second"], found["balancer_per_second"]) == (4000, 2000)
    assert (found["share"], found["failed"]) == (0.5, 1)


@pytest.mark.parametrize(
    "problem",
    [
        TutorialError("No notebooks here."),
        subprocess.TimeoutExpired(["node"], 32),
        psutil.NoSuchProcess(4711),
        OSError(28, "No space left on device"),
    ],
    ids=lambda problem: type(problem).__name__,
)
def test_what_could_be_measured_is_written_though_the_rest_could_not(tmp_path, monkeypatch, problem):
    def broken(say):
        raise problem

    monkeypatch.setattr(bench, "journey", broken)
    monkeypatch.setattr(bench, "alone", lambda say: {"catch_up_seconds": 12.0, "first_answer_seconds": 1.2})
    said: list[str] = []
    assert bench.bench(said.append, tmp_path / "runs" / "bench.json") == 1
    kept = json.loads((tmp_path / "runs" / "bench.json").read_text())
    assert kept["catch_up_seconds"] == 12
    assert any("journey could not be measured" in line and str(problem) in line for line in said)
    assert "catch_up(through='07') from nothing: 12 s (goal: under 30)" in said


def test_a_slow_machine_is_no_failure(tmp_path, monkeypatch):
    slow = {
        "first_answer_seconds": 60.0,
        "catch_up_seconds": 600.0,
        "idle": {"region": 90.0, "total": 99.0},
        "balancer": {"share": 0.01},
    }
    monkeypatch.setattr(
        bench, "journey", lambda say: {"journey": {"seconds": 9999}, "calls": bench.timings(LOG)}
    )
    monkeypatch.setattr(bench, "alone", lambda say: slow)
    said: list[str] = []
    assert bench.bench(said.append, tmp_path / "bench.json") == 0
    assert "AWS calls with a median over 50 ms: cloudwatch GetMetricData" in said


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked = 0

    def do_GET(self) -> None:
        Handler.asked += 1
        refused = Handler.asked % 50 == 0
        body = b"x" * 3000
        self.send_response(500 if refused else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def test_the_generator_counts_what_the_server_answered():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = bench._round(str(session.find_node().path), server.server_address, 0.5)
    finally:
        server.shutdown()
        server.server_close()
    assert done["answered"] > 50
    assert done["failed"] >= 1
    assert 0 <= Handler.asked - done["answered"] - done["failed"] <= bench.CONNECTIONS
    assert 0.49 <= done["seconds"] < 5  # Node.js may be a millisecond early


READS = "import sys; sys.stdin.read()"
REGION = """
import subprocess, sys
for program, file in ((sys.executable, "host.py"), (sys.executable, "server.js"), (sys.argv[1], "listeners")):
    print(subprocess.Popen([program, "-I", "-S", file]).pid, flush=True)
sys.stdin.read()
"""


def test_its_own_processes_are_not_its_tasks(tmp_path):
    """Stand-ins with the names of the real ones; each reads until its input ends."""
    for name in ("host.py", "server.js", "listeners"):
        (tmp_path / name).write_text(READS)
    (tmp_path / "envoy").symlink_to(os.path.realpath(sys.executable))
    command = [sys.executable, "-c", REGION, str(tmp_path / "envoy")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) as region:
        host, _, envoy = (int(region.stdout.readline()) for _ in range(3))
        own = bench._own_processes(psutil.Process(region.pid))
        region.stdin.close()
    assert {name: process.pid for name, process in own.items()} == {
        "region": region.pid,
        "host": host,
        "envoy": envoy,
    }
