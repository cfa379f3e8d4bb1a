"""Stands in for Application Auto Scaling's API: scalable targets, their policies, and the alarms that come with a policy.

Differs: ECS services only, and target tracking on predefined metrics only; no step, scheduled or predictive scaling.
Who may do it (RoleARN) is recorded. What the policies do is in `autoscaler.py`.
"""

from __future__ import annotations

import re
import threading
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from helpers.sandbox.autoscaling.tracking import ScaleOut
from helpers.sandbox.clock import Clock
from helpers.sandbox.endpoint import ACCOUNT, Aws, AwsError, Call, Handler
from helpers.sandbox.partitions import arn_of, partition_of
from helpers.sandbox.records import Records

DIMENSION = "ecs:service:DesiredCount"
PERIOD, PERIODS_OUT, PERIODS_IN = (
    60,
    3,
    15,
)  # AWS seconds of a datapoint; datapoints behind AlarmHigh, AlarmLow
LOW_THRESHOLD = 0.9  # of the target; observed at AWS: 70 -> 63, 80 -> 72
METRICS = {  # predefined metric: namespace, metric, statistic
    "ECSServiceAverageCPUUtilization": ("AWS/ECS", "CPUUtilization", "Average"),
    "ECSServiceAverageMemoryUtilization": ("AWS/ECS", "MemoryUtilization", "Average"),
    "ALBRequestCountPerTarget": ("AWS/ApplicationELB", "RequestCountPerTarget", "Sum"),
}
SUSPENDABLE = ("DynamicScalingInSuspended", "DynamicScalingOutSuspended", "ScheduledScalingSuspended")
RESOURCE_LABEL = re.compile(r"(app/[^/]+/[^/]+)/(targetgroup/[^/]+/[^/]+)")
ROLE = (
    "role/aws-service-role/ecs.application-autoscaling.amazonaws.com/"
    "AWSServiceRoleForApplicationAutoScaling_ECSService"
)


@dataclass
class Policy:
    arn: str
    name: str
    created: datetime
    high: str  # the alarms' names
    low: str
    configuration: dict[str, Any] = field(default_factory=dict)

    @property
    def metric(self) -> dict[str, Any]:
        return self.configuration["PredefinedMetricSpecification"]


@dataclass
class Target:
    """A scalable target: one ECS service, and what is remembered about its scaling."""

    arn: str
    region: str
    resource_id: str
    minimum: int
    maximum: int
    created: datetime
    role_arn: str
    suspended: dict[str, bool] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    policies: dict[str, Policy] = field(default_factory=dict)
    last_scale_out: ScaleOut | None = None
    last_scale_in: float | None = None
    changed: bool = True  # registered or updated: its service may be outside of its range
    activity: dict[str, Any] | None = None  # the one in progress
    wanted: int = 0  # by that activity
    service_arn: str = ""

    @property
    def cluster(self) -> str:
        return self.resource_id.split("/")[1]

    @property
    def service(self) -> str:
        return self.resource_id.split("/")[2]


