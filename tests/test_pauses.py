"""What is said about AWS time that stands still."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from helpers import pauses, sandbox
from helpers.errors import TutorialError

NOON = 1_795_435_200.0  # 2026-11-23 12:00:00 UTC


@pytest.fixture
def here(tmp_path):
    at = str(tmp_path)
    return sandbox.Sandbox(at, 1, "http://127.0.0.1:1", 30, "process", time.time(), NOON, began=1.0)


@pytest.mark.parametrize(
    ("ago", "words"), [(5, "less than a minute"), (25 * 60, "25 min"), (3 * 3600, "3.0 h")]
)
def test_how_long_time_has_stood_still_is_told(here, ago, words):
    assert pauses.told(here) == ""
    replace(here, paused=True, real_epoch=time.time() - ago).write()
    assert pauses.told(here) == (
        f"AWS time is paused: it stands at 2026-11-23 12:00:00 UTC, and has for {words} of yours. lab.resume() lets it "
        "go on."
    )


def test_what_another_process_paused_is_seen_here_and_is_the_same_sandbox(here):
    before = here.now()
    changed = replace(here, paused=True, aws_epoch=NOON + 600)
    changed.write()
    assert changed == here
    assert here.now().timestamp() == NOON + 600
    replace(changed, paused=False, real_epoch=time.time() - 1).write()
    assert here.now().timestamp() == pytest.approx(NOON + 630, abs=5)
    assert before < here.now()


def test_the_time_of_another_sandbox_in_its_place_is_not_taken(here):
    replace(here, began=2.0, pid=2, aws_epoch=0.0, paused=True).write()
    assert here.now().timestamp() == pytest.approx(NOON, abs=60)
    assert not here.latest().paused


def test_aws_cannot_be_paused():
    with pytest.raises(TutorialError, match="AWS does not wait"):
        pauses.pause("aws", "http://127.0.0.1:1")
    with pytest.raises(TutorialError, match="does not answer"):
        pauses.resume("sandbox", "http://127.0.0.1:1")
