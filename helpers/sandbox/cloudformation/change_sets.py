"""Stands in for CloudFormation's change sets: what a new template, other parameters or other tags would change.

Differs: what refers to a resource whose replacement is Conditional is not listed for that, and AWS's nested details
(Path, AfterValueFrom) are left out. The reading is a pure function of the stack's records and of what is wanted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from helpers.sandbox.cloudformation.schemas import schema
from helpers.sandbox.cloudformation.template_language import (
    UNKNOWN,
    Scope,
    TemplateError,
    dependencies,
    names_in,
    references,
    resolve,
    start_order,
)


@dataclass(frozen=True)
class Wanted:
    """What a stack is to be: a checked template and everything given beside it. Branches and conditions are chosen."""

    text: str
    body: dict[str, Any]
    parameters: dict[str, str]  # as text, as they were given
    scope: Scope  # parameters typed, pseudo parameters, mappings, conditions; no resource yet
    resources: dict[str, Any]
    outputs: dict[str, Any]
    tags: dict[str, str]
    capabilities: list[str]

    def order(self) -> list[str]:
        return start_order(dependencies(self.resources))


@dataclass
class Resource:
    """One resource of a stack. `properties` and `tags` (the stack's) as they were last applied."""

    logical_id: str
    type: str
    definition: dict[str, Any]
    physical_id: str | None = None
    properties: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    status: str = "CREATE_IN_PROGRESS"
    reason: str | None = None
    updated: datetime | None = None
    attempted: dict[str, Any] | None = None  # what the running operation's update tried to make of it

    @property
    def exists(self) -> bool:
        return self.physical_id is not None and self.status not in ("CREATE_FAILED", "DELETE_COMPLETE")


@dataclass
class Change:
    action: str  # Add, Modify or Remove
    logical_id: str
    type: str
    physical_id: str | None = None
    details: list[dict[str, Any]] = field(default_factory=list)

    @property
    def replacement(self) -> str:
        """Whether the resource is replaced: True, False or, if only executing can tell, Conditional."""
        grades = {
            "Conditional"
            if d["Evaluation"] == "Dynamic" or d["Target"]["RequiresRecreation"] != "Always"
            else "True"
            for d in self.details
            if d["Target"]["RequiresRecreation"] != "Never"
        }
        return "True" if "True" in grades else "Conditional" if grades else "False"

    def shown(self, values: bool) -> dict[str, Any]:
        """In DescribeChangeSet's shape; with the properties' values before and after if asked for."""
        change: dict[str, Any] = {
            "Action": self.action,
            "LogicalResourceId": self.logical_id,
            "ResourceType": self.type,
            "Scope": sorted({detail["Target"]["Attribute"] for detail in self.details}),
            "Details": [self._detail(detail, values) for detail in self.details],
        }
        if self.physical_id:
            change["PhysicalResourceId"] = self.physical_id
        if self.action == "Modify":
            change["Replacement"] = self.replacement
        if self.action == "Remove" or (self.action == "Modify" and self.replacement != "False"):
            change["PolicyAction"] = "Delete" if self.action == "Remove" else "ReplaceAndDelete"
        return {"Type": "Resource", "ResourceChange": change}

    @staticmethod
    def _detail(detail: dict[str, Any], values: bool) -> dict[str, Any]:
        hidden = () if values else ("BeforeValue", "AfterValue")
        return {**detail, "Target": {key: one for key, one in detail["Target"].items() if key not in hidden}}


def plan(
    current: dict[str, Resource],
    before: Wanted | None,
    wanted: Wanted,
    attribute: Callable[[Resource, str], Any],
) -> list[Change]:
    """What would change, in the order of execution, removals last. `attribute(resource, name)`: Fn::GetAtt's value now."""
    current = {name: resource for name, resource in current.items() if resource.exists}
    switched = [n for n, one in wanted.resources.items() if n in current and current[n].type != one["Type"]]
    if switched:
        told = "The new template modifies resource type of the following resources"
        raise TemplateError(f"Update of resource type is not permitted. {told}: [{', '.join(switched)}]")
    changes: dict[str, Change] = {}

    def replaced(name: str) -> bool:
        return name not in current or (name in changes and changes[name].replacement == "True")

    scope = replace(
        wanted.scope,
        ref=lambda name: UNKNOWN if replaced(name) else current[name].physical_id,
        attribute=lambda name, one: UNKNOWN if replaced(name) else attribute(current[name], one),
    )
    parameters = {
        name
        for name, value in wanted.parameters.items()
        if before is None or before.parameters.get(name) != value
    }
    for name in wanted.order():
        definition = wanted.resources[name]
        if name not in current:
            changes[name] = Change("Add", name, definition["Type"])
        elif details := _details(current[name], definition, scope, wanted.tags, parameters, changes.keys()):
            changes[name] = Change("Modify", name, definition["Type"], current[name].physical_id, details)
    gone = [name for name in current if name not in wanted.resources]
    return [
        *changes.values(),
        *(Change("Remove", name, current[name].type, current[name].physical_id) for name in gone),
    ]


def outputs_differ(before: Wanted, wanted: Wanted) -> bool:
    changed = [name for name, value in wanted.parameters.items() if before.parameters.get(name) != value]
    return before.outputs != wanted.outputs or bool(names_in(wanted.outputs, changed))


def _details(
    resource: Resource,
    definition: dict[str, Any],
    scope: Scope,
    tags: dict[str, str],
    parameters: set[str],
    changed: Iterable[str],
) -> list[dict[str, Any]]:
    kind, old_raw, raw = (
        schema(resource.type),
        resource.definition.get("Properties", {}),
        definition.get("Properties", {}),
    )
    new, _ = kind.conform(resolve(raw, scope))
    details = []
    for name in sorted(resource.properties.keys() | new.keys()):
        values = resource.properties.get(name), new.get(name)
        causes = _causes(raw.get(name), parameters, set(changed))
        if values[0] == values[1]:  # an attribute of a resource that changes may be another one afterwards
            causes = [cause for cause in causes if cause[0] == "ResourceAttribute"]
        elif old_raw.get(name) != raw.get(name) or not causes:
            causes = [("DirectModification", "Static", None)]
        for source, evaluation, entity in causes:
            details.append(_detail(name, kind, source, evaluation, entity, values))
    stack_tags = {
        key for key in resource.tags.keys() | tags.keys() if resource.tags.get(key) != tags.get(key)
    }
    if kind.taggable and stack_tags and not any(one["Target"]["Attribute"] == "Tags" for one in details):
        details.append(_detail("Tags", kind, "DirectModification", "Static", None, (resource.tags, tags)))
    if resource.definition.get("Metadata") != definition.get("Metadata"):
        target = {"Attribute": "Metadata", "RequiresRecreation": "Never"}
        details.append({"Target": target, "Evaluation": "Static", "ChangeSource": "DirectModification"})
    return details


def _causes(raw: Any, parameters: set[str], changed: set[str]) -> list[tuple[str, str, str | None]]:
    """(ChangeSource, Evaluation, CausingEntity) for everything that changes and that a property refers to."""
    causes: list[tuple[str, str, str | None]] = []
    for name in sorted(names_in(raw, parameters)):
        causes += [("ParameterReference", "Static", name), ("DirectModification", "Dynamic", None)]
    causes += [("ResourceReference", "Static", name) for name in sorted(names_in(raw, changed))]
    attributes = sorted({(name, one) for name, one in references(raw) if one is not None and name in changed})
    return causes + [
        ("ResourceAttribute", "Dynamic", f"{name}.{attribute}") for name, attribute in attributes
    ]


def _detail(
    name: str, kind: Any, source: str, evaluation: str, entity: str | None, values: tuple[Any, Any]
) -> dict[str, Any]:
    target: dict[str, Any] = {"Attribute": "Tags" if name == "Tags" else "Properties"}
    if name != "Tags":
        target["Name"] = name
    often = {True: "Always"} if name in kind.create_only else {name in kind.conditional: "Conditionally"}
    target["RequiresRecreation"] = often.get(True, "Never")
    for key, value in zip(("BeforeValue", "AfterValue"), values, strict=True):
        if value is not None:
            target[key] = value if isinstance(value, str) else json.dumps(value)
    detail = {"Target": target, "Evaluation": evaluation, "ChangeSource": source}
    return {**detail, "CausingEntity": entity} if entity else detail
