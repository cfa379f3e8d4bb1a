"""`connect` is the only switch between the sandbox and AWS; a `Lab` is what it hands out."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import display, pauses, sandbox, session, this_machine
from helpers.errors import SandboxGone, SetupError, TutorialError
from helpers.naming import NAME, REGION, check_name, check_region
from helpers.session import Session

if TYPE_CHECKING:
    from helpers.diagnose import Diagnosis
    from helpers.faults import Broken

SPEED = 30.0  # AWS seconds in a real second
RUNTIMES = ("auto", "process", "container")  # what tasks run as; SANDBOX_RUNTIME says it for a whole run


@dataclass(frozen=True)
class Lab(Session):
    """Where you are: the target, the region, the name of what you build, and the sandbox that answers."""

    def pause(self) -> None:
        """Let AWS time stand still, to read, and say so: no alarm, no deployment, no scaling goes on.

        The app runs and answers, and nothing is measured. Calls of AWS's API work, and what they ask for is done after
        `resume`. A second pause changes nothing. In the sandbox only.
        """
        self.hold()
        _tell_of_a_pause(self.running)

    def resume(self) -> None:
        """Let AWS time go on as if it had not stood still, and say so; nothing changes when it does not."""
        held = self.is_paused
        self.go_on()
        print(
            f"AWS time {'goes on from' if held else 'was not paused. It is'} {self.now():%Y-%m-%d %H:%M:%S} UTC."
        )

    def catch_up(self, through: str, **parameters: Any) -> None:
        """Execute the earlier notebooks, up to `through`, whose results are not there yet for this name."""
        from helpers import steps

        for other in steps.other_labs(self.name, self.region):
            print(f"also here: {other}, another lab. To go on with that one, set name = {other!r}.")
        steps.catch_up(
            through, {"target": self.target, "region": self.region, "name": self.name, **parameters}
        )

    def kill_task(self, task_arn: str) -> None:
        """End a task without a warning (SIGKILL), as a machine does that breaks. In the sandbox only."""
        from helpers import faults

        self.ensure_there()
        faults.kill_task(self.target, self.running.endpoint, task_arn)

    def diagnose(self) -> Diagnosis:
        """Why this lab's service does not do what it should, by what AWS's API shows; "nothing wrong" when it does."""
        from helpers import diagnose

        return diagnose.diagnose(cluster=self.name, service=self.name, stack=self.name)

    def break_it(self, name: str | None = None, *, seed: int | None = None) -> Broken:
        """Break this lab's service: the fault of that name, or one that `seed` chooses. In the sandbox only."""
        from helpers import faults

        self.ensure_there()
        return faults.break_it(self, name, seed=seed)

    def stop(self) -> None:
        """End the sandbox with everything that it runs."""
        sandbox.stop(self.state)

    def _why_not_containers(self) -> list[str]:
        first, _, _ = self.running.why.partition(". ")
        return [f"Not containers: {first.rstrip('.')} (notebook 01; none is needed)."] if first else []

    def __repr__(self) -> str:
        from helpers import costs

        tasks = "containers" if self.runtime == "container" else "Node processes"
        return display.wrap(
            "\n".join(
                (
                    f"{self.name} in {self.region}, on the sandbox on this machine. No AWS account is used, nothing is charged.",
                    pauses.told(self.running)
                    or f"AWS time is {self.now():%Y-%m-%d %H:%M} UTC and passes {self.speed:g} times as fast as yours.",
                    f"Real: the app's {tasks}, every request, the CPU used, the latency.",
                    *self._why_not_containers(),
                    "Modelled: how AWS decides and how long it takes. What your tasks may do and reach",
                    "  is evaluated; what you may do is not asked.",
                    str(costs.of_lab(self.name)).replace(". ", ".\n"),
                )
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
    runs as, "process", "container" or "auto", which is a container where a Docker Engine is there. Raises TutorialError.
    """
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
    if runtime not in RUNTIMES:
        raise TutorialError(
            "Tasks cannot run as that.",
            seen=f"runtime={runtime!r}",
            next=f"Use one of {', '.join(map(repr, RUNTIMES))}.",
        )
    check_name(name)
    check_region(region)
    running = _sandbox(speed, runtime)
    lab = Lab(target, region, name, running)
    session.enter(lab)
    _in_notebook()
    _tell_of_a_pause(running)
    return lab


def _tell_of_a_pause(running: sandbox.Sandbox) -> None:
    if told := pauses.told(running):
        print(told)


def _sandbox(speed: float | None, runtime: str) -> sandbox.Sandbox:
    state = session.state_directory()
    wanted = speed or float(os.environ.get("SANDBOX_SPEED", SPEED))
    try:
        running = sandbox.attach(state) or _start(state, wanted, runtime)
    except sandbox.SandboxError as error:
        raise TutorialError(
            "The sandbox could not be started.", seen=str(error), next="Mend that and connect again."
        ) from None
    told = {
        "speed": (running.speed, speed),
        "runtime": (running.runtime, None if runtime == "auto" else runtime),
    }
    for what, (there, asked) in told.items():
        if asked not in (None, there):
            raise TutorialError(
                f"A sandbox of another {what} is running.",
                seen=f"{what} {_told(there)}, while {_told(asked)} was asked for",
                next="Stop it with `python -m helpers stop` (what it holds is lost), then connect again.",
            )
    return running


def _start(state: Path, speed: float, runtime: str) -> sandbox.Sandbox:
    asked = runtime if runtime != "auto" else os.environ.get("SANDBOX_RUNTIME", "auto")
    why = ""
    if asked == "auto":
        asked, why = this_machine.best_runtime()
    elif asked == "container":
        client = this_machine.find_engine()
        try:
            lacking = this_machine.lacks_registry(client)
        finally:
            client.close()
        if lacking:
            raise SetupError("Tasks cannot run as containers here.", seen=lacking)
    return sandbox.start(state, speed=speed, runtime=asked, why=why)


def _told(value: object) -> str:
    return f"{value:g}" if isinstance(value, float | int) else str(value)


def _in_notebook() -> None:
    """In a notebook, show tables in the course's way, and have a cell say so that fails because its sandbox has ended."""
    from helpers.checks import in_notebook

    if in_notebook():
        from IPython import get_ipython

        display.show_frames(get_ipython().display_formatter.formatters)
        get_ipython().events.register("post_run_cell", _explain)  # once: a second time changes nothing


def _explain(result: Any) -> None:
    error = result.error_in_exec
    if not isinstance(error, Exception) or isinstance(error, SandboxGone):
        return
    try:
        session.current()
    except SandboxGone as why:
        print(why, file=sys.stderr)
