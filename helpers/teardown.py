"""What is left of a lab, asked of each service that it uses: on AWS, what is left may go on costing."""

from __future__ import annotations

from collections.abc import Iterator

from botocore.exceptions import ClientError

from helpers.calls import client, pages


def left_over(name: str) -> list[str]:
    """What still exists of the lab `name`, as "service: resource"; empty when nothing does.

    Every service is asked by name, since the tagging API does not know roles, alarms and scaling policies.
    """
    return [f"{kind}: {found}" for kind, found in _found(name)]


def _found(name: str) -> Iterator[tuple[str, str]]:
    gone = ("DELETE_COMPLETE",)
    for stack in pages("cloudformation", "list_stacks", "StackSummaries"):
        if stack["StackName"] == name and stack["StackStatus"] not in gone:
            yield "stack", f"{name} ({stack['StackStatus']})"
    for cluster in client("ecs").describe_clusters(clusters=[name])["clusters"]:
        if cluster["status"] == "ACTIVE":
            yield "cluster", name
    for balancer in pages("elbv2", "describe_load_balancers", "LoadBalancers"):
        if balancer["LoadBalancerName"] == name:
            yield "load balancer", name
    for group in pages("elbv2", "describe_target_groups", "TargetGroups"):
        if _tagged(group["TargetGroupArn"], name):
            yield "target group", group["TargetGroupName"]
    for group in pages("ec2", "describe_security_groups", "SecurityGroups", Filters=_by_tag(name)):
        yield "security group", group["GroupId"]
    for alarm in pages(
        "cloudwatch", "describe_alarms", "MetricAlarms", AlarmNamePrefix=f"TargetTracking-service/{name}/"
    ):
        yield "alarm", alarm["AlarmName"]
    for target in client("application-autoscaling").describe_scalable_targets(ServiceNamespace="ecs")[
        "ScalableTargets"
    ]:
        if target["ResourceId"].startswith(f"service/{name}/"):
            yield "scalable target", target["ResourceId"]
    for group in pages("logs", "describe_log_groups", "logGroups", logGroupNamePrefix=f"/ecs/{name}"):
        if group["logGroupName"] == f"/ecs/{name}":
            yield "log group", group["logGroupName"]
    for role in pages("iam", "list_roles", "Roles"):
        if role["RoleName"].startswith(f"{name}-Task"):
            yield "role", role["RoleName"]
    try:
        for repository in client("ecr").describe_repositories(repositoryNames=[name])["repositories"]:
            yield "repository", repository["repositoryName"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "RepositoryNotFoundException":
            raise


def _tagged(arn: str, name: str) -> bool:
    tags = client("elbv2").describe_tags(ResourceArns=[arn])["TagDescriptions"][0]["Tags"]
    return {"Key": "tutorial", "Value": name} in tags


def _by_tag(name: str) -> list[dict]:
    return [{"Name": "tag:tutorial", "Values": [name]}]
