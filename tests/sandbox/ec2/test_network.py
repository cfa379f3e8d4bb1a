"""The records that moto keeps, read and asked: what a learner makes by boto3 is what is evaluated."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from helpers.sandbox import mends
from helpers.sandbox.ec2.network import Network
from tests.sandbox.chain import shared_endpoint

REGION = "ap-south-1"  # no other test's
SERVICES = ("ecr.api", "ecr.dkr", "s3", "logs")
ANYWHERE = "0.0.0.0/0"


class Vpc:
    """A VPC of a test's own with a public and a private subnet, and what a test does to it."""

    def __init__(self, number: int):
        self.endpoint = shared_endpoint()
        self.ec2, self.elbv2 = (self.endpoint.client(name, REGION) for name in ("ec2", "elbv2"))
        self.tasks: dict[str, SimpleNamespace] = {}
        self.network = Network(
            self.endpoint.client, self.endpoint.changes, lambda region, ip: self.tasks.get(ip)
        )
        ec2 = self.ec2
        self.id = ec2.create_vpc(CidrBlock=f"10.{number}.0.0/16")["Vpc"]["VpcId"]
        ec2.modify_vpc_attribute(VpcId=self.id, EnableDnsHostnames={"Value": True})
        self.public, self.private, self.other = (
            ec2.create_subnet(
                VpcId=self.id, CidrBlock=f"10.{number}.{part}.0/24", AvailabilityZone=f"{REGION}{zone}"
            )["Subnet"]["SubnetId"]
            for part, zone in ((0, "a"), (1, "a"), (2, "b"))
        )
        self.tables = {}
        for subnet in (self.public, self.private):
            table = ec2.create_route_table(VpcId=self.id)["RouteTable"]["RouteTableId"]
            ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
            self.tables[subnet] = table
        self.gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=self.gateway, VpcId=self.id)
        self.route(self.public, GatewayId=self.gateway)
        self.group = self.make_group("tasks")

    def make_group(self, name: str) -> str:
        return self.ec2.create_security_group(GroupName=name, Description=name, VpcId=self.id)["GroupId"]

    def route(self, subnet: str, **to: str) -> None:
        self.ec2.create_route(RouteTableId=self.tables[subnet], DestinationCidrBlock=ANYWHERE, **to)

    def missing(self, subnet: str, public_ip: bool = False, groups: tuple[str, ...] = ()) -> set[str]:
        return {
            service
            for service in SERVICES
            if self.network.way_out(
                REGION, subnet, groups or (self.group,), public_ip=public_ip, service=service
            )
        }

    def offer(self, service: str, **settings) -> str:
        kind = {"VpcEndpointType": "Interface", "SubnetIds": [self.private], "PrivateDnsEnabled": True}
        if service == "s3":
            kind = {"VpcEndpointType": "Gateway", "RouteTableIds": [self.tables[self.private]]}
        name = f"com.amazonaws.{REGION}.{service}"
        made = self.ec2.create_vpc_endpoint(VpcId=self.id, ServiceName=name, **(kind | settings))
        return made["VpcEndpoint"]["VpcEndpointId"]

    def rule(self, group: str, port: int, **source) -> dict:
        return {
            "GroupId": group,
            "IpPermissions": [{"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **source}],
        }


numbers = iter(range(50, 250))


@pytest.fixture
def vpc() -> Vpc:
    return Vpc(next(numbers))


def test_a_public_subnet_wants_a_public_address(vpc):
    assert vpc.missing(vpc.public, public_ip=True) == set()
    assert vpc.missing(vpc.public, public_ip=False) == set(SERVICES)
    vpc.ec2.detach_internet_gateway(InternetGatewayId=vpc.gateway, VpcId=vpc.id)
    assert vpc.missing(vpc.public, public_ip=True) == set(SERVICES)


def test_a_private_subnet_wants_a_nat_gateway_that_is_there(vpc):
    assert vpc.missing(vpc.private, public_ip=True) == set(SERVICES)
    address = vpc.ec2.allocate_address(Domain="vpc")["AllocationId"]
    made = vpc.ec2.create_nat_gateway(SubnetId=vpc.public, AllocationId=address)
    nat = made["NatGateway"]["NatGatewayId"]
    vpc.route(vpc.private, NatGatewayId=nat)
    assert vpc.missing(vpc.private) == set()
    vpc.ec2.delete_nat_gateway(NatGatewayId=nat)
    assert vpc.missing(vpc.private) == set(SERVICES)


def test_a_subnet_without_a_table_of_its_own_has_the_main_one(vpc):
    assert vpc.missing(vpc.other, public_ip=True) == set(SERVICES)
    of_vpc = [{"Name": "vpc-id", "Values": [vpc.id]}, {"Name": "association.main", "Values": ["true"]}]
    (main,) = vpc.ec2.describe_route_tables(Filters=of_vpc)["RouteTables"]
    vpc.ec2.create_route(
        RouteTableId=main["RouteTableId"], DestinationCidrBlock=ANYWHERE, GatewayId=vpc.gateway
    )
    assert vpc.missing(vpc.other, public_ip=True) == set()


def test_endpoints_do_instead_once_their_group_lets_the_tasks_in(vpc):
    into = vpc.make_group("endpoints")
    offered = {
        service: vpc.offer(service, SecurityGroupIds=[into]) for service in SERVICES if service != "s3"
    }
    assert vpc.missing(vpc.private) == set(SERVICES)
    vpc.offer("s3")
    assert vpc.missing(vpc.private) == set(offered)
    permission = vpc.rule(into, 443, UserIdGroupPairs=[{"GroupId": vpc.group}])
    vpc.ec2.authorize_security_group_ingress(**permission)
    assert vpc.missing(vpc.private) == set()
    vpc.ec2.modify_vpc_attribute(VpcId=vpc.id, EnableDnsHostnames={"Value": False})
    assert vpc.missing(vpc.private) == set(offered)
    vpc.ec2.modify_vpc_attribute(VpcId=vpc.id, EnableDnsHostnames={"Value": True})
    vpc.ec2.delete_vpc_endpoints(VpcEndpointIds=[offered["logs"]])
    assert vpc.missing(vpc.private) == {"logs"}


def test_s3s_prefix_list_is_a_way_out_to_s3_only(vpc):
    for service in SERVICES:
        vpc.offer(service) if service == "s3" else vpc.offer(service, SecurityGroupIds=[vpc.group])
    vpc.ec2.authorize_security_group_ingress(
        **vpc.rule(vpc.group, 443, UserIdGroupPairs=[{"GroupId": vpc.group}])
    )
    everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": ANYWHERE}]}]
    vpc.ec2.revoke_security_group_egress(GroupId=vpc.group, IpPermissions=everything)
    assert vpc.missing(vpc.private) == set(SERVICES)
    lists = vpc.ec2.describe_managed_prefix_lists()["PrefixLists"]
    (s3,) = (one["PrefixListId"] for one in lists if one["PrefixListName"] == f"com.amazonaws.{REGION}.s3")
    vpc.ec2.authorize_security_group_egress(**vpc.rule(vpc.group, 443, PrefixListIds=[{"PrefixListId": s3}]))
    assert vpc.missing(vpc.private) == set(SERVICES) - {"s3"}


def test_the_default_vpc_of_an_account_is_open(vpc):
    mends.furnish(vpc.ec2)
    default = [{"Name": "is-default", "Values": ["true"]}]
    (own,) = vpc.ec2.describe_vpcs(Filters=default)["Vpcs"]
    of_vpc = [{"Name": "vpc-id", "Values": [own["VpcId"]]}]
    subnets = [subnet["SubnetId"] for subnet in vpc.ec2.describe_subnets(Filters=of_vpc)["Subnets"]]
    for subnet in subnets:
        told = [vpc.network.way_out(REGION, subnet, [], public_ip=True, service=each) for each in SERVICES]
        assert told == [None] * 4
    # A load balancer and a task without groups share the default one, which lets its members in.
    made = vpc.elbv2.create_load_balancer(Name="default-all", Subnets=subnets[:2])["LoadBalancers"][0]
    vpc.tasks["172.31.0.9"] = SimpleNamespace(subnet_id=subnets[0], security_groups=[])
    assert vpc.network.reaches(REGION, made, "172.31.0.9", 3000) is None
    assert "lets clients in" in vpc.network.lets_in(REGION, made, 80)


def test_what_no_record_tells_is_taken_to_be_open(vpc):
    made = {"AvailabilityZones": [], "VpcId": vpc.id, "SecurityGroups": [vpc.group]}
    assert vpc.network.reaches(REGION, made, "10.9.9.9", 3000) is None
    vpc.tasks["10.9.9.9"] = SimpleNamespace(subnet_id="subnet-gone", security_groups=["sg-gone"])
    assert vpc.network.reaches(REGION, made, "10.9.9.9", 3000) is None


def test_it_reads_when_somebody_has_written_and_not_before(vpc, monkeypatch):
    asked = Counter()
    read = vpc.endpoint.client

    def client(service: str, region: str):
        asked[service] += 1
        return read(service, region)

    network = Network(client, vpc.endpoint.changes)
    for _ in range(5):
        network.way_out(REGION, vpc.public, [vpc.group], public_ip=True, service="logs")
    assert asked == {"ec2": 1}
    vpc.make_group("another")
    network.vpcs(REGION)
    assert asked == {"ec2": 2}
