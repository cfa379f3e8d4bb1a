"""Faults between load balancer, tasks and the world: security groups and the way out."""

from __future__ import annotations

from random import Random

from helpers.calls import client
from helpers.faults.fault import Fault
from helpers.faults.place import NO_BREAKER, Place

PORT = 3000  # the template's


def _close(place: Place, rng: Random) -> None:
    """The rule from the load balancer now opens another port."""
    ec2, group = client("ec2"), place.resource("TaskSecurityGroup")
    (found,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=found["IpPermissions"])
    port = rng.choice((80, 443, 3001, 5000, 8000, 8080))
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[_from_balancer(place, port)])


def _open(place: Place) -> None:
    """One rule in the place of all that there are: the app's port, from the load balancer's group."""
    ec2, group = client("ec2"), place.resource("TaskSecurityGroup")
    (found,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    if found["IpPermissions"]:
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=found["IpPermissions"])
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[_from_balancer(place, PORT)])


def _from_balancer(place: Place, port: int) -> dict:
    """As the template has it."""
    balancer = {"GroupId": place.resource("LoadBalancerSecurityGroup")}
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "UserIdGroupPairs": [balancer]}


def _too_open(place: Place) -> list[str]:
    (found,) = client("ec2").describe_security_groups(GroupIds=[place.resource("TaskSecurityGroup")])[
        "SecurityGroups"
    ]
    rules = found["IpPermissions"]
    balancer = place.resource("LoadBalancerSecurityGroup")
    told = []
    if not any(
        rule.get("FromPort", 0) <= PORT <= rule.get("ToPort", -1)
        for rule in rules
        if rule["IpProtocol"] == "tcp"
    ):
        told.append(f"the tasks' security group lets nothing in on port {PORT}")
    if any(rule.get("IpRanges") or rule.get("Ipv6Ranges") for rule in rules):
        told.append("the tasks' security group is open to more than the load balancer")
    if any(pair["GroupId"] != balancer for rule in rules for pair in rule.get("UserIdGroupPairs", [])):
        told.append("the tasks' security group is open to another group than the load balancer's")
    return told


def _no_way(place: Place, rng: Random) -> None:
    """The new tasks have no public address, or their security group lets them ask nobody on 443."""
    if rng.random() < 0.5:
        now = place.service.record["networkConfiguration"]["awsvpcConfiguration"]
        place.update(
            networkConfiguration={"awsvpcConfiguration": now | {"assignPublicIp": "DISABLED"}},
            deploymentConfiguration={"deploymentCircuitBreaker": NO_BREAKER},
        )
    else:
        let_out(
            place, {"IpProtocol": "tcp"} | dict.fromkeys(("FromPort", "ToPort"), rng.choice((80, 5432, 6379)))
        )
        place.lose_a_task()


def _a_way(place: Place) -> None:
    """Anything out, the stack's subnets and group, public addresses, and the circuit breaker on: as the template has it."""
    let_out(place, {"IpProtocol": "-1"})
    client("ecs").update_service(
        cluster=place.name,
        service=place.name,
        networkConfiguration=network_of_the_stack(place),
        deploymentConfiguration={"deploymentCircuitBreaker": {"enable": True, "rollback": True}},
    )


def network_of_the_stack(place: Place) -> dict:
    """A service's networkConfiguration as the template has it."""
    given = {one["ParameterKey"]: one["ParameterValue"] for one in place.stack["Parameters"]}
    network = {
        "subnets": given["SubnetIds"].split(","),
        "securityGroups": [place.resource("TaskSecurityGroup")],
        "assignPublicIp": "ENABLED",
    }
    return {"awsvpcConfiguration": network}


def let_out(place: Place, rule: dict) -> None:
    """This rule, to anywhere, in the place of all egress rules of the tasks' security group."""
    ec2, group = client("ec2"), place.resource("TaskSecurityGroup")
    (found,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    if found.get("IpPermissionsEgress"):
        ec2.revoke_security_group_egress(GroupId=group, IpPermissions=found["IpPermissionsEgress"])
    anywhere = rule | {"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    ec2.authorize_security_group_egress(GroupId=group, IpPermissions=[anywhere])


FAULTS = (
    Fault(
        "security-group",
        "network",
        "The service loses its tasks one after the other, and visitors wait in vain. Nothing was deployed.",
        (
            "Ask the load balancer first: describe_target_health. What is the reason, and who would have had to answer?",
            "Target.Timeout: the health check got no answer in time. Either the app is too slow, or its packets do not get "
            "there: what lies between is the tasks' security group (describe_security_groups). Which port does it open, "
            "and on which one does the app listen?",
            "The rule from the load balancer's group opens another port than 3000. Revoke it "
            "(revoke_security_group_ingress) and authorize one for 3000 from that group.",
        ),
        _close,
        Place.health_failed,
        _open,
        _too_open,
    ),
    Fault(
        "no-way-out",
        "network",
        "Somebody tidied up the network settings. The tasks that were there still answer; none of the new ones comes up.",
        (
            "Read the stopped tasks' stoppedReason to its end: whom could the task not reach?",
            "A task in awsvpc mode reaches ECR by its own network interface, on port 443. Read networkConfiguration in "
            "describe_services, and the egress rules in describe_security_groups. Which way out is there from these subnets?",
            "Either assignPublicIp is DISABLED, and the default VPC has no NAT gateway and no endpoints: set it to ENABLED "
            "with update_service, and switch the circuit breaker on again. Or the tasks' security group lets nothing out on "
            "port 443: authorize_security_group_egress.",
        ),
        _no_way,
        lambda place: place.stopped_with("ResourceInitializationError"),
        _a_way,
    ),
)
