"""`preview` and `wait_for`: a change set as a table, and a stack's events followed to its outputs."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from helpers.calls import client, pages, patience, polls
from helpers.checks import in_notebook
from helpers.errors import StackFailed, TutorialError
from helpers.failures import Witness
from helpers.services import service_of

if TYPE_CHECKING:
    from pandas import DataFrame

    from helpers.diagnose import Diagnosis
    from helpers.diagnosis.finding import Finding

COLUMNS = ["action", "logical id", "type", "replacement"]
NOTHING = ("didn't contain changes", "No updates are to be performed")
# AWS minutes; a service that never gets steady is given up by ECS and CloudFormation long before.
LONGEST = 60.0
ON_FAILURE = ("raise", "cancel", "wait")
PROBABLE = "probable cause: "
DEPLOYING = ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS")
NEWS = 60.0  # AWS seconds


def preview(change_set: dict | str, stack: str | None = None) -> DataFrame:
    """The changes of a change set, a line per resource: action, logical id, type, replacement.

    `change_set`: what create_change_set or describe_change_set answered, or a name with its `stack`. Waits until
    it is made. Empty when it would change nothing; StackFailed when it could not be made.
    """
    from pandas import DataFrame

    answer = change_set if isinstance(change_set, dict) and "Changes" in change_set else {}
    if isinstance(change_set, dict):
        arguments = {"ChangeSetName": change_set.get("Id") or change_set["ChangeSetId"]}
    else:
        arguments = {"ChangeSetName": change_set} | ({"StackName": stack} if stack else {})
    for _ in polls(LONGEST):
        if answer.get("Status", "CREATE_PENDING") not in ("CREATE_PENDING", "CREATE_IN_PROGRESS"):
            break
        answer = _describe_change_set(arguments)
    reason = answer.get("StatusReason", "")
    if answer["Status"] != "CREATE_COMPLETE" and not any(words in reason for words in NOTHING):
        raise StackFailed(
            f"The change set {answer.get('ChangeSetName')} could not be made.",
            seen=f"{answer['Status']}: {reason}",
            next="Mend the template or its parameters, and make the change set again.",
        )
    changes = [change["ResourceChange"] for change in answer["Changes"]]
    rows = [
        (c["Action"], c["LogicalResourceId"], c["ResourceType"], c.get("Replacement", "")) for c in changes
    ]
    if not rows:
        print("No changes: the stack has all of this already.")
    return DataFrame(rows, columns=COLUMNS)


def _describe_change_set(arguments: dict) -> dict:
    cloudformation = client("cloudformation")
    answer = page = cloudformation.describe_change_set(**arguments)
    while token := page.get("NextToken"):
        page = cloudformation.describe_change_set(**arguments, NextToken=token)
        answer["Changes"] += page["Changes"]
    return answer


def wait_for(stack_name: str, *, on_failure: str = "raise") -> dict[str, str]:
    """Follows a stack until it comes to rest, and returns its outputs; none for a stack that was deleted.

    Of a stack that has been at rest for a while nothing is shown: nothing happened now.
    Raises StackFailed with the first resource that failed and why, also when everything was rolled back. A deployment
    whose tasks fail twice in the same way will not succeed: `on_failure` says what to do then. "raise": at once, with
    the doctor's diagnosis; the stack goes on by itself. "cancel": the same, and an update is cancelled. "wait": follow
    it to its end, which without a circuit breaker may take hours.
    """
    if on_failure not in ON_FAILURE:
        raise TutorialError(
            "There is no such thing to do on a failure.",
            seen=f"on_failure={on_failure!r}",
            next=f"Say one of {', '.join(ON_FAILURE)}.",
        )
    stack = _find(stack_name)
    progress, witness, longest = _Progress(), None, patience(LONGEST)
    diagnosis: Diagnosis | None = None
    for _ in polls(longest):
        status = stack["StackStatus"]
        if status != "DELETE_COMPLETE" or progress.text:  # what was gone before is not told
            events = _events(stack)
            if progress.text or status.endswith("IN_PROGRESS") or _is_news(stack):
                progress.show(events)
            witness = witness or _witness(events)
            if witness and "DELETE" not in status:
                witness.look()
        if witness and not diagnosis and status in DEPLOYING and (failed := witness.repeated()):
            diagnosis = _diagnosis(stack, witness)
            if on_failure != "wait":
                progress.end()
                raise _hopeless(stack, failed, witness, diagnosis, cancel=on_failure == "cancel")
        if not status.endswith("IN_PROGRESS"):
            break
        stack = client("cloudformation").describe_stacks(StackName=stack["StackId"])["Stacks"][0]
    progress.end()
    status, trouble = stack["StackStatus"], witness.tells() if witness else []
    if diagnosis and diagnosis.cause:
        trouble.append(_probable(diagnosis.cause))
    if status.endswith("IN_PROGRESS"):
        raise _failure(
            stack, f"The stack {stack_name} is still {status} after {longest:g} AWS minutes.", trouble
        )
    if status.endswith("FAILED") or "ROLLBACK" in status:
        raise _failure(stack, f"The stack {stack_name} is {status}.", trouble)
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def _diagnosis(stack: dict, witness: Witness) -> Diagnosis:
    from helpers.diagnose import diagnose

    service = witness.service
    return diagnose(cluster=service.cluster, service=service.name, stack=stack["StackName"])


def _hopeless(
    stack: dict, failed: int, witness: Witness, diagnosis: Diagnosis, *, cancel: bool
) -> StackFailed:
    """What is raised while the stack still goes on; `cancel`: an update is cancelled first."""
    name, updating = stack["StackName"], stack["StackStatus"].startswith("UPDATE")
    told = str(diagnosis) if diagnosis.causes else "\n".join(witness.tells())
    if cancel and updating:
        follow = f"{_cancelled(stack)} Then mend the cause, and update it again."
    elif updating:
        follow = (
            f'The update goes on. cancel_update_stack(StackName="{name}") ends it, and wait_for("{name}", '
            'on_failure="wait") follows it to its end. Mend the cause, and update it again.'
        )
    else:
        follow = (
            f'The stack is still being made, and that cannot be cancelled: delete_stack(StackName="{name}"), mend the '
            "cause, and create it again."
        )
    return StackFailed(
        f"The stack {name} will not succeed: {failed} tasks have failed in the same way.",
        seen=told,
        next=follow,
    )


def _cancelled(stack: dict) -> str:
    """Cancels an update, and says what follows. It may have ended since it was looked at: only one that goes on can be
    cancelled."""
    from botocore.exceptions import ClientError

    name, cloudformation = stack["StackName"], client("cloudformation")
    back = f'wait_for("{name}", on_failure="wait") follows the way back.'
    try:
        cloudformation.cancel_update_stack(StackName=name)
    except ClientError as error:
        told = error.response["Error"]
        if told["Code"] != "ValidationError":
            return f"The update could not be cancelled ({told['Code']}: {told.get('Message', '')})."
        status = cloudformation.describe_stacks(StackName=stack["StackId"])["Stacks"][0]["StackStatus"]
        if status == "UPDATE_ROLLBACK_IN_PROGRESS":
            return f"The update had failed before it could be cancelled: {back}"
        return f"The update could not be cancelled: the stack is {status} by now."
    return f"The update is cancelled: {back}"


def _is_news(stack: dict) -> bool:
    """Whether what happened to it last began a moment ago: somebody has just asked for it."""
    from helpers import session

    began = stack.get("LastUpdatedTime") or stack["CreationTime"]
    return (session.current().now() - began).total_seconds() < NEWS


def _find(stack_name: str) -> dict:
    """The stack by its name, or the last one of that name that was deleted."""
    from botocore.exceptions import ClientError

    try:
        return client("cloudformation").describe_stacks(StackName=stack_name)["Stacks"][0]
    except ClientError as error:
        if "does not exist" not in str(error):
            raise
    stacks = pages("cloudformation", "list_stacks", "StackSummaries")
    deleted = [stack for stack in stacks if stack["StackName"] == stack_name]
    if deleted:
        return deleted[0]
    names = ", ".join(s["StackName"] for s in stacks if s["StackStatus"] != "DELETE_COMPLETE") or "none"
    raise TutorialError(
        f"There is no stack {stack_name}.", seen=f"stacks there: {names}", next="Make it, or mend the name."
    )


def _events(stack: dict) -> list[dict]:
    """The events since the last time somebody asked for something, oldest first."""
    since: list[dict] = []
    for event in pages("cloudformation", "describe_stack_events", "StackEvents", StackName=stack["StackId"]):
        since.append(event)
        begins = ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS", "REVIEW_IN_PROGRESS")
        if event.get("PhysicalResourceId") == stack["StackId"] and event["ResourceStatus"] in begins:
            break
    return since[::-1]


def _failure(stack: dict, what: str, trouble: list[str]) -> StackFailed:
    events = _events(stack)
    failed = [e for e in events if e["ResourceStatus"].endswith("FAILED")]
    causes = [e for e in failed if "cancelled" not in e.get("ResourceStatusReason", "").lower()] or failed
    lines = [_cause(causes[0])] if causes else [stack.get("StackStatusReason", "no resource failed")]
    lines += [f"also: {_cause(event)}" for event in causes[1:3]]
    if not trouble and stack["StackStatus"] == "ROLLBACK_COMPLETE" and _by_circuit_breaker(causes[:1]):
        trouble = [
            "Its tasks and their log went with the rollback: wait_for has to follow it from the beginning."
        ]
    lines += trouble
    if not any(line.startswith(PROBABLE) for line in lines):
        lines += _proven(stack, events)
    return StackFailed(what, seen="\n".join(lines), next=_what_next(stack))


def _proven(stack: dict, events: list[dict]) -> list[str]:
    """What the stack's events alone prove; its resources may be gone already."""
    from helpers.diagnosis.facts import Evidence
    from helpers.diagnosis.finding import PROVEN
    from helpers.diagnosis.table import examine

    found = examine(Evidence({"stack": stack, "stack_events": events[::-1]}))
    return [_probable(finding) for finding in found if finding.weight >= PROVEN][:1]


