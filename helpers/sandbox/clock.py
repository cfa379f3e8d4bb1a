"""Stands in for the passing of time at AWS.

Differs: it runs faster, and it can stand still. AWS time starts at the real time of the sandbox's start and then passes
`speed` AWS seconds in each real second, so that ten AWS minutes of waiting take twenty real seconds. From `pause` to
`resume` no time passes for AWS, however long a person reads.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Protocol

DEFAULT_SPEED = (
    30.0  # a two-hour experiment in four minutes, while a real request still takes a real request's time
)
REMEMBERED = 600.0  # real seconds that the times without AWS time are known: a request is logged long before
LOOKS = 0.1  # real seconds between two looks of one who waits for time to go on


class Clock(Protocol):
    """What the sandbox's modules ask of time."""

    speed: float

    def time(self) -> float:
        """AWS time, in AWS seconds since 1970."""

    def now(self) -> datetime:
        """AWS time as an aware datetime in UTC."""

    def monotonic(self) -> float:
        """Real seconds since some moment, without those in which AWS time stood still; for what bounds the app and not
        AWS. What must be done however long a pause lasts counts with `time.monotonic`."""

    def real(self, aws_seconds: float) -> float:
        """The real seconds that so many AWS seconds take."""

    def at(self, real_time: float) -> tuple[float, bool]:
        """AWS time at a moment of this machine's clock (seconds since 1970, a while ago at most), and whether it passed
        then: during a pause it is the pause's."""

    def sleep(self, seconds: float) -> None:
        """Wait for so many real seconds in which AWS time passes; of a pause, also with 0, for its end."""


class AwsClock:
    """The sandbox's clock: `speed` AWS seconds a real second, from `epoch` (seconds since 1970; now by default)."""

    def __init__(self, speed: float = DEFAULT_SPEED, epoch: float | None = None):
        if not speed > 0:
            raise ValueError(f"speed must be more than 0 AWS seconds per real second, not {speed!r}")
        self.speed = float(speed)
        self.epoch = time.time() if epoch is None else epoch
        self._started = time.monotonic()
        # (since when it stands still, how long it stood still before), real seconds: one value, so that whoever reads
        # without the lock never sees half of a change.
        self._stands: tuple[float | None, float] = (None, 0.0)
        self._pauses: list[tuple[float, float]] = []  # from, until; the one that lasts is not among them
        self._lock = threading.Lock()

    @property
    def paused(self) -> bool:
        return self._stands[0] is not None

    def pause(self) -> bool:
        """Let time stand still; False when it does already."""
        with self._lock:
            since, stood = self._stands
            if since is not None:
                return False
            self._stands = (time.monotonic(), stood)
            return True

    def resume(self) -> float | None:
        """Let time go on; the real seconds for which it stood still, None when it did not."""
        with self._lock:
            since, stood = self._stands
            if since is None:
                return None
            now = time.monotonic()
            self._pauses = [one for one in self._pauses if one[1] > now - REMEMBERED] + [(since, now)]
            self._stands = (None, stood + now - since)
            return now - since

    def time(self) -> float:
        return self.epoch + (self.monotonic() - self._started) * self.speed

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time(), UTC)

    def monotonic(self) -> float:
        since, stood = self._stands
        return (time.monotonic() if since is None else since) - stood

    def real(self, aws_seconds: float) -> float:
        return aws_seconds / self.speed

    def at(self, real_time: float) -> tuple[float, bool]:
        moment = time.monotonic() - (time.time() - real_time)
        with self._lock:
            (since, stood), over = self._stands, self._pauses
        pauses = over + ([(since, float("inf"))] if since is not None else [])
        for begin, end in pauses:
            if begin <= moment < end:
                moment, passed = begin, False
                break
        else:
            passed = True
        later = sum(end - begin for begin, end in over if begin >= moment)
        return self.epoch + (moment - (stood - later) - self._started) * self.speed, passed

    def sleep(self, seconds: float) -> None:
        until = self.monotonic() + seconds
        while (paused := self.paused) or self.monotonic() < until:
            time.sleep(LOOKS if paused else max(0.0, until - self.monotonic()))
