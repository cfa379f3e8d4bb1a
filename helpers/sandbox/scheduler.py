"""Stands in for the ECS service scheduler: it keeps each service's tasks at what its records ask for.

Differs: the arithmetic is `deployments.plan`, one step of it whenever this loop turns. Two of AWS's unpublished
choices are ours: a task that never became healthy and fails its checks is stopped at once, while one that served is
replaced first; and how the restart throttle's delay grows. An app that ends at once is started again after a constant
pause, to spare this machine: AWS, where its task has been RUNNING, does not throttle it. Zones are evened out when
tasks start and stop, never by moving one that runs.
"""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from helpers.sandbox.clock import Clock
from helpers.sandbox.ecs.deployments import Phase, TaskView, failure_threshold, plan
from helpers.sandbox.ecs.lifecycle import EVIDENCE, Happening, Health, Lifecycle, Report
from helpers.sandbox.ecs.network_interfaces import SecurityGroupUse
from helpers.sandbox.ecs.operations import Ecs
from helpers.sandbox.ecs.placement import Placement
from helpers.sandbox.ecs.preparation import Logs, Preparation, UnableToAssume
from helpers.sandbox.ecs.services import STARTING, Deployment, Service, ServiceRecords
from helpers.sandbox.ecs.task_operations import ask_to_stop
from helpers.sandbox.endpoint import AwsError, Handler
from helpers.sandbox.fargate.runtime import Runtime
from helpers.sandbox.records import Records, Task

log = logging.getLogger("sandbox.scheduler")

PULLS = 4  # tasks pulled and started at once
# Without a load balancer a task counts as healthy so many AWS seconds after RUNNING
# (ECS API reference, DeploymentConfiguration.minimumHealthyPercent).
COUNTS_AFTER = 40.0
STEADY_AGAIN = 6 * 3600.0  # AWS seconds between two "has reached a steady state" ("Service event messages")
# Restart throttle: starts that fail before RUNNING wait longer and longer, "up to a maximum of 27 minutes", which "is
# subject to change" and was 15 in older versions ("Amazon ECS service throttle logic", developer guide; A). In AWS
# seconds; the first delay and its doubling are ours (U).
RETRY_FIRST, RETRY_MOST = 15.0, 27 * 60.0
INCONSISTENT = 3  # such failures in a row after which an event says so (U)