def _probable(finding: Finding) -> str:
    return f"{PROBABLE}{finding.rule}: {finding.cause}"


def _cause(event: dict) -> str:
    return f"{event['LogicalResourceId']} ({event['ResourceType']}): {event.get('ResourceStatusReason', '')}"


def _by_circuit_breaker(events: list[dict]) -> bool:
    return any(
        event["ResourceType"] == "AWS::ECS::Service"
        and "Circuit Breaker" in event.get("ResourceStatusReason", "")
        for event in events
    )


def _witness(events: list[dict]) -> Witness | None:
    """Of the service that an operation creates or updates, once it is there to ask; `events` are the operation's."""
    for event in events:
        found = event["ResourceType"] == "AWS::ECS::Service" and service_of(
            event.get("PhysicalResourceId", "")
        )
        if found:
            return Witness(found, since=events[0]["Timestamp"])
    return None


def _what_next(stack: dict) -> str:
    if stack["StackStatus"] in ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED"):
        return f'Mend the cause, delete what is left (delete_stack(StackName="{stack["StackName"]}")), create it again.'
    if stack["StackStatus"] == "DELETE_FAILED":
        return "Remove what holds the resource, and delete the stack again."
    return "Mend the cause, and update the stack again; the former version is in place."


class _Progress:
    """A table of the stack's resources, redrawn in place; outside a notebook it is printed once, at the end."""

    def __init__(self) -> None:
        self.text, self.handle = "", None

    def show(self, events: list[dict]) -> None:
        from IPython.display import display

        if (text := table(events)) == self.text:
            return
        self.text = text
        if not in_notebook():
            return
        if self.handle is None:
            self.handle = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self.handle.update({"text/plain": text}, raw=True)

    def end(self) -> None:
        if not in_notebook() and self.text:
            print(self.text)


