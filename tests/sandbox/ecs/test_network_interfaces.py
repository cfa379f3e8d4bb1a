"""What holds a security group, against moto's records of EC2 and of load balancers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError

from helpers.sandbox.ecs.network_interfaces import SecurityGroupUse
from helpers.sandbox.records import Records

REGION = "us-east-1"


@pytest.fixture
def ec2(endpoint):
    """EC2 of a sandbox without tasks; `ec2.records` are its records."""
    records = Records()
    endpoint.handlers.clear()
    endpoint.add(SecurityGroupUse(records, endpoint.client).operations())
    client = endpoint.client("ec2", REGION)
    client.records = records
    return client


def made(ec2, name: str) -> str:
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    return ec2.create_security_group(GroupName=name, Description="a border", VpcId=vpc)["GroupId"]


def refusal(ec2, group: str) -> dict[str, str]:
    with pytest.raises(ClientError) as refused:
        ec2.delete_security_group(GroupId=group)
    return refused.value.response["Error"]


def in_use(group: str) -> dict[str, str]:
    return {"Code": "DependencyViolation", "Message": f"resource {group} has a dependent object"}


def test_a_task_holds_its_groups_until_it_is_stopped(ec2):
    group = made(ec2, "of-a-task")
    task = SimpleNamespace(security_groups=[group], last_status="RUNNING")
    ec2.records.tasks["t"] = task
    for status in ("PROVISIONING", "RUNNING", "STOPPING", "DEPROVISIONING"):
        task.last_status = status
        assert refusal(ec2, group) == in_use(group)
    task.last_status = "STOPPED"
    ec2.delete_security_group(GroupId=group)
    assert refusal(ec2, group)["Code"] == "InvalidGroup.NotFound"


def test_a_load_balancer_holds_its_groups(ec2, endpoint):
    elb, group = endpoint.client("elbv2", REGION), made(ec2, "of-a-balancer")
    subnets = [one["SubnetId"] for one in ec2.describe_subnets()["Subnets"]][:2]
    (balancer,) = elb.create_load_balancer(Name="held", Subnets=subnets, SecurityGroups=[group])[
        "LoadBalancers"
    ]
    assert refusal(ec2, group) == in_use(group)
    elb.delete_load_balancer(LoadBalancerArn=balancer["LoadBalancerArn"])
    ec2.delete_security_group(GroupId=group)


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_another_groups_rule_holds_it_and_its_own_does_not(ec2, direction):
    group, other = made(ec2, f"named-{direction}"), made(ec2, f"naming-{direction}")
    rule = {
        "IpProtocol": "tcp",
        "FromPort": 3000,
        "ToPort": 3000,
        "UserIdGroupPairs": [{"GroupId": group}],
    }
    for holder in (group, other):
        getattr(ec2, f"authorize_security_group_{direction}")(GroupId=holder, IpPermissions=[rule])
    assert refusal(ec2, group) == in_use(group)
    getattr(ec2, f"revoke_security_group_{direction}")(GroupId=other, IpPermissions=[rule])
    ec2.delete_security_group(GroupId=group)
    ec2.delete_security_group(GroupId=other)
