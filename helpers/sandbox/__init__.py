"""A small AWS on this machine: moto keeps the records, and this package does what the records only promise.

    learner's boto3, aws CLI, CloudFormation
            │
        endpoint ──► moto (records)          stacks, resources: CloudFormation
            │                                registry: the layers of ECR's images
            ▼
        scheduler ──► tasks: real processes or containers under a vCPU limit ──► logs
            ▲            ▲        │
            │   requests │        │ CPU really used
            │        balancer: Envoy
            │            │ requests really served
        autoscaler ◄── alarms ◄── meter: CloudWatch's metrics

Read in this order: `clock`, `endpoint`, `mends`, `records`, `registry`, `stacks`, `resources`, `scheduler`, `tasks`,
`balancer`, `meter`, `alarms`, `autoscaler`, `logs`, `control`, `standstill`; each says what it stands in for, and how it differs.
What a part stands on is in the folder of its AWS service. `__main__` is the process that holds them all. This module
starts it, finds it again and ends it.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

CHECKOUT = Path(__file__).resolve().parents[2]
STARTS_WITHIN = 30.0  # real seconds; it takes one or two, more on a machine that is busy
ENDS_WITHIN = 15.0
ASKS_WITHIN = 0.3  # far longer than `is_held` has the lock
ROOM = 50_000_000  # bytes free on its disk: an image or two, and what a few tasks write
HELD = 3  # exit code of a sandbox that found another one in its place
_started: dict[
    int, subprocess.Popen[bytes]
] = {}  # by this process; kept, so that their ends can be waited for


class SandboxError(Exception):
    """The sandbox could not be started or found; the message says what to do."""


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox, as its state file describes it. `real_epoch` and `aws_epoch`: the same moment, in both times,
    the last one at which AWS time began to pass or, if `paused`, to stand still.

    `runtime`: what tasks run as, "process" or "container"; `why`: why they are no containers, if they are not; `began`:
    its start, in real seconds since 1970. Two are equal when they are the same sandbox, paused or not.
    """

    state: str
    pid: int
    endpoint: str
    speed: float
    runtime: str
    real_epoch: float = field(compare=False)
    aws_epoch: float = field(compare=False)
    why: str = ""
    began: float = 0.0
    paused: bool = field(default=False, compare=False)

    def now(self) -> datetime:
        """AWS time, without asking the sandbox."""
        here = self.latest()
        passed = 0.0 if here.paused else (time.time() - here.real_epoch) * here.speed
        return datetime.fromtimestamp(here.aws_epoch + passed, UTC)

    def latest(self) -> Sandbox:
        """The same sandbox as its state file describes it now; this, when it has none any more."""
        there = _read(Path(self.state))
        return there if there == self else self

    def write(self) -> None:
        file = Path(self.state) / "state.json"
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n")
        partial.replace(file)


def attach(state: Path) -> Sandbox | None:
    """The sandbox that runs on this state directory, or None. A state file that a dead one left does not count."""
    holder = _holder(state)
    here = _read(state) if holder else None
    return here if here and here.pid == holder else None


