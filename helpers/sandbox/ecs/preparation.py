"""Stands in for what ECS and Fargate (platform version 1.4.0) do before a container starts.

In this order: ECS assumes the roles, or there is no task at all; then, as the execution role and through the task's own
network interface, Fargate asks ECR for a token, looks the image's manifest up, opens the log stream and fetches the
layers. What is missing stops the task (TaskFailedToStart). The order is read from reports in which one failure came to
light after the other was mended (C).

Differs: what is asked is the records of IAM and EC2, not the services themselves, which no credentials are needed for
here. Where there is no way, three attempts fail at once, and the last is told when Fargate would have given up.
Repository policies are not asked.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from helpers.sandbox.ecr.references import Reference
from helpers.sandbox.ecr.snapshots import CannotPullContainer
from helpers.sandbox.ecs import stopped_reasons as reasons
from helpers.sandbox.ecs.placement import STOP_TIMEOUT, Definition
from helpers.sandbox.endpoint import ACCOUNT, AwsError
from helpers.sandbox.fargate.runtime import CannotPullContainerError, RunningTask, TaskSpec
from helpers.sandbox.iam.roles import Roles, role_name
from helpers.sandbox.logs import LogRefused, ResourceInitializationError, stream_name
from helpers.sandbox.partitions import arn_of, partition_of, url_suffix
from helpers.sandbox.records import Task

log = logging.getLogger("sandbox.scheduler")

PRINCIPAL = "ecs-tasks.amazonaws.com"
# AWS seconds from a task's creation until Fargate stops it because nobody answers: 4 min 49 s, once measured with a
# security group without egress, on ECR's API (C). For the registry, S3 and the logs it is not established (U).
GIVES_UP = 289.0
PLATFORMS = {"X86_64": "linux/amd64", "ARM64": "linux/arm64"}


class UnableToAssume(AwsError):
    """ECS cannot assume a task's role: RunTask's answer, and a service's event. No task comes into being."""

    def __init__(self, role: str):
        super().__init__("ClientException", reasons.unable_to_assume(role))


class Images(Protocol):
    def read(self, image: str) -> Reference | None:
        """What a reference means in ECR; None where it is of no ECR."""

    def find(self, image: str, platform: str) -> None:
        """CannotPullContainer when the registry has no such image, or its index not this platform."""


class Network(Protocol):
    def way_out(
        self, region: str, subnet_id: str, security_groups: list[str], *, public_ip: bool, service: str
    ) -> str | None:
        """None if a task there reaches a service of AWS (ecr.api, ecr.dkr, s3, logs); else why not."""


class Logs(Protocol):
    def open_stream(self, task: Task, container: dict[str, Any]) -> tuple[str, str] | None: ...
    def deliver(self, task: RunningTask) -> None: ...


class Preparation:
    """What is not given is not asked: with `logs` alone every image is there, and every role may do all."""

    def __init__(
        self,
        logs: Logs,
        roles: Roles | None = None,
        images: Images | None = None,
        network: Network | None = None,
    ):
        self.logs, self.roles, self.images, self.network = logs, roles, images, network

    def assume(self, definition: Definition) -> None:
        """UnableToAssume unless ECS may assume the definition's roles."""
        for kind in ("executionRoleArn", "taskRoleArn"):
            role, region = definition.raw.get(kind), definition.arn.split(":")[3]
            context = {"aws:sourcearn": arn_of("ecs", region, "*"), "aws:requestedregion": region}
            if role and self.roles and not self.roles.trusts(role, PRINCIPAL, context):
                raise UnableToAssume(role)

    def prepare(
        self, task: Task, definition: Definition, container: dict[str, Any]
    ) -> tuple[str, str] | None:
        """All that comes before the container; its log group and stream, None when it logs nowhere.

        ResourceInitializationError, CannotPullContainerError. Takes no AWS time: an error's `takes` says how much.
        """
        attempt = _Attempt(self, task, definition)
        if self.images is None:
            return self._open_stream(attempt, container)
        image = container["image"]
        reference = self.images.read(image)
        if reference is not None:
            attempt.authorize(reference)
            attempt.ask_for_manifest(image, reference)
        try:
            self.images.find(image, PLATFORMS.get(definition.architecture, definition.architecture))
        except CannotPullContainer as error:
            raise CannotPullContainerError(error.reason) from error
        stream = self._open_stream(attempt, container)
        if reference is not None:
            attempt.ask_for_layers(image, reference)
        return stream

    def _open_stream(self, attempt: _Attempt, container: dict[str, Any]) -> tuple[str, str] | None:
        attempt.ask_for_stream(container)
        try:
            return self.logs.open_stream(attempt.task, container)
        except LogRefused as refused:
            reason = reasons.logs_refused(refused.operation, str(refused), attempt.task.id)
            raise ResourceInitializationError(reason) from refused