class Scheduler:
    """`health(target_group_arn)` gives each target's state by (address, port); the rest as the contract has it.

    Only `step` writes what ECS does by itself; API calls write what was asked for. No call to AWS, and none to
    `health`, is made with the records' lock held: their answers may need it.
    """

    def __init__(
        self,
        clock: Clock,
        records: Records,
        aws: Callable[[str, str], Any],
        runtime: Runtime,
        health: Health,
        logs: Logs,
        *,
        preparation: Preparation | None = None,
        in_flight: Callable[[str, int], int] = lambda address, port: 0,
        executor: Executor | None = None,
        rng: random.Random | None = None,
    ):
        self.clock, self.records = clock, records
        self.services = ServiceRecords(records)
        self.placement = Placement(clock, records, aws)
        preparation = preparation or Preparation(logs)
        self.placement.launchable = preparation.assume
        self.lifecycle = Lifecycle(
            clock,
            records,
            self.placement,
            runtime,
            health,
            preparation,
            logs,
            self._grace,
            executor or ThreadPoolExecutor(PULLS, thread_name_prefix="launch"),
            rng or random.Random(),
            in_flight,
        )
        self._ecs = Ecs(records, self.services, self.placement)
        self._security_groups = SecurityGroupUse(records, aws)

    def operations(self) -> dict[tuple[str, str], Handler]:
        return {**self._ecs.operations(), **self._security_groups.operations()}

    def settled(self, service: Service) -> bool:
        """Whether it is steady: one deployment, all desired tasks healthy, no other task about."""
        return service.steady_since is not None

    def step(self) -> None:
        reports = self.lifecycle.step()
        with self.records.lock:
            if reports:
                self._conclude(reports)
            services = [service for service in self.services.values() if service.status != "INACTIVE"]
        for service in services:
            self._serve(service)
        self._forget()

    def close(self) -> None:
        """End the workers; tasks that run are the runtime's to end."""
        self.lifecycle.close()

    # What happened to tasks

    def _conclude(self, reports: list[Report]) -> None:
        now = self.clock.time()
        grouped: dict[tuple[str, Happening, str], list[Task]] = defaultdict(list)
        for report in reports:
            task = report.task
            service = self.services.get(task.service_arn or "")
            if service is None:
                continue
            deployment = service.deployment(task.deployment_id)
            grouped[service.arn, report.what, report.about].append(task)
            if report.what is Happening.NOT_REGISTERED:
                service.tell_once(
                    now,
                    f"failed to register targets in (target-group {report.about}) with (error {report.detail})",
                )
            elif report.what is Happening.UNHEALTHY:
                self._unhealthy(service, deployment, task, report, now)
            if deployment is not None:
                self._count(service, deployment, report, now)
        for (arn, what, about), tasks in grouped.items():
            self._tell(self.services[arn], what, about, tasks, now)

    def _tell(self, service: Service, what: Happening, about: str, tasks: list[Task], now: float) -> None:
        if what is Happening.REGISTERED:
            service.tell(now, f"registered {len(tasks)} targets in (target-group {about})")
        elif what is Happening.DEREGISTERED:
            service.tell(now, f"deregistered {len(tasks)} targets in (target-group {about})")
            draining: dict[str | None, int] = defaultdict(int)
            for task in tasks:
                draining[task.deployment_id] += task.execution_stopped_at is None
            for deployment, count in draining.items():
                if count:
                    service.tell(
                        now, f", taskSet {deployment}) has begun draining connections on {count} tasks."
                    )

    def _unhealthy(
        self, service: Service, deployment: Deployment | None, task: Task, report: Report, now: float
    ) -> None:
        service.tell(now, f"(task {task.id}) {report.detail}.")
        log.info("%s: task %s %s", service.name, task.id, report.detail)
        if task.counted_from is None and task.desired_status == "RUNNING":
            self._stop(service, [task], now)
            if deployment is not None:
                deployment.failed_tasks += deployment.rollout_state == "IN_PROGRESS"

    def _count(self, service: Service, deployment: Deployment, report: Report, now: float) -> None:
        """Keep the deployment's count of failed tasks, for the circuit breaker and the restart throttle."""
        what, task = report.what, report.task
        rolling = deployment.rollout_state == "IN_PROGRESS"
        if what is Happening.RUNNING:
            deployment.start_failures = 0
        elif what is Happening.HEALTHY:
            breaker = service.configuration["deploymentCircuitBreaker"]
            if breaker.get("resetOnHealthyTask", True):
                deployment.failed_tasks = 0
        elif what is Happening.NOT_STARTED:
            deployment.failed_tasks += rolling
            # "Even if a task's container command immediately exits with a non-zero exit code, the task already moved
            # to the RUNNING state": no throttle and no event for it (the same page; A).
            exited = task.stop_code == "EssentialContainerExited"
            deployment.start_failures = 0 if exited else deployment.start_failures + 1
            wait = RETRY_FIRST if exited else _throttle(deployment.start_failures)
            deployment.retry_at = now + wait
            log.info("%s: next start in %g AWS seconds: %s", service.name, wait, report.detail)
            if task.stop_code == "TaskFailedToStart":
                reason = (task.stopped_reason or "").rstrip(".")
                service.tell_once(now, f"was unable to place a task. Reason: {reason}.")
            if deployment.start_failures >= INCONSISTENT:
                service.tell_once(now, _INCONSISTENT)
        elif what is Happening.EXITED and task.stop_code == "EssentialContainerExited":
            never_healthy = task.counted_from is None or not task.load_balancers
            deployment.failed_tasks += rolling and never_healthy

    # What each service needs

    def _serve(self, service: Service) -> None:
        with self.records.lock:
            now = self.clock.time()
            tasks = [task for task in self.services.tasks(service) if task.last_status != "STOPPED"]
            if service.status == "DRAINING" and not any(_lives(task) for task in tasks):
                self._deactivate(service)
                return
            self._trip(service, tasks, now)
            made = self._plan(service, tasks, now)
            by_id = {task.id: task for task in tasks}
            self._stop(service, [by_id[task_id] for task_id in made.stop], now)
            if made.blocked:
                service.tell_once(now, _BLOCKED)
            starts = self._allowed(service, made.start, now)
            if starts or made.stop:
                service.steady_since = None
            else:
                self._settle(service, tasks, now)
        for deployment_id, count in starts.items():
            try:
                self._start(service, deployment_id, count)
            except UnableToAssume as error:
                self._not_placed(
                    service, deployment_id, f"failed to launch a task with (error {error.message})."
                )
            except AwsError as error:  # its subnet is full, say; the other services must go on
                reason = error.message.rstrip(".")
                self._not_placed(service, deployment_id, f"was unable to place a task. Reason: {reason}.")

    def _plan(self, service: Service, tasks: list[Task], now: float) -> Any:
        done = service.last_completed
        source = next((d.id for d in service.deployments[1:] if done and d.id == done.id), None)
        primary = service.primary.id
        # What stops first goes to the end: a failed deployment before those that served.
        others = sorted(service.deployments[1:], key=lambda d: d.rollout_state == "FAILED")
        views = [
            TaskView(
                task.id,
                task.deployment_id or "",
                task.availability_zone,
                self._phase(task, now),
                task.created_at,
            )
            for task in tasks
        ]
        return plan(
            service.desired_count,
            service.configuration["minimumHealthyPercent"],
            service.configuration["maximumPercent"],
            [primary, *(d.id for d in others)],
            views,
            source=source,
            launching=service.primary.rollout_state != "FAILED",
        )

    def _phase(self, task: Task, now: float) -> Phase:
        if task.desired_status == "STOPPED" or not _starts_or_runs(task):
            return Phase.STOPPING
        if task.last_status != "RUNNING":
            return Phase.PENDING
        if not task.load_balancers:
            return Phase.HEALTHY if now - (task.started_at or now) >= COUNTS_AFTER else Phase.WAITING
        if self.lifecycle.is_unhealthy(task):
            return Phase.UNHEALTHY
        return Phase.HEALTHY if self.lifecycle.is_healthy(task) else Phase.WAITING

    def _allowed(self, service: Service, start: dict[str, int], now: float) -> dict[str, int]:
        """Of the planned starts, those that the throttle and the launch quota let through now."""
        if start and not service.launches:
            service.tell_once(now, _NO_INSTANCES)
            return {}
        allowed: dict[str, int] = {}
        for deployment_id, count in start.items():
            deployment = service.deployment(deployment_id)
            if deployment is not None and now >= deployment.retry_at:
                granted = self.placement.quota(service.region, count)
                if granted:
                    allowed[deployment_id] = granted
        return allowed

    def _start(self, service: Service, deployment_id: str, count: int) -> None:
        deployment = service.deployment(deployment_id)
        if deployment is None:
            return
        definition = self.placement.definition(service.region, deployment.task_definition_arn)
        balancer = next(iter(deployment.load_balancers), {})
        fields: dict[str, Any] = {"container_port": balancer["containerPort"]} if balancer else {}
        started = [
            self.placement.place(
                definition,
                service.region,
                service.cluster_arn,
                f"service:{service.name}",
                deployment.network,
                balancer.get("containerName"),
                service_arn=service.arn,
                deployment_id=deployment.id,
                load_balancers=deployment.load_balancers,
                execute_command=service.recorded.get("enableExecuteCommand", False),
                tags=_tags(service, definition.tags),
                **fields,
            )
            for _ in range(count)
        ]
        with self.records.lock:
            service.tell(self.clock.time(), f"has started {count} tasks: {_named(started)}.")
        revision = f"{definition.family}:{definition.revision}"
        log.info("%s: started %d of %s (desired %d)", service.name, count, revision, service.desired_count)

    def _not_placed(self, service: Service, deployment_id: str, event: str) -> None:
        """No task came into being. It counts as failed: "if the service scheduler can't launch the task" (ECS API
        reference, Deployment.failedTasks; A)."""
        log.warning("%s: %s", service.name, event)
        with self.records.lock:
            now = self.clock.time()
            service.tell_once(now, event)
            deployment = service.deployment(deployment_id)
            if deployment is not None:
                deployment.failed_tasks += deployment.rollout_state == "IN_PROGRESS"
                deployment.retry_at = now + RETRY_FIRST

    def _stop(self, service: Service, tasks: list[Task], now: float) -> None:
        for task in tasks:
            if self.lifecycle.is_unhealthy(task):
                group = self.lifecycle.unhealthy_in(task)
                reason = f"Task failed ELB health checks in (target-group {group})"
                deployment = service.deployment(task.deployment_id)
                if deployment is not None and task.counted_from is not None:
                    deployment.failed_tasks += deployment.rollout_state == "IN_PROGRESS"
            else:
                reason = f"Scaling activity initiated by (deployment {service.primary.id})"
            log.info("%s: stopping task %s (%s): %s", service.name, task.id, task.last_status, reason)
            ask_to_stop(task, now, "ServiceSchedulerInitiated", reason)
        if tasks:
            service.tell(now, f"has stopped {len(tasks)} running tasks: {_named(tasks)}.")

    # How its deployments get on

    def _trip(self, service: Service, tasks: list[Task], now: float) -> None:
        """The circuit breaker."""
        breaker, failed = service.configuration["deploymentCircuitBreaker"], service.primary
        if not breaker["enable"] or failed.rollout_state != "IN_PROGRESS" or service.status != "ACTIVE":
            return
        threshold = failure_threshold(service.desired_count, breaker)
        if failed.failed_tasks < threshold:
            return
        log.info("%s: circuit breaker: %d failed tasks in %s", service.name, failed.failed_tasks, failed.id)
        failed.roll("FAILED", "ECS deployment circuit breaker: tasks failed to start.", now)
        service.tell(now, f"(deployment {failed.id}) deployment failed: tasks failed to start.")
        of_it = [task for task in tasks if task.deployment_id == failed.id]
        unfit = (Phase.PENDING, Phase.WAITING, Phase.UNHEALTHY)
        self._stop(service, [task for task in of_it if self._phase(task, now) in unfit], now)
        good = service.last_completed
        if breaker["rollback"] and good is not None and not failed.rollback:
            back = service.deploy(
                now, good.task_definition_arn, good.network, good.load_balancers, good.platform_version
            )
            back.rollback = True
            back.rollout_reason = f"ECS deployment circuit breaker: rolling back to deploymentId {good.id}."
            service.tell(now, f"rolling back to deployment {good.id}.")

    def _settle(self, service: Service, tasks: list[Task], now: float) -> None:
        """Let go of replaced deployments, complete the PRIMARY, say when all is as it should be."""
        for older in service.deployments[1:]:
            if not any(task.deployment_id == older.id and _lives(task) for task in tasks):
                service.deployments.remove(older)
                log.info("%s: deployment %s is gone", service.name, older.id)
        living = [task for task in tasks if _lives(task)]
        healthy = sum(self._phase(task, now) is Phase.HEALTHY for task in living)
        steady = (
            service.status == "ACTIVE"
            and len(service.deployments) == 1
            and healthy == len(living) == service.desired_count
            and service.primary.rollout_state != "FAILED"
        )
        if not steady:
            service.steady_since = None
            return
        primary = service.primary
        if primary.rollout_state == "IN_PROGRESS":
            primary.roll("COMPLETED", f"ECS deployment {primary.id} completed.", now)
            primary.failed_tasks = 0
            service.last_completed = primary
            service.tell(now, f"(deployment {primary.id}) deployment completed.")
        if service.steady_since is None:
            service.steady_since = service.steady_told = now
            service.resolved()
        elif now - service.steady_told < STEADY_AGAIN:
            return
        service.steady_told = now
        service.tell(now, "has reached a steady state.")
        log.info("%s: steady with %d tasks", service.name, service.desired_count)

    def _deactivate(self, service: Service) -> None:
        service.status, service.inactive_real = "INACTIVE", self.clock.monotonic()
        service.deployments.clear()
        log.info("%s: INACTIVE", service.name)

    def _forget(self) -> None:
        before = self.clock.monotonic() - EVIDENCE
        gone = [
            s.arn for s in self.services.values() if s.inactive_real is not None and s.inactive_real < before
        ]
        for arn in gone:
            with self.records.lock:
                del self.services[arn]

    def _grace(self, task: Task) -> float:
        service = self.services.get(task.service_arn or "")
        return (service.grace or 0.0) if service else 0.0


