"""Recorded answers of AWS's API: a healthy service's, and how to change them into those of one that is not.

healthy.json was recorded once from the sandbox after notebook 08, with

    SANDBOX_STATE=/tmp/recording python -m tests.diagnosis.recorded

which writes what `gather` read, moments as {"time": …}. Nothing in it is tied to the sandbox but the address behind
the load balancer's name.
"""

from __future__ import annotations

import copy
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from helpers.diagnosis.facts import Evidence

FILE = Path(__file__).with_name("healthy.json")
LONGEST = 6  # items of a list that is cut: events, activities


def _read(value: dict) -> Any:
    return datetime.fromisoformat(value["time"]) if set(value) == {"time"} else value


_HEALTHY = json.loads(FILE.read_text(), object_hook=_read) if FILE.exists() else {}


def healthy() -> dict[str, Any]:
    """A copy of one's own of what `gather` read of a healthy service at notebook 08's end."""
    return copy.deepcopy(_HEALTHY)


NOW = _HEALTHY.get("now")
SERVICE = "shop"


def changed(**names: Any) -> Evidence:
    """A healthy service's answers, but for these."""
    return Evidence(healthy() | names)


def failing(
    reason: str = "",
    *,
    stopped: str = "Essential container in task exited",
    code: int | None = None,
    stop_code: str = "",
    lines: list[str] | None = None,
    container: dict | None = None,
    tasks: int = 2,
    lived: int = 20,
) -> dict[str, Any]:
    """The answers when so many tasks of a new deployment have failed: `reason` is the container's, `stopped` the task's.

    `lines` are of the log; `container` overrides fields of its definition; `lived`: seconds from start to stop.
    """
    answers = healthy()
    service = answers["service"]
    primary = service["deployments"][0]
    began = NOW - timedelta(minutes=4)
    primary |= {
        "id": "ecs-svc/9",
        "createdAt": began,
        "updatedAt": began,
        "rolloutState": "IN_PROGRESS",
        "rolloutStateReason": "ECS deployment ecs-svc/9 in progress.",
        "runningCount": 0,
        "failedTasks": tasks,
    }
    service["runningCount"] = 0
    default = "TaskFailedToStart" if code is None else "EssentialContainerExited"
    answers["stopped"] = [
        {
            "taskArn": f"arn:aws:ecs:us-east-1:123456789012:task/shop/{number:032x}",
            "taskDefinitionArn": service["taskDefinition"],
            "startedBy": "ecs-svc/9",
            "lastStatus": "STOPPED",
            "desiredStatus": "STOPPED",
            "stopCode": stop_code or default,
            "stoppedReason": stopped,
            "createdAt": began + timedelta(seconds=number),
            "startedAt": began + timedelta(seconds=20),
            "stoppingAt": began + timedelta(seconds=20 + lived),
            "stoppedAt": began + timedelta(seconds=30 + lived),
            "containers": [
                {"name": "app"}
                | ({"reason": reason} if reason else {})
                | ({} if code is None else {"exitCode": code})
            ],
        }
        for number in range(1, tasks + 1)
    ]
    if lines is not None:
        answers["logs"] = [
            {"task": task["taskArn"].rsplit("/", 1)[-1][:8], "group": "/ecs/shop", "lines": lines}
            for task in answers["stopped"]
        ]
    for name, value in (container or {}).items():
        answers["task_definition"]["containerDefinitions"][0][name] = value
    return answers


def event(answers: dict, message: str, minutes: float = 1.0) -> dict:
    """The answers with one more service event, so many minutes ago."""
    said = {"id": message[:9], "createdAt": NOW - timedelta(minutes=minutes), "message": message}
    answers["service"]["events"].insert(0, said)
    return answers


def unwell(answers: dict, reason: str, description: str = "") -> dict:
    """The answers with all targets unhealthy for this reason."""
    for health in answers["target_health"]:
        health["TargetHealth"] = {"State": "unhealthy", "Reason": reason, "Description": description}
    return answers


def stack_event(answers: dict, kind: str, status: str, reason: str, name: str = "") -> dict:
    """The answers with a failed resource in a stack that has failed, too."""
    verb = status.split("_")[0]
    answers["stack"]["StackStatus"] = {"CREATE": "ROLLBACK_COMPLETE", "DELETE": "DELETE_FAILED"}.get(
        verb, "UPDATE_ROLLBACK_COMPLETE"
    )
    answers["stack_events"].insert(
        0,
        {
            "LogicalResourceId": name or kind.rsplit("::", 1)[-1],
            "ResourceType": kind,
            "ResourceStatus": status,
            "ResourceStatusReason": reason,
            "Timestamp": NOW,
        },
    )
    return answers


def _told(value: object) -> dict:
    if isinstance(value, datetime):
        return {"time": value.isoformat()}
    raise TypeError(type(value))


def _cut(answers: dict) -> dict:
    answers["service"]["events"] = answers["service"]["events"][:LONGEST]
    for name in ("activities", "alarm_history", "stack_events", "stopped"):
        answers[name] = (answers.get(name) or [])[:LONGEST]
    for answer in answers.values():
        if isinstance(answer, dict):
            answer.pop("ResponseMetadata", None)
    return answers


def main() -> None:
    from helpers import connect
    from helpers.diagnosis.evidence import gather

    lab = connect(name=SERVICE)
    lab.catch_up("08")
    evidence = gather(SERVICE, SERVICE, SERVICE, lab.now(), lab.region)
    assert not evidence.unread, evidence.unread
    # A line for each answer: short, and a change of one shows.
    lines = (
        f'"{name}": {json.dumps(answer, default=_told)}' for name, answer in _cut(evidence.answers).items()
    )
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
