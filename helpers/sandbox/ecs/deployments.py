"""Stands in for the ECS scheduler's arithmetic: given a service's tasks, what to start and what to stop now.

Differs: AWS publishes the limits of a rolling update, not the order within them. Pure functions: no clock, no call.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

# Circuit breaker (aws-facts 3; A): half of the desired count, but never under 3 nor over 200 failed tasks.
BREAKER_PERCENT, BREAKER_LOWEST, BREAKER_HIGHEST = 50, 3, 200


class Phase(IntEnum):
    """Where a task is as the scheduler counts it; of two to spare, the one with the smaller number goes first."""

    UNHEALTHY = 0  # served once; its target group now says no
    PENDING = 1  # launched, not RUNNING yet
    WAITING = 2  # RUNNING, not counted as healthy yet
    HEALTHY = 3
    STOPPING = 4  # asked to stop: counts for nothing, even while it drains


@dataclass(frozen=True)
class TaskView:
    id: str
    deployment: str
    zone: str
    phase: Phase
    created_at: float = 0.0


@dataclass(frozen=True)
class Plan:
    """How many tasks to start in which deployment, which tasks to stop, and whether the limits forbid both."""

    start: dict[str, int] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    blocked: bool = False


def limits(desired: int, minimum_percent: int, maximum_percent: int) -> tuple[int, int]:
    """(fewest healthy, most alive) tasks while a deployment rolls: the first rounds up, the second down."""
    return min(desired, math.ceil(desired * minimum_percent / 100)), desired * maximum_percent // 100


def failure_threshold(desired: int, breaker: dict[str, Any]) -> int:
    """Failed tasks that trip the circuit breaker; `breaker` is boto3's deploymentCircuitBreaker."""
    rule = breaker.get("thresholdConfiguration") or {}
    kind, value = rule.get("type", "BOUNDED_PERCENT"), rule.get("value", BREAKER_PERCENT)
    if kind == "COUNT":
        return max(1, value)
    share = math.ceil(desired * value / 100)
    if kind == "UNBOUNDED_PERCENT":
        return max(1, share)
    return min(BREAKER_HIGHEST, max(BREAKER_LOWEST, share))


def plan(
    desired: int,
    minimum_percent: int,
    maximum_percent: int,
    deployments: Sequence[str],
    tasks: Iterable[TaskView],
    *,
    source: str | None = None,
    launching: bool = True,
) -> Plan:
    """What to do now. `deployments` are ids: the PRIMARY first, then those it replaces, what stops first at the end.

    `source` is the replaced deployment that last completed: while the PRIMARY is not healthy yet, lost tasks and
    a scale-out are made good with *its* task definition (AWS, November 2025: "Amazon ECS improves Service
    Availability during Rolling deployments"). `launching` is False once the circuit breaker has failed the PRIMARY.

    An unhealthy task is replaced first and stopped after, as far as the maximum permits; where it does not,
    unhealthy tasks go one by one (AWS, October 2023). Never are more than the maximum alive because of a start,
    and no stop of a healthy task leaves fewer than the minimum healthy.
    """
    primary = deployments[0]
    lowest, highest = limits(desired, minimum_percent, maximum_percent)
    alive = [task for task in tasks if task.phase is not Phase.STOPPING]
    new = [task for task in alive if task.deployment == primary]
    old = [task for task in alive if task.deployment != primary]
    stop: list[TaskView] = []

    # Within the PRIMARY: what is over the desired count, and unhealthy tasks whose replacement serves.
    fresh_new = _fresh(new)
    stop += _pick(fresh_new, len(fresh_new) - desired, deployments)
    healthy_new = len(_healthy(new)) - len(_healthy(stop))
    unhealthy_new = _unhealthy(new)
    stop += _pick(unhealthy_new, healthy_new + len(unhealthy_new) - desired, deployments)

    # Replaced deployments: as many go as the PRIMARY's healthy tasks make up for.
    floor = lowest if launching else desired
    fresh_old = _fresh(old)
    spare = _pick(fresh_old, len(fresh_old) - max(0, floor - healthy_new), deployments)
    allowed = healthy_new + len(_healthy(old)) - lowest
    stop += [task for task in spare if task.phase is not Phase.HEALTHY]
    stop += [task for task in spare if task.phase is Phase.HEALTHY][: max(0, allowed)]
    healthy = (
        healthy_new + len(_healthy(old)) - sum(1 for task in _healthy(stop) if task.deployment != primary)
    )
    unhealthy_old = _unhealthy(old)
    stop += _pick(unhealthy_old, healthy + len(unhealthy_old) - floor, deployments)

    stopped = {task.id for task in stop}
    left = [task for task in alive if task.id not in stopped]
    start, wanted = _starts(desired, floor, highest, primary, source, launching, left)
    blocked = False
    if (
        wanted
        and not start
        and not stop
        and all(task.phase in (Phase.HEALTHY, Phase.UNHEALTHY) for task in left)
    ):
        stopped = {task.id for task in _pick(_unhealthy(left), 1, deployments)}
        blocked = not stopped
    return Plan(start, tuple(sorted(stopped)), blocked)


def _starts(
    desired: int,
    floor: int,
    highest: int,
    primary: str,
    source: str | None,
    launching: bool,
    left: list[TaskView],
) -> tuple[dict[str, int], bool]:
    """Tasks to start by deployment, and whether any were wanted at all."""
    room = max(0, highest - len(left))
    new = [task for task in left if task.deployment == primary]
    old = [task for task in left if task.deployment != primary]
    lacking = floor - len(_healthy(new)) - len(_fresh(old)) if source not in (None, primary) else 0
    missing = desired - len(_fresh(new)) if launching else 0
    start: dict[str, int] = {}
    if source is not None and lacking > 0 and room:
        start[source] = min(lacking, room)
        room -= start[source]
    if missing > 0 and room:
        start[primary] = min(missing, room)
    return start, lacking > 0 or missing > 0


def _fresh(tasks: Iterable[TaskView]) -> list[TaskView]:
    return [task for task in tasks if task.phase is not Phase.UNHEALTHY]


def _healthy(tasks: Iterable[TaskView]) -> list[TaskView]:
    return [task for task in tasks if task.phase is Phase.HEALTHY]


def _unhealthy(tasks: Iterable[TaskView]) -> list[TaskView]:
    return [task for task in tasks if task.phase is Phase.UNHEALTHY]


def _pick(tasks: Sequence[TaskView], count: int, deployments: Sequence[str]) -> list[TaskView]:
    """`count` tasks to stop: the least advanced, the oldest deployment's, from the zone with the most, the newest."""
    picked: list[TaskView] = []
    left = list(tasks)
    rank = {deployment: -place for place, deployment in enumerate(deployments)}
    while len(picked) < count and left:
        zones = Counter(task.zone for task in left)
        task = min(
            left,
            key=lambda t, zones=zones: (
                t.phase,
                rank.get(t.deployment, -len(rank)),
                -zones[t.zone],
                -t.created_at,
                t.id,
            ),
        )
        picked.append(task)
        left.remove(task)
    return picked
