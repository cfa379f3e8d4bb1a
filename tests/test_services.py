from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pandas
import pytest

from helpers import services, session
from helpers.errors import ServiceNotSteady, TutorialError
from helpers.services import Service, alarm_kind, service
from tests import shop
from tests.answers import Answers, aws
from tests.lab import StubLab
from tests.story import START
from tests.test_diagnose import Partly
from tests.test_failures import refused

__all__ = ["aws"]


def test_tasks_are_a_table_by_zone(aws: Answers):
    shop.open_shop(aws)
    tasks = service("shop", "shop").tasks
    assert list(tasks.columns) == ["task", "zone", "status", "health", "started", "private ip", "revision"]
    assert list(tasks["private ip"]) == ["172.31.0.1", "172.31.0.2"]
    assert list(tasks["zone"]) == ["us-east-1b", "us-east-1c"]
    assert set(tasks["revision"]) == {"shop:7"}
    assert tasks["started"][0] == START + timedelta(seconds=21)


def test_a_task_that_ended_tells_why(aws: Answers):
    shop.open_shop(aws)
    (ended,) = service("shop", "shop").stopped.to_dict("records")
    assert (ended["code"], ended["exit code"]) == ("EssentialContainerExited", 1)
    assert ended["reason"] == "Essential container in task exited"


def test_targets_have_the_zone_of_their_task(aws: Answers):
    shop.open_shop(aws, states=("healthy", "unhealthy"))
    assert service("shop", "shop").targets.to_dict("records") == [
        {"target": "172.31.0.1:3000", "zone": "us-east-1b", "state": "healthy", "reason": ""},
        {"target": "172.31.0.2:3000", "zone": "us-east-1c", "state": "unhealthy", "reason": "Target.Timeout"},
    ]


def test_tasks_and_targets_stand_by_zone_whichever_came_first(aws: Answers):
    shop.open_shop(aws)
    tasks = [shop.task(number) for number in (1, 2, 3)]  # in the zones b, c, a
    aws["ecs", "ListTasks"] = {"taskArns": [task["taskArn"] for task in tasks]}
    aws["ecs", "DescribeTasks"] = {"tasks": tasks}
    aws["elbv2", "DescribeTargetHealth"] = {
        "TargetHealthDescriptions": [shop.target(number, "healthy") for number in (2, 1, 3)]
    }
    seen = service("shop", "shop")
    assert list(seen.tasks["zone"]) == ["us-east-1a", "us-east-1b", "us-east-1c"]
    assert list(seen.targets["target"]) == ["172.31.0.3:3000", "172.31.0.1:3000", "172.31.0.2:3000"]


def test_looking_leaves_the_settings_of_pandas_alone(aws: Answers):
    shop.open_shop(aws)
    with pandas.option_context("display.max_colwidth", 33):
        assert len(service("shop", "shop").events)
        assert pandas.get_option("display.max_colwidth") == 33


def test_the_rest_of_what_can_be_seen(aws: Answers):
    shop.open_shop(aws)
    seen = service("shop", "shop")
    assert seen.url == "http://127.0.0.1:8080"
    assert list(seen.events["message"]) == [shop.EVENT]
    assert seen.deployments["rollout"][0] == "COMPLETED"
    assert seen.alarms[["alarm", "state", "threshold"]].to_numpy().tolist() == [
        ["AlarmHigh", "OK", 50.0],
        ["AlarmLow", "ALARM", 45.0],
    ]
    assert repr(seen.scaling) == ("between 2 and 10 tasks, tracking 50 % CPU; cooldowns 300 s out, 300 s in")
    assert seen.scaling.low == 45
    assert repr(seen) == "shop in shop: 2 tasks desired, 2 running, 2 healthy"
    assert "172.31.0.1" in seen._repr_html_()


def test_asks_only_for_its_own_alarms(aws: Answers):
    shop.open_shop(aws)
    Service("shop", "shop").alarm_records()
    assert aws.calls[-1][2]["AlarmNamePrefix"] == "TargetTracking-service/shop/shop-Alarm"
    assert alarm_kind("TargetTracking-service/shop/AlarmLow-shop-AlarmHigh-4f1b") == "AlarmHigh"


def test_a_service_that_is_not_there(aws: Answers):
    aws["ecs", "DescribeServices"] = {"services": [], "failures": [{"reason": "MISSING"}]}
    aws["ecs", "ListServices"] = {"serviceArns": [f"{shop.ARN}:service/shop/store"]}
    with pytest.raises(TutorialError, match="store"):
        service("shop", "shop")


def test_before_auto_scaling_there_is_none(aws: Answers):
    shop.open_shop(aws)
    aws["application-autoscaling", "DescribeScalableTargets"] = {"ScalableTargets": []}
    assert service("shop", "shop").scaling is None


def test_waits_until_running_and_healthy_are_what_is_desired(aws: Answers):
    shop.open_shop(aws)
    states = iter([shop.record(2, 1, "IN_PROGRESS")] * 4)
    aws["ecs", "DescribeServices"] = lambda asked: {"services": [next(states, shop.record())]}
    waited = Service("shop", "shop").until_steady()
    assert waited.counts() == {"desired": 2, "running": 2, "healthy": 2}


