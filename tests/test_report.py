"""What of a load is told so that a machine that stands still for a moment does not change it."""

from __future__ import annotations

import math

import pytest

from helpers.report import AwsTime, Record, Report, Span

WELL = [8.0] * 18
HELD_UP = [8.0] * 10 + [900.0] * 8


def report(*bins: list[float]) -> Report:
    """Of so many quarters of a second, from their latencies."""
    record = Record(start=100.0, bins={number: (latencies, {}) for number, latencies in enumerate(bins)})
    end = 100 + len(bins) / 4
    span = Span("busy", 100, end, end)
    return Report("http://x", record, AwsTime(90.0, 1_000_000.0, 60.0), (span,), "sandbox", "process")


def test_a_hiccup_makes_the_p95_bad_and_not_the_median_one():
    seen = report(*[WELL] * 8, [], HELD_UP, *[WELL] * 10)
    assert seen.p95 == 8
    longer = report(*[WELL] * 8, [], HELD_UP, HELD_UP, HELD_UP, *[WELL] * 8)
    assert longer.p95 == 900
    assert seen.median_p95 == longer.median_p95 == 8


def test_a_service_that_does_not_recover_has_a_bad_median_p95():
    assert report(*[WELL] * 6, *[HELD_UP] * 7).median_p95 == 900


def test_a_quarter_of_a_second_in_which_nothing_was_served_has_no_p95():
    assert report([], [], [20.0], []).median_p95 == 20
    assert math.isnan(report([], []).median_p95)
    assert math.isnan(report().median_p95)


@pytest.mark.parametrize("stalled", [(0, 1, 2), (1, 2, 3), (3, 4, 5), (0, 2, 4)])
def test_the_peak_is_what_was_reached_although_half_of_the_time_was_lost(stalled):
    bins = [[200.0] * 2 if number in stalled else [200.0] * 18 for number in range(6)]
    assert report(*bins).peak_rate == 72
    assert report(*bins).median_rate == 40


def test_one_burst_is_not_the_peak():
    """Answers that waited until Locust was there again, all read at once."""
    assert report(*[[200.0] * 18] * 5, [200.0] * 34).peak_rate == 72


def test_of_nothing_there_is_no_peak():
    assert report().peak_rate == report([], []).peak_rate == 0
