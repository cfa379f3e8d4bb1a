"""Where the notebooks' AWS calls go: `connect` is the only switch between the sandbox and AWS."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import display, sandbox
from helpers.errors import SandboxGone, SetupError, TutorialError

if TYPE_CHECKING:
    from docker import DockerClient

    from helpers.diagnose import Diagnosis
    from helpers.faults import Broken
    from helpers.sandbox.fargate.node import Node
    from helpers.sandbox.fargate.runtime import RunningTask
    from helpers.sandbox.tasks import ProcessRuntime

CHECKOUT = Path(__file__).resolve().parents[1]
NAME = "cool-nodejs-app"  # the article's
# What the templates' parameter Name allows; said here, before anything is made under the name.
NAME_PATTERN = re.compile(r"(?!internal-)[a-z][a-z0-9]*(-[a-z0-9]+)*")
NAME_LENGTH = (2, 24)
NAME_RULE = "2 to 24 characters, lower-case words joined by single hyphens, not starting with internal-"
REGION = "us-east-1"
SPEED = 30.0  # AWS seconds in a real second
RUNTIMES = ("auto", "process", "container")  # what tasks run as; SANDBOX_RUNTIME says it for a whole run
GO_ON = (
    "Run the cell with `connect(...)` again: that starts a sandbox if none is up, and its `lab.catch_up(...)` makes "
    "again what the earlier notebooks made. Then run this notebook's cells from there."
)
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
        """The AWS time: aware, UTC. It stands still while this is `paused`."""
        return self.running.now()

    @property
    def is_paused(self) -> bool:
        """Whether AWS time stands still, whoever paused it."""
        return self.running.latest().paused

    def pause(self) -> None:
        """Let AWS time stand still, to read: no alarm, no deployment, no scaling goes on, and nothing is measured.

        The app runs and answers. Calls of AWS's API work, and what they ask for is done after `resume`. A second pause
        changes nothing. In the sandbox only.
        """
        from helpers import pauses

        self.ensure_there()
        pauses.pause(self.target, self.running.endpoint)

    def resume(self) -> None:
        """Let AWS time go on as if it had not stood still; nothing changes when it does not."""
        from helpers import pauses

        self.ensure_there()
        pauses.resume(self.target, self.running.endpoint)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """AWS time stands still in this block; a pause from before the block stays."""
        before = self.is_paused
        self.pause()
        try:
            yield
        finally:
            if not before:
                self.resume()

    def ensure_there(self) -> None:
        """SandboxGone when the sandbox that this lab was connected to runs no more."""
        other = sandbox.attach(self.state)
        if other == self.running:
            return
        if other:
            what = "Another sandbox has taken the place of the one that this notebook was connected to."
            seen = f"process {other.pid} in the place of {self.running.pid}; it knows nothing of what the first one held"
        else:
            what = "The sandbox that this notebook was connected to has ended, and what it held is gone."
            seen = f"its process {self.running.pid} is not there; its log ends: {sandbox.tail(self.state, 1) or '-'}"
        raise SandboxGone(what, seen=seen, next=GO_ON)

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
        from helpers import costs, pauses

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
    if runtime not in RUNTIMES:
        raise TutorialError(
            "Tasks cannot run as that.",
            seen=f"runtime={runtime!r}",
            next=f"Use one of {', '.join(map(repr, RUNTIMES))}.",
        )
    check_name(name)
    check_region(region)
    running = _sandbox(speed, runtime)
    isolate(os.environ, running.endpoint, region, Path(running.state))
    _current = Lab(target, region, name, running)
    _new_default_session(_current)
    _in_notebook()
    _tell_of_a_pause(running)
    return _current


def _tell_of_a_pause(running: sandbox.Sandbox) -> None:
    from helpers import pauses

    if told := pauses.told(running):
        print(told)


def connected() -> Lab | None:
    """The lab that `connect` made in this process, whether or not its sandbox still runs; None when there is none."""
    return _current


def check_name(name: object) -> None:
    """TutorialError when the templates would not take it as what everything is named after."""
    if not (isinstance(name, str) and _is_name(name)):
        raise TutorialError(
            "Nothing in AWS can be named after that.",
            seen=f"name={name!r}; the rule is: {NAME_RULE}",
            next=f'Say name="{_mended(str(name))}", for instance.',
        )


def _is_name(name: str) -> bool:
    return bool(NAME_PATTERN.fullmatch(name)) and NAME_LENGTH[0] <= len(name) <= NAME_LENGTH[1]


def _mended(name: str) -> str:
    """The nearest that follows the rule; NAME where nothing of it is left."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = "-".join(re.findall(r"[a-z0-9]+", plain))
    words = re.sub(r"^(internal(-|$)|[^a-z]+)+", "", words)
    short = words[: NAME_LENGTH[1]].rstrip("-")
    return short if _is_name(short) else NAME


