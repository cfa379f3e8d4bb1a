"""Stands in for awslogs, the log driver that brings what a task writes to CloudWatch Logs.

Differs: a task writes to a file, and `AwsLogs.step` reads on from there; a line's timestamp is the AWS time at which
it was read. Only the `awslogs` driver is known. The execution role is asked when the stream is made, by
`ecs/preparation.py`, and not for each line. A line that CloudWatch refuses is tried again while its task runs, so it
may come twice. Of all lines only the newest stay (see `cloudwatch/log_store.py`), and of an app that writes faster than
they are delivered some never come, as in the driver's non-blocking mode; a line says how much that was.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from botocore import xform_name
from botocore.exceptions import ClientError

from helpers.sandbox.clock import Clock
from helpers.sandbox.cloudwatch.log_store import prune
from helpers.sandbox.endpoint import Aws
from helpers.sandbox.fargate.runtime import RunningTask
from helpers.sandbox.records import Records, Task

log = logging.getLogger("sandbox.logs")

# PutLogEvents, Amazon CloudWatch Logs API Reference: bytes and events in a batch, bytes counted besides each event.
BATCH_BYTES, BATCH_EVENTS, EVENT_OVERHEAD = 1_048_576, 10_000, 26
MAX_EVENT = 262_144 - EVENT_OVERHEAD  # bytes of a line, beyond which Docker's awslogs driver splits it
CHUNK = 262_144  # bytes read from a task's output at once
CHUNKS = 16  # for each task in one step: one that writes without end must not keep the others waiting
PRUNED_EVERY = 10.0  # real seconds: what fills the memory is what the app really writes


class ResourceInitializationError(Exception):
    """What a task needs before it can start cannot be had. Its text follows the error's name in ECS's `stoppedReason`;
    `takes`: AWS seconds from the task's creation until Fargate says so."""

    def __init__(self, reason: str, takes: float = 0.0):
        super().__init__(reason)
        self.takes = takes


class LogRefused(Exception):
    """CloudWatch Logs refused to make a task's stream, or its group: "<code>: <message>"; `operation`: which call."""

    def __init__(self, operation: str, error: ClientError):
        told = error.response["Error"]
        super().__init__(f"{told['Code']}: {told['Message']}")
        self.operation = operation


@dataclass
class Tail:
    """How far a task's output has been delivered."""

    task: RunningTask
    region: str
    group: str
    stream: str
    offset: int = 0  # bytes of the output read
    rest: bytes = b""  # the beginning of a line that has not ended
    failing: bool = False
    done: bool = False


