"""moto's metrics, mended; and a contract on what of moto is touched for it."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from helpers.sandbox.cloudwatch.metric_store import mend_metrics, percentile, prune
from tests.sandbox.chain import shared_endpoint

START = datetime(2026, 11, 23, 10, tzinfo=UTC)
DIMENSIONS = [
    {"Name": "TargetGroup", "Value": "targetgroup/t/1"},
    {"Name": "LoadBalancer", "Value": "app/l/1"},
]

# In a process of its own: mend_metrics changes moto for good.
UNMENDED = """
import json
from datetime import datetime
from moto.cloudwatch.models import CloudWatchBackend, Dimension, MetricAggregatedDatum, Statistics, cloudwatch_backends
backend = cloudwatch_backends["123456789012"]["us-east-1"]
def put(values, at, name="m", dimensions=()):
    datum = {"MetricName": name, "Values": values, "Timestamp": at, "Dimensions": list(dimensions)}
    backend.put_metric_data("n", [datum])
put([1.0, 2.0, 3.0], datetime(2026, 11, 23, 10, 0))
metric = {"Namespace": "n", "MetricName": "m"}
def get(stat, start, dimensions=(), name="m"):
    metric = {"Namespace": "n", "MetricName": name, "Dimensions": list(dimensions)}
    query = {"Id": "q", "MetricStat": {"Metric": metric, "Period": 60, "Stat": stat}}
    return backend.get_metric_data([query], start, datetime(2026, 11, 23, 11))[0]
