"""Defects of a template tried one by one: what cfn-lint says of each, what AWS answers to its deployment, and the cure.

What AWS answers is read from its records, in its own words: a refused call, the event of a resource that failed, or the
reason that the last task ended for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from helpers import session
from helpers.calls import client, pages, polls
from helpers.display import WIDTH, wrap
from helpers.errors import StackFailed, TutorialError
from helpers.failures import is_failure
from helpers.services import Service, service_of
from helpers.templates import Diff, Finding, Findings, Template, template

if TYPE_CHECKING:
    from pandas import DataFrame

AT_DEPLOY = "at deploy"
AT_START = "when a task starts"
UNDER_LOAD = "when it is to serve"
NEVER = "never"
COLUMNS = ["defect", "cfn-lint", "caught", "symptom", "cure"]
NOT_TELLING = ("#", "- Effect:", "Action:")  # lines of a cure
HALF = 80  # characters of each end of a symptom that is too long for the table
CURE = 44  # characters of a cure in the table; the trial itself shows all of it
LONGEST = 60.0  # AWS minutes that a stack takes to go
PUBLISHED = "as-published"  # the design that is tried; all that is mended in it keeps its Description
HEALTH = "ELB health checks"  # part of the reason of a task that its target group called unhealthy


@dataclass(frozen=True)
class Answer:
    """`caught`: one of the four above. `says`: AWS's words, "" where it had nothing to object to."""

    caught: str
    says: str = ""


@dataclass(frozen=True)
class Trial:
    """One defect. `linted`: what cfn-lint finds with it and not without it. `cure`: from the template to the mended.

    `doctor`: the probable cause, by `diagnose`; "" where there was nothing to look at.
    """

    defect: str
    linted: list[Finding]
    answer: Answer
    cure: Diff
    doctor: str = ""

    @property
    def rules(self) -> str:
        return ", ".join(dict.fromkeys(finding.rule for finding in self.linted)) or "silent"

    @property
    def cured_by(self) -> str:
        """The line that the cure puts in the place of another, or else adds, or removes; and how many more there are."""
        lines = [line for line in _changes(self.cure) if not line[1:].strip().startswith(NOT_TELLING)]
        added = [line for line in lines if line.startswith("+")]
        instead = [new for old, new in pairwise(lines) if (old[0], new[0]) == ("-", "+")]
        first = next(iter([*instead[::-1], *added]), None)
        told = first[1:].strip().removesuffix(":") if first else f"without {lines[0][1:].strip()}"
        told = told if len(told) <= CURE else f"{told[: CURE - 1]}…"
        return f"{told} (and {len(added) - 1} more)" if len(added) > 1 else told

    @property
    def symptom(self) -> str:
        """What AWS says, short enough for a table: its beginning and its end, without what only names a resource."""
        says = re.sub(r"arn:aws:[\w:/.-]+", "…", self.answer.says)
        if len(says) <= 2 * HALF:
            return says or "none"
        end = shorten(says[::-1], HALF, placeholder="")[::-1]
        return f"{shorten(says, HALF, placeholder='')} … {end}"

    def __repr__(self) -> str:
        listed = re.compile(r" is not one of \[.*( \(\w+\))$")
        said = [listed.sub(r" is not one of […]\1", str(finding)) for finding in self.linted]
        aws = f"{self.answer.caught}: {self.answer.says}" if self.answer.says else "takes it, and it works"
        lines = [f"cfn-lint  {line}" for line in said or ["finds nothing"]]
        lines.append(f"AWS       {aws}")
        if self.doctor:
            lines.append(f"doctor    {self.doctor}")
        told = [wrap(line, " " * 10) for line in lines]
        first, *rest = _changes(self.cure)
        return "\n".join([*told, f"cure      {first}", *(f"{'':10}{line}" for line in rest)])


class Trials:
    """`deploy(template)` makes the stack of this name, or changes it, and waits for it. Cluster and service have its name."""

    def __init__(self, stack: str, deploy: Callable[[Template], object]):
        self.stack, self._deploy = stack, deploy
        self._done: dict[str, Trial] = {}
        self._not_made: set[str] = set()  # the defects with which there was no stack, and none came to be

    def from_nothing(self) -> Trials:
        """Without what an earlier run may have left of the stack. TutorialError when that is the lab's own, or another
        than of the design that is tried here."""
        lab = session.connected()
        if lab and lab.name == self.stack:
            raise TutorialError(
                "These trials would delete the stack of the numbered notebooks.",
                seen=f"both are called {self.stack}",
                next="Give the parameter `stack` another name.",
            )
        found = _find(self.stack)
        if found and not _is_of_trials(found):
            raise TutorialError(
                "These trials would delete a stack that something else has made.",
                seen=f"the stack {self.stack}: {found.get('Description') or 'without a description'}",
                next="Give the parameter `stack` another name.",
            )
        if _left(self.stack):
            _delete(self.stack)
        return self

    def __call__(self, defect: str, published: Template, mended: Template) -> Trial:
        """Deploys the one that has the defect, and keeps what is seen. What is left of a failure is cleared away, and so
        is what an interrupted trial left. A defect that kept the stack from being made is tried from nothing again: as
        an update of a stack that works by now, it might change nothing."""
        there = _left(self.stack)
        if there and defect in self._not_made:
            self.from_nothing()
            there = None
        answer, doctor = Answer(NEVER), ""
        try:
            self._deploy(published)
        except (ClientError, StackFailed) as error:
            answer = answer_to(self.stack, error)
            refused = isinstance(error, ClientError)  # and would be again, whatever there is
            doctor = "" if refused else probable_cause(self.stack)
            clear_away(self.stack)
            if not (refused or there):
                self._not_made.add(defect)
        linted, cure = gone(published.lint(), mended.lint()), Diff(published, mended)
        trial = Trial(defect, linted, answer, cure, doctor)
        self._done[defect] = trial
        return trial

    @property
    def table(self) -> DataFrame:
        """A line for each defect, in the order in which they were tried first."""
        from pandas import DataFrame

        rows = [
            (trial.defect, trial.rules, trial.answer.caught, trial.symptom, trial.cured_by)
            for trial in self._done.values()
        ]
        return DataFrame(rows, columns=COLUMNS)


