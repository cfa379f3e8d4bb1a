"""Alarms: AWS's tables on missing data, its wording, and states that move."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from helpers.sandbox.alarms import Verdict, evaluate, evaluation_range, reason

VALUES = {"X": 90.0, "0": 10.0, "-": None}
TREATMENTS = ("missing", "ignore", "breaching", "notBreaching")
KEPT = None
NO_DATA = "INSUFFICIENT_DATA"


def judged(shown, treat, needed, periods=3):
    return evaluate(
        [VALUES[point] for point in shown.split()],
        comparison="GreaterThanThreshold",
        threshold=50.0,
        evaluation_periods=periods,
        datapoints_to_alarm=needed,
        treat_missing=treat,
    )


@pytest.mark.parametrize(
    ("needed", "shown", "states"),
    [
        # The two tables of "Configuring how CloudWatch alarms treat missing data", in its order of columns. X breaches.
        (3, "0 - X - X", ("OK", "OK", "OK", "OK")),
        (3, "- - - - 0", ("OK", "OK", "OK", "OK")),
        (3, "- - - - -", (NO_DATA, KEPT, "ALARM", "OK")),
        (3, "0 X X - X", ("ALARM", "ALARM", "ALARM", "ALARM")),
        (3, "- - X - -", ("ALARM", KEPT, "ALARM", "OK")),
        (2, "0 - X - X", ("ALARM", "ALARM", "ALARM", "ALARM")),
        (2, "0 0 X 0 X", ("ALARM", "ALARM", "ALARM", "ALARM")),
        (2, "0 - X - -", ("OK", "OK", "ALARM", "OK")),
        (2, "- - - - 0", ("OK", "OK", "ALARM", "OK")),
        (2, "- - - X -", ("ALARM", KEPT, "ALARM", "OK")),
        # "The alarm does not go immediately into ALARM state when the data is either - - - - X or - - - X -"
        (3, "- - - - X", (KEPT, KEPT, "ALARM", "OK")),
        (3, "- - - X -", (KEPT, KEPT, "ALARM", "OK")),
        (3, "0 0 X X X", ("ALARM", "ALARM", "ALARM", "ALARM")),
        (3, "X X X X 0", ("OK", "OK", "OK", "OK")),
    ],
)
def test_missing_data_is_treated_as_documented(needed, shown, states):
    assert tuple(judged(shown, treat, needed).state for treat in TREATMENTS) == states


@pytest.mark.parametrize(
    ("comparison", "alarming"),
    [
        ("GreaterThanThreshold", {51.0}),
        ("GreaterThanOrEqualToThreshold", {50.0, 51.0}),
        ("LessThanThreshold", {49.0}),
        ("LessThanOrEqualToThreshold", {49.0, 50.0}),
    ],
)
def test_comparisons_are_strict_where_they_say_so(comparison, alarming):
    def state(value):
        return evaluate([value], comparison=comparison, threshold=50.0, evaluation_periods=1).state

    assert {value for value in (49.0, 50.0, 51.0) if state(value) == "ALARM"} == alarming


def test_the_range_ends_with_what_can_have_been_published():
    alarm = {"Period": 300, "EvaluationPeriods": 2}
    published = datetime(2026, 11, 23, 10, 12, 34, tzinfo=UTC)
    times = evaluation_range(alarm, published.timestamp())
    assert [f"{time:%H:%M}" for time in times] == ["09:50", "09:55", "10:00", "10:05"]


POINTS = [
    (datetime(2026, 11, 23, 10, minute, tzinfo=UTC), value)
    for minute, value in enumerate([20, 70.5, 99.8, 100.0])
]


@pytest.mark.parametrize(
    ("verdict", "alarm", "text"),
    [
        (
            Verdict("ALARM", (3, 2, 1)),
            {},
            "Threshold Crossed: 3 out of the last 3 datapoints [100.0 (23/11/26 10:03:00), 99.8 (23/11/26 10:02:00), "
            "70.5 (23/11/26 10:01:00)] were greater than the threshold (50.0) (minimum 3 datapoints for OK -> ALARM "
            "transition).",
        ),
        (
            Verdict("OK", (0,)),
            {},
            "Threshold Crossed: 1 out of the last 3 datapoints [20 (23/11/26 10:00:00)] was not greater than the "
            "threshold (50.0) (minimum 1 datapoint for ALARM -> OK transition).",
        ),
        (Verdict("INSUFFICIENT_DATA"), {}, "Insufficient Data: 3 datapoints were unknown."),
        (
            Verdict("OK", (), 1),
            {"EvaluationPeriods": 1, "TreatMissingData": "notBreaching"},
            "Threshold Crossed: no datapoints were received for 1 period and 1 missing datapoint was treated as "
            "[NonBreaching].",
        ),
    ],
)
def test_reasons_read_as_at_aws(verdict, alarm, text):
    full = {"EvaluationPeriods": 3, "ComparisonOperator": "GreaterThanThreshold", "Threshold": 50, **alarm}
    assert reason(verdict, full, POINTS) == text


def test_a_long_reason_names_the_most_recent_datapoints_only():
    points = [(datetime(2020, 4, 29, 23, 18 + n, tzinfo=UTC), 0.0) for n in range(15)]
    alarm = {"EvaluationPeriods": 15, "ComparisonOperator": "LessThanThreshold", "Threshold": 45}
    text = reason(Verdict("ALARM", tuple(range(14, -1, -1))), alarm, points)
    assert text.startswith(
        "Threshold Crossed: 15 out of the last 15 datapoints were less than the threshold (45.0). The most recent "
        "datapoints which crossed the threshold: [0.0 (29/04/20 23:32:00), "
    )
    assert text.endswith("0.0 (29/04/20 23:28:00)] (minimum 15 datapoints for OK -> ALARM transition).")


# ---- with moto ----


def put_alarm(chain, name="cpu", **options):
    alarm = {
        "AlarmName": name,
        "Namespace": "AWS/ECS",
        "MetricName": "CPUUtilization",
        "Dimensions": [{"Name": "ClusterName", "Value": "lab"}, {"Name": "ServiceName", "Value": "web"}],
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 3,
        "Threshold": 50.0,
        "ComparisonOperator": "GreaterThanThreshold",
        **options,
    }
    chain.aws("cloudwatch").put_metric_alarm(
        **{key: value for key, value in alarm.items() if value is not None}
    )


def state(chain, name="cpu"):
    (alarm,) = chain.aws("cloudwatch").describe_alarms(AlarmNames=[name])["MetricAlarms"]
    return alarm["StateValue"]


def history(chain, **options):
    return chain.aws("cloudwatch").describe_alarm_history(AlarmName="cpu", **options)["AlarmHistoryItems"]


def test_an_alarm_goes_from_insufficient_data_to_ok_to_alarm_and_back(chain):
    chain.service("web", 1, lambda time, n: 90.0 if 600 <= time < 900 else 20.0)
    put_alarm(chain)
    assert state(chain) == "INSUFFICIENT_DATA"
    chain.advance(1500)
    updates = history(chain, HistoryItemType="StateUpdate")
    assert [item["HistorySummary"] for item in updates] == [
        "Alarm updated from ALARM to OK",
        "Alarm updated from OK to ALARM",
        "Alarm updated from INSUFFICIENT_DATA to OK",
    ]
    alarmed = updates[1]
    assert alarmed["Timestamp"] == chain.at(600 + 180 + 170)  # three minutes of data, and the model's delay
    data = json.loads(alarmed["HistoryData"])
    assert (data["oldState"]["stateValue"], data["newState"]["stateValue"]) == ("OK", "ALARM")
    assert data["newState"]["stateReason"].startswith(
        "Threshold Crossed: 3 out of the last 3 datapoints [90.0 ("
    )
    assert data["newState"]["stateReasonData"]["recentDatapoints"] == [90.0, 90.0, 90.0]


def test_no_data_any_more_is_insufficient_data(chain):
    service = chain.service("web", 1)
    put_alarm(chain)
    chain.advance(600)
    assert state(chain) == "OK"
    service.desired = 0
    chain.advance(900)
    assert state(chain) == NO_DATA
    assert "Insufficient Data: 3 datapoints were unknown." in history(chain)[0]["HistoryData"]


def test_percentiles_and_longer_periods_are_evaluated(chain):
    chain.service("web", 2, lambda time, n: 90.0)
    put_alarm(chain, Period=300, EvaluationPeriods=1, Statistic="Maximum")
    put_alarm(chain, "p50", ExtendedStatistic="p50", Statistic=None, EvaluationPeriods=1)
    chain.advance(300)
    assert (state(chain), state(chain, "p50")) == (NO_DATA, "ALARM")
    chain.advance(300)
    assert state(chain) == "ALARM"


def test_an_update_keeps_the_state_and_is_told(chain):
    chain.service("web", 1)
    put_alarm(chain)
    chain.advance(400)
    put_alarm(chain, Threshold=60.0)
    assert state(chain) == "OK"
    chain.aws("cloudwatch").delete_alarms(AlarmNames=["cpu"])
    told = [item["HistorySummary"] for item in history(chain, ScanBy="TimestampAscending")]
    assert told == [
        'Alarm "cpu" created',
        "Alarm updated from INSUFFICIENT_DATA to OK",
        'Alarm "cpu" updated',
        'Alarm "cpu" deleted',
    ]


def test_a_state_set_by_hand_starts_the_actions_and_lasts_until_the_next_evaluation(chain):
    chain.service("web", 1)
    policy = (
        "arn:aws:autoscaling:us-east-1:123456789012:scalingPolicy:1:resource/ecs/service/lab/web:policyName/p"
    )
    put_alarm(chain, AlarmActions=[policy])
    chain.advance(400)
    before = chain.alarms.evaluations()
    chain.aws("cloudwatch").set_alarm_state(AlarmName="cpu", StateValue="ALARM", StateReason="a try")
    assert state(chain) == "ALARM"
    assert chain.alarms.evaluations() == before + 1
    action, update, *_ = history(chain)
    assert update["HistorySummary"] == "Alarm updated from OK to ALARM"
    assert action["HistorySummary"] == f"Successfully executed action {policy}"
    chain.advance(60)
    assert state(chain) == "OK"


def test_history_is_paged_and_bounded(chain):
    cloudwatch = chain.aws("cloudwatch")
    put_alarm(chain)
    for value in ("OK", "ALARM") * 3:
        chain.clock.advance(60)
        cloudwatch.set_alarm_state(AlarmName="cpu", StateValue=value, StateReason="a try")
    pages = list(
        cloudwatch.get_paginator("describe_alarm_history").paginate(PaginationConfig={"PageSize": 3})
    )
    assert [len(page["AlarmHistoryItems"]) for page in pages] == [3, 3, 1]
    some = history(chain, StartDate=chain.at(60), EndDate=chain.at(180))
    assert [item["Timestamp"] for item in some] == [chain.at(180), chain.at(120), chain.at(60)]
    assert all(item["AlarmType"] == "MetricAlarm" for item in some)


def test_an_alarm_on_an_expression_is_recorded_and_said_not_to_be_evaluated(chain, caplog):
    chain.aws("cloudwatch").put_metric_alarm(
        AlarmName="math",
        EvaluationPeriods=1,
        Threshold=1.0,
        ComparisonOperator="GreaterThanThreshold",
        Metrics=[{"Id": "e1", "Expression": "1+1"}],
    )
    with caplog.at_level("WARNING", "sandbox.alarms"):
        chain.advance(180)
    assert [record.getMessage() for record in caplog.records].count(
        "math is recorded and not evaluated: only alarms on one metric are"
    ) == 1
    assert state(chain, "math") == NO_DATA


def test_nothing_is_asked_of_aws_between_evaluations(chain, monkeypatch):
    put_alarm(chain)
    chain.advance(60)
    monkeypatch.setattr(chain.alarms, "aws", lambda *which: pytest.fail("asked"))
    for _ in range(10):
        chain.clock.advance(4)
        chain.alarms.step()
    assert chain.clock.now() - chain.at(60) == timedelta(seconds=40)
