"""Stands in for how a VPC lets a TCP connection through: security groups, network ACLs, routes, gateways, endpoints.

Differs: pure functions over what EC2's Describe calls answered; no packet flows. IPv4 and TCP only. A load balancer's
address may be any of its subnets', so a rule has to cover all of them. Behind a transit gateway, a peering, a VPN
or an instance the sandbox does not look: a route there counts as a way out. Endpoint policies and the network ACL
of a NAT gateway's subnet are not evaluated, and a changed rule acts on new connections only, as on AWS.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, collapse_addresses
from itertools import product
from typing import Any

Described = Mapping[str, Any]  # one thing as boto3 describes it

TCP = ("tcp", "6", "-1")  # -1: all protocols, and then all ports
HTTPS = 443  # what ECR, S3 and CloudWatch Logs answer on
# Stands for the public addresses of AWS's services: one range of https://ip-ranges.amazonaws.com/ip-ranges.json (C).
PUBLIC = (IPv4Network("52.94.0.0/22"),)
PRIVATE = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))  # RFC 1918
# Ports that answers go back to ("Ephemeral ports", VPC User Guide; "Network ACLs", Application Load Balancers; A).
EPHEMERAL_OF_BALANCERS, EPHEMERAL_OF_TASKS = (1024, 65535), (32768, 61000)


@dataclass(frozen=True)
class Vpcs:
    """A region's networks: what the Describe calls answered, by id."""

    subnets: Mapping[str, Described] = field(default_factory=dict)
    groups: Mapping[str, Described] = field(default_factory=dict)
    tables: Sequence[Described] = ()
    acls: Sequence[Described] = ()
    internet_gateways: Sequence[Described] = ()
    nat_gateways: Mapping[str, Described] = field(default_factory=dict)
    endpoints: Sequence[Described] = ()
    prefix_lists: Mapping[str, Sequence[str]] = field(default_factory=dict)  # CIDR blocks
    prefix_list_names: Mapping[str, str] = field(default_factory=dict)  # id by name
    without_dns: frozenset[str] = frozenset()  # VPCs in which an endpoint's private DNS names do not work

    def network(self, subnet_id: str) -> tuple[IPv4Network, ...]:
        subnet = self.subnets.get(subnet_id)
        return (IPv4Network(subnet["CidrBlock"]),) if subnet else ()

    def default_group(self, vpc_id: str) -> tuple[str, ...]:
        """The group that applies where none is given."""
        found = (g for g in self.groups.values() if g.get("VpcId") == vpc_id and g["GroupName"] == "default")
        return tuple(group["GroupId"] for group in found)

    def table(self, subnet_id: str) -> Described | None:
        """The subnet's route table: its own, else its VPC's main one."""
        vpc = self.subnets[subnet_id]["VpcId"]
        main = None
        for table in self.tables:
            for association in table.get("Associations", []):
                if association.get("SubnetId") == subnet_id:
                    return table
                if association.get("Main") and table["VpcId"] == vpc:
                    main = table
        return main

    def acl(self, subnet_id: str) -> Described | None:
        for acl in self.acls:
            if any(each["SubnetId"] == subnet_id for each in acl.get("Associations", [])):
                return acl
        return None


@dataclass(frozen=True)
class Party:
    """One end of a connection: the addresses at which it may be, its security groups, its subnets."""

    addresses: tuple[IPv4Network, ...]
    groups: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join(self.groups or map(str, self.addresses))


# Security groups


def permits(
    permissions: Iterable[Described], port: int, other: Party, prefix_lists: Mapping[str, Sequence[str]]
) -> bool:
    """Whether rules of one direction, of all groups together, let every address of the other end through."""
    blocks: list[IPv4Network] = []
    for rule in permissions:
        if not _of_port(rule, port):
            continue
        if any(pair.get("GroupId") in other.groups for pair in rule.get("UserIdGroupPairs", [])):
            return True
        blocks += _blocks(rule, prefix_lists)
    return bool(other.addresses) and all(covered(each, blocks) for each in other.addresses)


def covered(addresses: IPv4Network, blocks: Iterable[IPv4Network]) -> bool:
    """Whether these blocks together hold all of the addresses."""
    return any(addresses.subnet_of(block) for block in collapse_addresses(blocks))


def _of_port(rule: Described, port: int) -> bool:
    protocol = str(rule.get("IpProtocol"))
    if protocol not in TCP:
        return False
    first, last = rule.get("FromPort"), rule.get("ToPort")
    if protocol == "-1" or first is None or first == -1:
        return True
    return first <= port <= (first if last is None else last)


def _blocks(rule: Described, prefix_lists: Mapping[str, Sequence[str]]) -> list[IPv4Network]:
    given = [each["CidrIp"] for each in rule.get("IpRanges", [])]
    for each in rule.get("PrefixListIds", []):
        given += prefix_lists.get(each["PrefixListId"], ())
    return [IPv4Network(block, strict=False) for block in given if ":" not in block]


def _permissions(vpcs: Vpcs, groups: Iterable[str], direction: str) -> list[Described]:
    return [rule for group in groups for rule in vpcs.groups.get(group, {}).get(direction, [])]


