"""Commands that must not ask, hang or leave anything behind, and questions asked at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a command answered; `code` is None when it did not in time, or could not be run."""

    code: int | None = None
    out: str = ""
    err: str = ""

    @property
    def first_line(self) -> str:
        """The first that says something, of what it complained or else of what it said; "" for none."""
        return next((line.strip() for line in f"{self.err}\n{self.out}".splitlines() if line.strip()), "")


Run = Callable[[Sequence[str], float], Answer]  # a command and the seconds that it may take


def run_bounded(
    command: Sequence[str | Path],
    patience: float,
    *,
    given: str = "",
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Answer:
    """Run a command for at most `patience` real seconds; `given` is all that it can read."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if given else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            cwd=cwd,
            env=env,
            start_new_session=True,  # no terminal to ask for a password on, and one group to end
        )
    except OSError as problem:
        return Answer(err=str(problem))
    with process:
        try:
            out, err = process.communicate(given or None, timeout=patience)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return Answer(err=f"no answer within {patience:g} s")
    return Answer(process.returncode, out.strip(), err.strip())


def side_by_side(asks: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """The answers of functions that run at the same time; each bounds itself, and none may raise."""
    answers: dict[str, Any] = {}

    def ask(name: str) -> None:
        answers[name] = asks[name]()

    threads = [threading.Thread(target=ask, args=(name,), daemon=True) for name in asks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers
