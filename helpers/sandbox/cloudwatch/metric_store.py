"""Stands in for how CloudWatch keeps samples and computes statistics from them: what moto's metrics want for that.

Differs: samples are kept for six AWS hours (see `meter.py`). Every internal of moto that the sandbox touches for its
metrics is in this module, and `tests/sandbox/test_metric_store.py` fails when moto changes one or fills a gap itself.
"""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

from helpers.sandbox.endpoint import ACCOUNT

STATISTICS = ("Average", "Minimum", "Maximum", "Sum", "SampleCount")

Datum = dict[str, Any]


def prune(before: float) -> int:
    """Forget the samples of before this AWS time; how many there were. moto keeps all, and reads through all."""
    from moto.cloudwatch.models import cloudwatch_backends

    limit = datetime.fromtimestamp(before, UTC).replace(tzinfo=None)  # moto's times are naive, in UTC
    removed = 0
    for backend in cloudwatch_backends[ACCOUNT].values():
        samples = (
            backend.metric_data
        )  # in the order in which they were put, which is nearly that of their times
        stale = next((at for at, sample in enumerate(samples) if sample.timestamp >= limit), len(samples))
        del samples[:stale]  # in place, while other threads append
        removed += stale
    return removed


def mend_metrics() -> None:
    """Make moto's metrics answer as CloudWatch's; doing it twice changes nothing.

    Mended: percentiles (moto answers 500); the order in which dimensions are given mattered; periods began at StartTime
    instead of at a multiple of the period; a datum of Values and Counts became a record per request, and a query looked
    at every record once per period: seconds of CPU after an hour of load. ListMetrics gave a metric of two dimensions
    once for each of its samples. Queries with an expression are still moto's.
    """
    from moto.cloudwatch import models

    backend = models.CloudWatchBackend
    if getattr(backend.get_metric_data, "mended", False):
        return
    moto_put, moto_get = backend.put_metric_data, backend.get_metric_data
    moto_statistic = models.Statistics.get_statistics_for_type

    class Distribution(models.MetricAggregatedDatum):
        """A datum put as Values and Counts, kept whole."""

        def __init__(self, namespace: str, datum: Datum):
            self.values = [float(value) for value in datum["Values"]]
            self.counts = [int(float(count)) for count in datum.get("Counts") or [1] * len(self.values)]
            total = math.fsum(value * count for value, count in zip(self.values, self.counts, strict=True))
            dimensions, time, unit = datum.get("Dimensions", ()), datum.get("Timestamp"), datum.get("Unit")
            limits = (min(self.values), max(self.values), sum(self.counts), total)
            super().__init__(namespace, datum["MetricName"], *limits, dimensions, time, unit)

    def put_metric_data(self: Any, namespace: str, metric_data: list[Datum]) -> None:
        for number, datum in enumerate(metric_data, start=1):
            self._validate_parameters_put_metric_data(datum, number)
        moto_put(self, namespace, [datum for datum in metric_data if not datum.get("Values")])
        self.metric_data.extend(
            Distribution(namespace, datum) for datum in metric_data if datum.get("Values")
        )

    def get_statistics_for_type(self: Any, stat: str) -> float | None:
        if stat in STATISTICS:
            return moto_statistic(self, stat)
        if not (stat.startswith("p") and stat[1:].replace(".", "", 1).isdigit() and float(stat[1:]) <= 100):
            raise models.ValidationError(
                f"The value {stat} for parameter Stat is not supported by the sandbox."
            )
        samples = list(self.metric_single_values_list)
        for datum in self.metric_aggregated_list:
            if isinstance(datum, Distribution):
                for value, count in zip(datum.values, datum.counts, strict=True):
                    samples += [value] * count
        return percentile(samples, float(stat[1:])) if samples else None

    def get_metric_data(
        self: Any,
        queries: list[Datum],
        start_time: datetime,
        end_time: datetime,
        scan_by: str = "TimestampDescending",
    ) -> list[Datum]:
        start_time = start_time.replace(second=0, microsecond=0)
        if start_time >= end_time or not all("MetricStat" in query for query in queries):
            return moto_get(self, queries, start_time, end_time, scan_by)
        queries = [query for query in queries if query.get("ReturnData", True)]
        periods = [int(query["MetricStat"]["Period"]) for query in queries]
        starts = [_floor(start_time, period) for period in periods]
        keys = [_metric_key(query["MetricStat"]["Metric"]) for query in queries]
        names, earliest = {key[:2] for key in keys}, min(starts, default=start_time)
        found: dict[tuple[Any, ...], list[Any]] = defaultdict(list)
        for datum in self.get_all_metrics():
            if earliest <= datum.timestamp < end_time and (datum.namespace, datum.name) in names:
                dimensions = frozenset((dimension.name, dimension.value) for dimension in datum.dimensions)
                found[datum.namespace, datum.name, dimensions].append(datum)
        answers = []
        for query, period, start, key in zip(queries, periods, starts, keys, strict=True):
            stat, unit = query["MetricStat"]["Stat"], query["MetricStat"].get("Unit")
            buckets: dict[datetime, Any] = {}
            for datum in found[key]:
                if datum.timestamp >= start and unit in (None, datum.unit):
                    time = _floor(datum.timestamp, period)
                    buckets.setdefault(time, models.Statistics([stat], time)).metric_data.append(datum)
            points = [(time, buckets[time].get_statistics_for_type(stat)) for time in sorted(buckets)]
            points = [point for point in points if point[1] is not None]
            if scan_by == "TimestampDescending":
                points.reverse()
            answers.append(
                {
                    "id": query["Id"],
                    "label": query.get("Label") or key[1],
                    "timestamps": [time for time, _ in points],
                    "values": [value for _, value in points],
                    "status_code": "Complete",
                }
            )
        return answers

    def get_filtered_metrics(
        self: Any, metric_name: str, namespace: str, dimensions: list[dict[str, str]]
    ) -> list[Any]:
        found: dict[tuple[Any, ...], Any] = {}
        for datum in self.get_all_metrics():
            of_datum = frozenset((dimension.name, dimension.value) for dimension in datum.dimensions)
            key = (datum.namespace, datum.name, of_datum)
            if key not in found and datum.filter(namespace, metric_name, dimensions):
                found[key] = datum
        return list(found.values())

    get_metric_data.mended = True
    backend.put_metric_data, backend.get_metric_data = put_metric_data, get_metric_data
    backend.get_filtered_metrics = get_filtered_metrics
    models.Statistics.get_statistics_for_type = get_statistics_for_type
    models.Dimension.__lt__ = lambda one, other: (one.name, one.value) < (other.name, other.value)


def _metric_key(metric: Datum) -> tuple[str, str, frozenset[tuple[str, str]]]:
    dimensions = frozenset(
        (dimension["Name"], dimension["Value"]) for dimension in metric.get("Dimensions", [])
    )
    return metric["Namespace"], metric["MetricName"], dimensions


def _floor(time: datetime, period: int) -> datetime:
    """The start of the period that a naive UTC time falls into; periods count from 1970."""
    seconds = int(time.replace(tzinfo=UTC).timestamp()) // period * period
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


def percentile(samples: list[float], percent: float) -> float:
    """By linear interpolation between the two nearest ranks. CloudWatch does not say how it interpolates."""
    ordered = sorted(samples)
    rank = percent / 100 * (len(ordered) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)
