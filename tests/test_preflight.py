"""helpers/preflight.py: one verdict, from a machine looked at and trials made."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from helpers import checkup, preflight, session
from helpers.errors import TutorialError


@pytest.fixture
def machine(monkeypatch):
    """One on which all is well; what was said."""
    good = preflight.Finding("sandbox", "up")
    monkeypatch.setattr(preflight, "_machine", lambda: [preflight.Finding("cores", "4")])
    monkeypatch.setattr(preflight, "_trials", lambda: [good])
    monkeypatch.setattr(checkup, "checkup", lambda: Look())


class Look:
    ready = True

    def __str__(self) -> str:
        return "looked at"


def test_a_good_machine_is_ready(machine):
    said: list[str] = []
    assert preflight.preflight(said.append)
    assert "Python" in said[0]
    assert said[1:] == ["✓ cores      4", "✓ sandbox    up", "\nlooked at\n", "ready"]


def test_whatever_is_bad_is_named_with_what_to_do(machine, monkeypatch):
    bad = preflight.Finding("CPU limit", "too much", False, "Do this.")
    monkeypatch.setattr(preflight, "_trials", lambda: [bad])
    monkeypatch.setattr(Look, "ready", False)
    said: list[str] = []
    assert not preflight.preflight(said.append)
    assert "✗ CPU limit  too much\n             Next: Do this." in said
    assert said[-1] == "not ready: see CPU limit and the check-up above"


def test_a_sandbox_that_does_not_start_is_a_finding_and_ends_the_trials(monkeypatch):
    def fails(**_):
        raise TutorialError("It did not start.", seen="a port", next="Free it.")

    stopped = []
    monkeypatch.setattr(session, "connect", fails)
    monkeypatch.setattr(session, "stop", stopped.append)
    before = dict(os.environ)
    (found,) = preflight._trials()
    assert (found.good, found.seen, found.next) == (False, "It did not start. a port", "Free it.")
    assert len(stopped) == 1
    assert dict(os.environ) == before


@pytest.mark.parametrize(("used", "good"), [(0.25, True), (0.9, False), (0.1, False)])
def test_a_process_must_get_its_quarter_and_no_more(monkeypatch, used, good):
    seconds = iter([0.0, used * 100])
    clock = iter([0.0, 100.0])
    process = SimpleNamespace(cpu_seconds=lambda: next(seconds), kill=lambda: None, wait=lambda timeout: None)
    monkeypatch.setattr(session, "run_process", lambda *_, **__: process)
    monkeypatch.setattr(
        preflight, "time", SimpleNamespace(sleep=lambda _: None, monotonic=lambda: next(clock))
    )
    assert preflight._try_limit("CPU limit").good is good
