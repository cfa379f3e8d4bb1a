"""Rules of auto scaling: why the number of tasks does not follow the load."""

from __future__ import annotations

from datetime import timedelta

from helpers.diagnosis import fixes
from helpers.diagnosis.facts import Evidence
from helpers.diagnosis.finding import NOTED, POSSIBLE, PROVEN, SHOWN, Finding

DIMENSION = "ecs:service:DesiredCount"
SETTLES = timedelta(minutes=20)  # a new alarm has its data by then: the low one looks at fifteen minutes
HELD = timedelta(
    minutes=5
)  # for which AlarmLow has been in ALARM before it is called held; a cooldown's length


def metric_gaps(e: Evidence) -> list[Finding]:
    """An alarm without data decides nothing: its policy does not act."""
    if not e.service.get("runningCount"):
        return []
    now, blind = e.answers.get("now"), []
    for alarm in e.many("alarms"):
        changes = [
            item
            for item in e.many("alarm_history")
            if item.get("AlarmName") == alarm.get("AlarmName")
            and "to INSUFFICIENT_DATA" in (item.get("HistorySummary") or "")
        ]
        since = alarm.get("StateUpdatedTimestamp")
        long = bool(now and since and now - since > SETTLES)
        if (alarm.get("StateValue") == "INSUFFICIENT_DATA" and (long or changes)) or len(changes) > 1:
            blind.append((alarm, changes))
    if not blind:
        return []
    alarm, changes = blind[0]
    metric = f"{alarm.get('Namespace') or ''} {alarm.get('MetricName') or ''}".strip() or "its metric"
    evidence = [
        f"cloudwatch describe_alarms, {a.get('AlarmName')}: {a.get('StateValue')}, {a.get('StateReason', '')}"
        for a, _ in blind[:2]
    ]
    if changes:
        evidence.append(
            f"cloudwatch describe_alarm_history: {len(changes)} times without data in the last hour"
        )
    evidence.append(
        f"cloudwatch describe_alarms: TreatMissingData {alarm.get('TreatMissingData') or 'missing'}"
    )
    cause = (
        f"The metric {metric} has gaps: its alarm is INSUFFICIENT_DATA, and auto scaling does nothing then."
    )
    fix = (
        "Publish the metric every minute, a zero included; or track one that ECS publishes itself:\n"
        + fixes.diff(
            e,
            "AWS::ApplicationAutoScaling::ScalingPolicy",
            "PredefinedMetricSpecification: {PredefinedMetricType: ECSServiceAverageCPUUtilization}",
            removed="CustomizedMetricSpecification:",
            after="TargetTrackingScalingPolicyConfiguration:",
        )
    )
    # Requests that nobody sends are no datapoint, and at the minimum there is nothing to scale in.
    quiet = "RequestCount" in metric and not _above_minimum(e)
    return [Finding(cause, NOTED if quiet else PROVEN, tuple(evidence), fix)]


def two_policies(e: Evidence) -> list[Finding]:
    """All policies must agree to scale in; any one scales out."""
    policies = [p for p in e.many("policies") if p.get("PolicyType") == "TargetTrackingScaling"]
    if len(policies) < 2:
        return []
    states = {a.get("AlarmName"): a.get("StateValue") for a in e.many("alarms")}
    lows = {name: low for p in policies if (name := p.get("PolicyName")) and (low := _low(p, states))}
    ready = [name for name, state in lows.items() if state == "ALARM"]
    blocking = [name for name, state in lows.items() if state != "ALARM"]
    bounds = _bounds(e)
    evidence = [
        f"application-autoscaling describe_scaling_policies: {_told(p)}; its low alarm is "
        f"{lows.get(p.get('PolicyName') or '', 'not there')}"
        for p in policies
    ]
    evidence.append(
        f"ecs describe_services: {e.service.get('desiredCount')} tasks desired; the minimum is "
        f"{bounds.get('MinCapacity')}"
    )
    if ready and blocking:
        # Perhaps it is meant so: then more tasks make the other policy's metric smaller, and it agrees one day.
        weight = POSSIBLE if _above_minimum(e) else NOTED
        cause = (
            f"Two policies scale the service: {ready[0]} would scale in, and {blocking[0]} does not agree. If its metric "
            "does not fall when there are more tasks, as memory often does not, it never will."
        )
        chosen = blocking[0]
    else:
        weight = NOTED
        cause = "Two policies scale the service: any one may scale out, and all have to agree to scale in."
        chosen = policies[-1].get("PolicyName") or "<policy>"
    fix = fixes.call(
        "application-autoscaling",
        "delete_scaling_policy",
        PolicyName=chosen,
        ServiceNamespace="ecs",
        ResourceId=_resource(e),
        ScalableDimension=DIMENSION,
    )
    decide = fixes.call(
        "application-autoscaling",
        "describe_scaling_activities",
        ServiceNamespace="ecs",
        ResourceId=_resource(e),
        IncludeNotScaledActivities=True,
    )
    return [Finding(cause, weight, tuple(evidence), f"{fix}\nor DisableScaleIn: true in that policy", decide)]


