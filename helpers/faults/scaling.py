"""Faults in how many tasks there are: a template that says so, and a second scaling policy."""

from __future__ import annotations

import re
from random import Random
from typing import Any

from helpers.calls import client, patience, polls
from helpers.errors import TutorialError
from helpers.faults.fault import Fault
from helpers.faults.place import Place
from helpers.services import alarm_kind
from helpers.stacks import wait_for
from helpers.templates import Template, template

STEP = "08"
CHANGED_WITHIN = 20.0  # AWS minutes for a small update of the stack
DESIRED_COUNT = re.compile(r"^ +DesiredCount: .*\n", re.MULTILINE)
LAUNCH_TYPE = "      LaunchType: FARGATE\n"
MINIMUM = "      MinCapacity: 2\n"


def of_service(place: Place) -> dict[str, str]:
    return {"ServiceNamespace": "ecs", "ResourceId": f"service/{place.name}/{place.name}"}


def _update_stack(place: Place, body: str) -> None:
    """As somebody would by hand; returns when it is done."""
    cloudformation = client("cloudformation")
    names = [one["ParameterKey"] for one in place.stack["Parameters"]]
    cloudformation.update_stack(
        StackName=place.name,
        TemplateBody=body,
        Parameters=[{"ParameterKey": name, "UsePreviousValue": True} for name in names],
        Capabilities=["CAPABILITY_IAM"],
    )
    for _ in polls(patience(CHANGED_WITHIN)):
        status = place.stack["StackStatus"]
        if not status.endswith("IN_PROGRESS"):
            break
    if status != "UPDATE_COMPLETE":
        raise TutorialError(
            "The stack could not be changed.", seen=status, next="Read its events: describe_stack_events."
        )


def _reset_the_count(place: Place, rng: Random) -> None:
    """A busy day: the minimum is raised, and the service follows. Then an update whose template says how many."""
    busy = rng.choice((4, 5))
    raised = place.template_body.replace(MINIMUM, MINIMUM.replace("2", str(busy)))
    _update_stack(place, raised)
    place.service.until_steady(desired=busy)
    counted = raised.replace(LAUNCH_TYPE, f"{LAUNCH_TYPE}      DesiredCount: {rng.choice((1, 2))}\n")
    _update_stack(place, counted)


def _is_short(place: Place) -> bool:
    scaling = place.service.scaling
    return scaling is not None and place.service.record["desiredCount"] < scaling.minimum


def _leave_the_count(place: Place) -> None:
    """The template without DesiredCount, and the count that was lost. (Here that is the usual minimum: the busy day is
    over, too.)"""
    for _ in polls(patience(CHANGED_WITHIN)):  # an update of the stack that goes on must end first
        if not place.stack["StackStatus"].endswith("IN_PROGRESS"):
            break
    if client("cloudformation").get_template(StackName=place.name)["TemplateBody"] != template("08").body:
        names = ("Name", "Image", "VpcId", "SubnetIds", "HealthCheckPath")
        client("cloudformation").update_stack(
            StackName=place.name,
            TemplateBody=template("08").body,
            Parameters=[{"ParameterKey": name, "UsePreviousValue": True} for name in names],
            Capabilities=["CAPABILITY_IAM"],
        )
        wait_for(place.name)
    client("ecs").update_service(cluster=place.name, service=place.name, desiredCount=2)


def _counted(place: Place) -> list[str]:
    if DESIRED_COUNT.search(place.template_body):
        return ["the stack's template still says DesiredCount"]
    return []


def _second_policy(place: Place, rng: Random) -> None:
    client("application-autoscaling").put_scaling_policy(
        **of_service(place),
        PolicyName=f"{place.name}-{rng.choice(('memory', 'ram', 'safety', 'reserve'))}",
        ScalableDimension="ecs:service:DesiredCount",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "PredefinedMetricSpecification": {"PredefinedMetricType": "ECSServiceAverageMemoryUtilization"},
            "TargetValue": rng.choice((4.0, 5.0, 6.0)),
            "ScaleOutCooldown": 60,
            "ScaleInCooldown": 300,
        },
    )


def _policies(place: Place) -> list[dict[str, Any]]:
    answer = client("application-autoscaling").describe_scaling_policies(**of_service(place))
    return answer["ScalingPolicies"]


def _too_many(place: Place) -> bool:
    """More than the minimum, while the alarm of the template's own policy asks for fewer."""
    scaling, alarms = place.service.scaling, place.service.alarm_records()
    calls_for_fewer = any(
        alarm["MetricName"] == "CPUUtilization" and alarm["StateValue"] == "ALARM"
        for alarm in alarms
        if alarm_kind(alarm["AlarmName"]) == "AlarmLow"
    )
    more = scaling is not None and place.service.record["desiredCount"] > scaling.minimum
    return more and calls_for_fewer


