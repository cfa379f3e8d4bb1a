"""helpers/trials.py: what a deployment is said to have ended with, read from AWS's answers as AWS gives them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from helpers import trials
from helpers.errors import StackFailed, TutorialError
from helpers.templates import Diff, Finding, Findings, Template
from helpers.trials import Answer, Trial, Trials

BODY = "Resources:\n  A:\n    Type: AWS::SNS::Topic\n    Properties:\n      TopicName: {}\n"
STACK = {"StackId": "arn:aws:cloudformation:us-east-1:1:stack/shop/1"}
UNATTACHED = (
    "Invalid request provided: CreateService error: The target group with targetGroupArn arn:aws:elasticloadbalancing:"
    "us-east-1:1:targetgroup/a/1 does not have an associated load balancer."
)
WRAPPED = (
    f'Resource handler returned message: "{UNATTACHED} (Service: Ecs, Status Code: 400, Request ID: 1-2)" '
    "(RequestToken: 3, HandlerErrorCode: InvalidRequest)"
)
SERVICE = {
    "ResourceType": "AWS::ECS::Service",
    "PhysicalResourceId": "arn:aws:ecs:us-east-1:1:service/shop/shop",
}


def design(name: str) -> Template:
    return Template("a", BODY.format(name))


class Aws:
    """CloudFormation and ECS as far as an answer is read from them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: Any):
        self.asked: list[tuple[str, dict]] = []
        self.answers = answers
        monkeypatch.setattr(trials, "client", lambda name: self)
        monkeypatch.setattr(trials, "polls", lambda minutes: iter([None] * 3))
        monkeypatch.setattr(trials, "pages", lambda name, operation, key, **_: answers.get(operation, []))
        monkeypatch.setattr(trials.Service, "stopped_tasks", lambda _: answers.get("stopped", []))
        unwell = (
            "(service shop) (port 3000) is unhealthy in (target-group tg) due to (reason Request timed out)"
        )
        told = [{"message": "(service shop) has stopped 1 running tasks."}, {"message": unwell}]
        monkeypatch.setattr(trials.Service, "record", {"events": told})

    def __getattr__(self, operation: str) -> Any:
        def answer(**asked: Any) -> Any:
            self.asked.append((operation, asked))
            return self.answers.get(operation, {})

        return answer


def failed(status: str, reason: str) -> dict[str, str]:
    return {"ResourceStatus": status, "ResourceStatusReason": reason}


def task(reason: str, container: str = "", code: str = "TaskFailedToStart") -> dict[str, Any]:
    return {"stoppedReason": reason, "stopCode": code, "containers": [{"reason": container}]}


def test_a_refused_call_is_told_in_its_own_words():
    refused = ClientError(
        {"Error": {"Code": "ValidationError", "Message": "Template format error"}}, "CreateChangeSet"
    )
    assert trials.answer_to("shop", refused) == Answer(trials.AT_DEPLOY, "Template format error")


def test_of_the_resources_that_failed_the_first_tells_and_no_cancelled_one(monkeypatch):
    events = [  # newest first
        failed("CREATE_FAILED", "Resource creation cancelled"),
        failed("CREATE_FAILED", WRAPPED),
        failed("CREATE_FAILED", "Resource creation cancelled"),
    ]
    Aws(monkeypatch, describe_stacks={"Stacks": [STACK]}, describe_stack_events=events)
    assert trials.answer_to("shop", StackFailed("no")) == Answer(trials.AT_DEPLOY, UNATTACHED)


@pytest.mark.parametrize(
    ("stopped", "caught", "says"),
    [
        (
            task("CannotPullContainerError: invalid reference format"),
            trials.AT_START,
            "CannotPullContainerError: invalid reference format",
        ),
        (
            task("Task failed to start", "CannotPullContainerError: no"),
            trials.AT_START,
            "CannotPullContainerError: no",
        ),
        (
            task("Task failed ELB health checks in (target-group tg)", code="ServiceSchedulerInitiated"),
            trials.UNDER_LOAD,
            "(service shop) (port 3000) is unhealthy in (target-group tg) due to (reason Request timed out)",
        ),
    ],
)
def test_else_the_last_task_tells(monkeypatch, stopped, caught, says):
    Aws(
        monkeypatch,
        describe_stacks={"Stacks": [STACK]},
        describe_stack_resources={"StackResources": [SERVICE]},
        stopped=[task("earlier"), stopped],
    )
    assert trials.answer_to("shop", StackFailed("no")) == Answer(caught, says)


def test_without_any_of_these_the_error_itself_tells(monkeypatch):
    Aws(
        monkeypatch,
        describe_stacks={"Stacks": [STACK]},
        describe_stack_resources={"StackResources": [{"ResourceType": "AWS::SNS::Topic"}]},
    )
    assert trials.answer_to("shop", StackFailed("It hangs.")).says == "It hangs."


