"""Auto scaling that "does not work", as on AWS: the symptom, its words, and that it is gone when its cause is."""

from __future__ import annotations

import json

import pytest
from botocore.exceptions import ClientError

from helpers.sandbox.elb.access_log import Request
from helpers.sandbox.meter import PUBLICATION_DELAY
from helpers.sandbox.stacks import CloudFormation
from tests.sandbox.chain import WHERE
from tests.sandbox.test_meter import Health

MEMORY = {
    "TargetValue": 80.0,
    "PredefinedMetricSpecification": {"PredefinedMetricType": "ECSServiceAverageMemoryUtilization"},
}
MIB = 1024**2


def alarm(chain, kind, policy="cpu"):
    policies = chain.aws("application-autoscaling").describe_scaling_policies(ServiceNamespace="ecs")
    (found,) = [one for one in policies["ScalingPolicies"] if one["PolicyName"] == policy]
    (name,) = [one["AlarmName"] for one in found["Alarms"] if kind in one["AlarmName"]]
    return chain.aws("cloudwatch").describe_alarms(AlarmNames=[name])["MetricAlarms"][0]


def reaches(service):
    return [desired for _, desired in service.history]


# ---- the scalable target's ResourceId is made of the service's ARN ----

TEMPLATE = {
    "Parameters": {"Service": {"Type": "String"}},
    "Resources": {
        "Target": {
            "Type": "AWS::ApplicationAutoScaling::ScalableTarget",
            "Properties": {
                **WHERE,
                "ResourceId": {"Fn::Sub": "service/lab/${Service}"},
                "MinCapacity": 2,
                "MaxCapacity": 10,
            },
        }
    },
}


def test_a_resource_id_made_of_the_services_arn_is_refused_until_it_is_the_name(chain):
    """`!Ref Service` is the ARN, where `!GetAtt Service.Name` belongs."""
    service = chain.service("web", 1)
    with pytest.raises(ClientError) as refused:
        chain.aws("application-autoscaling").register_scalable_target(
            **WHERE | {"ResourceId": f"service/lab/{service.arn}"}, MinCapacity=2, MaxCapacity=10
        )
    assert refused.value.response["Error"] == {
        "Code": "ValidationException",
        "Message": f"ECS service doesn't exist: service/lab/{service.arn}",
    }
    with pytest.raises(ClientError, match="Unsupported service namespace, resource type or scalable dimens"):
        chain.aws("application-autoscaling").register_scalable_target(
            **WHERE | {"ResourceId": service.arn}, MinCapacity=2, MaxCapacity=10
        )

    formation = CloudFormation(chain.clock, chain.endpoint.client, start=lambda name, work: work())
    chain.endpoint.add(formation.operations())
    stacks = chain.aws("cloudformation")

    def create(name: str, value: str) -> str:
        given = [{"ParameterKey": "Service", "ParameterValue": value}]
        stacks.create_stack(StackName=name, TemplateBody=json.dumps(TEMPLATE), Parameters=given)
        return stacks.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]

    assert create("as-published", service.arn) == "ROLLBACK_COMPLETE"
    events = stacks.describe_stack_events(StackName="as-published")["StackEvents"]
    (why,) = [one["ResourceStatusReason"] for one in events if one["ResourceStatus"] == "CREATE_FAILED"]
    assert f"\"ECS service doesn't exist: service/lab/{service.arn} (Service: " in why
    assert "HandlerErrorCode: InvalidRequest" in why
    assert create("mended", "web") == "CREATE_COMPLETE"
    chain.advance(60)
    assert reaches(service) == [2]


# ---- a metric with gaps ----


