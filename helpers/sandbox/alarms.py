"""Stands in for CloudWatch's alarms: every metric alarm evaluated once a minute, its state and its history.

Differs: all alarms are evaluated at the same second of the minute (at AWS each has a second of its own). Alarms on an
expression and composite alarms are recorded and not evaluated. Of the actions only scaling policies are carried out.
"""

from __future__ import annotations

import json
import logging
import operator
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from helpers.sandbox.clock import Clock
from helpers.sandbox.endpoint import Aws, Call, Handler
from helpers.sandbox.meter import MINUTE, PUBLICATION_DELAY
from helpers.sandbox.records import Records

log = logging.getLogger("sandbox.alarms")

EVALUATION_SECOND = 50.0  # of each AWS minute; the meter publishes at its 30th, see PUBLICATION_DELAY
EXTRA_DATAPOINTS = 2  # looked at beyond EvaluationPeriods: 5 for 3 in AWS's documented examples
LISTED = 5  # datapoints that a reason names one by one, as observed in AWS's messages
QUERIES_IN_A_CALL = 500  # GetMetricData's limit
ACTIONS = {"OK": "OKActions", "ALARM": "AlarmActions", "INSUFFICIENT_DATA": "InsufficientDataActions"}
CREATED = "Unchecked: Initial alarm creation"

COMPARISONS = {
    "GreaterThanThreshold": (operator.gt, "greater than"),
    "GreaterThanOrEqualToThreshold": (operator.ge, "greater than or equal to"),
    "LessThanThreshold": (operator.lt, "less than"),
    "LessThanOrEqualToThreshold": (operator.le, "less than or equal to"),
}


@dataclass(frozen=True)
class Verdict:
    """What an evaluation says. `state` None: the alarm keeps its state. `because`: indices of the datapoints that decided,
    newest first. `filled`: how many missing datapoints were treated as something."""

    state: str | None
    because: tuple[int, ...] = ()
    filled: int = 0


def evaluate(
    datapoints: Sequence[float | None],
    *,
    comparison: str,
    threshold: float,
    evaluation_periods: int,
    datapoints_to_alarm: int | None = None,
    treat_missing: str = "missing",
) -> Verdict:
    """CloudWatch's rule. `datapoints`, oldest first, is the evaluation range: more than `evaluation_periods`, so that a
    missing datapoint is made up for by an older one. Source: "Configuring how CloudWatch alarms treat missing data",
    whose two tables are this function's test."""
    crosses, _ = COMPARISONS[comparison]
    needed = datapoints_to_alarm or evaluation_periods
    real = [at for at, value in enumerate(datapoints) if value is not None][-evaluation_periods:]
    breaching = tuple(at for at in reversed(real) if crosses(datapoints[at], threshold))
    within = tuple(at for at in reversed(real) if not crosses(datapoints[at], threshold))
    missing = evaluation_periods - len(real)
    if treat_missing in ("breaching", "notBreaching"):
        if len(breaching) + (missing if treat_missing == "breaching" else 0) >= needed:
            return Verdict("ALARM", breaching, missing)
        return Verdict("OK", within, missing)
    if len(breaching) >= needed:
        return Verdict("ALARM", breaching)
    if within:
        return Verdict("OK", within)
    if treat_missing == "ignore":
        return Verdict(None)
    if not breaching:
        return Verdict("INSUFFICIENT_DATA")
    # All that is there breaches, and is less than needed: an alarm only if it began long enough ago. Otherwise AWS's
    # documentation says just that it is not one yet.
    return Verdict("ALARM", breaching) if len(datapoints) - breaching[-1] >= needed else Verdict(None)


