"""A made-up service `shop` in cluster `shop`: what AWS's Describe calls would answer about it."""

from __future__ import annotations

from datetime import datetime, timedelta

from tests.answers import Answers
from tests.story import START

ARN = "arn:aws:ecs:us-east-1:123456789012"
GROUP = "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/shop/73e2d6bc24d8a067"
BALANCER = "arn:aws:elasticloadbalancing:us-east-1:123456789012:loadbalancer/app/shop/50dc6c495c0c9188"
LAST_LINES = ("starting", "Error: no DATABASE_URL")
EVENT = "(service shop) has reached a steady state."


def record(desired: int = 2, running: int = 2, rollout: str = "COMPLETED") -> dict:
    deployment = {
        "id": "ecs-svc/1",
        "status": "PRIMARY",
        "rolloutState": rollout,
        "taskDefinition": f"{ARN}:task-definition/shop:7",
        "desiredCount": desired,
        "runningCount": running,
        "pendingCount": desired - running,
        "failedTasks": 0,
    }
    return {
        "serviceName": "shop",
        "status": "ACTIVE",
        "desiredCount": desired,
        "runningCount": running,
        "pendingCount": desired - running,
        "deployments": [deployment],
        "events": [{"id": "e1", "createdAt": START, "message": EVENT}],
        "loadBalancers": [{"targetGroupArn": GROUP, "containerName": "app", "containerPort": 3000}],
    }


def task(number: int, status: str = "RUNNING") -> dict:
    return {
        "taskArn": f"{ARN}:task/shop/{number:032x}",
        "taskDefinitionArn": f"{ARN}:task-definition/shop:7",
        "availabilityZone": f"us-east-1{'abc'[number % 3]}",
        "lastStatus": status,
        "healthStatus": "UNKNOWN",
        "createdAt": START + timedelta(seconds=number),
        "startedAt": START + timedelta(seconds=20 + number),
        "attachments": [
            {
                "type": "ElasticNetworkInterface",
                "details": [{"name": "privateIPv4Address", "value": f"172.31.0.{number}"}],
            }
        ],
        "containers": [{"name": "app"}],
    }


def stopped() -> dict:
    died = {"exitCode": 1, "reason": "", "name": "app"}
    return task(9, "STOPPED") | {
        "stopCode": "EssentialContainerExited",
        "stoppedReason": "Essential container in task exited",
        "stoppedAt": START,
        "containers": [died],
    }


def alarm(kind: str, state: str, since: datetime = START) -> dict:
    return {
        "AlarmName": f"TargetTracking-service/shop/shop-{kind}-4f1b",
        "StateValue": state,
        "StateReason": "Threshold crossed",
        "StateUpdatedTimestamp": since,
        "Threshold": 50.0 if kind == "AlarmHigh" else 45.0,
    }


def open_shop(aws: Answers, *, states: tuple[str, ...] = ("healthy", "healthy")) -> None:
    """Two tasks behind a load balancer, scaled between 2 and 10 at 50 % CPU."""
    tasks = {entry["taskArn"]: entry for entry in (task(2), task(1), stopped())}
    aws["ecs", "DescribeServices"] = {"services": [record()]}
    aws["ecs", "ListTasks"] = lambda asked: {
        "taskArns": [
            a
            for a, t in tasks.items()
            if (t["lastStatus"] == "STOPPED") == (asked["desiredStatus"] == "STOPPED")
        ]
    }
    aws["ecs", "DescribeTasks"] = lambda asked: {"tasks": [tasks[arn] for arn in asked["tasks"]]}
    aws["ecs", "DescribeTaskDefinition"] = {"taskDefinition": {"containerDefinitions": [container()]}}
    aws["logs", "GetLogEvents"] = {"events": [{"message": line} for line in LAST_LINES]}
    aws["elbv2", "DescribeTargetHealth"] = {
        "TargetHealthDescriptions": [target(n, s) for n, s in enumerate(states, 1)]
    }
    aws["elbv2", "DescribeTargetGroups"] = {"TargetGroups": [{"LoadBalancerArns": [BALANCER]}]}
    aws["elbv2", "DescribeLoadBalancers"] = {
        "LoadBalancers": [{"LoadBalancerArn": BALANCER, "DNSName": "127.0.0.1:8080"}]
    }
    aws["cloudwatch", "DescribeAlarms"] = {
        "MetricAlarms": [alarm("AlarmLow", "ALARM"), alarm("AlarmHigh", "OK")]
    }
    aws["application-autoscaling", "DescribeScalableTargets"] = {"ScalableTargets": [scalable()]}
    aws["application-autoscaling", "DescribeScalingPolicies"] = {"ScalingPolicies": [policy()]}


def container() -> dict:
    options = {
        "awslogs-group": "/ecs/shop",
        "awslogs-region": "us-east-1",
        "awslogs-stream-prefix": "ecs",
    }
    return {"name": "app", "logConfiguration": {"logDriver": "awslogs", "options": options}}


def target(number: int, state: str) -> dict:
    health = {"State": state} if state == "healthy" else {"State": state, "Reason": "Target.Timeout"}
    return {"Target": {"Id": f"172.31.0.{number}", "Port": 3000}, "TargetHealth": health}


def scalable() -> dict:
    return {
        "ServiceNamespace": "ecs",
        "ResourceId": "service/shop/shop",
        "ScalableDimension": "ecs:service:DesiredCount",
        "MinCapacity": 2,
        "MaxCapacity": 10,
        "RoleARN": "arn:aws:iam::123456789012:role/x",
        "CreationTime": START,
    }


def policy() -> dict:
    return {
        "PolicyARN": "arn",
        "PolicyName": "cpu",
        "ServiceNamespace": "ecs",
        "ResourceId": "service/shop/shop",
        "ScalableDimension": "ecs:service:DesiredCount",
        "PolicyType": "TargetTrackingScaling",
        "CreationTime": START,
        "TargetTrackingScalingPolicyConfiguration": {"TargetValue": 50.0, "ScaleOutCooldown": 300},
    }