def test_no_requests_are_no_data_and_nothing_scales_in_until_there_are_some(chain):
    """Requests per target has no datapoint in a minute without requests: the busy hour's tasks stay."""
    elbv2 = chain.aws("elbv2")
    name = f"gaps{int(chain.start)}"
    subnets = [one["SubnetId"] for one in chain.aws("ec2").describe_subnets()["Subnets"]]
    balancer = elbv2.create_load_balancer(Name=name, Subnets=subnets)["LoadBalancers"][0]["LoadBalancerArn"]
    vpc = chain.aws("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    group = elbv2.create_target_group(Name=name, Protocol="HTTP", Port=3000, VpcId=vpc)
    group = group["TargetGroups"][0]["TargetGroupArn"]
    elbv2.create_listener(
        LoadBalancerArn=balancer,
        Protocol="HTTP",
        Port=80,
        DefaultActions=[{"Type": "forward", "TargetGroupArn": group}],
    )
    chain.health[group] = {("10.0.0.1", 3000): Health("healthy")}
    service = chain.service("web", 6)
    label = f"{balancer.split(':loadbalancer/')[1]}/{group.split(':')[-1]}"
    metric = {"PredefinedMetricType": "ALBRequestCountPerTarget", "ResourceLabel": label}
    chain.scalable("web", PredefinedMetricSpecification=metric, target=300.0)

    def minutes(count: int, requests: int) -> None:
        for _ in range(count):
            one = Request(chain.clock.time(), balancer, group, ("10.0.0.1", 3000), 200, 200, 0.05)
            chain.requests = [one] * requests
            chain.advance(60)

    minutes(12, 280)  # between the thresholds: neither alarm rings
    assert alarm(chain, "AlarmLow")["StateValue"] == "OK"
    minutes(25, 0)
    low = alarm(chain, "AlarmLow")
    assert low["StateValue"] == "INSUFFICIENT_DATA"
    assert low["StateReason"] == "Insufficient Data: 15 datapoints were unknown."
    high = alarm(chain, "AlarmHigh")
    assert (high["StateValue"], high["StateReason"]) == (
        "INSUFFICIENT_DATA",
        "Insufficient Data: 3 datapoints were unknown.",
    )
    assert reaches(service) == []
    assert chain.activities(IncludeNotScaledActivities=True) == []
    minutes(22, 30)  # a visitor now and then is enough
    assert alarm(chain, "AlarmLow")["StateValue"] == "ALARM"
    assert reaches(service) == [2]


def test_a_gap_in_cpu_holds_scaling_back_and_ends_with_it(chain):
    """What the tasks use is not reported for a while: no datapoint, no decision, though they are busier than ever."""
    service = chain.service("web", 2, lambda time, n: 48.0 if time < 1800 else 90.0)
    chain.scalable("web", maximum=8)
    chain.advance(600)
    assert alarm(chain, "AlarmHigh")["StateValue"] == "OK"
    for task in chain.records.running():
        task.process.bytes = 0  # as of a container that is just ending: it leaves no sample
    chain.advance(1500)
    assert alarm(chain, "AlarmHigh")["StateValue"] == "INSUFFICIENT_DATA"
    assert reaches(service) == []
    for task in chain.records.running():
        task.process.bytes = 100 * MIB
    chain.advance(PUBLICATION_DELAY + 360)
    assert reaches(service)[:1] == [4]


# ---- two policies, of which one holds the scale-in ----


def test_one_of_two_policies_holds_the_scale_in_until_it_agrees_or_has_no_say(chain, caplog):
    caplog.set_level("INFO", "sandbox.autoscaler")
    service = chain.service("web", 6, lambda time, n: 5.0)
    for task in chain.records.running():
        task.process.bytes = 390 * MIB  # 76 % of its memory: above 0.9 × 80, so its AlarmLow is OK
    chain.scalable("web")
    scaling = chain.aws("application-autoscaling")

    def put_memory(**options):
        scaling.put_scaling_policy(
            **WHERE,
            PolicyName="memory",
            PolicyType="TargetTrackingScaling",
            TargetTrackingScalingPolicyConfiguration=MEMORY | options,
        )

    put_memory()
    chain.advance(1500)
    assert alarm(chain, "AlarmLow")["StateValue"] == "ALARM"
    assert alarm(chain, "AlarmLow", "memory")["StateValue"] == "OK"
    assert reaches(service) == []
    assert chain.activities() == []
    # AWS's codes have none for this: NotScaledReason, Application Auto Scaling API Reference (A).
    assert chain.activities(IncludeNotScaledActivities=True) == []
    assert "service/lab/web: not scaled in as cpu asks: memory does not agree" in caplog.text
    put_memory(DisableScaleIn=True)
    chain.advance(120)
    assert reaches(service) == [2]


def test_of_two_policies_that_scale_out_the_larger_capacity_wins(chain):
    service = chain.service("web", 2, lambda time, n: 75.0)  # asks for 3
    for task in chain.records.running():
        task.process.bytes = 500 * MIB  # 98 %: asks for 3 at 80 %, for 5 at 40 %
    chain.scalable("web")
    chain.aws("application-autoscaling").put_scaling_policy(
        **WHERE,
        PolicyName="memory",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration=MEMORY | {"TargetValue": 40.0},
    )
    chain.advance(480)
    assert reaches(service)[0] == 5
    first = chain.activities()[-1]
    assert first["Cause"].endswith("in state ALARM triggered policy memory")


def test_what_is_at_its_limit_says_so_when_asked_and_scales_when_the_limit_is_raised(chain):
    service = chain.service("web", 2, lambda time, n: 90.0)
    chain.scalable("web", maximum=2)
    chain.advance(600)
    assert chain.activities() == []
    (told,) = chain.activities(IncludeNotScaledActivities=True)
    assert told["NotScaledReasons"] == [{"Code": "AlreadyAtMaxCapacity", "MaxCapacity": 2}]
    chain.aws("application-autoscaling").register_scalable_target(**WHERE, MaxCapacity=10)
    chain.advance(120)
    assert reaches(service)[0] == 4


# ---- a deployment ----


def test_a_deployment_holds_scale_in_and_not_scale_out_and_its_end_lets_it_go(chain):
    service = chain.service("web", 4, lambda time, n: 5.0 if not 2400 <= time < 3000 else 100.0)
    chain.scalable("web")
    chain.deploying = True
    chain.advance(2400)
    assert alarm(chain, "AlarmLow")["StateValue"] == "ALARM"
    assert reaches(service) == []
    assert chain.activities(IncludeNotScaledActivities=True) == []
    chain.advance(600)
    assert reaches(service) == [8]
    chain.advance(1500)  # calm again, and still it deploys
    assert reaches(service) == [8, 10]
    chain.deploying = False
    chain.advance(120)
    assert reaches(service) == [8, 10, 2]
