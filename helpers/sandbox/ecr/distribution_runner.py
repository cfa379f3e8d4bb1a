"""What Distribution is run by: a program of this machine, or a container."""

from __future__ import annotations

import http.client
from typing import Any, Protocol

ANSWERS_WITHIN = 300.0  # real seconds between two bytes


class DistributionError(RuntimeError):
    """Distribution does not run, or not as it should; says why."""


class Runner(Protocol):
    """How Distribution is run: as a process, or as a container."""

    root: str  # its storage, as it sees it

    def listen(self) -> dict[str, Any]:
        """Its settings of where to listen."""

    def launch(self, settings: str) -> None:
        """Start it, again if need be, with this configuration; OSError or DistributionError."""

    def running(self) -> bool: ...

    def connection(self) -> http.client.HTTPConnection:
        """To it, not connected yet."""

    def last_words(self) -> list[str]:
        """The last lines of its log."""

    def remove(self, path: str) -> None:
        """Remove a directory of its storage."""

    def end(self) -> None:
        """End it, and remove what it leaves."""
