"""Who answered a load, from canned log events."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest

from helpers import session
from helpers.logs import answered
from helpers.report import AwsTime, Record, Report, Span
from tests.answers import Answers, aws
from tests.lab import StubLab

__all__ = ["aws"]
BEGAN = 1_700_000_000.0  # real
AWS_BEGAN = 1_800_000_000.0  # the same moment in AWS time, thirty times as fast


@pytest.fixture(autouse=True)
def lab(monkeypatch):
    monkeypatch.setattr(session, "current", lambda: StubLab(speed=600))


def report(served: int) -> Report:
    record = Record(start=BEGAN, bins={0: ([8.0] * served, {"HTTP 502": 1})})
    spans = (Span("all", BEGAN, BEGAN + 4, math.inf),)
    return Report("http://x", record, AwsTime(BEGAN, AWS_BEGAN, 30.0), spans, "sandbox", "process")


def event(real_seconds: float, **more) -> dict:
    time = datetime.fromtimestamp(BEGAN + real_seconds, UTC).isoformat(timespec="milliseconds")
    line = {"time": time.replace("+00:00", "Z"), "path": "/", "status": 200, "ms": 8.1, "task": "a", **more}
    return {"message": json.dumps(line), "timestamp": round((AWS_BEGAN + 30 * (real_seconds + 0.5)) * 1000)}


def test_a_line_per_request_at_the_aws_time_at_which_it_was_answered(aws: Answers):
    aws["logs", "FilterLogEvents"] = {"events": [event(2, task="b", version="2"), event(1, version="1")]}
    frame = answered("/ecs/shop", report(2))
    assert list(frame["task"]) == ["a", "b"]
    assert list(frame["version"]) == ["1", "2"]
    assert [time.timestamp() - AWS_BEGAN for time in frame["time"]] == [30, 60]


def test_only_lines_of_that_load_count(aws: Answers):
    aws["logs", "FilterLogEvents"] = {"events": [event(s) for s in (-0.2, 0.1, 3.9, 4.2, 6)]}
    assert len(answered("/ecs/shop", report(3))) == 3


def test_it_waits_for_lines_that_are_on_their_way(aws: Answers, monkeypatch):
    monkeypatch.setattr(
        session, "current", lambda: StubLab(speed=6)
    )  # twenty real seconds, also on a busy machine
    looks = iter([1, 2, 3])
    aws["logs", "FilterLogEvents"] = lambda asked: {"events": [event(1)] * next(looks)}
    assert len(answered("/ecs/shop", report(3))) == 3
    asked = aws.calls[-1][2]
    assert asked["logGroupName"] == "/ecs/shop"
    assert asked["startTime"] == AWS_BEGAN * 1000


def test_it_does_not_wait_for_ever(aws: Answers):
    aws["logs", "FilterLogEvents"] = {"events": [event(1)]}
    assert len(answered("/ecs/shop", report(3))) == 1


def test_pages_are_followed_also_empty_ones(aws: Answers):
    pages = {None: ([event(1)], "p2"), "p2": ([], "p3"), "p3": ([event(2)], None)}

    def page(asked: dict) -> dict:
        events, token = pages[asked.get("nextToken")]
        return {"events": events} | ({"nextToken": token} if token else {})

    aws["logs", "FilterLogEvents"] = page
    assert len(answered("/ecs/shop", report(2))) == 2


def test_an_app_that_says_less_leaves_it_empty(aws: Answers):
    aws["logs", "FilterLogEvents"] = {"events": [event(1)]}
    assert answered("/ecs/shop", report(1))["version"].isna().all()


@pytest.mark.parametrize("time", [None, 1_800_000_000, "noon", "2026-11-23T12:00:00"])
def test_lines_that_do_not_say_when_are_left_out(aws: Answers, time):
    other = {"message": json.dumps({"path": "/", "time": time}), "timestamp": 1}
    aws["logs", "FilterLogEvents"] = {"events": [other, event(1), {"message": "GET /", "timestamp": 1}]}
    assert len(answered("/ecs/shop", report(3))) == 1


def test_no_line_at_all_is_an_empty_table_of_times(aws: Answers):
    aws["logs", "FilterLogEvents"] = {"events": [{"message": "GET /", "timestamp": 1}]}
    load = report(3)
    frame = answered("/ecs/shop", load)
    assert list(frame["time"] - load.start) == []
