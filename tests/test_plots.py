"""What can be told of a figure without looking: its words, its scales, its axes."""

from __future__ import annotations

import subprocess
import sys

import matplotlib
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from helpers.plots import LivePlot, plot_comparison, plot_load, plot_scaling
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


def test_no_words_lie_upon_each_other(figure):
    figure.canvas.draw()
    boxes = [
        (text.get_text(), text.get_window_extent())
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip()
    ]
    clashes = [
        (a, b)
        for i, (a, one) in enumerate(boxes)
        for b, other in boxes[i + 1 :]
        if one.overlaps(other) and a != b
    ]
    assert not clashes


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
