"""The rule of the template that undoes what auto scaling does."""

from __future__ import annotations

import re

from helpers.diagnosis import fixes
from helpers.diagnosis.facts import Evidence
from helpers.diagnosis.finding import LIKELY, NOTED, PROVEN, SHOWN, Finding

SERVICE = "AWS::ECS::Service"


def desired_count(e: Evidence) -> list[Finding]:
    """The number of tasks was set by something else than auto scaling: a template's DesiredCount, or a call."""
    bounds = next(iter(e.many("scalable_targets")), {})
    desired = e.service.get("desiredCount")
    if not bounds or desired is None:
        return []
    own = e.service.get("serviceArn") or ""
    line = fixes.in_template(e, SERVICE, r"^\s+DesiredCount:", own)
    fixed = fixes.value_of(e, SERVICE, "DesiredCount", own)
    scaled = _last_scaled(e)
    reset = scaled is not None and scaled != desired
    low, high = bounds.get("MinCapacity") or 0, bounds.get("MaxCapacity") or desired
    outside = not low <= desired <= high
    if not (line or reset or outside):
        return []
    evidence = [f"ecs describe_services: desiredCount {desired}"]
    if scaled is not None:
        evidence.append(f"application-autoscaling describe_scaling_activities: it had set {scaled}")
    evidence.append(f"application-autoscaling describe_scalable_targets: between {low} and {high} tasks")
    if line:
        evidence.insert(0, f"cloudformation get_template: {line}, and a scalable target for the same service")
        fix = _without(e, line)
        if fixed == str(desired) and (reset or outside):
            lost = (
                f"auto scaling's {scaled} tasks"
                if reset
                else f"auto scaling's work, which keeps {low} to {high} tasks"
            )
            cause = (
                f"The template's DesiredCount {fixed} has undone {lost}: an update of the stack that changes the service "
                "sets it again."
            )
            wanted = min(max(scaled if reset and scaled else desired, low), high)
            return [Finding(cause, PROVEN, tuple(evidence), _back(e, wanted) + fix)]
        cause = (
            f"The template's DesiredCount {fixed} undoes auto scaling's work at each update of the stack that changes "
            "the service."
        )
        return [Finding(cause, LIKELY, tuple(evidence), fix)]
    if outside:
        wanted = min(max(desired, low), high)
        cause = f"{desired} tasks are desired, outside auto scaling's {low} to {high}: something else has set that."
        return [Finding(cause, SHOWN, tuple(evidence), _back(e, wanted).rstrip())]
    cause = f"Something else than auto scaling has set {desired} tasks, where that had set {scaled}."
    decide = "AWS CloudTrail's lookup_events for UpdateService says who"
    return [Finding(cause, NOTED, tuple(evidence), _back(e, scaled).rstrip(), decide)]


def _last_scaled(e: Evidence) -> int | None:
    """What auto scaling set last; activities come newest first."""
    for activity in e.many("activities"):
        number = re.search(r"desired count to (\d+)", activity.get("Description") or "")
        if number and activity.get("StatusCode") == "Successful":
            return int(number[1])
    return None


def _back(e: Evidence, count: int | None) -> str:
    back = fixes.call("ecs", "update_service", cluster=e.cluster, service=e.service_name, desiredCount=count)
    return f"{back}  # now\n"


def _without(e: Evidence, line: str) -> str:
    own = e.service.get("serviceArn") or ""
    return fixes.diff(e, SERVICE, "", removed="DesiredCount:", physical=own) or f"-      {line}"
