"""The whole chain from CPU to desired count, with moto and a clock that the tests move."""

from __future__ import annotations

import statistics

import pytest

from helpers.sandbox.endpoint import AwsError
from tests.sandbox.chain import WHERE


def between(start, end, percent, otherwise=20.0):
    return lambda time, tasks: percent if start <= time < end else otherwise


def test_a_steps_first_scale_out_comes_300_to_400_seconds_later_whatever_the_second_of_the_minute(chain):
    """AWS's own benchmark says 363 s. Sixty services, each with its step at another second of the same minute."""
    steps = {f"web{phase}": 120 + phase for phase in range(60)}
    for name, step in steps.items():
        chain.service(name, 2, between(step, 10_000, 100.0))
        chain.scalable(name)
    chain.advance(120 + 60 + 400, tick=1)
    delays = [chain.services[name].history[0][0] - step for name, step in steps.items()]
    print(
        f"first scale-out after {min(delays):.0f}–{max(delays):.0f} s, median {statistics.median(delays):.1f} s"
    )
    assert min(delays) >= 300
    assert max(delays) <= 400
    assert 330 <= statistics.median(delays) <= 370


def test_two_calm_steps_out_rest_below_the_target_and_one_step_in(chain):
    """The load test's story: from a fifth of what two tasks can serve to 1.43 times it, and back to nothing."""
    step, drop = 300, 2100
    offered = {"before": 0.4, "during": 2.86, "after": 0.02}  # in tasks' saturated throughput

    def cpu(time, tasks):
        load = offered["before" if time < step else "during" if time < drop else "after"]
        return min(100.0, 100 * load / tasks)

    service = chain.service("web", 2, cpu)
    chain.scalable("web", ScaleOutCooldown=300, ScaleInCooldown=300)
    chain.advance(drop + 1320, tick=10)
    assert [desired for _, desired in service.history] == [4, 6, 2]
    first, second, down = (time for time, _ in service.history)
    assert 300 <= first - step <= 400
    assert second - first >= 300 + 25  # the cooldown starts when the new tasks run
    assert down - drop >= 15 * 60
    assert 45 < 100 * offered["during"] / 6 < 50  # where it rested: neither alarm fires
    assert len(chain.records.running()) == 2
    done = [one for one in chain.activities() if one["StatusCode"] == "Successful"]
    assert [one["Description"] for one in done] == [f"Setting desired count to {n}." for n in (2, 6, 4)]


def test_an_activity_is_told_as_at_aws(chain):
    chain.service("web", 2, between(300, 9000, 100.0))
    high = chain.scalable("web")["Alarms"][0]["AlarmName"]
    chain.advance(300 + 360)
    (activity,) = chain.activities()
    assert activity["StatusCode"] == "InProgress"
    chain.advance(60)
    (activity,) = chain.activities()
    assert activity.pop("ActivityId")
    assert 0 < (activity.pop("EndTime") - activity.pop("StartTime")).total_seconds() <= 60
    assert activity == {
        **WHERE,
        "Description": "Setting desired count to 4.",
        "Cause": f"monitor alarm {high} in state ALARM triggered policy cpu",
        "StatusCode": "Successful",
        "StatusMessage": "Successfully set desired count to 4. Change successfully fulfilled by ecs.",
    }


def test_why_it_did_not_scale_is_told_once_and_only_when_asked(chain):
    chain.service("web", 2, between(0, 9000, 100.0))
    chain.scalable("web", maximum=2)
    chain.advance(900)
    assert chain.activities() == []
    (activity,) = chain.activities(IncludeNotScaledActivities=True)
    assert activity["Description"] == "Attempting to scale due to alarm triggered"
    assert activity["StatusCode"] == "Failed"
    assert activity["NotScaledReasons"] == [{"Code": "AlreadyAtMaxCapacity", "MaxCapacity": 2}]


@pytest.mark.parametrize(("tasks", "limits", "reached"), [(1, (2, 10), 2), (6, (1, 4), 4), (3, (2, 4), None)])
def test_registering_brings_the_service_into_the_range(chain, tasks, limits, reached):
    service = chain.service("web", tasks)
    chain.scalable("web", *limits)
    chain.advance(60)
    assert [desired for _, desired in service.history] == ([reached] if reached else [])
    which = "minimum" if reached == limits[0] else "maximum"
    causes = [one["Cause"] for one in chain.activities()]
    assert causes == ([f"{which} capacity was set to {reached}"] if reached else [])


