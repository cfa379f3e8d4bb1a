"""The meter: what was used and served, read back through CloudWatch's API."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from helpers.sandbox.elb.access_log import Request
from helpers.sandbox.meter import PUBLICATION_DELAY

MIB = 1024**2


@dataclass
class Health:
    state: str


def read(chain, name, stat, namespace="AWS/ECS", **dimensions):
    """{minute since the start: value} of a metric."""
    dimensions = dimensions or {"ClusterName": "lab", "ServiceName": "web"}
    metric = {
        "Namespace": namespace,
        "MetricName": name,
        "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
    }
    result = chain.aws("cloudwatch").get_metric_data(
        MetricDataQueries=[{"Id": "q", "MetricStat": {"Metric": metric, "Period": 60, "Stat": stat}}],
        StartTime=chain.at(-3600),
        EndTime=chain.clock.now(),
    )["MetricDataResults"][0]
    minutes = [(time - chain.at(0)).total_seconds() / 60 for time in result["Timestamps"]]
    return dict(zip(minutes, result["Values"], strict=True))


# ---- the ECS agent ----


def test_one_sample_a_task_and_minute_at_the_minutes_start(chain):
    chain.service("web", 3, lambda time, n: 0.0)
    shares = dict(zip((task.arn for task in chain.records.running()), (10, 50, 60), strict=True))
    for _ in range(24):
        for task in chain.records.running():
            task.process.used += shares[task.arn] / 100 * task.cpu / 1024 * chain.clock.real(5)
        chain.advance(5)
    chain.advance(PUBLICATION_DELAY)
    for stat, value in {"SampleCount": 3, "Minimum": 10, "Maximum": 60, "Average": 40}.items():
        assert read(chain, "CPUUtilization", stat) == pytest.approx({0: value, 1: value}, abs=0.01), stat


def test_clamped_at_the_limit(chain):
    chain.service("web", 1, lambda time, n: 103.0)
    chain.advance(60 + PUBLICATION_DELAY)
    assert read(chain, "CPUUtilization", "Maximum") == {0: 100.0}


def test_memory_is_a_share_of_the_tasks_limit(chain):
    service = chain.service("web", 1)
    service.desired = 2
    chain.task(service, memory=1024).process.bytes = 256 * MIB
    chain.advance(60 + PUBLICATION_DELAY)
    assert read(chain, "MemoryUtilization", "Maximum")[0] == pytest.approx(25)
    assert read(chain, "MemoryUtilization", "Minimum")[0] == pytest.approx(100 * 100 / 512, abs=1e-3)


def test_a_container_that_is_just_ending_leaves_no_sample(chain):
    """Its counters are gone, and stand still, before its exit code is known."""
    (task, _) = chain.service("web", 2, lambda time, n: 40.0) and chain.records.running()
    chain.advance(55)
    task.process.bytes = 0
    chain.advance(5 + PUBLICATION_DELAY)
    assert read(chain, "CPUUtilization", "SampleCount")[0] == 1


def test_readable_only_once_published(chain):
    chain.service("web", 1)
    chain.advance(60 + PUBLICATION_DELAY - 5)
    assert read(chain, "CPUUtilization", "Average") == {}
    chain.advance(5)
    assert set(read(chain, "CPUUtilization", "Average")) == {0}


def test_a_late_reading_is_measured_over_the_time_it_is_about(chain):
    """The loop comes 15 AWS seconds after the minute's end: the rate must not read 125 %."""
    (task,) = chain.service("web", 1, lambda time, n: 0.0) and chain.records.running()
    chain.advance(5)  # the first reading
    task.process.used += 0.8 * 0.25 * chain.clock.real(70)
    chain.clock.advance(70)
    chain.meter.step()
    chain.advance(PUBLICATION_DELAY)
    assert read(chain, "CPUUtilization", "Average")[0] == pytest.approx(80, abs=0.01)


def test_minutes_missed_by_a_busy_machine_get_the_average(chain):
    (task,) = chain.service("web", 1, lambda time, n: 0.0) and chain.records.running()
    chain.advance(5)
    task.process.used += 0.4 * 0.25 * chain.clock.real(175)
    chain.clock.advance(175)
    chain.meter.step()
    chain.advance(PUBLICATION_DELAY)
    assert read(chain, "CPUUtilization", "Average") == pytest.approx({0: 40, 1: 40, 2: 40}, abs=0.01)


