"""The session without a sandbox: before `connect`, in private, and what it does to an environment. With one: test_connection.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers import session
from helpers.errors import TutorialError


def test_a_private_sandbox_is_elsewhere_and_gone_afterwards_with_all_its_settings(monkeypatch, tmp_path):
    monkeypatch.setattr(session, "CHECKOUT", tmp_path)
    monkeypatch.setenv("SANDBOX_STATE", str(tmp_path / "the learner's"))
    monkeypatch.setenv("SANDBOX_SPEED", "600")
    stopped: list[Path] = []
    monkeypatch.setattr(session, "stop", stopped.append)
    before = dict(os.environ)

    def fails() -> None:
        with session.private("trial-") as state:
            stopped.append(state)
            assert session.state_directory() == state
            assert state.parent.parent == tmp_path / "runs"
            assert state.parent.name.startswith("trial-")
            assert "SANDBOX_SPEED" not in os.environ
            state.mkdir()
            os.environ["AWS_REGION"] = "us-west-2"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    state, ended = stopped
    assert ended == state
    assert list((tmp_path / "runs").iterdir()) == []
    assert dict(os.environ) == before


def test_nothing_works_before_connect():
    with pytest.raises(TutorialError, match=r"connect\(\.\.\.\)"):
        session.current()


def test_isolate_keeps_what_is_not_awss(tmp_path):
    environ = {"PATH": "/bin", "AWS_PROFILE": "x", "aws_odd": "y", "NO_PROXY": "intranet"}
    session.isolate(environ, "http://127.0.0.1:1", "us-east-1", tmp_path)
    assert environ["PATH"] == "/bin"
    assert environ["NO_PROXY"] == "intranet,127.0.0.1,localhost"
    assert "AWS_PROFILE" not in environ
    assert "aws_odd" not in environ
