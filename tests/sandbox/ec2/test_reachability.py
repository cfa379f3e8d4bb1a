"""Rules, routes and endpoints as the VPC User Guide has them: tables from AWS's documentation, and properties."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.sandbox.ec2.reachability import (
    Party,
    Vpcs,
    covered,
    lets_in,
    passes,
    permits,
    reaches,
    route,
    way_out,
)

REGION = "us-east-1"
VPC = "vpc-1"
ANYWHERE = "0.0.0.0/0"
SUBNETS = {"subnet-a": "10.0.0.0/24", "subnet-b": "10.0.1.0/24", "subnet-p": "10.0.9.0/24"}
S3_LIST = {"pl-s3": ["52.216.0.0/15", "3.5.0.0/19"]}
S3_NAME = {f"com.amazonaws.{REGION}.s3": "pl-s3"}


def rule(
    port: int | tuple[int, int] | None = None,
    cidr: str | None = None,
    group: str | None = None,
    prefix_list: str | None = None,
    protocol: str = "tcp",
) -> dict:
    """A rule as EC2 describes it; without a port, all traffic."""
    span = {}
    if port is not None:
        first, last = port if isinstance(port, tuple) else (port, port)
        span = {"FromPort": first, "ToPort": last}
    return {
        "IpProtocol": protocol if span else "-1",
        **span,
        "IpRanges": [{"CidrIp": cidr}] if cidr else [],
        "UserIdGroupPairs": [{"GroupId": group}] if group else [],
        "PrefixListIds": [{"PrefixListId": prefix_list}] if prefix_list else [],
    }


OUT = rule(cidr=ANYWHERE)


def group(name: str, *ingress: dict, egress: tuple[dict, ...] = (OUT,), named: str = "") -> dict:
    return {
        "GroupId": name,
        "GroupName": named or name,
        "VpcId": VPC,
        "IpPermissions": list(ingress),
        "IpPermissionsEgress": list(egress),
    }


def table(name: str, *routes: dict, subnets: tuple[str, ...] = (), main: bool = False) -> dict:
    local = {"DestinationCidrBlock": "10.0.0.0/16", "GatewayId": "local", "State": "active"}
    associations = [{"SubnetId": subnet, "Main": False} for subnet in subnets]
    return {
        "RouteTableId": name,
        "VpcId": VPC,
        "Routes": [local, *routes],
        "Associations": associations + ([{"Main": True}] if main else []),
    }


def to(gateway: str, cidr: str = ANYWHERE, state: str = "active") -> dict:
    key = "NatGatewayId" if gateway.startswith("nat-") else "GatewayId"
    return {"DestinationCidrBlock": cidr, key: gateway, "State": state}


def vpcs(*groups: dict, **others) -> Vpcs:
    """Public subnets a and b by the main table; subnet-p has a table of its own, `private`."""
    private = others.pop("private", table("rtb-p", subnets=("subnet-p",)))
    main = others.pop("main", table("rtb-m", to("igw-1"), main=True))
    attached = [{"InternetGatewayId": "igw-1", "Attachments": [{"VpcId": VPC, "State": "available"}]}]
    return Vpcs(
        subnets={n: {"SubnetId": n, "VpcId": VPC, "CidrBlock": block} for n, block in SUBNETS.items()},
        groups={each["GroupId"]: each for each in groups},
        tables=[main, private],
        internet_gateways=others.pop("internet_gateways", attached),
        **others,
    )


BALANCER = Party(
    (IPv4Network("10.0.0.0/24"), IPv4Network("10.0.1.0/24")), ("sg-lb",), ("subnet-a", "subnet-b")
)
TASK = Party((IPv4Network("10.0.9.7/32"),), ("sg-task",), ("subnet-p",))


# From a load balancer to a task


@pytest.mark.parametrize(
    ("ingress", "open_"),
    [
        ((rule(3000, group="sg-lb"),), True),
        ((rule(3000, cidr=ANYWHERE),), True),
        ((rule((0, 65535), group="sg-lb"),), True),
        ((rule((2000, 3000), group="sg-lb"),), True),
        ((rule(group="sg-lb"),), True),  # all traffic
        ((rule(3000, group="sg-lb", protocol="6"),), True),
        ((rule(3000, cidr="10.0.0.0/23"),), True),
        ((rule(3000, cidr="10.0.0.0/24"), rule((1, 9999), cidr="10.0.1.0/24")), True),
        ((rule(3000, prefix_list="pl-own"),), True),
        ((), False),
        ((rule(80, group="sg-lb"),), False),
        ((rule(3000, group="sg-lb", protocol="udp"),), False),
        ((rule(3000, group="sg-task"),), False),
        ((rule(3000, group="sg-gone"),), False),
        ((rule(3000, cidr="10.0.0.0/24"),), False),  # not from the other zone's subnet
        ((rule(3000, prefix_list="pl-s3"),), False),
        ((rule(3000, prefix_list="pl-unknown"),), False),
    ],
)
def test_a_tasks_group_lets_the_load_balancer_in(ingress, open_):
    known = vpcs(
        group("sg-lb"),
        group("sg-task", *ingress),
        prefix_lists={"pl-own": ["10.0.0.0/16", "fd00::/8"], **S3_LIST},
    )
    why = reaches(known, BALANCER, TASK, 3000)
    assert (why is None) is open_
    if not open_:
        assert why == "no ingress rule of sg-task lets TCP 3000 in from sg-lb"


@pytest.mark.parametrize(
    ("egress", "open_"),
    [
        ((OUT,), True),
        ((rule(3000, group="sg-task"),), True),
        ((rule(3000, cidr="10.0.9.0/24"),), True),
        ((), False),
        ((rule(443, cidr=ANYWHERE),), False),
        ((rule(3000, cidr="10.0.8.0/24"),), False),
    ],
)
def test_the_load_balancers_group_lets_it_out(egress, open_):
    known = vpcs(group("sg-lb", egress=egress), group("sg-task", rule(3000, group="sg-lb")))
    why = reaches(known, BALANCER, TASK, 3000)
    assert why == (None if open_ else "no egress rule of sg-lb lets TCP 3000 out to sg-task")


def test_the_rules_of_all_groups_count_together():
    known = vpcs(group("sg-lb"), group("sg-one"), group("sg-two", rule(3000, group="sg-lb")))
    both = Party(TASK.addresses, ("sg-one", "sg-two"), TASK.subnets)
    assert reaches(known, BALANCER, both, 3000) is None


def test_a_tasks_egress_does_not_matter_for_answers():
    """Security groups are stateful (VPC User Guide, "Control traffic … using security groups")."""
    known = vpcs(group("sg-lb"), group("sg-task", rule(3000, group="sg-lb"), egress=()))
    assert reaches(known, BALANCER, TASK, 3000) is None


def acl(*entries: tuple[int, bool, str, tuple[int, int] | None, str], subnet: str = "subnet-p") -> dict:
    return {
        "NetworkAclId": "acl-1",
        "Associations": [{"SubnetId": subnet}],
        "Entries": [
            {
                "RuleNumber": number,
                "Egress": egress,
                "RuleAction": action,
                "CidrBlock": block,
                "Protocol": "6" if span else "-1",
                **({"PortRange": {"From": span[0], "To": span[1]}} if span else {}),
            }
            for number, egress, action, span, block in entries
        ],
    }


IN_ALL, OUT_ALL = (100, False, "allow", None, ANYWHERE), (100, True, "allow", None, ANYWHERE)


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ((IN_ALL, OUT_ALL), None),
        (((100, False, "allow", (3000, 3000), "10.0.0.0/16"), OUT_ALL), None),
        (
            ((100, False, "allow", (3000, 3000), "10.0.0.0/24"), OUT_ALL, (110, False, "allow", None, "10.0.1.0/24")),
            None,
        ),
        ((IN_ALL, (100, True, "allow", (1024, 65535), "10.0.0.0/16")), None),
        ((OUT_ALL,), "TCP 3000 into subnet-p"),
        ((IN_ALL,), "TCP 1024-65535 out of subnet-p"),
        ((IN_ALL, (100, True, "allow", (3000, 3000), ANYWHERE)), "TCP 1024-65535 out of subnet-p"),
        (((90, False, "deny", (3000, 3000), "10.0.1.0/24"), IN_ALL, OUT_ALL), "TCP 3000 into subnet-p"),
        (((110, False, "deny", (3000, 3000), "10.0.1.0/24"), IN_ALL, OUT_ALL), None),  # never gets its turn
    ],
)  # fmt: skip
def test_a_network_acl_is_asked_in_both_directions(entries, why):
    known = vpcs(group("sg-lb"), group("sg-task", rule(3000, group="sg-lb")), acls=[acl(*entries)])
    assert reaches(known, BALANCER, TASK, 3000) == (why and f"network ACL acl-1 does not let {why}")


def test_within_a_subnet_no_network_acl_is_asked():
    known = vpcs(group("sg-lb"), group("sg-task", rule(3000, group="sg-lb")), acls=[acl()])
    here = Party((IPv4Network("10.0.9.0/24"),), ("sg-lb",), ("subnet-p",))
    assert reaches(known, here, TASK, 3000) is None


@pytest.mark.parametrize(
    ("ingress", "facing", "open_"),
    [
        ((rule(80, cidr=ANYWHERE),), True, True),
        ((rule((1, 100), cidr="203.0.113.7/32"),), True, True),  # may be this very client
        ((rule(cidr=ANYWHERE),), True, True),
        ((), True, False),
        ((rule(443, cidr=ANYWHERE),), True, False),
        ((rule(80, cidr="10.0.0.0/8"),), True, False),
        ((rule(80, cidr="10.0.0.0/8"),), False, True),
        ((rule(80, group="sg-clients"),), True, False),
        ((rule(80, group="sg-clients"),), False, True),
    ],
)
def test_clients_get_to_a_listener(ingress, facing, open_):
    why = lets_in(vpcs(group("sg-lb", *ingress)), BALANCER, 80, internet_facing=facing)
    assert why == (None if open_ else "no ingress rule of sg-lb lets clients in on TCP 80")


def test_an_internet_facing_load_balancer_wants_public_subnets():
    known = vpcs(group("sg-lb", rule(80, cidr=ANYWHERE)), main=table("rtb-m", main=True))
    assert "no way" not in (why := lets_in(known, BALANCER, 80, internet_facing=True) or "")
    assert "has a route to an internet gateway" in why
    assert lets_in(known, BALANCER, 80, internet_facing=False) is None


# From a task to ECR, S3 and CloudWatch Logs

NAT = {"nat-1": {"NatGatewayId": "nat-1", "State": "available", "SubnetId": "subnet-a"}}
PRIVATE_NAT = {"nat-1": {**NAT["nat-1"], "ConnectivityType": "private"}}
MISPLACED_NAT = {"nat-1": {**NAT["nat-1"], "SubnetId": "subnet-p"}}
THROUGH_NAT = table("rtb-p", to("nat-1"), subnets=("subnet-p",))
SERVICES = ("ecr.api", "ecr.dkr", "s3", "logs")


def endpoint(service: str, groups: tuple[str, ...] = ("sg-ep",), **changes) -> dict:
    """An interface endpoint in subnet-p; s3's is a gateway endpoint of subnet-p's route table."""
    kind = (
        {"VpcEndpointType": "Gateway", "RouteTableIds": ["rtb-p"]}
        if service == "s3"
        else {
            "VpcEndpointType": "Interface",
            "SubnetIds": ["subnet-p"],
            "Groups": [{"GroupId": each} for each in groups],
            "PrivateDnsEnabled": True,
        }
    )
    name = f"com.amazonaws.{REGION}.{service}"
    return {
        "VpcEndpointId": f"vpce-{service}",
        "VpcId": VPC,
        "ServiceName": name,
        "State": "available",
        **kind,
        **changes,
    }


ENDPOINTS = [endpoint(service) for service in SERVICES]
CLOSED = group("sg-ep")
HTTPS_IN = group("sg-ep", rule(443, cidr="10.0.0.0/16"))
ONLY_VPC = (rule(443, cidr="10.0.0.0/16"),)


# "Amazon ECS task networking options for Fargate"; "Amazon ECR interface VPC endpoints"; "Migrating to Linux platform
# version 1.4.0" (ecr.dkr, ecr.api, S3 gateway); "Access an AWS service using an interface VPC endpoint" (AWS PrivateLink).
@pytest.mark.parametrize(
    ("subnet", "public_ip", "world", "missing"),
    [
        # A public subnet: with a public address, else not.
        ("subnet-a", True, {}, {}),
        ("subnet-a", False, {}, dict.fromkeys(SERVICES, "the task has no public IP address")),
        # … and its gateway has to be there.
        ("subnet-a", True, {"internet_gateways": []}, dict.fromkeys(SERVICES, "is not attached")),
        ("subnet-a", True, {"main": table("m", to("igw-1", state="blackhole"), main=True)},
         dict.fromkeys(SERVICES, "blackhole")),
        # A private subnet: a NAT gateway, which stands in a public one. A public address alone does not help.
        ("subnet-p", False, {"private": THROUGH_NAT, "nat_gateways": NAT}, {}),
        ("subnet-p", True, {"private": THROUGH_NAT, "nat_gateways": NAT}, {}),
        ("subnet-p", True, {}, dict.fromkeys(SERVICES, "has no route to the internet")),
        ("subnet-p", False, {"private": THROUGH_NAT}, dict.fromkeys(SERVICES, "is gone")),
        ("subnet-p", False, {"private": THROUGH_NAT, "nat_gateways": PRIVATE_NAT},
         dict.fromkeys(SERVICES, "is a private one")),
        ("subnet-p", False, {"private": THROUGH_NAT, "nat_gateways": MISPLACED_NAT},
         dict.fromkeys(SERVICES, "has no route to an internet gateway")),
        # … or endpoints: ecr.api, ecr.dkr, s3 and, with awslogs, logs.
        ("subnet-p", False, {"endpoints": ENDPOINTS}, {}),
        ("subnet-p", False, {"endpoints": ENDPOINTS[:3]}, {"logs": "no endpoint for com.amazonaws.us-east-1.logs"}),
        ("subnet-p", False, {"endpoints": ENDPOINTS[1:]}, {"ecr.api": "no endpoint for com.amazonaws.us-east-1.ecr.api"}),
        ("subnet-p", False, {"endpoints": [e for e in ENDPOINTS if e["VpcEndpointType"] != "Gateway"]},
         {"s3": "no endpoint for com.amazonaws.us-east-1.s3"}),
        # The gateway endpoint counts for its route tables only.
        ("subnet-p", False, {"endpoints": [*ENDPOINTS[:2], endpoint("s3", RouteTableIds=["rtb-m"]), ENDPOINTS[3]]},
         {"s3": "has no route"}),
        # An endpoint's groups have to let the tasks in on 443.
        ("subnet-p", False, {"endpoints": ENDPOINTS, "endpoint_group": CLOSED},
         dict.fromkeys(("ecr.api", "ecr.dkr", "logs"), "no ingress rule of sg-ep lets TCP 443 in from sg-task")),
        ("subnet-p", False, {"endpoints": ENDPOINTS, "endpoint_group": group("sg-ep", rule(443, group="sg-task"))}, {}),
        ("subnet-p", False, {"endpoints": ENDPOINTS, "endpoint_group": group("sg-ep", rule(80, cidr=ANYWHERE))},
         dict.fromkeys(("ecr.api", "ecr.dkr", "logs"), "no ingress rule of sg-ep")),
        # … also where the internet is in reach: the private DNS name leads to the endpoint.
        ("subnet-a", True, {"endpoints": [ENDPOINTS[0]], "endpoint_group": CLOSED}, {"ecr.api": "vpce-ecr.api"}),
        ("subnet-a", True, {"endpoints": [endpoint("ecr.api", PrivateDnsEnabled=False)], "endpoint_group": CLOSED}, {}),
        ("subnet-a", True, {"endpoints": [ENDPOINTS[0]], "endpoint_group": CLOSED, "without_dns": frozenset({VPC})}, {}),
        ("subnet-p", False, {"endpoints": [endpoint("logs", State="deleted")]}, dict.fromkeys(SERVICES, "no endpoint")),
        # Without groups of its own an endpoint has the VPC's default one, which lets in its members only.
        ("subnet-p", False, {"endpoints": [endpoint("logs", groups=())]}, {
            "logs": "no ingress rule of sg-default", **dict.fromkeys(SERVICES[:3], "no endpoint")}),
        # What leaves is filtered, too.
        ("subnet-a", True, {"egress": ()}, dict.fromkeys(SERVICES, "no egress rule of sg-task lets TCP 443 out")),
        ("subnet-a", True, {"egress": (rule(80, cidr=ANYWHERE),)}, dict.fromkeys(SERVICES, "no egress rule")),
        ("subnet-a", True, {"egress": (rule(443, cidr=ANYWHERE),)}, {}),
        ("subnet-p", False, {"endpoints": ENDPOINTS, "egress": ONLY_VPC}, {"s3": "no egress rule of sg-task"}),
        ("subnet-p", False, {"endpoints": ENDPOINTS, "egress": (*ONLY_VPC, rule(443, prefix_list="pl-s3"))}, {}),
        ("subnet-a", True, {"acls": [acl(IN_ALL, subnet="subnet-a")]},
         dict.fromkeys(SERVICES, "network ACL acl-1 does not let TCP 443 out of subnet-a")),
    ],
)  # fmt: skip
def test_what_a_task_reaches(subnet, public_ip, world, missing):
    world = dict(world)
    task = group("sg-task", egress=world.pop("egress", (OUT,)))
    own = group("sg-default", rule(group="sg-default"), named="default")
    known = vpcs(
        task,
        world.pop("endpoint_group", HTTPS_IN),
        own,
        prefix_lists=S3_LIST,
        prefix_list_names=S3_NAME,
        **world,
    )
    why = {s: way_out(known, REGION, subnet, ["sg-task"], public_ip=public_ip, service=s) for s in SERVICES}
    assert {service for service, told in why.items() if told} == missing.keys()
    for service, words in missing.items():
        assert words in why[service]


def test_without_groups_a_task_has_the_vpcs_default_one():
    known = vpcs(group("sg-default", egress=(), named="default"))
    told = way_out(known, REGION, "subnet-a", [], public_ip=True, service="ecr.api")
    assert told.startswith("no egress rule of sg-default")


@pytest.mark.parametrize("target", ["TransitGatewayId", "VpcPeeringConnectionId", "NetworkInterfaceId"])
def test_where_the_sandbox_does_not_look_it_takes_the_way_for_open(target):
    away = {"DestinationCidrBlock": ANYWHERE, target: "x-1", "State": "active"}
    known = vpcs(group("sg-task"), private=table("rtb-p", away, subnets=("subnet-p",)))
    assert way_out(known, REGION, "subnet-p", ["sg-task"], public_ip=False, service="logs") is None


# Properties

blocks = st.builds(
    lambda address, length: str(IPv4Network((address, length), strict=False)),
    st.integers(0x0A000000, 0x0A000FFF),  # close together, so that they often meet
    st.integers(18, 32),
)
spans = st.tuples(st.integers(1, 20), st.integers(0, 9)).map(lambda pair: (pair[0], sum(pair)))
rules = st.builds(
    rule,
    port=st.none() | spans,
    cidr=st.none() | blocks,
    group=st.none() | st.sampled_from(["sg-lb", "sg-task", "sg-other"]),
    protocol=st.sampled_from(["tcp", "udp", "6", "-1"]),
)
parties = st.builds(
    lambda addresses, groups: Party(tuple(map(IPv4Network, addresses)), tuple(groups)),
    st.lists(blocks, min_size=1, max_size=3),
    st.lists(st.sampled_from(["sg-lb", "sg-x"]), max_size=2, unique=True),
)
ports = st.integers(1, 30)


@given(st.lists(rules, max_size=6), rules, ports, parties)
def test_a_further_rule_never_closes_a_path(held, more, port, other):
    if permits(held, port, other, {}):
        assert permits([*held, more], port, other, {})


@given(
    st.lists(rules, max_size=6).flatmap(lambda held: st.tuples(st.just(held), st.permutations(held))),
    ports,
    parties,
)
def test_the_order_of_rules_does_not_matter(both, port, other):
    held, shuffled = both
    assert permits(held, port, other, {}) == permits(shuffled, port, other, {})


@given(st.lists(blocks, max_size=6), blocks)
def test_covered_is_that_every_address_is_in_some_block(held, wanted):
    nets = [IPv4Network(each) for each in held]
    wanted = IPv4Network(wanted)
    edges = {wanted[0]} | {n.broadcast_address + 1 for n in nets if n.broadcast_address + 1 in wanted}
    assert covered(wanted, nets) == all(any(edge in each for each in nets) for edge in edges)


entries = st.builds(
    lambda egress, action, span, block: (egress, action, span, block),
    st.booleans(),
    st.sampled_from(["allow", "deny"]),
    st.none() | spans,
    blocks,
)


@given(st.lists(entries, max_size=6), st.booleans(), st.tuples(ports, ports).map(sorted), blocks)
def test_of_a_network_acl_the_first_entry_decides_for_each_packet(held, egress, span, addresses):
    numbered = acl(*((number, *entry) for number, entry in enumerate(held)))["Entries"]
    network = IPv4Network(addresses)

    def packet(address: IPv4Address, port: int) -> bool:
        for out, action, ports_, block in held:
            if (
                out == egress
                and address in IPv4Network(block)
                and (not ports_ or ports_[0] <= port <= ports_[1])
            ):
                return action == "allow"
        return False

    some = (
        {network[0], network[-1], network[len(list(network.hosts())) // 2]}
        if network.prefixlen > 20
        else {network[0]}
    )
    answer = passes(numbered, egress, tuple(span), network)
    if answer:
        assert all(packet(address, port) for address in some for port in range(span[0], span[1] + 1))
    if network.num_addresses <= 64:
        every = all(packet(address, port) for address in network for port in range(span[0], span[1] + 1))
        assert answer == every


@given(st.lists(blocks, max_size=8), blocks)
def test_the_longest_prefix_that_holds_a_destination_is_taken(held, wanted):
    destination = IPv4Network(wanted)
    known = {"Routes": [to(f"igw-{number}", block) for number, block in enumerate(held)]}
    taken = route(known, destination)
    fit = [IPv4Network(block).prefixlen for block in held if destination.subnet_of(IPv4Network(block))]
    assert (taken is None) == (not fit)
    if taken:
        assert IPv4Network(taken["DestinationCidrBlock"]).prefixlen == max(fit)
