"""Made-up data for tests only: a load that steps up and drops, and what CloudWatch would say of it.

Two tasks until minute 11, four until 16.5, six until 40, then two; the load steps up at 5 and drops at 24.
"""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta

import pandas

from helpers.report import BIN, AwsTime, Record, Report, Span

START = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
REAL = 1_000_000.0
SPEED = 30.0
PER_TASK = 80.0  # requests a second that one task can do
PHASES = (("calm", 0, 5, 32.0), ("step", 5, 24, 230.0), ("quiet", 24, 43, 32.0))


def at(minute: float) -> datetime:
    """AWS time of an AWS minute of the story."""
    return START + timedelta(minutes=minute)


def tasks(minute: float) -> int:
    return 2 if minute < 11.5 or minute >= 40.5 else 4 if minute < 17 else 6


def report(phases=PHASES, capacity=tasks) -> Report:
    chance = random.Random(1)
    record = Record(start=REAL)
    for _, begin, _, rate in phases:
        record.paces.append((REAL + begin * 60 / SPEED, rate))
    last = phases[-1][2]
    for number in range(int(last * 60 / SPEED / BIN)):
        minute = (number + 0.5) * BIN * SPEED / 60
        offered = next(rate for _, begin, end, rate in phases if begin <= minute < end)
        most = capacity(minute) * PER_TASK
        served = min(offered, most)
        middle = 1000 * offered / most / 4 if offered > most else 7 + 8 * offered / most
        latencies = [round(middle * math.exp(chance.gauss(0, 0.25)), 1) for _ in range(round(served * BIN))]
        record.bins[number] = (latencies, {})
    real = [(name, REAL + begin * 60 / SPEED, REAL + end * 60 / SPEED) for name, begin, end, _ in phases]
    spans = tuple(Span(name, begin, end, end) for name, begin, end in real)
    return Report(
        "http://127.0.0.1:1", record, AwsTime(REAL, START.timestamp(), SPEED), spans, "sandbox", "process"
    )


def frame(of: Report) -> pandas.DataFrame:
    """What scaling_frame would answer."""
    chance = random.Random(2)
    rows = []
    for minute in range(43):
        rate = next(rate for _, begin, end, rate in PHASES if begin <= minute < end)
        cpu = min(100.0, 100 * rate / (tasks(minute) * PER_TASK))
        spread = chance.uniform(1, 4)
        for metric, value in {
            "CPUUtilizationAverage": cpu,
            "CPUUtilizationMinimum": cpu - spread,
            "CPUUtilizationMaximum": min(100.0, cpu + spread),
            "RunningTaskCount": tasks(minute),
            "HealthyHostCount": tasks(minute),
        }.items():
            rows.append((at(minute), metric, float(value)))
    states = {
        "AlarmHigh": [(0, 0), (10.2, 1), (20.2, 0), (43, 0)],
        "AlarmLow": [(0, 1), (8.2, 0), (40.2, 1), (43, 1)],
        "DesiredTaskCount": [(0, 2), (11, 4), (16.5, 6), (40.3, 2), (43, 2)],
    }
    for metric, changes in states.items():
        rows += [(at(minute), metric, float(value)) for minute, value in changes]
    tidy = pandas.DataFrame(rows, columns=["time", "metric", "value"])
    return pandas.concat([of.frame, tidy], ignore_index=True)
