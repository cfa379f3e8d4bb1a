from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from helpers.sandbox import logs as module
from helpers.sandbox.logs import MAX_EVENT, AwsLogs, LogRefused, batches, split_lines
from helpers.sandbox.records import Records
from tests.sandbox.manual_clock import ManualClock
from tests.sandbox.task_record import task_record

REGION, GROUP, STREAM = "us-east-1", "/ecs/shop", "web/app/7f3c"
BEGIN = round(time.time())  # as in CloudWatch, moto takes only events of about now
ARN = "arn:aws:ecs:us-east-1:123456789012:task/shop/7f3c"


class Process:
    """A task whose output a test writes."""

    def __init__(self, output: Path):
        self.output, self.code, self.dropped = output, None, 0
        self.spec = SimpleNamespace(task_arn=ARN, region=REGION, log_group=GROUP, log_stream=STREAM)
        output.touch()

    def poll(self) -> int | None:
        return self.code

    def say(self, data: bytes) -> None:
        with self.output.open("ab") as output:
            output.write(data)


class Bench:
    def __init__(self, directory: Path):
        self.clock, self.records = ManualClock(start=BEGIN), Records()
        self.cloudwatch: Any = boto3.client("logs", REGION)
        self.logs = AwsLogs(self.records, lambda service, region: self.cloudwatch, self.clock)
        self.process: Any = Process(directory / "output.log")
        self.task = task_record(ARN)
        self.records.tasks[ARN] = self.task

    def container(self, **options: str) -> dict[str, Any]:
        given = {"awslogs-group": GROUP, "awslogs-region": REGION, "awslogs-stream-prefix": "web"}
        return {"name": "app", "logConfiguration": {"logDriver": "awslogs", "options": given | options}}

    def begin(self) -> None:
        self.cloudwatch.create_log_group(logGroupName=GROUP)
        assert self.logs.open_stream(self.task, self.container()) == (GROUP, STREAM)
        self.task.process = self.process

    def events(self) -> list[dict[str, Any]]:
        return self.cloudwatch.get_log_events(logGroupName=GROUP, logStreamName=STREAM, startFromHead=True)[
            "events"
        ]

    def lines(self) -> list[str]:
        return [event["message"] for event in self.events()]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with mock_aws():
        yield Bench(tmp_path)


def test_lines_arrive_once_in_order_and_in_aws_time(bench: Bench) -> None:
    bench.begin()
    bench.process.say(b"first\nsecond\n\nthi")
    bench.logs.step()
    assert bench.lines() == ["first", "second"]
    bench.clock.advance(15)
    bench.process.say("rd, €\nfour".encode())
    bench.logs.step()
    bench.logs.step()
    assert bench.lines() == ["first", "second", "third, €"]
    assert [event["timestamp"] for event in bench.events()] == [BEGIN * 1000] * 2 + [(BEGIN + 15) * 1000]


def test_the_last_words_of_a_task_arrive_though_its_record_forgets_it(bench: Bench) -> None:
    bench.begin()
    bench.logs.follow(bench.process)
    bench.process.say(b"listening\nError: no such tab")
    bench.process.code = 1
    bench.task.process = None
    bench.logs.step()
    assert bench.lines() == ["listening", "Error: no such tab"]
    bench.logs.step()
    bench.logs.step()
    assert len(bench.lines()) == 2


def test_what_a_task_wrote_last_is_there_before_its_end_is_told_and_once(bench: Bench) -> None:
    bench.begin()
    bench.process.say(b"listening\nError: no such tab")
    bench.process.code = 1
    bench.logs.deliver(bench.process)
    assert bench.lines() == ["listening", "Error: no such tab"]
    bench.logs.deliver(bench.process)
    bench.logs.step()
    assert len(bench.lines()) == 2


def test_a_task_that_ends_in_a_pause_is_read_once_and_into_its_own_region(bench: Bench) -> None:
    """The scheduler stands still: the record shows the process until time goes on."""
    asked: list[str] = []
    bench.logs.aws = lambda service, region: asked.append(region) or bench.cloudwatch
    bench.cloudwatch.create_log_group(logGroupName=GROUP)
    bench.logs.open_stream(bench.task, bench.container(**{"awslogs-region": "eu-west-1"}))
    bench.task.process, bench.task.last_status = None, "RUNNING"
    bench.logs.follow(bench.process)
    bench.process.say(b"listening\n")
    bench.process.code = 0
    for _ in range(4):
        bench.logs.step()
    bench.task.process = bench.process
    for _ in range(4):
        bench.logs.step()
    bench.logs.deliver(bench.process)
    bench.task.process, bench.task.last_status = None, "STOPPED"
    bench.logs.step()
    assert bench.lines() == ["listening"]
    assert set(asked) == {"eu-west-1"}
    assert not bench.logs._tails


