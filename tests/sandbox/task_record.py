"""A task as the records have it, for a test that asks about little of it."""

from __future__ import annotations

from typing import Any

from helpers.sandbox.records import Task


def task_record(arn: str, **told: Any) -> Task:
    """`told`: the fields that the test is about; the region is the ARN's."""
    region = arn.split(":")[3]
    rest = {
        "region": region,
        "cluster_arn": "cluster",
        "task_definition_arn": "definition",
        "group": "service:shop",
        "cpu": 256,
        "memory": 512,
        "availability_zone": f"{region}a",
        "subnet_id": "subnet-1",
        "private_ip": "172.31.0.4",
        "eni_id": "eni-1",
        "container_name": "app",
        "image": "image",
        "created_at": 0.0,
    }
    return Task(arn, **(rest | told))
