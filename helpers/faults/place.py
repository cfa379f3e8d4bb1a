"""`Place`: what AWS's API shows of a lab's service, asked anew each time, and the few calls that several faults share."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from helpers.calls import client, target_groups
from helpers.services import Service

# What describe_task_definition answers and register_task_definition takes, too.
REVISION = (
    "family",
    "taskRoleArn",
    "executionRoleArn",
    "networkMode",
    "containerDefinitions",
    "volumes",
    "requiresCompatibilities",
    "cpu",
    "memory",
    "runtimePlatform",
    "ephemeralStorage",
)
BREAKER = {"enable": True, "rollback": True}  # the template's
NO_BREAKER = {"enable": False, "rollback": False}


@dataclass(frozen=True)
class Place:
    """A lab's cluster, service, stack and repository, all of the lab's name. `since`: the AWS time from which a stopped
    task or an event counts."""

    name: str
    region: str
    since: datetime | None = field(default=None, compare=False)

    @property
    def service(self) -> Service:
        return Service(self.name, self.name)

    @property
    def stack(self) -> dict[str, Any]:
        return client("cloudformation").describe_stacks(StackName=self.name)["Stacks"][0]

    @property
    def outputs(self) -> dict[str, str]:
        return {output["OutputKey"]: output["OutputValue"] for output in self.stack["Outputs"]}

    def resource(self, logical_id: str) -> str:
        """The physical id of a resource of the stack."""
        answer = client("cloudformation").describe_stack_resource(
            StackName=self.name, LogicalResourceId=logical_id
        )
        return answer["StackResourceDetail"]["PhysicalResourceId"]

    @property
    def template_body(self) -> str:
        """As the stack has it now."""
        return client("cloudformation").get_template(StackName=self.name)["TemplateBody"]

    @property
    def revision(self) -> dict[str, Any]:
        """The task definition of the newest deployment."""
        return self._definition(self.service.record["taskDefinition"])

    @property
    def stack_revision(self) -> dict[str, Any]:
        """The stack's task definition, whatever the service runs."""
        return self._definition(self.outputs["TaskDefinitionArn"])

    def _definition(self, arn: str) -> dict[str, Any]:
        return client("ecs").describe_task_definition(taskDefinition=arn)["taskDefinition"]

    @property
    def target_group(self) -> dict[str, Any]:
        arns = target_groups(self.service.record)
        return client("elbv2").describe_target_groups(TargetGroupArns=arns)["TargetGroups"][0]

    @property
    def target_health(self) -> list[dict[str, Any]]:
        arn = target_groups(self.service.record)[0]
        answer = client("elbv2").describe_target_health(TargetGroupArn=arn)
        return [entry["TargetHealth"] for entry in answer["TargetHealthDescriptions"]]

    @property
    def repository_uri(self) -> str:
        answer = client("ecr").describe_repositories(repositoryNames=[self.name])
        return answer["repositories"][0]["repositoryUri"]

    def deploy(self, container: dict[str, Any] | None = None, **changes: Any) -> None:
        """A revision like the stack's but for `changes`, those of its one container apart, rolled out by hand and
        without a circuit breaker, which would take it back."""
        old = self.stack_revision
        first, *others = old["containerDefinitions"]
        new = {key: old[key] for key in REVISION if key in old}
        new |= {"containerDefinitions": [first | (container or {}), *others]} | changes
        made = client("ecs").register_task_definition(**new)["taskDefinition"]["taskDefinitionArn"]
        self.update(taskDefinition=made, deploymentConfiguration={"deploymentCircuitBreaker": NO_BREAKER})

    def update(self, **changes: Any) -> None:
        client("ecs").update_service(cluster=self.name, service=self.name, **changes)

    def lose_a_task(self) -> None:
        """What happens every week by itself: one goes, and another must start in its place."""
        ecs = client("ecs")
        tasks = ecs.list_tasks(cluster=self.name, serviceName=self.name)["taskArns"]
        if tasks:
            ecs.stop_task(cluster=self.name, task=tasks[0], reason="Task retirement")

    def stopped(self) -> list[dict[str, Any]]:
        """What describe_tasks says of the tasks that ended since."""
        tasks = self.service.stopped_tasks()
        return [task for task in tasks if self.since is None or task["createdAt"] >= self.since]

    def events(self) -> list[str]:
        """The service's since then, newest first."""
        events = self.service.record["events"]
        return [e["message"] for e in events if self.since is None or e["createdAt"] >= self.since]

    # What a symptom is made of

    def stopped_with(self, *words: str) -> bool:
        """Whether a task, or an event, gives one of these as the reason since."""
        told = [
            f"{task.get('stoppedReason', '')} {_container(task).get('reason', '')}" for task in self.stopped()
        ]
        return any(word in text for text in [*told, *self.events()] for word in words)

    def ended_with(self, *codes: int) -> bool:
        """Whether a task's container has ended with one of these exit codes since."""
        return any(_container(task).get("exitCode") in codes for task in self.stopped())

    def health_failed(self) -> bool:
        """Whether ECS has taken a task for unhealthy since."""
        return any("is unhealthy in (target-group" in message for message in self.events())


def _container(task: dict[str, Any]) -> dict[str, Any]:
    return next(iter(task.get("containers", [])), {})
