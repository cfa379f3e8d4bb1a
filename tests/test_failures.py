from __future__ import annotations

from datetime import timedelta

import pytest
from botocore.exceptions import ClientError

from helpers.failures import LOOKS, FailedTask, Witness, failed_task, is_failure, most_telling
from helpers.services import Service
from tests import shop
from tests.answers import Answers, aws
from tests.story import START

__all__ = ["aws"]


UNABLE = "Unable to describe task definition."


def refused(code: str, message: str = "no", operation: str = "Operation") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


def test_a_failed_task_tells_its_reason_exit_code_and_last_lines(aws: Answers):
    shop.open_shop(aws)
    assert failed_task(shop.stopped()).told(3) == [
        "3 tasks failed, the last one is 00000000: Essential container in task exited (exit code 1).",
        "its last log lines, in /ecs/shop:",
        "    starting",
        "    Error: no DATABASE_URL",
    ]
    asked = aws.calls[-1][2]
    assert asked["logStreamName"] == f"ecs/app/{9:032x}"
    assert not asked.get("startFromHead"), "the last lines, not the first"


def test_the_log_is_read_in_the_region_that_it_is_in(aws: Answers):
    shop.open_shop(aws)
    elsewhere = shop.container()
    elsewhere["logConfiguration"]["options"]["awslogs-region"] = "eu-west-1"
    aws["ecs", "DescribeTaskDefinition"] = {"taskDefinition": {"containerDefinitions": [elsewhere]}}
    failed_task(shop.stopped())
    assert (aws.calls[-1][1], aws.regions[-1]) == ("GetLogEvents", "eu-west-1")
    assert set(aws.regions[:-1]) == {"us-east-1"}


def test_the_containers_own_reason_says_more_than_the_tasks(aws: Answers):
    shop.open_shop(aws)
    container = {"name": "app", "exitCode": 137, "reason": "OutOfMemoryError: killed"}
    (first, *_) = failed_task(shop.stopped() | {"containers": [container]}).told()
    assert first == "task 00000000: OutOfMemoryError: killed (exit code 137)."


@pytest.mark.parametrize(
    ("answer", "last"),
    [
        ({"events": []}, "its log, in /ecs/shop, is empty."),
        (
            refused("ResourceNotFoundException"),
            "task 00000000: Essential container in task exited (exit code 1).",
        ),
        (refused("AccessDeniedException"), "    (not readable: AccessDeniedException)"),
    ],
)
def test_without_log_lines_the_rest_is_told(aws: Answers, answer, last):
    shop.open_shop(aws)
    aws["logs", "GetLogEvents"] = answer
    assert failed_task(shop.stopped()).told()[-1] == last


def test_without_a_log_configuration_the_rest_is_told(aws: Answers):
    shop.open_shop(aws)
    plain = {"containerDefinitions": [{"name": "app"}]}
    aws["ecs", "DescribeTaskDefinition"] = {"taskDefinition": plain}
    assert len(failed_task(shop.stopped()).told()) == 1


@pytest.mark.parametrize(
    ("fields", "failure"),
    [
        ({}, True),
        ({"stopCode": "TaskFailedToStart", "stoppedReason": "CannotPullContainerError: no"}, True),
        ({"stopCode": "UserInitiated", "stoppedReason": "by hand"}, False),
        ({"stopCode": "ServiceSchedulerInitiated", "stoppedReason": "Task failed ELB health checks"}, True),
        (
            {"stopCode": "ServiceSchedulerInitiated", "stoppedReason": "Scaling activity initiated by x"},
            False,
        ),
    ],
)
def test_a_task_that_was_to_end_is_no_failure(fields, failure):
    assert is_failure(shop.stopped() | fields) is failure


def test_a_witness_remembers_what_is_gone_and_waits_for_late_lines(aws: Answers):
    shop.open_shop(aws)
    looks = iter([{"events": []}, {"events": [{"message": "at last"}]}])
    aws["logs", "GetLogEvents"] = lambda asked: next(looks, refused("ResourceNotFoundException"))
    witness = Witness(Service("shop", "shop"))
    for _ in range(4):
        witness.look()
    aws["ecs", "ListTasks"] = refused("ClusterNotFoundException")
    witness.look()
    assert witness.tells()[-1] == "    at last"


@pytest.mark.parametrize(
    ("logs", "told"),
    [
        ([("starting", "no URL"), ("starting", "no URL")], "3"),
        ([("starting", "no URL"), ("starting",)], "2"),
        ([("starting",), ()], "2"),
        ([(), ()], "3"),
    ],
    ids=["both whole", "the last one's is cut short", "the last one's is lost", "none"],
)
def test_of_tasks_that_failed_alike_the_one_whose_log_is_whole_tells(logs, told):
    """The group goes with its stack, maybe before the last lines are in it."""
    wordy = FailedTask("1", "Something else.", 1, "/ecs/shop", ("a", "much", "longer", "log"))
    failed = [
        wordy,
        *(FailedTask(n, "It exited.", 3, "/ecs/shop", log) for n, log in zip("23", logs, strict=True)),
    ]
    which = "the last one" if told == "3" else "one of them"
    lines = most_telling(failed)
    if any(logs):
        assert lines[0] == f"3 tasks failed, {which} is {told}: It exited (exit code 3)."
        assert lines[2:] == ["    starting", *["    no URL"] * (len(logs[0]) - 1)]
    else:
        assert lines[0] == "3 tasks failed, one of them is 1: Something else (exit code 1)."


