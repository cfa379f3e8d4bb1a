"""`examine`: whether a service is well, and in words what it lacks; and `until_well`, which waits for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from helpers.calls import polls
from helpers.errors import TutorialError
from helpers.failures import is_failure
from helpers.faults.place import Place
from helpers.faults.revisions import unbroken
from helpers.faults.scaling import as_templated
from helpers.faults.visits import errors, visit

if TYPE_CHECKING:
    from helpers.faults.fault import Fault

WELL_WITHIN = 30.0  # AWS minutes; two deployments' worth
CALM = 60.0  # AWS seconds that nothing may fail, once all is at rest
REQUESTS = 60


@dataclass(frozen=True)
class Verdict:
    """`lacking`: what is not well, in sentences."""

    lacking: tuple[str, ...]
    tasks: int = 0
    requests: int = 0

    @property
    def well(self) -> bool:
        return not self.lacking

    def __str__(self) -> str:
        if self.lacking:
            return "; ".join(self.lacking)
        return (
            f"{self.tasks} tasks running and healthy, deployment completed, {self.requests} requests answered"
        )

    def __repr__(self) -> str:
        return f"Well: {self}." if self.well else f"Not well yet: {self}. AWS time is paused again."


def examine(place: Place, fault: Fault | None = None) -> list[str]:
    """What is not well now, in sentences: tasks, targets, deployment, circuit breaker, scaling, and what `fault` adds."""
    return unrest(place) + unset(place, fault)


def unset(place: Place, fault: Fault | None = None) -> list[str]:
    """What is set otherwise than it should be, which no waiting mends, in sentences."""
    try:
        return unbroken(place) + as_templated(place) + (fault.lacking(place) if fault else [])
    except TutorialError as error:
        return [str(error.what)]


def unrest(place: Place) -> list[str]:
    """What of tasks, targets and deployment is not at rest, in sentences."""
    try:
        record = place.service.record
    except TutorialError as error:
        return [str(error.what)]
    counts = place.service.counts()
    told = []
    if len(record["deployments"]) > 1 or record["deployments"][0].get("rolloutState") != "COMPLETED":
        states = [deployment.get("rolloutState", "?") for deployment in record["deployments"]]
        told.append(f"not one completed deployment but {', '.join(states)}")
    if len(set(counts.values())) > 1:
        told.append(", ".join(f"{count} {word}" for word, count in counts.items()) + " tasks")
    if any(health["State"] != "healthy" for health in place.target_health):
        states = sorted({health["State"] for health in place.target_health} - {"healthy"})
        told.append(f"targets are {', '.join(states)}")
    return told


def until_well(place: Place, fault: Fault | None = None, minutes: float = WELL_WITHIN) -> Verdict:
    """The verdict once all is at rest and has stayed so, or when so many AWS `minutes` are over."""
    from helpers import session

    lab, calm_from, told = session.current(), None, ["nothing was looked at"]
    for _ in polls(minutes):
        told = unrest(place)
        now = lab.now()
        if told:
            calm_from = None
            continue
        calm_from = calm_from or now
        if any(map(is_failure, _stopped_since(place, calm_from))):
            calm_from = None
            continue
        if (now - calm_from).total_seconds() >= CALM:
            break
    if not told and calm_from is None:
        told = ["tasks still fail"]
    if told := told + unset(place, fault):
        return Verdict(tuple(told))
    failed = errors(visit(place.service.url, REQUESTS))
    if failed:
        return Verdict((f"{failed} of {REQUESTS} requests got no answer or a status of 500 and more",))
    return Verdict((), place.service.counts()["running"], REQUESTS)


def _stopped_since(place: Place, moment: datetime) -> list[dict]:
    tasks = place.service.stopped_tasks()
    return [task for task in tasks if "stoppedAt" in task and task["stoppedAt"] >= moment]
