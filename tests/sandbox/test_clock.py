"""The sandbox's clock, which can stand still. Real time, in pieces too small to wait for."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.sandbox import clock as module
from helpers.sandbox.clock import AwsClock

SPELLS = st.lists(st.tuples(st.booleans(), st.floats(0.01, 1000)), min_size=1, max_size=12)


class Machine:
    """This machine's clocks, moved by hand. `time.time` and `time.monotonic` begin at different moments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.passed = 0.0
        monkeypatch.setattr(module.time, "monotonic", lambda: 5000 + self.passed)
        monkeypatch.setattr(module.time, "time", lambda: 1_800_000_000 + self.passed)
        monkeypatch.setattr(module.time, "sleep", self.pass_)

    def pass_(self, seconds: float) -> None:
        self.passed += seconds


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


def test_time_passes_at_its_speed_and_not_in_a_pause(machine):
    clock = AwsClock(speed=30, epoch=0)
    machine.pass_(10)
    assert clock.pause()
    began = clock.monotonic()
    machine.pass_(3600)
    assert (clock.time(), clock.monotonic()) == (300, began)
    assert clock.resume() == 3600
    machine.pass_(1)
    assert (clock.time(), clock.monotonic()) == (330, began + 1)


def test_pausing_and_resuming_twice_changes_nothing(machine):
    clock = AwsClock(speed=30, epoch=0)
    assert clock.resume() is None
    assert clock.pause()
    machine.pass_(5)
    assert not clock.pause()
    machine.pass_(5)
    assert clock.resume() == 10
    assert clock.resume() is None
    assert not clock.paused


@given(spells=SPELLS, asked=st.floats(0, 1))
def test_a_moment_is_told_later_as_it_was_at_that_moment(spells, asked):
    """`at` against what the clock itself said then, over any sequence of pauses."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        machine = Machine(monkeypatch)
        monkeypatch.setattr(module, "REMEMBERED", float("inf"))
        clock, then = AwsClock(speed=30, epoch=0), asked * sum(seconds for _, seconds in spells)
        said = None
        for paused, seconds in spells:
            clock.pause() if paused else clock.resume()
            if said is None and machine.passed + seconds > then:
                left = then - machine.passed
                machine.pass_(left)
                said = (clock.time(), not clock.paused, machine.passed)
                seconds -= left
            machine.pass_(seconds)
        if said is not None:
            told, passed = clock.at(1_800_000_000 + said[2])
            assert told == pytest.approx(said[0], abs=1e-3)
            assert passed == said[1] or not _inside(said[2], spells)


def test_a_resume_while_a_moment_is_told_does_not_shift_it(machine):
    clock = AwsClock(speed=30, epoch=0)
    machine.pass_(10)
    clock.pause()
    machine.pass_(100)

    class Between:
        """Somebody else has the clock go on as soon as the lock is free."""

        def __init__(self, lock):
            self.lock = lock

        def __enter__(self):
            self.lock.acquire()

        def __exit__(self, *_):
            self.lock.release()
            clock._lock = self.lock
            clock.resume()

    clock._lock = Between(clock._lock)
    assert clock.at(1_800_000_005) == (pytest.approx(150, abs=1e-3), True)
    assert not clock.paused
    assert clock.at(1_800_000_005) == (pytest.approx(150, abs=1e-3), True)


def _inside(moment: float, spells: list[tuple[bool, float]]) -> bool:
    """Whether a moment is not at the edge of a spell, where one belongs to either."""
    edge = 0.0
    for _, seconds in spells:
        if abs(edge - moment) < 1e-5:
            return False
        edge += seconds
    return abs(edge - moment) >= 1e-5


def test_who_sleeps_through_a_pause_sleeps_as_much_longer(machine):
    clock = AwsClock(speed=30)
    pauses = iter([clock.pause, lambda: None, clock.resume])

    def sleep(seconds: float) -> None:
        machine.pass_(seconds)
        next(pauses, lambda: None)()

    module.time.sleep = sleep  # undone by the fixture
    clock.pause()
    machine.pass_(1)
    clock.resume()
    began = clock.monotonic()
    clock.sleep(2)
    assert clock.monotonic() - began >= 2 - 1e-9
    assert machine.passed >= 3


def test_sleeping_for_nothing_waits_for_the_end_of_a_pause():
    clock = AwsClock(speed=30)
    clock.sleep(0)
    clock.pause()
    timer = threading.Timer(0.05, clock.resume)
    timer.start()
    began = time.monotonic()
    clock.sleep(0)
    assert 0.05 <= time.monotonic() - began < 2
    timer.join()


def test_a_speed_is_more_than_nothing():
    with pytest.raises(ValueError, match="more than 0"):
        AwsClock(0)


def test_a_resume_between_two_looks_is_not_slept_before(machine, monkeypatch):
    """Time goes on just when a sleeper has seen that it stands still, and has slept long enough by then."""
    clock, slept = AwsClock(speed=30), []

    class Hasty(AwsClock):
        @property
        def paused(self) -> bool:
            stood = super().paused
            self.resume()
            return stood

    clock.__class__ = Hasty
    monkeypatch.setattr(module.time, "sleep", lambda seconds: slept.append(seconds) or machine.pass_(seconds))
    clock.pause()
    clock.sleep(-1)
    assert slept == [module.LOOKS]
