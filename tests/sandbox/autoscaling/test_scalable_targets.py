"""Application Auto Scaling's API, called by boto3."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from tests.sandbox.chain import WHERE

CPU = {"PredefinedMetricType": "ECSServiceAverageCPUUtilization"}
MEMORY = {"PredefinedMetricType": "ECSServiceAverageMemoryUtilization"}
LABEL = "app/lb/1a2b/targetgroup/tg/3c4d"
REQUESTS = {"PredefinedMetricType": "ALBRequestCountPerTarget", "ResourceLabel": LABEL}


@pytest.fixture
def chain(chain):
    chain.service("web", 2)
    return chain


@pytest.fixture
def scaling(chain):
    return chain.aws("application-autoscaling")


def put(scaling, metric=CPU, target=70.0, name="cpu", policy_type="TargetTrackingScaling", **options):
    configuration = {"TargetValue": target, "PredefinedMetricSpecification": metric, **options}
    return scaling.put_scaling_policy(
        **WHERE,
        PolicyName=name,
        PolicyType=policy_type,
        TargetTrackingScalingPolicyConfiguration=configuration,
    )


def register(scaling, minimum=2, maximum=10, **options):
    return scaling.register_scalable_target(
        **{**WHERE, "MinCapacity": minimum, "MaxCapacity": maximum, **options}
    )


def test_a_target_is_described_as_registered(chain, scaling):
    arn = register(scaling, SuspendedState={"DynamicScalingInSuspended": True}, Tags={"lab": "one"})[
        "ScalableTargetARN"
    ]
    (target,) = scaling.describe_scalable_targets(ServiceNamespace="ecs")["ScalableTargets"]
    assert target == {
        **WHERE,
        "MinCapacity": 2,
        "MaxCapacity": 10,
        "RoleARN": "arn:aws:iam::123456789012:role/aws-service-role/ecs.application-autoscaling.amazonaws.com/"
        "AWSServiceRoleForApplicationAutoScaling_ECSService",
        "CreationTime": chain.clock.now(),
        "SuspendedState": {
            "DynamicScalingInSuspended": True,
            "DynamicScalingOutSuspended": False,
            "ScheduledScalingSuspended": False,
        },
        "ScalableTargetARN": arn,
    }
    assert scaling.list_tags_for_resource(ResourceARN=arn)["Tags"] == {"lab": "one"}


def test_registering_again_changes_only_what_is_given(scaling):
    arn = register(scaling)["ScalableTargetARN"]
    again = scaling.register_scalable_target(**WHERE, MaxCapacity=20)
    (target,) = scaling.describe_scalable_targets(ServiceNamespace="ecs", ResourceIds=["service/lab/web"])[
        "ScalableTargets"
    ]
    assert (again["ScalableTargetARN"], target["MinCapacity"], target["MaxCapacity"]) == (arn, 2, 20)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"ResourceId": "cluster/lab/web"},
            "Unsupported service namespace, resource type or scalable dimension",
        ),
        ({"ResourceId": "service/web"}, "Unsupported service namespace, resource type or scalable dimension"),
        ({"ResourceId": "service/lab/gone"}, "ECS service doesn't exist: service/lab/gone"),
        # The published template's mistake: Ref of a service is its ARN.
        (
            {"ResourceId": "service/lab/arn:aws:ecs:us-east-1:1:service/lab/web"},
            "ECS service doesn't exist: service/lab/arn:aws:ecs:us-east-1:1:service/lab/web",
        ),
        ({"MinCapacity": 5, "MaxCapacity": 4}, "Maximum capacity cannot be less than minimum capacity"),
    ],
)
def test_a_wrong_target_is_refused(scaling, given, message):
    with pytest.raises(ClientError) as refused:
        register(scaling, **given)
    assert refused.value.response["Error"] == {"Code": "ValidationException", "Message": message}


@pytest.mark.parametrize(
    ("metric", "target", "low", "namespace", "name", "statistic", "dimensions"),
    [
        (
            CPU,
            70.0,
            63.0,
            "AWS/ECS",
            "CPUUtilization",
            "Average",
            {"ClusterName": "lab", "ServiceName": "web"},
        ),
        (
            MEMORY,
            80.0,
            72.0,
            "AWS/ECS",
            "MemoryUtilization",
            "Average",
            {"ClusterName": "lab", "ServiceName": "web"},
        ),
        (
            REQUESTS,
            1000.0,
            900.0,
            "AWS/ApplicationELB",
            "RequestCountPerTarget",
            "Sum",
            {"LoadBalancer": "app/lb/1a2b", "TargetGroup": "targetgroup/tg/3c4d"},
        ),
    ],
)
def test_a_policy_brings_its_two_alarms(
    chain, scaling, metric, target, low, namespace, name, statistic, dimensions
):
    register(scaling)
    answer = put(scaling, metric, target)
    arn = answer["PolicyARN"]
    assert arn.startswith(f"arn:aws:autoscaling:{chain.region}:123456789012:scalingPolicy:")
    assert arn.endswith(":resource/ecs/service/lab/web:policyName/cpu")
    alarms = {}
    for alarm in answer["Alarms"]:
        (alarms[alarm["AlarmName"]],) = chain.aws("cloudwatch").describe_alarms(
            AlarmNames=[alarm["AlarmName"]]
        )["MetricAlarms"]
        assert alarms[alarm["AlarmName"]]["AlarmArn"] == alarm["AlarmARN"]
    high, lower = (
        next(
            alarm
            for key, alarm in alarms.items()
            if key.startswith(f"TargetTracking-service/lab/web-{which}-")
        )
        for which in ("AlarmHigh", "AlarmLow")
    )
    for alarm, comparison, periods, threshold in (
        (high, "GreaterThanThreshold", 3, target),
        (lower, "LessThanThreshold", 15, low),
    ):
        assert (alarm["ComparisonOperator"], alarm["EvaluationPeriods"]) == (comparison, periods)
        assert (alarm["Threshold"], alarm["Period"], alarm["Statistic"]) == (threshold, 60, statistic)
        assert (alarm["Namespace"], alarm["MetricName"]) == (namespace, name)
        assert {one["Name"]: one["Value"] for one in alarm["Dimensions"]} == dimensions
        assert (alarm["AlarmActions"], alarm["TreatMissingData"]) == ([arn], "missing")
        assert alarm["AlarmDescription"] == f"DO NOT EDIT OR DELETE. For TargetTrackingScaling policy {arn}."
        assert alarm["StateValue"] == "INSUFFICIENT_DATA"


def test_putting_a_policy_again_updates_it_and_its_alarms(chain, scaling):
    register(scaling)
    first = put(scaling, target=70.0)
    second = put(scaling, target=50.0, ScaleInCooldown=60)
    assert (first["PolicyARN"], first["Alarms"]) == (second["PolicyARN"], second["Alarms"])
    (policy,) = scaling.describe_scaling_policies(**WHERE)["ScalingPolicies"]
    assert policy["TargetTrackingScalingPolicyConfiguration"]["ScaleInCooldown"] == 60
    assert policy["Alarms"] == second["Alarms"]
    alarms = chain.aws("cloudwatch").describe_alarms()["MetricAlarms"]
    assert sorted(alarm["Threshold"] for alarm in alarms) == [45.0, 50.0]


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"policy_type": "StepScaling"}, "target tracking only"),
        ({"metric": {"PredefinedMetricType": "RDSReaderAverageCPUUtilization"}}, "for ECS the sandbox has"),
        ({"metric": {"PredefinedMetricType": "ALBRequestCountPerTarget"}}, "ResourceLabel of the form app/"),
        ({"metric": {**CPU, "ResourceLabel": LABEL}}, "cannot be specified"),
        ({"target": 0.0}, "TargetValue"),
        ({"ScaleOutCooldown": -1}, "ScaleOutCooldown"),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused(scaling, given, word):
    register(scaling)
    with pytest.raises(ClientError, match=word) as refused:
        put(scaling, **given)
    assert refused.value.response["Error"]["Code"] == "ValidationException"


def test_one_policy_a_metric(scaling):
    register(scaling)
    put(scaling)
    with pytest.raises(ClientError, match="Only one TargetTrackingScaling policy for a given metric"):
        put(scaling, name="again")
    put(scaling, MEMORY, name="memory")


def test_what_is_not_there_is_not_found(scaling):
    target = (
        "service namespace: ecs, resource ID: service/lab/web, scalable dimension: ecs:service:DesiredCount"
    )
    for call, message in (
        (lambda: put(scaling), f"No scalable target registered for {target}"),
        (lambda: scaling.deregister_scalable_target(**WHERE), f"No scalable target found for {target}"),
        (
            lambda: scaling.delete_scaling_policy(**WHERE, PolicyName="cpu"),
            f"No scaling policy found for {target}, policy name: cpu",
        ),
    ):
        with pytest.raises(ClientError) as refused:
            call()
        assert refused.value.response["Error"] == {"Code": "ObjectNotFoundException", "Message": message}


def test_a_policy_goes_with_its_alarms_and_a_target_with_its_policies(chain, scaling):
    register(scaling)
    put(scaling)
    put(scaling, MEMORY, name="memory")
    scaling.delete_scaling_policy(**WHERE, PolicyName="cpu")
    assert len(chain.aws("cloudwatch").describe_alarms()["MetricAlarms"]) == 2
    scaling.deregister_scalable_target(**WHERE)
    assert chain.aws("cloudwatch").describe_alarms()["MetricAlarms"] == []
    assert scaling.describe_scaling_policies(ServiceNamespace="ecs")["ScalingPolicies"] == []
    assert scaling.describe_scalable_targets(ServiceNamespace="ecs")["ScalableTargets"] == []


def test_descriptions_are_paged(chain, scaling):
    for number in range(3):
        chain.service(f"s{number}", 2)
        register(scaling, ResourceId=f"service/lab/s{number}")
    pages = scaling.get_paginator("describe_scalable_targets").paginate(
        ServiceNamespace="ecs", PaginationConfig={"PageSize": 2}
    )
    assert [len(page["ScalableTargets"]) for page in pages] == [2, 1]
