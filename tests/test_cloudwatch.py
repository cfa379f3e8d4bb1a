from __future__ import annotations

import json
from datetime import datetime, timedelta

import pandas
import pytest

from helpers.cloudwatch import (
    SCALING,
    _alarm_rows,
    activities,
    desired_steps,
    key_times,
    metrics,
    save_scaling,
    scaling_frame,
    series,
    until_published,
)
from helpers.services import Service
from tests import shop, story
from tests.answers import Answers, aws
from tests.story import at

__all__ = ["aws"]
SHOP = Service("shop", "shop")


def datapoints(aws: Answers, values: dict[str, dict[int, float]]) -> None:
    """`values`: by metric and statistic, "CPUUtilization Average", value by minute."""

    def answer(asked: dict) -> dict:
        results = []
        for query in asked["MetricDataQueries"]:
            stat = query["MetricStat"]
            of = values.get(f"{stat['Metric']['MetricName']} {stat['Stat']}", {})
            within = [m for m in sorted(of) if asked["StartTime"] <= at(m) < asked["EndTime"]]
            results.append(
                {
                    "Id": query["Id"],
                    "Label": query["Label"],
                    "Timestamps": [at(m) for m in within],
                    "Values": [of[m] for m in within],
                }
            )
        return {"MetricDataResults": results}

    aws["cloudwatch", "GetMetricData"] = answer


def history(aws: Answers, changes: dict[str, list[tuple[float, str, str]]]) -> None:
    """`changes`: by kind of alarm, (minute, old state, new state)."""

    def answer(asked: dict) -> dict:
        kind = "AlarmHigh" if "AlarmHigh" in asked["AlarmName"] else "AlarmLow"
        items = [
            {
                "AlarmName": asked["AlarmName"],
                "Timestamp": at(minute),
                "HistoryItemType": "StateUpdate",
                "HistoryData": json.dumps({"oldState": {"stateValue": old}, "newState": {"stateValue": new}}),
            }
            for minute, old, new in changes.get(kind, [])
            if asked["StartDate"] <= at(minute) <= asked["EndDate"]
        ]
        return {"AlarmHistoryItems": items[::-1]}

    aws["cloudwatch", "DescribeAlarmHistory"] = answer


def activity(minute: float, count: int, status: str = "Successful") -> dict:
    return {
        "ActivityId": f"a{minute}",
        "ServiceNamespace": "ecs",
        "ResourceId": "service/shop/shop",
        "ScalableDimension": "ecs:service:DesiredCount",
        "Description": f"Setting desired count to {count}.",
        "Cause": "monitor alarm x in state ALARM triggered policy cpu",
        "StartTime": at(minute),
        "StatusCode": status,
    }


@pytest.fixture
def busy_shop(aws: Answers) -> Answers:
    shop.open_shop(aws)
    datapoints(
        aws,
        {
            "CPUUtilization Average": {-1: 19, 0: 20, 1: 60, 2: 100},
            "CPUUtilization SampleCount": {-1: 2, 0: 2, 1: 2, 2: 4, 3: 4},
            "HealthyHostCount Average": {0: 2, 1: 2, 2: 4},
            "RequestCount Sum": {0: 1800},
        },
    )
    history(aws, {"AlarmHigh": [(2.5, "OK", "ALARM"), (3.5, "ALARM", "OK")]})
    aws["application-autoscaling", "DescribeScalingActivities"] = {
        "ScalingActivities": [activity(3, 4), activity(2.2, 9, "Failed"), activity(2, 3)]
    }
    return aws


def rows(frame: pandas.DataFrame, metric: str) -> list[tuple[float, float]]:
    return [
        ((time - story.START) / timedelta(minutes=1), value) for time, value in series(frame, metric).items()
    ]


def test_everything_in_one_tidy_table(busy_shop: Answers):
    frame = metrics(SHOP, at(0.5), at(4))
    assert list(frame.columns) == ["time", "metric", "value"]
    assert str(frame["time"].dt.tz) == "UTC"
    assert rows(frame, "CPUUtilizationAverage") == [(0, 20), (1, 60), (2, 100)]
    assert rows(frame, "RunningTaskCount") == [(0, 2), (1, 2), (2, 4), (3, 4)]
    assert rows(frame, "HealthyHostCount") == [(0, 2), (1, 2), (2, 4)]
    assert rows(frame, "AlarmHigh") == [(0.5, 0), (2.5, 1), (3.5, 0), (4, 0)]
    assert rows(frame, "AlarmLow") == [(0.5, 1), (4, 1)]  # no history: as it is now
    assert rows(frame, "DesiredTaskCount") == [(0.5, 2), (2, 3), (3, 4), (4, 4)]  # the failed one set nothing
    assert desired_steps(frame) == [(at(2), 2, 3), (at(3), 3, 4)]


