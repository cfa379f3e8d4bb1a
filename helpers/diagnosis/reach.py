"""What security groups and routes let through: the doctor's own, small reading of them.

True, False, or None where it is not certain: a prefix list, or something that was not read. Network ACLs are not
read; on AWS, the Reachability Analyzer decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any

HTTPS = 443
ANYWHERE = "0.0.0.0/0"


def admits(
    groups: Iterable[dict], port: int, *, sources: Iterable[str] = (), ranges: Iterable[str] = ()
) -> bool | None:
    """Whether these security groups let TCP in on `port` from one of the groups `sources`, or from all of `ranges`."""
    sources, ranges = set(sources), list(ranges)
    uncertain = False
    for permission in _permissions(groups, "IpPermissions", port):
        pairs = permission.get("UserIdGroupPairs") or []
        if sources & {pair.get("GroupId") for pair in pairs}:
            return True
        if ranges and all(_within(each, _ranges(permission)) for each in ranges):
            return True
        uncertain = uncertain or bool(permission.get("PrefixListIds"))
    return None if uncertain else False


def lets_out(groups: Iterable[dict], port: int, target: str = ANYWHERE) -> bool | None:
    """Whether these security groups let TCP out to `port`; `target`: a group's id, or an address range."""
    uncertain = False
    for permission in _permissions(groups, "IpPermissionsEgress", port):
        pairs = {pair.get("GroupId") for pair in permission.get("UserIdGroupPairs") or []}
        ranges = _ranges(permission)
        if target in pairs or ANYWHERE in ranges or ("/" in target and _within(target, ranges)):
            return True
        uncertain = True  # to some groups, addresses or prefix lists: perhaps the right ones
    return None if uncertain else False


def _permissions(groups: Iterable[dict], side: str, port: int) -> list[dict[str, Any]]:
    return [
        permission
        for group in groups
        for permission in group.get(side) or []
        if permission.get("IpProtocol") == "-1"
        or (
            permission.get("IpProtocol") in ("tcp", "6")
            and (permission.get("FromPort") or 0) <= port <= (permission.get("ToPort") or 0)
        )
    ]


def _ranges(permission: dict) -> list[str]:
    return [entry["CidrIp"] for entry in permission.get("IpRanges") or [] if entry.get("CidrIp")]


def _within(inner: str, outer: Iterable[str]) -> bool:
    try:
        return any(
            ip_network(inner, strict=False).subnet_of(ip_network(each, strict=False)) for each in outer
        )
    except (ValueError, TypeError):
        return False


def default_route(tables: Iterable[dict], subnet_id: str) -> str | None:
    """Where a subnet's default route leads: "igw-…", "nat-…", …; "" for nowhere, None when its table was not read."""
    tables = list(tables)
    own = [t for t in tables if subnet_id in {a.get("SubnetId") for a in t.get("Associations") or []}]
    main = [t for t in tables if any(a.get("Main") for a in t.get("Associations") or [])]
    chosen = own or main
    if not chosen:
        return None
    for route in chosen[0].get("Routes") or []:
        if route.get("DestinationCidrBlock") == ANYWHERE and route.get("State", "active") == "active":
            ways = ("NatGatewayId", "GatewayId", "TransitGatewayId", "NetworkInterfaceId", "InstanceId")
            return next((route[way] for way in ways if route.get(way)), "")
    return ""
