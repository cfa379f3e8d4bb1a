"""Stands in for CloudFormation's operations on a whole stack: creation, update, deletion, and the way back from each.

Differs: as in `engine.py`. A rollback that failed can be continued, not begun anew by hand (RollbackStack).
"""

from __future__ import annotations

from dataclasses import replace

from botocore.exceptions import ClientError

from helpers.sandbox.cloudformation.change_sets import Resource, Wanted
from helpers.sandbox.cloudformation.engine import Engine, Failure
from helpers.sandbox.cloudformation.handler import handler_code
from helpers.sandbox.cloudformation.records import Stack
from helpers.sandbox.cloudformation.template_language import dependencies

# Of CreateStack's TimeoutInMinutes (docker-archive/ecs-plugin issue 177; C).
TOO_LATE = "Stack creation time exceeded the specified timeout. "


class StackOperations(Engine):
    def _remove(self, stack: Stack, resource: Resource, policy: str = "DeletionPolicy") -> bool:
        """Delete one physical resource, or keep it as its policy says: whether nothing is in the way any more."""
        kept = resource.definition.get(policy, "Delete")
        if kept == "Retain" or (kept == "RetainExceptOnCreate" and "ROLLBACK" not in stack.status):
            self.event(stack, resource, "DELETE_SKIPPED")
            return True
        self.event(stack, resource, "DELETE_IN_PROGRESS")

        def delete() -> None:
            handler = self.handlers[resource.type]
            try:
                handler.delete(
                    self._context(stack, resource), resource.physical_id or "", resource.properties
                )
            except ClientError as error:
                if handler_code(error) != "NotFound":  # gone already is as good as deleted
                    raise

        problem = self._attempt(stack, resource, "deletion", delete) if resource.physical_id else None
        self.event(stack, resource, "DELETE_FAILED" if problem else "DELETE_COMPLETE", problem)
        return not problem

    def _remove_all(self, stack: Stack, retained: set[str]) -> list[str]:
        """Delete a stack's resources, each before what it needs: the names of those that could not be."""
        definitions = {name: resource.definition for name, resource in stack.resources.items()}
        needs, failed = dependencies(definitions), []
        for name in reversed(stack.order()):
            resource = stack.resources[name]
            blocked = any(name in needs[other] for other in failed)
            if name in retained:
                self.event(stack, resource, "DELETE_SKIPPED")
            elif blocked or (
                resource.status not in ("DELETE_COMPLETE", "DELETE_SKIPPED")
                and not self._remove(stack, resource)
            ):
                failed.append(name)
        return failed

    def _clean_up(self, stack: Stack) -> None:
        """Delete what an update replaced or removed. What cannot be deleted is told and left, as on AWS."""
        garbage, stack.garbage = stack.garbage, []
        for resource in garbage:
            current = stack.resources.get(resource.logical_id)
            self._remove(stack, resource, "UpdateReplacePolicy" if current else "DeletionPolicy")

    def create(self, stack: Stack, wanted: Wanted, on_failure: str) -> None:
        failure = self._apply(stack, wanted)
        if stack.status == "DELETE_IN_PROGRESS":
            return  # DeleteStack came in between; its worker goes on from here
        if failure and failure.cancelled:
            failure = Failure(TOO_LATE)
        stack.deadline = None
        if failure is None:
            self.event(stack, None, "CREATE_COMPLETE")
        elif on_failure == "DO_NOTHING":
            self.event(stack, None, "CREATE_FAILED", failure.text)
        elif on_failure == "DELETE":
            self.event(stack, None, "DELETE_IN_PROGRESS", f"{failure.text}Delete requested by user.")
            self.delete(stack, set())
        else:
            self.event(stack, None, "ROLLBACK_IN_PROGRESS", f"{failure.text}Rollback requested by user.")
            failed = self._remove_all(stack, set())
            self.event(stack, None, "ROLLBACK_FAILED" if failed else "ROLLBACK_COMPLETE", _undeleted(failed))

    def delete(self, stack: Stack, retained: set[str]) -> None:
        stack.cancel.clear()  # what stopped the creation must not stop its deletion, too
        stack.deadline = None
        self._clean_up(stack)
        failed = self._remove_all(stack, retained)
        if not failed:
            stack.deleted = self.clock.now()
        self.event(stack, None, "DELETE_FAILED" if failed else "DELETE_COMPLETE", _undeleted(failed))

    def update(self, stack: Stack, wanted: Wanted) -> None:
        previous, before = stack.wanted, {name: replace(one) for name, one in stack.resources.items()}
        order, seen = stack.order(), len(stack.events)
        stack.deadline = None  # it was the creation's
        for resource in stack.resources.values():
            resource.attempted = None
        failure = self._apply(stack, wanted)
        if failure is None:
            stack.garbage += [stack.resources.pop(name) for name in order if name not in wanted.resources]
            place = {name: index for index, name in enumerate(order)}
            stack.garbage.sort(key=lambda one: place.get(one.logical_id, -1), reverse=True)
            self.event(stack, None, "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS")  # from now on none can cancel it
            stack.cancel.clear()
            self._clean_up(stack)
            self.event(stack, None, "UPDATE_COMPLETE")
        elif stack.disable_rollback:
            self.event(stack, None, "UPDATE_FAILED", failure.text)
        else:
            why = "User Initiated" if failure.cancelled else failure.text
            self.event(stack, None, "UPDATE_ROLLBACK_IN_PROGRESS", why)
            touched = {event["LogicalResourceId"] for event in stack.events[seen:]}
            stack.wanted = previous
            self._roll_back(stack, wanted, before, [name for name in order if name in touched])

    def _roll_back(
        self, stack: Stack, wanted: Wanted, before: dict[str, Resource], touched: list[str]
    ) -> None:
        """Undo an update: `before` is each resource as it was, `touched` the names to look at, in order."""
        stack.cancel.clear()
        attempted, stack.resources = stack.resources, before
        stack.garbage = [
            attempted[name]
            for name in reversed(wanted.order())
            if name in attempted
            and (name not in before or attempted[name].physical_id != before[name].physical_id)
        ]
        stack.reverting = [(attempted[name], before[name]) for name in touched]
        self.continue_rollback(stack, set())

    def continue_rollback(self, stack: Stack, skipped: set[str]) -> None:
        """Go on where a rollback failed; `skipped` are taken for reverted as they are."""
        while stack.reverting:
            attempted, old = stack.reverting[0]
            if old.logical_id in skipped:
                self.event(stack, old, "UPDATE_COMPLETE")
            elif not self._revert(stack, attempted, old):
                why = f"The following resource(s) failed to update: [{old.logical_id}]. "
                return self.event(stack, None, "UPDATE_ROLLBACK_FAILED", why)
            del stack.reverting[0]
        self.event(stack, None, "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS")
        self._clean_up(stack)
        return self.event(stack, None, "UPDATE_ROLLBACK_COMPLETE")

    def _revert(self, stack: Stack, attempted: Resource, old: Resource) -> bool:
        """Bring a resource that an update touched back to what it was; if it was replaced, that is still there."""
        handler, context = self.handlers[old.type], self._context(stack, attempted, old.tags)
        problem = None
        if attempted.physical_id == old.physical_id and attempted.attempted is not None:
            tried = attempted.attempted
            self.event(stack, old, "UPDATE_IN_PROGRESS")
            problem = self._attempt(
                stack,
                old,
                "update",
                lambda: handler.update(context, old.physical_id or "", tried, old.properties),
            )
        self.event(stack, old, "UPDATE_FAILED" if problem else "UPDATE_COMPLETE", problem)
        return not problem


def _undeleted(names: list[str]) -> str | None:
    return f"The following resource(s) failed to delete: [{', '.join(names)}]. " if names else None
