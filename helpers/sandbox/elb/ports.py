"""Stands in for the public addresses of load balancers: ports on 127.0.0.1.

Differs: a new sandbox takes the ports of the one before when they are free, so that open browser tabs reconnect.
"""

from __future__ import annotations

import socket
import threading

from helpers.sandbox.elb.dead_ends import silence


class Ports:
    """Ports by name, held from their reservation on: nothing else takes one while its load balancer has no listener.

    A reservation is a socket that is bound and never listens. SO_REUSEPORT lets Envoy, of the same user, listen on
    the same port; until it does, connections are refused.
    """

    def __init__(self, preferred: dict[str, int]):
        self._preferred = dict(preferred)
        self._held: dict[str, socket.socket] = {}
        self._queues: dict[str, list[socket.socket]] = {}  # of the silent ones
        self._lock = threading.Lock()

    def reserve(self, name: str) -> int:
        """The port of this name: the one it has, the one it had before if that is free, or a new one."""
        with self._lock:
            if name not in self._held:
                self._held[name] = self._bind(self._preferred.get(name, 0))
                self._preferred[name] = self._held[name].getsockname()[1]
            return self._preferred[name]

    def keep_only(self, names: set[str], prefix: str = "") -> None:
        """Let go of all other names that begin with `prefix`; they stay known."""
        with self._lock:
            for name in [name for name in self._held if name.startswith(prefix) and name not in names]:
                self._drop_queue(name)
                self._held.pop(name).close()

    def silence(self, names: set[str]) -> None:
        """Have connections to the ports of these names wait for nothing, as behind a security group that does not let
        them in. Those of all others are refused again, or taken by Envoy."""
        with self._lock:
            for name in names & self._held.keys() - self._queues.keys():
                self._queues[name] = silence(self._held[name])
            for name in self._queues.keys() - names:
                listening = self._held[name]
                self._held[name] = _held(
                    listening.getsockname()[1]
                )  # before the other goes: nobody else takes it
                listening.close()
                self._drop_queue(name)

    def _drop_queue(self, name: str) -> None:
        for one in self._queues.pop(name, ()):
            one.close()

    def known(self) -> dict[str, int]:
        with self._lock:
            return dict(self._preferred)

    def _bind(self, port: int) -> socket.socket:
        if port and (port in self._preferred_and_held() or not _is_free(port)):
            port = 0
        try:
            return _held(port)
        except OSError:
            return _held(0)

    def _preferred_and_held(self) -> set[int]:
        return {held.getsockname()[1] for held in self._held.values()}


def _is_free(port: int) -> bool:
    """Whether nobody has the port, connections just closed aside. Asked without SO_REUSEPORT, which would share it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _held(port: int) -> socket.socket:
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        held.bind(("127.0.0.1", port))
    except OSError:
        held.close()
        raise
    return held