def check_region(region: object) -> None:
    """TutorialError when botocore, which asks nobody for it, knows of no such region with ECS."""
    known = _regions()
    if region not in known:
        near = get_close_matches(str(region).lower(), known, cutoff=0.7) or [REGION, "eu-west-1"]
        raise TutorialError(
            "AWS has no region of that name, or no ECS in it.",
            seen=f"region={region!r}",
            next=f"Say region={' or '.join(repr(each) for each in near)}, for instance.".replace("'", '"'),
        )


@cache
def _regions() -> tuple[str, ...]:
    """The regions of ECS in all of AWS's partitions; no profile of the user's is read for that."""
    from botocore.loaders import Loader
    from botocore.regions import EndpointResolver

    resolver = EndpointResolver(Loader().load_data("endpoints"))
    partitions = resolver.get_available_partitions()
    return tuple(region for each in partitions for region in resolver.get_available_endpoints("ecs", each))


def current() -> Lab:
    """The lab that `connect` made in this process. TutorialError when there is none, or its sandbox has ended."""
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


def find_node() -> Node:
    """The Node.js that tasks run with: path, version, and the command for its npm. SetupError when there is none."""
    from helpers.sandbox.fargate import node

    try:
        return node.find_node()
    except node.NodeMissing as error:
        raise SetupError("There is no Node.js to run the app with.", seen=str(error)) from None


def find_envoy() -> Path:
    """The load balancer's program. SetupError when there is none."""
    from helpers.sandbox.elb import envoy

    try:
        return envoy.find_envoy()
    except envoy.EnvoyError as error:
        raise SetupError("Envoy, the load balancer, was not found.", seen=str(error)) from None


def find_engine() -> DockerClient:
    """A client of the Docker Engine that `docker` uses. SetupError when none answers."""
    from helpers.sandbox.fargate import engine

    try:
        return engine.find_engine()
    except engine.EngineMissing as error:
        raise SetupError("There is no Docker Engine to work with.", seen=str(error)) from None


def best_runtime() -> tuple[str, str]:
    """What tasks run as unless somebody says otherwise, "container" or "process"; and what containers lack, if anything."""
    from helpers.sandbox.fargate import engine

    try:
        client = engine.find_engine()
        try:
            if not engine.is_near(client):
                return (
                    "process",
                    "the Docker Engine is not this machine's own but in a virtual or another one.",
                )
            return ("process", lacking) if (lacking := _no_registry(client)) else ("container", "")
        finally:
            client.close()
    except engine.EngineMissing as error:
        return "process", str(error)


def _no_registry(client: DockerClient) -> str:
    """Why no image could be pushed and pulled; "" if it could."""
    import shutil

    from helpers.sandbox.ecr import distribution, distribution_container

    if shutil.which(distribution.PROGRAM) or distribution_container.find_image(client):
        return ""
    return f"there is no program to keep images. {distribution.ADVICE}"