def test_a_witness_does_not_read_a_log_for_ever(aws: Answers):
    shop.open_shop(aws)
    witness = Witness(Service("shop", "shop"))
    for _ in range(3 * LOOKS):
        witness.look()
    assert sum(call[1] == "GetLogEvents" for call in aws.calls) == LOOKS


def test_a_witness_passes_over_what_was_before(aws: Answers):
    shop.open_shop(aws)
    witness = Witness(Service("shop", "shop"), since=START + timedelta(minutes=1))
    witness.look()
    assert witness.tells() == []


@pytest.mark.parametrize(
    ("message", "lines"),
    [(UNABLE, ()), ("Too many at once.", ("(not readable: ClientException)",))],
)
def test_a_revision_that_is_not_there_has_no_log_and_any_other_complaint_is_told(
    aws: Answers, message, lines
):
    shop.open_shop(aws)
    aws["ecs", "DescribeTaskDefinition"] = refused("ClientException", message, "DescribeTaskDefinition")
    assert failed_task(shop.stopped()).lines == lines


def dead(number: int, **fields: object) -> dict:
    """A stopped task of the newest deployment."""
    return shop.stopped() | {
        "taskArn": shop.task(number)["taskArn"],
        "startedBy": "ecs-svc/1",
        **fields,
    }


@pytest.mark.parametrize(
    ("tasks", "failed"),
    [
        ([dead(1)], 0),
        ([dead(1), dead(2)], 2),
        ([dead(1), dead(2, stoppedReason="Task failed ELB health checks")], 0),
        ([dead(1), dead(2, containers=[{"name": "app", "exitCode": 2}])], 0),
        ([dead(1), dead(2, startedBy="ecs-svc/0")], 0),  # of the deployment before
        ([dead(1), dead(2, stopCode="UserInitiated")], 0),
        (
            [
                dead(number, stoppedReason=f"Error: {ip}: i/o timeout, RequestID: {request}")
                for number, ip, request in (
                    (1, "10.0.0.1", "b42961b7-d408-5202-9088-0ccc58b4cd04"),
                    (2, "10.0.7.12", "39047513-cd0a-54be-8e06-a7e66a33cc08"),
                )
            ],
            2,
        ),
    ],
)
def test_a_failure_is_repeated_when_two_tasks_of_the_deployment_fail_alike(aws: Answers, tasks, failed):
    shop.open_shop(aws)
    aws["ecs", "ListTasks"] = {"taskArns": [task["taskArn"] for task in tasks]}
    aws["ecs", "DescribeTasks"] = {"tasks": tasks}
    witness = Witness(Service("shop", "shop"))
    witness.look()
    witness.look()
    assert witness.repeated() == failed


@pytest.mark.parametrize(("times", "failed"), [(1, 0), (2, 2)])
def test_tasks_that_cannot_even_be_launched_are_repeated_by_their_events(aws: Answers, times, failed):
    shop.open_shop(aws)
    aws["ecs", "ListTasks"] = {"taskArns": []}
    said = "service shop failed to launch a task with (error ECS was unable to assume the role 'x')."
    record = shop.record()
    record["events"] += [{"id": str(n), "createdAt": START, "message": said} for n in range(times)]
    aws["ecs", "DescribeServices"] = {"services": [record]}
    witness = Witness(Service("shop", "shop"))
    witness.look()
    assert witness.repeated() == failed


@pytest.mark.parametrize(("counted", "failed"), [(1, 0), (2, 2), (5, 5)])
def test_an_event_is_told_once_and_the_deployment_counts_how_often(aws: Answers, counted, failed):
    shop.open_shop(aws)
    aws["ecs", "ListTasks"] = {"taskArns": []}
    record = shop.record(running=0, rollout="IN_PROGRESS")
    said = "service shop failed to launch a task with (error ECS was unable to assume the role 'x')."
    record["events"].append({"id": "1", "createdAt": START, "message": said})
    record["deployments"][0]["failedTasks"] = counted
    aws["ecs", "DescribeServices"] = {"services": [record]}
    witness = Witness(Service("shop", "shop"))
    witness.look()
    assert witness.repeated() == failed


def test_of_several_containers_the_one_that_failed_tells(aws: Answers):
    shop.open_shop(aws)
    containers = [{"name": "proxy", "exitCode": 0}, {"name": "app", "exitCode": 3}]
    task = shop.stopped() | {"containers": containers}
    assert failed_task(task).exit_code == 3
    assert failed_task(task, "proxy").exit_code == 3, "the load balancer's own has not failed"
    both = [{"name": "proxy", "exitCode": 143}, {"name": "app", "exitCode": 3}]
    assert failed_task(task | {"containers": both}, "app").exit_code == 3


@pytest.mark.parametrize("code", ["AccessDeniedException", "ClientException"])
def test_a_refusal_is_not_taken_for_a_service_that_is_gone(aws: Answers, code):
    shop.open_shop(aws)
    aws["ecs", "ListTasks"] = refused(code, UNABLE, "ListTasks")
    with pytest.raises(ClientError, match=code):
        Witness(Service("shop", "shop")).look()
