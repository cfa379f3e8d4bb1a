"""Stands in for Application Load Balancers: their ports, their target groups' health, the requests they served.

Differs: a load balancer is a port on 127.0.0.1 in front of one Envoy process (`envoy.py`), and DNSName says so. A
target is registered by its task's network interface and container port; only this module knows where that really
is. Health-check intervals and deregistration delays are AWS time; whatever bounds a request is real time. Listeners
forward to one target group or give a fixed response; rules, HTTPS and other types of load balancer are not made.
"""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from helpers.sandbox.clock import Clock
from helpers.sandbox.elb.envoy import Envoy, Host, spawn_detached
from helpers.sandbox.elb.envoy_config import (
    ALGORITHMS,
    Cluster,
    Endpoint,
    FixedResponse,
    HealthCheck,
    Listener,
    configuration,
)
from helpers.sandbox.elb.ports import Ports
from helpers.sandbox.elb.target_health import (
    DRAINING,
    NOT_IN_USE,
    NOT_REGISTERED,
    REGISTERING,
    Group,
    Target,
    TargetHealth,
    checked,
)
from helpers.sandbox.endpoint import AwsError, Call, Handler

log = logging.getLogger("sandbox.balancer")

Resolve = Callable[[str, int], tuple[str, int] | None]

SETTLES = (
    0.5  # real seconds after which Envoy surely sends a deregistered target no new request; it takes 0.01
)
SHORTEST_INTERVAL = 0.02  # real seconds between health checks, however fast AWS time runs


@dataclass(frozen=True)
class Request:
    """One line of the access log. `time`: AWS seconds since 1970 at its end; `seconds`: the target's real ones.

    `target` is (IP address, port) as registered, None if none was chosen; `target_status` is None when the load
    balancer answered by itself.
    """

    time: float
    load_balancer_arn: str
    target_group_arn: str | None
    target: tuple[str, int] | None
    elb_status: int
    target_status: int | None
    seconds: float