def test_a_task_counts_from_its_first_healthy_answer(chain):
    service = chain.service("web", 1)
    service.desired = 2
    task = chain.task(service, counted_from=None)
    task.process.used = 5.0  # Node's start, far more than the limit allows in a minute
    chain.advance(30)
    task.counted_from = chain.clock.time()
    chain.advance(90 + PUBLICATION_DELAY)
    assert read(chain, "CPUUtilization", "SampleCount") == {0: 2, 1: 2}
    assert read(chain, "CPUUtilization", "Maximum")[0] == pytest.approx(20, abs=0.01)


def test_too_short_a_part_of_a_minute_is_no_sample(chain):
    service = chain.service("web", 1)
    service.desired = 2
    task = chain.task(service, counted_from=None)
    chain.advance(50)
    task.counted_from = chain.clock.time()
    chain.advance(70 + PUBLICATION_DELAY)
    assert read(chain, "CPUUtilization", "SampleCount") == {0: 1, 1: 2}


def test_a_task_that_stopped_or_vanished_leaves_no_sample(chain):
    service = chain.service("web", 3)
    stopped, vanished, _ = chain.records.running()
    chain.advance(30)
    service.desired = 2
    stopped.last_status, stopped.process.gone, vanished.process.gone = "STOPPED", True, True
    chain.advance(30 + PUBLICATION_DELAY)
    assert read(chain, "CPUUtilization", "SampleCount") == {0: 1}


def test_a_task_that_drains_still_runs_and_counts(chain):
    service = chain.service("web", 2)
    draining, _ = chain.records.running()
    chain.advance(30)
    service.desired, draining.last_status = 1, "DEACTIVATING"
    chain.advance(30 + PUBLICATION_DELAY)
    assert read(chain, "CPUUtilization", "SampleCount") == {0: 2}


def test_what_a_task_uses_in_a_pause_does_not_count(chain):
    """Half a minute at 40 %, then a pause in which it is busy for an hour, then the other half at 40 %."""
    service = chain.service("web", 1, lambda time, n: 40.0)
    chain.advance(90)
    (task,) = chain.records.running()
    chain.meter.hold()
    task.process.used += 900.0
    late = chain.task(service, counted_from=None)  # healthy only after the pause
    chain.meter.go_on()
    late.counted_from = chain.clock.time()
    chain.advance(PUBLICATION_DELAY + 120)
    used = read(chain, "CPUUtilization", "Maximum")
    assert used[1] == pytest.approx(40.0, abs=0.5)
    assert all(value <= 40.5 for value in used.values())


def test_a_task_that_ends_in_a_pause_leaves_no_sample_for_its_last_minute(chain):
    chain.service("web", 1, lambda time, n: 40.0)
    chain.advance(90)
    (task,) = chain.records.running()
    chain.meter.hold()
    task.process.used, task.process.gone = task.process.used + 900.0, True
    chain.meter.go_on()
    chain.advance(PUBLICATION_DELAY + 60)
    assert set(read(chain, "CPUUtilization", "Maximum")) == {0}


def test_a_task_of_no_service_counts_for_its_cluster_only(chain):
    chain.task()
    chain.advance(60 + PUBLICATION_DELAY)
    assert read(chain, "CPUUtilization", "SampleCount", ClusterName="lab") == {0: 1}
    assert read(chain, "CPUUtilization", "SampleCount") == {}


# ---- the load balancer ----