class ScalableTargets:
    def __init__(self, clock: Clock, records: Records, aws: Aws):
        self.clock, self.records, self.aws = clock, records, aws
        self._targets: dict[tuple[str, str], Target] = {}  # by (region, resource id)
        self._lock = threading.RLock()

    def operations(self) -> dict[tuple[str, str], Handler]:
        handlers = {
            "RegisterScalableTarget": self.register,
            "DeregisterScalableTarget": self.deregister,
            "DescribeScalableTargets": self.describe_targets,
            "PutScalingPolicy": self.put_policy,
            "DeleteScalingPolicy": self.delete_policy,
            "DescribeScalingPolicies": self.describe_policies,
            "DescribeScalingActivities": self.describe_activities,
            "TagResource": self.tag,
            "UntagResource": self.untag,
            "ListTagsForResource": self.list_tags,
        }
        return {("application-autoscaling", operation): handler for operation, handler in handlers.items()}

    def registered(self) -> list[Target]:
        with self._lock:
            return list(self._targets.values())

    def register(self, call: Call) -> dict[str, Any]:
        asked = call.params
        self._check_resource(call)
        resource_id = asked["ResourceId"]
        with self._lock:
            known = self._targets.get((call.region, resource_id))
            minimum = asked.get("MinCapacity", known.minimum if known else None)
            maximum = asked.get("MaxCapacity", known.maximum if known else None)
            if minimum is None or maximum is None:
                raise _invalid(
                    "MinCapacity and MaxCapacity must be specified when a scalable target is registered"
                )
            if minimum < 0:
                raise _invalid("Minimum capacity cannot be less than 0")
            if maximum < minimum:
                raise _invalid("Maximum capacity cannot be less than minimum capacity")
            if known is None:
                arn = arn_of("application-autoscaling", call.region, f"scalable-target/{uuid.uuid4().hex}")
                role = f"arn:{partition_of(call.region)}:iam::{ACCOUNT}:{ROLE}"
                known = Target(arn, call.region, resource_id, minimum, maximum, self.clock.now(), role)
                self._targets[call.region, resource_id] = known
            known.minimum, known.maximum = minimum, maximum
            known.role_arn = asked.get("RoleARN") or known.role_arn
            known.suspended |= asked.get("SuspendedState") or {}
            known.tags |= asked.get("Tags") or {}
            known.changed = True
        return {"ScalableTargetARN": known.arn}

    def _check_resource(self, call: Call) -> None:
        asked = call.params
        parts = asked["ResourceId"].split("/")
        wrong = (
            asked["ServiceNamespace"] != "ecs"
            or asked["ScalableDimension"] != DIMENSION
            or parts[0] != "service"
        )
        if wrong or len(parts) < 3 or not all(parts):
            raise _invalid("Unsupported service namespace, resource type or scalable dimension")
        missing = _invalid(f"ECS service doesn't exist: {asked['ResourceId']}")
        if len(parts) > 3:  # an ARN where a name belongs
            raise missing
        try:
            found = self.aws("ecs", call.region).describe_services(cluster=parts[1], services=[parts[2]])
        except ClientError as error:
            raise missing from error
        if not any(service["status"] == "ACTIVE" for service in found["services"]):
            raise missing

    def _target(self, call: Call, why: str) -> Target:
        asked = call.params
        target = self._targets.get((call.region, asked["ResourceId"]))
        if target is None or asked["ServiceNamespace"] != "ecs" or asked["ScalableDimension"] != DIMENSION:
            raise AwsError("ObjectNotFoundException", f"No scalable target {why} for {_whereabouts(asked)}")
        return target

    def deregister(self, call: Call) -> dict[str, Any]:
        with self._lock:
            target = self._target(call, "found")
            del self._targets[call.region, target.resource_id]
        for policy in target.policies.values():
            self.aws("cloudwatch", target.region).delete_alarms(AlarmNames=[policy.high, policy.low])
        return {}

    def describe_targets(self, call: Call) -> dict[str, Any]:
        wanted = call.params.get("ResourceIds") or []
        with self._lock:
            targets = [target for (region, _), target in self._targets.items() if region == call.region]
        described = [
            {
                "ServiceNamespace": "ecs",
                "ResourceId": target.resource_id,
                "ScalableDimension": DIMENSION,
                "MinCapacity": target.minimum,
                "MaxCapacity": target.maximum,
                "RoleARN": target.role_arn,
                "CreationTime": target.created,
                "SuspendedState": {name: target.suspended.get(name, False) for name in SUSPENDABLE},
                "ScalableTargetARN": target.arn,
            }
            for target in targets
            if not wanted or target.resource_id in wanted
        ]
        return _page("ScalableTargets", described, call)

    def put_policy(self, call: Call) -> dict[str, Any]:
        asked = call.params
        configuration = _checked_configuration(asked)
        with self._lock:
            target = self._target(call, "registered")
            policy = target.policies.get(asked["PolicyName"])
            metric = configuration["PredefinedMetricSpecification"]
            if any(other.metric == metric for other in target.policies.values() if other is not policy):
                message = "Only one TargetTrackingScaling policy for a given metric specification is allowed."
                raise _invalid(message)
            if policy is None:
                policy = self._new_policy(target, asked["PolicyName"])
                target.policies[policy.name] = policy
            policy.configuration = configuration
        self._put_alarms(target, policy)
        return {"PolicyARN": policy.arn, "Alarms": _alarms(target, policy)}

    def _new_policy(self, target: Target, name: str) -> Policy:
        arn = arn_of("autoscaling", target.region, f"scalingPolicy:{uuid.uuid4()}")
        arn += f":resource/ecs/{target.resource_id}:policyName/{name}"
        high, low = (
            f"TargetTracking-{target.resource_id}-{which}-{uuid.uuid4()}"
            for which in ("AlarmHigh", "AlarmLow")
        )
        return Policy(arn, name, self.clock.now(), high, low)

    def _put_alarms(self, target: Target, policy: Policy) -> None:
        namespace, name, statistic = METRICS[policy.metric["PredefinedMetricType"]]
        value = policy.configuration["TargetValue"]
        low = round(value * LOW_THRESHOLD, 6)
        for alarm, comparison, periods, threshold in (
            (policy.high, "GreaterThanThreshold", PERIODS_OUT, value),
            (policy.low, "LessThanThreshold", PERIODS_IN, low),
        ):
            self.aws("cloudwatch", target.region).put_metric_alarm(
                AlarmName=alarm,
                AlarmDescription=f"DO NOT EDIT OR DELETE. For TargetTrackingScaling policy {policy.arn}.",
                AlarmActions=[policy.arn],
                Namespace=namespace,
                MetricName=name,
                Dimensions=metric_dimensions(target, policy),
                Statistic=statistic,
                Period=PERIOD,
                EvaluationPeriods=periods,
                Threshold=threshold,
                ComparisonOperator=comparison,
                TreatMissingData="missing",
            )

    def delete_policy(self, call: Call) -> dict[str, Any]:
        name = call.params["PolicyName"]
        with self._lock:
            target = self._targets.get((call.region, call.params["ResourceId"]))
            policy = target.policies.pop(name, None) if target else None
        if policy is None:
            where = f"{_whereabouts(call.params)}, policy name: {name}"
            raise AwsError("ObjectNotFoundException", f"No scaling policy found for {where}")
        self.aws("cloudwatch", call.region).delete_alarms(AlarmNames=[policy.high, policy.low])
        return {}

    def describe_policies(self, call: Call) -> dict[str, Any]:
        asked = call.params
        with self._lock:
            pairs = [
                (target, policy) for target in self._targets.values() for policy in target.policies.values()
            ]
        described = [
            {
                "PolicyARN": policy.arn,
                "PolicyName": policy.name,
                "ServiceNamespace": "ecs",
                "ResourceId": target.resource_id,
                "ScalableDimension": DIMENSION,
                "PolicyType": "TargetTrackingScaling",
                "TargetTrackingScalingPolicyConfiguration": policy.configuration,
                "Alarms": _alarms(target, policy),
                "CreationTime": policy.created,
            }
            for target, policy in pairs
            if target.region == call.region
            and asked.get("ResourceId") in (None, target.resource_id)
            and (not asked.get("PolicyNames") or policy.name in asked["PolicyNames"])
        ]
        return _page("ScalingPolicies", described, call)

    def describe_activities(self, call: Call) -> dict[str, Any]:
        asked = call.params
        with self.records.lock:
            activities = [dict(one) for one in reversed(self.records.scaling_activities)]
        shown = [
            {key: value for key, value in one.items() if key != "region"}
            for one in activities
            if one["region"] == call.region
            and asked.get("ResourceId") in (None, one["ResourceId"])
            and (asked.get("IncludeNotScaledActivities") or "NotScaledReasons" not in one)
        ]
        return _page("ScalingActivities", shown, call)

    def _by_arn(self, call: Call) -> Target:
        arn = call.params["ResourceARN"]
        found = next((target for target in self._targets.values() if target.arn == arn), None)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"The resource doesn't exist: {arn}")
        return found

    def tag(self, call: Call) -> dict[str, Any]:
        with self._lock:
            self._by_arn(call).tags |= call.params["Tags"]
        return {}

    def untag(self, call: Call) -> dict[str, Any]:
        with self._lock:
            target = self._by_arn(call)
            target.tags = {
                key: value for key, value in target.tags.items() if key not in call.params["TagKeys"]
            }
        return {}

    def list_tags(self, call: Call) -> dict[str, Any]:
        with self._lock:
            return {"Tags": dict(self._by_arn(call).tags)}