def reason(verdict: Verdict, alarm: dict[str, Any], points: Sequence[tuple[datetime, float | None]]) -> str:
    """The StateReason for a verdict about these (time, value), oldest first, in AWS's words."""
    periods = alarm["EvaluationPeriods"]
    needed = alarm.get("DatapointsToAlarm") or periods
    if verdict.state == "INSUFFICIENT_DATA":
        return f"Insufficient Data: {periods} {_plural(periods, 'datapoint was', 'datapoints were')} unknown."
    treated = ""
    if verdict.filled:
        as_what = "Breaching" if alarm.get("TreatMissingData") == "breaching" else "NonBreaching"
        were = _plural(verdict.filled, "missing datapoint was", "missing datapoints were")
        treated = f"{verdict.filled} {were} treated as [{as_what}]"
    if not verdict.because:
        period = _plural(periods, "period", "periods")
        return f"Threshold Crossed: no datapoints were received for {periods} {period} and {treated}."
    count = len(verdict.because)
    named = [points[at] for at in verdict.because[:LISTED]]
    listed = "[" + ", ".join(f"{value} ({time:%d/%m/%y %H:%M:%S})" for time, value in named) + "]"
    negated = "" if verdict.state == "ALARM" else "not "
    crossed = f"{_plural(count, 'was', 'were')} {negated}{COMPARISONS[alarm['ComparisonOperator']][1]} the threshold"
    crossed += f" ({float(alarm['Threshold'])})"
    if count < LISTED:
        told = f"{count} out of the last {periods} datapoints {listed} {crossed}"
    else:
        told = f"{count} out of the last {periods} datapoints {crossed}. The most recent datapoints which crossed the"
        told += f" threshold: {listed}"
    least = needed if verdict.state == "ALARM" else periods - needed + 1
    change = "OK -> ALARM" if verdict.state == "ALARM" else "ALARM -> OK"
    least_of = _plural(least, "datapoint", "datapoints")
    treated = f" and {treated}" if treated else ""
    return f"Threshold Crossed: {told}{treated} (minimum {least} {least_of} for {change} transition)."


