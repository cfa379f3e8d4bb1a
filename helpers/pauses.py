"""AWS time stands still so that a person can read, and goes on. In the sandbox only."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from helpers import control
from helpers.errors import TutorialError

if TYPE_CHECKING:
    from helpers.sandbox import Sandbox

ANSWERS_WITHIN = 60.0  # real seconds; a step of each loop is waited for


def pause(target: str, endpoint: str) -> None:
    """Let the AWS time of the sandbox at `endpoint` stand still. TutorialError."""
    _ask(target, endpoint, "pause")


def resume(target: str, endpoint: str) -> None:
    """Let it go on. TutorialError."""
    _ask(target, endpoint, "resume")


def told(running: Sandbox) -> str:
    """A sentence about a pause that lasts; "" when AWS time passes."""
    here = running.latest()
    if not here.paused:
        return ""
    minutes = (time.time() - here.real_epoch) / 60
    since = (
        "less than a minute"
        if minutes < 1
        else f"{minutes:.0f} min"
        if minutes < 90
        else f"{minutes / 60:.1f} h"
    )
    return (
        f"AWS time is paused: it stands at {here.now():%Y-%m-%d %H:%M:%S} UTC, and has for {since} of yours. "
        "lab.resume() lets it go on."
    )


def refuse_to_wait(lab: Any) -> None:
    """TutorialError when AWS time stands still: what is waited for cannot come."""
    if getattr(lab, "is_paused", False):
        raise TutorialError(
            "AWS time is paused, and nothing happens while it is.",
            seen=f"it stands at {lab.now():%Y-%m-%d %H:%M:%S} UTC",
            next="lab.resume() lets it go on. Then run the cell again.",
        )


def _ask(target: str, endpoint: str, what: str) -> None:
    if target != "sandbox":
        raise TutorialError(
            "AWS does not wait.", seen=f"target={target!r}", next="Read on; the records stay for a while."
        )
    control.post(endpoint, what, within=ANSWERS_WITHIN)