def _checked_configuration(asked: dict[str, Any]) -> dict[str, Any]:
    kind = asked.get("PolicyType", "StepScaling")  # AWS's default
    if kind != "TargetTrackingScaling":
        raise _invalid(
            f"PolicyType {kind}: the sandbox has target tracking only. Set PolicyType to TargetTrackingScaling."
        )
    configuration = asked.get("TargetTrackingScalingPolicyConfiguration")
    if not configuration:
        raise _invalid(
            "You must specify a TargetTrackingScalingPolicyConfiguration for a TargetTrackingScaling policy"
        )
    if "PredefinedMetricSpecification" not in configuration:
        raise _invalid("The sandbox tracks predefined metrics only: give a PredefinedMetricSpecification.")
    metric = configuration["PredefinedMetricSpecification"]
    if metric["PredefinedMetricType"] not in METRICS:
        known = ", ".join(METRICS)
        raise _invalid(
            f"PredefinedMetricType {metric['PredefinedMetricType']}: for ECS the sandbox has {known}."
        )
    if metric["PredefinedMetricType"] == "ALBRequestCountPerTarget":
        if not RESOURCE_LABEL.fullmatch(metric.get("ResourceLabel", "")):
            form = "app/<load balancer name>/<id>/targetgroup/<target group name>/<id>"
            raise _invalid(f"ALBRequestCountPerTarget needs a ResourceLabel of the form {form}")
    elif metric.get("ResourceLabel"):
        raise _invalid(f"ResourceLabel cannot be specified for {metric['PredefinedMetricType']}")
    if configuration["TargetValue"] <= 0:
        raise _invalid("TargetValue must be greater than 0")
    for name in ("ScaleOutCooldown", "ScaleInCooldown"):
        if configuration.get(name, 0) < 0:
            raise _invalid(f"{name} must be greater than or equal to 0")
    return configuration