def _read(state: Path) -> Sandbox | None:
    """What the state file says; None where it is not written yet, or half, by one that a crash of the machine ended."""
    try:
        return Sandbox(**json.loads((state / "state.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def start(state: Path, *, speed: float, runtime: str, why: str = "") -> Sandbox:
    """Start a sandbox on this state directory and wait until its endpoint answers; attach when one runs already."""
    state = state.resolve()
    if running := attach(state):
        return running
    process = _spawn(state, speed, runtime, why)
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline:
        if running := attach(state):
            if running.pid != process.pid:  # somebody else's was faster
                process.terminate()
                process.wait()
            return running
        if process.poll() is not None and not is_held(state):
            if process.returncode != HELD:
                raise SandboxError(
                    f"The sandbox ended while starting (exit code {process.returncode}).\n{tail(state)}"
                )
            process = _spawn(state, speed, runtime, why)  # the one that was in its way has ended since
        time.sleep(0.03)
    process.terminate()
    raise SandboxError(
        f"The sandbox did not answer within {STARTS_WITHIN:.0f} s of its start.\n{tail(state)}"
    )


def _spawn(state: Path, speed: float, runtime: str, why: str) -> subprocess.Popen[bytes]:
    try:
        state.mkdir(parents=True, exist_ok=True)
        log = (state / "sandbox.log").open("ab")
        free = shutil.disk_usage(state).free
    except OSError as error:
        raise SandboxError(
            f"The sandbox cannot write to {state}: {error.strerror}. Make room or choose another."
        ) from error
    if free < ROOM:
        log.close()
        raise SandboxError(
            f"The disk of {state} is full: {free / 1e6:.0f} MB are free, and the sandbox wants {ROOM / 1e6:.0f}. "
            "Make room or choose another."
        )
    options = ["--state", str(state), "--speed", str(speed), "--runtime", runtime, "--why", why]
    with log:
        process = subprocess.Popen(
            [sys.executable, "-m", "helpers.sandbox", *options],
            cwd=CHECKOUT,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # it outlives the notebook that started it
        )
    _started[process.pid] = process
    return process


@atexit.register
def _leave() -> None:
    """A sandbox is meant to outlive whoever started it: its Popen shall not warn that it does (ResourceWarning)."""
    for process in _started.values():
        if process.poll() is None:
            process.returncode = 0


def stop(state: Path) -> bool:
    """End the sandbox on this state directory with everything it runs, also while it starts; False if there is none."""
    if not is_held(state):
        return False
    asked: set[int] = set()
    deadline = time.monotonic() + ENDS_WITHIN
    while is_held(state):
        holder = _holder(state)  # 0: it is just about to write it
        late = time.monotonic() > deadline
        if holder and (late or holder not in asked):
            asked.add(holder)
            with suppress(ProcessLookupError):
                os.kill(
                    holder, signal.SIGKILL if late else signal.SIGTERM
                )  # the host process ends what it ran
        if late:
            break
        time.sleep(0.03)
    for pid in asked & _started.keys():
        _started.pop(pid).wait()
    return True


def tail(state: Path, lines: int = 12) -> str:
    """The last lines of the sandbox's log."""
    file = state / "sandbox.log"
    return "\n".join(file.read_text(errors="replace").splitlines()[-lines:]) if file.exists() else ""


@contextmanager
def held(state: Path):
    """Hold the state directory: the kernel lets go when the process ends, however it ends.

    Gives a function that says whether it is still held: whoever deletes the directory takes it away.
    """
    lock = state / "lock"
    with lock.open("a+") as file:
        deadline = time.monotonic() + ASKS_WITHIN
        while not _locks(file, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise SandboxError(f"Another sandbox runs on {state}.")
            time.sleep(0.01)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        mine = os.fstat(file.fileno())

        def still() -> bool:
            try:
                return os.path.samestat(mine, lock.stat())
            except OSError:
                return False

        yield still


def is_held(state: Path) -> bool:
    """Does a living sandbox hold this state directory?"""
    try:
        with (state / "lock").open("r+") as file:
            return not _locks(file, fcntl.LOCK_SH)  # shared: two who ask at once are not in each other's way
    except (FileNotFoundError, NotADirectoryError):
        return False


def _locks(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(state: Path) -> int:
    """The process that holds this state directory; 0 if none does, or it has not said yet."""
    if not is_held(state):
        return 0
    try:
        return int((state / "lock").read_text())
    except (OSError, ValueError):
        return 0


def _environment() -> dict[str, str]:
    """The learner's environment without anything of AWS's in it: the sandbox has no use for a real credential."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MOTO_", "BOTO"))
    }
    return kept | {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",  # templates refer to AWS's own policies
        # Else moto looks each caller up in the IAM of all of AWS's partitions, and fills each with those policies.
        "MOTO_ACCOUNT_ID": "123456789012",
    }
