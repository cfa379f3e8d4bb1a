"""Stands in for the time that people need to read, and that AWS never gives: everything of AWS's stands still.

    POST /_sandbox/pause, POST /_sandbox/resume (see `control`)

Differs from AWS, where nothing waits. Apps run on and answer, Envoy goes on balancing and checking, the host keeps CPU
limits and what tasks write is read; but no loop decides anything, what apps do meanwhile is in no metric, and API calls
are recorded at once and acted on when time goes on. A request is counted by its end: one that ends in a pause is not.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from helpers.sandbox.clock import AwsClock

log = logging.getLogger("sandbox")

STEP_ENDS_WITHIN = 5.0  # real seconds that a pause waits for a step that is under way; it takes milliseconds


class Loop(threading.Thread):
    """Calls `step` every so many real seconds, or `meanwhile`, if any, while `held()`. A step that fails is logged, and
    the loop goes on."""

    def __init__(
        self,
        name: str,
        step: Callable[[], Any],
        every: float,
        *,
        held: Callable[[], bool] = lambda: False,
        meanwhile: Callable[[], Any] | None = None,
    ):
        super().__init__(name=name, daemon=True)
        self.step, self.every, self.held, self.meanwhile = step, every, held, meanwhile
        self.ended = threading.Event()
        self.stepping = threading.Lock()

    def run(self) -> None:
        while not self.ended.wait(self.every):
            try:
                with self.stepping:
                    self._step()
            except Exception:
                log.exception("a step of %s failed; it goes on", self.name)
                self.ended.wait(1.0)

    def _step(self) -> None:
        if not self.held():
            self.step()
        elif self.meanwhile is not None:
            self.meanwhile()


class Standstill:
    """`loops` hold still with the clock, the one of them that `measures` first: what it has read so far is as old as the
    pause (`hold`), and what was used in it is left out (`go_on`). `tell()` is called after each change."""

    def __init__(
        self,
        clock: AwsClock,
        loops: list[Loop],
        measures: Loop,
        *,
        hold: Callable[[], Any],
        go_on: Callable[[], Any],
        tell: Callable[[], Any],
    ):
        self.clock, self.loops, self.measures = clock, loops, measures
        self.hold, self.go_on, self.tell = hold, go_on, tell
        self._lock = threading.Lock()

    def pause(self) -> None:
        """Let AWS time stand still, and return when no loop is at work any more. A second time changes nothing."""
        with self._lock:
            with self.measures.stepping:
                if not self.clock.pause():
                    return
                _try(self.hold)
            for loop in self.loops:
                if loop.stepping.acquire(timeout=STEP_ENDS_WITHIN):
                    loop.stepping.release()
                else:
                    log.warning("a step of %s goes on into the pause", loop.name)
            log.info("AWS time stands still")
            self.tell()

    def resume(self) -> None:
        """Let it go on. A second time changes nothing."""
        with self._lock:
            if not self.clock.paused:
                return
            with self.measures.stepping:
                _try(self.go_on)
                stood = self.clock.resume() or 0.0
            log.info("AWS time goes on; it stood still for %.0f s", stood)
            self.tell()


def _try(measure: Callable[[], Any]) -> None:
    """A task that cannot be measured must neither keep time from standing still nor from going on."""
    try:
        measure()
    except Exception:
        log.exception("what tasks used in a pause may count")
