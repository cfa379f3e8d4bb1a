"""Why a service's tasks failed: reasons, exit codes and last log lines, read while AWS still has them.

A stack that rolls back deletes the service that failed, and with a first deployment its log group: `Witness` looks
while the deployment goes on, and remembers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from botocore.exceptions import ClientError

from helpers.errors import TutorialError

if TYPE_CHECKING:
    from pandas import DataFrame

LAST = 20  # log lines: of an error that nobody catches Node.js writes about as many
LOOKS = 8  # at a task's log, whose last lines arrive a little after its end
UNABLE = "Unable to describe task definition"
# Codes of stops that a person wanted, or AWS: a Spot task taken back, a machine of AWS's that fails or is retired.
# (A) TaskStopCode, ECS API Reference, as botocore has it.
WANTED = ("UserInitiated", "SpotInterruption", "TerminationNotice", "InfrastructureHealth")
NO_FAILURE = "Scaling activity initiated by"  # the scheduler stops a task that is not wanted any more
REFUSED = (
    "failed to launch a task",
    "unable to place a task",
)  # events after which there is no task to look at
TELLING = ("unhealthy", "unable to", "failed")  # words of the service events that say what went wrong


class Watched(Protocol):
    """What is asked of a service: helpers/services.py."""

    @property
    def record(self) -> dict: ...

    @property
    def events(self) -> DataFrame: ...

    @property
    def targets(self) -> DataFrame: ...

    def stopped_tasks(self) -> list[dict]: ...


@dataclass(frozen=True)
class FailedTask:
    """A task that ended though it should run. `lines`: the last of its log; `log`: where that is, "" for none."""

    task: str
    reason: str
    exit_code: int | None
    log: str = ""
    lines: tuple[str, ...] = ()

    @property
    def kind(self) -> tuple[str, int | None]:
        """The same for tasks that failed in the same way: their reasons may differ in addresses and ids."""
        return plain(self.reason), self.exit_code

    def told(self, failed: int = 1, *, last: bool = True) -> list[str]:
        """As lines of a message; `failed` tasks did in all, and this was the `last` of them."""
        code = "" if self.exit_code is None else f" (exit code {self.exit_code})"
        which = "the last one" if last else "one of them"
        first = f"task {self.task}" if failed == 1 else f"{failed} tasks failed, {which} is {self.task}"
        said = [f"{first}: {self.reason.rstrip('.')}{code}."]
        if self.lines:
            return [*said, f"its last log lines, in {self.log}:", *(f"    {line}" for line in self.lines)]
        return [*said, f"its log, in {self.log}, is empty."] if self.log else said


class Witness:
    """Looks at a service's failures since an AWS time, as often as it is asked to."""

    def __init__(self, service: Watched, since: datetime | None = None):
        self.service, self.since = service, since
        self._failed: dict[str, FailedTask] = {}
        self._deployments: dict[str, str] = {}  # of failed tasks, by ARN
        self._primary: set[str] = set()  # deployments that were the newest one at some look
        self._refused: dict[str, int] = {}  # events that no task came of, by their words: how many
        self._counted = 0  # failed tasks of the newest deployment, by ECS's own count
        self._looks: dict[str, int] = {}
        self._events: list[str] = []

    def look(self) -> None:
        """Takes in what is there; nothing when the service is gone."""
        try:
            tasks, record = self.service.stopped_tasks(), self.service.record
        except TutorialError:
            return
        except ClientError as error:
            if not _is_gone(error):
                raise
            return
        events = record["events"]
        self._primary |= {d["id"] for d in record.get("deployments", []) if d.get("status") == "PRIMARY"}
        named = balanced(record)
        new = [task for task in tasks if self._is_new(task["createdAt"]) and is_failure(task)]
        for task in new:
            arn, kept = task["taskArn"], self._failed.get(task["taskArn"])
            self._deployments[arn] = task.get("startedBy", "")
            self._looks[arn] = looks = self._looks.get(arn, 0) + 1
            if kept is None or looks <= LOOKS:
                seen = failed_task(task, named)
                self._failed[arn] = seen if seen.lines or kept is None else kept
        said = [event["message"] for event in events if self._is_new(event["createdAt"])]
        refused = [plain(message) for message in said if any(words in message for words in REFUSED)]
        self._refused = {words: refused.count(words) for words in refused} or self._refused
        newest = [d for d in record.get("deployments", []) if d.get("status") == "PRIMARY"]
        self._counted = max((d.get("failedTasks", 0) for d in newest), default=0)
        telling = [message for message in said if any(word in message for word in TELLING)]
        # Newest first; of those that differ in the task alone the newest is enough.
        alike = {re.sub(r"\(task \w+\)", "", message): message for message in reversed(telling)}
        self._events = list(alike.values())[::-1][:3]

    def tells(self) -> list[str]:
        """What was seen, as lines of a message."""
        lines = most_telling(list(self._failed.values())) if self._failed else []
        return lines + [f"event: {message}" for message in self._events]

    def repeated(self) -> int:
        """How many tasks of the newest deployment have failed in the same way, or could not even be launched; 0 before
        there are two."""
        alike: dict[tuple, int] = {}
        for arn, failed in self._failed.items():
            if self._deployments[arn] in self._primary:
                alike[failed.kind] = alike.get(failed.kind, 0) + 1
        # An event is told once, however often ECS tries: its count of the deployment's failures says how often.
        unseen = self._counted - sum(alike.values()) if self._refused else 0
        most = max([*alike.values(), *self._refused.values(), unseen], default=0)
        return most if most > 1 else 0

    def _is_new(self, moment: datetime) -> bool:
        return self.since is None or moment >= self.since


