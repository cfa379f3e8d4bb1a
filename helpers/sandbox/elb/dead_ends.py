"""Stands in for a connection that a security group drops, and for a port of a task on which nothing listens.

Differs: a packet filter needs rights that the sandbox has not. So a load balancer is led to a port on 127.0.0.1 that
never answers, since its queue is full, or to one that refuses.
"""

from __future__ import annotations

import contextlib
import socket
import threading

FULL = 0.02  # real seconds after which a connection over loopback that is not there is not going to be
MOST_QUEUED = 16  # connections that fill the shortest queue there is: 1 on Linux, a few on macOS


class DeadEnds:
    """Ports by name, one each: Envoy tells the targets of a cluster apart by their addresses."""

    def __init__(self) -> None:
        self._silent: dict[str, list[socket.socket]] = {}
        self._refusing: dict[str, socket.socket] = {}
        self._lock = threading.Lock()

    def silent(self, name: str) -> tuple[str, int]:
        """An address at which connection attempts time out."""
        with self._lock:
            if name not in self._silent:
                listening = socket.socket()
                listening.bind(("127.0.0.1", 0))
                self._silent[name] = [listening, *silence(listening)]
            return self._silent[name][0].getsockname()

    def refusing(self, name: str) -> tuple[str, int]:
        """An address at which connection attempts are refused, and that nobody else takes."""
        with self._lock:
            if name not in self._refusing:
                self._refusing[name] = socket.socket()
                self._refusing[name].bind(("127.0.0.1", 0))
            return self._refusing[name].getsockname()

    def keep_only(self, names: set[str]) -> None:
        with self._lock:
            for name in self._silent.keys() - names:
                for one in self._silent.pop(name):
                    one.close()
            for name in self._refusing.keys() - names:
                self._refusing.pop(name).close()


def silence(bound: socket.socket) -> list[socket.socket]:
    """Listen on a bound socket and answer nobody: the connections that fill its queue, to be kept open."""
    bound.listen(0)
    queued: list[socket.socket] = []
    for _ in range(MOST_QUEUED):
        one = socket.socket()
        one.settimeout(FULL)
        try:
            one.connect(bound.getsockname())
        except TimeoutError:
            one.close()
            break
        except OSError:
            with contextlib.suppress(OSError):
                one.close()
            break
        queued.append(one)
    return queued
