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
    says, after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s\n{told()}".rstrip()
        time.sleep(pause)
    return found
