"""A start that fails, in AWS time, on a clock moved by hand: when it is told, and what the service says and does."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.sandbox.ecs.preparation import GIVES_UP, UnableToAssume
from helpers.sandbox.endpoint import AwsError
from helpers.sandbox.logs import ResourceInitializationError
from tests.sandbox.ecs_world import NETWORK, World

ROLE = "arn:aws:iam::123456789012:role/shop"
TOLD = f"failed to launch a task with (error ECS was unable to assume the role '{ROLE}' that was provided for this task"


@pytest.fixture
def world() -> World:
    return World()


def distrust(world: World, role: str = ROLE) -> None:
    def refuse(definition: Any) -> None:
        raise UnableToAssume(role)

    world.scheduler.placement.launchable = refuse


def test_without_a_way_a_task_is_pending_until_fargate_gives_up(world):
    world.logs.error = ResourceInitializationError("no way", takes=GIVES_UP)
    world.create(1)
    world.run(GIVES_UP - 10)
    (task,) = world.tasks()
    assert (task.last_status, task.stopped_reason) == ("PENDING", None)
    world.run(30)
    assert (task.last_status, task.stop_code) == ("STOPPED", "TaskFailedToStart")
    assert task.stopped_reason == "ResourceInitializationError: no way"
    assert (task.container_reason, task.pull_started_at) == (None, None), "no container was made"
    assert "was unable to place a task. Reason: ResourceInitializationError: no way." in world.events()


def test_a_way_that_is_made_while_fargate_tries_is_found(world):
    world.logs.error = ResourceInitializationError("no way", takes=GIVES_UP)
    service = world.create(1)
    world.run(GIVES_UP / 3)
    world.logs.error = None
    world.run(GIVES_UP / 3)
    assert len(world.tasks()) == 1
    assert world.scheduler.settled(service)


def test_a_task_that_still_tries_can_be_stopped(world):
    world.logs.error = ResourceInitializationError("no way", takes=GIVES_UP)
    service = world.create(1)
    world.run(60)
    world.call("UpdateService", service=service.name, desiredCount=0)
    world.run(30)
    (task,) = world.tasks()
    assert (task.last_status, task.stop_code) == ("STOPPED", "ServiceSchedulerInitiated")


def test_of_an_image_the_container_tells_the_reason_too(world):
    world.runtime.missing.add("repository@sha256:1")
    world.create(1)
    world.run(40)
    assert world.tasks()[0].container_reason == "CannotPullContainerError: repository@sha256:1: not found"


def test_a_role_that_cannot_be_assumed_makes_no_task_and_is_told(world):
    distrust(world)
    service = world.create(2)
    world.run(60)
    assert world.tasks() == []
    assert len([event for event in world.events() if event.startswith(TOLD)]) == 1
    assert world.describe()["deployments"][0]["failedTasks"] >= 2
    world.scheduler.placement.launchable = lambda definition: None
    world.run(120)
    assert world.scheduler.settled(service)
    assert world.events()[-1] == "has reached a steady state."


def test_a_role_that_is_lost_leaves_the_tasks_that_run(world):
    service = world.steady(2)
    distrust(world)
    world.run(60)
    assert world.describe()["runningCount"] == 2
    world.call("UpdateService", service=service.name, desiredCount=3)
    world.run(60)
    assert world.describe()["runningCount"] == 2
    assert any(event.startswith(TOLD) for event in world.events())


def test_run_task_answers_it(world):
    distrust(world)
    with pytest.raises(AwsError, match="unable to assume") as refused:
        world.call(
            "RunTask", taskDefinition=world.definition, launchType="FARGATE", networkConfiguration=NETWORK
        )
    assert refused.value.code == "ClientException"


@pytest.mark.parametrize(("setting", "public"), [("ENABLED", True), ("DISABLED", False), (None, False)])
def test_a_public_address_is_given_where_it_is_asked_for(world, setting, public):
    vpc = {key: value for key, value in NETWORK["awsvpcConfiguration"].items() if key != "assignPublicIp"}
    if setting:
        vpc["assignPublicIp"] = setting
    network = {"awsvpcConfiguration": vpc}
    world.call("RunTask", taskDefinition=world.definition, launchType="FARGATE", networkConfiguration=network)
    assert world.tasks()[0].public_ip is public


def test_a_container_that_ends_at_once_has_started(world):
    world.runtime.crashing.add("repository@sha256:1")
    world.create(1)
    world.run(40)
    task = world.tasks()[0]
    assert task.pull_stopped_at <= task.started_at <= task.execution_stopped_at
