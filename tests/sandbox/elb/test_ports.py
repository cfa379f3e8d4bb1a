"""A load balancer's port is its own from its creation on, and again in the next sandbox."""

from __future__ import annotations

import socket

import pytest

from helpers.sandbox.elb.ports import Ports


def connects(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_a_name_keeps_its_port():
    ports = Ports({})
    assert ports.reserve("app:80") == ports.reserve("app:80")
    assert ports.reserve("app:81") != ports.reserve("app:80")
    ports.keep_only(set())


def test_a_reserved_port_refuses_connections_and_is_nobody_elses():
    ports = Ports({})
    port = ports.reserve("app:80")
    assert not connects(port)
    with socket.socket() as other, pytest.raises(OSError):  # noqa: PT011 (whichever the system says)
        other.bind(("127.0.0.1", port))
    ports.keep_only(set())


def test_whoever_shares_the_port_can_listen_on_it():
    ports = Ports({})
    port = ports.reserve("app:80")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        assert connects(port)
    ports.keep_only(set())


def test_the_old_port_is_taken_again_when_free_and_not_when_not():
    first = Ports({})
    port = first.reserve("app:80")
    second = Ports(first.known())
    assert second.reserve("app:80") != port
    second.keep_only(set())
    first.keep_only(set())
    third = Ports({"app:80": port})
    assert third.reserve("app:80") == port
    third.keep_only(set())


def test_letting_go_is_by_prefix_and_the_port_stays_known():
    ports = Ports({})
    kept, dropped = ports.reserve("eu-west-1/app:80"), ports.reserve("us-east-1/app:80")
    ports.keep_only(set(), prefix="us-east-1/")
    with socket.socket() as other:
        other.bind(("127.0.0.1", dropped))
    assert ports.known() == {"eu-west-1/app:80": kept, "us-east-1/app:80": dropped}
    ports.keep_only(set())