def test_a_long_output_is_read_in_pieces(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 100)
    monkeypatch.setattr(module, "CHUNKS", 3)
    bench.begin()
    said = [f"line {number}" for number in range(100)]
    bench.process.say("\n".join(said).encode())
    bench.logs.step()
    assert 25 < len(bench.lines()) < 40
    bench.process.code = 0
    for _ in range(4):
        bench.logs.step()
    assert bench.lines() == said


def test_what_was_dropped_before_it_was_read_is_told(bench: Bench) -> None:
    bench.begin()
    bench.process.say(b"first\nsec")
    bench.logs.step()
    bench.process.say(b"ond\nthird\n")
    bench.process.dropped = 9 + 10  # bytes: 9 were read, 10 were not
    bench.process.output.write_bytes(b"rest of a line\nlast\n")
    bench.logs.step()
    told = "[sandbox] 10 bytes of this task's output were dropped here: it writes too fast"
    assert bench.lines() == ["first", "sec", told, "rest of a line", "last"]


def test_what_was_dropped_after_it_was_read_is_no_loss(bench: Bench) -> None:
    bench.begin()
    bench.process.say(b"first\n")
    bench.logs.step()
    bench.process.dropped = 6
    bench.process.output.write_bytes(b"")
    bench.logs.step()
    bench.process.say(b"second\n")
    bench.logs.step()
    assert bench.lines() == ["first", "second"]


def test_what_was_read_long_ago_goes_once_there_is_too_much(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(module, "prune", lambda: asked.append(bench.clock.monotonic()) or 0)
    for _ in range(21):
        bench.logs.step()
        bench.clock.advance(bench.clock.speed)  # a real second
    assert len(asked) == 2


def test_a_group_that_vanishes_is_told_once_and_the_rest_arrives_when_it_is_back(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.begin()
    bench.cloudwatch.delete_log_group(logGroupName=GROUP)
    bench.process.say(b"lost?\n")
    bench.logs.step()
    bench.logs.step()
    assert caplog.text.count("not delivered") == 1
    bench.cloudwatch.create_log_group(logGroupName=GROUP)
    bench.cloudwatch.create_log_stream(logGroupName=GROUP, logStreamName=STREAM)
    bench.logs.step()
    assert bench.lines() == ["lost?"]


def test_without_its_log_group_a_task_cannot_start(bench: Bench) -> None:
    with pytest.raises(LogRefused) as refused:
        bench.logs.open_stream(bench.task, bench.container())
    assert refused.value.operation == "CreateLogStream"
    assert str(refused.value) == "ResourceNotFoundException: The specified log group does not exist."


def test_the_driver_can_make_the_group_and_finds_its_stream_again(bench: Bench) -> None:
    container = bench.container(**{"awslogs-create-group": "true"})
    for _ in range(2):
        assert bench.logs.open_stream(bench.task, container) == (GROUP, STREAM)


def test_a_container_without_awslogs_logs_nowhere(bench: Bench) -> None:
    assert bench.logs.open_stream(bench.task, {"name": "app"}) is None
    bench.process.spec.log_group = None
    bench.task.process = bench.process
    bench.logs.step()


@given(st.lists(st.binary(max_size=12)), st.integers(1, 7))
def test_lines_are_the_same_however_they_come_in(parts: list[bytes], size: int) -> None:
    data = b"".join(parts)
    lines: list[bytes] = []
    rest = b""
    for start in range(0, len(data), size):
        more, rest = split_lines(rest + data[start : start + size])
        lines += more
    assert [*lines, rest] == [line for line in data.split(b"\n")[:-1] if line] + [data.split(b"\n")[-1]]


def test_a_line_too_long_for_an_event_is_cut_between_characters() -> None:
    text = "€" * (MAX_EVENT // 2)
    lines, rest = split_lines(text.encode())
    assert [len(line) <= MAX_EVENT for line in lines] == [True]
    assert lines[0].decode() + rest.decode() == text
    lines, rest = split_lines(b"\x80" * (MAX_EVENT + 10) + b"\n")
    assert sum(map(len, lines)) == MAX_EVENT + 10
    assert rest == b""


@given(st.lists(st.integers(1, 300_000), max_size=30), st.integers(0, 12_000))
def test_batches_are_what_put_log_events_takes(sizes: list[int], short: int) -> None:
    lines = [b"x" * min(size, MAX_EVENT) for size in sizes] + [b"x"] * short
    made = list(batches(lines, 1))
    assert [event["message"].encode() for batch in made for event in batch] == lines
    for batch in made:
        assert 1 <= len(batch) <= 10_000
        assert sum(len(event["message"]) + 26 for event in batch) <= 1_048_576
