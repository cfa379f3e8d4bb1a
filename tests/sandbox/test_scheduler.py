"""The scheduler's loop in a world of dictionaries, against what AWS documents of it (aws-facts 3)."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from itertools import pairwise

import pytest

from helpers.sandbox.ecs import lifecycle
from helpers.sandbox.ecs.lifecycle import BOOT, START_LEAST, START_MOST
from helpers.sandbox.logs import ResourceInitializationError
from helpers.sandbox.scheduler import RETRY_FIRST
from tests.sandbox.ecs_world import BALANCER, CLUSTER, DELAY, GROUP, NETWORK, FakeProcess, Target, World

BREAKER = {"deploymentCircuitBreaker": {"enable": True, "rollback": True}}


@pytest.fixture
def world() -> World:
    return World()


def history(world: World, seconds: float) -> dict[str, list[str]]:
    """The states that each task goes through."""
    seen: dict[str, list[str]] = {task.id: [task.last_status] for task in world.tasks()}

    def watch() -> None:
        for task in world.tasks():
            states = seen.setdefault(task.id, [])
            if not states or states[-1] != task.last_status:
                states.append(task.last_status)

    world.run(seconds, every=0.5, watch=watch)
    return seen


class TestATasksLife:
    def test_starts_through_the_documented_states(self, world):
        world.create(1)
        (states,) = history(world, 60).values()
        assert states == ["PROVISIONING", "PENDING", "ACTIVATING", "RUNNING"]

    def test_is_registered_18_to_30_seconds_after_its_start_with_a_median_of_about_20(self):
        took = []
        for seed in range(40):
            world = World(seed)
            world.create(5)
            world.run(40, every=0.25)
            took += [task.started_at - task.created_at for task in world.tasks("RUNNING")]
        assert len(took) == 200
        assert min(took) >= START_LEAST
        assert max(took) <= START_MOST + 0.25
        assert 19.5 <= statistics.median(took) <= 20.75

    def test_its_process_starts_long_before_it_is_running(self, world):
        world.create(1)
        world.run(2)
        (task,) = world.tasks("PROVISIONING")
        assert task.process is not None

    def test_gets_what_its_definition_says(self, world):
        world.definition = world.ecs.register(7, stopTimeout=5, command=["node", "x.js"])
        world.create(1)
        world.run(2)
        (task,) = world.tasks()
        spec = world.process(task).spec
        assert (spec.family, spec.revision, spec.cpu, spec.memory) == ("app", 7, 256, 512)
        assert (spec.command, spec.stop_timeout) == (["node", "x.js"], 5.0)
        assert spec.environment == {"COLOUR": "blue"}
        assert (spec.entry_point, spec.user, spec.read_only_root, spec.ulimits) == (None, None, False, ())
        assert spec.architecture == "X86_64"

    @pytest.mark.parametrize(("asked", "told"), [(None, "x86_64"), ("ARM64", "arm64")])
    def test_its_architecture_is_told(self, world, asked, told):
        if asked:
            world.ecs.definitions[world.definition]["runtimePlatform"] = {"cpuArchitecture": asked}
        world.create(1)
        world.run(2)
        (task,) = world.call("DescribeTasks", tasks=[world.tasks()[0].id])["tasks"]
        assert task["attributes"] == [{"name": "ecs.cpu-architecture", "value": told}]

    def test_gets_what_its_definition_says_of_a_container(self, world):
        limit = {"name": "nofile", "softLimit": 1000, "hardLimit": 2000}
        world.definition = world.ecs.register(
            7,
            entryPoint=["sh", "-c"],
            user="1000",
            workingDirectory="/srv",
            readonlyRootFilesystem=True,
            ulimits=[limit],
        )
        world.create(1)
        world.run(2)
        (task,) = world.tasks()
        spec = world.process(task).spec
        assert (spec.entry_point, spec.user, spec.working_directory) == (["sh", "-c"], "1000", "/srv")
        assert spec.read_only_root
        assert spec.ulimits == (("nofile", 1000, 2000),)
        assert (spec.log_group, spec.log_stream) == ("/ecs/lab", f"app/app/{task.id}")

    def test_counts_from_its_first_healthy_answer(self, world):
        world.balancer.first = Target("initial", "Elb.InitialHealthChecking")
        world.create(1)
        world.run(60)
        (task,) = world.tasks("RUNNING")
        assert task.counted_from is None
        world.judge(task, "healthy")
        world.run(1)
        assert task.counted_from == world.clock.time()

    def test_without_a_load_balancer_it_counts_from_running(self, world):
        world.create(1, loadBalancers=[])
        world.run(60)
        (task,) = world.tasks("RUNNING")
        assert task.counted_from == task.started_at
        assert world.balancer.calls == []

    def test_stops_by_draining_then_sigterm_then_sigkill(self, world):
        service = world.steady(1)
        (task,) = world.tasks()
        process = world.process(task)
        process.stubborn = True
        world.call("UpdateService", service="web", desiredCount=0)
        world.run(1)  # decided
        world.run(1)  # deregistered
        assert (task.last_status, task.desired_status) == ("DEACTIVATING", "STOPPED")
        assert world.balancer.targets == {}
        world.run(DELAY - 1)
        assert (task.last_status, process.asked_to_stop) == ("DEACTIVATING", False)
        world.run(1)
        assert (task.last_status, process.asked_to_stop) == ("STOPPING", True)
        world.run(100)
        assert task.last_status == "STOPPING"
        process.kill()  # the runtime's own doing, when stopTimeout is over
        world.run(1)
        assert (task.last_status, task.exit_code) == ("DEPROVISIONING", 137)
        world.run(11)
        assert task.last_status == "STOPPED"
        assert task.stop_code == "ServiceSchedulerInitiated"
        assert task.stopped_reason == f"Scaling activity initiated by (deployment {service.primary.id})"
        assert task.process is None

    def test_a_request_in_flight_may_outlast_the_delay_in_aws_time_but_not_in_real_time(self, world):
        world.steady(1)
        (task,) = world.tasks()
        world.call("UpdateService", service="web", desiredCount=0)
        world.busy = 1
        world.run(DELAY + 10)
        assert task.last_status == "DEACTIVATING"
        world.run(DELAY * world.clock.speed)
        assert world.process(task).asked_to_stop

    def test_stays_readable_for_a_real_hour_and_no_longer(self, world):
        world.steady(1)
        (task,) = world.tasks()
        world.call("UpdateService", service="web", desiredCount=0)
        world.run(200)
        world.clock.advance(3500 * world.clock.speed)
        world.scheduler.step()
        assert world.tasks("STOPPED") == [task]
        world.clock.advance(200 * world.clock.speed)
        world.scheduler.step()
        assert world.tasks() == []

    def test_addresses_are_the_subnets_and_never_shared(self, world):
        world.create(9)
        world.run(2)
        addresses = [task.private_ip for task in world.tasks()]
        assert len(set(addresses)) == 9
        assert all(
            task.private_ip.startswith(f"10.0.{'abc'.index(task.availability_zone[-1])}.")
            for task in world.tasks()
        )
        assert "10.0.0.4" in addresses  # the first four of a subnet are AWS's

    def test_pulling_may_take_its_time_without_holding_up_the_loop(self, world):
        world.executor.held = True
        world.create(1)
        world.run(300)
        (task,) = world.tasks("PENDING")
        world.executor.release()
        world.run(3)
        assert task.last_status == "RUNNING"

    def test_stopped_while_it_is_pulled_its_process_is_not_lost(self, world):
        world.executor.held = True
        world.create(1)
        world.run(10)
        (task,) = world.tasks()
        world.call("StopTask", task=task.arn, reason="enough")
        world.call("UpdateService", service="web", desiredCount=0)
        world.run(5)
        world.executor.release()
        world.run(15)
        assert world.process(task).asked_to_stop
        assert (task.last_status, task.stop_code, task.stopped_reason) == (
            "STOPPED",
            "UserInitiated",
            "enough",
        )


class TestScaling:
    def test_a_service_becomes_steady_and_says_what_it_did(self, world):
        service = world.steady(2)
        assert Counter(task.last_status for task in world.tasks()) == {"RUNNING": 2}
        told = world.events()
        assert told[0] == "has started 2 tasks: (task T) (task T)."
        assert sum(int(t.split()[1]) for t in told if t.startswith("registered")) == 2
        assert f"registered 1 targets in (target-group {GROUP})" in told
        assert told[-2:] == ["(deployment D) deployment completed.", "has reached a steady state."]
        shape = world.describe()
        assert (shape["desiredCount"], shape["runningCount"], shape["pendingCount"]) == (2, 2, 0)
        (deployment,) = shape["deployments"]
        assert (deployment["status"], deployment["rolloutState"]) == ("PRIMARY", "COMPLETED")
        assert deployment["rolloutStateReason"] == f"ECS deployment {service.primary.id} completed."

    def test_it_is_not_steady_before_its_targets_are_healthy(self, world):
        world.balancer.first = Target("initial")
        service = world.create(2)
        world.run(300)
        assert not world.scheduler.settled(service)
        assert world.describe()["deployments"][0]["rolloutState"] == "IN_PROGRESS"

    def test_without_a_load_balancer_it_is_steady_forty_seconds_after_running(self, world):
        service = world.create(1, loadBalancers=[])
        world.run(45)
        assert world.tasks("RUNNING")
        assert not world.scheduler.settled(service)
        world.run(30)
        assert world.scheduler.settled(service)

    def test_out_and_in(self, world):
        service = world.steady(2)
        world.call("UpdateService", service="web", desiredCount=5)
        assert not world.scheduler.settled(service)
        world.run(60)
        assert len(world.tasks("RUNNING")) == 5
        assert world.scheduler.settled(service)
        assert world.events()[-1] == "has reached a steady state."
        world.call("UpdateService", service="web", desiredCount=2)
        world.run(1)
        assert world.events()[-1] == "has stopped 3 running tasks: (task T) (task T) (task T)."
        world.run(2)
        assert world.events()[-2:] == [
            f"deregistered 3 targets in (target-group {GROUP})",
            "(service web, taskSet D) has begun draining connections on 3 tasks.",
        ]
        world.run(DELAY + 20)
        assert Counter(task.last_status for task in world.tasks()) == {"RUNNING": 2, "STOPPED": 3}
        assert [d["rolloutState"] for d in world.describe()["deployments"]] == ["COMPLETED"]

    def test_zones_stay_even(self, world):
        world.steady(7)

        def by_zone() -> list[int]:
            zones = Counter(task.availability_zone for task in world.tasks("RUNNING"))
            return sorted(zones.values())

        assert by_zone() == [2, 2, 3]
        world.call("UpdateService", service="web", desiredCount=3)
        world.run(150)
        assert by_zone() == [1, 1, 1]

    def test_the_launch_quota_is_a_hundred_at_once_then_twenty_a_second(self, world):
        world.create(150)
        world.run(1)
        assert len(world.tasks()) == 100
        world.run(1)
        assert len(world.tasks()) == 120
        world.run(2)
        assert len(world.tasks()) == 150

    def test_steady_is_said_again_after_six_hours(self, world):
        world.steady(1)
        count = world.events().count("has reached a steady state.")
        world.run(5 * 3600, every=60)
        assert world.events().count("has reached a steady state.") == count
        world.run(2 * 3600, every=60)
        assert world.events().count("has reached a steady state.") == count + 1

    def test_an_idle_step_calls_nothing_and_costs_nothing(self, world):
        for number in range(3):
            world.create(4, serviceName=f"web{number}")
        world.run(120)
        calls = world.api_calls
        took = []
        for _ in range(100):
            began = time.perf_counter()
            world.scheduler.step()
            took.append(time.perf_counter() - began)
        assert world.api_calls == calls
        assert statistics.median(took) < 0.005


class TestReplacement:
    def test_a_dead_task_is_deregistered_and_replaced(self, world):
        world.steady(2)
        dead, _ = world.tasks()
        world.process(dead).code = 3
        world.run(1)
        assert (dead.private_ip, 3000) not in world.balancer.targets
        assert (dead.last_status, dead.desired_status) == ("DEPROVISIONING", "STOPPED")
        assert world.logs.delivered == [dead.id], "its last words are there when ECS tells of its end"
        world.run(60)
        assert (dead.stop_code, dead.stopped_reason) == (
            "EssentialContainerExited",
            "Essential container in task exited",
        )
        assert (dead.exit_code, dead.container_reason) == (3, None)
        assert len(world.tasks("RUNNING")) == 2
        assert world.events()[-1] == "has reached a steady state."

    def test_a_task_out_of_memory_says_so(self, world):
        world.steady(1)
        (dead,) = world.tasks()
        world.process(dead).code, world.process(dead).out_of_memory = 137, True
        world.run(20)
        assert dead.exit_code == 137
        assert dead.container_reason == "OutOfMemoryError: Container killed due to memory usage"

    def test_a_task_stopped_by_a_user_drains_and_is_replaced(self, world):
        world.steady(2)
        stopped, _ = world.tasks()
        world.call("StopTask", task=stopped.id, reason="to see what happens")
        world.run(2)
        assert stopped.last_status == "DEACTIVATING"
        assert len([t for t in world.tasks() if t.desired_status == "RUNNING"]) == 2
        world.run(90)
        assert (stopped.stop_code, stopped.stopped_reason) == ("UserInitiated", "to see what happens")
        assert len(world.tasks("RUNNING")) == 2

    def test_an_unhealthy_task_stays_until_its_replacement_is_healthy(self, world):
        world.steady(2)
        bad, good = world.tasks()
        world.judge(bad, "unhealthy", "Health checks failed with these codes: [503]")
        world.run(2)
        assert world.events()[-2:] == [
            f"(task T) (port 3000) is unhealthy in (target-group {GROUP}) due to (reason Health checks failed "
            "with these codes: [503]).",
            "has started 1 tasks: (task T).",
        ]
        assert bad.last_status == "RUNNING"
        world.run(100)
        assert bad.last_status == "STOPPED"
        assert bad.stop_code == "ServiceSchedulerInitiated"
        assert bad.stopped_reason == f"Task failed ELB health checks in (target-group {GROUP})"
        assert good.last_status == "RUNNING"
        assert len(world.tasks("RUNNING")) == 2

    def test_one_that_recovers_in_time_is_kept(self, world):
        world.steady(1)
        (task,) = world.tasks()
        world.judge(task, "unhealthy")
        world.run(5)
        world.judge(task, "healthy")
        world.run(120)
        assert world.tasks("RUNNING") == [task]

    def test_the_grace_period_counts_in_real_seconds(self, world):
        world.balancer.first = Target("unhealthy", "Target.FailedHealthChecks", "Health checks failed")
        world.create(1, healthCheckGracePeriodSeconds=10)
        world.run(30)
        (task,) = world.tasks("RUNNING")
        running_at = task.started_at
        world.run(10 * world.clock.speed - (world.clock.time() - running_at) - 1)
        assert task.desired_status == "RUNNING"
        world.run(2)
        assert task.desired_status == "STOPPED"

    def test_an_app_has_some_real_seconds_to_start_even_without_a_grace_period(self, world):
        world.balancer.first = Target("unhealthy", "Target.FailedHealthChecks", "Health checks failed")
        service = world.create(1)
        world.run(30 + (BOOT - 1) * world.clock.speed)
        (task,) = world.tasks("RUNNING")
        world.judge(task, "healthy")
        world.run(5)
        assert world.scheduler.settled(service)
        world.judge(task, "unhealthy")  # it has answered: from now on nothing is forgiven
        world.run(2)
        assert len(world.tasks()) == 2

    def test_a_crash_after_running_is_never_throttled(self, world):
        """ "Tasks that are stopped after they reach the RUNNING state don't start the throttle logic." """
        world.steady(1)
        for _ in range(20):
            (task,) = [t for t in world.tasks() if t.desired_status == "RUNNING"]
            world.process(task).code = 1
            world.run(35)
        assert len(world.tasks()) == 21
        assert not any("unable to consistently" in message for message in world.events())


class TestFailedStarts:
    def test_an_unknown_image(self, world):
        world.runtime.missing.add("repository@sha256:1")
        world.create(1)
        world.run(40)
        task = world.tasks()[0]
        assert task.last_status == "STOPPED"
        assert task.stop_code == "TaskFailedToStart"
        assert task.stopped_reason == "CannotPullContainerError: repository@sha256:1: not found"
        assert task.started_at is None
        assert (
            "was unable to place a task. Reason: CannotPullContainerError: repository@sha256:1: not found."
            in world.events()
        )

    def test_no_log_stream(self, world):
        world.logs.error = ResourceInitializationError("failed to validate logger args")
        world.create(1)
        world.run(40)
        assert (
            world.tasks()[0].stopped_reason == "ResourceInitializationError: failed to validate logger args"
        )

    def test_a_process_that_ends_before_running(self, world):
        world.runtime.crashing.add("repository@sha256:1")
        world.create(1)
        world.run(40)
        task = world.tasks()[0]
        assert (task.stop_code, task.exit_code) == ("EssentialContainerExited", 1)
        assert world.logs.delivered[0] == task.id
        assert world.describe()["deployments"][0]["failedTasks"] == 1

    def test_repeated_failures_wait_longer_and_longer_up_to_27_minutes(self, world):
        world.runtime.missing.add("repository@sha256:1")
        world.create(1)
        world.run(6 * 3600, every=5)
        started = [task.created_at for task in world.tasks()]
        gaps = [later - earlier for earlier, later in pairwise(started)]
        growing, last = gaps[:7], gaps[7:]
        assert growing == sorted(growing)
        assert growing[0] < 60
        assert last
        assert all(1620 <= gap < 1680 for gap in last)
        assert world.events().count(INCONSISTENT) == 1

    def test_a_new_task_definition_is_not_throttled(self, world):
        world.runtime.missing.add("repository@sha256:1")
        world.create(1)
        world.run(3600, every=5)
        before = len(world.tasks())
        world.call("UpdateService", service="web", taskDefinition=world.ecs.register(2))
        world.run(40)
        assert len(world.tasks()) == before + 1
        assert len(world.tasks("RUNNING")) == 1

    def test_an_app_that_ends_at_once_is_neither_throttled_nor_told_of(self, world):
        """ "Even if a task's container command immediately exits with a non-zero exit code, the task already moved to
        the RUNNING state. Tasks that fail immediately because of command errors don't cause the throttle or the
        service event message." """
        world.runtime.crashing.add("repository@sha256:1")
        world.create(1)
        world.run(2 * 3600, every=5)
        started = [task.created_at for task in world.tasks()]
        gaps = [later - earlier for earlier, later in pairwise(started)]
        assert len(gaps) > 100
        assert all(RETRY_FIRST < gap < 60 for gap in gaps)
        assert INCONSISTENT not in world.events()
        assert world.describe()["deployments"][0]["failedTasks"] >= 100

    def test_of_many_that_stopped_the_newest_stay_readable(self, world, monkeypatch):
        monkeypatch.setattr(lifecycle, "EVIDENCE_MOST", 10)
        world.runtime.crashing.add("repository@sha256:1")
        world.create(1)
        seen = {}
        world.run(1800, watch=lambda: seen.update({task.id: task.created_at for task in world.tasks()}))
        newest = sorted(seen, key=seen.get)[-len(world.tasks()) :]
        assert len(seen) > 30
        assert len(world.tasks("STOPPED")) == 10
        assert [task.id for task in world.tasks()] == newest

    def test_a_refused_registration_is_told_and_tried_again(self, world):
        world.balancer.refuses = True
        service = world.create(1)
        world.run(120)
        assert [
            e for e in world.events() if e.startswith(f"failed to register targets in (target-group {GROUP})")
        ]
        assert 2 <= world.balancer.calls.count("register") <= 5
        world.balancer.refuses = False
        world.run(60)
        assert world.scheduler.settled(service)

    def test_a_full_subnet_is_told_and_holds_up_no_other_service(self, world):
        world.ec2.prefix = 29  # three addresses
        world.create(
            5, serviceName="big", networkConfiguration={"awsvpcConfiguration": {"subnets": ["subnet-a"]}}
        )
        service = world.create(1, networkConfiguration={"awsvpcConfiguration": {"subnets": ["subnet-b"]}})
        world.run(90)
        assert len([t for t in world.tasks("RUNNING") if t.group == "service:big"]) == 3
        full = "was unable to place a task. Reason: The subnet 'subnet-a' has no free IP addresses available."
        assert world.events("big").count(full) == 1
        assert world.scheduler.settled(service)

    def test_ec2_has_no_instances_here(self, world):
        world.create(1, launchType="EC2")
        world.run(60)
        assert world.tasks() == []
        assert len(world.events()) == 1
        assert "No Container Instances were found in your cluster" in world.events()[0]