class Balancer:
    """All load balancers of the sandbox. `operations` answers for them, `step` makes them what the records say."""

    def __init__(
        self,
        state: Path,
        clock: Clock,
        aws: Callable[[str, str], Any],
        changes: Callable[[str], int],
        resolve: Resolve,
        spawn: Callable[..., subprocess.Popen] | None = None,
        preferred_ports: dict[str, int] | None = None,
    ):
        self._clock, self._aws, self._changes, self._resolve = clock, aws, changes, resolve
        self._envoy = Envoy(state / "envoy", spawn or spawn_detached)
        self._ports = Ports(preferred_ports or {})
        self._regions: set[str] = set()
        self._seen: Any = None  # what the records were read at
        self._reading = threading.Lock()  # never taken by a holder of _lock: reading calls our own operations
        self._lock = threading.RLock()
        self._groups: dict[str, Group] = {}
        self._listeners: list[Listener] = []
        self._targets: dict[str, dict[tuple[str, int], Target]] = {}
        self._hosts: dict[tuple[str, str], Host] = {}
        self._told: Any = None  # the clusters and listeners that Envoy was given last
        self._placed: dict[tuple[str, tuple[str, int]], str] = {}  # (target group, address) -> target's name

    def start(self) -> None:
        self._envoy.start()
        self._told = None

    def stop(self) -> None:
        self._envoy.stop()
        self._ports.keep_only(set())

    def operations(self) -> dict[tuple[str, str], Handler]:
        return {
            ("elbv2", "CreateLoadBalancer"): self.with_ports,
            ("elbv2", "DescribeLoadBalancers"): self.with_ports,
            ("elbv2", "RegisterTargets"): self.register_targets,
            ("elbv2", "DeregisterTargets"): self.deregister_targets,
            ("elbv2", "DescribeTargetHealth"): self.describe_target_health,
        }

    def ports(self) -> dict[str, int]:
        """Ports on 127.0.0.1 by "region/load balancer:port"; what the next sandbox takes as `preferred_ports`."""
        return self._ports.known()

    # What AWS is asked

    def with_ports(self, call: Call) -> dict[str, Any]:
        self._regions.add(call.region)
        answer = call.forward()
        for record in answer.get("LoadBalancers", []):
            if record.get("Type", "application") == "application":
                port = self._ports.reserve(_port_key(call.region, record["LoadBalancerName"]))
                record["DNSName"] = f"127.0.0.1:{port}"
                record["State"] = {"Code": "active"}
        return answer

    def register_targets(self, call: Call) -> dict[str, Any]:
        group = self._group_of(call)
        with self._lock:
            targets = self._targets.setdefault(group.arn, {})
            for given in call.params["Targets"]:
                key = _target_key(given, group)
                if key not in targets or targets[key].draining_until is not None:
                    health = REGISTERING if group.used else NOT_IN_USE
                    targets[key] = Target(*key, given.get("AvailabilityZone"), health=health)
                    log.info("%s:%d registered in %s", *key, _short(group.arn))
            self._place()
        return {}

    def deregister_targets(self, call: Call) -> dict[str, Any]:
        group = self._group_of(call)
        with self._lock:
            targets = self._targets.get(group.arn, {})
            for given in call.params["Targets"]:
                target = targets.get(_target_key(given, group))
                if target is None or target.draining_until is not None:
                    continue  # AWS accepts it
                target.draining_until = self._clock.time() + (group.delay if group.used else 0)
                target.drained_at = self._clock.monotonic()
                target.health = DRAINING
                log.info("%s draining in %s for %g s", target.name, _short(group.arn), group.delay)
            self._place()
        return {}

    def describe_target_health(self, call: Call) -> dict[str, Any]:
        group = self._group_of(call)
        known = self.health(group.arn)
        given = call.params.get("Targets")
        keys = [_target_key(target, group) for target in given] if given else list(known)
        return {"TargetHealthDescriptions": [self._description(group, key, known.get(key)) for key in keys]}

    def _description(self, group: Group, key: tuple[str, int], health: TargetHealth | None) -> dict[str, Any]:
        health = health or NOT_REGISTERED
        words = {"State": health.state, "Reason": health.reason, "Description": health.description}
        described: dict[str, Any] = {"Id": key[0], "Port": key[1]}
        target = self._targets.get(group.arn, {}).get(key)
        if target is not None and target.zone:
            described["AvailabilityZone"] = target.zone
        return {
            "Target": described,
            "HealthCheckPort": str(group.check_port or key[1]),
            "TargetHealth": {name: word for name, word in words.items() if word},
        }

    def _group_of(self, call: Call) -> Group:
        arn = call.params["TargetGroupArn"]
        self._regions.add(call.region)
        self._refresh()
        with self._lock:
            if arn not in self._groups:
                raise AwsError("TargetGroupNotFound", f"Target groups '{arn}' not found")
            return self._groups[arn]

    # What the sandbox's other modules ask

    def health(self, target_group_arn: str) -> dict[tuple[str, int], TargetHealth]:
        """Each registered or draining target's health, as of the last step. Takes no lock, as `in_flight`: a caller
        may hold one that `resolve` wants."""
        now = self._clock.time()
        targets = self._targets.get(target_group_arn, {}).copy()
        return {key: target.health for key, target in targets.items() if not _drained(target, now)}

    def in_flight(self, ip: str, port: int) -> int:
        """Requests a target is answering now. One just deregistered counts as busy until no new one can come."""
        name = f"{ip}:{port}"
        hosts = self._envoy.hosts() or {}
        active = sum(host.active_requests for (_, host_name), host in hosts.items() if host_name == name)
        targets = [targets.get((ip, port)) for targets in list(self._targets.values())]
        moment = self._clock.monotonic() - SETTLES
        unsettled = any(target and target.draining_until and target.drained_at > moment for target in targets)
        return max(active, int(unsettled))

    def requests(self) -> list[Request]:
        """The requests ended since the last call."""
        entries = self._envoy.access_log()
        ahead, real = self._clock.time(), time.time()
        return [_request(entry, ahead, real, self._clock.speed) for entry in entries]

    # The loop

    def step(self) -> None:
        self._envoy.keep_running()
        self._refresh()
        hosts = self._envoy.hosts() if self._placed or self._hosts else {}
        with self._lock:
            if hosts is not None:  # else Envoy is just starting: what was known stays
                self._hosts = hosts
            now = self._clock.time()
            for arn, targets in self._targets.items():
                for key in [key for key, target in targets.items() if self._left(arn, target, now)]:
                    log.info("%s:%d deregistered from %s", *key, _short(arn))
                    del targets[key]
                for target in targets.values():
                    self._judge(self._groups[arn], target, now)
            self._place()

    def _left(self, arn: str, target: Target, now: float) -> bool:
        """Whether a target's delay is over and it answers no request: until then Envoy keeps it, to count them."""
        if not _drained(target, now) or self._clock.monotonic() - target.drained_at < SETTLES:
            return False
        host = self._hosts.get((arn, target.name))
        return host is None or host.active_requests == 0

    def _judge(self, group: Group, target: Target, now: float) -> None:
        before = target.health
        if not group.used:
            target.forget_checks(NOT_IN_USE)
        elif target.draining_until is not None:
            target.health = DRAINING
        else:
            if target.health is NOT_IN_USE:
                target.forget_checks(REGISTERING)
            target.health = checked(group, target, self._hosts.get((group.arn, target.name)), now)
        if target.health != before:
            log.info("%s in %s: %s, was %s", target.name, _short(group.arn), target.health, before)

    def _place(self) -> None:
        """Tell Envoy where the targets are now. Call with the lock held."""
        clusters, placed = [], {}
        for arn, group in self._groups.items():
            if group.used:
                reachable = self._locate(group, list(self._targets.get(arn, {}).values()))
                placed.update({(arn, target.address): target.name for target in reachable})
                clusters.append(Cluster(arn, group.check, group.algorithm, tuple(map(_endpoint, reachable))))
        self._placed = placed
        if (clusters, self._listeners) != self._told:
            self._envoy.write(configuration(self._envoy.directory, clusters, self._listeners))
            self._told = (clusters, self._listeners)

    def _locate(self, group: Group, targets: list[Target]) -> list[Target]:
        """Find where each target is; return those that Envoy may send to.

        A port that was one task's may be another's a moment later. It never passes from one target to the other
        directly: Envoy would carry over the health, and the old target would serve with the new one's process.
        """
        holders = defaultdict(set)
        for place, name in self._placed.items():
            holders[place].add(name)
        for (arn, name), host in self._hosts.items():
            holders[arn, host.address].add(name)
        found = {target.name: self._find(group, target) for target in targets}
        latest = {place[0]: name for name, place in found.items()}  # of two, the first one's process is gone
        for target in targets:
            address, check_port = found[target.name]
            if latest[address] != target.name or holders[group.arn, address] - {target.name}:
                address = None
            if target.address is None and address is not None:
                target.failing_since = None
            target.address, target.check_port = address, check_port
        return [target for target in targets if target.address is not None]

    def _find(self, group: Group, target: Target) -> tuple[tuple[str, int] | None, int | None]:
        """A target's address on loopback and, if it is another, its port for health checks there."""
        address = self._resolve(target.ip, target.port)
        if address is None or group.check_port is None:
            return address, None
        check = self._resolve(target.ip, group.check_port)
        return (address, check[1]) if check else (None, None)

    # Reading AWS's records

    def _refresh(self) -> None:
        """Read load balancers, listeners and target groups again if somebody wrote any since."""
        with self._reading:
            seen = (self._changes("elbv2"), frozenset(self._regions))
            if seen == self._seen:
                return
            groups: dict[str, Group] = {}
            listeners: list[Listener] = []
            try:
                for region in sorted(seen[1]):
                    elbv2 = self._aws("elbv2", region)
                    listeners += self._read_listeners(elbv2, region)
                    groups |= self._read_groups(elbv2, {listener.action for listener in listeners})
            except ClientError as error:
                if not error.response["Error"]["Code"].endswith("NotFound"):
                    raise
                return  # deleted while we read: the next step reads again
            with self._lock:
                self._groups, self._listeners = groups, listeners
                self._targets = {arn: kept for arn, kept in self._targets.items() if arn in groups}
                self._seen = seen

    def _read_listeners(self, elbv2: Any, region: str) -> list[Listener]:
        found, keys = [], set()
        for balancer in elbv2.describe_load_balancers()["LoadBalancers"]:
            if balancer["Type"] != "application":
                continue
            arn, name = balancer["LoadBalancerArn"], balancer["LoadBalancerName"]
            attributes = elbv2.describe_load_balancer_attributes(LoadBalancerArn=arn)["Attributes"]
            idle = float(_by_key(attributes).get("idle_timeout.timeout_seconds", 60))
            keys.add(_port_key(region, name))
            for listener in elbv2.describe_listeners(LoadBalancerArn=arn)["Listeners"]:
                key = _port_key(region, name, listener["Port"])
                keys.add(key)
                port, action = self._ports.reserve(key), _action(listener)
                found.append(
                    Listener(listener["ListenerArn"], arn, listener["Port"], port, action, idle_timeout=idle)
                )
        self._ports.keep_only(keys, prefix=f"{region}/")
        return found

    def _read_groups(self, elbv2: Any, used: set[Any]) -> dict[str, Group]:
        groups = {}
        for record in elbv2.describe_target_groups()["TargetGroups"]:
            arn = record["TargetGroupArn"]
            attributes = _by_key(elbv2.describe_target_group_attributes(TargetGroupArn=arn)["Attributes"])
            groups[arn] = self._group(record, attributes, arn in used)
        return groups

    def _group(self, record: dict[str, Any], attributes: dict[str, str], used: bool) -> Group:
        interval = float(record.get("HealthCheckIntervalSeconds", 30))
        check = HealthCheck(
            path=record.get("HealthCheckPath") or "/",
            interval=max(self._clock.real(interval), SHORTEST_INTERVAL),
            timeout=float(record.get("HealthCheckTimeoutSeconds", 5)),
            healthy=int(record.get("HealthyThresholdCount", 5)),
            unhealthy=int(record.get("UnhealthyThresholdCount", 2)),
            codes=record.get("Matcher", {}).get("HttpCode") or "200",
        )
        port = record.get("HealthCheckPort", "traffic-port")
        algorithm = attributes.get("load_balancing.algorithm.type", "round_robin")
        return Group(
            arn=record["TargetGroupArn"],
            port=int(record.get("Port", 80)),
            check=check,
            check_port=None if port == "traffic-port" else int(port),
            interval=interval,
            delay=float(attributes.get("deregistration_delay.timeout_seconds", 300)),
            algorithm=algorithm if algorithm in ALGORITHMS else "round_robin",
            used=used,
        )


