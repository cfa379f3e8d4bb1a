"""Waiting for something real: looked at again and again, until a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(
    holds: Callable[[], T], seconds: float = 20.0, told: Callable[[], str] = lambda: "", pause: float = 0.02
) -> T:
    """What `holds()` answers once that is true, asked every `pause` real seconds. AssertionError, with what `told()`
    says, after `seconds`: of each round at most one counts, so a machine that stands still for a while ends no wait."""
    left, last = seconds, time.monotonic()
    while not (found := holds()):
        now = time.monotonic()
        left -= min(now - last, 1.0)
        last = now
        assert left > 0, f"not within {seconds:g} s\n{told()}".rstrip()
        time.sleep(pause)
    return found
