"""Stands in for Application Load Balancers: their ports, their target groups' health, the requests they served.

Differs: a load balancer is a port on 127.0.0.1 in front of one Envoy process (`envoy.py`), and DNSName says so. A
target is registered by its task's network interface and container port; only this module knows where that really
is. What a security group keeps out meets real silence (`dead_ends.py`) from the next new connection on, and is
unhealthy after as much AWS time as it takes at AWS. Health-check intervals and deregistration delays are AWS time;
whatever bounds a request is real time. Listeners forward to one target group or give a fixed response; rules, HTTPS
and other types of load balancer are not made.
"""

from __future__ import annotations

import logging
import subprocess
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from helpers.sandbox.clock import Clock
from helpers.sandbox.elb.access_log import Request, request
from helpers.sandbox.elb.dead_ends import DeadEnds
from helpers.sandbox.elb.described import port_key, read_groups, read_listeners, short
from helpers.sandbox.elb.envoy import Envoy, Host, spawn_detached
from helpers.sandbox.elb.envoy_config import Cluster, Endpoint, Listener, configuration
from helpers.sandbox.elb.paths import Network, closed_paths, shut_listeners
from helpers.sandbox.elb.ports import Ports
from helpers.sandbox.elb.target_health import (
    DRAINING,
    HEALTHY,
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
        network: Network | None = None,
    ):
        self._clock, self._aws, self._changes, self._resolve = clock, aws, changes, resolve
        self._envoy = Envoy(state / "envoy", spawn or spawn_detached)
        self._ports, self._dead_ends, self._network = Ports(preferred_ports or {}), DeadEnds(), network
        self._regions: set[str] = set()
        self._seen: Any = None  # what the records were read at
        self._reading = threading.Lock()  # never taken by a holder of _lock: reading calls our own operations
        self._lock = threading.RLock()
        self._groups: dict[str, Group] = {}
        self._listeners: list[Listener] = []
        self._balancers: dict[str, Mapping[str, Any]] = {}  # as boto3 describes them, by ARN
        self._shut: dict[str, str] = {}  # listeners that no client gets to: their ports' names
        self._shut_at: Any = None
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
        self._dead_ends.keep_only(set())

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
                port = self._ports.reserve(port_key(call.region, record["LoadBalancerName"]))
                record["DNSName"] = f"127.0.0.1:{port}"
                record["State"] = {"Code": "active"}
                if self._network is not None:
                    record["SecurityGroups"] = self._network.groups_of(call.region, record)
        return answer

    def register_targets(self, call: Call) -> dict[str, Any]:
        group = self._group_of(call)
        health = REGISTERING if group.used else NOT_IN_USE
        new = {}
        for given in call.params["Targets"]:
            key = _target_key(given, group)
            new[key] = Target(*key, given.get("AvailabilityZone"), health=health)
            self._survey(group, new[key], self._records())  # before Envoy first checks it
        with self._lock:
            targets = self._targets.setdefault(group.arn, {})
            for key, target in new.items():
                if key not in targets or targets[key].draining_until is not None:
                    targets[key] = target
                    log.info("%s:%d registered in %s", *key, short(group.arn))
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
                log.info("%s draining in %s for %g s", target.name, short(group.arn), group.delay)
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
        return [request(entry, self._clock.at) for entry in self._envoy.access_log()]

    # The loop

    def keep_running(self) -> None:
        """What is left of `step` while AWS time stands still."""
        self._envoy.keep_running()

    def step(self) -> None:
        self._envoy.keep_running()
        self._refresh()
        self._survey_all()
        hosts = self._envoy.hosts() if self._placed or self._hosts else {}
        with self._lock:
            if hosts is not None:  # else Envoy is just starting: what was known stays
                self._hosts = hosts
            now, before = self._clock.time(), sum(map(len, self._targets.values()))
            for arn, targets in self._targets.items():
                for key in [key for key, target in targets.items() if self._left(arn, target, now)]:
                    log.info("%s:%d deregistered from %s", *key, short(arn))
                    del targets[key]
                for target in targets.values():
                    self._judge(self._groups[arn], target, now)
            self._place()
            if before != sum(map(len, self._targets.values())):
                self._release()

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
            log.info("%s in %s: %s, was %s", target.name, short(group.arn), target.health, before)

    def _place(self) -> None:
        """Tell Envoy where the targets are now. Call with the lock held."""
        clusters, placed = [], {}
        for arn, group in self._groups.items():
            if group.used:
                reachable = self._locate(group, list(self._targets.get(arn, {}).values()))
                placed.update({(arn, target.address): target.name for target in reachable})
                clusters.append(Cluster(arn, group.check, group.algorithm, tuple(map(_endpoint, reachable))))
        self._placed = placed
        listeners = [listener for listener in self._listeners if listener.arn not in self._shut]
        if (clusters, listeners) != self._told:
            self._ports.silence(set(self._shut.values()))
            self._envoy.write(configuration(self._envoy.directory, clusters, listeners))
            self._told = (clusters, listeners)

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
        address, check_port = self._resolve(target.ip, target.port), None
        if address is None:
            return None, None
        name = f"{group.arn} {target.name}"
        if not group.checks_traffic_port(target.port):
            # A task's only port that is known is its container port: on all others nothing listens.
            check = self._resolve(target.ip, group.check_port or 0) or self._dead_ends.refusing(name)
            check_port = check[1]
        return (self._dead_ends.silent(name) if target.closed else address), check_port

    # What the network lets through

    def _records(self) -> Any:
        """Moves when anything may have that paths depend on."""
        return self._changes("ec2"), self._seen

    def _survey_all(self) -> None:
        """Ask the network again about all paths if a record has changed. Call without a lock: it may read records."""
        if self._network is None:
            return
        records = self._records()
        for arn, targets in self._targets.copy().items():
            if (group := self._groups.get(arn)) is None:  # asked once: another thread may swap the groups
                continue
            for target in targets.copy().values():
                if target.surveyed != records:
                    self._survey(group, target, records)
        if self._shut_at != records:
            with self._lock:
                listeners, balancers = self._listeners, self._balancers
            shut = shut_listeners(self._network, listeners, balancers, self._shut)
            with self._lock:
                self._shut, self._shut_at = shut, records

    def _survey(self, group: Group, target: Target, records: Any) -> None:
        """Ask whether the load balancer gets to a target. What drains keeps the connections that it has."""
        balancer = self._balancers.get(group.load_balancer or "")
        if self._network is None or balancer is None or target.draining_until is not None:
            return
        closed, checks_closed = closed_paths(self._network, group, balancer, target)
        with self._lock:
            if (checks_closed is None) != (target.checks_closed is None):
                target.failing_since = None
                target.reopened_at = self._clock.time() if checks_closed is None else None
            target.closed, target.checks_closed, target.surveyed = closed, checks_closed, records

    def _release(self) -> None:
        names = {f"{arn} {target.name}" for arn, held in self._targets.items() for target in held.values()}
        self._dead_ends.keep_only(names)

    # Reading AWS's records

    def _refresh(self) -> None:
        """Read load balancers, listeners and target groups again if somebody wrote any since."""
        with self._reading:
            seen = (self._changes("elbv2"), frozenset(self._regions))
            if seen == self._seen:
                return
            groups: dict[str, Group] = {}
            listeners: list[Listener] = []
            balancers: dict[str, Mapping[str, Any]] = {}
            try:
                for region in sorted(seen[1]):
                    elbv2 = self._aws("elbv2", region)
                    its_balancers, its_listeners = read_listeners(elbv2, region, self._ports)
                    balancers |= its_balancers
                    listeners += its_listeners
                    groups |= read_groups(elbv2, region, its_listeners, self._clock)
            except ClientError as error:
                if not error.response["Error"]["Code"].endswith("NotFound"):
                    raise
                return  # deleted while we read: the next step reads again
            with self._lock:
                self._groups, self._listeners, self._balancers = groups, listeners, balancers
                self._targets = {arn: kept for arn, kept in self._targets.items() if arn in groups}
                self._release()
                self._seen = seen


def _endpoint(target: Target) -> Endpoint:
    assert target.address is not None
    # Of a target whose checks are not answered we know the health without Envoy's waiting for it in real time.
    known = None if target.checks_closed is None else target.health is HEALTHY
    return Endpoint(target.name, target.address, target.check_port, target.draining_until is not None, known)


def _drained(target: Target, now: float) -> bool:
    return target.draining_until is not None and target.draining_until <= now


def _target_key(given: dict[str, Any], group: Group) -> tuple[str, int]:
    return given["Id"], int(given.get("Port", group.port))
