"""Where the notebooks' AWS calls go: `connect` is the only switch between the sandbox and AWS."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import sandbox
from helpers.errors import TutorialError

if TYPE_CHECKING:
    from helpers.sandbox.tasks import ProcessRuntime, RunningTask

CHECKOUT = Path(__file__).resolve().parents[1]
NAME = "cool-nodejs-app"  # the article's
REGION = "us-east-1"
SPEED = 30.0  # AWS seconds in a real second
_current: Lab | None = None
_numbers = count(1)  # of the apps run without ECS


@dataclass(frozen=True)
class Lab:
    """Where you are: the target, the region, the name of what you build, and the sandbox that answers."""

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
        """The AWS time: aware, UTC."""
        return self.running.now()

    def catch_up(self, through: str, **parameters: Any) -> None:
        """Execute the earlier notebooks, up to `through`, whose results are not there yet for this name."""
        from helpers import steps

        for other in steps.other_labs(self.name, self.region):
            print(f"also here: {other}, another lab. To go on with that one, set name = {other!r}.")
        steps.catch_up(
            through, {"target": self.target, "region": self.region, "name": self.name, **parameters}
        )

    def stop(self) -> None:
        """End the sandbox with everything that it runs."""
        sandbox.stop(self.state)

    def __repr__(self) -> str:
        from helpers import costs

        return "\n".join(
            (
                f"{self.name} in {self.region}, on the sandbox on this machine. No AWS account is used, nothing is charged.",
                f"AWS time is {self.now():%Y-%m-%d %H:%M} UTC and passes {self.speed:g} times as fast as yours.",
                "Real: the app's Node processes, every request, the CPU used, the latency.",
                "Modelled: how AWS decides and how long it takes. Recorded only: IAM, VPC.",
                str(costs.of_lab(self.name)).replace(". ", ".\n"),
            )
        )


def connect(
    target: str = "sandbox",
    *,
    region: str = REGION,
    name: str = NAME,
    speed: float | None = None,
    runtime: str = "auto",
    spend: bool = False,
) -> Lab:
    """Send boto3's and the aws CLI's calls to `target` from now on, and say where that is.

    Starts the sandbox when none runs. `speed`: AWS seconds in a real second (30 unless told); `runtime`: what a task
    runs as ("auto" takes the best that is there; so far that is a Node process). Raises TutorialError.
    """
    global _current
    if target == "aws":
        raise TutorialError(
            "AWS as the target is not there yet.",
            seen=f'connect("aws", region="{region}", name="{name}", spend={spend})',
            next='Use connect("sandbox"); the templates in templates/ can be deployed with the AWS CLI as they stand.',
        )
    if target != "sandbox":
        raise TutorialError(
            "There is no such target.", seen=f"target={target!r}", next='Use connect("sandbox").'
        )
    if runtime not in ("auto", "process"):
        raise TutorialError(
            "Tasks cannot run as that yet.",
            seen=f"runtime={runtime!r}",
            next='Use runtime="process" or "auto".',
        )
    running = _sandbox(speed)
    isolate(os.environ, running.endpoint, region, Path(running.state))
    _forget_default_session()
    _current = Lab(target, region, name, running)
    return _current


def current() -> Lab:
    """The lab that `connect` made in this process."""
    if _current is None:
        raise TutorialError(
            "This notebook is not connected yet.", next="Run its `lab = connect(...)` cell first."
        )
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


def run_process(
    app: Path,
    command: list[str],
    *,
    vcpu: float,
    memory: int = 512,
    environment: Mapping[str, str] | None = None,
) -> RunningTask:
    """Run an app on this machine without ECS, held to `vcpu` and `memory` (MiB). It ends with this Python process, at
    the latest."""
    from helpers.sandbox.tasks import TaskSpec

    number = next(_numbers)
    spec = TaskSpec(
        task_arn=f"this-machine/{number}-{os.getpid()}",
        region=current().region,
        cluster_arn="",
        family="",
        revision=0,
        availability_zone="",
        private_ip="",
        container_name="app",
        image=str(app),
        command=command,
        cpu=round(vcpu * 1024),
        memory=memory,
        environment=dict(environment or {}),
    )
    return _this_machine(current().state).start(spec)


@cache
def _this_machine(state: Path) -> ProcessRuntime:
    from helpers.sandbox.clock import AwsClock
    from helpers.sandbox.fargate.host import Host
    from helpers.sandbox.registry import Image
    from helpers.sandbox.tasks import ProcessRuntime

    host = Host()
    host.start()
    return ProcessRuntime(
        state / "alone", host, AwsClock(1), lambda reference, region: Image(Path(reference), [])
    )


def _sandbox(speed: float | None) -> sandbox.Sandbox:
    state = state_directory()
    wanted = speed or float(os.environ.get("SANDBOX_SPEED", SPEED))
    try:
        running = sandbox.attach(state) or sandbox.start(state, speed=wanted, runtime="process")
    except sandbox.SandboxError as error:
        raise TutorialError(
            "The sandbox could not be started.", seen=str(error), next="Mend that and connect again."
        ) from None
    if speed is not None and running.speed != speed:
        raise TutorialError(
            "A sandbox of another speed is running.",
            seen=f"speed {running.speed:g}, while {speed:g} was asked for",
            next="Stop it with `python -m helpers stop` (what it holds is lost), then connect again.",
        )
    return running


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


def _forget_default_session() -> None:
    import boto3

    boto3.DEFAULT_SESSION = None  # it may hold a profile's credentials from before
