from __future__ import annotations

from datetime import timedelta

import pytest

from helpers import session
from helpers.errors import StackFailed, TutorialError
from helpers.stacks import preview, table, wait_for
from tests import shop
from tests.answers import Answers, aws, does_not_exist
from tests.story import START
from tests.test_diagnose import Partly
from tests.test_failures import refused

__all__ = ["aws"]
ID = "arn:aws:cloudformation:us-east-1:123456789012:stack/shop/1"
TYPES = {"Service": "AWS::ECS::Service", "Cluster": "AWS::ECS::Cluster", "shop": "AWS::CloudFormation::Stack"}


def stack(status: str, **more: object) -> dict:
    return {"StackName": "shop", "StackId": ID, "StackStatus": status, "CreationTime": START, **more}


def event(second: int, name: str, status: str, reason: str = "", physical: str = "") -> dict:
    return {
        "EventId": f"{name}{second}",
        "StackId": ID,
        "StackName": "shop",
        "Timestamp": START + timedelta(seconds=second),
        "LogicalResourceId": name,
        "PhysicalResourceId": ID if name == "shop" else physical,
        "ResourceType": TYPES[name],
        "ResourceStatus": status,
        "ResourceStatusReason": reason,
    }


CREATED = [
    event(0, "shop", "CREATE_IN_PROGRESS", "User Initiated"),
    event(1, "Cluster", "CREATE_IN_PROGRESS"),
    event(5, "Cluster", "CREATE_COMPLETE"),
    event(6, "Service", "CREATE_IN_PROGRESS"),
    event(66, "Service", "CREATE_COMPLETE"),
    event(67, "shop", "CREATE_COMPLETE"),
]
FAILED = [
    event(100, "shop", "UPDATE_IN_PROGRESS", "User Initiated"),
    event(101, "Cluster", "UPDATE_FAILED", "Resource update cancelled"),
    event(
        102,
        "Service",
        "UPDATE_FAILED",
        "ECS Deployment Circuit Breaker was triggered.",
        f"{shop.ARN}:service/shop/shop",
    ),
    event(
        103, "shop", "UPDATE_ROLLBACK_IN_PROGRESS", "The following resource(s) failed to update: [Service]."
    ),
    event(130, "shop", "UPDATE_ROLLBACK_COMPLETE"),
]


def answer(aws: Answers, events: list[dict], *stacks: dict) -> None:
    states = iter(stacks[:-1])
    aws["cloudformation", "DescribeStacks"] = lambda asked: {"Stacks": [next(states, stacks[-1])]}
    aws["cloudformation", "DescribeStackEvents"] = {"StackEvents": events[::-1]}


def test_waits_for_the_outputs_and_shows_what_was_made(aws: Answers, capsys):
    done = stack("CREATE_COMPLETE", Outputs=[{"OutputKey": "Url", "OutputValue": "http://x"}])
    answer(aws, CREATED, stack("REVIEW_IN_PROGRESS"), stack("CREATE_IN_PROGRESS"), done)
    assert wait_for("shop") == {"Url": "http://x"}
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["CREATE_COMPLETE", "67", "s", "shop", "AWS::CloudFormation::Stack"],
        ["CREATE_COMPLETE", "4", "s", "Cluster", "AWS::ECS::Cluster"],
        ["CREATE_COMPLETE", "60", "s", "Service", "AWS::ECS::Service"],
    ]


def test_asks_by_id_so_that_a_deleted_stack_is_found_to_the_end(aws: Answers):
    answer(
        aws, [event(0, "shop", "DELETE_IN_PROGRESS")], stack("DELETE_IN_PROGRESS"), stack("DELETE_COMPLETE")
    )
    assert wait_for("shop") == {}
    names = [call[2]["StackName"] for call in aws.calls if call[1] == "DescribeStacks"]
    assert names == ["shop", ID]


def test_the_last_thing_shown_of_a_deletion_is_its_end(aws: Answers, capsys):
    answer(aws, [], stack("DELETE_IN_PROGRESS"), stack("DELETE_COMPLETE"))
    deleted = [event(0, "shop", "DELETE_IN_PROGRESS"), event(90, "shop", "DELETE_COMPLETE")]
    until = iter((1, 2))
    aws["cloudformation", "DescribeStackEvents"] = lambda asked: {"StackEvents": deleted[: next(until)][::-1]}
    wait_for("shop")
    assert capsys.readouterr().out.split()[:3] == ["DELETE_COMPLETE", "90", "s"]


