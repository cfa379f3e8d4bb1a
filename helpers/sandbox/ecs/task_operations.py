"""Stands in for the ECS API's operations on tasks: RunTask and StopTask change the records, the others read them.

Differs: a task's state moves with AWS time and its process, never because somebody looks. StartTask is refused:
there are no container instances. Task protection and ECS Exec are not there.
"""

from __future__ import annotations

import uuid
from typing import Any

from helpers.sandbox.ecs.placement import Definition, Placement
from helpers.sandbox.ecs.service_operations import (
    check_network,
    find_cluster,
    invalid,
    launch_type_of,
    network_of,
    page,
)
from helpers.sandbox.ecs.services import PLATFORM_FAMILY, PLATFORM_VERSION, moment
from helpers.sandbox.endpoint import AwsError, Call, Handler
from helpers.sandbox.partitions import arn_of
from helpers.sandbox.records import Records, Task

RUN_AT_MOST = 10  # tasks in one RunTask (ECS API reference)
DESCRIBE_AT_MOST = 100


class TaskCalls:
    def __init__(self, records: Records, placement: Placement):
        self.records, self.placement = records, placement

    def operations(self) -> dict[str, Handler]:
        return {
            "RunTask": self.run_task,
            "StartTask": self.start_task,
            "StopTask": self.stop_task,
            "ListTasks": self.list_tasks,
            "DescribeTasks": self.describe_tasks,
        }

    def run_task(self, call: Call) -> dict[str, Any]:
        asked = call.params
        cluster = find_cluster(self.placement, call)
        definition = self.placement.definition(call.region, asked["taskDefinition"], fresh=True)
        if launch_type_of(asked, cluster) == "EC2":
            raise invalid("No Container Instances were found in your cluster.")
        check_network(self.placement, call, definition, "FARGATE", asked.get("networkConfiguration"))
        count = asked.get("count", 1)
        if not 1 <= count <= RUN_AT_MOST:
            raise invalid(f"Count must be between 1 and {RUN_AT_MOST}.")
        overrides = _overrides(asked.get("overrides", {}), definition)
        if self.placement.quota(call.region, count) < count:
            raise AwsError("ThrottlingException", "Rate exceeded")
        propagated = definition.tags if asked.get("propagateTags") == "TASK_DEFINITION" else []
        managed = [{"key": "aws:ecs:clusterName", "value": cluster["clusterName"]}]
        container = definition.container()["name"]
        environment = _of_container(overrides, container).get("environment", [])
        tasks = [
            self.placement.place(
                definition,
                call.region,
                cluster["clusterArn"],
                asked.get("group") or f"family:{definition.family}",
                network_of(asked),
                cpu=int(overrides["cpu"]) if "cpu" in overrides else None,
                memory=int(overrides["memory"]) if "memory" in overrides else None,
                started_by=asked.get("startedBy"),
                environment={pair["name"]: pair["value"] for pair in environment},
                overrides=overrides,
                execute_command=asked.get("enableExecuteCommand", False),
                tags=[
                    *propagated,
                    *asked.get("tags", []),
                    *(managed if asked.get("enableECSManagedTags") else []),
                ],
            )
            for _ in range(count)
        ]
        with self.records.lock:
            return {"tasks": [describe(task, tags=True) for task in tasks], "failures": []}

    def start_task(self, call: Call) -> dict[str, Any]:
        raise invalid("No Container Instances were found in your cluster. On Fargate, use RunTask.")

    def stop_task(self, call: Call) -> dict[str, Any]:
        cluster = find_cluster(self.placement, call)
        with self.records.lock:
            task = self._find(cluster["clusterArn"], call.params["task"])
            if task is None:
                raise invalid("The referenced task was not found.")
            if task.desired_status == "RUNNING":
                ask_to_stop(
                    task,
                    self.placement.clock.time(),
                    "UserInitiated",
                    call.params.get("reason") or "Task stopped by user",
                )
            return {"task": describe(task)}

    def list_tasks(self, call: Call) -> dict[str, Any]:
        cluster = find_cluster(self.placement, call)
        asked = call.params
        service = asked.get("serviceName", "").rsplit("/", 1)[-1]
        with self.records.lock:
            arns = [
                task.arn
                for task in self.records.tasks.values()
                if task.cluster_arn == cluster["clusterArn"]
                and task.desired_status == asked.get("desiredStatus", "RUNNING")
                and (not service or task.group == f"service:{service}")
                and asked.get("family") in (None, task.task_definition_arn.rsplit("/", 1)[-1].split(":")[0])
                and asked.get("startedBy") in (None, task.deployment_id or task.started_by)
                and asked.get("launchType", "FARGATE") == "FARGATE"
                and not asked.get("containerInstance")
            ]
        return page(call, "taskArns", arns, 100)

    def describe_tasks(self, call: Call) -> dict[str, Any]:
        names = call.params["tasks"]
        if not names:
            raise invalid("Tasks cannot be empty.")
        if len(names) > DESCRIBE_AT_MOST:
            raise invalid(f"You may specify up to {DESCRIBE_AT_MOST} tasks at a time.")
        cluster = find_cluster(self.placement, call)
        tags = "TAGS" in call.params.get("include", [])
        found, failures = [], []
        with self.records.lock:
            for name in names:
                task = self._find(cluster["clusterArn"], name)
                if task:
                    found.append(describe(task, tags=tags))
                else:
                    path = f"task/{cluster['clusterName']}/{name}"
                    missing = name if name.startswith("arn:") else arn_of("ecs", call.region, path)
                    failures.append({"arn": missing, "reason": "MISSING"})
        return {"tasks": found, "failures": failures}

    def _find(self, cluster_arn: str, name_or_arn: str) -> Task | None:
        name = name_or_arn.rsplit("/", 1)[-1]
        for task in self.records.tasks.values():
            if task.id == name and task.cluster_arn == cluster_arn:
                return task
        return None