def _action(listener: dict[str, Any]) -> str | FixedResponse:
    """A listener's default action: the target group's ARN or the fixed response."""
    action = listener["DefaultActions"][-1]
    if action["Type"] == "fixed-response":
        fixed = action["FixedResponseConfig"]
        return FixedResponse(
            int(fixed["StatusCode"]), fixed.get("MessageBody", ""), fixed.get("ContentType", "text/plain")
        )
    groups = [group["TargetGroupArn"] for group in action.get("ForwardConfig", {}).get("TargetGroups", [])]
    arn = action.get("TargetGroupArn") or (groups[0] if groups else None)
    if action["Type"] == "forward" and arn:
        if len(groups) > 1:
            log.warning("%s forwards to the first of its target groups only", _short(listener["ListenerArn"]))
        return arn
    log.warning("%s: the sandbox has no action %s", _short(listener["ListenerArn"]), action["Type"])
    return FixedResponse(501, f"The sandbox's load balancer has no action {action['Type']}.\n")


def _request(entry: dict[str, Any], aws_now: float, real_now: float, speed: float) -> Request:
    end = float(entry["start"]) + entry["milliseconds"] / 1000
    ip, _, port = (entry["target"] or "").rpartition(":")
    return Request(
        time=aws_now - (real_now - end) * speed,
        load_balancer_arn=entry["load_balancer"],
        target_group_arn=entry["target_group"],
        target=(ip, int(port)) if ip else None,
        elb_status=entry["status"],
        target_status=entry["status"] if entry["details"] == "via_upstream" else None,
        seconds=(entry["microseconds"] or 0) / 1e6,
    )


def _endpoint(target: Target) -> Endpoint:
    assert target.address is not None
    return Endpoint(target.name, target.address, target.check_port, target.draining_until is not None)


def _drained(target: Target, now: float) -> bool:
    return target.draining_until is not None and target.draining_until <= now


def _target_key(given: dict[str, Any], group: Group) -> tuple[str, int]:
    return given["Id"], int(given.get("Port", group.port))


def _port_key(region: str, name: str, port: int = 80) -> str:
    return f"{region}/{name}:{port}"


def _by_key(attributes: list[dict[str, str]]) -> dict[str, str]:
    return {attribute["Key"]: attribute["Value"] for attribute in attributes}


def _short(arn: str) -> str:
    return arn.rsplit(":", 1)[-1]
