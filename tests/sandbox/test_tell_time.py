"""What a sandbox's file says of AWS time, where the disk is full."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from helpers.sandbox import Sandbox
from helpers.sandbox.__main__ import Region
from helpers.sandbox.clock import AwsClock


def region(state: Path) -> Any:
    """A region as far as telling the time goes."""
    here = object.__new__(Region)
    here.clock, here.endpoint, here.told = AwsClock(30), SimpleNamespace(last_request=0.0), True
    here.here = Sandbox(str(state), 1, "http://127.0.0.1:1", 30.0, "process", time.time(), here.clock.time())
    here.here.write()
    return here


def test_a_full_disk_does_not_keep_time_from_standing_still_and_is_told_later(tmp_path, monkeypatch, caplog):
    here = region(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    here.clock.pause()
    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_text", full)
        here._tell_time()
        here._write_down()
    assert "not written down" in caplog.text
    assert not here.here.latest().paused
    here._write_down()
    assert here.here.latest().paused
    writes: list[object] = []
    monkeypatch.setattr(Path, "write_text", lambda *args: writes.append(args))
    here._write_down()
    assert not writes, "it is told once"
