"""Ports that never answer and ports that refuse, without a packet filter."""

from __future__ import annotations

import socket

import pytest

from helpers.sandbox.elb.dead_ends import DeadEnds
from helpers.sandbox.elb.ports import Ports


@pytest.fixture
def ends():
    ends = DeadEnds()
    yield ends
    ends.keep_only(set())


def outcome(address: tuple[str, int], within: float = 0.3) -> str:
    try:
        socket.create_connection(address, timeout=within).close()
    except TimeoutError:
        return "silence"
    except ConnectionRefusedError:
        return "refused"
    return "taken"


def test_nobody_answers_at_a_silent_port(ends):
    address = ends.silent("a")
    assert [outcome(address) for _ in range(3)] == ["silence"] * 3
    assert ends.silent("a") == address
    assert ends.silent("b") != address


def test_a_refusing_port_is_nobody_elses(ends):
    address = ends.refusing("a")
    assert outcome(address) == "refused"
    with socket.socket() as other, pytest.raises(OSError):  # noqa: PT011 (whichever the system says)
        other.bind(address)


def test_what_is_not_kept_is_let_go(ends):
    kept, dropped, refusing = ends.silent("kept"), ends.silent("dropped"), ends.refusing("dropped")
    ends.keep_only({"kept"})
    assert (outcome(kept), outcome(dropped)) == ("silence", "refused")
    with socket.socket() as other:
        other.bind(refusing)


def test_a_load_balancers_port_falls_silent_and_is_itself_again():
    ports = Ports({})
    address = ("127.0.0.1", ports.reserve("app:80"))
    try:
        assert outcome(address) == "refused"
        ports.silence({"app:80", "unknown:80"})
        assert outcome(address) == "silence"
        ports.silence({"app:80"})
        assert outcome(address) == "silence"
        ports.silence(set())
        assert outcome(address) == "refused"
        assert ports.reserve("app:80") == address[1]
        with socket.socket() as listener:  # Envoy
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
            listener.listen()
            assert outcome(address) == "taken"
    finally:
        ports.keep_only(set())


def test_a_silent_port_is_let_go_with_its_load_balancer():
    ports = Ports({})
    address = ("127.0.0.1", ports.reserve("app:80"))
    ports.silence({"app:80"})
    ports.keep_only(set())
    assert outcome(address) == "refused"
    ports.silence(set())