def _one_policy(place: Place) -> None:
    """Without the policy on memory, which more tasks do not lower; the rest as the stack's template has it; and down at
    once instead of in twenty minutes."""
    autoscaling = client("application-autoscaling")
    of = of_service(place) | {"ScalableDimension": "ecs:service:DesiredCount"}
    bounds, tracking = templated(place)
    autoscaling.register_scalable_target(
        **of, MinCapacity=bounds["MinCapacity"], MaxCapacity=bounds["MaxCapacity"]
    )
    for policy in autoscaling.describe_scaling_policies(**of)["ScalingPolicies"]:
        if policy["PolicyName"] != f"{place.name}-cpu":
            autoscaling.delete_scaling_policy(**of, PolicyName=policy["PolicyName"])
    autoscaling.put_scaling_policy(
        **of,
        PolicyName=f"{place.name}-cpu",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration=tracking,
    )
    desired = bounds["MinCapacity"]
    client("ecs").update_service(cluster=place.name, service=place.name, desiredCount=desired)


def after_the_busy_day(place: Place) -> None:
    """The course's template again, where the last round left the stack with a higher minimum."""
    if place.template_body != template(STEP).body and MINIMUM not in place.template_body:
        _update_stack(place, template(STEP).body)


def templated(place: Place) -> tuple[dict[str, Any], dict[str, Any]]:
    """The scalable target and what the policy tracks, as the stack's template has them. TutorialError where it has none."""
    resources = Template(f"of the stack {place.name}", place.template_body).content["Resources"]
    if not {"ScalableTarget", "ScalingPolicy"} <= resources.keys():
        raise TutorialError("the stack's template has no auto scaling any more")
    tracking = resources["ScalingPolicy"]["Properties"]["TargetTrackingScalingPolicyConfiguration"]
    return resources["ScalableTarget"]["Properties"], tracking


def as_templated(place: Place) -> list[str]:
    """What of auto scaling is not as the stack's template has it, in sentences."""
    try:
        bounds, wanted = templated(place)
    except TutorialError as error:
        return [error.what]
    scaling, policies = place.service.scaling, _policies(place)
    if scaling is None:
        return ["auto scaling is not set up"]
    told = []
    if (scaling.minimum, scaling.maximum) != (bounds["MinCapacity"], bounds["MaxCapacity"]):
        told.append(
            f"auto scaling keeps {scaling.minimum} to {scaling.maximum} tasks, the stack's template says "
            f"{bounds['MinCapacity']} to {bounds['MaxCapacity']}"
        )
    if len(policies) != 1:
        told.append(f"there are {len(policies)} scaling policies, the template has one")
    elif policies[0]["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] != wanted["TargetValue"]:
        told.append(f"the scaling policy's target is not {wanted['TargetValue']}")
    desired = place.service.record["desiredCount"]
    if not scaling.minimum <= desired <= scaling.maximum:
        told.append(f"{desired} tasks are wanted, outside of auto scaling's range")
    return told


FAULTS = (
    Fault(
        "two-policies",
        "scaling",
        "The bill grows: nobody visits, the CPU is idle, and the service takes more and more tasks and gives none back.",
        (
            "Who asked for the tasks? describe_scaling_activities names the alarm and the policy in each Cause.",
            "With several policies the largest number wins, and all must agree before a task goes. Compare them: "
            "describe_scaling_policies. What does each follow, and does that fall when there are more tasks?",
            "A second policy tracks memory, at a target below what an idle task uses: more tasks never lower it. Take it "
            "away with delete_scaling_policy; update_service with desiredCount=2 saves the wait.",
        ),
        _second_policy,
        _too_many,
        _one_policy,
    ),
    Fault(
        "desired-count",
        "template",
        "It is a busy day, and the service had been given more tasks. Since the last update of the stack most are gone.",
        (
            "Nothing failed: read the service's events and the scaling activities (describe_scaling_activities). How "
            "many tasks were there, how many should there be at least (describe_scalable_targets)?",
            "Who set the count back? Compare the time with the stack's events, and read the template that the stack has "
            "now: cloudformation.get_template. What does it say about the service?",
            "The template says DesiredCount, so each update of the service sets the count. Update the stack with the same "
            "template without that line, and set the count with update_service, to the minimum at least.",
        ),
        _reset_the_count,
        _is_short,
        _leave_the_count,
        _counted,
    ),
)