def test_what_happened_long_ago_is_not_told_as_if_it_were_now(aws: Answers, capsys):
    answer(aws, CREATED, stack("CREATE_COMPLETE"))
    wait_for("shop")
    assert capsys.readouterr().out == ""


def test_what_was_over_before_the_first_look_is_told(aws: Answers, capsys):
    soon = session.current().now() + timedelta(minutes=5)  # AWS time flies in this lab
    answer(aws, CREATED, stack("UPDATE_COMPLETE", LastUpdatedTime=soon))
    wait_for("shop")
    assert "Cluster" in capsys.readouterr().out


def test_a_stack_that_is_gone_already(aws: Answers):
    aws["cloudformation", "DescribeStacks"] = does_not_exist("shop")
    aws["cloudformation", "ListStacks"] = {"StackSummaries": [stack("DELETE_COMPLETE")]}
    assert wait_for("shop") == {}


def test_a_stack_that_never_was(aws: Answers):
    aws["cloudformation", "DescribeStacks"] = does_not_exist("ship")
    aws["cloudformation", "ListStacks"] = {"StackSummaries": [stack("CREATE_COMPLETE")]}
    with pytest.raises(TutorialError, match="stacks there: shop"):
        wait_for("ship")


def test_a_failed_update_tells_the_first_cause_and_what_the_service_says(aws: Answers, capsys):
    shop.open_shop(aws, states=("unhealthy",))
    late = START + timedelta(seconds=101)
    died = shop.stopped() | {"createdAt": late}
    aws["ecs", "ListTasks"] = {"taskArns": [died["taskArn"]]}
    aws["ecs", "DescribeTasks"] = {"tasks": [died]}
    said = [{"id": "e2", "createdAt": late, "message": "(service shop) (task 9) is unhealthy"}]
    record = shop.record()
    aws["ecs", "DescribeServices"] = {"services": [record | {"events": said + record["events"]}]}
    answer(aws, CREATED + FAILED, stack("UPDATE_ROLLBACK_IN_PROGRESS"), stack("UPDATE_ROLLBACK_COMPLETE"))
    with pytest.raises(StackFailed) as failed:
        wait_for("shop")
    what, cause, *rest = str(failed.value).splitlines()
    assert what == "The stack shop is UPDATE_ROLLBACK_COMPLETE."
    assert cause == "Seen: Service (AWS::ECS::Service): ECS Deployment Circuit Breaker was triggered."
    assert rest == [
        "task 00000000: Essential container in task exited (exit code 1).",
        "its last log lines, in /ecs/shop:",
        "    starting",
        "    Error: no DATABASE_URL",
        "event: (service shop) (task 9) is unhealthy",
        "Next: Mend the cause, and update the stack again; the former version is in place.",
    ]
    assert "CREATE_COMPLETE" not in capsys.readouterr().out  # that was the operation before


def test_what_a_service_said_is_told_though_the_rollback_has_deleted_it(aws: Answers):
    shop.open_shop(aws)
    events = [
        event(0, "shop", "CREATE_IN_PROGRESS"),
        event(1, "Service", "CREATE_IN_PROGRESS", physical=f"{shop.ARN}:service/shop/shop"),
        event(9, "Service", "CREATE_FAILED", "Circuit Breaker", physical=f"{shop.ARN}:service/shop/shop"),
    ]
    answer(aws, events, stack("CREATE_IN_PROGRESS"), stack("CREATE_IN_PROGRESS"), stack("ROLLBACK_COMPLETE"))
    looks = iter([{"services": [shop.record()]}])
    aws["ecs", "DescribeServices"] = lambda asked: next(looks, {"services": []})
    aws["ecs", "ListServices"] = {"serviceArns": []}
    with pytest.raises(StackFailed, match=r"Essential container in task exited.*\n.*\n    starting"):
        wait_for("shop")


def test_who_looks_only_after_the_rollback_is_told_why_there_is_no_more_to_see(aws: Answers):
    events = [
        event(0, "shop", "CREATE_IN_PROGRESS"),
        event(9, "Service", "CREATE_FAILED", "Circuit Breaker", physical=f"{shop.ARN}:service/shop/shop"),
    ]
    answer(aws, events, stack("ROLLBACK_COMPLETE"))
    shop.open_shop(aws)
    aws["ecs", "DescribeServices"] = {"services": []}
    aws["ecs", "ListTasks"] = refused("ClusterNotFoundException")
    with pytest.raises(StackFailed, match="went with the rollback"):
        wait_for("shop")


