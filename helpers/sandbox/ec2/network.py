"""Stands in for the VPC between a load balancer and its tasks, and between a task and the AWS services that it needs.

Differs: nothing is filtered. Whoever starts a task or sends it a request asks here first whether the records let the
connection through. What no record tells is taken to be open: a target that is no task of ours, say.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network
from typing import Any

from helpers.sandbox.ec2 import reachability
from helpers.sandbox.ec2.reachability import Described, Party, Vpcs
from helpers.sandbox.endpoint import Aws
from helpers.sandbox.records import Task


class Network:
    """Every region's. `task_at(region, address)`: the task whose network interface has this address, or None.

    Reads EC2's records when `changes("ec2")` has moved and somebody asks: hold no lock around a call.
    """

    def __init__(
        self,
        aws: Aws,
        changes: Callable[[str], int],
        task_at: Callable[[str, str], Task | None] = lambda region, address: None,
    ):
        self._aws, self._changes, self._task_at = aws, changes, task_at
        self._lock = threading.Lock()
        self._known: dict[str, tuple[int, Vpcs]] = {}

    def way_out(
        self, region: str, subnet_id: str, security_groups: Sequence[str], *, public_ip: bool, service: str
    ) -> str | None:
        """None if a task there gets to "ecr.api", "ecr.dkr", "s3" or "logs"; else what is missing, for the log."""
        return reachability.way_out(
            self.vpcs(region), region, subnet_id, security_groups, public_ip=public_ip, service=service
        )

    def reaches(self, region: str, load_balancer: Described, address: str, port: int) -> str | None:
        """None if a load balancer (as boto3 describes it) gets to this address and port; else what is in the way."""
        task = self._task_at(region, address)
        vpcs = self.vpcs(region)
        if task is None or task.subnet_id not in vpcs.subnets:
            return None
        groups = tuple(task.security_groups) or vpcs.default_group(vpcs.subnets[task.subnet_id]["VpcId"])
        party = Party((IPv4Network(address),), groups, (task.subnet_id,))
        return reachability.reaches(vpcs, _balancer(vpcs, load_balancer), party, port)

    def lets_in(self, region: str, load_balancer: Described, port: int) -> str | None:
        """None if clients get to a load balancer's listener on this port; else what is in the way."""
        vpcs = self.vpcs(region)
        facing = load_balancer.get("Scheme") or "internet-facing"
        return reachability.lets_in(
            vpcs, _balancer(vpcs, load_balancer), port, internet_facing=facing == "internet-facing"
        )

    def groups_of(self, region: str, load_balancer: Described) -> list[str]:
        """A load balancer's security groups: those that it was given, else its VPC's default one."""
        return list(load_balancer.get("SecurityGroups") or _groups_of(self.vpcs(region), load_balancer))

    def vpcs(self, region: str) -> Vpcs:
        """The region's networks as recorded now."""
        changes = self._changes("ec2")  # before reading: what is written meanwhile is read the next time
        known = self._known.get(region)
        if known and known[0] == changes:
            return known[1]
        with self._lock:
            known = self._known.get(region)
            if not known or known[0] < changes:
                self._known[region] = known = changes, _read(self._aws("ec2", region))
            return known[1]


def _balancer(vpcs: Vpcs, described: Described) -> Party:
    zones = [zone["SubnetId"] for zone in described.get("AvailabilityZones", [])]
    subnets = tuple(subnet for subnet in zones if subnet in vpcs.subnets)
    addresses = tuple(network for each in subnets for network in vpcs.network(each))
    return Party(addresses, _groups_of(vpcs, described), subnets)


def _groups_of(vpcs: Vpcs, described: Described) -> tuple[str, ...]:
    return tuple(described.get("SecurityGroups") or vpcs.default_group(described.get("VpcId", "")))


def _read(ec2: Any) -> Vpcs:
    groups = ec2.describe_security_groups()["SecurityGroups"]
    endpoints = ec2.describe_vpc_endpoints()["VpcEndpoints"]
    used = {
        each["PrefixListId"]
        for group in groups
        for direction in ("IpPermissions", "IpPermissionsEgress")
        for rule in group.get(direction, [])
        for each in rule.get("PrefixListIds", [])
    }
    names = {}
    if used:
        lists = ec2.describe_managed_prefix_lists()["PrefixLists"]
        names = {each["PrefixListName"]: each["PrefixListId"] for each in lists}
    with_names = {each["VpcId"] for each in endpoints if each["VpcEndpointType"] == "Interface"}
    return Vpcs(
        subnets={each["SubnetId"]: each for each in ec2.describe_subnets()["Subnets"]},
        groups={group["GroupId"]: group for group in groups},
        tables=ec2.describe_route_tables()["RouteTables"],
        acls=ec2.describe_network_acls()["NetworkAcls"],
        internet_gateways=ec2.describe_internet_gateways()["InternetGateways"],
        nat_gateways={each["NatGatewayId"]: each for each in ec2.describe_nat_gateways()["NatGateways"]},
        endpoints=endpoints,
        prefix_lists={each: _entries(ec2, each) for each in used & set(names.values())},
        prefix_list_names=names,
        without_dns=frozenset(vpc for vpc in with_names if not _resolves(ec2, vpc)),
    )


def _entries(ec2: Any, prefix_list: str) -> list[str]:
    return [
        entry["Cidr"] for entry in ec2.get_managed_prefix_list_entries(PrefixListId=prefix_list)["Entries"]
    ]


def _resolves(ec2: Any, vpc_id: str) -> bool:
    """Whether private DNS names work in a VPC: both of its DNS attributes have to be on."""
    return all(
        ec2.describe_vpc_attribute(VpcId=vpc_id, Attribute=name)[name[0].upper() + name[1:]]["Value"]
        for name in ("enableDnsSupport", "enableDnsHostnames")
    )
