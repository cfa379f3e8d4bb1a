"""Stands in for a container's cgroup where its files cannot be read: an engine in a virtual machine, say.

Differs: the engine tells what a container used once a second. Between two samples its use is taken to go on as it was.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("sandbox.tasks")

CARRIED_ON = 1.5  # real seconds for which the last rate is taken to hold


@dataclass(frozen=True)
class Sample:
    """CPU seconds since the container's start, and bytes, at a monotonic real second."""

    at: float
    cpu: float
    memory: int


class Stats:
    """`samples` as the engine's API gives them, without end until the container's; read in a thread of its own."""

    def __init__(self, samples: Iterable[dict[str, Any]], now: Callable[[], float] = time.monotonic):
        self._now, self._before, self._last = now, Sample(now(), 0.0, 0), Sample(now(), 0.0, 0)
        threading.Thread(target=self._read, args=(samples,), name="stats", daemon=True).start()

    def cpu_seconds(self) -> float:
        before, last = self._before, self._last
        passed = last.at - before.at
        rate = (last.cpu - before.cpu) / passed if passed > 0 else 0.0
        return last.cpu + rate * min(self._now() - last.at, CARRIED_ON)

    def memory_bytes(self) -> int:
        return self._last.memory

    def _read(self, samples: Iterable[dict[str, Any]]) -> None:
        from docker.errors import DockerException
        from requests.exceptions import BaseHTTPError as HTTPError

        try:
            for told in samples:
                cpu = told.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage", 0) / 1e9
                if cpu >= self._last.cpu and cpu > 0:  # one that has ended is told with zeros
                    self._before, self._last = self._last, Sample(self._now(), cpu, _memory(told))
        except (DockerException, HTTPError, OSError, ValueError) as error:
            log.debug("no more statistics: %s", error)


def _memory(told: dict[str, Any]) -> int:
    """Without the page cache, which is `total_cache` in cgroup version 1 and `file` in version 2."""
    memory = told.get("memory_stats", {})
    details = memory.get("stats", {})
    return max(0, memory.get("usage", 0) - details.get("total_cache", details.get("file", 0)))
