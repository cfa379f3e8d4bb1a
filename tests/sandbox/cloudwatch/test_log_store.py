"""How many log events are kept; and a contract on what of moto is touched for it."""

from __future__ import annotations

import time

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from helpers.sandbox.cloudwatch.log_store import prune, share


@given(st.lists(st.integers(0, 100), max_size=20), st.integers(0, 500))
def test_a_share_is_the_most_that_all_may_keep(sizes: list[int], total: int) -> None:
    def left(limit: int) -> int:
        return sum(min(size, limit) for size in sizes)

    limit = share(sizes, total)
    assert left(limit) <= total
    assert left(limit + 1) > total or left(limit) == sum(sizes)


@pytest.fixture
def logs():
    with mock_aws():
        client = boto3.client("logs", "us-east-1")
        client.create_log_group(logGroupName="g")
        yield client


def write(logs, stream: str, events: int) -> None:
    now = round(time.time() * 1000)
    logs.create_log_stream(logGroupName="g", logStreamName=stream)
    for start in range(0, events, 10):  # moto's record is a list, however the events came
        batch = [
            {"timestamp": now, "message": f"{stream} {n}"} for n in range(start, min(start + 10, events))
        ]
        logs.put_log_events(logGroupName="g", logStreamName=stream, logEvents=batch)


def read(logs, stream: str) -> list[str]:
    answer = logs.get_log_events(logGroupName="g", logStreamName=stream, startFromHead=True)
    return [event["message"] for event in answer["events"]]


def test_the_oldest_of_the_longest_go_and_moto_by_itself_keeps_all(logs) -> None:
    for stream, events in (("busy", 50), ("busier", 90), ("quiet", 3)):
        write(logs, stream, events)
    assert [len(read(logs, stream)) for stream in ("busy", "busier", "quiet")] == [50, 90, 3]
    assert prune(kept=43) == 100
    assert read(logs, "quiet") == ["quiet 0", "quiet 1", "quiet 2"]
    assert read(logs, "busy") == [f"busy {n}" for n in range(30, 50)]
    assert read(logs, "busier") == [f"busier {n}" for n in range(70, 90)]
    assert prune(kept=43) == 0


def test_the_rest_is_described_and_added_to_as_before(logs) -> None:
    write(logs, "s", 20)
    prune(kept=5)
    (stream,) = logs.describe_log_streams(logGroupName="g")["logStreams"]
    assert stream["firstEventTimestamp"] <= stream["lastEventTimestamp"]
    more = [{"timestamp": round(time.time() * 1000), "message": "more"}]
    logs.put_log_events(logGroupName="g", logStreamName="s", logEvents=more)
    assert read(logs, "s")[-2:] == ["s 19", "more"]
