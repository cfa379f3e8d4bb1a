"""`metrics`: what CloudWatch and Application Auto Scaling recorded of a service, as one tidy table.

Every row is (time, metric, value) in AWS time. A CloudWatch datapoint's time is the start of its minute. What is a
state and no sample (alarms, the desired count) has a row at the start, at each change, and at the end.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.calls import pages, polls, target_groups
from helpers.errors import TutorialError
from helpers.services import Service, alarm_kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

    from helpers.report import Report

MINUTE = timedelta(minutes=1)
RUNS = Path(__file__).resolve().parents[1] / "runs"
COLUMNS = ["time", "metric", "value"]
CPU = {
    "CPUUtilizationAverage": "Average",
    "CPUUtilizationMinimum": "Minimum",  # the coldest task
    "CPUUtilizationMaximum": "Maximum",  # the hottest
    "RunningTaskCount": "SampleCount",  # without Container Insights: one sample per task and minute
}
BALANCER = {"RequestCount": ("RequestCount", "Sum"), "TargetResponseTimeP95": ("TargetResponseTime", "p95")}
SCALING = [
    "RequestsOffered",
    "RequestsServed",
    "RequestsFailed",
    "LatencyP50",
    "LatencyP95",
    "CPUUtilizationAverage",
    "CPUUtilizationMinimum",
    "CPUUtilizationMaximum",
    "DesiredTaskCount",
    "RunningTaskCount",
    "HealthyHostCount",
    "AlarmHigh",
    "AlarmLow",
]
Rows = list[tuple[datetime, str, float]]


def metrics(service: Service, start: datetime, end: datetime) -> DataFrame:
    """Everything AWS recorded of `service` between two AWS times; waits until CloudWatch has published it."""
    from pandas import DataFrame, to_datetime

    until_published(service, end)
    rows = _cloudwatch(_queries(service), start, end)
    rows += _alarm_rows(service, start, end) + _desired_rows(service, start, end)
    frame = DataFrame(rows, columns=COLUMNS)
    return frame.assign(time=to_datetime(frame["time"], utc=True))  # boto3 answers in the machine's own zone


def until_published(service: Service, end: datetime, minutes: float = 10.0) -> bool:
    """Waits for the datapoint of the last whole minute before `end`, for at most so many AWS minutes.

    CloudWatch publishes some minutes late. False if it has not by then: a service without tasks has no datapoints.
    """
    last = _floor(end) - MINUTE
    cpu = [query for query in _queries(service) if query["Id"] == "runningtaskcount"]
    return any(_cloudwatch(cpu, last, last + MINUTE) for _ in polls(minutes))


def _floor(time: datetime) -> datetime:
    return time.replace(second=0, microsecond=0)


def _queries(service: Service) -> list[dict]:
    """GetMetricData's queries; an Id is our metric's name in lower case, as CloudWatch wants it."""
    of_service = {"ClusterName": service.cluster, "ServiceName": service.name}
    queries = [_query(name, "AWS/ECS", "CPUUtilization", stat, of_service) for name, stat in CPU.items()]
    groups = target_groups(service.record)
    if not groups:
        return queries
    of_group = {
        "LoadBalancer": service.balancer["LoadBalancerArn"].split("loadbalancer/", 1)[1],
        "TargetGroup": groups[0].rsplit(":", 1)[1],
    }
    wanted = {"HealthyHostCount": ("HealthyHostCount", "Average"), **BALANCER}
    return queries + [
        _query(name, "AWS/ApplicationELB", metric, stat, of_group) for name, (metric, stat) in wanted.items()
    ]


def _query(name: str, namespace: str, metric: str, stat: str, dimensions: dict[str, str]) -> dict:
    named = [{"Name": key, "Value": value} for key, value in dimensions.items()]
    return {
        "Id": name.lower(),
        "Label": name,
        "MetricStat": {
            "Metric": {"Namespace": namespace, "MetricName": metric, "Dimensions": named},
            "Period": 60,
            "Stat": stat,
        },
    }


def _cloudwatch(queries: list[dict], start: datetime, end: datetime) -> Rows:
    results = pages(
        "cloudwatch",
        "get_metric_data",
        "MetricDataResults",
        MetricDataQueries=queries,
        StartTime=_floor(start),
        EndTime=end,
        ScanBy="TimestampAscending",
    )
    names = {query["Id"]: query["Label"] for query in queries}
    return [
        (time, names[result["Id"]], float(value))
        for result in results
        for time, value in zip(result["Timestamps"], result["Values"], strict=True)
    ]


def _alarm_rows(service: Service, start: datetime, end: datetime) -> Rows:
    rows: Rows = []
    for alarm in service.alarm_records():
        changes = list(_alarm_changes(alarm["AlarmName"], start, end))
        before = changes[0][1] if changes else _state_without_changes(alarm, end)
        states = [(time, float(state == "ALARM")) for time, _, state in changes]
        rows += _steps(alarm_kind(alarm["AlarmName"]), float(before == "ALARM"), states, start, end)
    return rows


def _alarm_changes(alarm: str, start: datetime, end: datetime) -> Iterator[tuple[datetime, str, str]]:
    """(time, old state, new state), oldest first."""
    items = pages(
        "cloudwatch",
        "describe_alarm_history",
        "AlarmHistoryItems",
        AlarmName=alarm,
        HistoryItemType="StateUpdate",
        StartDate=start,
        EndDate=end,
    )
    for item in sorted(items, key=lambda item: item["Timestamp"]):
        data = json.loads(item["HistoryData"])
        yield item["Timestamp"], data["oldState"]["stateValue"], data["newState"]["stateValue"]


def _state_without_changes(alarm: dict, end: datetime) -> str:
    """The state all through a time in which it did not change."""
    if alarm["StateUpdatedTimestamp"] <= end:
        return alarm["StateValue"]
    later = _alarm_changes(alarm["AlarmName"], end, alarm["StateUpdatedTimestamp"] + MINUTE)
    return next((old for _, old, _ in later), alarm["StateValue"])


def _steps(metric: str, before: float, changes: Iterable[tuple[datetime, float]], start, end) -> Rows:
    """A state as rows: at the start, at each change, at the end."""
    rows = [(start, metric, before), *((time, metric, value) for time, value in changes)]
    return [*rows, (end, metric, rows[-1][2])]


def _desired_rows(service: Service, start: datetime, end: datetime) -> Rows:
    done = activities(service, start, end)
    done = done[done["status"] != "Failed"]
    if len(done):
        before = float(done["from"].iloc[0])
    else:
        before = float(_desired_at(service, start, _records(service)))
    changes = [(time.to_pydatetime(), float(to)) for time, to in zip(done["time"], done["to"], strict=True)]
    return _steps("DesiredTaskCount", before, changes, start, end)


def activities(service: Service, start: datetime, end: datetime) -> DataFrame:
    """The scaling activities between two AWS times, oldest first: time, from, to, cause, status."""
    from pandas import DataFrame, to_datetime

    records = _records(service)
    within = [record for record in records if start <= record["StartTime"] <= end]
    before = _desired_at(service, within[0]["StartTime"], records) if within else 0
    rows = []
    for record in within:
        to = _count(record)
        rows.append((record["StartTime"], before, to, record["Cause"], record["StatusCode"]))
        before = before if record["StatusCode"] == "Failed" else to
    frame = DataFrame(rows, columns=["time", "from", "to", "cause", "status"])
    return frame.assign(time=to_datetime(frame["time"], utc=True))


def _records(service: Service) -> list[dict]:
    """What describe_scaling_activities says, oldest first, of those that set a count."""
    found = pages(
        "application-autoscaling",
        "describe_scaling_activities",
        "ScalingActivities",
        ServiceNamespace="ecs",
        ResourceId=service.resource_id,
    )
    return sorted((r for r in found if _count(r) is not None), key=lambda record: record["StartTime"])


def _count(record: dict) -> int | None:
    """3, from "Setting desired count to 3."."""
    found = re.search(r"desired count to (\d+)", record["Description"])
    return int(found[1]) if found else None


def _desired_at(service: Service, time: datetime, records: list[dict]) -> int:
    """The desired count just before `time`: what the last activity set, or as many as ran, or what ECS says now."""
    before = [_count(r) for r in records if r["StartTime"] < time and r["StatusCode"] != "Failed"]
    if before:
        return before[-1]
    ran = [q for q in _queries(service) if q["Label"] == "RunningTaskCount"]
    datapoints = _cloudwatch(ran, time - 5 * MINUTE, time)
    return round(datapoints[-1][2]) if datapoints else service.record["desiredCount"]


def series(frame: DataFrame, metric: str) -> Series:
    """One metric's values by time."""
    rows = frame[frame["metric"] == metric]
    return rows.set_index("time")["value"].sort_index()


