"""A service behind a load balancer in a test's own sandbox, made by plain API calls: no stack has to be waited for."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from tests.sandbox.live import Live

HEALTH = {"HealthCheckIntervalSeconds": 10, "HealthyThresholdCount": 2, "UnhealthyThresholdCount": 2}


@dataclass
class Served:
    live: Live
    name: str
    url: str
    group: str  # the target group's ARN
    listener: str

    def describe(self) -> dict[str, Any]:
        return self.live.aws("ecs").describe_services(cluster=self.name, services=[self.name])["services"][0]

    def is_steady(self) -> bool:
        """One deployment that is completed, and as many tasks as wanted."""
        service = self.describe()
        (first, *others) = service["deployments"]
        counts = service["runningCount"] == service["desiredCount"] and not service["pendingCount"]
        return counts and not others and first["rolloutState"] == "COMPLETED"

    def targets(self) -> list[str]:
        answer = self.live.aws("elbv2").describe_target_health(TargetGroupArn=self.group)
        return [one["TargetHealth"]["State"] for one in answer["TargetHealthDescriptions"]]

    def stopped(self) -> list[dict[str, Any]]:
        ecs = self.live.aws("ecs")
        arns = ecs.list_tasks(cluster=self.name, desiredStatus="STOPPED")["taskArns"]
        tasks = ecs.describe_tasks(cluster=self.name, tasks=arns)["tasks"] if arns else []
        return [task for task in tasks if task["lastStatus"] == "STOPPED"]

    def update(self, **wanted: Any) -> None:
        """Change the service, and wait until it is steady again and the tasks that had to go are gone."""
        self.live.aws("ecs").update_service(cluster=self.name, service=self.name, **wanted)
        time.sleep(0.5)
        self.live.until(lambda: self.is_steady() and "draining" not in self.targets(), seconds=60)

    def end(self) -> None:
        self.live.aws("ecs").delete_service(cluster=self.name, service=self.name, force=True)
        elbv2 = self.live.aws("elbv2")
        (group,) = elbv2.describe_target_groups(TargetGroupArns=[self.group])["TargetGroups"]
        for arn in group["LoadBalancerArns"]:
            elbv2.delete_load_balancer(LoadBalancerArn=arn)


def serve(
    live: Live, name: str, image: str, *, tasks: int = 1, delay: int = 30, health: str = "/", **container: Any
) -> Served:
    """A steady service of that name in a cluster of that name. `delay`: of deregistration, AWS seconds; `container`: what
    its container's definition has besides."""
    ecs, elbv2 = live.aws("ecs"), live.aws("elbv2")
    ecs.create_cluster(clusterName=name)
    vpc = live.aws("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    open_to_all = _open_group(live, name, vpc)
    balancer = elbv2.create_load_balancer(Name=name, Subnets=live.subnets(), SecurityGroups=[open_to_all])[
        "LoadBalancers"
    ][0]
    group = elbv2.create_target_group(
        Name=name, Protocol="HTTP", Port=3000, VpcId=vpc, TargetType="ip", HealthCheckPath=health, **HEALTH
    )["TargetGroups"][0]["TargetGroupArn"]
    elbv2.modify_target_group_attributes(
        TargetGroupArn=group,
        Attributes=[{"Key": "deregistration_delay.timeout_seconds", "Value": str(delay)}],
    )
    listener = elbv2.create_listener(
        LoadBalancerArn=balancer["LoadBalancerArn"],
        Protocol="HTTP",
        Port=80,
        DefaultActions=[{"Type": "forward", "TargetGroupArn": group}],
    )["Listeners"][0]["ListenerArn"]
    ecs.create_service(
        cluster=name,
        serviceName=name,
        taskDefinition=live.define(name, image, 3000, **container),
        desiredCount=tasks,
        launchType="FARGATE",
        loadBalancers=[{"targetGroupArn": group, "containerName": "app", "containerPort": 3000}],
        networkConfiguration={
            "awsvpcConfiguration": {
                "subnets": live.subnets(),
                "securityGroups": [open_to_all],
                "assignPublicIp": "ENABLED",
            }
        },
    )
    served = Served(live, name, f"http://{balancer['DNSName']}", group, listener)
    live.until(served.is_steady)
    return served


def _open_group(live: Live, name: str, vpc: str) -> str:
    ec2 = live.aws("ec2")
    group = ec2.create_security_group(GroupName=name, Description="for a test", VpcId=vpc)["GroupId"]
    anybody = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[anybody])
    return group
