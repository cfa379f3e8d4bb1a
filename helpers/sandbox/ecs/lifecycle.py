"""Stands in for Fargate taking one task from PROVISIONING to STOPPED, and for ECS registering it with target groups.

Differs: how long a start takes on AWS is modelled, in AWS time; the image is pulled and the process started as soon
as the task exists, so that its real start counts in and not on top. A task's health is its target's alone. StopTask
drains a service's task like the scheduler does (deregister, delay, SIGTERM): AWS documents deregistration while
DEACTIVATING, not the wait (C, U). Of a service's stopped tasks no more than the newest EVIDENCE_MOST stay readable.
Nothing here knows of services: `step` tells what happened to which task, and the scheduler draws the conclusions.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Any, Protocol

from botocore.exceptions import ClientError

from helpers.sandbox.clock import Clock
from helpers.sandbox.ecs.placement import Placement
from helpers.sandbox.ecs.preparation import Logs, Preparation, task_spec
from helpers.sandbox.ecs.services import STARTING
from helpers.sandbox.fargate.runtime import (
    OUT_OF_MEMORY,
    CannotPullContainerError,
    CannotStartContainerError,
    RunningTask,
    Runtime,
)
from helpers.sandbox.logs import ResourceInitializationError
from helpers.sandbox.records import Records, Task

log = logging.getLogger("sandbox.scheduler")

# AWS seconds from a new task to its registered target: 18–30, median about 20 (aws-facts 3; C).
START_LEAST, START_MEDIAN, START_MOST = 18.0, 20.0, 30.0
PENDING_FROM, ACTIVATING_FROM = 0.4, 0.8  # shares of that after which a task is PENDING, ACTIVATING (U)
DEPROVISIONING = 10.0  # AWS seconds to detach the network interface (U)
# Real seconds that an app may take to start. Node's start at a quarter vCPU takes about one real second, which is
# nothing on AWS (1–2.5 s to healthy after RUNNING; C) and half an AWS minute here. So a task behind a load balancer is
# RUNNING when it listens, at the latest after so long; and for so long failed checks are not held against one that
# never answered any. A longer grace period counts instead.
BOOT = 5.0
ATTEMPTS = (
    3  # at what nobody answers, before Fargate gives up ("maximum number of attempts, 3", ECR's client; C)
)
REGISTER_AGAIN = 30.0  # AWS seconds before a refused registration is tried again (U)
EVIDENCE = 3600.0  # real seconds that a stopped task stays readable (ECS: at least one hour)
EVIDENCE_MOST = 1000  # and of one service, so that one that crashes for an hour can still be listed quickly


class TargetHealth(Protocol):
    state: str
    reason: str | None
    description: str | None


Health = Callable[[str], dict[tuple[str, int], Any]]  # of a target group's ARN: by (address, port)


class Happening(Enum):
    RUNNING = "reached RUNNING"
    REGISTERED = "registered with a target group"
    NOT_REGISTERED = "its target group refused it"
    HEALTHY = "first healthy answer"
    UNHEALTHY = "its target turned unhealthy"
    NOT_STARTED = "failed to start"
    EXITED = "its process ended by itself"
    DEREGISTERED = "left a target group"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Report:
    """What happened to a task; `about` a target group's ARN, `detail` in words."""

    what: Happening
    task: Task
    about: str = ""
    detail: str = ""


@dataclass
class _Course:
    """What only the lifecycle knows of a task. AWS seconds, but `real` in the name means monotonic real seconds."""

    start_takes: float
    launch: Future[RunningTask] | None = None
    attempts: int = 1
    started_real: float = 0.0
    registered: bool = False
    register_from: float = 0.0
    healthy: bool = False
    unhealthy_told: bool = False
    unhealthy_in: str = ""
    running_real: float = 0.0
    drained_at: float = 0.0
    cut_real: float = 0.0
    until: float = 0.0
    stopped_real: float = 0.0