def cpu_clock(pid: int, container_id: str) -> Callable[[], float] | None:
    """What reads a container's CPU seconds from this machine's kernel; None where that is another machine's."""
    from helpers.sandbox.fargate import engine

    found = engine.find_cgroup(pid, container_id)
    return found.cpu_seconds if found else None


def engine_labels() -> dict[str, str]:
    """Labels for what is made in the engine and goes with this checkout's sandbox, at the latest with its next start."""
    from helpers.sandbox.fargate import engine

    return {engine.SANDBOX: engine.sandbox_label(state_directory())}


def run_process(
    app: Path,
    command: list[str],
    *,
    vcpu: float,
    memory: int = 512,
    environment: Mapping[str, str] | None = None,
) -> RunningTask:
    """Run an app on this machine without ECS, held to `vcpu` and `memory` (MiB). It ends with this Python process, at
    the latest. TutorialError when there is no such program."""
    from helpers.sandbox.fargate.runtime import CannotStartContainerError, TaskSpec

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
    try:
        return _this_machine(current().state).start(spec)
    except CannotStartContainerError as error:
        raise TutorialError(
            "The app cannot be run on this machine.",
            seen=str(error),
            next=f"Mend that; the command was {shlex.join(command)}.",
        ) from None


@cache
def _this_machine(state: Path) -> ProcessRuntime:
    """What runs apps without ECS, this process's own. It ends with this process, by its own doing or by that of the host
    process, which sees this one's end."""
    import atexit

    import psutil

    from helpers.sandbox.clock import AwsClock
    from helpers.sandbox.fargate.host import Host
    from helpers.sandbox.registry import Image
    from helpers.sandbox.tasks import ProcessRuntime

    own = state / "alone" / str(os.getpid())
    for other in own.parent.glob("[0-9]*"):
        if not psutil.pid_exists(int(other.name)):
            shutil.rmtree(other, ignore_errors=True)
    host = Host()
    host.start()
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    atexit.register(host.stop)
    runtime = ProcessRuntime(own, host, AwsClock(1), lambda reference, region: Image(Path(reference), []))
    atexit.register(runtime.close)  # the last to be registered is the first to be called
    return runtime


def _sandbox(speed: float | None, runtime: str) -> sandbox.Sandbox:
    state = state_directory()
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
        asked, why = best_runtime()
    elif asked == "container":
        client = find_engine()
        try:
            lacking = _no_registry(client)
        finally:
            client.close()
        if lacking:
            raise SetupError("Tasks cannot run as containers here.", seen=lacking)
    return sandbox.start(state, speed=speed, runtime=asked, why=why)


def _told(value: object) -> str:
    return f"{value:g}" if isinstance(value, float | int) else str(value)


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


def _new_default_session(lab: Lab) -> None:
    """A default session for boto3 that knows nothing from before, and whose clients say so when they lead nowhere."""
    import boto3
    from botocore.exceptions import HTTPClientError

    def before_send(**_: object) -> None:
        now = current()
        if (lab.region, lab.running) != (now.region, now.running):
            led = lab.region if lab.region != now.region else "a sandbox that has ended"
            raise TutorialError(
                "This client was made before the last `connect(...)`.",
                seen=f"it speaks to {led}; this notebook is connected to {now.region} on process {now.running.pid} now",
                next="Run the cell that makes the client (`boto3.client(...)`) again.",
            )

    def when_not_answered(caught_exception: Exception | None, **_: object) -> None:
        if isinstance(caught_exception, HTTPClientError):
            lab.ensure_there()

    boto3.setup_default_session()  # the last one may hold a profile's credentials from before
    boto3.DEFAULT_SESSION.events.register_first("before-send", before_send)
    boto3.DEFAULT_SESSION.events.register_first("needs-retry", when_not_answered)


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
        current()
    except SandboxGone as why:
        print(why, file=sys.stderr)
