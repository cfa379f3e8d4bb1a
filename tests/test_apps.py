"""`run_app`: real processes on this machine, without ECS."""

from __future__ import annotations

import json
import urllib.request
from types import SimpleNamespace

import psutil
import pytest

from helpers import apps, session
from helpers.errors import TutorialError
from tests.sandbox.live import PAGE, write_app


@pytest.fixture
def lab(tmp_path, monkeypatch):
    lab = SimpleNamespace(state=tmp_path / "state", region="us-east-1")
    monkeypatch.setattr(session, "_current", lab)
    monkeypatch.setattr(apps, "_running", None)
    yield lab
    if apps._running:
        apps._running.kill()
    session._this_machine(lab.state).host.stop()
    session._this_machine.cache_clear()


def test_it_answers_and_dies_as_a_crash_does(lab, tmp_path):
    app = apps.run_app(write_app(tmp_path / "app", PAGE % "hello"))
    with urllib.request.urlopen(app.url, timeout=5) as answer:
        assert answer.read() == b"hello"
    assert app.running
    assert app.exit_code is None
    assert "0.25 vCPU, running at http://127.0.0.1:" in repr(app)
    app.kill()
    assert not app.running
    assert app.exit_code == 137
    assert "exit code 137" in repr(app)


def test_running_it_again_ends_the_one_before(lab, tmp_path):
    place = write_app(tmp_path / "app", PAGE % "hello")
    first = apps.run_app(place)
    second = apps.run_app(place, vcpu=0.5)
    assert not first.running
    assert second.running
    assert second.url != first.url


def test_an_app_that_ends_at_once_is_told_with_its_last_lines(lab, tmp_path):
    place = write_app(tmp_path / "app", "console.error('no database'); process.exit(4)")
    with pytest.raises(TutorialError, match=r"(?s)did not start.*exit code 4.*no database.*PORT"):
        apps.run_app(place)


def test_an_app_that_never_answers_is_ended(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(apps, "ANSWERS_WITHIN", 1.0)
    place = write_app(tmp_path / "app", "console.log(process.pid); setInterval(() => {}, 1000)")
    with pytest.raises(TutorialError, match="no answer in 1 s") as caught:
        apps.run_app(place)
    pid = int(next(line for line in str(caught.value).splitlines() if line.isdigit()))
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_what_is_no_app_is_told(lab, tmp_path):
    with pytest.raises(TutorialError, match=r"package\.json"):
        apps.run_app(tmp_path)
    (tmp_path / "package.json").write_text(json.dumps({"dependencies": {"express": "5"}, "name": "x"}))
    with pytest.raises(TutorialError, match="npm ci"):
        apps.run_app(tmp_path)


def test_the_log_is_what_it_wrote_last(lab, tmp_path):
    code = "for (let i = 0; i < 30; i++) console.log('line ' + i);" + PAGE % "x"
    app = apps.run_app(write_app(tmp_path / "app", code))
    assert app.log.splitlines()[-1] == "line 29"
    assert len(app.log.splitlines()) == 10