class AwsLogs:
    """Delivers the output of the tasks in `records`, and of those it was told to `follow`."""

    def __init__(self, records: Records, aws: Aws, clock: Clock):
        self.records, self.aws, self.clock = records, aws, clock
        self._regions: dict[str, str] = {}  # by task ARN
        self._tails: dict[str, Tail] = {}
        self._delivering = threading.Lock()  # `step` and `deliver` may be called by two threads
        self._prune_due = clock.monotonic() + PRUNED_EVERY

    def open_stream(self, task: Task, container: dict[str, Any]) -> tuple[str, str] | None:
        """Make the log stream of a container definition's task: its log group and name, None when it logs nowhere.

        LogRefused when that fails: the task cannot start then.
        """
        configuration = container.get("logConfiguration") or {}
        if configuration.get("logDriver") != "awslogs":
            return None
        options = configuration.get("options", {})
        group, region = options["awslogs-group"], options.get("awslogs-region", task.region)
        stream = stream_name(options.get("awslogs-stream-prefix"), container["name"], task.id)
        logs = self.aws("logs", region)
        if options.get("awslogs-create-group") == "true":
            _make(logs, "CreateLogGroup", logGroupName=group)
        _make(logs, "CreateLogStream", logGroupName=group, logStreamName=stream)
        self._regions[task.arn] = region
        return group, stream

    def follow(self, task: RunningTask) -> None:
        """Deliver this task's output from now on to its end, whatever becomes of its record."""
        spec = task.spec
        if spec.log_group and spec.log_stream and spec.task_arn not in self._tails:
            region = self._regions.pop(spec.task_arn, spec.region)
            self._tails[spec.task_arn] = Tail(task, region, spec.log_group, spec.log_stream)

    def deliver(self, task: RunningTask) -> None:
        """What a task that has ended wrote last. Docker closes a container's log driver, which waits for that, before
        it says that the container has ended (moby, `handleContainerExit`; that Fargate does so too is inferred: U)."""
        self.follow(task)
        if tail := self._tails.get(task.spec.task_arn):
            with self._delivering:
                if not tail.done:
                    self._deliver(tail)

    def step(self) -> None:
        with self.records.lock:
            tasks = self.records.tasks
            running = [task.process for task in tasks.values() if task.process]
            # Until then its record may still show the process, for as long as a pause: it would be followed anew.
            over = [arn for arn in self._tails if arn not in tasks or tasks[arn].last_status == "STOPPED"]
        for process in running:
            self.follow(process)
        for arn, tail in list(self._tails.items()):
            if not tail.done:
                with self._delivering:
                    self._deliver(tail)
            elif arn in over:
                del self._tails[arn]
        if self.clock.monotonic() >= self._prune_due:
            self._prune_due = self.clock.monotonic() + PRUNED_EVERY
            if removed := prune():
                log.debug("%d of the oldest events removed", removed)

    def _deliver(self, tail: Tail) -> None:
        ended = tail.task.poll() is not None  # asked before reading: after it nothing more is written
        try:
            for _ in range(CHUNKS):
                read = self._deliver_chunk(tail, ended)
                if read < CHUNK:
                    tail.done = ended
                    break
            tail.failing = False
        except ClientError as error:
            if not tail.failing:
                log.warning("%s %s: not delivered: %s", tail.group, tail.stream, error)
            tail.failing, tail.done = True, ended

    def _deliver_chunk(self, tail: Tail, ended: bool) -> int:
        lost, chunk = _read_on(tail.task, tail.offset)
        lines, rest = split_lines(tail.rest + chunk)
        if lost:
            said = f"[sandbox] {lost:,} bytes of this task's output were dropped here: it writes too fast"
            lines = [*([tail.rest] if tail.rest else []), said.encode()]
            more, rest = split_lines(chunk)
            lines += more
        if ended and len(chunk) < CHUNK and rest:
            lines, rest = [*lines, rest], b""
        for batch in batches(lines, round(self.clock.time() * 1000)):
            self.aws("logs", tail.region).put_log_events(
                logGroupName=tail.group, logStreamName=tail.stream, logEvents=batch
            )
        tail.offset += lost + len(chunk)
        tail.rest = rest
        return len(chunk)


def _read_on(task: RunningTask, offset: int) -> tuple[int, bytes]:
    """Bytes that were dropped before they were read, and what follows; `offset`: bytes of the output read so far."""
    while True:
        dropped = task.dropped
        with task.output.open("rb") as output:
            output.seek(max(0, offset - dropped))
            chunk = output.read(CHUNK)
        if dropped == task.dropped:  # else it was cut between the two, and the place is wrong
            return max(0, dropped - offset), chunk


def stream_name(prefix: str | None, container: str, task_id: str) -> str:
    """The name of a task's log stream: "prefix/container/task id"."""
    return f"{prefix}/{container}/{task_id}" if prefix else task_id


def split_lines(data: bytes) -> tuple[list[bytes], bytes]:
    """The lines that have ended, without the empty ones, none too long for an event; and the beginning of the next."""
    *whole, rest = data.split(b"\n")
    lines = [piece for line in whole if line for piece in _pieces(line)]
    *more, rest = _pieces(rest)
    return lines + more, rest


def batches(lines: list[bytes], timestamp: int) -> Iterator[list[dict[str, Any]]]:
    """Log events in batches that PutLogEvents takes; `timestamp` in milliseconds."""
    batch: list[dict[str, Any]] = []
    size = 0
    for line in lines:
        more = len(line) + EVENT_OVERHEAD
        if batch and (size + more > BATCH_BYTES or len(batch) == BATCH_EVENTS):
            yield batch
            batch, size = [], 0
        batch.append({"timestamp": timestamp, "message": line.decode(errors="replace")})
        size += more
    if batch:
        yield batch


def _pieces(line: bytes) -> list[bytes]:
    """A line cut where it is too long for an event, but not within a character; at least one piece."""
    pieces = []
    while len(line) > MAX_EVENT:
        end = MAX_EVENT
        while end > MAX_EVENT - 3 and line[end] & 0xC0 == 0x80:  # a byte that continues a UTF-8 character
            end -= 1
        pieces.append(line[:end])
        line = line[end:]
    return [*pieces, line]


def _make(logs: Any, operation: str, **what: str) -> None:
    try:
        getattr(logs, xform_name(operation))(**what)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceAlreadyExistsException":
            raise LogRefused(operation, error) from error
