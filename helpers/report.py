"""`Report`: what the visitors of a load saw, from Locust's record, in AWS time.

Pure: the record and the clock's anchor go in, and nothing is asked of AWS or of the sandbox any more.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING

from helpers.errors import TutorialError

if TYPE_CHECKING:
    from pandas import DataFrame

BIN = 0.25  # real seconds; locustfile.py's


@dataclass(frozen=True)
class AwsTime:
    """The clock that turns a real epoch time into AWS time; pure, so that a report does not change later."""

    real: float
    aws: float
    speed: float  # AWS seconds a real second

    @classmethod
    def of(cls, lab) -> AwsTime:
        return cls(time.time(), lab.now().timestamp(), lab.speed)

    def at(self, real: float) -> datetime:
        return datetime.fromtimestamp(self.aws + (real - self.real) * self.speed, UTC)

    def real_at(self, when: datetime) -> float:
        return self.real + (when.timestamp() - self.aws) / self.speed


@dataclass
class Record:
    """What Locust wrote down, in real epoch seconds and milliseconds."""

    start: float | None = None
    stopped: float | None = None
    paces: list[tuple[float, float]] = field(default_factory=list)  # (from, requests offered a second)
    bins: dict[int, tuple[list[float], dict[str, int]]] = field(default_factory=dict)  # (latencies, failures)

    def add(self, line: dict) -> None:
        self.start = line.get("start", self.start)
        self.stopped = line.get("stopped", self.stopped)
        if "at" in line:
            self.paces.append((line["at"], line["users"] * line["each"]))
        if "bin" in line:
            self.bins[line["bin"]] = (line["ms"], line["failed"])

    def offered(self, begin: float, end: float) -> float:
        """Requests offered a second, on average between two times."""
        until = [at for at, _ in self.paces[1:]] + [math.inf]
        spells = zip(self.paces, until, strict=True)
        total = sum(rate * max(0.0, min(to, end) - max(at, begin)) for (at, rate), to in spells)
        return total / (end - begin)

    def between(self, begin: float, end: float) -> Window:
        """What ended in the bins whose middle lies between two times."""
        numbers = self._numbers(begin, end)
        bins = [self.bins[n] for n in numbers if n in self.bins]
        failed: Counter[str] = Counter()
        for _, reasons in bins:
            failed.update(reasons)
        return Window(len(numbers) * BIN, [ms for latencies, _ in bins for ms in latencies], failed)

    def each(self, begin: float, end: float) -> list[list[float]]:
        """Of each of those bins its latencies."""
        empty: tuple[list[float], dict[str, int]] = ([], {})
        return [self.bins.get(n, empty)[0] for n in self._numbers(begin, end)]

    def _numbers(self, begin: float, end: float) -> range:
        """Of the bins whose middle lies between two times."""
        first = max(0, math.ceil((begin - self.start) / BIN - 0.5))
        if end == math.inf:
            return range(first, max(self.bins, default=-1) + 1)
        return range(first, math.ceil((end - self.start) / BIN - 0.5))


@dataclass(frozen=True)
class Window:
    """Some bins of a record; `seconds` real ones."""

    seconds: float
    latencies: list[float]  # ms, of what was served; what failed has none, for a refusal is quick
    failed: Counter[str]

    @property
    def served_rate(self) -> float:
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    @property
    def failed_rate(self) -> float:
        return self.failed.total() / self.seconds if self.seconds else 0.0

    def percentile(self, percent: float) -> float:
        """Milliseconds, between the two nearest where it falls between two; NaN if nothing was served."""
        return _percentile(self.latencies, percent)


def _percentile(values: Sequence[float], percent: float) -> float:
    import numpy

    return float(numpy.percentile(values, percent)) if values else math.nan


@dataclass(frozen=True)
class Span:
    """A phase as it was, in real epoch seconds; `counted` is later than `end` if the last answers belong to it."""

    name: str
    begin: float
    end: float
    counted: float


@dataclass(frozen=True)
class Report:
    """What the visitors saw. Times are AWS time, rates are per real second."""

    url: str
    record: Record
    clock: AwsTime
    spans: tuple[Span, ...]
    target: str
    runtime: str

    @property
    def start(self) -> datetime:
        return self.clock.at(self.spans[0].begin)

    @property
    def end(self) -> datetime:
        return self.clock.at(self.spans[-1].end)

    @property
    def minutes(self) -> float:
        """AWS minutes."""
        return (self.end - self.start).total_seconds() / 60

    @property
    def speed(self) -> float:
        return self.clock.speed

    @cached_property
    def _all(self) -> Window:
        return self.record.between(self.spans[0].begin, self.spans[-1].counted)

    @property
    def requests(self) -> int:
        return self.served + self.failed

    @property
    def served(self) -> int:
        return len(self._all.latencies)

    @property
    def failed(self) -> int:
        return self._all.failed.total()

    @property
    def rate(self) -> float:
        """Requests served a real second, on average."""
        return self.record.between(self.spans[0].begin, self.spans[-1].end).served_rate

    @property
    def median_rate(self) -> float:
        """Requests served a real second in the median quarter of a second, so that a hiccup of this machine in the
        middle of a short phase does not count as the service's."""
        served = [len(latencies) for latencies in self._bins()]
        return median(served) / BIN if served else 0.0

    @property
    def peak_rate(self) -> float:
        """Requests served a real second in the upper quartile of the quarters of a second, for a capacity: that is what
        was reached, also where this machine did something else for half of a short phase. Some percent above
        `median_rate` when it did not."""
        served = [len(latencies) for latencies in self._bins()]
        return _percentile(served, 75) / BIN if served else 0.0

    @property
    def p50(self) -> float:
        """Milliseconds."""
        return self._all.percentile(50)

    @property
    def p95(self) -> float:
        """Milliseconds."""
        return self._all.percentile(95)

    @property
    def median_p95(self) -> float:
        """Milliseconds: the p95 of the median quarter of a second, of those in which something was served; NaN if nothing
        was. As for `median_rate`: a hiccup makes all requests slow that it meets, and of a few seconds' requests it easily
        meets more than five in a hundred."""
        slow = [_percentile(latencies, 95) for latencies in self._bins() if latencies]
        return median(slow) if slow else math.nan

    def _bins(self) -> list[list[float]]:
        """The latencies in each quarter of a second, ms."""
        return self.record.each(self.spans[0].begin, self.spans[-1].end)

    @property
    def bucket(self) -> float:
        """Length of the frame's steps in AWS seconds: half a minute, but at least one real second."""
        return max(30.0, self.speed)

    @cached_property
    def frame(self) -> DataFrame:
        """Tidy: `time` (a bucket's start), `metric`, `value`; per real second, and milliseconds."""
        from pandas import DataFrame

        rows = []
        length = self.bucket / self.speed
        first, end = self.spans[0].begin, self.spans[-1].end
        for number in range(round((end - first) / length)):
            begin = first + number * length
            seen = self.record.between(begin, begin + length)
            values = {
                "RequestsOffered": self.record.offered(begin, begin + length),
                "RequestsServed": seen.served_rate,
                "RequestsFailed": seen.failed_rate,
                "LatencyP50": seen.percentile(50),
                "LatencyP95": seen.percentile(95),
            }
            rows += [
                (self.clock.at(begin), metric, value) for metric, value in values.items() if value == value
            ]
        return DataFrame(rows, columns=["time", "metric", "value"])

    @cached_property
    def phases(self) -> DataFrame:
        """A line per phase: AWS times and minutes, requests a real second, milliseconds."""
        from pandas import DataFrame

        rows = []
        for span in self.spans:
            seen = self.record.between(span.begin, span.end)
            rows.append(
                {
                    "phase": span.name,
                    "start": self.clock.at(span.begin),
                    "end": self.clock.at(span.end),
                    "minutes": (span.end - span.begin) * self.speed / 60,
                    "offered": self.record.offered(span.begin, span.end),
                    "served": seen.served_rate,
                    "failed": self.record.between(span.begin, span.counted).failed.total(),
                    "p50": seen.percentile(50),
                    "p95": seen.percentile(95),
                }
            )
        return DataFrame(rows)

    @property
    def failures(self) -> DataFrame:
        from pandas import DataFrame

        return DataFrame(self._all.failed.most_common(), columns=["message", "count"])

    def during(self, phase: str) -> Report:
        """The report of one phase."""
        spans = tuple(span for span in self.spans if span.name == phase)
        if not spans:
            names = ", ".join(span.name for span in self.spans)
            raise TutorialError(f"The load had no phase {phase!r}.", next=f"Take one of: {names}.")
        return replace(self, spans=spans)

    def before(self, time: datetime, minutes: float) -> Report:
        """The report of so many AWS minutes before an AWS time."""
        end = self.clock.real_at(time)
        return self._part(end - minutes * 60 / self.speed, end)

    def last(self, minutes: float) -> Report:
        """The report of the last so many AWS minutes."""
        end = self.spans[-1].end
        return self._part(end - minutes * 60 / self.speed, end)

    def _part(self, begin: float, end: float) -> Report:
        begin, end = max(begin, self.spans[0].begin), min(end, self.spans[-1].end)
        return replace(self, spans=(Span("", begin, end, counted=end),))

    def __repr__(self) -> str:
        failed = f"{self.failed:,} failed" if self.failed else "none failed"
        sentence = f"{self.requests:,} requests in {self.minutes:.0f} AWS minutes, {failed}"
        if not self.served:
            return f"{sentence}; nothing was served"
        return f"{sentence}; {self.rate:.1f} served a second; p50 {self.p50:.0f} ms, p95 {self.p95:.0f} ms"
