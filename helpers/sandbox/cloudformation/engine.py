"""Stands in for CloudFormation's engine: brings a stack's resources, one by one, to what its template wants.

Differs: one worker per stack operation does one resource after the other, in the order in which AWS's parallel start
would begin them; so one failure is told of where AWS tells of the others that were under way as cancelled. Properties
are validated when a resource's turn comes. Whole operations on a stack are in `stack_operations.py`.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from helpers.sandbox.clock import Clock
from helpers.sandbox.cloudformation.change_sets import Resource, Wanted
from helpers.sandbox.cloudformation.handler import (
    Cancelled,
    Context,
    Handler,
    HandlerError,
    reason,
)
from helpers.sandbox.cloudformation.records import Stack
from helpers.sandbox.cloudformation.schemas import schema
from helpers.sandbox.cloudformation.template_language import (
    Scope,
    TemplateError,
    dependencies,
    resolve,
    start_order,
)
from helpers.sandbox.endpoint import Aws
from helpers.sandbox.resources import TAKES

log = logging.getLogger("sandbox.stacks")


@dataclass
class Failure:
    """Why an operation stopped, as the stack's status says it."""

    text: str
    cancelled: bool = False


def in_a_thread(name: str, work: Callable[[], None]) -> None:
    threading.Thread(target=work, name=name, daemon=True).start()