INCONSISTENT = (
    "is unable to consistently start tasks successfully. For more information, see the Troubleshooting section of "
    "the Amazon ECS Developer Guide."
)


class TestRollingDeployments:
    def test_a_new_revision_rolls_within_the_limits(self, world):
        service = world.steady(3)
        old = {task.id for task in world.tasks()}
        second = world.ecs.register(2)
        answer = world.call("UpdateService", service="web", taskDefinition=second)["service"]
        assert [d["status"] for d in answer["deployments"]] == ["PRIMARY", "ACTIVE"]
        assert answer["taskDefinition"] == second
        healthy, alive = [], []

        def watch() -> None:
            now = [t for t in world.tasks() if t.desired_status == "RUNNING"]
            healthy.append(sum((t.private_ip, 3000) in world.balancer.targets for t in now))
            alive.append(len(now))

        world.run(200, watch=watch)
        assert min(healthy) >= 3
        assert max(alive) <= 6
        assert {t.task_definition_arn for t in world.tasks("RUNNING")} == {second}
        assert all(
            world.records.tasks[a].last_status == "STOPPED" for a in world.records.tasks if a[-32:] in old
        )
        assert [d["rolloutState"] for d in world.describe()["deployments"]] == ["COMPLETED"]
        assert world.scheduler.settled(service)
        assert world.events()[-2:] == ["(deployment D) deployment completed.", "has reached a steady state."]

    def test_the_old_deployment_stays_until_its_tasks_are_drained(self, world):
        world.steady(1)
        world.call("UpdateService", service="web", forceNewDeployment=True)
        world.run(45)
        assert world.tasks("DEACTIVATING")
        shape = world.describe()
        assert [d["status"] for d in shape["deployments"]] == ["PRIMARY", "ACTIVE"]
        assert shape["deployments"][0]["rolloutState"] == "IN_PROGRESS"
        world.run(DELAY)
        assert [d["status"] for d in world.describe()["deployments"]] == ["PRIMARY"]

    def test_half_may_be_away(self, world):
        limits = {"minimumHealthyPercent": 50, "maximumPercent": 100}
        world.steady(4, deploymentConfiguration=limits)
        world.call("UpdateService", service="web", taskDefinition=world.ecs.register(2))
        alive = []
        world.run(400, watch=lambda: alive.append(sum(t.desired_status == "RUNNING" for t in world.tasks())))
        assert max(alive) == 4
        assert {t.task_definition_arn[-1] for t in world.tasks("RUNNING")} == {"2"}

    def test_limits_that_leave_no_room_are_told(self, world):
        world.steady(1, deploymentConfiguration={"minimumHealthyPercent": 100, "maximumPercent": 150})
        world.call("UpdateService", service="web", forceNewDeployment=True)
        world.run(100)
        blocked = [
            e for e in world.events() if e.startswith("was unable to stop or start tasks during a deployment")
        ]
        assert len(blocked) == 1

    def test_a_changed_count_or_grace_period_starts_no_deployment(self, world):
        service = world.steady(1)
        before = service.primary.id
        world.call(
            "UpdateService",
            service="web",
            desiredCount=2,
            healthCheckGracePeriodSeconds=5,
            deploymentConfiguration={"maximumPercent": 300},
            taskDefinition=world.definition,
            networkConfiguration=NETWORK,
            loadBalancers=[BALANCER],
        )
        world.run(60)
        assert [d.id for d in service.deployments] == [before]
        assert service.primary.rollout_state == "COMPLETED"

    def test_a_new_network_starts_one(self, world):
        service = world.steady(1)
        network = {"awsvpcConfiguration": {"subnets": ["subnet-c"]}}
        world.call("UpdateService", service="web", networkConfiguration=network)
        assert len(service.deployments) == 2
        world.run(200)
        assert [t.subnet_id for t in world.tasks("RUNNING")] == ["subnet-c"]

    def test_a_task_lost_during_a_deployment_comes_back_as_what_it_was(self, world):
        world.steady(2)
        lost, _ = world.tasks()
        world.balancer.first = Target("initial")
        world.call("UpdateService", service="web", taskDefinition=world.ecs.register(2))
        world.run(5)
        world.process(lost).code = 1
        world.run(2)
        assert Counter(t.task_definition_arn[-1] for t in world.tasks() if t.desired_status == "RUNNING") == {
            "1": 2,
            "2": 2,
        }


