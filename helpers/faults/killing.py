"""A task killed, as no AWS call does it. In the sandbox only."""

from __future__ import annotations

from helpers import control
from helpers.errors import SandboxRefuses, TutorialError

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
    try:
        control.post(endpoint, f"tasks/{task_id}/kill", within=ANSWERS_WITHIN)
    except SandboxRefuses as refusal:
        raise TutorialError(
            "There is nothing to kill.",
            seen=refusal.seen,
            next="Take a task from `app.tasks` that is RUNNING.",
        ) from None