def desired_steps(frame: DataFrame) -> list[tuple[datetime, int, int]]:
    """(time, from, to) of each change of the desired count."""
    desired = series(frame, "DesiredTaskCount")
    pairs = zip(desired.index[1:], desired.iloc[:-1], desired.iloc[1:], strict=True)
    return [(time.to_pydatetime(), int(old), int(new)) for time, old, new in pairs if old != new]


def step_and_drop(report: Report) -> tuple[datetime, datetime]:
    """When the heaviest phase of a load began and ended."""
    heaviest = report.phases.loc[report.phases["offered"].idxmax()]
    return heaviest["start"].to_pydatetime(), heaviest["end"].to_pydatetime()


def key_times(
    frame: DataFrame, report: Report, activities: DataFrame | None = None, *, target: float = 50.0
) -> DataFrame:
    """What followed what, in AWS minutes after the load stepped up, and after it dropped again.

    Columns: after, AWS minutes, what, seen in. What CloudWatch counts by the minute is dated to its minute's end.
    """
    from pandas import DataFrame

    step, drop = step_and_drop(report)
    if activities is None:
        steps = desired_steps(frame)
    else:
        steps = list(zip(activities["time"], activities["from"], activities["to"], strict=True))
    up = [s for s in steps if step <= s[0] < drop]
    down = [s for s in steps if s[0] >= drop]
    rows = [(step, *row) for row in _way_out(frame, step, drop, up, target)]
    rows += [(drop, *row) for row in _way_in(frame, drop, down)] if drop < report.end else []
    table = [
        {
            "after": "the step" if origin == step else "the drop",
            "AWS minutes": round((time - origin).total_seconds() / 60, 1),
            "what": what,
            "seen in": source,
        }
        for origin, time, what, source in sorted(
            (row for row in rows if row[1] is not None), key=lambda row: row[:2]
        )
    ]
    return DataFrame(table, columns=["after", "AWS minutes", "what", "seen in"])