@pytest.fixture
def balanced(chain):
    """A load balancer with a target group of two healthy targets and an unhealthy one; its names in CloudWatch."""
    elbv2, ec2 = chain.aws("elbv2"), chain.aws("ec2")
    subnets = ec2.describe_subnets()["Subnets"][:2]
    balancer = elbv2.create_load_balancer(
        Name=f"lb-{chain.start:.0f}", Subnets=[subnet["SubnetId"] for subnet in subnets]
    )
    chain.balancer = balancer["LoadBalancers"][0]["LoadBalancerArn"]
    options = {"Protocol": "HTTP", "Port": 3000, "VpcId": subnets[0]["VpcId"], "TargetType": "ip"}
    chain.group = elbv2.create_target_group(Name=f"tg-{chain.start:.0f}", **options)["TargetGroups"][0][
        "TargetGroupArn"
    ]
    action = {"Type": "forward", "TargetGroupArn": chain.group}
    elbv2.create_listener(LoadBalancerArn=chain.balancer, Protocol="HTTP", Port=80, DefaultActions=[action])
    states = {"10.0.0.1": "healthy", "10.0.0.2": "healthy", "10.0.0.3": "unhealthy", "10.0.0.4": "draining"}
    chain.health[chain.group] = {(ip, 3000): Health(state) for ip, state in states.items()}
    chain.service("web", 1)
    names = {"LoadBalancer": chain.balancer.split(":loadbalancer/")[1]}
    return names, names | {"TargetGroup": chain.group.split(":")[-1]}


def requests(chain, minute, statuses, seconds=0.05):
    time = chain.start + 60 * minute + 30
    return [
        Request(
            time,
            chain.balancer,
            chain.group,
            None if of_target is None and elb == 503 else ("10.0.0.1", 3000),
            elb,
            of_target,
            seconds,
        )
        for elb, of_target in statuses
    ]


def test_requests_are_counted_by_who_answered(chain, balanced):
    of_balancer, of_group = balanced
    statuses = [(200, 200)] * 6 + [(301, 301), (404, 404), (500, 500)] + [(502, None)] * 2 + [(503, None)] * 3
    chain.requests += requests(chain, 0, statuses)
    chain.advance(60 + PUBLICATION_DELAY)
    for name, count in {
        "RequestCount": 11,  # the 503s had no target
        "HTTPCode_Target_2XX_Count": 6,
        "HTTPCode_Target_3XX_Count": 1,
        "HTTPCode_Target_4XX_Count": 1,
        "HTTPCode_Target_5XX_Count": 1,
    }.items():
        for dimensions in (of_balancer, of_group):
            assert read(chain, name, "Sum", "AWS/ApplicationELB", **dimensions) == {0: count}, name
    for name, count in {
        "HTTPCode_ELB_5XX_Count": 5,
        "HTTPCode_ELB_502_Count": 2,
        "HTTPCode_ELB_503_Count": 3,
    }.items():
        assert read(chain, name, "Sum", "AWS/ApplicationELB", **of_balancer) == {0: count}, name
    assert read(chain, "HTTPCode_ELB_504_Count", "Sum", "AWS/ApplicationELB", **of_balancer) == {}
    each = read(chain, "RequestCountPerTarget", "Sum", "AWS/ApplicationELB", **of_group)
    assert each == {0: 11 / 2}  # two healthy targets


def test_no_request_is_a_gap(chain, balanced):
    chain.requests += requests(chain, 1, [(200, 200)])
    chain.advance(180 + PUBLICATION_DELAY)
    assert read(chain, "RequestCount", "Sum", "AWS/ApplicationELB", **balanced[0]) == {1: 1}


def test_response_times_keep_their_distribution(chain, balanced):
    """More distinct values than one datum may hold."""
    times = [number / 1000 for number in range(1, 501)]
    chain.requests += [request for time in times for request in requests(chain, 0, [(200, 200)], time)]
    chain.requests += requests(
        chain, 0, [(502, None)], 10.0
    )  # a target that did not answer has no response time
    chain.advance(60 + PUBLICATION_DELAY)
    for stat, value in {
        "SampleCount": 500,
        "Average": 0.2505,
        "Maximum": 0.5,
        "p50": 0.2505,
        "p95": 0.47505,
    }.items():
        seen = read(chain, "TargetResponseTime", stat, "AWS/ApplicationELB", **balanced[1])
        assert seen == {0: pytest.approx(value)}, stat


def test_a_request_that_ended_in_a_pause_is_not_counted(chain, balanced):
    _, of_group = balanced
    served = requests(chain, 1, [(200, 200)] * 5)
    chain.requests = [replace(request, counted=False) for request in served[:2]] + served[2:]
    chain.advance(60 * 2 + PUBLICATION_DELAY + 60)
    assert read(chain, "RequestCount", "Sum", "AWS/ApplicationELB", **of_group) == {1: 3}


