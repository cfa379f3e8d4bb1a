"""One sandbox measured: ratios, and whose CPU counts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil

from helpers import bench, bench_sandbox, builds, this_machine
from helpers.errors import SetupError, TutorialError


def test_shares_are_ratios_within_a_round_so_that_a_slow_moment_counts_for_both():
    def side(answered: int, failed: int = 0) -> dict:
        return {"answered": answered, "failed": failed, "seconds": 2.0}

    rounds = [
        {"direct": side(10000), "balancer": side(5000)},
        {"direct": side(2000), "balancer": side(1000, failed=1)},
        {"direct": side(8000), "balancer": side(4000)},
    ]
    found = bench_sandbox.shares(rounds)
    assert (found["direct_per_second"], found["balancer_per_second"]) == (4000, 2000)
    assert (found["share"], found["failed"]) == (0.5, 1)


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
        done = bench_sandbox.closed_loop(str(this_machine.find_node().path), server.server_address, 0.5)
    finally:
        server.shutdown()
        server.server_close()
    assert done["answered"] > 50
    assert done["failed"] >= 1
    assert 0 <= Handler.asked - done["answered"] - done["failed"] <= bench_sandbox.CONNECTIONS
    assert 0.49 <= done["seconds"] < 5  # Node.js may be a millisecond early


READS = "import sys; sys.stdin.read()"
REGION = """
import subprocess, sys
own = ((sys.executable, "host.py"), (sys.executable, "server.js"), (sys.argv[1], "listeners"), (sys.argv[2], "serve"))
for program, file in own:
    print(subprocess.Popen([program, "-I", "-S", file]).pid, flush=True)
sys.stdin.read()
"""


def test_its_own_processes_are_not_its_tasks(tmp_path):
    """Stand-ins with the names of the real ones; each reads until its input ends."""
    for name in ("host.py", "server.js", "listeners", "serve"):
        (tmp_path / name).write_text(READS)
    programs = [tmp_path / "envoy", tmp_path / "docker-registry"]
    for program in programs:
        program.symlink_to(os.path.realpath(sys.executable))
    command = [sys.executable, "-c", REGION, *map(str, programs)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) as region:
        host, _, envoy, registry = (int(region.stdout.readline()) for _ in range(4))
        own = bench_sandbox.own_processes(psutil.Process(region.pid))
        region.stdin.close()
    assert {name: process.pid for name, process in own.items()} == {
        "region": region.pid,
        "host": host,
        "envoy": envoy,
        "docker-registry": registry,
    }


def failing(*_: object, **__: object) -> None:
    raise TutorialError("The engine is away.")


def test_a_part_that_fails_loses_none_of_the_others(monkeypatch):
    """One real sandbox, of processes; what needs a service is made up."""
    removed: list[str] = []
    failed: dict[str, str] = {}
    said: list[str] = []
    monkeypatch.setattr(builds, "remove_all", removed.append)
    monkeypatch.setattr(bench_sandbox, "_catch_up", failing)
    monkeypatch.setattr(bench_sandbox, "_idle", lambda lab, say: {"idle": lab.running.pid})
    monkeypatch.setattr(bench_sandbox, "balancer", failing)
    found = bench_sandbox.alone(said.append, bench.attempts(said.append, failed))
    assert found["first_answer_seconds"] > 0
    assert found["runtime"] == "process"
    assert not psutil.pid_exists(found["idle"])
    assert failed == dict.fromkeys(("catching up", "the load balancer"), "The engine is away.")
    assert "idle could not be measured. The engine is away." not in said
    assert removed == [bench_sandbox.NAME]


def test_without_an_engine_there_is_nothing_to_remove(monkeypatch):
    def no_engine(name: str) -> None:
        raise SetupError("There is no Docker Engine to work with.")

    monkeypatch.setattr(builds, "remove_all", no_engine)
    bench_sandbox.remove_images()
