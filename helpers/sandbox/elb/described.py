"""Stands in for a load balancer's own view of its configuration: listeners and target groups as ELB's records have them.

Differs: a listener forwards to one target group or gives a fixed response; another action answers 501 and says so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from helpers.sandbox.clock import Clock
from helpers.sandbox.elb.envoy_config import ALGORITHMS, FixedResponse, HealthCheck, Listener
from helpers.sandbox.elb.ports import Ports
from helpers.sandbox.elb.target_health import Group

log = logging.getLogger("sandbox.balancer")

SHORTEST_INTERVAL = 0.02  # real seconds between health checks, however fast AWS time runs


def read_listeners(
    elbv2: Any, region: str, ports: Ports
) -> tuple[dict[str, Mapping[str, Any]], list[Listener]]:
    """A region's application load balancers as boto3 describes them, by ARN, and their listeners with their ports."""
    balancers, found, keys = {}, [], set()
    for balancer in elbv2.describe_load_balancers()["LoadBalancers"]:
        if balancer["Type"] != "application":
            continue
        arn, name = balancer["LoadBalancerArn"], balancer["LoadBalancerName"]
        balancers[arn] = balancer
        attributes = by_key(elbv2.describe_load_balancer_attributes(LoadBalancerArn=arn)["Attributes"])
        idle = float(attributes.get("idle_timeout.timeout_seconds", 60))
        keys.add(port_key(region, name))
        for listener in elbv2.describe_listeners(LoadBalancerArn=arn)["Listeners"]:
            key = port_key(region, name, listener["Port"])
            keys.add(key)
            port, action = ports.reserve(key), _action(listener)
            found.append(
                Listener(listener["ListenerArn"], arn, listener["Port"], port, action, idle_timeout=idle)
            )
    ports.keep_only(keys, prefix=f"{region}/")
    return balancers, found


def read_groups(elbv2: Any, region: str, listeners: list[Listener], clock: Clock) -> dict[str, Group]:
    """A region's target groups, by ARN."""
    used = {
        listener.action: listener.load_balancer_arn
        for listener in listeners
        if isinstance(listener.action, str)
    }
    groups = {}
    for record in elbv2.describe_target_groups()["TargetGroups"]:
        arn = record["TargetGroupArn"]
        attributes = by_key(elbv2.describe_target_group_attributes(TargetGroupArn=arn)["Attributes"])
        groups[arn] = _group(record, attributes, region, used.get(arn), clock)
    return groups


def _group(
    record: Mapping[str, Any],
    attributes: Mapping[str, str],
    region: str,
    load_balancer: str | None,
    clock: Clock,
) -> Group:
    interval = float(record.get("HealthCheckIntervalSeconds", 30))
    check = HealthCheck(
        path=record.get("HealthCheckPath") or "/",
        interval=max(clock.real(interval), SHORTEST_INTERVAL),
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
        used=load_balancer is not None,
        region=region,
        load_balancer=load_balancer,
    )


def _action(listener: Mapping[str, Any]) -> str | FixedResponse:
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
            log.warning("%s forwards to the first of its target groups only", short(listener["ListenerArn"]))
        return arn
    log.warning("%s: the sandbox has no action %s", short(listener["ListenerArn"]), action["Type"])
    return FixedResponse(501, f"The sandbox's load balancer has no action {action['Type']}.\n")


def port_key(region: str, name: str, port: int = 80) -> str:
    return f"{region}/{name}:{port}"


def by_key(attributes: list[dict[str, str]]) -> dict[str, str]:
    return {attribute["Key"]: attribute["Value"] for attribute in attributes}


def short(arn: str) -> str:
    return arn.rsplit(":", 1)[-1]