def table(events: list[dict]) -> str:
    """A line per resource in the order they began: status, AWS seconds since it began, name, type.

    Where an update put a new resource in the place of an old one, the line is the new one's, and says of the old one
    how far its deletion is.
    """
    began: dict[str, datetime] = {}
    last: dict[str, dict] = {}
    replaced: dict[str, str] = {}
    for event in events:
        name = event["LogicalResourceId"]
        began.setdefault(name, event["Timestamp"])
        known = last.get(name)
        if known and event["ResourceStatus"].startswith("DELETE") and _another(known, event):
            replaced[name] = f"; the old one: {event['ResourceStatus']}"
        else:
            last[name] = event
    width = max(map(len, last), default=0)
    lines = []
    for name, event in last.items():
        seconds = (event["Timestamp"] - began[name]).total_seconds()
        took = f"{seconds:5.0f} s" if not event["ResourceStatus"].endswith("IN_PROGRESS") else "      …"
        kind = f"{event['ResourceType']}{replaced.get(name, '')}"
        lines.append(f"{event['ResourceStatus']:<28}{took}  {name:<{width}}  {kind}")
    return "\n".join(lines)


def _another(known: dict, event: dict) -> bool:
    return event.get("PhysicalResourceId") != known.get("PhysicalResourceId")
