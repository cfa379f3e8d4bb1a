from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any

from helpers.sandbox.fargate.stats import CARRIED_ON, Stats


def told(cpu: float, memory: int, **details: int) -> dict[str, Any]:
    """As the engine's API tells it: nanoseconds and bytes."""
    used = {"total_usage": round(cpu * 1e9)}
    return {"cpu_stats": {"cpu_usage": used}, "memory_stats": {"usage": memory, "stats": details}}


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_between_two_samples_use_goes_on_as_it_was():
    at, samples = [0.0], queue.Queue()
    stats = Stats(iter(samples.get, None), lambda: at[0])
    assert stats.cpu_seconds() == 0
    at[0] = 1.0
    samples.put(told(0.25, 60_000_000, total_cache=10_000_000))
    until(stats.memory_bytes)
    assert stats.cpu_seconds() == 0.25
    at[0] = 1.5
    assert stats.cpu_seconds() == 0.375
    at[0] = 2.0
    samples.put(told(0.75, 80_000_000, file=10_000_000))
    until(lambda: stats.memory_bytes() == 70_000_000)
    assert stats.cpu_seconds() == 0.75
    at[0] = 60.0  # the engine says nothing any more
    assert stats.cpu_seconds() == 0.75 + 0.5 * CARRIED_ON
    samples.put(None)


def test_the_zeros_of_a_container_that_has_ended_are_not_taken():
    stats = Stats([told(1.0, 5), told(0.0, 0)], lambda: 1.0)
    until(stats.memory_bytes)
    assert stats.cpu_seconds() == 1.0