def trouble(service: Watched) -> str:
    """The last events, the last task that failed with its last log lines, and unhealthy targets, as lines."""
    lines = [f"event: {message}" for message in service.events["message"][:5]]
    named = balanced(service.record)
    failed = [task for task in service.stopped_tasks() if is_failure(task)]
    if failed:
        lines += failed_task(failed[-1], named).told(len(failed))
    targets = service.targets
    unwell = targets[targets["state"] != "healthy"]
    lines += [f"target {row['target']} {row['state']}: {row['reason']}" for _, row in unwell.iterrows()]
    return "\n".join(lines)


def most_telling(failed: list[FailedTask]) -> list[str]:
    """The lines of one of them that failed as the last one did: the last whose log is whole. A log that goes with its
    stack may go before the last task's last lines are in it."""
    alike = [one for one in failed if one.kind == failed[-1].kind and one.lines]
    wordy = alike or [one for one in failed if one.lines] or failed
    best = max(reversed(wordy), key=lambda one: len(one.lines))
    return best.told(len(failed), last=best is failed[-1])


def is_failure(task: dict[str, Any]) -> bool:
    """Whether a stopped task, as describe_tasks has it, ended though nobody wanted it to."""
    wanted = task.get("stopCode") in WANTED
    return not wanted and not task.get("stoppedReason", "").startswith(NO_FAILURE)


def balanced(record: dict[str, Any]) -> str:
    """The container that the service's load balancer names; "" without one."""
    return next((b.get("containerName") or "" for b in record.get("loadBalancers") or []), "")


def ended(task: dict[str, Any], named: str = "", definition: dict[str, Any] | None = None) -> dict[str, Any]:
    """Which of its containers a task failed by: the `named` one if that failed, else an essential one that did."""
    containers = task.get("containers") or []
    defined = (definition or {}).get("containerDefinitions") or []
    sidecars = {d.get("name") for d in defined if d.get("essential") is False}
    wrong = [c for c in containers if c.get("reason") or c.get("exitCode")]
    orders = (
        [c for c in wrong if named and c.get("name") == named],
        [c for c in wrong if c.get("name") not in sidecars],
        [c for c in containers if named and c.get("name") == named],
        [c for c in containers if c.get("name") not in sidecars and c.get("exitCode") is not None],
        containers,
    )
    return next((found[0] for found in orders if found), {})


def failed_task(task: dict[str, Any], named: str = "") -> FailedTask:
    """A stopped task with the last lines of its log; `named`: the container that the load balancer names."""
    definition, refusal = _definition(task)
    container = ended(task, named, definition)
    reason = container.get("reason") or task.get("stoppedReason", "")
    log, lines = refusal or _last_words(task, definition, container.get("name") or "")
    name = task["taskArn"].rsplit("/", 1)[-1]
    return FailedTask(name[:8], reason, container.get("exitCode"), log, lines)


def _definition(task: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, tuple[str, ...]] | None]:
    """(a task's definition, what to tell in the place of a log when it may not be read)."""
    import boto3

    try:
        answer = boto3.client("ecs").describe_task_definition(taskDefinition=task["taskDefinitionArn"])
    except ClientError as error:
        return {}, None if _is_gone(error) else _not_readable(error)
    return answer["taskDefinition"], None


def _last_words(task: dict[str, Any], definition: dict[str, Any], name: str) -> tuple[str, tuple[str, ...]]:
    """(where a task's log is, its last lines), of the container `name`, else of the first one that has a log; the first
    is "" when the definition names no log group."""
    import boto3

    containers = definition.get("containerDefinitions") or []
    try:
        for container in sorted(containers, key=lambda container: container["name"] != name):
            configuration = container.get("logConfiguration", {})
            options = configuration.get("options", {})
            if configuration.get("logDriver") == "awslogs" and "awslogs-stream-prefix" in options:
                group, task_id = options["awslogs-group"], task["taskArn"].rsplit("/", 1)[-1]
                stream = f"{options['awslogs-stream-prefix']}/{container['name']}/{task_id}"
                logs = boto3.client("logs", region_name=options.get("awslogs-region"))
                answer = logs.get_log_events(logGroupName=group, logStreamName=stream, limit=LAST)
                return group, tuple(event["message"] for event in answer["events"])
    except ClientError as error:
        if not _is_gone(error):
            return _not_readable(error)
    return "", ()


def _not_readable(error: ClientError) -> tuple[str, tuple[str, ...]]:
    return "CloudWatch Logs", (f"(not readable: {error.response['Error']['Code']})",)


def plain(text: str) -> str:
    """Without the ids and numbers in which two of the same kind differ."""
    return re.sub(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{8,}|\d+", "", text)


def _is_gone(error: ClientError) -> bool:
    code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    if code == "ClientException":  # ECS says so of very many things; of a revision that is not there, too
        return error.operation_name == "DescribeTaskDefinition" and UNABLE in message
    return "NotFound" in code or "NotActive" in code
