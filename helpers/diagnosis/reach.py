"""What security groups, network ACLs and routes let through: the doctor's own, small reading of them.

True, False, or None where it is not certain: a prefix list, a rule for a part of the addresses or ports, or something
that was not read. On AWS, the Reachability Analyzer decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, collapse_addresses
from typing import Any

HTTPS = 443
ANYWHERE = "0.0.0.0/0"
ANSWERS = (
    1024,
    65535,
)  # ports that answers to a load balancer go back to ("Network ACLs", its User Guide; A)


def admits(
    groups: Iterable[dict], port: int, *, sources: Iterable[str] = (), ranges: Iterable[str] = ()
) -> bool | None:
    """Whether these security groups let TCP in on `port` from one of the groups `sources`, or from all of `ranges`."""
    sources, ranges, opened = set(sources), list(ranges), []
    uncertain = False
    for permission in _permissions(groups, "IpPermissions", port):
        pairs = permission.get("UserIdGroupPairs") or []
        if sources & {pair.get("GroupId") for pair in pairs}:
            return True
        opened += _ranges(permission)
        uncertain = uncertain or bool(permission.get("PrefixListIds"))
    if opened and all(_within(each, opened) for each in ranges or [ANYWHERE]):
        return True
    return None if uncertain or (opened and not ranges) else False


def lets_out(groups: Iterable[dict], port: int, target: str = ANYWHERE) -> bool | None:
    """Whether these security groups let TCP out to `port`; `target`: a group's id, or an address range."""
    permissions = _permissions(groups, "IpPermissionsEgress", port)
    opened = [each for permission in permissions for each in _ranges(permission)]
    pairs = {
        pair.get("GroupId") for permission in permissions for pair in permission.get("UserIdGroupPairs") or []
    }
    if target in pairs or _within(ANYWHERE, opened) or ("/" in target and _within(target, opened)):
        return True
    return None if permissions else False  # to some groups, addresses or prefix lists: perhaps the right ones


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
    """Whether these ranges together hold all of `inner`."""
    try:
        held = collapse_addresses(IPv4Network(each, strict=False) for each in outer)
        return any(IPv4Network(inner, strict=False).subnet_of(each) for each in held)
    except ValueError:
        return False


def acl_of(acls: Iterable[dict], subnet_id: str) -> dict | None:
    """The network ACL of a subnet; None when it was not read."""
    return next(
        (a for a in acls if subnet_id in {each.get("SubnetId") for each in a.get("Associations") or []}), None
    )


def passes(acl: dict, ports: tuple[int, int], addresses: str, *, egress: bool) -> bool | None:
    """Whether an ACL lets TCP through for all these ports and addresses: of each, the entry of lowest number decides."""
    partly: set[str] = set()  # what entries for a part of them say
    for entry in sorted(acl.get("Entries") or [], key=lambda entry: entry.get("RuleNumber") or 0):
        if bool(entry.get("Egress")) != egress or str(entry.get("Protocol")) not in ("-1", "6"):
            continue
        span = entry.get("PortRange") or {}
        first, last = span.get("From", 0), span.get("To", 65535)
        if str(entry.get("Protocol")) == "-1":
            first, last = 0, 65535
        try:
            block, wanted = (
                IPv4Network(entry.get("CidrBlock") or "", strict=False),
                IPv4Network(addresses, strict=False),
            )
        except ValueError:
            continue  # IPv6
        if not block.overlaps(wanted) or last < ports[0] or ports[1] < first:
            continue
        partly.add(entry.get("RuleAction") or "")
        if wanted.subnet_of(block) and first <= ports[0] and ports[1] <= last:
            break
    else:
        partly.add("deny")
    return partly == {"allow"} if len(partly) == 1 else None


def route_table(tables: Iterable[dict], subnet_id: str) -> dict | None:
    """The subnet's own route table, else the main one; None when it was not read."""
    tables = list(tables)
    own = [t for t in tables if subnet_id in {a.get("SubnetId") for a in t.get("Associations") or []}]
    main = [t for t in tables if any(a.get("Main") for a in t.get("Associations") or [])]
    return next(iter(own or main), None)


def default_route(tables: Iterable[dict], subnet_id: str) -> str | None:
    """Where a subnet's default route leads: "igw-…", "nat-…"; "" for nowhere, None when its table was not read.

    "?" where that is not certain: another kind of target, or routes to elsewhere, where a way out or endpoints may be.
    """
    table = route_table(tables, subnet_id)
    if table is None:
        return None
    routes = [r for r in table.get("Routes") or [] if r.get("State", "active") == "active" and not _near(r)]
    default = next((r for r in routes if r.get("DestinationCidrBlock") == ANYWHERE), None)
    if default is None:
        return "?" if routes else ""
    target = default.get("NatGatewayId") or default.get("GatewayId") or ""
    if target.startswith("igw-"):
        return target if all(_same(each, target) for each in routes) else "?"
    return target if target.startswith("nat-") else "?"


def _near(route: dict) -> bool:
    """Whether it leads to the VPC itself, or to a gateway endpoint, which is looked at by itself."""
    gateway = route.get("GatewayId") or ""
    return gateway == "local" or (gateway.startswith("vpce-") and bool(route.get("DestinationPrefixListId")))


def _same(route: dict, gateway: str) -> bool:
    return route.get("GatewayId") == gateway and not route.get("DestinationIpv6CidrBlock")
