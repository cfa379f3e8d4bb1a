"""Stands in for the passing of time at AWS.

Differs: it runs faster. AWS time starts at the real time of the sandbox's start and then passes
`speed` AWS seconds in each real second, so that ten AWS minutes of waiting take twenty real seconds.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

DEFAULT_SPEED = (
    30.0  # a two-hour experiment in four minutes, while a real request still takes a real request's time
)


class Clock(Protocol):
    """What the sandbox's modules ask of time."""

    speed: float

    def time(self) -> float:
        """AWS time, in AWS seconds since 1970."""

    def now(self) -> datetime:
        """AWS time as an aware datetime in UTC."""

    def monotonic(self) -> float:
        """Real seconds since some moment; for what bounds the app and not AWS."""

    def real(self, aws_seconds: float) -> float:
        """The real seconds that so many AWS seconds take."""


class AwsClock:
    """The sandbox's clock: `speed` AWS seconds a real second, from `epoch` (seconds since 1970; now by default)."""

    def __init__(self, speed: float = DEFAULT_SPEED, epoch: float | None = None):
        if not speed > 0:
            raise ValueError(f"speed must be more than 0 AWS seconds per real second, not {speed!r}")
        self.speed = float(speed)
        self.epoch = time.time() if epoch is None else epoch
        self._started = time.monotonic()

    def time(self) -> float:
        return self.epoch + (time.monotonic() - self._started) * self.speed

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time(), UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def real(self, aws_seconds: float) -> float:
        return aws_seconds / self.speed
