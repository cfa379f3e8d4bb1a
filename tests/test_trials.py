"""helpers/trials.py: what a deployment is said to have ended with, read from AWS's answers as AWS gives them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from helpers import trials
from helpers.errors import StackFailed, TutorialError
from helpers.templates import Diff, Finding, Findings, Template, template
from helpers.trials import Answer, Trial, Trials

BODY = "Resources:\n  A:\n    Type: AWS::SNS::Topic\n    Properties:\n      TopicName: {}\n"
STACK = {
    "StackId": "arn:aws:cloudformation:us-east-1:1:stack/shop/1",
    "Description": template("as-published").source.splitlines()[1].removeprefix("Description: "),
}
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


@pytest.mark.parametrize("status", ["CREATE_COMPLETE", "CREATE_IN_PROGRESS", "ROLLBACK_COMPLETE"])
@pytest.mark.parametrize("described", [{"Description": template("08").content["Description"]}, {}])
def test_a_stack_that_something_else_has_made_is_not_deleted(monkeypatch, described, status):
    other = {"StackId": STACK["StackId"], "StackStatus": status} | described
    aws = Aws(monkeypatch, describe_stacks={"Stacks": [other]})
    with pytest.raises(TutorialError, match="something else has made"):
        Trials("shop", lambda template: None).from_nothing()
    assert [asked for asked, _ in aws.asked] == ["describe_stacks"]


def test_a_stack_in_review_is_no_ones_yet(monkeypatch):
    review = {"StackId": STACK["StackId"], "StackStatus": "REVIEW_IN_PROGRESS"}
    aws = Aws(monkeypatch, describe_stacks={"Stacks": [review]})
    Trials("shop", lambda template: None).from_nothing()
    assert "delete_stack" in [asked for asked, _ in aws.asked]


class OneStack(Aws):
    """A stack that `deploy` makes or changes, that can be deleted, and that comes to rest once it has been looked at twice.
    With "bad" in its template it cannot be made, and an update to that changes nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, status: str | None = None):
        super().__init__(monkeypatch)
        self.status = status
        self.rest = 0  # how often an operation is seen under way
        monkeypatch.setattr(trials, "answer_to", lambda stack, error: Answer(trials.AT_DEPLOY, error.what))
        monkeypatch.setattr(trials, "probable_cause", lambda stack: "")
        monkeypatch.setattr(Template, "lint", lambda self: Findings("a", []))

    def deploy(self, design: Template) -> None:
        if self.status and self.status.endswith("IN_PROGRESS"):
            raise StackFailed(f"is in {self.status} state and can not be updated.")
        if self.status is None and "interrupted" in design.body:
            self.status = "CREATE_IN_PROGRESS"
            raise KeyboardInterrupt
        if self.status is None and "bad" in design.body:
            self.status = "ROLLBACK_COMPLETE"
            raise StackFailed("no")
        self.status = "UPDATE_COMPLETE" if self.status else "CREATE_COMPLETE"

    def describe_stacks(self, StackName: str) -> dict[str, Any]:
        if self.status is None and not StackName.startswith("arn:"):
            gone = {"Code": "ValidationError", "Message": f"Stack with id {StackName} does not exist"}
            raise ClientError({"Error": gone}, "DescribeStacks")
        shown = STACK | {"StackStatus": self.status or "DELETE_COMPLETE"}
        if self.status == "UPDATE_ROLLBACK_IN_PROGRESS":
            self.rest += 1
            if self.rest > 1:
                self.status = "UPDATE_ROLLBACK_COMPLETE"
        return {"Stacks": [shown]}

    def delete_stack(self, StackName: str) -> None:
        self.asked.append(("delete_stack", {}))
        self.status = None


def test_what_an_interrupted_trial_left_is_no_answer_to_the_next(monkeypatch):
    aws = OneStack(monkeypatch)
    tried = Trials("shop", aws.deploy)
    with pytest.raises(KeyboardInterrupt):
        tried("a name", design("interrupted"), design("good"))
    assert aws.status == "CREATE_IN_PROGRESS"
    assert tried.table.empty
    assert tried("a name", design("bad"), design("good")).answer.says == "no"


def test_an_update_that_is_rolled_back_is_waited_for(monkeypatch):
    aws = OneStack(monkeypatch, "UPDATE_ROLLBACK_IN_PROGRESS")
    assert Trials("shop", aws.deploy)("taste", design("good"), design("better")).answer == Answer(
        trials.NEVER
    )
    assert not aws.asked


def test_what_could_not_be_made_is_tried_from_nothing_again(monkeypatch):
    """As an update of the stack that works by now it would change nothing, and be told as harmless."""
    aws = OneStack(monkeypatch)
    tried = Trials("shop", aws.deploy)
    tried("a name", design("bad"), design("good"))
    aws.deploy(design("good"))
    first = tried.table.to_dict("list")
    assert tried("a name", design("bad"), design("good")).answer == Answer(trials.AT_DEPLOY, "no")
    assert tried.table.to_dict("list") == first


def test_what_worked_is_tried_on_the_stack_that_is_there_again(monkeypatch):
    aws = OneStack(monkeypatch, "CREATE_COMPLETE")
    tried = Trials("shop", aws.deploy)
    for _ in range(2):
        assert tried("taste", design("good"), design("better")).answer == Answer(trials.NEVER)
    assert (aws.status, aws.asked) == ("UPDATE_COMPLETE", [])


def test_what_is_refused_needs_no_stack_to_go(monkeypatch):
    def deploy(design: Template) -> None:
        raise ClientError({"Error": {"Code": "E", "Message": "not YAML"}}, "CreateChangeSet")

    aws = OneStack(monkeypatch)
    monkeypatch.setattr(trials, "answer_to", lambda stack, error: Answer(trials.AT_DEPLOY, "not YAML"))
    tried = Trials("shop", deploy)
    tried("a text", design("bad"), design("good"))
    aws.status = "CREATE_COMPLETE"
    assert tried("a text", design("bad"), design("good")).answer.says == "not YAML"
    assert aws.status == "CREATE_COMPLETE"


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

    monkeypatch.setattr(trials, "_left", lambda stack: None)
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


def test_an_update_that_ended_before_it_was_cancelled_is_waited_for(monkeypatch):
    aws = Aws(monkeypatch, describe_stacks={"Stacks": [STACK | {"StackStatus": "UPDATE_IN_PROGRESS"}]})

    def over(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "ValidationError", "Message": "no"}}, "CancelUpdateStack")

    aws.cancel_update_stack = over
    trials.clear_away("shop")
    assert aws.asked[-1][0] == "describe_stacks"


def test_what_is_not_awss_answer_is_none_and_leaves_the_stack_alone(monkeypatch):
    def deploy(design: Template) -> None:
        raise TutorialError("AWS time is paused, and nothing happens while it is.")

    aws = OneStack(monkeypatch, "CREATE_COMPLETE")
    monkeypatch.setattr(trials, "clear_away", lambda stack: aws.asked.append(("clear_away", {})))
    tried = Trials("shop", deploy)
    monkeypatch.setattr(trials, "_left", lambda stack: None)
    with pytest.raises(TutorialError, match="paused"):
        tried("taste", design("good"), design("better"))
    assert tried.table.empty
    assert not aws.asked