class TestCircuitBreaker:
    def test_rolls_back_to_the_last_completed_deployment(self, world):
        service = world.steady(2, deploymentConfiguration=BREAKER)
        good = service.primary.id
        second = world.ecs.register(2)
        world.runtime.missing.add("repository@sha256:2")
        world.call("UpdateService", service="web", taskDefinition=second)
        bad = service.primary.id
        serving = []
        world.run(200, watch=lambda: serving.append(len(world.balancer.targets)))
        assert min(serving) >= 2
        told = world.events()
        at = told.index("(deployment D) deployment failed: tasks failed to start.")
        assert told[at + 1] == "rolling back to deployment D."
        raw = [event["message"] for event in world.describe()["events"]]
        assert f"(service web) (deployment {bad}) deployment failed: tasks failed to start." in raw
        assert f"(service web) rolling back to deployment {good}." in raw
        world.run(100)
        assert world.describe()["taskDefinition"] == world.definition
        assert {t.task_definition_arn for t in world.tasks("RUNNING")} == {world.definition}
        assert service.primary.id not in (good, bad)
        assert world.scheduler.settled(service)

    def test_while_it_rolls_back_both_deployments_say_so(self, world):
        service = world.steady(2, deploymentConfiguration=BREAKER)
        good = service.primary.id
        world.balancer.first = Target("unhealthy", "Target.Timeout", "Request timed out")
        world.call("UpdateService", service="web", taskDefinition=world.ecs.register(2))
        for _ in range(600):
            world.run(1)
            if len(service.deployments) > 2:
                break
        primary, failed, *_ = world.describe()["deployments"]
        assert primary["rolloutState"] == "IN_PROGRESS"
        reason = f"ECS deployment circuit breaker: rolling back to deploymentId {good}."
        assert primary["rolloutStateReason"] == reason
        assert (failed["status"], failed["rolloutState"]) == ("ACTIVE", "FAILED")
        assert failed["rolloutStateReason"] == "ECS deployment circuit breaker: tasks failed to start."
        assert failed["failedTasks"] >= 3

    def test_a_first_deployment_has_nothing_to_roll_back_to(self, world):
        world.runtime.crashing.add("repository@sha256:1")
        service = world.create(2, deploymentConfiguration=BREAKER)
        world.run(600)
        (deployment,) = world.describe()["deployments"]
        assert deployment["rolloutState"] == "FAILED"
        assert deployment["failedTasks"] >= 3
        assert Counter(task.last_status for task in world.tasks()) == {"STOPPED": len(world.tasks())}
        before = len(world.tasks())
        world.run(3600, every=10)
        assert len(world.tasks()) == before
        assert not world.scheduler.settled(service)

    def test_without_rollback_the_old_tasks_stay(self, world):
        breaker = {"deploymentCircuitBreaker": {"enable": True, "rollback": False}}
        world.steady(2, deploymentConfiguration=breaker)
        old = world.tasks()
        world.runtime.missing.add("repository@sha256:2")
        world.call("UpdateService", service="web", taskDefinition=world.ecs.register(2))
        world.run(600)
        assert [d["rolloutState"] for d in world.describe()["deployments"]] == ["FAILED", "COMPLETED"]
        assert world.tasks("RUNNING") == old

    def test_what_failed_can_be_asked_for_again(self, world):
        """As CloudFormation does when it continues a rollback."""
        world.runtime.missing.add("repository@sha256:1")
        service = world.create(1, deploymentConfiguration=BREAKER)
        world.run(300)
        assert service.primary.rollout_state == "FAILED"
        world.runtime.missing.clear()
        world.call("UpdateService", service="web", desiredCount=1)
        world.run(120)
        assert not world.scheduler.settled(service)
        world.call("UpdateService", service="web", taskDefinition=world.definition)
        world.run(120)
        assert world.scheduler.settled(service)

    def test_a_slow_start_fails_unless_the_grace_period_covers_it(self, world, monkeypatch):
        """Real seconds: five until a task that does not listen is called RUNNING, then the grace period, at least five."""
        world.balancer.first = Target("unhealthy", "Target.FailedHealthChecks", "Health checks failed")
        monkeypatch.setattr(FakeProcess, "listens", False)
        starts_in, speed = 14.0, world.clock.speed

        def warm_up():
            for task in world.tasks("RUNNING"):
                if world.clock.time() - task.created_at >= starts_in * speed:
                    world.judge(task, "healthy")

        service = world.create(1, deploymentConfiguration=BREAKER)
        world.run(40 * speed, watch=warm_up)
        assert service.primary.rollout_state == "FAILED"
        told = f"Task failed ELB health checks in (target-group {GROUP})"
        assert {task.stopped_reason for task in world.tasks("STOPPED")} == {told}
        world.call("UpdateService", service="web", healthCheckGracePeriodSeconds=10, forceNewDeployment=True)
        world.run(20 * speed, watch=warm_up)
        assert world.scheduler.settled(service)

    def test_disabled_it_goes_on_trying(self, world):
        world.runtime.missing.add("repository@sha256:1")
        world.create(1)
        world.run(1200)
        (deployment,) = world.describe()["deployments"]
        assert deployment["rolloutState"] == "IN_PROGRESS"
        assert deployment["failedTasks"] >= 4

    def test_a_healthy_task_clears_the_count(self, world):
        world.runtime.missing.add("repository@sha256:1")
        service = world.create(1)
        world.run(60)
        assert service.primary.failed_tasks > 0
        world.runtime.missing.clear()
        world.run(300)
        assert world.scheduler.settled(service)
        assert service.primary.failed_tasks == 0


