"""A small AWS on this machine: moto keeps the records, and this package does what the records only promise.

    learner's boto3, aws CLI, CloudFormation
            │
        endpoint ──► moto (records)          stacks, resources: CloudFormation
            │                                registry: the layers of ECR's images
            ▼
        scheduler ──► tasks: real processes under a vCPU limit ──► logs
            ▲            ▲        │
            │   requests │        │ CPU really used
            │        balancer: Envoy
            │            │ requests really served
        autoscaler ◄── alarms ◄── meter: CloudWatch's metrics

Read in this order: `clock`, `endpoint`, `mends`, `records`, `registry`, `stacks`, `resources`, `scheduler`, `tasks`,
`balancer`, `meter`, `alarms`, `autoscaler`, `logs`; each says what it stands in for, and how it differs. What a part
stands on is in the folder of its AWS service. `__main__` is the process that holds them all. This module starts it,
finds it again and ends it.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
STARTS_WITHIN = 30.0  # real seconds; it takes one or two, more on a machine that is busy
ENDS_WITHIN = 15.0
_started: dict[
    int, subprocess.Popen[bytes]
] = {}  # by this process; kept, so that their ends can be waited for


class SandboxError(Exception):
    """The sandbox could not be started or found; the message says what to do."""


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox, as its state file describes it. `real_epoch` and `aws_epoch`: the same moment, in both times."""

    state: str
    pid: int
    endpoint: str
    speed: float
    runtime: str
    real_epoch: float
    aws_epoch: float

    def now(self) -> datetime:
        """AWS time, without asking the sandbox."""
        return datetime.fromtimestamp(self.aws_epoch + (time.time() - self.real_epoch) * self.speed, UTC)

    def write(self) -> None:
        file = Path(self.state) / "state.json"
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n")
        partial.replace(file)


def attach(state: Path) -> Sandbox | None:
    """The sandbox that runs on this state directory, or None. A state file that a dead one left does not count."""
    file = state / "state.json"
    if not is_held(state) or not file.exists():
        return None
    return Sandbox(**json.loads(file.read_text()))


def start(state: Path, *, speed: float, runtime: str) -> Sandbox:
    """Start a sandbox on this state directory and wait until its endpoint answers; attach when one runs already."""
    state = state.resolve()
    try:
        state.mkdir(parents=True, exist_ok=True)
        log = (state / "sandbox.log").open("ab")
    except OSError as error:
        raise SandboxError(
            f"The sandbox cannot write to {state}: {error.strerror}. Make room or choose another."
        ) from error
    with log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "helpers.sandbox",
                "--state",
                str(state),
                "--speed",
                str(speed),
                "--runtime",
                runtime,
            ],
            cwd=CHECKOUT,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # it outlives the notebook that started it
        )
    _started[process.pid] = process
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline:
        running = attach(state)
        if running:
            return running
        if process.poll() is not None and not is_held(state):
            raise SandboxError(
                f"The sandbox ended while starting (exit code {process.returncode}).\n{tail(state)}"
            )
        time.sleep(0.03)
    process.terminate()
    raise SandboxError(
        f"The sandbox did not answer within {STARTS_WITHIN:.0f} s of its start.\n{tail(state)}"
    )


def stop(state: Path) -> bool:
    """End the sandbox on this state directory with everything it runs, also while it starts; False if there is none."""
    if not is_held(state):
        return False
    pid = int((state / "lock").read_text() or 0)
    deadline = time.monotonic() + ENDS_WITHIN
    while not pid and is_held(state) and time.monotonic() < deadline:  # it is just about to write it
        time.sleep(0.01)
        pid = int((state / "lock").read_text() or 0)
    if pid:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    while is_held(state):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)  # the host process ends what it ran
            break
        time.sleep(0.03)
    if started := _started.pop(pid, None):
        started.wait()
    return True


def tail(state: Path, lines: int = 12) -> str:
    """The last lines of the sandbox's log."""
    file = state / "sandbox.log"
    return "\n".join(file.read_text(errors="replace").splitlines()[-lines:]) if file.exists() else ""


@contextmanager
def held(state: Path):
    """Hold the state directory: the kernel lets go when the process ends, however it ends."""
    with (state / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SandboxError(f"Another sandbox runs on {state}.") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def is_held(state: Path) -> bool:
    """Does a living sandbox hold this state directory?"""
    try:
        with (state / "lock").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _environment() -> dict[str, str]:
    """The learner's environment without anything of AWS's in it: the sandbox has no use for a real credential."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MOTO_", "BOTO"))
    }
    return kept | {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",  # templates refer to AWS's own policies
    }