def scale_in_held(e: Evidence) -> list[Finding]:
    """AlarmLow calls for fewer tasks, and there are more than the minimum: what holds it."""
    bounds = _bounds(e)
    calling = [a for a in _lows(e) if a.get("StateValue") == "ALARM"]
    if not bounds or not calling or not _above_minimum(e):
        return []
    since = calling[0].get("StateUpdatedTimestamp")
    counts = f"{e.service.get('desiredCount')} tasks, the minimum is {bounds.get('MinCapacity')}"
    evidence = [
        f"cloudwatch describe_alarms, {calling[0].get('AlarmName')}: ALARM since {since}",
        f"ecs describe_services: {counts}",
    ]
    off = [
        p
        for p in e.many("policies")
        if (p.get("TargetTrackingScalingPolicyConfiguration") or {}).get("DisableScaleIn")
    ]
    suspended = (bounds.get("SuspendedState") or {}).get("DynamicScalingInSuspended")
    if suspended:
        evidence.append(
            "application-autoscaling describe_scalable_targets: DynamicScalingInSuspended is true"
        )
        fix = fixes.call(
            "application-autoscaling",
            "register_scalable_target",
            ServiceNamespace="ecs",
            ResourceId=_resource(e),
            ScalableDimension=DIMENSION,
            SuspendedState={"DynamicScalingInSuspended": False},
        )
        return [Finding("Scaling in is suspended on the scalable target.", PROVEN, tuple(evidence), fix)]
    if off and len(off) == len(e.many("policies")):
        evidence.append(
            f"application-autoscaling describe_scaling_policies: {_told(off[0])}, DisableScaleIn true"
        )
        fix = fixes.diff(
            e,
            "AWS::ApplicationAutoScaling::ScalingPolicy",
            "DisableScaleIn: false",
            removed="DisableScaleIn:",
            after="TargetTrackingScalingPolicyConfiguration:",
        )
        return [Finding("The policy may not scale in: DisableScaleIn is true.", PROVEN, tuple(evidence), fix)]
    deploying = len(e.deployments) > 1 or e.primary.get("rolloutState") == "IN_PROGRESS"
    if deploying:
        evidence.append(
            f"ecs describe_services: {len(e.deployments)} deployments, the primary is "
            f"{e.primary.get('rolloutState')}"
        )
        cause = "Scaling in is held while a deployment goes on; scaling out is not."
        fix = "Nothing to mend: it goes on when the deployment is complete. If that never is, mend what holds it."
        decide = fixes.call("ecs", "describe_services", cluster=e.cluster, services=[e.service_name])
        return [Finding(cause, SHOWN if _long(e, calling[0]) else NOTED, tuple(evidence), fix, decide)]
    return []


def _lows(e: Evidence) -> list[dict]:
    return [a for a in e.many("alarms") if "AlarmLow" in (a.get("AlarmName") or "")]


def _long(e: Evidence, alarm: dict) -> bool:
    """Whether an alarm is in its state for longer than a cooldown; so, too, when that is not known."""
    now, since = e.answers.get("now"), alarm.get("StateUpdatedTimestamp")
    return not (now and since) or now - since > HELD


def _bounds(e: Evidence) -> dict:
    """The service's scalable target; empty when it has none."""
    return next(iter(e.many("scalable_targets")), {})


def _above_minimum(e: Evidence) -> bool:
    return (e.service.get("desiredCount") or 0) > (_bounds(e).get("MinCapacity") or 0)


def _low(policy: dict, states: dict) -> str:
    """The state of a policy's own low alarm; "" when it has none."""
    names = [alarm.get("AlarmName") or "" for alarm in policy.get("Alarms") or []]
    return next((states.get(name) or "" for name in names if "AlarmLow" in name), "")


def _told(policy: dict) -> str:
    tracking = policy.get("TargetTrackingScalingPolicyConfiguration") or {}
    predefined = (tracking.get("PredefinedMetricSpecification") or {}).get("PredefinedMetricType")
    custom = (tracking.get("CustomizedMetricSpecification") or {}).get("MetricName")
    return f"{policy.get('PolicyName')} tracks {predefined or custom or 'a metric'} at {tracking.get('TargetValue')}"


def _resource(e: Evidence) -> str:
    return f"service/{e.cluster}/{e.service_name}"
