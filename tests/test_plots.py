"""What can be told of a figure without looking: its words, its scales, its axes."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import matplotlib
import pandas
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from helpers.errors import TutorialError
from helpers.plots import LivePlot, plot_comparison, plot_events, plot_load, plot_scaling, read_guess
from helpers.report import AwsTime, Record, Report, Span
from tests import story

matplotlib.use("agg")


@pytest.fixture(scope="module")
def report():
    return story.report()


@pytest.fixture(scope="module")
def figure(report):
    return plot_scaling(story.frame(report), report, guess=(5, 8))


def words(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.findobj(Text)}


def test_all_panels_share_the_time_axis_in_aws_minutes(figure):
    assert len(figure.axes) == 4
    assert {panel.get_xlim() for panel in figure.axes} == {(0, 43)}
    assert figure.axes[-1].get_xlabel() == "AWS minutes since the load began"


def test_names_everything(figure):
    assert {"offered", "served", "p50", "p95", "target 50 %", "low 45 %", "AlarmHigh", "AlarmLow"} <= words(
        figure
    )
    assert {"calm", "step", "quiet", "your guess"} <= words(figure)
    assert any("Locust" in word for word in words(figure))


def test_says_where_it_comes_from(figure):
    assert "sandbox · process runtime · 30 AWS seconds a real second" in words(figure)


def test_annotates_each_scaling_activity_where_it_happened(figure):
    found = {a.get_text(): a.xy for a in figure.findobj(Annotation) if "→" in a.get_text()}
    assert found == {"2 → 4": (11, 4), "4 → 6": (16.5, 6), "6 → 2": (pytest.approx(40.3), 6)}


def test_the_guess_counts_from_the_step(figure):
    (star,) = [line for line in figure.axes[-1].lines if line.get_marker() == "*"]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (13, 5)


def test_the_guess_is_named_above_its_star_on_white(figure):
    figure.canvas.draw()
    (star,) = [line for line in figure.axes[-1].lines if line.get_marker() == "*"]
    (name,) = [text for text in figure.axes[-1].texts if text.get_text() == "your guess"]
    assert name.get_window_extent().y0 >= star.get_window_extent().y1
    assert name.get_bbox_patch().get_facecolor()[:3] == (1, 1, 1)
    assert 0.9 <= name.get_bbox_patch().get_alpha() < 1


@pytest.mark.parametrize("guess", [6, "58", (5,), (5, 8, 1), ("5", "8"), (5, None), (-1, 8), (5, math.inf)])
def test_a_guess_that_is_no_pair_is_told(report, guess):
    with pytest.raises(TutorialError) as told:
        plot_scaling(story.frame(report), report, guess=guess)
    assert repr(guess) in told.value.seen
    assert "(how many tasks, after how many minutes)" in told.value.next
    assert read_guess([5, 8.5]) == (5, 8.5)


def clashes(figure: Figure) -> list[tuple[str, str]]:
    """Words that lie upon each other; a tick beyond the axis has a label that is not drawn."""
    figure.canvas.draw()
    beyond = set()
    for panel in figure.axes:
        for axis in (panel.xaxis, panel.yaxis):
            low, high = axis.get_view_interval()
            ticks = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
            beyond |= {tick.label1 for tick in ticks}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    boxes = [(text, text.get_window_extent()) for text in texts if text not in beyond]
    return [
        (a.get_text(), b.get_text())
        for (a, one), (b, other) in itertools.combinations(boxes, 2)
        if one.overlaps(other)
    ]


def beyond_their_panels(figure: Figure) -> list[str]:
    return [
        text.get_text()
        for panel in figure.axes
        for text in panel.texts
        if text.get_gid() and not math.isclose(inside(text.get_window_extent(), panel.bbox), 1)
    ]


def inside(box: Bbox, room: Bbox) -> float:
    """The part of a box that is in the room."""
    shared = Bbox.intersection(box, room)
    return shared.width * shared.height / (box.width * box.height) if shared else 0.0


def test_no_words_lie_upon_each_other(figure):
    assert not clashes(figure)


def test_nor_do_they_where_steps_and_alarms_come_close_together(report):
    calm = story.frame(report)
    calm = calm[~calm["metric"].isin(["DesiredTaskCount", "AlarmLow", "AlarmHigh"])]
    changes = {
        "AlarmHigh": [(0, 0), (8, 1), (9, 0), (12, 1), (14, 0), (43, 0)],
        "AlarmLow": [(0, 1), (6.5, 0), (9.2, 1), (10.4, 0), (16, 1), (16.6, 0), (17.4, 1), (18, 0), (43, 0)],
        "DesiredTaskCount": [(0, 4), (7.5, 2), (8.2, 3), (9, 4), (9.8, 3), (12.1, 4), (12.9, 6), (43, 6)],
    }
    rows = [(story.at(at), metric, float(to)) for metric, steps in changes.items() for at, to in steps]
    frame = pandas.concat([calm, pandas.DataFrame(rows, columns=calm.columns)], ignore_index=True)
    for guess in ((4, 4), (3, 2.5), (6, 7), (2, 0.1), (6, 37)):
        figure = plot_scaling(frame, report, guess=guess)
        assert clashes(figure) == beyond_their_panels(figure) == []


def test_failures_are_shown_only_when_there_are_some(report):
    assert not any(word.startswith("failed") for word in words(plot_load(report)))
    failing = story.report()
    for number in range(30, 40):
        failing.record.bins[number] = ([], {"HTTP 503": 10})
    assert "failed: 100" in words(plot_load(failing))


def test_a_comparison_has_one_scale(report):
    one = story.report(capacity=lambda minute: 1)
    figure = plot_comparison(report, one, ["scaled", "one task"])
    scaled_rates, one_rates, scaled_latency, one_latency = figure.axes
    assert scaled_rates.get_ylim() == one_rates.get_ylim()
    assert scaled_latency.get_ylim() == one_latency.get_ylim()
    assert {"scaled", "one task"} <= words(figure)


def test_the_live_plot_begins_with_nothing(report):
    plot = LivePlot()
    assert plot.update(report.during("calm"), [])
    counts = [(story.at(minute), {"desired": 4, "running": 2, "healthy": 1}) for minute in range(3)]
    assert "Tasks now: 4 desired, 2 running, 1 healthy (ECS, load balancer)" in words(
        plot.update(report, counts)
    )


def test_no_figure_stays_open(figure):
    from matplotlib import pyplot

    assert not pyplot.get_fignums()


def test_importing_costs_neither_pandas_nor_matplotlib():
    modules = "checks, errors, metrics, plots, report, services, stacks, traffic"
    code = (
        f"from helpers import {modules}\nimport sys\n"
        "assert not {'pandas', 'matplotlib', 'boto3', 'locust'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# A load in which something happens, worked out by hand: ten real seconds, ten requests each, three of them fail.


def eventful() -> Report:
    record = Record()
    record.add({"start": 1000.0})
    record.add({"at": 1000.0, "users": 2, "each": 5.0})
    for half_second in range(20):
        failed = {"HTTP 502": 3} if half_second == 8 else {}
        record.add({"bin": 2 * half_second, "ms": [8.0] * (5 - 3 * bool(failed)), "failed": failed})
    spans = (
        Span("before", 1000, 1004, 1004),
        Span("killed", 1004, 1008, 1008),
        Span("after", 1008, 1010.4, math.inf),
    )
    return Report("http://x", record, AwsTime(1000.0, 1_000_000.0, 30.0), spans, "sandbox", "process")


def log_of(report: Report, who: str, first: str, second: str) -> pandas.DataFrame:
    """Ten lines a real second; from the fifth second on somebody else answers."""
    rows = [
        {"time": report.clock.at(1000 + n / 10), "task": "t", "version": "1"}
        | {who: first if n < 50 else second}
        for n in range(104)
    ]
    return pandas.DataFrame(rows)


@pytest.fixture(scope="module")
def events():
    report = eventful()
    logs = [log_of(report, "task", "1a1a1a1a", "2b2b2b2b"), log_of(report, "version", "1.0.0", "2.0.0")]
    return plot_events([report, report], logs, ["Killed", "A new version"])


def heights(panel) -> list[float]:
    """What is stacked at each place, from the left."""
    tops: dict[float, float] = {}
    for bar in panel.patches:
        place = round(bar.get_x(), 3)
        tops[place] = tops.get(place, 0.0) + bar.get_height()
    return [tops[place] for place in sorted(tops)]


def test_events_show_every_request_once_served_or_failed_and_by_who_answered(events):
    got, _, who, _ = events.axes
    assert heights(got) == [10.0] * 10
    assert heights(who) == [10.0] * 10
    assert sum(bar.get_height() for bar in got.patches) == 100


def test_events_name_tasks_or_versions_and_count_what_failed(events):
    assert {"Killed", "A new version", "before", "killed", "after", "failed: 3"} <= words(events)
    assert {"1a1a1a1a", "2b2b2b2b", "1.0.0", "2.0.0"} <= words(events)
    assert "t" not in words(events)


def colors(panel) -> dict[str, tuple]:
    """By name: the colour of the bars on which it lies."""
    return {
        text.get_text(): next(
            bar.get_facecolor() for bar in panel.patches if bar.contains_point(panel.transData.transform(at))
        )
        for text in panel.texts
        if (at := text.get_position())
    }


def test_a_task_has_one_colour_in_all_panels_and_a_version_another():
    report = eventful()
    tasks = [("a", "b"), ("b", "c"), ("c", "a")]
    logs = [log_of(report, "task", *pair) for pair in tasks] + [log_of(report, "version", "1", "2")]
    figure = plot_events([report] * 4, logs, ["1", "2", "3", "4"])
    figure.canvas.draw()
    *of_tasks, of_versions = [colors(panel) for panel in figure.axes[4:]]
    known: dict[str, tuple] = {}
    for shown, pair in zip(of_tasks, tasks, strict=True):
        assert set(shown) == set(pair)
        assert all(known.setdefault(who, color) == color for who, color in shown.items())
    assert len({*known.values(), *of_versions.values()}) == 5


@pytest.mark.parametrize("share", [0.5, 0.05])
@pytest.mark.parametrize("columns", [2, 4])
def test_what_events_are_called_lies_on_no_border_no_line_and_no_other_word(share, columns):
    """`share`: of the second task in the answers; the bars of a twentieth are lower than a word."""
    report = eventful()
    lines = log_of(report, "task", "1a1a1a1a", "2b2b2b2b")
    lines["task"] = ["1a1a1a1a" if n % round(1 / share) else "2b2b2b2b" for n in range(len(lines))]
    figure = plot_events([report] * columns, [lines] * columns, ["Killed"] * columns)
    assert clashes(figure) == beyond_their_panels(figure) == []
    for panel in figure.axes[columns:]:
        assert len(panel.texts) == 2
        assert all(inside(text.get_window_extent(), panel.bbox) > 0.999 for text in panel.texts)
    for panel in figure.axes[:columns]:
        (failed,) = [text for text in panel.texts if text.get_text() == "failed: 3"]
        box = failed.get_window_extent()
        dotted = [line for line in panel.lines if line.get_zorder() > 0]
        assert len(dotted) == 2
        assert not any(box.x0 < line.get_window_extent().x0 < box.x1 for line in dotted)
        assert not box.count_overlaps([bar.get_window_extent() for bar in panel.patches])


def test_events_have_one_scale(events):
    assert len({panel.get_ylim() for panel in events.axes}) == 1


def test_events_are_drawn_although_the_app_logged_nothing():
    report = eventful()
    none = log_of(report, "task", "a", "b").iloc[:0]
    assert "failed: 3" in words(plot_events([report], [none], ["Silent"]))