_INCONSISTENT = (
    "is unable to consistently start tasks successfully. For more information, see the Troubleshooting section of "
    "the Amazon ECS Developer Guide."
)
_BLOCKED = (
    "was unable to stop or start tasks during a deployment because of the service deployment configuration. Update "
    "the minimumHealthyPercent or maximumPercent value and try again."
)
_NO_INSTANCES = (
    "was unable to place a task because no container instance met all of its requirements. Reason: No Container "
    "Instances were found in your cluster. For more information, see the Troubleshooting section of the Amazon ECS "
    "Developer Guide."
)


def _throttle(failures: int) -> float:
    """AWS seconds until the next start after so many failed ones in a row."""
    return min(RETRY_MOST, RETRY_FIRST * 2 ** (failures - 1))


def _starts_or_runs(task: Task) -> bool:
    return task.last_status in STARTING or task.last_status == "RUNNING"


def _lives(task: Task) -> bool:
    """Whether a task may still answer requests: it starts, runs or drains."""
    return _starts_or_runs(task) or task.last_status == "DEACTIVATING"


def _named(tasks: list[Task]) -> str:
    return " ".join(f"(task {task.id})" for task in tasks)


def _tags(service: Service, of_definition: list[dict[str, str]]) -> list[dict[str, str]]:
    propagated = {"SERVICE": service.tags, "TASK_DEFINITION": of_definition}
    tags = list(propagated.get(service.recorded.get("propagateTags", "NONE"), []))
    if service.recorded.get("enableECSManagedTags"):
        cluster = service.cluster_arn.rsplit("/", 1)[-1]
        tags += [
            {"key": "aws:ecs:clusterName", "value": cluster},
            {"key": "aws:ecs:serviceName", "value": service.name},
        ]
    return tags
