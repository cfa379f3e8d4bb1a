"""The doctor's own reading of policies, security groups and routes, against AWS's rules and moto's evaluation."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.iam.access_control import IAMPolicy, PermissionResult

from helpers.diagnosis.permissions import allows, trusts
from helpers.diagnosis.reach import ANSWERS, admits, default_route, lets_out, passes, route_table

REPOSITORY = "arn:aws:ecr:us-east-1:123456789012:repository/shop"
PULL = "ecr:BatchGetImage"


def statement(effect: str = "Allow", action: object = PULL, resource: object = "*", **more: object) -> dict:
    return {"Effect": effect, "Action": action, "Resource": resource, **more}


@pytest.mark.parametrize(
    ("statements", "allowed"),
    [
        ([], False),
        ([statement()], True),
        ([statement(action="ecr:*")], True),
        ([statement(action="ECR:batchgetimage")], True),  # actions have no case
        ([statement(action=["s3:*", "ecr:Batch*"])], True),
        ([statement(resource=REPOSITORY)], True),
        ([statement(resource=f"{REPOSITORY}-2")], False),
        ([statement(resource="arn:aws:ecr:*:*:repository/sho?")], True),
        ([statement(), statement("Deny")], False),
        ([statement("Deny"), statement()], False),
        ([statement(), statement("Deny", "s3:*")], True),
        ([{"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}], True),
        ([{"Effect": "Allow", "Action": "*", "NotResource": REPOSITORY}], False),
        ([statement(Condition={"StringEquals": {"aws:RequestedRegion": "x"}})], None),
        ([statement(), statement("Deny", Condition={"Bool": {"x": "y"}})], None),  # a Deny that may apply
    ],
)
def test_allow_deny_wildcards_and_conditions(statements, allowed):
    assert allows([{"Statement": statements}], PULL, REPOSITORY) is allowed


ACTIONS = st.sampled_from([PULL, "ecr:*", "ecr:Batch*", "*", "s3:GetObject", ["s3:*", PULL]])
RESOURCES = st.sampled_from(["*", REPOSITORY, f"{REPOSITORY}-2", "arn:aws:ecr:*:*:repository/*"])
STATEMENTS = st.builds(statement, st.sampled_from(["Allow", "Deny"]), ACTIONS, RESOURCES)


@given(st.lists(STATEMENTS, min_size=1, max_size=4))
def test_it_agrees_with_motos_evaluation(statements):
    document = {"Version": "2012-10-17", "Statement": statements}
    verdict = IAMPolicy(json.dumps(document)).is_action_permitted(PULL, REPOSITORY)
    assert allows([document], PULL, REPOSITORY) is (verdict == PermissionResult.PERMITTED)


@pytest.mark.parametrize(
    ("principal", "trusted"),
    [
        ({"Service": "ecs-tasks.amazonaws.com"}, True),
        ({"Service": ["ec2.amazonaws.com", "ecs-tasks.amazonaws.com"]}, True),
        ({"Service": "ecs.amazonaws.com"}, False),
        ({"AWS": "123456789012"}, False),
        ("*", True),
    ],
)
def test_who_is_trusted(principal, trusted):
    document = {"Statement": {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}}
    assert trusts(document, "ecs-tasks.amazonaws.com") is trusted
    assert trusts(None, "ecs-tasks.amazonaws.com") is None


def rule(first: int = 3000, last: int = 3000, protocol: str = "tcp", **whom: object) -> dict:
    return {"IpProtocol": protocol, "FromPort": first, "ToPort": last, **whom}


FROM = {"UserIdGroupPairs": [{"GroupId": "sg-balancer"}]}


@pytest.mark.parametrize(
    ("rules", "open_"),
    [
        ([], False),
        ([rule(**FROM)], True),
        ([rule(0, 65535, **FROM)], True),
        ([rule(3001, 3001, **FROM)], False),
        ([rule(protocol="udp", **FROM)], False),
        ([{"IpProtocol": "-1", **FROM}], True),
        ([rule(UserIdGroupPairs=[{"GroupId": "sg-other"}])], False),
        ([rule(IpRanges=[{"CidrIp": "0.0.0.0/0"}])], True),
        ([rule(IpRanges=[{"CidrIp": "10.0.0.0/16"}])], True),
        ([rule(IpRanges=[{"CidrIp": "10.0.1.0/24"}])], False),  # one of the load balancer's two subnets
        ([rule(PrefixListIds=[{"PrefixListId": "pl-1"}])], None),
        ([rule(IpRanges=[{"CidrIp": "0.0.0.0/1"}, {"CidrIp": "128.0.0.0/1"}])], True),
        (
            [
                rule(3000, 3000, IpRanges=[{"CidrIp": "10.0.1.0/24"}]),
                rule(1024, 65535, IpRanges=[{"CidrIp": "10.0.2.0/25"}]),
                rule(0, 3000, IpRanges=[{"CidrIp": "10.0.2.128/25"}]),
            ],
            True,
        ),
    ],
)
def test_what_a_security_group_lets_in(rules, open_):
    groups = [{"GroupId": "sg-tasks", "IpPermissions": rules}]
    ranges = ["10.0.1.0/24", "10.0.2.0/24"]
    assert admits(groups, 3000, sources=["sg-balancer"], ranges=ranges) is open_


def test_what_a_security_group_lets_out():
    def out(**whom: object) -> list[dict]:
        return [{"IpPermissionsEgress": [rule(443, 443, **whom)]}]

    assert lets_out([{"IpPermissionsEgress": []}], 443) is False
    assert lets_out(out(IpRanges=[{"CidrIp": "0.0.0.0/0"}]), 443) is True
    assert lets_out(out(IpRanges=[{"CidrIp": "10.0.0.0/8"}]), 443) is None  # to an endpoint, perhaps
    assert lets_out(out(IpRanges=[{"CidrIp": "0.0.0.0/0"}]), 80) is False


def table(gateway: dict | None, **association: object) -> dict:
    default = [{"DestinationCidrBlock": "0.0.0.0/0", **gateway}] if gateway else []
    return {
        "Associations": [association],
        "Routes": [{"DestinationCidrBlock": "10.0.0.0/16", "GatewayId": "local"}, *default],
    }


def test_a_subnets_own_route_table_counts_and_else_the_main_one():
    main = table({"GatewayId": "igw-1"}, Main=True)
    own = table({"NatGatewayId": "nat-1"}, SubnetId="subnet-1")
    assert default_route([main, own], "subnet-1") == "nat-1"
    assert default_route([main, own], "subnet-2") == "igw-1"
    assert default_route([table(None, Main=True)], "subnet-1") == ""
    assert default_route([], "subnet-1") is None


@pytest.mark.parametrize(
    "target",
    [
        {"CoreNetworkArn": "arn:aws:networkmanager::123456789012:core-network/core-network-1"},
        {"VpcPeeringConnectionId": "pcx-1"},
        {"LocalGatewayId": "lgw-1"},
        {"TransitGatewayId": "tgw-1"},
        {"GatewayId": "vgw-1"},
        {"SomethingNewId": "new-1"},
    ],
)
def test_where_a_route_of_another_kind_leads_is_not_certain(target):
    assert default_route([table(target, Main=True)], "subnet-1") == "?"
    hub = {"DestinationCidrBlock": "10.0.0.0/8", **target}
    for default in (None, {"GatewayId": "igw-1"}):  # to a hub's endpoints, perhaps
        closed = table(default, Main=True)
        closed["Routes"].append(hub)
        assert default_route([closed], "subnet-1") == "?"
        closed["Routes"][-1] = hub | {"State": "blackhole"}
        assert default_route([closed], "subnet-1") == ("igw-1" if default else "")


def test_a_gateway_endpoints_route_is_no_way_to_elsewhere():
    closed = table(None, Main=True)
    closed["Routes"].append({"DestinationPrefixListId": "pl-1", "GatewayId": "vpce-1"})
    assert default_route([closed], "subnet-1") == ""


def test_the_route_table_is_the_one_of_the_subnet():
    main, own = table(None, Main=True), table(None, SubnetId="subnet-1")
    assert route_table([main, own], "subnet-1") is own
    assert route_table([main, own], "subnet-2") is main
    assert route_table([own], "subnet-2") is None


def entry(number: int, action: str = "allow", ports: tuple | None = None, block: str = "0.0.0.0/0") -> dict:
    span = {"PortRange": {"From": ports[0], "To": ports[1]}} if ports else {}
    protocol = "6" if ports else "-1"
    return {
        "RuleNumber": number,
        "RuleAction": action,
        "Egress": True,
        "Protocol": protocol,
        "CidrBlock": block,
    } | span


@pytest.mark.parametrize(
    ("entries", "open_"),
    [
        ([], False),
        ([entry(100)], True),
        ([entry(100), entry(90, "deny")], False),
        ([entry(100, ports=(1024, 65535))], True),
        ([entry(100, ports=(80, 80))], False),
        ([entry(100, ports=(32768, 65535))], None),  # the answers of some connections
        ([entry(100, block="10.1.0.0/16")], False),
        ([entry(90, "deny", block="10.0.1.7/32"), entry(100)], None),
        ([entry(90, "deny", (22, 22)), entry(100)], True),
    ],
)
def test_what_a_network_acl_lets_through(entries, open_):
    assert passes({"Entries": entries}, ANSWERS, "10.0.1.0/24", egress=True) is open_
    assert passes({"Entries": entries}, ANSWERS, "10.0.1.0/24", egress=False) is False