class TestDeletion:
    def test_by_force_it_drains_and_then_is_inactive(self, world):
        service = world.steady(2)
        answer = world.call("DeleteService", service="web", force=True)["service"]
        assert (answer["status"], answer["desiredCount"]) == ("DRAINING", 0)
        assert world.call("ListServices")["serviceArns"] == []
        world.run(DELAY)
        assert service.status == "DRAINING"
        world.run(5)
        assert service.status == "INACTIVE"
        assert world.describe()["status"] == "INACTIVE"
        world.run(30)
        assert Counter(task.last_status for task in world.tasks()) == {"STOPPED": 2}
        assert world.balancer.targets == {}

    def test_its_name_is_free_again_then(self, world):
        world.steady(1)
        world.call("DeleteService", service="web", force=True)
        world.run(DELAY + 20)
        world.steady(1)
        assert len(world.tasks("RUNNING")) == 1

    def test_it_is_forgotten_a_real_hour_later(self, world):
        world.create(0)
        world.run(5)
        world.call("DeleteService", service="web")
        world.run(5)
        world.clock.advance(3700 * world.clock.speed)
        world.scheduler.step()
        assert world.call("DescribeServices", services=["web"])["services"] == []


class TestEvidence:
    """Stopped tasks and events stay readable for a real hour, whatever AWS's clock says."""

    @staticmethod
    def later(world, real_seconds):
        world.clock.advance(real_seconds * world.clock.speed)
        world.scheduler.step()

    def seen(self, world):
        arns = world.call("ListTasks", desiredStatus="STOPPED", serviceName="web")["taskArns"]
        tasks = world.call("DescribeTasks", tasks=arns)["tasks"] if arns else []
        services = world.call("DescribeServices", services=["web"])["services"]
        return [task["stoppedReason"] for task in tasks], [len(service["events"]) for service in services]

    def test_of_a_service_that_lives(self, world):
        world.runtime.missing.add("repository@sha256:1")
        world.create(1, deploymentConfiguration=BREAKER)
        world.run(600)
        reasons, events = self.seen(world)
        assert len(reasons) >= 3
        self.later(world, 3500)
        assert self.seen(world) == (reasons, events)
        self.later(world, 150)
        assert self.seen(world) == ([], events)  # its events are as long there as it is

    def test_of_a_service_that_was_deleted(self, world):
        world.runtime.crashing.add("repository@sha256:1")
        world.create(1, deploymentConfiguration=BREAKER)
        world.run(600)
        world.call("DeleteService", service="web", force=True)
        world.run(60)
        reasons, events = self.seen(world)
        assert set(reasons) == {"Essential container in task exited"}
        assert events[0] > 3
        self.later(world, 3500)
        assert self.seen(world) == (reasons, events)
        self.later(world, 150)
        assert self.seen(world) == ([], [])

    def test_of_a_stack_that_was_rolled_back(self, world):
        """A new service of the same name takes the place of the old one's events, as on AWS; tasks stay."""
        world.runtime.crashing.add("repository@sha256:1")
        world.create(1, deploymentConfiguration=BREAKER)
        world.run(600)
        world.call("DeleteService", service="web", force=True)
        world.run(60)
        (reasons, _) = self.seen(world)
        world.runtime.crashing.clear()
        world.steady(1)
        assert self.seen(world)[0] == reasons


class TestTasksWithoutAService:
    def test_live_and_end_alike(self, world):
        answer = world.call(
            "RunTask",
            taskDefinition="app",
            launchType="FARGATE",
            networkConfiguration=NETWORK,
            startedBy="me",
            overrides={
                "containerOverrides": [
                    {
                        "name": "app",
                        "command": ["node", "job.js"],
                        "environment": [{"name": "JOB", "value": "7"}],
                    }
                ]
            },
        )
        (shape,) = answer["tasks"]
        assert (shape["lastStatus"], shape["group"], shape["startedBy"]) == (
            "PROVISIONING",
            "family:app",
            "me",
        )
        world.run(40)
        (task,) = world.tasks("RUNNING")
        spec = world.process(task).spec
        assert spec.command == ["node", "job.js"]
        assert spec.environment == {"COLOUR": "blue", "JOB": "7"}
        world.process(task).code = 0
        world.run(20)
        (shape,) = world.call("DescribeTasks", tasks=[task.arn])["tasks"]
        assert (shape["lastStatus"], shape["stopCode"]) == ("STOPPED", "EssentialContainerExited")
        assert shape["containers"][0]["exitCode"] == 0
        assert shape["clusterArn"] == CLUSTER
