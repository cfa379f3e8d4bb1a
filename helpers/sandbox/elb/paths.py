"""Stands in for where a load balancer's packets get through, and its clients' to it.

Differs: it is the VPC's records that are asked (`ec2.network`), when one of them has changed. Of a target group with a
health-check port of its own, both paths count: the one for its health, the other for its requests. A rule that is
taken away acts on new connections, as on AWS; but connections that idle between load balancer and target are not
used again, and those that clients have open to a listener end within five real seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from helpers.sandbox.elb.described import port_key, short
from helpers.sandbox.elb.envoy_config import Listener
from helpers.sandbox.elb.target_health import Group, Target

log = logging.getLogger("sandbox.balancer")

Described = Mapping[str, Any]  # a load balancer as boto3 describes it


class Network(Protocol):
    """`ec2.network.Network`. The answers are None or what is in the way. It is asked with no lock held."""

    def reaches(self, region: str, load_balancer: Described, address: str, port: int) -> str | None: ...

    def lets_in(self, region: str, load_balancer: Described, port: int) -> str | None: ...

    def groups_of(self, region: str, load_balancer: Described) -> list[str]: ...


def closed_paths(
    network: Network, group: Group, balancer: Described, target: Target
) -> tuple[str | None, str | None]:
    """What keeps requests from a target, and what its health checks."""
    closed = checks_closed = network.reaches(group.region, balancer, target.ip, target.port)
    if not group.checks_traffic_port(target.port):
        checks_closed = network.reaches(group.region, balancer, target.ip, group.check_port or 0)
    if (closed, checks_closed) != (target.closed, target.checks_closed):
        why = closed or checks_closed or "the load balancer reaches it again"
        log.info("%s in %s: %s", target.name, short(group.arn), why)
    return closed, checks_closed


def shut_listeners(
    network: Network,
    listeners: Iterable[Listener],
    balancers: Mapping[str, Described],
    before: Mapping[str, str],
) -> dict[str, str]:
    """The listeners that no client gets to, with the names of their ports."""
    shut = {}
    for listener in listeners:
        arn = listener.load_balancer_arn
        region, balancer = arn.split(":")[3], balancers[arn]
        why = network.lets_in(region, balancer, listener.port)
        if why is not None:
            shut[listener.arn] = port_key(region, balancer["LoadBalancerName"], listener.port)
            if listener.arn not in before:
                log.info("%s: clients get no answer: %s", short(arn), why)
    return shut