def test_nothing_is_scaled_in_during_a_deployment_but_out_it_is(chain):
    service = chain.service("web", 6, lambda time, n: 5.0 if time < 1200 else 100.0)
    chain.scalable("web")
    chain.deploying = True
    chain.advance(1200)
    assert service.history == []
    chain.advance(420)
    assert [desired for _, desired in service.history] == [10]


def test_disabled_or_suspended_scaling_does_nothing(chain):
    quiet = chain.service("web", 6, lambda time, n: 5.0)
    chain.scalable("web", DisableScaleIn=True)
    busy = chain.service("busy", 2, lambda time, n: 100.0)
    chain.scalable("busy")
    chain.aws("application-autoscaling").register_scalable_target(
        **{**WHERE, "ResourceId": "service/lab/busy"}, SuspendedState={"DynamicScalingOutSuspended": True}
    )
    chain.advance(1500)
    assert (quiet.history, busy.history) == ([], [])


def test_a_service_without_data_stays_as_it_is(chain):
    service = chain.service("web", 6, lambda time, n: 5.0)
    for task in chain.records.running():
        task.counted_from = None
    chain.scalable("web")
    chain.advance(1500)
    assert service.history == []
    states = {alarm["StateValue"] for alarm in chain.aws("cloudwatch").describe_alarms()["MetricAlarms"]}
    assert states == {"INSUFFICIENT_DATA"}


def test_a_change_that_ecs_refuses_has_failed(chain):
    chain.service("web", 2, between(0, 9000, 100.0))
    chain.scalable("web")

    def refuse(call):
        raise AwsError("ServiceNotActiveException", "Service was not ACTIVE.")

    chain.endpoint.handlers["ecs", "UpdateService"] = refuse
    chain.advance(420)
    failed = chain.activities()[-1]
    assert failed["StatusCode"] == "Failed"
    assert failed["StatusMessage"] == (
        "Failed to set desired count to 4. Reason: Service was not ACTIVE. (Service: AmazonECS; Status Code: 400; Error "
        "Code: ServiceNotActiveException)"
    )


def test_a_change_whose_tasks_never_run_is_unfulfilled(chain, monkeypatch):
    chain.service("web", 2, between(0, 9000, 60.0))
    chain.scalable("web")
    monkeypatch.setattr(chain, "_schedule", lambda: None)
    chain.advance(1500)
    first = chain.activities()[-1]
    assert (first["StatusCode"], first["Description"]) == ("Unfulfilled", "Setting desired count to 3.")


def test_a_newer_change_overrides_one_in_progress(chain, monkeypatch):
    service = chain.service("web", 2, between(0, 9000, 60.0))
    chain.scalable("web")
    monkeypatch.setattr(chain, "_schedule", lambda: None)
    chain.advance(420)
    assert service.desired == 3
    chain.scalable("web", minimum=5)
    chain.advance(10)
    assert [(one["Description"], one["StatusCode"]) for one in chain.activities()] == [
        ("Setting desired count to 5.", "InProgress"),
        ("Setting desired count to 3.", "Overridden"),
    ]


def test_desired_counts_set_by_hand_are_respected(chain):
    """A learner's update-service ends the activity that was on its way; the policy goes on from the new count."""
    service = chain.service("web", 2, between(0, 9000, 100.0))
    chain.scalable("web")
    chain.advance(300)
    chain.aws("ecs").update_service(cluster="lab", service="web", desiredCount=3)
    chain.advance(120)
    assert [desired for _, desired in service.history] == [3, 6]


def test_two_policies_scale_in_only_together(chain):
    service = chain.service("web", 6, lambda time, n: 5.0)
    for task in chain.records.running():
        task.process.bytes = 400 * 1024**2  # 78 % of its memory
    chain.scalable("web")
    chain.aws("application-autoscaling").put_scaling_policy(
        **WHERE,
        PolicyName="memory",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": 80.0,
            "PredefinedMetricSpecification": {"PredefinedMetricType": "ECSServiceAverageMemoryUtilization"},
        },
    )
    chain.advance(1200)
    assert service.history == []
    for task in chain.records.running():
        task.process.bytes = 200 * 1024**2  # 39 %: three would do for memory, two for CPU
    chain.advance(1200)
    assert [desired for _, desired in service.history] == [3]


def test_nothing_is_asked_of_aws_while_nothing_is_due(chain, monkeypatch):
    chain.service("web", 2)
    chain.scalable("web")
    chain.advance(120)
    monkeypatch.setattr(chain.autoscaler, "aws", lambda *which: pytest.fail("asked"))
    for _ in range(10):
        chain.autoscaler.step()