def connects(
    vpcs: Vpcs, client: Party, server: Party, port: int, client_ports: tuple[int, int]
) -> str | None:
    """None if a connection gets through; else what keeps it out."""
    out = _permissions(vpcs, client.groups, "IpPermissionsEgress")
    if client.groups and not permits(out, port, server, vpcs.prefix_lists):
        return f"no egress rule of {client} lets TCP {port} out to {server}"
    into = _permissions(vpcs, server.groups, "IpPermissions")
    if server.groups and not permits(into, port, client, vpcs.prefix_lists):
        return f"no ingress rule of {server} lets TCP {port} in from {client}"
    return _acls_between(vpcs, client, server, port, client_ports)


# Network ACLs


def _acls_between(vpcs: Vpcs, client: Party, server: Party, port: int, back: tuple[int, int]) -> str | None:
    """What a network ACL drops of a connection and its answers; within one subnet none is asked."""
    there = [(subnet, vpcs.network(subnet)) for subnet in server.subnets] or [("", server.addresses)]
    here = [(subnet, vpcs.network(subnet)) for subnet in client.subnets]
    for (one, one_addresses), (other, other_addresses) in product(here, there):
        if one == other:
            continue
        if len(server.addresses) == 1 and other:
            other_addresses = server.addresses  # one task, not all of its subnet
        for subnet, egress, ports, addresses in (
            (one, True, (port, port), other_addresses),
            (other, False, (port, port), one_addresses),
            (other, True, back, one_addresses),
            (one, False, back, other_addresses),
        ):
            acl = vpcs.acl(subnet) if subnet else None
            if acl is not None and not all(passes(acl["Entries"], egress, ports, a) for a in addresses):
                way = "out of" if egress else "into"
                span = f"{ports[0]}" if ports[0] == ports[1] else f"{ports[0]}-{ports[1]}"
                return f"network ACL {acl['NetworkAclId']} does not let TCP {span} {way} {subnet}"
    return None


def passes(
    entries: Sequence[Described], egress: bool, ports: tuple[int, int], addresses: IPv4Network
) -> bool:
    """Whether a network ACL lets all these ports through for all these addresses: of each, the first entry decides."""
    rules = [
        (IPv4Network(entry["CidrBlock"], strict=False), *_acl_ports(entry), entry["RuleAction"] == "allow")
        for entry in sorted(entries, key=lambda entry: entry["RuleNumber"])
        if entry["Egress"] == egress and "CidrBlock" in entry and str(entry["Protocol"]) in TCP
    ]
    first, last = int(addresses[0]), int(addresses[-1])
    # Nothing changes between two of these, so that they stand for all.
    starts = {first} | {
        int(end) + past for block, *_ in rules for end, past in ((block[0], 0), (block[-1], 1))
    }
    edges = {ports[0]} | {low for _, low, _, _ in rules} | {high + 1 for _, _, high, _ in rules}
    return all(
        next(
            (allow for b, low, high, allow in rules if int(b[0]) <= at <= int(b[-1]) and low <= port <= high),
            False,
        )
        for at in starts
        if first <= at <= last
        for port in edges
        if ports[0] <= port <= ports[1]
    )


def _acl_ports(entry: Described) -> tuple[int, int]:
    span = entry.get("PortRange")
    return (int(span["From"]), int(span["To"])) if span and str(entry["Protocol"]) != "-1" else (0, 65535)


# Routes


def route(table: Described | None, destination: IPv4Network) -> Described | None:
    """The route that a packet takes: of those that hold the destination, the one with the longest prefix."""
    best, length = None, -1
    for each in table.get("Routes", []) if table else ():
        block = each.get("DestinationCidrBlock")
        if (
            block
            and destination.subnet_of(found := IPv4Network(block, strict=False))
            and found.prefixlen > length
        ):
            best, length = each, found.prefixlen
    return best


def is_public(vpcs: Vpcs, subnet_id: str, destination: IPv4Network = PUBLIC[0]) -> bool:
    """Whether a subnet's packets for the internet go to an internet gateway that is attached to its VPC."""
    taken = route(vpcs.table(subnet_id), destination)
    gateway = (taken or {}).get("GatewayId", "")
    return gateway.startswith("igw-") and _attached(vpcs, gateway, vpcs.subnets[subnet_id]["VpcId"])


def _attached(vpcs: Vpcs, gateway: str, vpc_id: str) -> bool:
    return any(
        attachment["VpcId"] == vpc_id
        for each in vpcs.internet_gateways
        if each["InternetGatewayId"] == gateway
        for attachment in each.get("Attachments", [])
    )


# What the sandbox asks


def reaches(vpcs: Vpcs, balancer: Party, task: Party, port: int) -> str | None:
    """None if a load balancer's connections get to a task's port; else what keeps them out."""
    return connects(vpcs, balancer, task, port, EPHEMERAL_OF_BALANCERS)