class _Attempt:
    """One task's calls to AWS, each by its way out and by its role."""

    def __init__(self, preparation: Preparation, task: Task, definition: Definition):
        self.task = task
        self._network, self._roles = preparation.network, preparation.roles
        self._role: str | None = definition.raw.get("executionRoleArn")

    def authorize(self, reference: Reference) -> None:
        if self._no_way("ecr.api"):
            raise ResourceInitializationError(
                reasons.registry_auth_timed_out(self.task.region), takes=GIVES_UP
            )
        if refusal := self._refusal("ecr:GetAuthorizationToken", "*", reference.region):
            raise ResourceInitializationError(reasons.registry_auth_denied(refusal, self.task.id))

    def ask_for_manifest(self, image: str, reference: Reference) -> None:
        registry = _registry(reference)
        digest_or_tag = next(iter(reference.image.values()))
        path = f"{reference.repository}/manifests/{digest_or_tag}"
        if self._no_way("ecr.dkr"):
            raise CannotPullContainerError(reasons.manifest_timed_out(image, registry, path), takes=GIVES_UP)
        if self._refusal("ecr:BatchGetImage", _arn(reference), reference.region):
            raise CannotPullContainerError(reasons.manifest_denied(image, registry, path))

    def ask_for_stream(self, container: dict[str, Any]) -> None:
        configuration = container.get("logConfiguration") or {}
        if configuration.get("logDriver") != "awslogs":
            return
        options = configuration.get("options", {})
        region = options.get("awslogs-region", self.task.region)
        group = arn_of("logs", region, f"log-group:{options.get('awslogs-group', '')}:log-stream:")
        stream = stream_name(options.get("awslogs-stream-prefix"), container["name"], self.task.id)
        if self._no_way("logs"):
            raise ResourceInitializationError(reasons.logs_timed_out(), takes=GIVES_UP)
        creates = [("CreateLogStream", group + stream)]
        if options.get("awslogs-create-group") == "true":
            creates.insert(0, ("CreateLogGroup", group))
        for operation, resource in creates:
            if refusal := self._refusal(f"logs:{operation}", resource, region):
                reason = reasons.logs_refused(operation, f"AccessDeniedException: {refusal}", self.task.id)
                raise ResourceInitializationError(reason)

    def ask_for_layers(self, image: str, reference: Reference) -> None:
        if self._refusal("ecr:GetDownloadUrlForLayer", _arn(reference), reference.region):
            raise CannotPullContainerError(reasons.layers_denied(_registry(reference), reference.repository))
        if self._no_way("s3"):
            host = f"s3.{reference.region}.{url_suffix(reference.region)}"
            raise CannotPullContainerError(reasons.layers_timed_out(image, host), takes=GIVES_UP)

    def _no_way(self, service: str) -> bool:
        task = self.task
        why = self._network and self._network.way_out(
            task.region, task.subnet_id, task.security_groups, public_ip=task.public_ip, service=service
        )
        if why:
            log.info("task %s: no way to %s: %s", task.id, service, why)
        return bool(why)

    def _refusal(self, action: str, resource: str, region: str) -> str | None:
        """What AWS in a region answers the execution role; None if it may."""
        if self._roles is None or self._role is None:
            return None
        why = self._roles.why_not(self._role, action, resource, {"aws:requestedregion": region})
        if why is None:
            return None
        user = (
            f"arn:{partition_of(region)}:sts::{ACCOUNT}:assumed-role/{role_name(self._role)}/{self.task.id}"
        )
        return reasons.access_denied(user, action, resource, why)


def task_spec(
    task: Task, definition: Definition, container: dict[str, Any], stream: tuple[str, str] | None
) -> TaskSpec:
    """What the runtime is to start for a task."""
    override = next(
        (o for o in task.overrides.get("containerOverrides", []) if o.get("name") == container["name"]), {}
    )
    environment = {pair["name"]: pair["value"] for pair in container.get("environment", [])}
    return TaskSpec(
        task_arn=task.arn,
        region=task.region,
        cluster_arn=task.cluster_arn,
        family=definition.family,
        revision=definition.revision,
        availability_zone=task.availability_zone,
        private_ip=task.private_ip,
        container_name=task.container_name,
        image=task.image,
        command=override.get("command") or container.get("command") or None,
        environment=environment | task.environment,
        container_port=task.container_port,
        cpu=task.cpu,
        memory=task.memory,
        stop_timeout=float(container.get("stopTimeout") or STOP_TIMEOUT),
        log_group=stream[0] if stream else None,
        log_stream=stream[1] if stream else None,
        entry_point=container.get("entryPoint") or None,
        user=container.get("user") or None,
        working_directory=container.get("workingDirectory") or None,
        read_only_root=container.get("readonlyRootFilesystem", False),
        ulimits=tuple(
            (limit["name"], limit["softLimit"], limit["hardLimit"]) for limit in container.get("ulimits", [])
        ),
        architecture=definition.architecture,
    )


def _registry(reference: Reference) -> str:
    """The host that a repository has on AWS."""
    return f"{reference.account or ACCOUNT}.dkr.ecr.{reference.region}.{url_suffix(reference.region)}"


def _arn(reference: Reference) -> str:
    return arn_of("ecr", reference.region, f"repository/{reference.repository}", reference.account or ACCOUNT)