DEPLOYMENT = "ecs-svc/1"  # of tests/shop.py


def failing_deployment(aws: Answers, tasks: int = 2, verb: str = "UPDATE") -> None:
    """A stack whose service is being deployed, and so many of its tasks have ended in the same way."""
    shop.open_shop(aws)
    died = [
        shop.stopped() | {"taskArn": shop.task(number)["taskArn"], "startedBy": DEPLOYMENT}
        for number in range(20, 20 + tasks)
    ]
    aws["ecs", "ListTasks"] = {"taskArns": [task["taskArn"] for task in died]}
    aws["ecs", "DescribeTasks"] = {"tasks": died}
    begun = [
        event(0, "shop", f"{verb}_IN_PROGRESS", "User Initiated"),
        event(1, "Service", f"{verb}_IN_PROGRESS", physical=f"{shop.ARN}:service/shop/shop"),
    ]
    answer(aws, begun, *[stack(f"{verb}_IN_PROGRESS")] * 5, stack(f"{verb}_ROLLBACK_COMPLETE"))
    aws["cloudformation", "CancelUpdateStack"] = {}


def test_the_second_task_that_fails_alike_ends_the_wait_with_the_diagnosis(aws: Answers):
    failing_deployment(aws)
    aws.answers = Partly(aws.answers, refused("AccessDenied"))
    with pytest.raises(StackFailed) as failed:
        wait_for("shop")
    told = str(failed.value)
    assert told.startswith("The stack shop will not succeed: 2 tasks have failed in the same way.")
    assert "Probable cause: app-exits" in told
    assert "Error: no DATABASE_URL" in told
    assert 'cancel_update_stack(StackName="shop")' in told
    assert "CancelUpdateStack" not in {call[1] for call in aws.calls}, "it is only told how"


def test_one_task_that_fails_ends_no_wait(aws: Answers):
    failing_deployment(aws, tasks=1)
    with pytest.raises(StackFailed, match="UPDATE_ROLLBACK_COMPLETE"):
        wait_for("shop")


def test_an_update_is_cancelled_only_when_that_is_asked_for(aws: Answers):
    failing_deployment(aws)
    aws.answers = Partly(aws.answers, refused("AccessDenied"))
    with pytest.raises(StackFailed, match="The update is cancelled"):
        wait_for("shop", on_failure="cancel")
    assert [call[2] for call in aws.calls if call[1] == "CancelUpdateStack"] == [{"StackName": "shop"}]


def test_an_update_that_ended_before_it_was_cancelled_is_no_traceback(aws: Answers):
    failing_deployment(aws)
    begun = [stack("UPDATE_IN_PROGRESS")] * 2
    states = iter(begun)
    aws["cloudformation", "DescribeStacks"] = lambda asked: {
        "Stacks": [next(states, stack("UPDATE_ROLLBACK_IN_PROGRESS"))]
    }
    said = "CancelUpdateStack cannot be called from current stack status"
    aws["cloudformation", "CancelUpdateStack"] = refused("ValidationError", said)
    aws.answers = Partly(aws.answers, refused("AccessDenied"))
    with pytest.raises(StackFailed, match=r"(?s)Probable cause.*had failed before it could be cancelled"):
        wait_for("shop", on_failure="cancel")


def test_what_is_being_made_cannot_be_cancelled(aws: Answers):
    failing_deployment(aws, verb="CREATE")
    aws.answers = Partly(aws.answers, refused("AccessDenied"))
    with pytest.raises(StackFailed, match=r"delete_stack\(StackName=\"shop\"\)"):
        wait_for("shop", on_failure="cancel")
    assert "CancelUpdateStack" not in {call[1] for call in aws.calls}


def test_a_stack_may_be_followed_to_its_end_all_the_same(aws: Answers):
    failing_deployment(aws)
    aws.answers = Partly(aws.answers, refused("AccessDenied"))
    with pytest.raises(StackFailed, match=r"(?s)is UPDATE_ROLLBACK_COMPLETE.*probable cause: app-exits"):
        wait_for("shop", on_failure="wait")


def test_what_to_do_on_a_failure_is_one_of_three():
    with pytest.raises(TutorialError, match="raise, cancel, wait"):
        wait_for("shop", on_failure="ignore")