def test_asks_for_all_datapoints_of_a_minute_in_one_call(busy_shop: Answers):
    metrics(SHOP, at(0.5), at(4))
    calls = [asked for _, name, asked in busy_shop.calls if name == "GetMetricData"]
    big = max(calls, key=lambda asked: len(asked["MetricDataQueries"]))
    assert {query["MetricStat"]["Period"] for query in big["MetricDataQueries"]} == {60}
    dimensions = big["MetricDataQueries"][-1]["MetricStat"]["Metric"]["Dimensions"]
    assert {d["Name"]: d["Value"] for d in dimensions} == {
        "LoadBalancer": "app/shop/50dc6c495c0c9188",
        "TargetGroup": "targetgroup/shop/73e2d6bc24d8a067",
    }


def test_activities_by_hand(busy_shop: Answers):
    table = activities(SHOP, at(0), at(4))
    assert table[["from", "to", "status"]].to_numpy().tolist() == [
        [2, 3, "Successful"],  # two ran before
        [3, 9, "Failed"],
        [3, 4, "Successful"],
    ]
    later = activities(SHOP, at(2.5), at(4))
    assert later[["from", "to"]].to_numpy().tolist() == [[3, 4]]


def test_without_any_activity_the_desired_count_is_what_ran(busy_shop: Answers):
    busy_shop["application-autoscaling", "DescribeScalingActivities"] = {"ScalingActivities": []}
    assert rows(metrics(SHOP, at(2), at(4)), "DesiredTaskCount") == [(2, 2), (4, 2)]


def test_waits_for_the_last_whole_minute(busy_shop: Answers):
    published = iter([{}, {}, {3: 2}])

    def answer(asked: dict) -> dict:
        datapoints(busy_shop, {"CPUUtilization SampleCount": next(published)})
        datapoint = busy_shop.answers["cloudwatch", "GetMetricData"](asked)
        busy_shop["cloudwatch", "GetMetricData"] = answer
        return datapoint

    busy_shop["cloudwatch", "GetMetricData"] = answer
    assert until_published(SHOP, at(4.5))
    assert next(published, None) is None


def test_does_not_wait_for_ever(busy_shop: Answers):
    assert not until_published(SHOP, at(60), minutes=0.5)


def test_an_alarm_that_changed_only_after_the_end(aws: Answers):
    shop.open_shop(aws)
    aws["cloudwatch", "DescribeAlarms"] = {"MetricAlarms": [shop.alarm("AlarmHigh", "ALARM", since=at(9))]}
    history(aws, {"AlarmHigh": [(9, "OK", "ALARM")]})
    assert [value for _, _, value in _alarm_rows(SHOP, at(0), at(4))] == [0, 0]


def test_the_scaling_frame_holds_what_the_plot_shows_and_no_more(busy_shop: Answers, tmp_path):
    report = story.report(phases=(("calm", 0, 2, 32.0), ("step", 2, 4, 230.0)))
    frame = scaling_frame(metrics(SHOP, report.start, report.end), report)
    present = [
        metric for metric in SCALING if metric not in ("CPUUtilizationMinimum", "CPUUtilizationMaximum")
    ]
    assert list(frame["metric"].drop_duplicates()) == present
    from matplotlib.figure import Figure

    save_scaling(frame, Figure(), tmp_path / "new")
    read = pandas.read_csv(tmp_path / "new" / "scaling.csv")
    assert list(read.columns) == ["time", "metric", "value"]
    assert datetime.fromisoformat(read["time"][0]) == frame["time"][0]
    assert len(read) == len(frame)
    assert read["value"].to_list() == pytest.approx(frame["value"].to_list(), rel=1e-5)
    assert (tmp_path / "new" / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_key_times_of_the_story():
    report = story.report()
    table = key_times(story.frame(report), report)
    told = {(row["after"], row["what"]): row["AWS minutes"] for row in table.to_dict("records")}
    back = next(what for _, what in told if "p95 back" in what)
    assert told.pop(("the step", back)) == pytest.approx(6.5, abs=0.5)
    assert told == {
        ("the step", "a whole minute above 50 % CPU"): 1,
        ("the step", "AlarmHigh goes to ALARM"): 5.2,
        ("the step", "desired 2 → 4"): 6,
        ("the step", "4 tasks running"): 8,  # at the end of the minute that counted four
        ("the step", "4 targets healthy"): 8,
        ("the step", "desired 4 → 6"): 11.5,
        ("the step", "6 tasks running"): 13,
        ("the step", "6 targets healthy"): 13,
        ("the drop", "AlarmLow goes to ALARM"): 16.2,
        ("the drop", "desired 6 → 2"): 16.3,
        ("the drop", "2 tasks running"): 18,
    }


def test_key_times_of_a_load_that_nothing_answered():
    report = story.report(phases=(("calm", 0, 2, 32.0), ("step", 2, 4, 230.0)))
    empty = story.frame(report).query("metric.str.startswith('Latency') or metric.str.startswith('Requests')")
    assert len(key_times(empty, report)) == 0
