"""Where this process's AWS calls go: the session that `connect` entered, and the sandbox that runs for this checkout."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from helpers import pauses, sandbox
from helpers.errors import SandboxGone, TutorialError

CHECKOUT = Path(__file__).resolve().parents[1]
CONNECT_AGAIN = (
    "Run the cell with `connect(...)` again: that starts a sandbox if none is up, and its `lab.catch_up(...)` makes "
    "again what the earlier notebooks made. Then run this notebook's cells from there."
)
_current: Session | None = None


@dataclass(frozen=True)
class Session:
    """Where the calls go: the target, the region, the name of what is built, and the sandbox that answers."""

    target: str
    region: str
    name: str
    running: sandbox.Sandbox

    @property
    def speed(self) -> float:
        """AWS seconds in a real second."""
        return self.running.speed

    @property
    def runtime(self) -> str:
        return self.running.runtime

    @property
    def state(self) -> Path:
        return Path(self.running.state)

    def now(self) -> datetime:
        """The AWS time: aware, UTC. It stands still while this is `paused`."""
        return self.running.now()

    @property
    def is_paused(self) -> bool:
        """Whether AWS time stands still, whoever paused it."""
        return self.running.latest().paused

    def hold(self) -> None:
        """Let AWS time stand still, as `Lab.pause` does, without a word."""
        self.ensure_there()
        pauses.pause(self.target, self.running.endpoint)

    def go_on(self) -> None:
        """Let AWS time go on, as `Lab.resume` does, without a word."""
        self.ensure_there()
        pauses.resume(self.target, self.running.endpoint)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """AWS time stands still in this block; a pause from before the block stays."""
        before = self.is_paused
        self.hold()
        try:
            yield
        finally:
            if not before:
                self.go_on()

    def ensure_there(self) -> None:
        """SandboxGone when the sandbox that this session was connected to runs no more."""
        other = sandbox.attach(self.state)
        if other == self.running:
            return
        if other:
            what = "Another sandbox has taken the place of the one that this notebook was connected to."
            seen = f"process {other.pid} in the place of {self.running.pid}; it knows nothing of what the first one held"
        else:
            what = "The sandbox that this notebook was connected to has ended, and what it held is gone."
            seen = f"its process {self.running.pid} is not there; its log ends: {sandbox.tail(self.state, 1) or '-'}"
        raise SandboxGone(what, seen=seen, next=CONNECT_AGAIN)


def enter(here: Session) -> None:
    """Make it this process's: its environment leads there, boto3's default session, and `current`."""
    global _current
    isolate(os.environ, here.running.endpoint, here.region, here.state)
    _current = here
    _new_default_session(here)


def connected() -> Session | None:
    """The session that `connect` entered in this process, whether or not its sandbox still runs; None when there is none."""
    return _current


def current() -> Session:
    """The session that `connect` entered in this process. TutorialError when there is none, or its sandbox has ended."""
    if _current is None:
        raise TutorialError(
            "This notebook is not connected yet.", next="Run its `lab = connect(...)` cell first."
        )
    _current.ensure_there()
    return _current


def state_directory() -> Path:
    """Where this checkout's sandbox keeps its files; a run or a test sets SANDBOX_STATE to have one of its own."""
    return Path(os.environ.get("SANDBOX_STATE") or CHECKOUT / ".sandbox")


def attach() -> sandbox.Sandbox | None:
    """The sandbox that runs for this checkout, or None."""
    return sandbox.attach(state_directory())


def stop(state: Path | None = None) -> bool:
    """End the sandbox on this state directory (this checkout's unless told); False when none was running."""
    return sandbox.stop(state or state_directory())


@contextmanager
def private(prefix: str) -> Iterator[Path]:
    """A state directory of its own in runs/, with the usual speed, for whatever connects meanwhile: a learner's sandbox
    is not touched. Afterwards its sandbox has ended, the directory is gone, and the environment is what it was."""
    runs = CHECKOUT / "runs"
    runs.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=runs))
    state = folder / "sandbox"  # where `clean` looks, should this process be killed
    before = dict(os.environ)
    os.environ["SANDBOX_STATE"] = str(state)
    os.environ.pop("SANDBOX_SPEED", None)
    try:
        yield state
    finally:
        stop(state)
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.clear()
        os.environ.update(before)


def mishaps() -> tuple[type[Exception], ...]:
    """What a sandbox, its processes or the machine may throw where somebody tries whether they work."""
    from subprocess import SubprocessError

    from botocore.exceptions import BotoCoreError, ClientError
    from psutil import Error

    return (TutorialError, BotoCoreError, ClientError, SubprocessError, Error, OSError, RuntimeError)


def isolate(environ: Any, endpoint: str, region: str, state: Path) -> None:
    """Change `environ` so that no AWS SDK or CLI under it can use a real credential or reach a real endpoint.

    Every AWS variable goes: profiles, roles, tokens, per-service endpoints, AWS_IGNORE_CONFIGURED_ENDPOINT_URLS. The
    files where more could stand are replaced by an empty one.
    """
    empty = state / "no-aws-config"
    empty.touch()
    for variable in [name for name in environ if name.upper().startswith("AWS_")] + ["BOTO_CONFIG"]:
        environ.pop(variable, None)
    environ.update(
        {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "sandbox",
            "AWS_SECRET_ACCESS_KEY": "sandbox",
            "AWS_REGION": region,
            "AWS_DEFAULT_REGION": region,
            "AWS_CONFIG_FILE": str(empty),
            "AWS_SHARED_CREDENTIALS_FILE": str(empty),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_PAGER": "",
            "NO_PROXY": _with_loopback(environ),
            "no_proxy": _with_loopback(environ),
        }
    )


def _with_loopback(environ: Mapping[str, str]) -> str:
    there = [host for host in (environ.get("NO_PROXY") or environ.get("no_proxy") or "").split(",") if host]
    return ",".join(dict.fromkeys([*there, "127.0.0.1", "localhost"]))


def _new_default_session(here: Session) -> None:
    """A default session for boto3 that knows nothing from before, and whose clients say so when they lead nowhere."""
    import boto3
    from botocore.exceptions import HTTPClientError

    def before_send(**_: object) -> None:
        now = current()
        if (here.region, here.running) != (now.region, now.running):
            led = here.region if here.region != now.region else "a sandbox that has ended"
            raise TutorialError(
                "This client was made before the last `connect(...)`.",
                seen=f"it speaks to {led}; this notebook is connected to {now.region} on process {now.running.pid} now",
                next="Run the cell that makes the client (`boto3.client(...)`) again.",
            )

    def when_not_answered(caught_exception: Exception | None, **_: object) -> None:
        if isinstance(caught_exception, HTTPClientError):
            here.ensure_there()

    boto3.setup_default_session()  # the last one may hold a profile's credentials from before
    boto3.DEFAULT_SESSION.events.register_first("before-send", before_send)
    boto3.DEFAULT_SESSION.events.register_first("needs-retry", when_not_answered)
