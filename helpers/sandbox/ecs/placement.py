"""Stands in for what ECS reads and hands out before a task can start: its definition, its subnet, its address.

Differs: addresses go up one by one within the subnet's range where AWS picks any; capacity never runs out, only the
launch quota bounds a start. One container of a task definition runs: the one behind the load balancer or the first
essential one. Secrets, volumes, sidecars and container health checks are left out, and logged. Network
interfaces are not EC2's: DescribeNetworkInterfaces knows none.
"""

from __future__ import annotations

import ipaddress
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from helpers.sandbox.clock import Clock
from helpers.sandbox.endpoint import AwsError
from helpers.sandbox.partitions import arn_of
from helpers.sandbox.records import Records, Task

log = logging.getLogger("sandbox.scheduler")

# Fargate's launch quota (aws-facts 3; B): a token bucket, in tasks and tasks per AWS second, for each region.
QUOTA_BURST, QUOTA_REFILL = 100, 20.0
RESERVED = (
    4  # the first four addresses of a subnet and the last are AWS's (VPC User Guide, "Subnet CIDR blocks")
)
STOP_TIMEOUT = (
    30.0  # real seconds from SIGTERM to SIGKILL unless the container says otherwise (Fargate's default)
)
LEFT_OUT = (
    "secrets",
    "environmentFiles",
    "healthCheck",
    "mountPoints",
    "dependsOn",
    "linuxParameters",
)


@dataclass(frozen=True)
class Definition:
    """A revision of a task definition, as far as a task of ours uses it; `raw` is boto3's shape."""

    arn: str
    family: str
    revision: int
    cpu: int  # CPU units
    memory: int  # MiB
    raw: dict[str, Any] = field(repr=False)
    tags: list[dict[str, str]] = field(default_factory=list, repr=False)

    @property
    def architecture(self) -> str:
        """As AWS writes it: X86_64 or ARM64."""
        return self.raw.get("runtimePlatform", {}).get("cpuArchitecture") or "X86_64"

    def container(self, name: str | None = None) -> dict[str, Any]:
        """The container that runs: the one of this name, else the first essential one."""
        containers = self.raw["containerDefinitions"]
        if name is not None:
            return next(c for c in containers if c["name"] == name)
        return next((c for c in containers if c.get("essential", True)), containers[0])

    def ports(self, container_name: str) -> list[int]:
        return [
            mapping["containerPort"] for mapping in self.container(container_name).get("portMappings", [])
        ]