def gone(before: Findings, after: Findings) -> list[Finding]:
    """The findings that are in `before` alone. Lines move with a cure, and so do the names that a rule lists."""

    def known(finding: Finding) -> tuple[str, str]:
        return finding.rule, finding.message.partition(" is not one of ")[0]

    still = {known(finding) for finding in after}
    return [finding for finding in before if known(finding) not in still]


def answer_to(stack: str, error: ClientError | StackFailed) -> Answer:
    """Why a deployment ended with this error, as AWS's records say it."""
    if isinstance(error, ClientError):
        return Answer(AT_DEPLOY, error.response["Error"]["Message"])
    events = pages(
        "cloudformation", "describe_stack_events", "StackEvents", StackName=_find(stack)["StackId"]
    )
    failed = [event for event in events[::-1] if event["ResourceStatus"].endswith("FAILED")]
    reasons = [event.get("ResourceStatusReason", "") for event in failed]
    causes = [reason for reason in reasons if "cancelled" not in reason.lower()]
    if causes:
        return Answer(AT_DEPLOY, plain(causes[0]))
    if service := _service(stack):
        tasks = [task for task in service.stopped_tasks() if is_failure(task)]
        if tasks:
            return _answer_of_task(service, tasks[-1])
    return Answer(AT_START, error.what)


def plain(reason: str) -> str:
    """What the service said, without CloudFormation's and the request's wrapping."""
    told = re.search(r'returned message: "(.*)" \(RequestToken: ', reason, re.DOTALL)
    return re.sub(r" \((?:Service|RequestToken): [^)]*\)$", "", told.group(1) if told else reason)


def _answer_of_task(service: Service, task: dict[str, Any]) -> Answer:
    container = next(iter(task.get("containers", [])), {})
    reason = task.get("stoppedReason", "")
    if HEALTH in reason:  # and the target that could tell why is gone; the service's diary keeps it
        said = [
            event["message"] for event in service.record["events"] if "is unhealthy in" in event["message"]
        ]
        return Answer(UNDER_LOAD, said[0] if said else reason)
    return Answer(AT_START, reason if ":" in reason else container.get("reason") or reason)


def _service(stack: str) -> Service | None:
    resources = client("cloudformation").describe_stack_resources(StackName=stack)["StackResources"]
    for resource in resources:
        if resource["ResourceType"] == "AWS::ECS::Service":
            return service_of(resource.get("PhysicalResourceId", ""))
    return None


def probable_cause(stack: str) -> str:
    from helpers.diagnose import diagnose

    cause = diagnose(cluster=stack, service=stack, stack=stack).cause
    return f"{cause.rule}: {cause.cause}" if cause else ""


def clear_away(stack: str) -> None:
    """Deletes a stack whose creation has failed or does not end, and cancels an update that does not end; waits."""
    found, cloudformation = _find(stack), client("cloudformation")
    if found is None:
        return
    status = found["StackStatus"]
    if status == "UPDATE_IN_PROGRESS":
        try:
            cloudformation.cancel_update_stack(StackName=stack)
        except ClientError as error:  # the update may have come to its end meanwhile
            if error.response["Error"]["Code"] != "ValidationError":
                raise
        _until_at_rest(found)
    elif "UPDATE" not in status and status != "CREATE_COMPLETE":
        _delete(stack)


def _left(stack: str) -> dict[str, Any] | None:
    """What works of a stack is left, at rest: an update may have been on its way back."""
    clear_away(stack)
    if found := _find(stack):
        _until_at_rest(found)
    return found


def _is_of_trials(found: dict[str, Any]) -> bool:
    """By its description; a stack that is only in review has none yet, and no resources."""
    described = re.search(r"^Description: (.+)$", template(PUBLISHED).body, re.MULTILINE)
    return found["StackStatus"] == "REVIEW_IN_PROGRESS" or found.get("Description") == described.group(1)


def _delete(stack: str) -> None:
    found = _find(stack)
    client("cloudformation").delete_stack(StackName=stack)
    _until_at_rest(found)


def _until_at_rest(stack: dict[str, Any]) -> None:
    for _ in polls(LONGEST):
        now = client("cloudformation").describe_stacks(StackName=stack["StackId"])["Stacks"][0]
        if not now["StackStatus"].endswith("IN_PROGRESS"):
            break


def _find(stack: str) -> dict[str, Any] | None:
    try:
        return client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]
    except ClientError as error:
        if "does not exist" not in error.response["Error"]["Message"]:
            raise
        return None


def _changes(cure: Diff) -> list[str]:
    """Its lines without what stays, without their common indentation, each within a page's width."""
    lines = [line for line in cure.lines if line[:1] in "+-" and line[1:].strip()]
    depth = min((len(line[1:]) - len(line[1:].lstrip()) for line in lines), default=0)
    short = (f"{line[0]} {line[1 + depth :]}" for line in lines)
    return [line if len(line) <= WIDTH - 10 else f"{line[: WIDTH - 11]}…" for line in short]
