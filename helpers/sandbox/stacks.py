"""Stands in for CloudFormation's API: stacks and change sets. What they do is in
cloudformation/stack_operations.py.

Differs: no stack policies, imports, drift detection, nested stacks, hooks and TemplateURL; a call that asks for one is
refused. Names of exports are recorded only. A change set is ready at once.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from helpers.sandbox.clock import Clock
from helpers.sandbox.cloudformation.change_sets import Change, Wanted, outputs_differ, plan
from helpers.sandbox.cloudformation.engine import in_a_thread
from helpers.sandbox.cloudformation.handler import Handler
from helpers.sandbox.cloudformation.records import (
    ChangeSet,
    Stack,
    change_set_shape,
    is_true,
    parameters_shape,
    resource_shape,
    stack_shape,
)
from helpers.sandbox.cloudformation.stack_operations import StackOperations
from helpers.sandbox.cloudformation.template_inputs import TemplateInputs, capabilities_of
from helpers.sandbox.cloudformation.template_language import TemplateError
from helpers.sandbox.endpoint import READS, Aws, AwsError, Call
from helpers.sandbox.endpoint import Handler as ApiHandler
from helpers.sandbox.partitions import arn_of
from helpers.sandbox.resources import HANDLERS

log = logging.getLogger("sandbox.stacks")

UPDATABLE = (
    "CREATE_COMPLETE",
    "UPDATE_COMPLETE",
    "UPDATE_ROLLBACK_COMPLETE",
    "CREATE_FAILED",
    "UPDATE_FAILED",
)


class CloudFormation:
    """`start` runs an operation's worker, `wait` pauses it (real seconds)."""

    def __init__(
        self,
        clock: Clock,
        aws: Aws,
        *,
        start: Callable[[str, Callable[[], None]], None] = in_a_thread,
        wait: Callable[[float], Any] = time.sleep,
        handlers: dict[str, Handler] = HANDLERS,
    ):
        self.clock = clock
        self.stacks: dict[str, Stack] = {}  # by id; deleted ones stay
        self._engine = StackOperations(clock, aws, handlers, start, wait)
        self._inputs = TemplateInputs(aws, handlers)
        self._lock = threading.RLock()  # held by calls that change something

    def operations(self) -> dict[tuple[str, str], ApiHandler]:
        own: tuple[ApiHandler, ...] = (
            self.create_stack,
            self.update_stack,
            self.delete_stack,
            self.cancel_update_stack,
            self.continue_update_rollback,
            self.update_termination_protection,
            self.describe_stacks,
            self.list_stacks,
            self.describe_stack_events,
            self.describe_stack_resources,
            self.describe_stack_resource,
            self.list_stack_resources,
            self.get_template,
            self.get_template_summary,
            self.validate_template,
            self.create_change_set,
            self.describe_change_set,
            self.list_change_sets,
            self.execute_change_set,
            self.delete_change_set,
        )
        named = {"".join(word.capitalize() for word in one.__name__.split("_")): one for one in own}
        return {("cloudformation", name): self._answering(name, handler) for name, handler in named.items()}

    def _answering(self, name: str, handler: ApiHandler) -> ApiHandler:
        def answer(call: Call) -> dict[str, Any]:
            try:
                if name.startswith(READS):
                    return handler(call)
                with self._lock:
                    return handler(call)
            except TemplateError as error:
                raise AwsError("ValidationError", str(error)) from error

        return answer

    # --- stacks ----------------------------------------------------------------------------------------------

    def _here(self, call: Call) -> list[Stack]:
        """The stacks of a call's region, newest first."""
        return [stack for stack in reversed(list(self.stacks.values())) if stack.region == call.region]

    def _find(
        self, call: Call, message: str = "Stack with id {} does not exist", live: bool = False
    ) -> Stack:
        """The stack of a call's StackName: a name means the one that lives, an id a deleted one too unless `live`."""
        wanted = call.params.get("StackName") or ""
        for stack in self._here(call):
            alive = stack.status != "DELETE_COMPLETE"
            meant = stack.id == wanted or (stack.name == wanted and alive)
            if meant and (alive or not live):
                return stack
        raise TemplateError(message.format(wanted))

    def _new(self, call: Call) -> Stack:
        name, region = call.params["StackName"], call.region
        if not re.fullmatch("[a-zA-Z][-a-zA-Z0-9]{0,127}", name):
            raise TemplateError(
                f"1 validation error detected: Value '{name}' at 'stackName' failed to satisfy constraint: "
                "Member must satisfy regular expression pattern: [a-zA-Z][-a-zA-Z0-9]*"
            )
        stack_id = arn_of("cloudformation", region, f"stack/{name}/{uuid.uuid4()}")
        return Stack(name, stack_id, region, self.clock.now())

    def _living(self, call: Call) -> Stack | None:
        try:
            return self._find(call, live=True)
        except TemplateError:
            return None

    def _note(self, stack: Stack, params: dict[str, Any]) -> None:
        stack.recorded |= {key: params[key] for key in ("RoleARN", "NotificationARNs") if params.get(key)}
        stack.disable_rollback = bool(params.get("DisableRollback"))

    def create_stack(self, call: Call) -> dict[str, Any]:
        params = call.params
        if self._living(call):
            raise AwsError("AlreadyExistsException", f"Stack [{params['StackName']}] already exists")
        stack = self._new(call)
        wanted = self._inputs.wanted(params, stack)
        self.stacks[stack.id] = stack
        self._note(stack, params)
        stack.protected = bool(params.get("EnableTerminationProtection"))
        on_failure = "DO_NOTHING" if stack.disable_rollback else params.get("OnFailure") or "ROLLBACK"
        stack.wanted = wanted
        if minutes := params.get("TimeoutInMinutes"):
            stack.recorded["TimeoutInMinutes"] = minutes
            stack.deadline = self.clock.time() + 60 * minutes
        self._engine.begin(
            stack, "CREATE_IN_PROGRESS", lambda: self._engine.create(stack, wanted, on_failure)
        )
        return {"StackId": stack.id}

    def update_stack(self, call: Call) -> dict[str, Any]:
        stack = self._updatable(call)
        wanted = self._inputs.wanted(call.params, stack)
        if not self._plan(stack, wanted) and not (stack.wanted and outputs_differ(stack.wanted, wanted)):
            raise TemplateError("No updates are to be performed.")
        self._start_update(stack, wanted, call.params)
        return {"StackId": stack.id}

    def _updatable(self, call: Call) -> Stack:
        stack = self._find(call, "Stack [{}] does not exist", live=True)
        if stack.status not in UPDATABLE:
            raise TemplateError(f"Stack:{stack.id} is in {stack.status} state and can not be updated.")
        return stack

    def _plan(self, stack: Stack, wanted: Wanted) -> list[Change]:
        return plan(
            stack.resources, stack.wanted, wanted, lambda one, name: self._engine.attribute(stack, one, name)
        )

    def _start_update(self, stack: Stack, wanted: Wanted, params: dict[str, Any]) -> None:
        self._note(stack, params)
        stack.cancel.clear()  # one that came too late to cancel anything is not the next update's
        for change_set in stack.change_sets.values():
            if change_set.execution == "AVAILABLE":
                change_set.execution = "OBSOLETE"  # it describes a stack that is no more
        stack.updated = self.clock.now()
        self._engine.begin(stack, "UPDATE_IN_PROGRESS", lambda: self._engine.update(stack, wanted))

    def delete_stack(self, call: Call) -> dict[str, Any]:
        stack = self._living(call)
        if stack is None or stack.status == "DELETE_IN_PROGRESS":
            return {}
        if stack.protected:
            raise TemplateError(
                f"Stack [{stack.name}] cannot be deleted while TerminationProtection is enabled",
            )
        if stack.status == "CREATE_IN_PROGRESS":
            stack.cancel.set()
        elif stack.status.endswith("IN_PROGRESS") and stack.status != "REVIEW_IN_PROGRESS":
            raise TemplateError(f"Stack [{stack.id}] cannot be deleted while in status {stack.status}")
        retained = set(call.params.get("RetainResources") or [])
        if retained and stack.status != "DELETE_FAILED":
            only = "specify which resources to retain only when the stack is in the DELETE_FAILED state."
            told = f"Invalid operation on stack [{stack.id}]. When you delete a stack, {only}"
            raise TemplateError(told)
        self._engine.begin(stack, "DELETE_IN_PROGRESS", lambda: self._engine.delete(stack, retained))
        return {}

    def cancel_update_stack(self, call: Call) -> dict[str, Any]:
        stack = self._find(call, "Stack [{}] does not exist", live=True)
        if stack.status != "UPDATE_IN_PROGRESS":
            raise TemplateError("CancelUpdateStack cannot be called from current stack status")
        stack.cancel.set()
        return {}

    def continue_update_rollback(self, call: Call) -> dict[str, Any]:
        stack = self._find(call, "Stack [{}] does not exist", live=True)
        if stack.status != "UPDATE_ROLLBACK_FAILED":
            told = "state can not have its update rollback continued."  # the wording is ours
            raise TemplateError(f"Stack:{stack.id} is in {stack.status} {told}")
        skipped = set(call.params.get("ResourcesToSkip") or [])
        self._engine.begin(
            stack, "UPDATE_ROLLBACK_IN_PROGRESS", lambda: self._engine.continue_rollback(stack, skipped)
        )
        return {}

    def update_termination_protection(self, call: Call) -> dict[str, Any]:
        stack = self._find(call, "Stack [{}] does not exist", live=True)
        stack.protected = bool(call.params["EnableTerminationProtection"])
        return {"StackId": stack.id}

    def describe_stacks(self, call: Call) -> dict[str, Any]:
        if call.params.get("StackName"):
            return {"Stacks": [stack_shape(self._find(call))]}
        return {"Stacks": [stack_shape(one) for one in self._here(call) if one.status != "DELETE_COMPLETE"]}

    def list_stacks(self, call: Call) -> dict[str, Any]:
        asked = set(call.params.get("StackStatusFilter") or [])
        stacks = [one for one in self._here(call) if not asked or one.status in asked]
        kept = ("StackId", "StackName", "CreationTime", "LastUpdatedTime", "DeletionTime", "StackStatus")
        summaries = []
        for shape in map(stack_shape, stacks):
            summary = {
                key: shape[key] for key in (*kept, "StackStatusReason", "DriftInformation") if key in shape
            }
            described = {"TemplateDescription": shape["Description"]} if "Description" in shape else {}
            summaries.append(summary | described)
        return {"StackSummaries": summaries}

    def describe_stack_events(self, call: Call) -> dict[str, Any]:
        return {"StackEvents": list(reversed(self._find(call, "Stack [{}] does not exist").events))}

    def describe_stack_resources(self, call: Call) -> dict[str, Any]:
        if physical := call.params.get("PhysicalResourceId"):
            for stack in self._here(call):
                resources = list(stack.resources.values())
                if any(one.physical_id == physical for one in resources):
                    return {"StackResources": [resource_shape(stack, one) for one in resources]}
            raise TemplateError(f"Stack for {physical} does not exist")
        stack, asked = self._find(call), call.params.get("LogicalResourceId")
        found = [one for one in list(stack.resources.values()) if asked in (None, one.logical_id)]
        return {"StackResources": [resource_shape(stack, one) for one in found]}

    def describe_stack_resource(self, call: Call) -> dict[str, Any]:
        stack, name = self._find(call, "Stack '{}' does not exist"), call.params["LogicalResourceId"]
        if name not in stack.resources:
            raise TemplateError(f"Resource {name} does not exist for stack {stack.name}")
        shape = resource_shape(stack, stack.resources[name])
        return {"StackResourceDetail": {**shape, "LastUpdatedTimestamp": shape.pop("Timestamp")}}

    def list_stack_resources(self, call: Call) -> dict[str, Any]:
        stack, summaries = self._find(call), []
        for resource in list(stack.resources.values()):
            shape = resource_shape(stack, resource)
            shape["LastUpdatedTimestamp"] = shape.pop("Timestamp")
            summaries.append(
                {key: value for key, value in shape.items() if key not in ("StackName", "StackId")}
            )
        return {"StackResourceSummaries": summaries}

    # --- templates -------------------------------------------------------------------------------------------

    def get_template(self, call: Call) -> dict[str, Any]:
        if call.params.get("ChangeSetName"):
            wanted: Wanted | None = self._change_set(call)[1].wanted
        else:
            wanted = self._find(call).wanted
        return {"TemplateBody": wanted.text if wanted else "", "StagesAvailable": ["Original", "Processed"]}

    def validate_template(self, call: Call) -> dict[str, Any]:
        _, body = self._inputs.read(call.params, None)
        capabilities, why = capabilities_of(body)
        answer: dict[str, Any] = {"Parameters": []}
        for name, spec in body.get("Parameters", {}).items():
            one = {
                "ParameterKey": name,
                "NoEcho": is_true(spec.get("NoEcho")),
                "Description": spec.get("Description", ""),
            }
            answer["Parameters"].append(
                one | ({"DefaultValue": str(spec["Default"])} if "Default" in spec else {})
            )
        answer |= {"Description": body["Description"]} if "Description" in body else {}
        return answer | ({"Capabilities": capabilities, "CapabilitiesReason": why} if capabilities else {})

    def get_template_summary(self, call: Call) -> dict[str, Any]:
        if call.params.get("StackName"):
            wanted = self._find(call).wanted
            body = wanted.body if wanted else {"Resources": {}}
        else:
            _, body = self._inputs.read(call.params, None)
        capabilities, why = capabilities_of(body)
        parameters = []
        for name, spec in body.get("Parameters", {}).items():
            allowed = (
                {"AllowedValues": [str(one) for one in spec["AllowedValues"]]}
                if "AllowedValues" in spec
                else {}
            )
            parameter = {
                "ParameterKey": name,
                "ParameterType": spec.get("Type", "String"),
                "NoEcho": is_true(spec.get("NoEcho")),
                "ParameterConstraints": allowed,
                "Description": spec.get("Description", ""),
            }
            parameters.append(
                parameter | ({"DefaultValue": str(spec["Default"])} if "Default" in spec else {})
            )
        return {
            "Parameters": parameters,
            "ResourceTypes": sorted({one["Type"] for one in body["Resources"].values()}),
            **({"Description": body["Description"]} if "Description" in body else {}),
            **({"Version": body["AWSTemplateFormatVersion"]} if "AWSTemplateFormatVersion" in body else {}),
            **({"Capabilities": capabilities, "CapabilitiesReason": why} if capabilities else {}),
        }

    # --- change sets -----------------------------------------------------------------------------------------

    def create_change_set(self, call: Call) -> dict[str, Any]:
        params, kind = call.params, call.params.get("ChangeSetType") or "UPDATE"
        if kind not in ("CREATE", "UPDATE"):
            raise TemplateError(f"the sandbox does not support change sets of type {kind}")
        name = params["ChangeSetName"]
        if kind == "CREATE":
            stack = self._living(call) or self._new(call)
            if stack.status != "REVIEW_IN_PROGRESS":
                told = "already exists and cannot be created again with the changeSet"
                raise TemplateError(f"Stack [{stack.name}] {told} [{name}].")
        else:
            stack = self._updatable(call)
        if name in stack.change_sets and stack.change_sets[name].execution != "EXECUTE_COMPLETE":
            raise AwsError("AlreadyExistsException", f"ChangeSet {name} already exists")
        wanted = self._inputs.wanted(params, stack)
        if stack.id not in self.stacks:
            self.stacks[stack.id] = stack
            self._engine.event(stack, None, "REVIEW_IN_PROGRESS", "User Initiated")
        change_set_id = arn_of("cloudformation", stack.region, f"changeSet/{name}/{uuid.uuid4()}")
        changes = self._plan(stack, wanted)
        change_set = ChangeSet(
            name, change_set_id, kind, self.clock.now(), params.get("Description"), wanted, changes
        )
        if not changes and not (stack.wanted and outputs_differ(stack.wanted, wanted)):
            change_set.status, change_set.execution = "FAILED", "UNAVAILABLE"
            change_set.reason = (
                "The submitted information didn't contain changes. "
                "Submit different information to create a change set."
            )
        stack.change_sets[name] = change_set
        log.info("%s change set %s: %s, %d changes", stack.name, name, change_set.status, len(changes))
        return {"Id": change_set_id, "StackId": stack.id}

    def _change_set(self, call: Call) -> tuple[Stack, ChangeSet]:
        asked = call.params["ChangeSetName"]
        stacks = [self._find(call)] if call.params.get("StackName") else self._here(call)
        for stack in stacks:
            for change_set in stack.change_sets.values():
                if change_set.id == asked or (change_set.name == asked and call.params.get("StackName")):
                    return stack, change_set
        raise AwsError("ChangeSetNotFound", f"ChangeSet [{asked}] does not exist", 404)

    def describe_change_set(self, call: Call) -> dict[str, Any]:
        stack, change_set = self._change_set(call)
        values = bool(call.params.get("IncludePropertyValues"))
        return {
            **change_set_shape(stack, change_set),
            "Changes": [change.shown(values) for change in change_set.changes],
            "Parameters": parameters_shape(change_set.wanted),
            "Capabilities": change_set.wanted.capabilities,
            "Tags": [{"Key": key, "Value": value} for key, value in change_set.wanted.tags.items()],
        }

    def list_change_sets(self, call: Call) -> dict[str, Any]:
        stack = self._find(call, "Stack [{}] does not exist", live=True)
        return {"Summaries": [change_set_shape(stack, one) for one in stack.change_sets.values()]}

    def execute_change_set(self, call: Call) -> dict[str, Any]:
        stack, change_set = self._change_set(call)
        wanted = change_set.wanted
        if change_set.execution != "AVAILABLE":
            state = change_set.status if change_set.status == "FAILED" else change_set.execution
            told = f"ChangeSet [{change_set.id}] cannot be executed in its current status of [{state}]"
            raise AwsError("InvalidChangeSetStatus", told)
        change_set.execution = "EXECUTE_COMPLETE"
        stack.change_sets = {change_set.name: change_set}  # the others describe a stack that is no more
        stack.recorded["ChangeSetId"] = change_set.id
        if stack.status != "REVIEW_IN_PROGRESS":
            self._start_update(stack, wanted, call.params)
            return {}
        self._note(stack, call.params)
        stack.wanted = wanted
        on_failure = "DO_NOTHING" if stack.disable_rollback else "ROLLBACK"
        self._engine.begin(
            stack, "CREATE_IN_PROGRESS", lambda: self._engine.create(stack, wanted, on_failure)
        )
        return {}

    def delete_change_set(self, call: Call) -> dict[str, Any]:
        stack, change_set = self._change_set(call)
        del stack.change_sets[change_set.name]
        return {}
