"""`python -m helpers status`: what is there now, in text tables. Asks AWS's API and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import boto3


def status(region: str) -> str:
    """Services, tasks, targets and alarms of a region, one table each; says so where there are none."""
    ecs = boto3.client("ecs", region_name=region)
    clusters = _all(ecs, "list_clusters", "clusterArns")
    sections = {
        "Services": [row for cluster in clusters for row in _services(ecs, cluster)],
        "Tasks": [row for cluster in clusters for row in _tasks(ecs, cluster)],
        "Targets": list(_targets(boto3.client("elbv2", region_name=region))),
        "Alarms": list(_alarms(boto3.client("cloudwatch", region_name=region))),
    }
    return "\n\n".join(f"{title}\n{table(rows)}" for title, rows in sections.items())


def table(rows: Sequence[dict[str, object]]) -> str:
    """Left-aligned columns two spaces apart, headed by the rows' keys."""
    if not rows:
        return "  none"
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _services(ecs: Any, cluster: str) -> Iterator[dict[str, object]]:
    arns = _all(ecs, "list_services", "serviceArns", cluster=cluster)
    for few in (arns[first : first + 10] for first in range(0, len(arns), 10)):  # AWS describes ten at a time
        for service in ecs.describe_services(cluster=cluster, services=few)["services"]:
            deployments = [d.get("rolloutState", d["status"]) for d in service.get("deployments", [])]
            yield {
                "cluster": _name(cluster),
                "service": service["serviceName"],
                "status": service["status"],
                "desired": service["desiredCount"],
                "running": service["runningCount"],
                "pending": service["pendingCount"],
                "task definition": _name(service["taskDefinition"]),
                "deployments": ", ".join(deployments),
            }


def _tasks(ecs: Any, cluster: str) -> Iterator[dict[str, object]]:
    arns = [arn for state in ("RUNNING", "STOPPED") for arn in _list_tasks(ecs, cluster, state)]
    for few in (arns[first : first + 100] for first in range(0, len(arns), 100)):
        for task in ecs.describe_tasks(cluster=cluster, tasks=few)["tasks"]:
            yield {
                "task": _name(task["taskArn"]),
                "group": task.get("group", ""),
                "task definition": _name(task["taskDefinitionArn"]),
                "last status": task["lastStatus"],
                "desired": task["desiredStatus"],
                "zone": task.get("availabilityZone", ""),
                "stopped because": task.get("stoppedReason", ""),
            }


def _list_tasks(ecs: Any, cluster: str, state: str) -> list[str]:
    return _all(ecs, "list_tasks", "taskArns", cluster=cluster, desiredStatus=state)


def _targets(elbv2: Any) -> Iterator[dict[str, object]]:
    for group in _all(elbv2, "describe_target_groups", "TargetGroups"):
        found = elbv2.describe_target_health(TargetGroupArn=group["TargetGroupArn"])[
            "TargetHealthDescriptions"
        ]
        for health in found:
            yield {
                "target group": group["TargetGroupName"],
                "target": f"{health['Target']['Id']}:{health['Target'].get('Port', '')}",
                "state": health["TargetHealth"]["State"],
                "reason": health["TargetHealth"].get("Reason", ""),
            }


def _alarms(cloudwatch: Any) -> Iterator[dict[str, object]]:
    for alarm in _all(cloudwatch, "describe_alarms", "MetricAlarms"):
        yield {
            "alarm": alarm["AlarmName"],
            "state": alarm["StateValue"],
            "since (AWS time)": f"{alarm['StateUpdatedTimestamp']:%Y-%m-%d %H:%M}",
        }


def _all(client: Any, operation: str, key: str, **parameters: Any) -> list[Any]:
    return [item for page in client.get_paginator(operation).paginate(**parameters) for item in page[key]]


def _name(arn: str) -> str:
    return arn.rpartition("/")[2]