class Alarms:
    """`evaluations()` counts the rounds done, so that the autoscaler acts right after one."""

    def __init__(self, clock: Clock, records: Records, aws: Aws):
        self.clock, self.records, self.aws = clock, records, aws
        self._regions: set[str] = set()
        self._round = self._round_at(clock.time())
        self._rounds = 0
        self._evaluating = threading.Event()
        self._restored: set[tuple[str, str]] = set()
        self._refused: set[tuple[str, str]] = set()

    def operations(self) -> dict[tuple[str, str], Handler]:
        return {
            ("cloudwatch", "PutMetricAlarm"): self.put_metric_alarm,
            ("cloudwatch", "SetAlarmState"): self.set_alarm_state,
            ("cloudwatch", "DeleteAlarms"): self.delete_alarms,
            ("cloudwatch", "DescribeAlarmHistory"): self.describe_alarm_history,
        }

    def evaluations(self) -> int:
        return self._rounds

    @staticmethod
    def _round_at(now: float) -> int:
        return int((now - EVALUATION_SECOND) // MINUTE)

    def step(self) -> None:
        now = self.clock.time()
        if self._round_at(now) == self._round:
            return
        self._round = self._round_at(now)
        self._evaluating.set()
        try:
            for region in sorted(self._regions):
                self._evaluate(region, now)
        finally:
            self._evaluating.clear()
            self._rounds += 1

    def _evaluate(self, region: str, now: float) -> None:
        """Evaluate a region's alarms over the datapoints that can have been published by now: had the range ended now,
        every alarm would miss its newest ones, which AWS avoids by looking further back."""
        pages = self.aws("cloudwatch", region).get_paginator("describe_alarms").paginate()
        alarms = [alarm for page in pages for alarm in page["MetricAlarms"] if self._evaluable(region, alarm)]
        published = now - PUBLICATION_DELAY
        for start in range(0, len(alarms), QUERIES_IN_A_CALL):
            batch = alarms[start : start + QUERIES_IN_A_CALL]
            ranges = [evaluation_range(alarm, published) for alarm in batch]
            answers = self.aws("cloudwatch", region).get_metric_data(
                MetricDataQueries=[_query(f"a{at}", alarm) for at, alarm in enumerate(batch)],
                StartTime=min(times[0] for times in ranges),
                EndTime=datetime.fromtimestamp(published // MINUTE * MINUTE, UTC),
            )["MetricDataResults"]
            for alarm, times, answer in zip(batch, ranges, answers, strict=True):
                values = dict(zip(answer["Timestamps"], answer["Values"], strict=True))
                self._judge(region, alarm, [(time, values.get(time)) for time in times])

    def _evaluable(self, region: str, alarm: dict[str, Any]) -> bool:
        simple = "MetricName" in alarm and alarm["ComparisonOperator"] in COMPARISONS
        if simple and alarm["Period"] % MINUTE == 0:
            return True
        if (region, alarm["AlarmName"]) not in self._refused:
            self._refused.add((region, alarm["AlarmName"]))
            log.warning("%s is recorded and not evaluated: only alarms on one metric are", alarm["AlarmName"])
        return False

    def _judge(self, region: str, alarm: dict[str, Any], points: list[tuple[datetime, float | None]]) -> None:
        verdict = evaluate(
            [value for _, value in points],
            comparison=alarm["ComparisonOperator"],
            threshold=alarm["Threshold"],
            evaluation_periods=alarm["EvaluationPeriods"],
            datapoints_to_alarm=alarm.get("DatapointsToAlarm"),
            treat_missing=alarm.get("TreatMissingData") or "missing",
        )
        if verdict.state is None or verdict.state == alarm["StateValue"]:
            return
        received = [(time, value) for time, value in points if value is not None]
        received = received[-alarm["EvaluationPeriods"] :]
        data = {
            "version": "1.0",
            "queryDate": _stamp(self.clock.now()),
            **({"startDate": _stamp(received[0][0])} if received else {}),
            "statistic": alarm.get("Statistic") or alarm.get("ExtendedStatistic"),
            "period": alarm["Period"],
            "recentDatapoints": [value for _, value in received],
            "threshold": float(alarm["Threshold"]),
            "evaluatedDatapoints": [
                {"timestamp": _stamp(time), "value": value} for time, value in reversed(received)
            ],
        }
        self.aws("cloudwatch", region).set_alarm_state(
            AlarmName=alarm["AlarmName"],
            StateValue=verdict.state,
            StateReason=reason(verdict, alarm, points)[:1023],  # SetAlarmState's limit
            StateReasonData=json.dumps(data),
        )

    def _alarm(self, region: str, name: str) -> dict[str, Any] | None:
        found = self.aws("cloudwatch", region).describe_alarms(AlarmNames=[name], AlarmTypes=["MetricAlarm"])
        return next(iter(found["MetricAlarms"]), None)

    def put_metric_alarm(self, call: Call) -> dict[str, Any]:
        """moto's record, but a new alarm begins without data, and an updated one keeps its state."""
        name = call.params["AlarmName"]
        old = self._alarm(call.region, name)
        answer = call.forward()
        state = old or {"StateValue": "INSUFFICIENT_DATA", "StateReason": CREATED}
        self._restored.add((call.region, name))
        self.aws("cloudwatch", call.region).set_alarm_state(
            AlarmName=name,
            StateValue=state["StateValue"],
            StateReason=state["StateReason"],
            StateReasonData=state.get("StateReasonData") or "{}",
        )
        self._regions.add(call.region)
        self._refused.discard((call.region, name))
        kind, key = ("updated", "updatedAlarm") if old else ("created", "createdAlarm")
        data = {"version": "1.0", "type": kind[:-1].title(), key: _camel(call.params)}
        self._remember(call.region, name, "ConfigurationUpdate", f'Alarm "{name}" {kind}', data)
        return answer

    def delete_alarms(self, call: Call) -> dict[str, Any]:
        going = [alarm for name in call.params["AlarmNames"] if (alarm := self._alarm(call.region, name))]
        answer = call.forward()
        for alarm in going:
            name = alarm["AlarmName"]
            data = {"version": "1.0", "type": "Delete", "deletedAlarm": _camel(alarm)}
            self._remember(call.region, name, "ConfigurationUpdate", f'Alarm "{name}" deleted', data)
        return answer

    def set_alarm_state(self, call: Call) -> dict[str, Any]:
        """Whoever sets it, our evaluation or a learner: the change goes into the history and starts the actions."""
        name, state = call.params["AlarmName"], call.params["StateValue"]
        if (call.region, name) in self._restored:
            self._restored.discard((call.region, name))
            return call.forward()
        old = self._alarm(call.region, name)
        answer = call.forward()
        if old is None or old["StateValue"] == state:
            return answer
        log.info("%s: %s -> %s. %s", name, old["StateValue"], state, call.params["StateReason"])
        data = {"version": "1.0", "oldState": _state(old), "newState": _state(call.params)}
        summary = f"Alarm updated from {old['StateValue']} to {state}"
        self._remember(call.region, name, "StateUpdate", summary, data)
        for action in old.get(ACTIONS[state], []) if old.get("ActionsEnabled", True) else []:
            if ":scalingPolicy:" in action:
                data = {"actionState": "Succeeded", "notificationResource": action, "error": None}
                self._remember(call.region, name, "Action", f"Successfully executed action {action}", data)
        if not self._evaluating.is_set():
            self._rounds += 1
        return answer

    def _remember(self, region: str, name: str, kind: str, summary: str, data: dict[str, Any]) -> None:
        item = {
            "region": region,
            "AlarmName": name,
            "AlarmType": "MetricAlarm",
            "Timestamp": self.clock.now(),
            "HistoryItemType": kind,
            "HistorySummary": summary,
            "HistoryData": json.dumps(data, default=_stamp),
        }
        with self.records.lock:
            self.records.alarm_history.append(item)

    def describe_alarm_history(self, call: Call) -> dict[str, Any]:
        asked = call.params
        with self.records.lock:
            items = [item for item in self.records.alarm_history if item["region"] == call.region]
        for name in ("AlarmName", "HistoryItemType"):
            items = [item for item in items if asked.get(name) in (None, item[name])]
        items = [item for item in items if item["AlarmType"] in (asked.get("AlarmTypes") or ["MetricAlarm"])]
        items = [item for item in items if asked.get("StartDate", item["Timestamp"]) <= item["Timestamp"]]
        items = [item for item in items if item["Timestamp"] <= asked.get("EndDate", item["Timestamp"])]
        if asked.get("ScanBy", "TimestampDescending") == "TimestampDescending":
            items.reverse()
        start = int(asked.get("NextToken") or 0)
        end = start + int(asked.get("MaxRecords") or 100)
        page = [{key: value for key, value in item.items() if key != "region"} for item in items[start:end]]
        return {"AlarmHistoryItems": page} | ({"NextToken": str(end)} if end < len(items) else {})


def evaluation_range(alarm: dict[str, Any], published: float) -> list[datetime]:
    """The starts of the periods that an alarm is evaluated over, oldest first; the newest ends by `published`."""
    period = alarm["Period"]
    end = published // period * period
    count = alarm["EvaluationPeriods"] + EXTRA_DATAPOINTS
    return [datetime.fromtimestamp(end - back * period, UTC) for back in range(count, 0, -1)]


def _query(name: str, alarm: dict[str, Any]) -> dict[str, Any]:
    metric = {key: alarm[key] for key in ("Namespace", "MetricName", "Dimensions") if alarm.get(key)}
    stat = alarm.get("Statistic") or alarm.get("ExtendedStatistic")
    unit = {"Unit": alarm["Unit"]} if alarm.get("Unit") else {}
    return {"Id": name, "MetricStat": {"Metric": metric, "Period": alarm["Period"], "Stat": stat, **unit}}


def _state(alarm: dict[str, Any]) -> dict[str, Any]:
    state = {"stateValue": alarm["StateValue"], "stateReason": alarm["StateReason"]}
    data = alarm.get("StateReasonData")
    return state | ({"stateReasonData": json.loads(data)} if data and data != "{}" else {})


def _camel(alarm: dict[str, Any]) -> dict[str, Any]:
    return {key[0].lower() + key[1:]: value for key, value in alarm.items()}


def _stamp(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03d}+0000"


def _plural(count: int, one: str, many: str) -> str:
    return one if count == 1 else many