def test_a_stopped_task_is_waited_for_until_its_replacement_runs(aws: Answers):
    """StopTask takes a task off the list at once; the service's counts follow later."""
    shop.open_shop(aws)
    gone, stays, new = (shop.task(number)["taskArn"] for number in (1, 2, 3))
    looks = iter([[gone, stays], [stays], [stays, new], [stays, new]])
    aws["ecs", "ListTasks"] = lambda asked: {"taskArns": next(looks, [stays, new])}
    statuses = iter(["RUNNING", "RUNNING", "PROVISIONING", "ACTIVATING"])

    def describe(asked: dict) -> dict:
        status = next(statuses, "RUNNING")
        return {
            "tasks": [shop.task(int(arn[-1]), status if arn == new else "RUNNING") for arn in asked["tasks"]]
        }

    aws["ecs", "DescribeTasks"] = describe
    waited = Service("shop", "shop").until_steady(without=gone)
    assert list(waited.tasks["status"]) == ["RUNNING", "RUNNING"]
    assert gone[-8:] not in set(waited.tasks["task"])


def test_a_phase_goes_on_until_the_stopped_task_has_come_to_its_end(aws: Answers):
    shop.open_shop(aws)
    describe = aws.answers["ecs", "DescribeTasks"]
    gone = shop.task(7, "DEACTIVATING")
    aws["ecs", "DescribeTasks"] = lambda asked: (
        {"tasks": [gone]} if asked["tasks"] == [gone["taskArn"]] else describe(asked)
    )
    holds = Service("shop", "shop").steady(stopped=gone["taskArn"])
    assert not holds(None)
    gone["lastStatus"] = "STOPPED"
    assert holds(None)


def test_a_phase_goes_on_until_every_task_runs_the_new_image(aws: Answers):
    shop.open_shop(aws)
    tasks = {task["taskArn"]: task for task in (shop.task(1), shop.task(2))}
    aws["ecs", "DescribeTasks"] = lambda asked: {"tasks": [tasks[arn] for arn in asked["tasks"]]}
    holds, verdicts = Service("shop", "shop").steady(image="new"), []
    for images in (("old", "old"), ("new", "old"), ("new", "new")):
        for task, image in zip(tasks.values(), images, strict=True):
            task["containers"] = [{"name": "app", "image": image}]
        verdicts.append(holds(None))
    assert verdicts == [False, False, True]


def test_a_phase_goes_on_while_a_deployment_does(aws: Answers):
    shop.open_shop(aws)
    rolling = shop.record()
    rolling["deployments"] = rolling["deployments"] * 2
    aws["ecs", "DescribeServices"] = {"services": [rolling]}
    assert not Service("shop", "shop").steady()(None)
    aws["ecs", "DescribeServices"] = {"services": [shop.record()]}
    assert Service("shop", "shop").steady()(None)


def test_waits_for_as_many_tasks_as_it_is_told(aws: Answers):
    shop.open_shop(aws)
    with pytest.raises(ServiceNotSteady):
        Service("shop", "shop").until_steady(timeout=1, desired=3)


def test_waits_for_an_alarm(aws: Answers):
    shop.open_shop(aws)
    states = iter(["INSUFFICIENT_DATA", "OK"])
    aws["cloudwatch", "DescribeAlarms"] = lambda asked: {
        "MetricAlarms": [shop.alarm("AlarmLow", next(states, "ALARM"), since=START)]
    }
    Service("shop", "shop").until_alarm("AlarmLow", "ALARM")
    with pytest.raises(TutorialError, match=r"(?s)AlarmHigh was not in OK.*not there"):
        Service("shop", "shop").until_alarm("AlarmHigh", "OK", timeout=1)


def test_a_failed_deployment_is_told_at_once_with_its_reasons(aws: Answers):
    shop.open_shop(aws, states=("unhealthy",))
    aws["ecs", "DescribeServices"] = {"services": [shop.record(2, 0, "FAILED")]}
    with pytest.raises(ServiceNotSteady) as failed:
        Service("shop", "shop").until_steady()
    told = ["deployment has failed", "2 desired, 0 running", "Essential container", "Target.Timeout"]
    for words in (*told, "(exit code 1)", *shop.LAST_LINES):
        assert words in str(failed.value)


def never_at_rest(aws: Answers) -> None:
    """Two tasks that were started just now have ended in the same way."""
    shop.open_shop(aws, states=("healthy", "initial"))
    now = session.current().now() + timedelta(hours=1)
    died = [
        shop.stopped() | {"taskArn": shop.task(number)["taskArn"], "createdAt": now, "startedBy": "ecs-svc/1"}
        for number in (20, 21)
    ]
    aws["ecs", "ListTasks"] = {"taskArns": [task["taskArn"] for task in died]}
    aws["ecs", "DescribeTasks"] = {"tasks": died}
    aws.answers = Partly(aws.answers, refused("AccessDenied"))