class Placement:
    """Definitions, subnets, addresses and the launch quota of every region. Calls AWS: hold no lock around it."""

    def __init__(self, clock: Clock, records: Records, aws: Callable[[str, str], Any]):
        self.clock, self.records, self.aws = clock, records, aws
        self._definitions: dict[str, Definition] = {}
        self._subnets: dict[str, tuple[str, ipaddress.IPv4Network]] = {}
        # Called before a task is made: an AwsError of it says why ECS makes none.
        self.launchable: Callable[[Definition], None] = lambda definition: None
        self._next: Counter[str] = Counter()
        self._quota: dict[str, tuple[float, float]] = {}  # region: tokens, as of AWS time

    def definition(self, region: str, reference: str, *, fresh: bool = False) -> Definition:
        """The task definition of this ARN, family:revision or family. AwsError as ECS has it when there is none.

        A revision never changes, so an ARN is read once; `fresh` reads again whether it is still active.
        """
        cached = self._definitions.get(reference)
        if cached and not fresh:
            return cached
        try:
            answer = self.aws("ecs", region).describe_task_definition(
                taskDefinition=reference, include=["TAGS"]
            )
        except ClientError as error:
            raise AwsError("ClientException", "Unable to describe task definition.") from error
        raw = answer["taskDefinition"]
        if raw.get("status") == "INACTIVE":
            raise AwsError("ClientException", "TaskDefinition is inactive")
        arn = raw["taskDefinitionArn"]
        if arn not in self._definitions:
            self._definitions[arn] = Definition(
                arn,
                raw["family"],
                raw["revision"],
                cpu_units(raw.get("cpu")),
                mebibytes(raw.get("memory")),
                raw,
                answer.get("tags", []),
            )
            _tell_left_out(self._definitions[arn])
        return self._definitions[arn]

    def zones(self, region: str, subnet_ids: Iterable[str]) -> dict[str, str]:
        """The availability zone of each subnet. AwsError as ECS has it when one does not exist."""
        subnet_ids = list(subnet_ids)
        for subnet_id in subnet_ids:
            if subnet_id not in self._subnets:
                try:
                    (subnet,) = self.aws("ec2", region).describe_subnets(SubnetIds=[subnet_id])["Subnets"]
                except ClientError as error:
                    told = error.response["Error"]
                    message = f"Error retrieving subnet information for [{subnet_id}]: {told['Message']}"
                    raise AwsError(
                        "InvalidParameterException", f"{message} (ErrorCode: {told['Code']})"
                    ) from error
                network = ipaddress.IPv4Network(subnet["CidrBlock"])
                self._subnets[subnet_id] = subnet["AvailabilityZone"], network
        return {subnet_id: self._subnets[subnet_id][0] for subnet_id in subnet_ids}

    def quota(self, region: str, wanted: int) -> int:
        """Take up to `wanted` launches from the region's quota; how many there were."""
        with self.records.lock:
            now = self.clock.time()
            tokens, since = self._quota.get(region, (float(QUOTA_BURST), now))
            tokens = min(float(QUOTA_BURST), tokens + (now - since) * QUOTA_REFILL)
            granted = min(wanted, int(tokens))
            self._quota[region] = tokens - granted, now
            return granted

    def place(
        self,
        definition: Definition,
        region: str,
        cluster_arn: str,
        group: str,
        network: dict[str, Any],
        container_name: str | None = None,
        **fields: Any,
    ) -> Task:
        """A new task in the zone where its group has fewest, recorded as PROVISIONING."""
        self.launchable(definition)
        vpc = network["awsvpcConfiguration"]
        zones = self.zones(region, vpc["subnets"])
        container = definition.container(container_name)
        ports = definition.ports(container["name"])
        fields.setdefault("container_port", ports[0] if ports else None)
        with self.records.lock:
            others = [
                task
                for task in self.records.tasks.values()
                if task.group == group
                and task.cluster_arn == cluster_arn
                and task.desired_status == "RUNNING"
            ]
            in_zone = Counter(task.availability_zone for task in others)
            in_subnet = Counter(task.subnet_id for task in others)
            subnet = min(zones, key=lambda subnet_id: (in_zone[zones[subnet_id]], in_subnet[subnet_id]))
            cluster = cluster_arn.rsplit("/", 1)[-1]
            task = Task(
                arn=arn_of("ecs", region, f"task/{cluster}/{uuid.uuid4().hex}"),
                region=region,
                cluster_arn=cluster_arn,
                task_definition_arn=definition.arn,
                group=group,
                cpu=fields.pop("cpu", None) or definition.cpu,
                memory=fields.pop("memory", None) or definition.memory,
                availability_zone=zones[subnet],
                subnet_id=subnet,
                private_ip=self._address(subnet),
                eni_id=f"eni-{uuid.uuid4().hex[:17]}",
                container_name=container["name"],
                image=container["image"],
                created_at=self.clock.time(),
                security_groups=list(vpc.get("securityGroups", [])),
                public_ip=vpc.get("assignPublicIp", "DISABLED") == "ENABLED",
                architecture=definition.architecture,
                **fields,
            )
            self.records.tasks[task.arn] = task
        return task

    def _address(self, subnet_id: str) -> str:
        network = self._subnets[subnet_id][1]
        taken = {task.private_ip for task in self.records.tasks.values() if task.last_status != "STOPPED"}
        size = network.num_addresses - RESERVED - 1
        for _ in range(size):
            # Onward even when a lower one is free: an address just left may still be draining.
            address = str(network[RESERVED + self._next[subnet_id] % size])
            self._next[subnet_id] += 1
            if address not in taken:
                return address
        raise AwsError(
            "InvalidParameterException", f"The subnet '{subnet_id}' has no free IP addresses available."
        )


def cpu_units(value: str | None) -> int:
    """CPU units of a task definition's cpu: "256", "1024", ".25 vCPU"."""
    words = (value or "256").split()
    return round(float(words[0]) * 1024) if len(words) > 1 else int(words[0])


def mebibytes(value: str | None) -> int:
    """MiB of a task definition's memory: "512", "0.5 GB"."""
    words = (value or "512").split()
    return round(float(words[0]) * 1024) if len(words) > 1 else int(words[0])


def _tell_left_out(definition: Definition) -> None:
    containers = definition.raw["containerDefinitions"]
    for container in containers:
        left_out = [name for name in LEFT_OUT if container.get(name)]
        if left_out:
            log.info(
                "%s:%d, container %s: %s not acted on",
                definition.family,
                definition.revision,
                container["name"],
                ", ".join(left_out),
            )
    if len(containers) > 1:
        log.info("%s:%d: one container of %d runs", definition.family, definition.revision, len(containers))
