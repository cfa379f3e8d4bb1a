"""Costs against arithmetic on the price table, and against what is running."""

from __future__ import annotations

from decimal import Decimal

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import costs
from helpers.costs import PRICES, hourly
from helpers.sandbox.endpoint import Endpoint


def test_the_table_is_what_was_found_in_november_2026():
    assert {name: str(price.usd) for name, price in PRICES.items()} == {
        "vcpu": "0.04048",
        "gb": "0.004445",
        "vcpu_arm": "0.03238",
        "gb_arm": "0.00356",
        "load_balancer": "0.0225",
        "lcu": "0.008",
        "public_ip": "0.005",
        "nat_gateway": "0.045",
        "nat_gb": "0.045",
        "insights": "0.07",
        "image_gb": "0.10",
    }
    assert costs.DATE == "November 2026"
    assert all(price.source.startswith("https://aws.amazon.com/") for price in PRICES.values())
    assert PRICES["image_gb"].confidence == "U"


def test_two_small_tasks_behind_a_load_balancer_by_hand():
    cost = hourly(tasks=2, vcpu=0.25, gb=0.5, load_balancers=1, public_ips=5)
    # 2 × (0.25 × 0.04048 + 0.5 × 0.004445) + 0.0225 + 5 × 0.005
    assert cost.hourly == Decimal("0.072185")
    assert cost.monthly == Decimal("52.69505")
    assert repr(cost) == (
        "On AWS this would cost $0.0722 an hour, $52.70 a month: 2 tasks of 0.25 vCPU and 0.5 GB $0.0247, "
        "1 load balancer $0.0225, 5 public IPv4 addresses $0.0250. Traffic, logs, images and alarms come on top. "
        "Prices of us-east-1 as third parties list them in November 2026; see AWS's pages."
    )


@given(
    tasks=st.integers(0, 100),
    vcpu=st.sampled_from([0.25, 0.5, 1, 2, 4, 8, 16]),
    gb=st.sampled_from([0.5, 1, 2, 3, 30, 120]),
    load_balancers=st.integers(0, 5),
    public_ips=st.integers(0, 200),
)
def test_the_sum_is_the_sum_of_its_parts(tasks, vcpu, gb, load_balancers, public_ips):
    cost = hourly(tasks, vcpu, gb, load_balancers, public_ips)
    expected = tasks * vcpu * 0.04048 + tasks * gb * 0.004445 + load_balancers * 0.0225 + public_ips * 0.005
    assert float(cost.hourly) == pytest.approx(expected)
    assert cost.hourly == sum(usd for _, usd in cost.parts)


def test_nothing_costs_nothing():
    assert repr(hourly()) == "On AWS nothing that runs here would be charged by the hour."


def test_prices_of_another_region_are_not_made_up():
    here, there = hourly(1), hourly(1, region="eu-west-1")
    assert repr(there).startswith(repr(here))
    assert "What it costs in eu-west-1 is not known here" in repr(there)


@pytest.fixture
def aws(monkeypatch):
    endpoint = Endpoint()
    endpoint.start()
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint.url,
        "AWS_ACCESS_KEY_ID": "sandbox",
        "AWS_SECRET_ACCESS_KEY": "sandbox",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    yield endpoint
    endpoint.stop()


def test_a_lab_costs_what_runs_in_it(aws):
    assert costs.of_lab("priced").hourly == 0
    ec2, ecs, elbv2 = (boto3.client(service) for service in ("ec2", "ecs", "elbv2"))
    subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]][:3]
    group = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["default"]}])[
        "SecurityGroups"
    ][0]
    balancer = elbv2.create_load_balancer(Name="priced", Subnets=subnets, Scheme="internet-facing")
    assert costs.of_lab("priced") == hourly(load_balancers=1, public_ips=3)

    ecs.create_cluster(clusterName="priced")
    assert costs.of_lab("priced") == hourly(load_balancers=1, public_ips=3)
    ecs.register_task_definition(
        family="priced",
        cpu="512",
        memory="1024",
        networkMode="awsvpc",
        requiresCompatibilities=["FARGATE"],
        containerDefinitions=[{"name": "app", "image": "app", "essential": True}],
    )

    def two_run(call):
        answer = call.forward()
        for service in answer["services"]:
            service["runningCount"] = 2
        return answer

    aws.add({("ecs", "DescribeServices"): two_run})
    ecs.create_service(
        cluster="priced",
        serviceName="priced",
        taskDefinition="priced",
        desiredCount=2,
        launchType="FARGATE",
        networkConfiguration={
            "awsvpcConfiguration": {
                "subnets": subnets,
                "securityGroups": [group["GroupId"]],
                "assignPublicIp": "ENABLED",
            }
        },
    )
    assert costs.of_lab("priced") == hourly(2, 0.5, 1, load_balancers=1, public_ips=5)

    ecs.delete_service(cluster="priced", service="priced", force=True)
    ecs.delete_cluster(cluster="priced")
    elbv2.delete_load_balancer(LoadBalancerArn=balancer["LoadBalancers"][0]["LoadBalancerArn"])
    assert costs.of_lab("priced").hourly == 0