class Lifecycle:
    """`health` is asked with no lock held; `in_flight` says how many requests a target is answering now."""

    def __init__(
        self,
        clock: Clock,
        records: Records,
        placement: Placement,
        runtime: Runtime,
        health: Health,
        preparation: Preparation,
        logs: Logs,
        grace: Callable[[Task], float],
        executor: Executor,
        random: Random,
        in_flight: Callable[[str, int], int],
    ):
        self.clock, self.records, self.placement, self.runtime = clock, records, placement, runtime
        self.health, self.preparation, self.logs = health, preparation, logs
        self.grace, self.in_flight = grace, in_flight
        self._executor, self._random = executor, random
        self._courses: dict[str, _Course] = {}

    def step(self) -> list[Report]:
        reports: list[Report] = []
        arriving: list[Task] = []
        leaving: list[Task] = []
        known: dict[str, dict[tuple[str, int], TargetHealth]] = {}  # one look at each target group a step
        with self.records.lock:
            tasks = list(self.records.tasks.values())
        for task in tasks:
            course = self._courses.get(task.arn) or self._begin(task)
            status = task.last_status
            if status in STARTING:
                self._starting(task, course, reports)
            elif status == "RUNNING":
                self._running(task, course, known, reports, arriving, leaving)
            elif status == "DEACTIVATING":
                self._draining(task, course)
            elif status == "STOPPING":
                if task.process is None or task.process.poll() is not None:
                    self._ended(task, course)
            elif status == "DEPROVISIONING" and self.clock.time() >= course.until:
                self._stopped(task, course, reports)
        self._register(arriving, reports)
        self._deregister(leaving, reports)
        self._forget(tasks)
        return reports

    def is_healthy(self, task: Task) -> bool:
        """Whether every target group of a task calls it healthy now."""
        course = self._courses.get(task.arn)
        return course is not None and course.healthy

    def is_unhealthy(self, task: Task) -> bool:
        course = self._courses.get(task.arn)
        return course is not None and course.unhealthy_told

    def unhealthy_in(self, task: Task) -> str:
        """The target group that last called it unhealthy."""
        return self._courses[task.arn].unhealthy_in

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    # Starting

    def _begin(self, task: Task) -> _Course:
        beyond = START_MEDIAN - START_LEAST
        takes = START_LEAST + self._random.expovariate(
            0.6931471805599453 / beyond
        )  # ln 2: the median is `beyond`
        course = self._courses[task.arn] = _Course(min(START_MOST, takes))
        course.launch = self._executor.submit(self._launch, task)
        log.info("task %s: launched in %s as %s", task.id, task.availability_zone, task.private_ip)
        return course

    def _launch(self, task: Task) -> RunningTask:
        """In a worker thread: pulling may take real time."""
        definition = self.placement.definition(task.region, task.task_definition_arn)
        container = definition.container(task.container_name)
        stream = self.preparation.prepare(task, definition, container)
        self.runtime.pull(task.image, task.region)
        return self.runtime.start(task_spec(task, definition, container, stream))

    def _starting(self, task: Task, course: _Course, reports: list[Report]) -> None:
        now, launch = self.clock.time(), course.launch
        assert launch is not None
        if launch.done() and not launch.cancelled() and task.process is None and launch.exception() is None:
            course.started_real = self.clock.monotonic()
            with self.records.lock:
                task.process = launch.result()
        if task.desired_status == "STOPPED":
            self._abandon(task, course, launch)
            return
        elapsed = now - task.created_at
        if elapsed < PENDING_FROM * course.start_takes:
            return
        if task.last_status == "PROVISIONING":
            self._move(task, "PENDING", connected_at=now, pull_started_at=now)
        if elapsed < ACTIVATING_FROM * course.start_takes or not launch.done():
            return
        error = launch.exception()
        if error is not None:
            if elapsed < (takes := getattr(error, "takes", 0.0)):
                if elapsed >= course.attempts * takes / ATTEMPTS:
                    course.attempts += 1
                    course.launch = self._executor.submit(self._launch, task)
                return
            reason = _start_error(error)
            log.info("task %s: failed to start: %s", task.id, reason)
            if isinstance(error, ResourceInitializationError):  # before any container, and its image
                task.pull_started_at = None
            else:
                task.container_reason = reason
            self._end(task, course, "TaskFailedToStart", reason)
            reports.append(Report(Happening.NOT_STARTED, task, detail=reason))
            return
        assert task.process is not None
        if task.last_status == "PENDING":
            self._move(task, "ACTIVATING", pull_stopped_at=now)
        if task.process.poll() is not None:
            self._exited(task, course, reports, Happening.NOT_STARTED)
        elif elapsed >= course.start_takes and self._is_up(task, course):
            course.running_real = self.clock.monotonic()
            counted = None if task.load_balancers else now
            self._move(task, "RUNNING", started_at=now, counted_from=counted)
            reports.append(Report(Happening.RUNNING, task))

    def _is_up(self, task: Task, course: _Course) -> bool:
        """Whether the start that the latency stands for is over in truth, too: see BOOT."""
        assert task.process is not None
        return (
            not task.load_balancers
            or task.process.listening()
            or self.clock.monotonic() >= course.started_real + BOOT
        )

    def _abandon(self, task: Task, course: _Course, launch: Future[RunningTask]) -> None:
        """Stop a task that has not reached RUNNING."""
        if not launch.done() and not launch.cancel():
            return  # the worker is at it: its process must not be lost
        if task.process is None:
            self._ended(task, course)
        else:
            task.process.stop()
            self._move(task, "STOPPING")

    # Running

    def _running(
        self,
        task: Task,
        course: _Course,
        known: dict[str, dict[tuple[str, int], TargetHealth]],
        reports: list[Report],
        arriving: list[Task],
        leaving: list[Task],
    ) -> None:
        assert task.process is not None
        if task.execution_stopped_at is None and task.process.poll() is not None:
            self._exited(task, course, reports, Happening.EXITED)
        if task.execution_stopped_at is not None or task.desired_status == "STOPPED":
            if course.registered:
                leaving.append(task)
            elif task.execution_stopped_at is not None:
                self._deprovision(task, course)
            else:
                task.process.stop()
                self._move(task, "STOPPING")
        elif task.load_balancers and not course.registered:
            if self.clock.time() >= course.register_from:
                arriving.append(task)
        elif task.load_balancers:
            self._judge(task, course, known, reports)

    def _judge(
        self,
        task: Task,
        course: _Course,
        known: dict[str, dict[tuple[str, int], TargetHealth]],
        reports: list[Report],
    ) -> None:
        states = []
        for balancer in task.load_balancers:
            group, port = balancer["targetGroupArn"], balancer["containerPort"]
            if group not in known:
                known[group] = self.health(group)
            target = known[group].get((task.private_ip, port))
            states.append((target.state if target else "initial", group, port, target))
        course.healthy = all(state == "healthy" for state, *_ in states)
        if course.healthy:
            course.unhealthy_told = False
            if task.counted_from is None:
                with self.records.lock:
                    task.counted_from = self.clock.time()
                reports.append(Report(Happening.HEALTHY, task))
            return
        grace = max(self.grace(task), BOOT) if task.counted_from is None else self.grace(task)
        in_grace = self.clock.monotonic() < course.running_real + grace
        for state, group, port, target in states:
            if state == "unhealthy" and not in_grace and not course.unhealthy_told:
                course.unhealthy_told, course.unhealthy_in = True, group
                why = (target and target.description) or "Health checks failed"
                detail = f"(port {port}) is unhealthy in (target-group {group}) due to (reason {why})"
                reports.append(Report(Happening.UNHEALTHY, task, group, detail))

    def _exited(self, task: Task, course: _Course, reports: list[Report], what: Happening) -> None:
        """The process ended though nobody asked it to."""
        process = task.process
        assert process is not None
        self.logs.deliver(process)
        now, code = self.clock.time(), process.poll()
        with self.records.lock:
            task.execution_stopped_at, task.exit_code = now, code
            task.started_at = task.started_at or task.pull_stopped_at  # a container that ended has started
            if process.out_of_memory:
                task.container_reason = OUT_OF_MEMORY
            if task.desired_status == "RUNNING":
                task.desired_status, task.stopping_at = "STOPPED", now
                task.stop_code = "EssentialContainerExited"
                task.stopped_reason = "Essential container in task exited"
        detail = f"exit code {code}" + (", out of memory" if process.out_of_memory else "")
        log.info("task %s: its process ended by itself: %s", task.id, detail)
        if what is Happening.NOT_STARTED:
            self._deprovision(task, course)
        reports.append(Report(what, task, detail=detail))

    # Stopping

    def _draining(self, task: Task, course: _Course) -> None:
        assert task.process is not None
        if task.process.poll() is not None:
            self._ended(task, course)
            return
        if self.clock.time() < course.drained_at:
            return
        # The delay as AWS shows it is over. What it grants a request is real time, as everything that bounds the
        # app: a request still being answered may go on for so many real seconds.
        if self.clock.monotonic() < course.cut_real and self._in_flight(task):
            return
        log.info("task %s: drained, SIGTERM", task.id)
        task.process.stop()
        self._move(task, "STOPPING")

    def _in_flight(self, task: Task) -> int:
        return sum(self.in_flight(task.private_ip, lb["containerPort"]) for lb in task.load_balancers)

    def _ended(self, task: Task, course: _Course) -> None:
        """The process is gone, as asked."""
        if task.process is not None and task.execution_stopped_at is None:
            self.logs.deliver(task.process)
            with self.records.lock:
                task.execution_stopped_at, task.exit_code = self.clock.time(), task.process.poll()
        self._deprovision(task, course)

    def _end(self, task: Task, course: _Course, code: str, reason: str) -> None:
        with self.records.lock:
            task.desired_status, task.stop_code, task.stopped_reason = "STOPPED", code, reason
            task.stopping_at = self.clock.time()
        self._deprovision(task, course)

    def _deprovision(self, task: Task, course: _Course) -> None:
        course.until = self.clock.time() + DEPROVISIONING
        self._move(task, "DEPROVISIONING")

    def _stopped(self, task: Task, course: _Course, reports: list[Report]) -> None:
        course.stopped_real = self.clock.monotonic()
        self._move(task, "STOPPED", stopped_at=self.clock.time(), process=None)
        log.info("task %s: STOPPED: %s (exit code %s)", task.id, task.stopped_reason, task.exit_code)
        reports.append(Report(Happening.STOPPED, task))

    def _forget(self, tasks: list[Task]) -> None:
        before = self.clock.monotonic() - EVIDENCE
        kept: Counter[str] = Counter()  # by service
        for task in reversed(tasks):  # the newest first
            if task.last_status != "STOPPED":
                continue
            kept[task.service_arn or task.arn] += 1
            spare = kept[task.service_arn or task.arn] > EVIDENCE_MOST
            if spare or self._courses[task.arn].stopped_real < before:
                with self.records.lock:
                    self.records.tasks.pop(task.arn, None)
                del self._courses[task.arn]

    # Target groups

    def _register(self, tasks: list[Task], reports: list[Report]) -> None:
        refused: set[str] = set()
        for (region, group), members in _by_group(tasks).items():
            targets = [
                {"Id": task.private_ip, "Port": port, "AvailabilityZone": task.availability_zone}
                for task, port in members
            ]
            try:
                self.placement.aws("elbv2", region).register_targets(TargetGroupArn=group, Targets=targets)
            except ClientError as error:
                for task, _ in members:
                    refused.add(task.arn)
                    self._courses[task.arn].register_from = self.clock.time() + REGISTER_AGAIN
                    reports.append(Report(Happening.NOT_REGISTERED, task, group, str(error)))
                continue
            reports += [Report(Happening.REGISTERED, task, group) for task, _ in members]
        for task in tasks:
            self._courses[task.arn].registered = task.arn not in refused

    def _deregister(self, tasks: list[Task], reports: list[Report]) -> None:
        delay: dict[str, float] = defaultdict(float)
        for (region, group), members in _by_group(tasks).items():
            elbv2 = self.placement.aws("elbv2", region)
            targets = [{"Id": task.private_ip, "Port": port} for task, port in members]
            try:
                elbv2.deregister_targets(TargetGroupArn=group, Targets=targets)
                attributes = elbv2.describe_target_group_attributes(TargetGroupArn=group)["Attributes"]
            except ClientError as error:
                log.warning(
                    "%d targets not deregistered: %s", len(members), error
                )  # its target group is gone
                continue
            seconds = float(
                {a["Key"]: a["Value"] for a in attributes}["deregistration_delay.timeout_seconds"]
            )
            for task, _ in members:
                delay[task.arn] = max(delay[task.arn], seconds)
                reports.append(Report(Happening.DEREGISTERED, task, group))
        for task in tasks:
            course = self._courses[task.arn]
            course.registered = course.healthy = False
            if task.execution_stopped_at is not None:
                self._deprovision(task, course)
            else:
                course.drained_at = self.clock.time() + delay[task.arn]
                course.cut_real = self.clock.monotonic() + delay[task.arn]
                self._move(task, "DEACTIVATING")

    def _move(self, task: Task, status: str, **fields: Any) -> None:
        with self.records.lock:
            for name, value in fields.items():
                setattr(task, name, value)
            log.debug("task %s: %s → %s", task.id, task.last_status, status)
            task.last_status = status
            task.version += 1


def _by_group(tasks: Iterable[Task]) -> dict[tuple[str, str], list[tuple[Task, int]]]:
    """(region, target-group ARN): its tasks with the port registered there."""
    groups: dict[tuple[str, str], list[tuple[Task, int]]] = defaultdict(list)
    for task in tasks:
        for balancer in task.load_balancers:
            groups[task.region, balancer["targetGroupArn"]].append((task, balancer["containerPort"]))
    return groups


def _start_error(error: BaseException) -> str:
    """What a stopped task's stoppedReason says about a failed start."""
    if not isinstance(
        error, (CannotPullContainerError, CannotStartContainerError, ResourceInitializationError)
    ):
        log.error("a task could not be started", exc_info=error)
        return f"CannotStartContainerError: {error}"
    return f"{type(error).__name__}: {error}"