def test_a_request_that_ends_late_is_still_counted(chain, balanced):
    chain.requests += requests(chain, 0, [(200, 200)])
    chain.advance(60 + PUBLICATION_DELAY)
    chain.requests += requests(chain, 0, [(200, 200)])
    chain.advance(5)
    assert read(chain, "RequestCount", "Sum", "AWS/ApplicationELB", **balanced[0]) == {0: 2}


def test_hosts_are_counted_through_the_minute(chain, balanced):
    chain.advance(30)
    chain.health[chain.group]["10.0.0.3", 3000] = Health("healthy")
    chain.advance(90 + PUBLICATION_DELAY)
    seen = {
        stat: read(chain, "HealthyHostCount", stat, "AWS/ApplicationELB", **balanced[1])
        for stat in ("Minimum", "Maximum", "Average")
    }
    assert (seen["Minimum"][0], seen["Maximum"][0]) == (2, 3)
    assert 2.4 <= seen["Average"][0] <= 2.6
    assert seen["Minimum"][1] == 3
    assert read(chain, "UnHealthyHostCount", "Maximum", "AWS/ApplicationELB", **balanced[1])[1] == 0


def test_target_groups_are_read_again_only_after_a_change(chain, balanced, monkeypatch):
    asked = []
    real = chain.meter.aws
    monkeypatch.setattr(chain.meter, "aws", lambda *which: asked.append(which) or real(*which))
    chain.advance(120)
    assert asked.count(("elbv2", chain.region)) == 1
    chain.aws("elbv2").create_target_group(
        Name=f"other-{chain.start:.0f}",
        Protocol="HTTP",
        Port=1,
        VpcId=chain.aws("ec2").describe_vpcs()["Vpcs"][0]["VpcId"],
    )
    chain.advance(30)
    assert asked.count(("elbv2", chain.region)) == 2


# ---- reading them back ----


def test_get_metric_statistics_has_percentiles_and_exact_dimensions(chain, balanced):
    chain.requests += [r for time in (0.1, 0.2, 0.3) for r in requests(chain, 0, [(200, 200)], time)]
    chain.advance(60 + PUBLICATION_DELAY)
    answer = chain.aws("cloudwatch").get_metric_statistics(
        Namespace="AWS/ApplicationELB",
        MetricName="TargetResponseTime",
        Dimensions=[{"Name": "LoadBalancer", "Value": balanced[0]["LoadBalancer"]}],
        StartTime=chain.at(0),
        EndTime=chain.at(60),
        Period=60,
        Statistics=["SampleCount", "Average"],
        ExtendedStatistics=["p50"],
    )
    (point,) = answer["Datapoints"]
    assert answer["Label"] == "TargetResponseTime"
    assert (point["Timestamp"], point["Unit"], point["SampleCount"]) == (chain.at(0), "Seconds", 3)
    assert (point["Average"], point["ExtendedStatistics"]["p50"]) == (pytest.approx(0.2), pytest.approx(0.2))


def test_old_samples_are_pruned_every_hour(chain, monkeypatch):
    monkeypatch.setattr("helpers.sandbox.meter.KEPT", 1800.0)
    chain.service("web", 1)
    chain.advance(2 * 3600 + 60, tick=60)
    metric = {
        "Namespace": "AWS/ECS",
        "MetricName": "CPUUtilization",
        "Dimensions": [{"Name": "ClusterName", "Value": "lab"}, {"Name": "ServiceName", "Value": "web"}],
    }
    kept = chain.aws("cloudwatch").get_metric_data(
        MetricDataQueries=[{"Id": "q", "MetricStat": {"Metric": metric, "Period": 60, "Stat": "Average"}}],
        StartTime=chain.at(0),
        EndTime=chain.clock.now(),
    )["MetricDataResults"][0]["Timestamps"]
    assert chain.clock.now() - min(kept) <= timedelta(seconds=1800 + 60)
    assert len(kept) >= 30 - 4
