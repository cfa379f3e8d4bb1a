"""Stands in for CloudFormation's memory: stacks, their resources, events and change sets, and how the API shows them.

Differs: all of it is in this process's memory; deleted stacks can be described by id until the sandbox ends.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from helpers.sandbox.cloudformation.change_sets import Change, Resource, Wanted
from helpers.sandbox.cloudformation.template_language import SSM_TYPE, dependencies, start_order
from helpers.sandbox.resources import TAKES


@dataclass
class ChangeSet:
    name: str
    id: str
    kind: str  # CREATE or UPDATE
    created: datetime
    description: str | None
    wanted: Wanted
    changes: list[Change]
    status: str = "CREATE_COMPLETE"
    reason: str | None = None
    execution: str = "AVAILABLE"


@dataclass
class Stack:
    name: str
    id: str
    region: str
    created: datetime
    status: str = "REVIEW_IN_PROGRESS"
    reason: str | None = None
    wanted: Wanted | None = None  # None while only a change set would create it
    updated: datetime | None = None
    deleted: datetime | None = None
    disable_rollback: bool = False
    protected: bool = False
    deadline: float | None = None  # AWS seconds since 1970: CreateStack's TimeoutInMinutes, while it counts
    recorded: dict[str, Any] = field(default_factory=dict)  # what is told again as it was given
    resources: dict[str, Resource] = field(default_factory=dict)
    garbage: list[Resource] = field(default_factory=list)  # replaced or removed: deleted in the clean-up
    # What a rollback still has to revert: each resource as the update left it, and as it was.
    reverting: list[tuple[Resource, Resource]] = field(default_factory=list)
    outputs: list[dict[str, str]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)  # oldest first
    change_sets: dict[str, ChangeSet] = field(default_factory=dict)
    cancel: threading.Event = field(default_factory=threading.Event)
    busy: threading.RLock = field(default_factory=threading.RLock)  # held while an operation runs

    def order(self) -> list[str]:
        """The resources' names, each after what it needs."""
        definitions = {name: resource.definition for name, resource in self.resources.items()}
        return start_order(dependencies(definitions), lambda name: TAKES.get(self.resources[name].type, 0.0))


def is_true(value: Any) -> bool:
    return str(value).lower() == "true"


def parameters_shape(wanted: Wanted) -> list[dict[str, str]]:
    shapes = []
    for name, value in wanted.parameters.items():
        spec = wanted.body["Parameters"][name]
        shape = {"ParameterKey": name, "ParameterValue": "****" if is_true(spec.get("NoEcho")) else value}
        if SSM_TYPE.fullmatch(spec.get("Type", "")):
            stored = wanted.scope.values[name]
            shape["ResolvedValue"] = ",".join(stored) if isinstance(stored, list) else stored
        shapes.append(shape)
    return shapes


def stack_shape(stack: Stack) -> dict[str, Any]:
    wanted = stack.wanted
    shape: dict[str, Any] = {
        "StackId": stack.id,
        "StackName": stack.name,
        "CreationTime": stack.created,
        "StackStatus": stack.status,
        "DisableRollback": stack.disable_rollback,
        "EnableTerminationProtection": stack.protected,
        "DriftInformation": {"StackDriftStatus": "NOT_CHECKED"},
        "RollbackConfiguration": {},
        "NotificationARNs": [],
        "Capabilities": wanted.capabilities if wanted else [],
        "Parameters": parameters_shape(wanted) if wanted else [],
        "Tags": [{"Key": key, "Value": value} for key, value in wanted.tags.items()] if wanted else [],
        "Outputs": stack.outputs,
        **stack.recorded,
    }
    times = {
        "LastUpdatedTime": stack.updated,
        "DeletionTime": stack.deleted,
        "StackStatusReason": stack.reason,
    }
    described = {"Description": wanted.body["Description"]} if wanted and "Description" in wanted.body else {}
    return shape | {key: value for key, value in times.items() if value} | described


def resource_shape(stack: Stack, resource: Resource) -> dict[str, Any]:
    shape = {
        "StackName": stack.name,
        "StackId": stack.id,
        "LogicalResourceId": resource.logical_id,
        "PhysicalResourceId": resource.physical_id or "",
        "ResourceType": resource.type,
        "Timestamp": resource.updated or stack.created,
        "ResourceStatus": resource.status,
        "DriftInformation": {"StackResourceDriftStatus": "NOT_CHECKED"},
    }
    return shape | ({"ResourceStatusReason": resource.reason} if resource.reason else {})


def change_set_shape(stack: Stack, change_set: ChangeSet) -> dict[str, Any]:
    shape = {
        "ChangeSetName": change_set.name,
        "ChangeSetId": change_set.id,
        "StackId": stack.id,
        "StackName": stack.name,
        "CreationTime": change_set.created,
        "ExecutionStatus": change_set.execution,
        "Status": change_set.status,
        "IncludeNestedStacks": False,
    }
    told = {"StatusReason": change_set.reason, "Description": change_set.description}
    return shape | {key: value for key, value in told.items() if value}
