"""`answered`: who answered a load's requests, from the lines that the app itself wrote to CloudWatch Logs."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from helpers.asking import said
from helpers.calls import pages, polls

if TYPE_CHECKING:
    from pandas import DataFrame

    from helpers.report import Report

PATTERN = '{ $.path = "/" }'
LATE = 4.0  # AWS minutes that a line may come after its request; it takes seconds, but on a busy machine real ones
LAST = 0.5  # real seconds for which a load's last answers are waited for
COLUMNS = ["time", "task", "version", "path", "status", "ms"]


def answered(log_group: str, report: Report) -> DataFrame:
    """A line per page that a load was served, oldest first: its AWS time, and what the app wrote about it.

    Of an app that logs JSON with these names; other lines are left out. Waits at most LATE AWS minutes for as many lines
    as were served.
    """
    from pandas import DataFrame

    end = report.end + timedelta(seconds=LAST * report.speed)
    rows: list[dict] = []
    for _ in polls(LATE):
        lines = _lines(log_group, report.start, end + timedelta(minutes=LATE))
        timed = [line | {"time": report.clock.at(_real_time(line))} for line in lines]
        rows = [line for line in timed if report.start <= line["time"] <= end]
        if len(rows) >= report.served:
            break
    frame = DataFrame(rows, columns=COLUMNS).astype({"time": "datetime64[us, UTC]"})  # of no line, too
    return frame.sort_values("time", ignore_index=True)


def _real_time(line: dict) -> float:
    """By the app's own clock, which knows no AWS time. CloudWatch's own is when the line came, a moment later."""
    return datetime.fromisoformat(line["time"]).timestamp()


def _lines(log_group: str, start: datetime, end: datetime) -> list[dict]:
    found = pages(
        "logs",
        "filter_log_events",
        "events",
        logGroupName=log_group,
        filterPattern=PATTERN,
        startTime=_milliseconds(start),
        endTime=_milliseconds(end),
    )
    lines = [said(event["message"]) for event in found]
    return [line for line in lines if _is_timed(line)]


def _is_timed(line: dict) -> bool:
    try:
        return datetime.fromisoformat(line["time"]).tzinfo is not None
    except (KeyError, TypeError, ValueError):
        return False


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)
