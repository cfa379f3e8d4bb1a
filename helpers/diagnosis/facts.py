"""`Evidence`: recorded answers of AWS's API as plain dicts, and what follows from them by looking alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from helpers.failures import ended, is_failure, plain

STEADY = "has reached a steady state"
# Words of service events that say what went wrong; the others tell the ordinary course.
TELLING = re.compile(
    r"unable to|unhealthy|failed|rolling back|Reason:|error|not authorized|does not|denied", re.I
)
FAILED_STACK = re.compile(r"FAILED|ROLLBACK")
ENOUGH = 3  # lines of the same kind
YOUNG = timedelta(minutes=15)  # a choice: what a first deployment takes, with room


class Evidence:
    """Answers by name (`reader.ASKED` lists the names, and the call that each came from); `unread`: name → why not.

    What was not read looks like what is not there: a list without items, a dict without keys. A rule that needs to know
    the difference asks `has`.
    """

    def __init__(self, answers: dict[str, Any], unread: dict[str, str] | None = None):
        self.answers, self.unread = answers, unread or {}

    def has(self, name: str) -> bool:
        return self.answers.get(name) is not None

    def one(self, name: str) -> dict[str, Any]:
        return self.answers.get(name) or {}

    def many(self, name: str) -> list[dict[str, Any]]:
        return self.answers.get(name) or []

    def text(self, name: str) -> str:
        return self.answers.get(name) or ""

    # names

    @property
    def cluster(self) -> str:
        return self.one("names").get("cluster") or "<cluster>"

    @property
    def service_name(self) -> str:
        return self.one("names").get("service") or "<service>"

    @property
    def stack_name(self) -> str:
        return self.one("names").get("stack") or "<stack>"

    # the service

    @property
    def service(self) -> dict[str, Any]:
        return self.one("service")

    @property
    def deployments(self) -> list[dict[str, Any]]:
        return self.service.get("deployments") or []

    @property
    def primary(self) -> dict[str, Any]:
        return next((d for d in self.deployments if d.get("status") == "PRIMARY"), {})

    @property
    def by_ecs(self) -> bool:
        """Whether ECS itself deploys the service: CodeDeploy's task sets, and others', are no deployments."""
        return (self.service.get("deploymentController") or {}).get("type", "ECS") == "ECS"

    @property
    def on_fargate(self) -> bool:
        """Where a machine of one's own runs the task, that machine's role and network pull the image, too."""
        strategy = self.service.get("capacityProviderStrategy") or []
        named = [provider.get("capacityProvider") or "" for provider in strategy]
        if named:
            return all(name.startswith("FARGATE") for name in named)
        return self.service.get("launchType", "FARGATE") == "FARGATE"

    @property
    def where(self) -> tuple[str, str]:
        """(partition, account) of the task definition, else of the service: ("aws", "") when neither was read."""
        arn = (
            self.one("task_definition").get("taskDefinitionArn")
            or self.service.get("serviceArn")
            or "arn:aws"
        )
        parts = (arn.split(":") + [""] * 5)[:5]
        return parts[1] or "aws", parts[4]

    @property
    def container(self) -> dict[str, Any]:
        """The definition of the container that the load balancer asks, else of the first essential one."""
        containers = self.one("task_definition").get("containerDefinitions") or []
        named = self.balanced.get("containerName")
        chosen = [c for c in containers if c.get("name") == named] or [
            c for c in containers if c.get("essential", True)
        ]
        return (chosen or [{}])[0]

    @property
    def balanced(self) -> dict[str, Any]:
        """Which of the service's load balancers is looked at: the first with a target that is not well, else the first."""
        entries = self.service.get("loadBalancers") or []
        unwell = {health.get("TargetGroupArn") for health in self.unwell}
        return next((b for b in entries if b.get("targetGroupArn") in unwell), next(iter(entries), {}))

    @property
    def target_group(self) -> dict[str, Any]:
        """That load balancer's target group."""
        groups, arn = self.many("target_groups"), self.balanced.get("targetGroupArn")
        return next((g for g in groups if g.get("TargetGroupArn") == arn), next(iter(groups), {}))

    @property
    def port(self) -> int | None:
        """Where the load balancer connects: the service's container port."""
        return self.balanced.get("containerPort")

    @property
    def network(self) -> dict[str, Any]:
        return (self.service.get("networkConfiguration") or {}).get("awsvpcConfiguration") or {}

    @property
    def unwell(self) -> list[dict[str, Any]]:
        """Target health of what should be healthy and is not."""
        bad = ("unhealthy", "unused", "unavailable")
        return [h for h in self.many("target_health") if (h.get("TargetHealth") or {}).get("State") in bad]

    @property
    def at_rest(self) -> bool:
        """Whether nothing is on its way: one complete deployment, and as many tasks as wanted, all of them well."""
        service = self.service
        health = [(h.get("TargetHealth") or {}).get("State") for h in self.many("target_health")]
        desired = service.get("desiredCount")
        one = len(self.deployments) == 1 if self.by_ecs else len(service.get("taskSets") or []) <= 1
        return (
            bool(service)
            and not self.gone
            and one
            and self.primary.get("rolloutState", "COMPLETED") == "COMPLETED"
            and service.get("runningCount") == desired
            and not service.get("pendingCount")
            and not [state for state in health if state not in ("healthy", "draining")]
        )

    @property
    def gone(self) -> bool:
        """Whether the service was deleted; ECS tells of it for a while."""
        return self.service.get("status") == "INACTIVE"

    @property
    def trouble(self) -> bool:
        """Whether anything went wrong that is not over."""
        return bool(self.failed_tasks or self.unwell or self.stack_failures() or self.events())

    @property
    def calm(self) -> bool:
        """Whether all tasks run and answer, or have only just been asked to, and nothing has gone wrong."""
        return (self.at_rest or self.young) and not self.trouble

    @property
    def steady_since(self) -> datetime | None:
        """When it last reached a steady state; what happened before is over."""
        times = (e.get("createdAt") for e in self.service.get("events") or [] if STEADY in _message(e))
        return max((time for time in times if time), default=None)

    @property
    def rolled_back(self) -> bool:
        """Whether the last deployment that somebody wanted was given up, and none was asked for since."""
        if any(d.get("rolloutState") == "FAILED" for d in self.deployments):
            return True
        if "rolling back" in self.primary.get("rolloutStateReason", ""):
            return True
        made = self.primary.get("createdAt")
        times = [
            event.get("createdAt")
            for event in self.service.get("events") or []
            if re.search(r"rolling back|deployment failed", _message(event))
        ]
        last = max((time for time in times if time), default=None)
        return bool(last and made and made <= last + timedelta(seconds=5))

    # what failed

    @property
    def failed_tasks(self) -> list[dict[str, Any]]:
        """Stopped tasks that failed and whose trouble is not over, oldest first."""
        born = self.service.get("createdAt")  # an earlier service of this name may have left tasks, too
        stopped = [task for task in self.many("stopped") if not born or task.get("createdAt", born) >= born]
        failed = [task for task in stopped if is_failure(task)]
        if self.rolled_back:
            revision = self.primary.get("taskDefinition")
            return [task for task in failed if task.get("taskDefinitionArn") != revision] or failed
        if self.at_rest:
            return self.recurring
        since = self.steady_since
        return [task for task in failed if since is None or (task.get("stoppedAt") or since) >= since]

    @property
    def recurring(self) -> list[dict[str, Any]]:
        """Tasks of a service that is at rest now whose app has ended by itself, more than once, since it was deployed.

        Exit code 137 without a reason is left out: a machine that fails, or a hand that kills, leaves the same.
        """
        own = [
            task
            for task in self.many("stopped")
            if task.get("stopCode") == "EssentialContainerExited"
            and task.get("startedBy") == self.primary.get("id")
            and is_failure(task)
            and (self.exit_code(task) != 137 or "OutOfMemory" in words(task))
        ]
        return own if len(own) > 1 else []

    def exit_code(self, task: dict[str, Any]) -> int | None:
        """Of the container that the task failed by."""
        return ended(task, self.balanced.get("containerName") or "", self.one("task_definition")).get(
            "exitCode"
        )

    @property
    def young(self) -> bool:
        """Whether a deployment goes on that began a while ago at most, and nothing of it has failed."""
        now, made = self.answers.get("now"), self.primary.get("createdAt")
        going = self.primary.get("rolloutState") == "IN_PROGRESS" and not self.primary.get("failedTasks")
        return bool(going and now and made and now - made <= YOUNG)

    @property
    def logs(self) -> list[dict[str, Any]]:
        """Of the failed tasks: {"task", "group", "lines"}, the lines of each being the last ones."""
        failed = {short(task) for task in self.failed_tasks}
        return [log for log in self.many("logs") if log.get("task") in failed]

    @property
    def stack_failed(self) -> bool:
        return bool(FAILED_STACK.search(self.one("stack").get("StackStatus") or ""))

    def reasons(self) -> Iterator[tuple[str, str]]:
        """(where it was read, words) of all that went wrong and is not over, the nearest to the cause first."""
        for task in self.failed_tasks[::-1]:
            for container in task.get("containers") or []:
                if container.get("reason"):
                    yield f"ecs describe_tasks, task {short(task)}, container's reason", container["reason"]
            if task.get("stoppedReason"):
                yield f"ecs describe_tasks, task {short(task)}, stoppedReason", task["stoppedReason"]
        for event in self.events():
            yield "ecs describe_services, events", _message(event)
        for event in self.stack_failures():
            where = f"cloudformation describe_stack_events, {event.get('LogicalResourceId', '')}"
            yield where, event.get("ResourceStatusReason") or ""

    def events(self) -> list[dict[str, Any]]:
        """The service's events that tell of trouble which is not over, newest first."""
        if self.at_rest and not self.rolled_back:
            return []
        since = None if self.rolled_back else self.steady_since
        events = self.service.get("events") or []
        return [
            event
            for event in events
            if TELLING.search(_message(event))
            and (since is None or (event.get("createdAt") or since) >= since)
        ]

    def stack_failures(self) -> list[dict[str, Any]]:
        """The last operation's failed resources, the first to fail first; those that were only cancelled left out."""
        status = self.one("stack").get("StackStatus") or ""
        if not self.stack_failed and not status.endswith("IN_PROGRESS"):
            return []
        failed = [e for e in self.many("stack_events") if (e.get("ResourceStatus") or "").endswith("FAILED")]
        return [e for e in failed[::-1] if "cancelled" not in (e.get("ResourceStatusReason") or "").lower()]

    def said(self, pattern: str | re.Pattern, most: int = ENOUGH) -> list[str]:
        """Where AWS says it, with its words: lines of evidence, the same words but once."""
        search, told, seen = re.compile(pattern, re.I), [], []
        for where, text in self.reasons():
            kind = plain(text).strip(" .")
            if search.search(text) and not any(kind in other or other in kind for other in seen):
                seen.append(kind)
                told.append(f"{where}: {text}")
        return told[:most]

    def logged(self, pattern: str | re.Pattern, most: int = ENOUGH) -> list[str]:
        """The failed tasks' last log lines that match, as lines of evidence."""
        search = re.compile(pattern, re.I)
        found = (
            f"logs get_log_events, {log.get('group', '')}, task {log.get('task', '')}: {line.strip()}"
            for log in self.logs
            for line in log.get("lines") or []
            if search.search(line)
        )
        return _few(found, most)

    def unwell_target(self, reason: str = "", *, described: bool = False) -> list[str]:
        """The first target that is not well and whose reason has this word in it, as a line of evidence."""
        told = ("State", "Reason", "Description") if described else ("State", "Reason")
        for entry in self.unwell:
            target, health = entry.get("Target") or {}, entry["TargetHealth"]
            if reason in (health.get("Reason") or ""):
                where = f"{target.get('Id')}:{target.get('Port')}"
                says = ", ".join(filter(None, map(health.get, told)))
                return [f"elbv2 describe_target_health, {where}: {says}"]
        return []


def _few(lines: Iterable[str], most: int) -> list[str]:
    kinds: dict[str, str] = {}
    for line in lines:
        kinds.setdefault(plain(line), line)
    return list(kinds.values())[:most]


def _message(event: dict) -> str:
    return event.get("message") or ""


def short(task: dict) -> str:
    """As people name a task: the first eight characters of its id."""
    return (task.get("taskArn") or "").rsplit("/", 1)[-1][:8]


def words(task: dict) -> str:
    """All that a stopped task says of its end."""
    reasons = [container.get("reason") or "" for container in task.get("containers") or []]
    return " ".join([*reasons, task.get("stoppedReason") or ""])


def last(arn: str | None) -> str:
    """What stands behind an ARN's last slash."""
    return (arn or "").rsplit("/", 1)[-1]