def _invalid(message: str) -> AwsError:
    return AwsError("ValidationException", message)


def _whereabouts(asked: dict[str, Any]) -> str:
    return (
        f"service namespace: {asked['ServiceNamespace']}, resource ID: {asked['ResourceId']}, "
        f"scalable dimension: {asked['ScalableDimension']}"
    )


def metric_dimensions(target: Target, policy: Policy) -> list[dict[str, str]]:
    label = policy.metric.get("ResourceLabel")
    if label:
        load_balancer, target_group = RESOURCE_LABEL.fullmatch(label).groups()
        names = {"LoadBalancer": load_balancer, "TargetGroup": target_group}
    else:
        names = {"ClusterName": target.cluster, "ServiceName": target.service}
    return [{"Name": name, "Value": value} for name, value in names.items()]


def _alarms(target: Target, policy: Policy) -> list[dict[str, str]]:
    prefix = arn_of("cloudwatch", target.region, "alarm:")
    return [{"AlarmName": name, "AlarmARN": prefix + name} for name in (policy.high, policy.low)]


def _page(name: str, items: list[dict[str, Any]], call: Call) -> dict[str, Any]:
    """One page, and the token for the next: where it starts. 50 items by default, as AWS has it."""
    mine = items if call.params["ServiceNamespace"] == "ecs" else []
    start = int(call.params.get("NextToken") or 0)
    end = start + int(call.params.get("MaxResults") or 50)
    return {name: mine[start:end]} | ({"NextToken": str(end)} if end < len(mine) else {})
