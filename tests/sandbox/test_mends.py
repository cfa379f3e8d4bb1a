"""What moto leaves out, and a contract on the internals of moto that are touched for it."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from datetime import timedelta
from types import ModuleType

import boto3
import pytest

from helpers.sandbox import mends
from helpers.sandbox.clock import AwsClock
from helpers.sandbox.endpoint import Endpoint

# In a process of its own: install_time changes moto for good.
AHEAD = """
import json, sys, time
from helpers.sandbox import mends
from helpers.sandbox.clock import AwsClock
from helpers.sandbox.endpoint import Endpoint
clock = AwsClock(1, epoch=time.time() + 86400 * 3)
endpoint = Endpoint(); endpoint.start(); mends.install_time(clock)
aws = lambda service: endpoint.client(service, "us-east-1")
seen = {}
seen["iam"] = aws("iam").create_role(RoleName="r", AssumeRolePolicyDocument="{}")["Role"]["CreateDate"].timestamp()
seen["ecr"] = aws("ecr").create_repository(repositoryName="repo")["repository"]["createdAt"].timestamp()
subnets = [s["SubnetId"] for s in aws("ec2").describe_subnets()["Subnets"]]
seen["elbv2"] = aws("elbv2").create_load_balancer(Name="x", Subnets=subnets)["LoadBalancers"][0]["CreatedTime"].timestamp()
aws("logs").create_log_group(logGroupName="g")
aws("logs").create_log_stream(logGroupName="g", logStreamName="s")
seen["logs"] = aws("logs").describe_log_groups()["logGroups"][0]["creationTime"] / 1000
event = {"timestamp": int(clock.time() * 1000), "message": "m"}
put = aws("logs").put_log_events(logGroupName="g", logStreamName="s", logEvents=[event])
seen["refused"] = put.get("rejectedLogEventsInfo")
aws("cloudwatch").put_metric_alarm(AlarmName="a", Namespace="n", MetricName="m", Period=60, EvaluationPeriods=1,
                                   Threshold=1, ComparisonOperator="GreaterThanThreshold", Statistic="Average")
seen["cloudwatch"] = aws("cloudwatch").describe_alarms()["MetricAlarms"][0]["StateUpdatedTimestamp"].timestamp()
print(json.dumps({"now": clock.time(), "seen": seen}))
"""


def test_every_time_in_an_answer_is_aws_time():
    done = subprocess.run([sys.executable, "-c", AHEAD], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    seen = told["seen"]
    assert not seen.pop("refused"), "log lines from AWS's now were refused"
    assert {service for service, time in seen.items() if abs(time - told["now"]) > 60} == set()


# In a process of its own: it must be done before the first session is made.
SHARED = """
import json, os
from helpers import sandbox
os.environ.update(sandbox._environment())
from helpers.sandbox import mends
mends.share_models()
from botocore.session import Session
from moto.core import utils
from helpers.sandbox.endpoint import ACCOUNT, Endpoint
endpoint = Endpoint(); endpoint.start()
one, two = Session().get_component("data_loader"), Session().get_component("data_loader")
told = [endpoint.client("sts", region).get_caller_identity()["Account"] for region in ("us-east-1", "eu-west-1")]
from moto.iam.models import iam_backends
print(json.dumps({
    "one copy of botocore's": one is two,
    "one copy of moto's": utils.create_loader() is utils.create_loader() is not one,
    "account": set(told) == {ACCOUNT},
    "partitions": list(iam_backends[ACCOUNT]),
    "policies": len(iam_backends[ACCOUNT]["aws"].managed_policies) > 1000,
}))
"""


def test_a_start_reads_each_file_once_and_the_policies_of_one_partition():
    done = subprocess.run([sys.executable, "-c", SHARED], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told.pop("partitions") == ["aws"]
    assert all(told.values()), told


# In a process of its own, as above.
FORGOTTEN = """
import gc, json, weakref
from moto.logs.models import LogEvent
from helpers.sandbox import mends
event = {"timestamp": 0, "message": "m"}
kept = weakref.ref(LogEvent(0, event))
mends.forget_instances()
gone = weakref.ref(LogEvent(0, event))
gc.collect()
print(json.dumps({"moto keeps what nobody refers to": kept() is not None, "mended, it is gone": gone() is None}))
"""


def test_what_moto_has_forgotten_takes_no_memory():
    done = subprocess.run([sys.executable, "-c", FORGOTTEN], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(json.loads(done.stdout).values()), done.stdout


@pytest.fixture(scope="module")
def network():
    endpoint = Endpoint()
    endpoint.on_region = lambda region: mends.furnish(endpoint.client("ec2", region))
    endpoint.start()
    session = boto3.session.Session(region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    yield session.client("ec2", endpoint_url=endpoint.url)
    endpoint.stop()


def test_the_default_vpc_has_a_subnet_in_each_of_three_zones(network):
    subnets = network.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"]
    assert sorted(subnet["AvailabilityZone"] for subnet in subnets) == [
        "us-east-1a",
        "us-east-1b",
        "us-east-1c",
    ]
    assert all(subnet["MapPublicIpOnLaunch"] for subnet in subnets)


def test_the_default_vpc_reaches_the_internet(network):
    (vpc,) = network.describe_vpcs()["Vpcs"]
    (gateway,) = network.describe_internet_gateways()["InternetGateways"]
    assert [attached["VpcId"] for attached in gateway["Attachments"]] == [vpc["VpcId"]]
    (table,) = network.describe_route_tables()["RouteTables"]
    routes = {route["DestinationCidrBlock"]: route["GatewayId"] for route in table["Routes"]}
    assert routes == {"172.31.0.0/16": "local", "0.0.0.0/0": gateway["InternetGatewayId"]}


def test_the_default_security_group_lets_its_own_members_in(network):
    (group,) = network.describe_security_groups()["SecurityGroups"]
    (rule,) = group["IpPermissions"]
    assert rule["IpProtocol"] == "-1"
    assert rule["IpRanges"] == []
    assert [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == [group["GroupId"]]


def test_furnishing_twice_changes_nothing(network):
    mends.furnish(network)
    assert len(network.describe_internet_gateways()["InternetGateways"]) == 1


def test_moto_still_reads_the_time_where_the_mend_is():
    """When this fails, moto has changed: look where it reads the time now, then at mends.py."""
    for name in mends.READS_DATETIME:
        assert hasattr(importlib.import_module(name), "datetime"), name
    for name in mends.READS_TIME:
        assert isinstance(importlib.import_module(name).time, ModuleType), name


def test_moto_still_leaves_the_default_vpc_unfurnished():
    """When this fails, moto fills the gap itself: `furnish` can go."""
    endpoint = Endpoint()
    endpoint.start()
    assert endpoint.client("ec2", "eu-north-1").describe_internet_gateways()["InternetGateways"] == []
    endpoint.stop()


def test_the_clock_runs_at_its_speed():
    clock = AwsClock(speed=3600, epoch=0)
    first, before = clock.now(), clock.monotonic()
    second, after = clock.now(), clock.monotonic()
    assert timedelta(0) <= second - first
    assert clock.time() >= (after - before) * 3600
    assert clock.real(60) == pytest.approx(60 / 3600)


@pytest.mark.parametrize("speed", [0, -1])
def test_a_clock_that_does_not_run_is_refused(speed):
    with pytest.raises(ValueError, match="speed"):
        AwsClock(speed)