def ask_to_stop(task: Task, now: float, code: str, reason: str) -> None:
    """From now on the task is to stop; its lifecycle does the rest. Hold the records' lock."""
    task.desired_status, task.stopping_at = "STOPPED", now
    task.stop_code, task.stopped_reason = code, reason
    task.version += 1


def describe(task: Task, *, tags: bool = False) -> dict[str, Any]:
    """boto3's shape of a task."""
    digest = task.image.rpartition("@")[2] if "@" in task.image else None
    container = {
        "containerArn": f"{task.arn.replace(':task/', ':container/')}/{_uuid_like(task.eni_id, task.id)}",
        "taskArn": task.arn,
        "name": task.container_name,
        "image": task.image,
        "imageDigest": digest,
        "runtimeId": f"{task.id}-{int(task.id[:8], 16) % 10**10:010d}" if task.started_at else None,
        "lastStatus": _container_status(task),
        "exitCode": task.exit_code,
        "reason": task.container_reason,
        "networkBindings": [],
        "networkInterfaces": [
            {"attachmentId": _uuid_like(task.eni_id), "privateIpv4Address": task.private_ip}
        ],
        "healthStatus": "UNKNOWN",
        "cpu": str(task.cpu),
        "memory": str(task.memory),
    }
    attached = {
        "PROVISIONING": "PRECREATED",
        "DEPROVISIONING": "DETACHING",
        "STOPPED": "DELETED",
    }
    attachment = {
        "id": _uuid_like(task.eni_id),
        "type": "ElasticNetworkInterface",
        "status": attached.get(task.last_status, "ATTACHED"),
        "details": [
            {"name": "subnetId", "value": task.subnet_id},
            {"name": "networkInterfaceId", "value": task.eni_id},
            {"name": "macAddress", "value": _mac_address(task.eni_id)},
            {"name": "privateDnsName", "value": _dns_name(task)},
            {"name": "privateIPv4Address", "value": task.private_ip},
        ],
    }
    shape = {
        "taskArn": task.arn,
        "clusterArn": task.cluster_arn,
        "taskDefinitionArn": task.task_definition_arn,
        "group": task.group,
        "startedBy": task.deployment_id or task.started_by,
        "lastStatus": task.last_status,
        "desiredStatus": task.desired_status,
        "healthStatus": "UNKNOWN",
        "availabilityZone": task.availability_zone,
        "attachments": [attachment],
        "attributes": [{"name": "ecs.cpu-architecture", "value": task.architecture.lower()}],
        "connectivity": "CONNECTED" if task.connected_at else None,
        "connectivityAt": moment(task.connected_at),
        "containers": [{name: value for name, value in container.items() if value is not None}],
        "cpu": str(task.cpu),
        "memory": str(task.memory),
        "createdAt": moment(task.created_at),
        "pullStartedAt": moment(task.pull_started_at),
        "pullStoppedAt": moment(task.pull_stopped_at),
        "startedAt": moment(task.started_at),
        "stoppingAt": moment(task.stopping_at),
        "executionStoppedAt": moment(task.execution_stopped_at),
        "stoppedAt": moment(task.stopped_at),
        "stopCode": task.stop_code,
        "stoppedReason": task.stopped_reason,
        "enableExecuteCommand": task.execute_command,
        "ephemeralStorage": {"sizeInGiB": 20},
        "launchType": "FARGATE",
        "platformVersion": PLATFORM_VERSION,
        "platformFamily": PLATFORM_FAMILY,
        "overrides": {"containerOverrides": [{"name": task.container_name}], **task.overrides},
        "version": task.version,
        "tags": task.tags if tags else [],
    }
    return {name: value for name, value in shape.items() if value is not None}


def _container_status(task: Task) -> str:
    if task.execution_stopped_at or task.last_status == "STOPPED":
        return "STOPPED"
    return "RUNNING" if task.started_at else "PENDING"


def _uuid_like(*parts: str) -> str:
    """An id that stays the same for the same parts."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "/".join(parts)))


def _overrides(asked: dict[str, Any], definition: Definition) -> dict[str, Any]:
    names = {container["name"] for container in definition.raw["containerDefinitions"]}
    for override in asked.get("containerOverrides", []):
        if override.get("name") not in names:
            raise invalid(
                f"Override for container named {override.get('name')} is not a container in the TaskDefinition."
            )
    return asked


def _of_container(overrides: dict[str, Any], name: str) -> dict[str, Any]:
    return next((o for o in overrides.get("containerOverrides", []) if o.get("name") == name), {})


def _mac_address(eni_id: str) -> str:
    digits = eni_id[-10:]
    return ":".join(["0a", *(digits[i : i + 2] for i in range(0, 10, 2))])


def _dns_name(task: Task) -> str:
    domain = "ec2.internal" if task.region == "us-east-1" else f"{task.region}.compute.internal"
    return f"ip-{task.private_ip.replace('.', '-')}.{domain}"
