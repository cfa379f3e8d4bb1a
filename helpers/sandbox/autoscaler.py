"""Stands in for Application Auto Scaling at work: it invokes the policies, sets the desired count and tells what it did.

Differs: AWS publishes neither how large a step is nor from which datapoint it is computed; here it is proportional (see
`tracking.py`), from the newest published datapoint. An invocation that does not scale is recorded as an activity once,
until another reason or an activity comes between.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError

from helpers.sandbox.autoscaling.scalable_targets import (
    DIMENSION,
    METRICS,
    Policy,
    ScalableTargets,
    Target,
    metric_dimensions,
)
from helpers.sandbox.autoscaling.tracking import (
    COOLDOWN,
    Decision,
    ScaleIn,
    ScaleOut,
    choose,
    cooling,
    decide,
    gradual,
)
from helpers.sandbox.clock import Clock
from helpers.sandbox.endpoint import Aws, Handler
from helpers.sandbox.meter import MINUTE, PUBLICATION_DELAY
from helpers.sandbox.records import Records

log = logging.getLogger("sandbox.autoscaler")

FRESH = 5 * MINUTE  # how old the newest published datapoint may be: as far back as AlarmHigh looks
FULFILLED_WITHIN = 900.0  # AWS seconds; then an activity is Unfulfilled. AWS does not say after how long


class AutoScaler:
    """`evaluations()`: how many times the alarms have been evaluated; policies are invoked after each."""

    def __init__(self, clock: Clock, records: Records, aws: Aws, evaluations: Callable[[], int]):
        self.clock, self.records, self.aws, self.evaluations = clock, records, aws, evaluations
        self.targets = ScalableTargets(clock, records, aws)
        self.scale_in: ScaleIn = gradual
        self._seen = evaluations()

    def operations(self) -> dict[tuple[str, str], Handler]:
        return self.targets.operations()

    def step(self) -> None:
        rounds = self.evaluations()
        invoked, self._seen = rounds != self._seen, rounds
        targets = self.targets.registered()
        for target in targets:
            if target.activity is not None:
                self._settle(target)
            if target.changed:
                target.changed = False
                self._into_range(target)
        if invoked:
            for region in {target.region for target in targets if target.policies}:
                in_alarm = self._in_alarm(region)
                for target in targets:
                    if target.region == region and target.policies:
                        self._invoke(target, in_alarm)

    def _in_alarm(self, region: str) -> set[str]:
        pages = self.aws("cloudwatch", region).get_paginator("describe_alarms").paginate(StateValue="ALARM")
        alarms = [alarm for page in pages for alarm in page["MetricAlarms"]]
        return {alarm["AlarmName"] for alarm in alarms if alarm.get("ActionsEnabled", True)}

    def _settle(self, target: Target) -> None:
        now = self.clock.time()
        running = len(self.records.running(target.region, target.service_arn))
        out = target.last_scale_out is not None and target.last_scale_out.fulfilled is None
        if running == target.wanted:
            message = f"{_set(target.wanted)} Change successfully fulfilled by ecs."
            self._finish(target, "Successful", message)
            if out:
                target.last_scale_out = replace(target.last_scale_out, fulfilled=now)
            elif target.last_scale_in == math.inf:
                target.last_scale_in = now
        elif now > target.activity["StartTime"].timestamp() + FULFILLED_WITHIN:
            self._finish(
                target, "Unfulfilled", f"{_set(target.wanted)} The change was not fulfilled by ecs in time."
            )
            self._abandon(target)

    def _abandon(self, target: Target) -> None:
        """An activity ended without success: no cooldown starts from it."""
        if target.last_scale_out is not None and target.last_scale_out.fulfilled is None:
            target.last_scale_out = None
        if target.last_scale_in == math.inf:
            target.last_scale_in = None

    def _finish(self, target: Target, status: str, message: str | None = None) -> None:
        with self.records.lock:
            target.activity |= {"StatusCode": status, "EndTime": self.clock.now()}
            if message:
                target.activity["StatusMessage"] = message
        log.info("%s: %s %s", target.resource_id, target.activity["Description"], status)
        target.activity = None

    def _into_range(self, target: Target) -> None:
        """Registering a target, or changing its limits, brings its service within them; later nothing does but a policy."""
        service = self._service(target)
        if service is None:
            return
        current = service["desiredCount"]
        if current < target.minimum:
            self._scale(target, current, target.minimum, f"minimum capacity was set to {target.minimum}")
        elif current > target.maximum:
            self._scale(target, current, target.maximum, f"maximum capacity was set to {target.maximum}")

    def _invoke(self, target: Target, in_alarm: set[str]) -> None:
        policies = list(target.policies.values())
        active = in_alarm & {name for policy in policies for name in (policy.high, policy.low)}
        service = self._service(target) if active else None
        if service is None:
            return
        current = service["desiredCount"]
        if target.activity is not None and current != target.wanted:  # somebody else set it since
            self._finish(target, "Overridden")
            self._abandon(target)
        deploying = any(one.get("rolloutState") == "IN_PROGRESS" for one in service["deployments"])
        decisions = {
            policy.name: decide(
                current=current,
                minimum=target.minimum,
                maximum=target.maximum,
                target=policy.configuration["TargetValue"],
                metric=self._latest(target, policy) if active & {policy.high, policy.low} else None,
                high=policy.high in active,
                low=policy.low in active,
                now=self.clock.time(),
                last_scale_out=target.last_scale_out,
                last_scale_in=target.last_scale_in,
                scale_out_cooldown=policy.configuration.get("ScaleOutCooldown", COOLDOWN),
                scale_in_cooldown=policy.configuration.get("ScaleInCooldown", COOLDOWN),
                disable_scale_in=policy.configuration.get("DisableScaleIn", False),
                deployment_running=deploying,
                scale_in=self.scale_in,
            )
            for policy in policies
        }
        decision = choose(decisions.values())
        policy = next(policy for policy in policies if decisions[policy.name] is decision)
        alarm = policy.low if decision.direction == "in" else policy.high
        cause = f"monitor alarm {alarm} in state ALARM triggered policy {policy.name}"
        suspended = f"DynamicScaling{(decision.direction or '').title()}Suspended"
        if target.suspended.get(suspended):
            log.info("%s: not scaled, %s is set", target.resource_id, suspended)
        elif decision.capacity is not None:
            log.info("%s: %s", target.resource_id, decision.reason)
            self._scale(target, current, decision.capacity, cause)
        else:
            willing = [
                n for n, one in decisions.items() if one.direction == "in" and one.capacity is not None
            ]
            if willing:  # AWS has no NotScaledReason for it
                log.info(
                    "%s: not scaled in as %s asks: %s does not agree, %s",
                    *(target.resource_id, " and ".join(willing), policy.name, decision.reason),
                )
            else:
                self._not_scaled(target, decision, cause)

    def _scale(self, target: Target, current: int, capacity: int, cause: str) -> None:
        if target.activity is not None:
            self._finish(target, "Overridden")
        now = self.clock.time()
        activity = self._activity(target, f"Setting desired count to {capacity}.", cause, "Pending")
        try:
            self.aws("ecs", target.region).update_service(
                cluster=target.cluster, service=target.service, desiredCount=capacity
            )
        except ClientError as error:
            told = error.response["Error"]
            why = f"{told.get('Message')} (Service: AmazonECS; Status Code: 400; Error Code: {told.get('Code')})"
            target.activity = activity
            self._finish(target, "Failed", f"Failed to set desired count to {capacity}. Reason: {why}")
            self._abandon(target)
            return
        with self.records.lock:
            message = f"{_set(capacity)} Waiting for change to be fulfilled by ecs."
            activity |= {"StatusCode": "InProgress", "StatusMessage": message}
        target.activity, target.wanted = activity, capacity
        if capacity > current:
            last = target.last_scale_out
            longest = max((_out_cooldown(policy) for policy in target.policies.values()), default=COOLDOWN)
            before = last.before if cooling(last, longest, now) else current
            target.last_scale_out, target.last_scale_in = ScaleOut(now, None, before, capacity), None
        else:
            self._abandon(target)
            target.last_scale_in = math.inf
        log.info("%s: desired count %d -> %d (%s)", target.resource_id, current, capacity, cause)

    def _not_scaled(self, target: Target, decision: Decision, cause: str) -> None:
        with self.records.lock:
            mine = (one for one in reversed(self.records.scaling_activities) if _is_of(one, target))
            last = next(mine, {})
        code = (decision.not_scaled or {}).get("Code", "")
        repeated = any(reason["Code"] == code for reason in last.get("NotScaledReasons", []))
        level = logging.DEBUG if repeated else logging.INFO
        log.log(level, "%s: not scaled, %s", target.resource_id, decision.reason)
        if decision.not_scaled and not repeated:
            activity = self._activity(target, "Attempting to scale due to alarm triggered", cause, "Failed")
            activity["NotScaledReasons"] = [decision.not_scaled]

    def _activity(self, target: Target, description: str, cause: str, status: str) -> dict[str, Any]:
        activity = {
            "region": target.region,
            "ActivityId": str(uuid.uuid4()),
            "ServiceNamespace": "ecs",
            "ResourceId": target.resource_id,
            "ScalableDimension": DIMENSION,
            "Description": description,
            "Cause": cause,
            "StartTime": self.clock.now(),
            "StatusCode": status,
        }
        with self.records.lock:
            self.records.scaling_activities.append(activity)
        return activity

    def _service(self, target: Target) -> dict[str, Any] | None:
        try:
            found = self.aws("ecs", target.region).describe_services(
                cluster=target.cluster, services=[target.service]
            )
        except ClientError as error:
            log.info("%s: not scaled, %s", target.resource_id, error)
            return None
        service = next((one for one in found["services"] if one["status"] == "ACTIVE"), None)
        if service is None:
            log.debug("%s: not scaled, there is no such active service", target.resource_id)
        else:
            target.service_arn = service["serviceArn"]
        return service

    def _latest(self, target: Target, policy: Policy) -> float | None:
        """The newest published datapoint of a policy's metric. That AWS takes this one is our model: it does not say."""
        namespace, name, statistic = METRICS[policy.metric["PredefinedMetricType"]]
        metric = {"Namespace": namespace, "MetricName": name, "Dimensions": metric_dimensions(target, policy)}
        end = datetime.fromtimestamp((self.clock.time() - PUBLICATION_DELAY) // MINUTE * MINUTE, UTC)
        answer = self.aws("cloudwatch", target.region).get_metric_data(
            MetricDataQueries=[
                {"Id": "m", "MetricStat": {"Metric": metric, "Period": int(MINUTE), "Stat": statistic}}
            ],
            StartTime=end - timedelta(seconds=FRESH),
            EndTime=end,
        )
        return next(iter(answer["MetricDataResults"][0]["Values"]), None)  # the newest comes first


def _is_of(activity: dict[str, Any], target: Target) -> bool:
    return activity["region"] == target.region and activity["ResourceId"] == target.resource_id


def _out_cooldown(policy: Policy) -> float:
    return policy.configuration.get("ScaleOutCooldown", COOLDOWN)


def _set(capacity: int) -> str:
    return f"Successfully set desired count to {capacity}."
