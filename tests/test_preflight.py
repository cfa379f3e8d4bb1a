"""helpers/preflight.py: one verdict, from a machine looked at and trials made."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from botocore.exceptions import EndpointConnectionError

from helpers import connection, preflight, this_machine
from helpers.checkup import Finding
from helpers.errors import TutorialError


@pytest.fixture
def machine(monkeypatch):
    """One on which all is well; what was said."""
    good = Finding("sandbox", "up")
    monkeypatch.setattr(preflight, "_machine", lambda: [Finding("cores", "4")])
    monkeypatch.setattr(preflight, "_trials", lambda: [good])
    monkeypatch.setattr(preflight, "checkup", lambda: Look())


class Look:
    ready = True

    def __str__(self) -> str:
        return "looked at"


def test_a_good_machine_is_ready(machine):
    said: list[str] = []
    assert preflight.preflight(said.append)
    assert "Python" in said[0]
    assert said[1:] == [
        "✓ cores                 4",
        "✓ sandbox               up",
        "\nlooked at\n",
        "ready",
    ]


def test_whatever_is_bad_is_named_with_what_to_do(machine, monkeypatch):
    bad = Finding("CPU limit", "too much", good=False, needed=True, next="Do this.")
    monkeypatch.setattr(preflight, "_trials", lambda: [bad])
    monkeypatch.setattr(Look, "ready", False)
    said: list[str] = []
    assert not preflight.preflight(said.append)
    assert "✗ CPU limit             too much\n                        → Do this." in said
    assert said[-1] == "not ready: see CPU limit and the check-up above"


def test_a_sandbox_that_does_not_start_is_a_finding_and_ends_the_trials(monkeypatch):
    def fails(**_):
        raise TutorialError("It did not start.", seen="a port", next="Free it.")

    monkeypatch.setattr(connection, "connect", fails)
    (found,) = preflight._trials()
    assert (found.mark, found.found, found.next) == ("✗", "It did not start. a port", "Free it.")


@pytest.mark.parametrize(
    "problem",
    [
        EndpointConnectionError(endpoint_url="http://127.0.0.1:1"),
        RuntimeError("the host process does not start"),
        OSError(28, "No space left on device"),
    ],
)
def test_what_the_sandbox_or_this_machine_throws_is_a_finding_too(monkeypatch, problem):
    def fails(**_):
        raise problem

    monkeypatch.setattr(connection, "connect", fails)
    (found,) = preflight._trials()
    assert (found.what, found.mark) == ("sandbox", "✗")
    assert str(problem) in found.found
    assert found.next


def test_without_node_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert "Node does not run" in preflight._versions()


@pytest.mark.parametrize(("used", "good"), [(0.25, True), (0.9, False), (0.1, False)])
def test_a_process_must_get_its_quarter_and_no_more(monkeypatch, used, good):
    seconds = iter([0.0, used * 100])
    clock = iter([0.0, 100.0])
    process = SimpleNamespace(cpu_seconds=lambda: next(seconds), kill=lambda: None, wait=lambda timeout: None)
    monkeypatch.setattr(this_machine, "run_process", lambda *_, **__: process)
    monkeypatch.setattr(
        preflight, "time", SimpleNamespace(sleep=lambda _: None, monotonic=lambda: next(clock))
    )
    assert preflight._try_limit("CPU limit").good is good
