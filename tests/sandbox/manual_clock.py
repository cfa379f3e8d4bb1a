"""A clock that stands still until a test moves it."""

from __future__ import annotations

from datetime import UTC, datetime


class ManualClock:
    def __init__(self, start: float = 1_800_000_000.0, speed: float = 30.0):
        self.speed = speed
        self._aws = start
        self._real = 1000.0

    def time(self) -> float:
        return self._aws

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._aws, UTC)

    def monotonic(self) -> float:
        return self._real

    def real(self, aws_seconds: float) -> float:
        return aws_seconds / self.speed

    def sleep(self, seconds: float) -> None:
        self.advance(seconds * self.speed)

    def advance(self, aws_seconds: float) -> None:
        self._aws += aws_seconds
        self._real += aws_seconds / self.speed
