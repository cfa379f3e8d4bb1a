"""A task killed, as no AWS call does it. In the sandbox only."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from helpers.errors import TutorialError

ANSWERS_WITHIN = 10.0  # real seconds
ON_AWS = (
    "stop_task asks the app to end and drains it first; that is as far as ECS's API goes. AWS Fault Injection Service "
    "has the action aws:ecs:task-kill-process, for tasks with an SSM agent beside the app."
)


def kill_task(target: str, endpoint: str, task_arn: str) -> None:
    """Kill all of a task's processes (SIGKILL), and tell nobody. `endpoint`: the sandbox's. TutorialError."""
    if target != "sandbox":
        raise TutorialError("On AWS no single call kills a task.", seen=f"target={target!r}", next=ON_AWS)
    task_id = task_arn.rsplit("/", 1)[-1]
    request = urllib.request.Request(f"{endpoint}/_sandbox/tasks/{task_id}/kill", method="POST")
    try:
        urllib.request.urlopen(request, timeout=ANSWERS_WITHIN).close()
    except urllib.error.HTTPError as answer:
        with answer:
            message = _message(answer.read())
        raise TutorialError(
            "There is nothing to kill.", seen=message, next="Take a task from `app.tasks` that is RUNNING."
        ) from None
    except OSError as error:
        raise TutorialError(
            "The sandbox does not answer.",
            seen=str(getattr(error, "reason", error)),
            next="Connect again, and catch up.",
        ) from None


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:200]
