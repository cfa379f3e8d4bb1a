"""How many log events are kept, and how they are found; and a contract on what of moto is touched for it."""

from __future__ import annotations

import json
import time

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from helpers.sandbox.cloudwatch import log_store
from helpers.sandbox.cloudwatch.log_store import mend_filter, prune, share
from helpers.sandbox.endpoint import Endpoint


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


def found(logs, pattern: str, **more) -> list[str]:
    answer = logs.filter_log_events(logGroupName="g", filterPattern=pattern, **more)
    return [event["message"] for event in answer["events"]]


@pytest.fixture
def unmended(monkeypatch):
    """moto as it comes, whatever a test of before has done to it; and so again afterwards."""
    from moto.logs import models, utils

    monkeypatch.setattr(models, "EventMessageFilter", utils.EventMessageFilter)
    mended = models.LogGroup.filter_log_events
    original = next((c.cell_contents for c in mended.__closure__ or () if callable(c.cell_contents)), mended)
    monkeypatch.setattr(models.LogGroup, "filter_log_events", original)


def write_requests(logs) -> None:
    now = round(time.time() * 1000)
    for stream, offset in (("one", 0), ("two", 1)):
        logs.create_log_stream(logGroupName="g", logStreamName=stream)
        events = [
            {"timestamp": now + 2 * n + offset, "message": json.dumps({"path": path, "status": 200 + n})}
            for n, path in enumerate(("/", "/visits"))
        ]
        logs.put_log_events(logGroupName="g", logStreamName=stream, logEvents=events)


def test_moto_by_itself_takes_every_event_for_a_match_of_a_json_pattern_stream_by_stream(unmended, logs):
    write_requests(logs)
    paths = [json.loads(message)["path"] for message in found(logs, '{ $.path = "/visits" }')]
    assert paths == ["/", "/visits"] * 2


def test_mended_it_finds_what_the_pattern_means_in_the_order_of_time(unmended, logs):
    mend_filter()
    mend_filter()
    write_requests(logs)
    assert len(found(logs, '{ $.path = "/visits" && $.status = 201 }')) == 2
    assert [json.loads(message)["path"] for message in found(logs, "")] == ["/", "/", "/visits", "/visits"]
    assert len(found(logs, "{ $.status >= 200 }", logStreamNames=["two"])) == 2
    first = logs.filter_log_events(logGroupName="g", filterPattern="{ $.status = 201 }", limit=1)
    rest = logs.filter_log_events(
        logGroupName="g", filterPattern="{ $.status = 201 }", nextToken=first["nextToken"]
    )
    assert [event["logStreamName"] for event in first["events"] + rest["events"]] == ["one", "two"]


def test_what_is_no_pattern_is_refused_as_by_aws(unmended):
    endpoint = Endpoint()
    endpoint.add(log_store.operations())
    endpoint.start()
    try:
        logs = endpoint.client("logs", "us-east-1")
        logs.create_log_group(logGroupName="g")
        assert found(logs, '{ $.path = "/" }') == []
        with pytest.raises(ClientError, match="Invalid character") as refused:
            found(logs, "{ $.path = /visits }")
        assert refused.value.response["Error"]["Code"] == "InvalidParameterException"
        with pytest.raises(ClientError, match="ResourceNotFound"):
            logs.filter_log_events(logGroupName="nobody", filterPattern="ERROR")
    finally:
        endpoint.stop()
