"""Faults in what a task runs: its image, its command, its app. Each is a new revision, rolled out by hand."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from helpers.calls import client
from helpers.errors import TutorialError
from helpers.faults.fault import Fault
from helpers.faults.place import BREAKER, Place

APP = "sample-app"


def back_to_the_stack(place: Place) -> None:
    """The revision that the stack made, which worked, and the circuit breaker on, as the template has it."""
    outputs = client("cloudformation").describe_stacks(StackName=place.name)["Stacks"][0]["Outputs"]
    good = next(output["OutputValue"] for output in outputs if output["OutputKey"] == "TaskDefinitionArn")
    client("ecs").update_service(
        cluster=place.name,
        service=place.name,
        taskDefinition=good,
        deploymentConfiguration={"deploymentCircuitBreaker": {"enable": True, "rollback": True}},
    )


# Image


def _image_missing(place: Place, rng: Random) -> None:
    tag = f"{rng.choice(('v', 'release-', 'build-'))}{rng.randint(2, 9)}.{rng.randint(0, 9)}.{rng.randint(0, 9)}"
    place.deploy({"image": f"{place.repository_uri}:{tag}"})


def _architecture(place: Place, rng: Random) -> None:
    place.deploy(runtimePlatform={"operatingSystemFamily": "LINUX", "cpuArchitecture": "ARM64"})


# App


def _app_exits(place: Place, rng: Random) -> None:
    file = rng.choice(("dist/server.js", "build/server.js", "src/server.js", "lib/server.js", "dist/main.js"))
    place.deploy({"command": ["node", file]})


def _command_not_found(place: Place, rng: Random) -> None:
    program = rng.choice(("nodejs18", "nodemon", "pm2-runtime", "forever", "node-prod"))
    place.deploy({"command": ["sh", "-c", f"{program} server.js"]})


def push_changed(place: Place, changes: dict[str, str], rng: Random) -> str:
    """A copy of the sample app with these texts in server.js replaced, built and pushed; its URI with digest."""
    from helpers.app_directory import copy_app
    from helpers.images import build_image, push_image

    with TemporaryDirectory() as folder:
        app = copy_app(APP, Path(folder) / "app")
        server = app / "server.js"
        code = server.read_text(encoding="utf-8")
        for old, new in changes.items():
            if code.count(old) != 1:
                raise TutorialError(
                    "This fault changes a line of the sample app, which is not there.",
                    seen=f"{code.count(old)} times in {APP}/server.js: {old}",
                    next="Take another fault, or put that line back.",
                )
            code = code.replace(old, new)
        server.write_text(code, encoding="utf-8")
        with contextlib.redirect_stdout(io.StringIO()):  # what is pushed would tell a surprise
            return push_image(build_image(app, f"hotfix-{rng.randint(10**5, 10**6)}"), place.repository_uri)


def _out_of_memory(place: Place, rng: Random) -> None:
    mebibytes = rng.choice((16, 24, 32))
    blocks = 1024 // mebibytes
    catalogue = f"const catalogue = Array.from({{ length: {blocks} }}, () => Buffer.alloc({mebibytes} * 2 ** 20, 1));\n"
    line = "async function main() {\n"
    image = push_changed(place, {line: f"{line}  {catalogue}  console.log(catalogue.length);\n"}, rng)
    place.deploy({"image": image})


def unbroken(place: Place) -> list[str]:
    breaker = place.service.record.get("deploymentConfiguration", {}).get("deploymentCircuitBreaker", {})
    return [] if {key: breaker.get(key) for key in BREAKER} == BREAKER else ["the circuit breaker is off"]


_HALF_DONE = "A deployment was started by hand and does not end. The old tasks still answer; the new ones do not come up."
_STOPPED = (
    "Look at the newest of the service's events (describe_services), then at the tasks that stopped: "
    'list_tasks with desiredStatus="STOPPED", describe_tasks. What do stopCode, stoppedReason and the container say?'
)


def _revision(
    name: str,
    layer: str,
    breaks: Callable[[Place, Random], None],
    shows: Callable[[Place], bool],
    second: str,
    third: str,
) -> Fault:
    return Fault(name, layer, _HALF_DONE, (_STOPPED, second, third), breaks, shows, back_to_the_stack)


FAULTS = (
    _revision(
        "image-missing",
        "image",
        _image_missing,
        lambda place: place.stopped_with("CannotPullContainerError"),
        "Compare the image of the deployment's task definition (describe_task_definition) with what the repository has: "
        "ecr.describe_images.",
        "The task definition names a tag that nobody pushed. Go back to the stack's revision with update_service, and "
        "switch the circuit breaker on again.",
    ),
    _revision(
        "architecture",
        "image",
        _architecture,
        lambda place: place.stopped_with("exec format error", "platform") or place.ended_with(1, 255),
        "Read the stopped task's last log line, and the runtimePlatform of its task definition. What was the image built "
        "for?",
        "The revision asks for ARM64 and the image holds programs for X86_64. Go back to the stack's revision with "
        "update_service, and switch the circuit breaker on again.",
    ),
    _revision(
        "app-exits",
        "app",
        _app_exits,
        lambda place: place.ended_with(1),
        "Exit code 1 is the app's own. Its last words are in the log: get_log_events of the stopped task's stream, "
        "ecs/app/<task id>.",
        "The revision's command names a file that the image does not have. Go back to the stack's revision with "
        "update_service, and switch the circuit breaker on again.",
    ),
    _revision(
        "command-not-found",
        "app",
        _command_not_found,
        lambda place: place.ended_with(127),
        "Exit code 127 is a shell's: it found no such program. Read `command` in the deployment's task definition.",
        "The revision's command starts a program that the image does not have. Go back to the stack's revision with "
        "update_service, and switch the circuit breaker on again.",
    ),
    _revision(
        "out-of-memory",
        "app",
        _out_of_memory,
        lambda place: place.stopped_with("OutOfMemoryError") or place.ended_with(137),
        "Exit code 137 is 128 + 9: SIGKILL. Read the container's `reason`, and `memory` in the task definition.",
        "The new image takes more memory than the task has. Until the app is mended, go back to the stack's revision "
        "with update_service, and switch the circuit breaker on again.",
    ),
)