def _way_out(frame: DataFrame, step, drop, steps, target: float) -> list[tuple]:
    cpu, high = series(frame, "CPUUtilizationAverage"), series(frame, "AlarmHigh")
    rows = [
        (_first(cpu > target, step, MINUTE), f"a whole minute above {target:g} % CPU", "CloudWatch"),
        (_first(high == 1, step), "AlarmHigh goes to ALARM", "CloudWatch"),
    ]
    for time, old, new in steps:
        running = _first(series(frame, "RunningTaskCount") >= new, time, MINUTE)
        healthy = _first(series(frame, "HealthyHostCount") >= new, time, MINUTE)
        rows += [
            (time, f"desired {old} → {new}", "scaling activities"),
            (running, f"{new} tasks running", "CloudWatch"),
            (healthy, f"{new} targets healthy", "CloudWatch"),
        ]
    p95 = series(frame, "LatencyP95")
    strained = p95[(p95.index >= step + MINUTE) & (p95.index < (steps[0][0] if steps else drop))].median()
    calm = (p95 < strained / 5).rolling(3).min().shift(-2) == 1  # the first of three buckets in a row
    return [
        *rows,
        (_first(calm, step + MINUTE), f"p95 back below a fifth of its {strained:.0f} ms", "Locust's record"),
    ]


def _way_in(frame: DataFrame, drop, steps) -> list[tuple]:
    rows = [(_first(series(frame, "AlarmLow") == 1, drop), "AlarmLow goes to ALARM", "CloudWatch")]
    for time, old, new in steps:
        running = _first(series(frame, "RunningTaskCount") <= new, time, MINUTE)
        rows += [
            (time, f"desired {old} → {new}", "scaling activities"),
            (running, f"{new} tasks running", "CloudWatch"),
        ]
    return rows


def _first(holds: Series, after: datetime, length: timedelta = timedelta()) -> datetime | None:
    """When it first held from `after` on; a value that stands for a `length` counts at its end."""
    times = holds.index[(holds.index >= after) & holds.to_numpy(dtype=bool)]
    return (times[0] + length).to_pydatetime() if len(times) else None


def scaling_frame(metrics: DataFrame, report: Report) -> DataFrame:
    """All that the last plot shows, and scaling.csv holds: what AWS recorded and what the client saw."""
    from pandas import Categorical, concat

    frame = concat([report.frame, metrics], ignore_index=True)
    frame = frame[frame["metric"].isin(SCALING)]
    order = Categorical(frame["metric"], categories=SCALING, ordered=True)
    frame = frame.assign(order=order).sort_values(["order", "time"], kind="stable")
    return frame.drop(columns="order").reset_index(drop=True)


def first_relief(frame: DataFrame, report: Report) -> datetime:
    """The start of the minute in which more targets than before were healthy, after the load stepped up.

    TutorialError when there was none.
    """
    step, drop = step_and_drop(report)
    healthy = series(frame, "HealthyHostCount")
    before = healthy[healthy.index <= step].iloc[-1]
    relief = _first(healthy > before, step)
    if relief is None or relief > drop:
        raise TutorialError(
            "No new target became healthy while the load was on.",
            seen=f"{healthy[(healthy.index >= step) & (healthy.index <= drop)].max():g} healthy targets at most",
            next="Read the service's .events and .alarms: did it scale out?",
        )
    return relief


def save_scaling(frame: DataFrame, figure: Figure, directory: Path | str | None = None) -> None:
    """Writes scaling.csv (`time` as ISO-8601) and scaling.png into `directory`, by default that of this run."""
    directory = Path(directory or os.environ.get("TUTORIAL_RUN_DIR") or RUNS / "by-hand")
    directory.mkdir(parents=True, exist_ok=True)
    times = [time.isoformat(timespec="milliseconds") for time in frame["time"]]
    frame.assign(time=times).to_csv(directory / "scaling.csv", index=False, float_format="%.6g")
    figure.savefig(directory / "scaling.png", dpi=150)