def test_an_app_may_take_its_real_time_however_fast_awss_passes(aws: Answers, monkeypatch):
    asked: list[float] = []
    monkeypatch.setattr("helpers.stacks.polls", lambda minutes: asked.append(minutes) or iter([None]))
    answer(aws, CREATED, stack("CREATE_COMPLETE"))
    wait_for("shop")
    assert asked == [1200]  # AWS minutes: the lab's speed is 600, and so these are two real minutes


def test_a_failed_create_says_to_delete_what_is_left(aws: Answers):
    events = [
        event(0, "shop", "CREATE_IN_PROGRESS"),
        event(1, "Cluster", "CREATE_FAILED", "Resource handler returned message: no."),
        event(2, "shop", "ROLLBACK_COMPLETE"),
    ]
    answer(aws, events, stack("ROLLBACK_COMPLETE"))
    with pytest.raises(StackFailed, match=r"(?s)Cluster.*no\..*delete_stack"):
        wait_for("shop")


def test_a_failure_that_its_event_explains_is_explained(aws: Answers):
    said = "The target group with targetGroupArn x does not have an associated load balancer."
    events = [event(0, "shop", "CREATE_IN_PROGRESS"), event(1, "Service", "CREATE_FAILED", said)]
    answer(aws, events, stack("ROLLBACK_COMPLETE"))
    with pytest.raises(StackFailed, match=r"probable cause: target-group-unattached: .*listener"):
        wait_for("shop")


def test_the_table_says_what_is_not_done_yet():
    assert "…" in table(CREATED[:4]).splitlines()[2]


def test_a_replaced_resource_is_told_as_the_new_one_and_how_far_the_old_one_is():
    events = [
        event(0, "Cluster", "UPDATE_IN_PROGRESS", physical="old"),
        event(1, "Cluster", "UPDATE_COMPLETE", physical="new"),
        event(90, "Cluster", "DELETE_IN_PROGRESS", physical="old"),
        event(91, "Cluster", "DELETE_COMPLETE", physical="old"),
    ]
    line = " ".join(table(events).split())
    assert line == "UPDATE_COMPLETE 1 s Cluster AWS::ECS::Cluster; the old one: DELETE_COMPLETE"


def test_a_resource_that_goes_is_told_as_gone():
    events = [event(0, "Cluster", "DELETE_IN_PROGRESS"), event(3, "Cluster", "DELETE_COMPLETE")]
    assert table(events).startswith("DELETE_COMPLETE")


def change_set(status: str, reason: str = "", changes: tuple = ()) -> dict:
    return {
        "ChangeSetName": "grow",
        "ChangeSetId": "arn:aws:cloudformation:us-east-1:123456789012:changeSet/grow/1",
        "Status": status,
        "StatusReason": reason,
        "Changes": [{"Type": "Resource", "ResourceChange": change} for change in changes],
    }


ADD = {"Action": "Add", "LogicalResourceId": "Cluster", "ResourceType": "AWS::ECS::Cluster"}
MODIFY = {
    "Action": "Modify",
    "LogicalResourceId": "Task",
    "ResourceType": "AWS::ECS::TaskDefinition",
    "Replacement": "True",
}


def test_a_change_set_is_a_table(aws: Answers):
    states = iter([change_set("CREATE_PENDING"), change_set("CREATE_IN_PROGRESS")])
    done = change_set("CREATE_COMPLETE", changes=(ADD, MODIFY))
    aws["cloudformation", "DescribeChangeSet"] = lambda asked: next(states, done)
    for asked in ({"Id": done["ChangeSetId"], "StackId": ID}, done):
        assert preview(asked).to_numpy().tolist() == [
            ["Add", "Cluster", "AWS::ECS::Cluster", ""],
            ["Modify", "Task", "AWS::ECS::TaskDefinition", "True"],
        ]
    assert list(preview("grow", "shop").columns) == ["action", "logical id", "type", "replacement"]
    assert aws.calls[-1][2] == {"ChangeSetName": "grow", "StackName": "shop"}


def test_a_change_set_without_changes_is_empty(aws: Answers):
    reason = "The submitted information didn't contain changes. Submit different information."
    assert len(preview(change_set("FAILED", reason))) == 0


def test_a_change_set_that_could_not_be_made(aws: Answers):
    with pytest.raises(StackFailed, match="Template error"):
        preview(change_set("FAILED", "Template error: no such thing"))