def lets_in(vpcs: Vpcs, balancer: Party, port: int, *, internet_facing: bool) -> str | None:
    """None if clients get to a load balancer's port. A client may have any address that the rules let in.

    An internal load balancer's clients may be known by their security groups, too.
    """
    for rule in _permissions(vpcs, balancer.groups, "IpPermissions"):
        if _of_port(rule, port):
            blocks = _blocks(rule, vpcs.prefix_lists)
            if any(not (internet_facing and _is_private(block)) for block in blocks):
                break
            if rule.get("UserIdGroupPairs") and not internet_facing:
                break
    else:
        return f"no ingress rule of {balancer} lets clients in on TCP {port}"
    if internet_facing and balancer.subnets and not any(is_public(vpcs, each) for each in balancer.subnets):
        return f"none of its subnets ({', '.join(balancer.subnets)}) has a route to an internet gateway"
    return None


def _is_private(block: IPv4Network) -> bool:
    return any(block.subnet_of(each) for each in PRIVATE)


def way_out(
    vpcs: Vpcs, region: str, subnet_id: str, groups: Sequence[str], *, public_ip: bool, service: str
) -> str | None:
    """None if a task gets to an AWS service ("ecr.api", "ecr.dkr", "s3", "logs") on port 443; else what is missing.

    An interface endpoint with private DNS is taken even where the internet would be in reach, since the service's
    name resolves to it ("Access an AWS service using an interface VPC endpoint", AWS PrivateLink guide; A).
    """
    subnet = vpcs.subnets.get(subnet_id)
    if subnet is None:
        return f"subnet {subnet_id} does not exist"
    vpc = subnet["VpcId"]
    task = Party(vpcs.network(subnet_id), tuple(groups) or vpcs.default_group(vpc), (subnet_id,))
    table = vpcs.table(subnet_id)
    name = f"com.amazonaws.{region}.{service}"
    offered = [each for each in vpcs.endpoints if each["VpcId"] == vpc and each["ServiceName"] == name]
    offered = [each for each in offered if str(each.get("State", "available")).lower() == "available"]
    listed = vpcs.prefix_lists.get(vpcs.prefix_list_names.get(name, ""), ())
    addresses = tuple(IPv4Network(block) for block in listed if ":" not in block) or PUBLIC
    there = Party(addresses)
    for endpoint in offered:
        routed = table is not None and table["RouteTableId"] in endpoint.get("RouteTableIds", [])
        if endpoint["VpcEndpointType"] == "Gateway" and routed:
            return connects(vpcs, task, there, HTTPS, EPHEMERAL_OF_TASKS)
    for endpoint in offered:
        private_dns = endpoint.get("PrivateDnsEnabled") and vpc not in vpcs.without_dns
        if endpoint["VpcEndpointType"] == "Interface" and private_dns:
            return _to_endpoint(vpcs, task, endpoint)
    blocked = connects(vpcs, task, there, HTTPS, EPHEMERAL_OF_TASKS)
    if blocked is not None:
        return blocked
    return _to_internet(vpcs, subnet_id, table, addresses[0], name, public_ip)


def _to_endpoint(vpcs: Vpcs, task: Party, endpoint: Described) -> str | None:
    subnets = tuple(endpoint.get("SubnetIds", []))
    if not subnets:
        return f"endpoint {endpoint['VpcEndpointId']} is in no subnet"
    groups = tuple(group["GroupId"] for group in endpoint.get("Groups", []))
    at = Party(
        tuple(network for subnet in subnets for network in vpcs.network(subnet)),
        groups or vpcs.default_group(endpoint["VpcId"]),
        subnets,
    )
    blocked = connects(vpcs, task, at, HTTPS, EPHEMERAL_OF_TASKS)
    return f"endpoint {endpoint['VpcEndpointId']}: {blocked}" if blocked else None


def _to_internet(
    vpcs: Vpcs, subnet_id: str, table: Described | None, address: IPv4Network, name: str, public_ip: bool
) -> str | None:
    taken = route(table, address)
    if taken is None:
        return f"subnet {subnet_id} has no route to the internet, and its VPC no endpoint for {name}"
    gateway, nat = taken.get("GatewayId") or "", taken.get("NatGatewayId") or ""
    if taken.get("State") == "blackhole":
        return f"the route of subnet {subnet_id} to the internet is a blackhole"
    if gateway.startswith("igw-"):
        if not is_public(vpcs, subnet_id, address):
            return f"internet gateway {gateway}, to which subnet {subnet_id} routes, is not attached"
        if not public_ip:
            return f"subnet {subnet_id} routes to {gateway}, and the task has no public IP address"
    elif nat:
        found = vpcs.nat_gateways.get(nat, {})
        if found.get("State") != "available":
            return f"NAT gateway {nat}, to which subnet {subnet_id} routes, is {found.get('State', 'gone')}"
        if found.get("ConnectivityType", "public") != "public":
            return f"NAT gateway {nat}, to which subnet {subnet_id} routes, is a private one"
        if found["SubnetId"] in vpcs.subnets and not is_public(vpcs, found["SubnetId"], address):
            return f"NAT gateway {nat} is in {found['SubnetId']}, which has no route to an internet gateway"
    return None
