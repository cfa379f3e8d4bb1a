"""Stands in for how an Application Load Balancer judges a target: from health checks to AWS's states and reasons.

Differs: Envoy makes the checks and counts them against the thresholds. What it does not tell, which status a failed
check had, comes from a request of our own.
"""

from __future__ import annotations

import http.client
import threading
from dataclasses import dataclass
from typing import Any

from helpers.sandbox.elb.envoy import Host
from helpers.sandbox.elb.envoy_config import HealthCheck


@dataclass(frozen=True)
class TargetHealth:
    """A target's state with its reason, in AWS's words."""

    state: str
    reason: str | None = None
    description: str | None = None

    def __str__(self) -> str:
        return f"{self.state} ({self.reason}: {self.description})" if self.reason else self.state


HEALTHY = TargetHealth("healthy")
REGISTERING = TargetHealth("initial", "Elb.RegistrationInProgress", "Target registration is in progress")
CHECKING = TargetHealth("initial", "Elb.InitialHealthChecking", "Initial health checks in progress")
TIMED_OUT = TargetHealth("unhealthy", "Target.Timeout", "Request timed out")
FAILED = TargetHealth("unhealthy", "Target.FailedHealthChecks", "Health checks failed")
DRAINING = TargetHealth("draining", "Target.DeregistrationInProgress", "Target deregistration is in progress")
NOT_REGISTERED = TargetHealth(
    "unused", "Target.NotRegistered", "Target is not registered to the target group"
)
NOT_IN_USE = TargetHealth(
    "unused",
    "Target.NotInUse",
    "Target group is not configured to receive traffic from the load balancer",
)


def wrong_code(status: int) -> TargetHealth:
    return TargetHealth(
        "unhealthy", "Target.ResponseCodeMismatch", f"Health checks failed with these codes: [{status}]"
    )


@dataclass(frozen=True)
class Group:
    """A target group as configured. `check` in real seconds; `interval` and `delay` (deregistration) in AWS seconds."""

    arn: str
    port: int
    check: HealthCheck
    check_port: int | None  # None: the traffic's
    interval: float
    delay: float
    algorithm: str
    used: bool  # by a listener
    region: str = ""
    load_balancer: str | None = None  # whose listener uses it

    def checks_traffic_port(self, port: int) -> bool:
        """Whether a target's health is asked for at the port that its requests go to."""
        return self.check_port in (None, port)


@dataclass
class Target:
    """A registered target. Times are AWS seconds since 1970, but `drained_at`: real, monotonic."""

    ip: str
    port: int
    zone: str | None
    address: tuple[str, int] | None = None
    check_port: int | None = None
    health: TargetHealth = REGISTERING
    passed: bool = False  # a check, since it was registered
    failing_since: float | None = None
    draining_until: float | None = None
    drained_at: float = 0.0
    probe: Probe | None = None
    closed: str | None = None  # why the load balancer's connections do not get there
    checks_closed: str | None = (
        None  # why its health checks do not; the same, unless they have a port of their own
    )
    reopened_at: float | None = None
    surveyed: Any = None  # the state of the records by which the network was asked

    @property
    def name(self) -> str:
        return f"{self.ip}:{self.port}"

    def forget_checks(self, health: TargetHealth) -> None:
        self.health, self.passed, self.failing_since, self.probe = health, False, None, None


class Probe(threading.Thread):
    """One request of our own, to learn what Envoy does not tell: which status a failed health check had."""

    def __init__(
        self, address: tuple[str, int], name: str, check: HealthCheck, at: float, known: TargetHealth | None
    ):
        super().__init__(name=f"probe {name}", daemon=True)
        self._address, self._host, self._check, self._known = address, name, check, known
        self.at = at  # AWS time
        self.found: TargetHealth | None = None  # None until the answer is in
        self.start()

    def run(self) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=self._check.timeout)
        try:
            headers = {"Host": self._host, "User-Agent": "ELB-HealthChecker/2.0", "Connection": "close"}
            connection.request("GET", self._check.path, headers=headers)
            status = connection.getresponse().status
            passes = self._check.passes(status)  # on the way back: what was wrong before still counts
            self.found = (self._known or FAILED) if passes else wrong_code(status)
        except TimeoutError:
            self.found = TIMED_OUT
        except (OSError, http.client.HTTPException):
            self.found = FAILED
        finally:
            connection.close()


def checked(group: Group, target: Target, host: Host | None, now: float) -> TargetHealth:
    """A target's health by its checks: Envoy counts them against the thresholds, bar the first few of a target."""
    if target.address is None:
        target.failing_since = target.failing_since or now
        if now - target.failing_since < group.check.unhealthy * group.interval:
            return CHECKING if target.health is REGISTERING else target.health
        target.passed = False
        return TIMED_OUT
    if target.checks_closed is not None:
        return _unanswered(group, target, now)
    if host is None or host.address != target.address or host.pending:
        return CHECKING if target.health is REGISTERING else target.health
    if not host.failing:
        if _recovers(group, target, now):
            return target.health
        target.passed, target.failing_since, target.probe = True, None, None
        return HEALTHY
    return _failing(group, target, host, now)


def _unanswered(group: Group, target: Target, now: float) -> TargetHealth:
    """Each check ends in silence, after its timeout. The app has no part in that, so all of it takes AWS time."""
    target.failing_since = target.failing_since or now
    first = 0.0 if not target.passed else group.interval  # a new target is checked at once
    last = first + (group.check.unhealthy - 1) * group.interval + group.check.timeout
    if now - target.failing_since < last:
        return CHECKING if target.health is REGISTERING else target.health
    return TIMED_OUT


def _recovers(group: Group, target: Target, now: float) -> bool:
    """Whether a target whose path is open again has too few passed checks yet. Envoy takes it for a new one."""
    if target.reopened_at is None or target.health.state != "unhealthy":
        return False
    return now - target.reopened_at < (group.check.healthy - 1) * group.interval


def _failing(group: Group, target: Target, host: Host, now: float) -> TargetHealth:
    target.failing_since = target.failing_since or now
    if not target.passed and now - target.failing_since < (group.check.unhealthy - 1) * group.interval:
        return CHECKING  # Envoy calls a new target unhealthy from the start, an ALB from the threshold on
    if host.timed_out:
        return TIMED_OUT
    if target.probe is None or (target.probe.found and now - target.probe.at >= group.interval):
        known = target.probe.found if target.probe else None
        check_address = (host.address[0], target.check_port or host.address[1])
        target.probe = Probe(check_address, target.name, group.check, now, known)
        return known or target.health
    return target.probe.found or target.health