@pytest.mark.parametrize(
    ("status", "done"),
    [
        ("CREATE_IN_PROGRESS", "delete_stack"),
        ("ROLLBACK_COMPLETE", "delete_stack"),
        ("CREATE_FAILED", "delete_stack"),
        ("REVIEW_IN_PROGRESS", "delete_stack"),
        ("UPDATE_IN_PROGRESS", "cancel_update_stack"),
        ("UPDATE_ROLLBACK_COMPLETE", None),
        ("UPDATE_COMPLETE", None),
        ("CREATE_COMPLETE", None),
    ],
)
def test_what_is_left_of_a_failure_goes_and_what_works_stays(monkeypatch, status, done):
    aws = Aws(monkeypatch, describe_stacks={"Stacks": [STACK | {"StackStatus": status}]})
    trials.clear_away("shop")
    assert [asked for asked, _ in aws.asked if not asked.startswith("describe")] == [done] * bool(done)


@pytest.mark.parametrize(
    ("statuses", "done"),
    [
        (["CREATE_COMPLETE"], ["delete_stack"]),
        (["UPDATE_IN_PROGRESS"], ["cancel_update_stack", "delete_stack"]),
        ([], []),
    ],
)
def test_one_begins_from_nothing(monkeypatch, statuses, done):
    aws = Aws(monkeypatch, describe_stacks={"Stacks": [STACK | {"StackStatus": s} for s in statuses]})
    if not statuses:
        monkeypatch.setattr(trials, "_find", lambda stack: None)
    Trials("shop", lambda template: None).from_nothing()
    assert [asked for asked, _ in aws.asked if not asked.startswith("describe")] == done


def test_the_stack_of_the_numbered_notebooks_is_not_deleted(monkeypatch):
    aws = Aws(monkeypatch, describe_stacks={"Stacks": [STACK]})
    monkeypatch.setattr(trials.session, "connected", lambda: SimpleNamespace(name="shop"))
    with pytest.raises(TutorialError, match="numbered notebooks"):
        Trials("shop", lambda template: None).from_nothing()
    assert not aws.asked


def test_only_what_the_cure_takes_away_was_found():
    def find(*messages: str) -> Findings:
        return Findings("a", [Finding("E1020", 7, message) for message in messages])

    before = find("'X' is not one of ['A']", "'Y' is not one of ['A']")
    after = find("'Y' is not one of ['A', 'X']")
    assert [finding.message[:3] for finding in trials.gone(before, after)] == ["'X'"]


def test_each_defect_is_a_line_of_the_table_once(monkeypatch):
    def deploy(template: Template) -> None:
        if "bad" in template.body:
            raise ClientError({"Error": {"Code": "E", "Message": UNATTACHED}}, "CreateChangeSet")

    monkeypatch.setattr(trials, "clear_away", lambda stack: None)
    monkeypatch.setattr(Template, "lint", lambda self: Findings("a", []))
    tried = Trials("shop", deploy)
    first = tried("a name", design("bad"), design("good"))
    assert str(first).splitlines()[0] == "cfn-lint  finds nothing"
    assert "does not have an associated load balancer." in " ".join(str(first).split())
    assert str(first).splitlines()[-2:] == ["cure      - TopicName: bad", "          + TopicName: good"]
    tried("taste", design("good"), design("better"))
    tried("a name", design("bad"), design("good"))
    assert tried.table.to_dict("list") == {
        "defect": ["a name", "taste"],
        "cfn-lint": ["silent", "silent"],
        "caught": [trials.AT_DEPLOY, trials.NEVER],
        "symptom": [
            "Invalid request provided: CreateService error: The target group with targetGroupArn … does not have an "
            "associated load balancer.",
            "none",
        ],
        "cure": ["TopicName: good", "TopicName: better"],
    }
    assert "takes it, and it works" in repr(tried("taste", design("good"), design("better")))


def test_a_long_answer_keeps_its_ends_in_the_table():
    long = (
        "ResourceInitializationError: failed to validate logger args: "
        + "x " * 90
        + "no policy allows it : exit status 1"
    )
    symptom = Trial("d", [], Answer(trials.AT_START, long), Diff(design("a"), design("b"))).symptom
    assert symptom.startswith("ResourceInitializationError: failed to validate logger args: x")
    assert symptom.endswith("x no policy allows it : exit status 1")
    assert len(symptom) <= 2 * trials.HALF + 3


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("a\nb\n", "a\nc\n", "c"),
        ("a\nb\n", "a\n", "without b"),
        ("a\n", "# why\na\nb\nc\n", "b (and 1 more)"),
        ("a\n", "a\n- Effect: Allow\n  Action:\n    - s3:GetObject\n", "- s3:GetObject"),
        ("a\n", "a\nTopic:\n  Type: T\n", "Topic (and 1 more)"),
        ("x\na\nb\ny\n", "n\nx\na\nc\ny\n", "c (and 1 more)"),
    ],
)
def test_a_cure_is_told_by_the_line_that_matters(old, new, told):
    cure = Diff(Template("a", old), Template("a", new))
    assert Trial("d", [], Answer(trials.NEVER), cure).cured_by == told
