"""How long is waited: AWS minutes, a last look, and no less than some real seconds."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from helpers import calls, session
from tests.lab import StubLab


@pytest.fixture
def looks(monkeypatch):
    """At which real seconds `polls(minutes)` looks, when a look takes so many seconds; AWS time is 60 times as fast."""
    now = 0.0

    def pass_by(seconds: float) -> None:
        nonlocal now
        now += seconds

    def look(minutes: float, takes: float = 0.0) -> list[float]:
        times = []
        for _ in calls.polls(minutes):
            times.append(round(now, 1))
            pass_by(takes)
        return times

    monkeypatch.setattr(session, "current", lambda: StubLab(speed=60))
    monkeypatch.setattr(calls, "time", SimpleNamespace(monotonic=lambda: now, sleep=pass_by))
    return look


def test_looks_until_the_time_is_over_and_once_more(looks):
    assert looks(minutes=1) == [0, 0.3, 0.6, 0.9, 1.2, 1.5]


def test_who_was_held_up_for_all_of_the_time_looks_once_more(looks):
    assert looks(minutes=1, takes=3) == [0, 3.3]


@pytest.mark.parametrize(("speed", "minutes"), [(1, 15), (7.5, 15), (30, 60), (120, 240)])
def test_two_real_minutes_are_the_least(monkeypatch, speed, minutes):
    monkeypatch.setattr(session, "current", lambda: StubLab(speed))
    assert calls.patience(15) == minutes