class Engine:
    """Works on stacks. `start` runs an operation's worker, `wait` pauses it (real seconds)."""

    def __init__(
        self,
        clock: Clock,
        aws: Aws,
        handlers: dict[str, Handler],
        start: Callable[[str, Callable[[], None]], None] = in_a_thread,
        wait: Callable[[float], Any] = time.sleep,
    ):
        self.clock, self.aws, self.handlers, self.start, self.wait = clock, aws, handlers, start, wait

    def event(self, stack: Stack, resource: Resource | None, status: str, why: str | None = None) -> None:
        now = self.clock.now()
        target: Any = resource or stack
        target.status, target.reason = status, why
        if resource:
            resource.updated = now
        event = {
            "StackId": stack.id,
            "StackName": stack.name,
            "EventId": f"{resource.logical_id}-{status}-{uuid.uuid4()}" if resource else str(uuid.uuid4()),
            "LogicalResourceId": resource.logical_id if resource else stack.name,
            "PhysicalResourceId": (resource.physical_id or "") if resource else stack.id,
            "ResourceType": resource.type if resource else "AWS::CloudFormation::Stack",
            "Timestamp": now,
            "ResourceStatus": status,
            **({"ResourceStatusReason": why} if why else {}),
            **({"ResourceProperties": json.dumps(resource.properties)} if resource else {}),
        }
        stack.events.append(event)
        log.info("%s %s %s %s", stack.name, event["LogicalResourceId"], status, why or "")

    def begin(self, stack: Stack, status: str, work: Callable[[], None], why: str = "User Initiated") -> None:
        """Show the stack in progress, then let a worker do the operation."""
        self.event(stack, None, status, why)

        def worker() -> None:
            with stack.busy:
                try:
                    work()
                except Exception as error:
                    log.exception("stack %s: the engine failed", stack.name)
                    ended = re.sub("(_COMPLETE_CLEANUP)?_IN_PROGRESS", "_FAILED", stack.status)
                    self.event(stack, None, ended, f"Internal Failure: {type(error).__name__}: {error}")

        self.start(f"stack-{stack.name}", worker)

    def stops(self, stack: Stack) -> bool:
        """Whether the running operation is to stop: somebody cancelled it, or the stack's own time limit is over."""
        return stack.cancel.is_set() or (stack.deadline is not None and self.clock.time() >= stack.deadline)

    def _scope(self, stack: Stack, wanted: Wanted) -> Scope:
        resources = stack.resources
        return replace(
            wanted.scope,
            ref=lambda name: resources[name].physical_id,
            attribute=lambda name, attribute: self.attribute(stack, resources[name], attribute),
        )

    def attribute(self, stack: Stack, resource: Resource, name: str) -> Any:
        context, handler = self._context(stack, resource), self.handlers[resource.type]
        try:
            return handler.describe(context, resource.physical_id or "", resource.properties)[name]
        except (KeyError, IndexError, ValueError, StopIteration, ClientError) as error:
            raise TemplateError(
                f"Unable to retrieve {name} attribute for {resource.type}: {error}"
            ) from error

    def _context(self, stack: Stack, resource: Resource, tags: dict[str, str] | None = None) -> Context:
        def own(given: dict[str, str]) -> dict[str, str]:
            system = {"stack-name": stack.name, "stack-id": stack.id, "logical-id": resource.logical_id}
            return {**{f"aws:cloudformation:{key}": value for key, value in system.items()}, **given}

        def initiated(physical_id: str) -> None:
            resource.physical_id = physical_id
            self.event(stack, resource, resource.status, "Resource creation Initiated")

        return Context(
            lambda service: self.aws(service, stack.region),
            *(self.clock, self.wait, stack.name, resource.logical_id),
            tags=own(resource.tags if tags is None else tags),
            old_tags=own(resource.tags),
            initiated=initiated,
            cancelled=lambda: self.stops(stack),
        )

    def _attempt(self, stack: Stack, resource: Resource, verb: str, work: Callable[[], Any]) -> str | None:
        """Do one resource operation: why it failed, in AWS's words, or None."""
        token = str(uuid.uuid4())
        client = self.aws(self.handlers[resource.type].service, stack.region)
        self.clock.sleep(0)  # while AWS time stands still, nothing is begun
        try:
            work()
        except Cancelled:
            return f"Resource {verb} cancelled"
        except TemplateError as error:
            return str(error)
        except (ClientError, HandlerError, BotoCoreError) as error:
            return reason(error, client, token)
        except Exception as error:  # a fault of ours must not leave the stack in progress for ever
            log.exception(
                "stack %s: %s of %s failed inside the sandbox", stack.name, verb, resource.logical_id
            )
            return reason(error, client, token)
        return None

    def _apply(self, stack: Stack, wanted: Wanted) -> Failure | None:
        """Bring every resource to what is wanted, then resolve the outputs; stop at the first failure."""
        stack.wanted = wanted
        kinds = {name: definition["Type"] for name, definition in wanted.resources.items()}
        for name in start_order(dependencies(wanted.resources), lambda name: TAKES.get(kinds[name], 0.0)):
            if failure := self._put(stack, wanted, name):
                return failure
        scope = self._scope(stack, wanted)
        outputs = []
        for name, spec in wanted.outputs.items():
            try:
                value = resolve(spec["Value"], scope)
                export = resolve(spec.get("Export", {}), scope).get("Name")
            except TemplateError as error:
                return Failure(f"Output {name}: {error}. ")
            output = {"OutputKey": name, "OutputValue": str(value)}
            output |= {"Description": spec["Description"]} if "Description" in spec else {}
            outputs.append(output | ({"ExportName": export} if export else {}))
        stack.outputs = outputs
        return None

    def _put(self, stack: Stack, wanted: Wanted, name: str) -> Failure | None:
        """Create, update or replace one resource, or leave it if nothing of it changes."""
        definition, current = wanted.resources[name], stack.resources.get(name)
        if current and current.physical_id and not current.exists:  # what an earlier failed operation left
            stack.garbage.append(current)
        if current is None or not current.exists:
            current = stack.resources[name] = Resource(name, definition["Type"], definition)
        if self.stops(stack):
            return Failure("", cancelled=True)
        kind, handler, properties = schema(current.type), self.handlers[current.type], {}

        def prepare() -> None:
            resolved = resolve(definition.get("Properties", {}), self._scope(stack, wanted))
            conformed, problems = kind.conform(resolved)
            if problems:
                lead = f"Properties validation failed for resource {name} with message:"
                raise TemplateError(
                    f"{lead} {problems[0]}" if len(problems) == 1 else "\n".join([lead, *problems])
                )
            refused = handler.unsupported(conformed)
            if current.exists:
                refused += [
                    key for key in handler.fixed.split() if conformed.get(key) != current.properties.get(key)
                ]
            if refused:
                how = "a change of " if current.exists else ""
                raise TemplateError(
                    f"the sandbox does not support {how}{', '.join(refused)} of {current.type}"
                )
            properties.update(conformed)

        def create() -> None:
            handler.create(self._context(stack, current, wanted.tags), properties)

        def update() -> None:
            current.attempted = properties
            context = self._context(stack, current, wanted.tags)
            handler.update(context, current.physical_id or "", current.properties, properties)

        problem = self._attempt(stack, current, "preparation", prepare)
        if not current.exists:
            current.properties = properties
            self.event(stack, current, "CREATE_IN_PROGRESS")
            problem = problem or self._attempt(stack, current, "creation", create)
            return self._ended(stack, current, "create", problem, wanted, properties)
        keys = {
            key
            for key in properties.keys() | current.properties.keys()
            if properties.get(key) != current.properties.get(key)
        }
        if not problem and not keys and (current.tags == wanted.tags or not kind.taggable):
            current.definition, current.tags = definition, wanted.tags
            return None
        if not problem and keys & (kind.create_only | kind.conditional):
            return self._replace(stack, wanted, current, properties)
        self.event(stack, current, "UPDATE_IN_PROGRESS")
        problem = problem or self._attempt(stack, current, "update", update)
        return self._ended(stack, current, "update", problem, wanted, properties)

    def _replace(
        self, stack: Stack, wanted: Wanted, old: Resource, properties: dict[str, Any]
    ) -> Failure | None:
        handler = self.handlers[old.type]
        new = replace(old, physical_id=None, properties=properties, status="UPDATE_IN_PROGRESS")
        why = "Requested update requires the creation of a new physical resource; hence creating one."
        self.event(stack, old, "UPDATE_IN_PROGRESS", why)

        def create() -> None:
            own_name = properties.get(handler.name) if handler.name else None
            if own_name and own_name == old.properties.get(handler.name):
                raise TemplateError(
                    "CloudFormation cannot update a stack when a custom-named resource requires replacing. "
                    f"Rename {own_name} and update the stack again."
                )
            handler.create(self._context(stack, new, wanted.tags), properties)

        problem = self._attempt(stack, old, "update", create)
        if new.physical_id is None:
            return self._ended(stack, old, "update", problem, wanted, properties)
        stack.resources[old.logical_id] = new
        stack.garbage.append(old)
        return self._ended(stack, new, "update", problem, wanted, properties)

    def _ended(
        self,
        stack: Stack,
        resource: Resource,
        verb: str,
        problem: str | None,
        wanted: Wanted,
        properties: dict[str, Any],
    ) -> Failure | None:
        name = resource.logical_id
        if problem:
            self.event(stack, resource, f"{verb.upper()}_FAILED", problem)
            failed = f"The following resource(s) failed to {verb}: [{name}]. "
            return Failure(failed, cancelled=problem.endswith("cancelled"))
        resource.properties, resource.tags = properties, wanted.tags
        resource.definition = wanted.resources[name]
        self.event(stack, resource, f"{verb.upper()}_COMPLETE")
        return None