def test_two_tasks_that_fail_alike_end_the_wait_with_the_diagnosis(aws: Answers):
    never_at_rest(aws)
    with pytest.raises(ServiceNotSteady, match=r"(?s)2 tasks have failed in the same way.*app-exits"):
        Service("shop", "shop").until_steady()


def test_it_waits_all_the_same_when_it_is_told_to(aws: Answers):
    never_at_rest(aws)
    with pytest.raises(ServiceNotSteady, match="not steady after 1 AWS minutes"):
        Service("shop", "shop").until_steady(timeout=1, on_failure="wait")


def test_waiting_has_an_end(aws: Answers):
    shop.open_shop(aws, states=("healthy", "initial"))
    with pytest.raises(ServiceNotSteady, match="not steady after 1 AWS minutes"):
        Service("shop", "shop").until_steady(timeout=1)


def at(minutes: float) -> SimpleNamespace:
    return SimpleNamespace(now=START + timedelta(minutes=minutes))


def test_settled_after_five_minutes_without_a_move(aws: Answers):
    shop.open_shop(aws)
    settled = Service("shop", "shop").settled(minutes=5)
    assert [settled(at(minute)) for minute in (0, 3, 4.9, 5)] == [False, False, False, True]


def test_before_the_service_has_scaled_out_nothing_is_settled(aws: Answers):
    shop.open_shop(aws)
    settled = Service("shop", "shop").settled(minutes=5, above=2)
    assert not any(settled(at(minute)) for minute in range(10))


def test_a_change_of_the_desired_count_begins_the_five_minutes_anew(aws: Answers):
    shop.open_shop(aws)
    settled = Service("shop", "shop").settled(minutes=5)
    assert not settled(at(0))
    aws["ecs", "DescribeServices"] = {"services": [shop.record(3, 2)]}
    assert not settled(at(4))
    aws["ecs", "DescribeServices"] = {"services": [shop.record(2, 2)]}
    assert [settled(at(minute)) for minute in (5, 9, 10)] == [False, False, True]


def test_not_settled_while_the_next_step_out_only_waits_for_the_cooldown(aws: Answers):
    shop.open_shop(aws)
    aws["cloudwatch", "DescribeAlarms"] = {"MetricAlarms": [shop.alarm("AlarmHigh", "ALARM")]}
    settled = Service("shop", "shop").settled(minutes=5)
    assert [settled(at(minute)) for minute in (0, 5, 6)] == [False, False, False]
    aws["cloudwatch", "DescribeAlarms"] = {"MetricAlarms": [shop.alarm("AlarmHigh", "OK")]}
    assert settled(at(7))


@pytest.mark.parametrize(
    ("speed", "asked", "minutes"),
    [
        (1, {}, 15),
        (1, {"desired": 3}, 45),
        (30, {}, 60),  # two real minutes: Node.js starts in real time
        (30, {"desired": 3}, 60),
        (120, {}, 240),
        (120, {"desired": 3, "timeout": 1}, 1),
    ],
)
def test_a_service_is_given_the_time_that_it_takes(aws: Answers, monkeypatch, speed, asked, minutes):
    shop.open_shop(aws, states=("healthy", "initial"))
    monkeypatch.setattr(session, "current", lambda: StubLab(speed))
    given = []
    monkeypatch.setattr(services, "polls", lambda most: given.append(most) or [1])
    with pytest.raises(ServiceNotSteady, match=f"after {minutes} AWS minutes"):
        Service("shop", "shop").until_steady(**asked)
    assert given == [minutes]


def test_at_minimum(aws: Answers):
    shop.open_shop(aws)
    at_minimum = Service("shop", "shop").at_minimum(minutes=3)
    assert [at_minimum(at(minute)) for minute in (0, 2, 3)] == [False, False, True]


def test_a_step_in_between_two_looks_is_not_taken_for_calm_at_the_minimum(aws: Answers, monkeypatch):
    """Six tasks have been calm for long; the scale-in comes after any one of the looks at the counts."""
    shop.open_shop(aws)
    for six in range(3, 8):
        looks = iter([6] * six + [2] * 20)
        monkeypatch.setattr(
            Service,
            "counts",
            lambda _, looks=looks: dict.fromkeys(("desired", "running", "healthy"), next(looks)),
        )
        at_minimum = Service("shop", "shop").at_minimum(minutes=3)
        assert not any(at_minimum(at(minute)) for minute in (0, 3, 6, 6.1, 6.2, 6.3, 6.4))


def test_calm_above_the_minimum_is_not_at_minimum(aws: Answers):
    shop.open_shop(aws, states=("healthy",) * 4)
    aws["ecs", "DescribeServices"] = {"services": [shop.record(4, 4)]}
    at_minimum = Service("shop", "shop").at_minimum(minutes=3)
    assert [at_minimum(at(minute)) for minute in (0, 2, 3, 9)] == [False] * 4