d = [{"Name": "B", "Value": "b"}, {"Name": "A", "Value": "a"}]
put([1.0], datetime(2026, 11, 23, 10, 0), "two", d)
put([1.0, 2.0], datetime(2026, 11, 23, 10, 0), "listed", d)
print(json.dumps({
    "percentile": get("p95", datetime(2026, 11, 23, 10))["values"],
    "records": len(backend.metric_data),
    "aligned": get("Sum", datetime(2026, 11, 23, 9, 59, 30))["timestamps"][0].second == 0,
    "any order": bool(get("Sum", datetime(2026, 11, 23, 10), reversed(d), "two")["values"]),
    "listed": len(backend.list_metrics(None, "n", "listed", [])[1]),
}))
"""


def test_moto_still_has_the_gaps_that_are_filled():
    run = subprocess.run([sys.executable, "-c", UNMENDED], capture_output=True, text=True, check=True)
    seen = json.loads(run.stdout)
    assert seen == {"percentile": [None], "records": 6, "aligned": False, "any order": False, "listed": 2}


@pytest.fixture
def cloudwatch():
    mend_metrics()
    yield shared_endpoint().client("cloudwatch", "eu-south-1")
    prune((START + timedelta(days=1)).timestamp())


def put(cloudwatch, name, minute=0.0, dimensions=DIMENSIONS, **datum):
    time = START + timedelta(minutes=minute)
    made = {"MetricName": name, "Dimensions": dimensions, "Timestamp": time, **datum}
    cloudwatch.put_metric_data(Namespace="Test", MetricData=[made])


def get(cloudwatch, name, stat, start=START, period=60, dimensions=DIMENSIONS, **options):
    metric = {"Namespace": "Test", "MetricName": name, "Dimensions": dimensions}
    answer = cloudwatch.get_metric_data(
        MetricDataQueries=[{"Id": "q", "MetricStat": {"Metric": metric, "Period": period, "Stat": stat}}],
        StartTime=start,
        EndTime=START + timedelta(hours=1),
        **options,
    )
    return answer["MetricDataResults"][0]


def test_every_statistic_of_values_and_counts(cloudwatch):
    values, counts = [0.1, 0.2, 0.9], [5.0, 3.0, 2.0]
    put(cloudwatch, "distribution", Values=values, Counts=counts)
    put(cloudwatch, "distribution", Value=2.0)
    samples = [0.1] * 5 + [0.2] * 3 + [0.9] * 2 + [2.0]
    expected = {
        "Average": statistics.fmean(samples),
        "Sum": sum(samples),
        "Minimum": 0.1,
        "Maximum": 2.0,
        "SampleCount": 11.0,
        "p50": statistics.median(samples),
        "p95": numpy.percentile(samples, 95),
        "p99.9": numpy.percentile(samples, 99.9),
        "p100": 2.0,
    }
    for stat, value in expected.items():
        assert get(cloudwatch, "distribution", stat)["Values"] == [pytest.approx(value)], stat


def test_dimensions_match_exactly_and_in_any_order(cloudwatch):
    put(cloudwatch, "count", Value=7.0)
    put(cloudwatch, "count", Value=1.0, dimensions=DIMENSIONS[1:])
    assert get(cloudwatch, "count", "Sum", dimensions=DIMENSIONS[::-1])["Values"] == [7.0]
    assert get(cloudwatch, "count", "Sum", dimensions=DIMENSIONS[1:])["Values"] == [1.0]


def test_periods_begin_at_multiples_of_the_period(cloudwatch):
    for minute in range(6):
        put(cloudwatch, "count", minute, Value=1.0)
    found = get(
        cloudwatch, "count", "Sum", START + timedelta(seconds=90), period=300, ScanBy="TimestampAscending"
    )
    assert found["Timestamps"] == [START, START + timedelta(minutes=5)]
    assert found["Values"] == [5.0, 1.0]


def test_a_metric_is_listed_once_however_many_samples_it_has(cloudwatch):
    for minute in range(3):
        put(cloudwatch, "listed", minute, Values=[1.0, 2.0])
    put(cloudwatch, "listed", dimensions=DIMENSIONS[1:], Value=1.0)
    put(cloudwatch, "other", Value=1.0)
    listed = cloudwatch.list_metrics(Namespace="Test", MetricName="listed")["Metrics"]
    assert sorted(len(metric["Dimensions"]) for metric in listed) == [1, 2]
    with_target_group = cloudwatch.list_metrics(MetricName="listed", Dimensions=DIMENSIONS[:1])["Metrics"]
    assert [metric["Dimensions"] for metric in with_target_group] == [DIMENSIONS]


def test_newest_first_unless_asked_otherwise(cloudwatch):
    for minute in range(3):
        put(cloudwatch, "count", minute, Value=float(minute))
    assert get(cloudwatch, "count", "Sum")["Values"] == [2.0, 1.0, 0.0]
    assert get(cloudwatch, "count", "Sum", ScanBy="TimestampAscending")["Values"] == [0.0, 1.0, 2.0]


def test_an_unknown_statistic_is_refused_and_not_a_failure(cloudwatch):
    put(cloudwatch, "count", Value=1.0)
    with pytest.raises(ClientError, match="tm90"):
        get(cloudwatch, "count", "tm90")


def test_expressions_are_still_answered(cloudwatch):
    put(cloudwatch, "count", Value=3.0)
    metric = {"Namespace": "Test", "MetricName": "count", "Dimensions": DIMENSIONS}
    queries = [
        {"Id": "m1", "MetricStat": {"Metric": metric, "Period": 60, "Stat": "Sum"}, "ReturnData": False},
        {"Id": "e1", "Expression": "m1"},
    ]
    answer = cloudwatch.get_metric_data(
        MetricDataQueries=queries, StartTime=START, EndTime=START + timedelta(hours=1)
    )
    assert [result["Values"] for result in answer["MetricDataResults"]] == [[3.0]]


def test_old_samples_are_forgotten(cloudwatch):
    for minute in range(10):
        put(cloudwatch, "count", minute, Value=1.0)
    assert prune((START + timedelta(minutes=4)).timestamp()) >= 4
    assert len(get(cloudwatch, "count", "Sum")["Values"]) == 6


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 100))
def test_percentiles_agree_with_numpy(samples, percent):
    assert percentile(samples, percent) == pytest.approx(numpy.percentile(samples, percent), abs=1e-6)
