"""Free ports of loopback: what a task listens on where tasks share this machine's."""

from __future__ import annotations

import socket
import threading
from collections import deque

from helpers.sandbox.fargate.host import LINUX

RECENT_PORTS = 1000  # ports not given out again: something may still talk to the task that had one


class Port:
    """A port on loopback, kept from others until it is released."""

    def __init__(self) -> None:
        # Bound but not listening: the system gives the port to nobody else, and lets the app, which binds with
        # SO_REUSEADDR as Node.js does, listen on it. macOS would not let it.
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.number: int = self._held.getsockname()[1]

    def release(self) -> None:
        self._held.close()


class FreePorts:
    """Gives out ports that no other task has or lately had."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque(maxlen=RECENT_PORTS)
        self._lock = threading.Lock()

    def take(self) -> Port:
        passed = []
        with self._lock:
            while (port := Port()).number in self._recent:
                passed.append(port)  # held until another one is found, or the system might offer it again
            self._recent.append(port.number)
        for other in passed:
            other.release()
        if not LINUX:
            port.release()
        return port
