"""The figures: one style, one time axis in AWS minutes since the load began.

Colours are Okabe and Ito's, told apart by colour-blind eyes. What stands close together is named in place, so that
no legend has to be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import wraps
from itertools import cycle, pairwise
from math import inf
from numbers import Real
from typing import TYPE_CHECKING, Any

from helpers.cloudwatch import desired_steps, series, step_and_drop
from helpers.errors import TutorialError
from helpers.labels import BOX, put_on_bars, spread, word

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from matplotlib.text import Text
    from pandas import DataFrame, Series

    from helpers.report import Report
    from helpers.services import Scaling

BLUE, SKY, GREEN, ORANGE, RED, PURPLE, GREY = (
    "#0072B2",
    "#56B4E9",
    "#009E73",
    "#E69F00",
    "#D55E00",
    "#CC79A7",
    "#6B6B6B",
)
STYLE = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E9E9E9",
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "font.size": 8.5,
    "lines.linewidth": 1.6,
}
MINUTE = timedelta(minutes=1)
PALE = "#C5D3DD"  # all is well
# Who answered, in the order of their first answers: tasks, and in colours of their own versions.
ANSWERS = {"task": (SKY, ORANGE, GREEN, BLUE, "#999999"), "version": (PURPLE, "#F0E442", "#4D4D4D")}
DARK = {RED: "#A84700", SKY: "#1B6E9C", PURPLE: "#7D3C69"}  # for words in or beside the colour


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draws in our style, and leaves the learner's own settings alone."""

    @wraps(draw)
    def in_style(*args: Any, **kwargs: Any) -> Figure:
        from matplotlib import rc_context

        with rc_context(STYLE):
            return draw(*args, **kwargs)

    return in_style


@dataclass(frozen=True)
class Axis:
    """The shared time axis: AWS minutes since the load began."""

    start: datetime
    end: datetime

    def minutes(self, time: datetime) -> float:
        return (time - self.start) / MINUTE

    @property
    def length(self) -> float:
        return self.minutes(self.end)


@styled
def plot_scaling(
    frame: DataFrame,
    report: Report,
    *,
    activities: DataFrame | None = None,
    guess: tuple[float, float] | None = None,
    policy: Scaling | None = None,
) -> Figure:
    """Load, latency, CPU and tasks on one time axis.

    `frame`: scaling_frame's; `activities`: metrics.activities', by default read off the frame's DesiredTaskCount;
    `guess`: (tasks, AWS minutes after the load stepped up); `policy`: service.scaling, for target and low threshold.
    """
    guessed = None if guess is None else read_guess(guess)
    figure, (rates, latency, cpu, tasks) = _figure(4, (10, 9.2), [1.15, 0.95, 1.35, 1.2])
    axis = Axis(report.start, report.end)
    _draw_rates(rates, frame, report, axis)
    _draw_latency(latency, frame, report, axis)
    target = (policy and policy.target) or 50.0
    _draw_cpu(cpu, frame, axis, target, 0.9 * target)
    steps = desired_steps(frame) if activities is None else _steps_of(activities)
    _draw_tasks(tasks, frame, report, axis, steps)
    if guessed:
        _draw_guess(tasks, axis.minutes(step_and_drop(report)[0]) + guessed[1], guessed[0], axis)
    _finish(figure, report, axis)
    spread(figure)
    return figure


def read_guess(guess: object) -> tuple[float, float]:
    """How many tasks, and after how many AWS minutes; TutorialError when it is not two such numbers."""
    if isinstance(guess, Sequence) and len(guess) == 2:
        tasks, minutes = guess
        if all(isinstance(each, Real) and 0 <= each < inf for each in (tasks, minutes)):
            return float(tasks), float(minutes)
    raise TutorialError(
        "A guess is two numbers.",
        seen=f"{guess!r:.80}",
        next="Say it as (how many tasks, after how many minutes): my_guess = (5, 8).",
    )


@styled
def plot_load(report: Report, *, like: Report | None = None) -> Figure:
    """What the visitors saw; `like`: another report, whose scales are taken over for a fair comparison."""
    figure, (rates, latency) = _figure(2, (10, 5), [1.15, 1])
    axis = Axis(report.start, report.end)
    _draw_rates(rates, report.frame, report, axis)
    _draw_latency(latency, report.frame, report, axis)
    for panel, limits in zip((rates, latency), _limits([report, like or report]), strict=True):
        panel.set_ylim(limits)
    _finish(figure, report, axis)
    spread(figure)
    return figure


@styled
def plot_comparison(first: Report, second: Report, labels: Sequence[str]) -> Figure:
    """Two loads side by side on the same scales; `labels`: a title each."""
    figure, panels = _figure(2, (11, 5), [1.15, 1], columns=2)
    for column, (report, label) in enumerate(zip((first, second), labels, strict=True)):
        axis = Axis(report.start, report.end)
        rates, latency = panels[column], panels[2 + column]
        _draw_rates(rates, report.frame, report, axis)
        _draw_latency(latency, report.frame, report, axis)
        for panel, limits in zip((rates, latency), _limits([first, second]), strict=True):
            panel.set_ylim(limits)
        rates.set_title(label, pad=20)
        latency.set_title("latency")
        _phases(rates, [rates, latency], report, axis)
        latency.set_xlabel("AWS minutes since the load began")
        rates.tick_params(labelbottom=False)
    _corner(figure, first)
    spread(figure)
    return figure


@styled
def plot_events(reports: Sequence[Report], answers: Sequence[DataFrame], titles: Sequence[str]) -> Figure:
    """Loads side by side, in which something happened: what visitors got, and below it who answered them.

    `answers`: logs.answered of each report. Told apart are versions where there are several, otherwise tasks; each of
    them has one colour in all loads.
    """
    keys = ["version" if lines["version"].nunique() > 1 else "task" for lines in answers]
    colors = _colors(zip(keys, answers, strict=True))
    names: list[dict[Text, Sequence[Rectangle]]] = []
    figure, panels = _figure(2, (11, 4.8), [1, 1], columns=len(reports))
    panels[0].get_gridspec().set_width_ratios([max(report.minutes, 3.0) for report in reports])
    for column, (report, lines, title, key) in enumerate(zip(reports, answers, titles, keys, strict=True)):
        axis = Axis(report.start, report.end)
        got, who = panels[column], panels[len(reports) + column]
        _draw_outcomes(got, report, axis)
        names.append(_draw_answers(who, lines, key, colors[key], report, axis))
        got.set_title(title, pad=20)
        _phases(got, [got, who], report, axis)
        for begin in report.phases["start"][1:]:
            for panel in (got, who):
                panel.axvline(axis.minutes(begin), color="#444444", linewidth=0.8, linestyle=(0, (1, 2)))
        got.tick_params(labelbottom=False)
    highest = max(panel.get_ylim()[1] for panel in panels)
    for panel in panels:
        panel.set_ylim(0, highest)
    panels[0].set_ylabel("requests per real\nsecond: served, failed")
    panels[len(reports)].set_ylabel("answered by\n(the app's log)")
    panels[len(reports)].set_xlabel("AWS minutes since each load began", loc="left")
    _corner(figure, reports[0])
    spread(figure)
    for panel, texts in zip(panels[len(reports) :], names, strict=True):
        put_on_bars(panel, texts)
    return figure


class LivePlot:
    """The load so far, and the tasks as ECS counts them, in one figure whose lines grow: no figure is made anew."""

    @styled
    def __init__(self) -> None:
        self.figure, panels = _figure(3, (10, 4.8), [1, 1, 0.8], dpi=72, layout=None)
        self._rates, self._latency, self._tasks = panels
        self.figure.subplots_adjust(0.075, 0.1, 0.985, 0.94, hspace=0.4)
        self._lines = {
            "RequestsOffered": self._rates.plot([], [], color=GREY, linestyle=(0, (4, 2)), linewidth=1.3)[0],
            "RequestsServed": self._rates.plot([], [], color=BLUE)[0],
            "LatencyP95": self._latency.plot([], [], color=PURPLE)[0],
            "LatencyP50": self._latency.plot([], [], color=DARK[PURPLE], linewidth=1.2)[0],
            **{name: self._tasks.step([], [], where="post", **style)[0] for name, style in TASKS.items()},
        }
        self._latency.set_yscale("log")
        self._latency.yaxis.set_major_formatter("{x:,.0f}")
        self._latency.yaxis.set_minor_formatter("")
        self._rates.set_title("Requests a real second: offered (dashed), served")
        self._latency.set_title("Latency in ms: p95 above p50")
        self._tasks.set_xlabel("AWS minutes since the load began")

    @styled
    def update(self, report: Report, counts: Sequence[tuple[datetime, dict[str, int]]]) -> Figure:
        """`counts`: (AWS time, desired, running and healthy)."""
        axis = Axis(report.start, max([report.end, *(time for time, _ in counts)]))
        for metric in ("RequestsOffered", "RequestsServed", "LatencyP95", "LatencyP50"):
            values = _client(report.frame, metric, report, axis)
            self._lines[metric].set_data(values.index, values)
        minutes = [axis.minutes(time) for time, _ in counts]
        for name in TASKS:
            self._lines[name].set_data(minutes, [count[name] for _, count in counts])
        for panel in (self._rates, self._latency, self._tasks):
            panel.set_xlim(0, max(axis.length, 1))
            panel.relim()
            panel.autoscale_view(scalex=False)
        self._rates.set_ylim(
            0, 1.15 * max(1.0, *(max(line.get_ydata(), default=1.0) for line in self._rates.lines))
        )
        if counts:
            now = ", ".join(f"{count} {word}" for word, count in counts[-1][1].items())
            self._tasks.set_title(f"Tasks now: {now} (ECS, load balancer)")
            _whole(self._tasks, max(max(count.values()) for _, count in counts))
        return self.figure


TASKS: dict[str, dict[str, Any]] = {
    "healthy": {"color": SKY, "linewidth": 5, "alpha": 0.55, "solid_capstyle": "butt"},
    "running": {"color": GREEN, "linewidth": 2.2},
    "desired": {"color": "black", "linewidth": 1.2, "linestyle": (0, (3, 2))},
}


def _figure(
    rows: int,
    size: tuple[float, float],
    heights: list[float],
    columns: int = 1,
    dpi: int = 100,
    layout: str | None = "constrained",
) -> tuple[Figure, list[Axes]]:
    """A figure and its panels, which no notebook shows by itself."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        rows,
        columns,
        figsize=size,
        dpi=dpi,
        sharex="col",
        layout=layout,
        gridspec_kw={"height_ratios": heights},
        squeeze=False,
    )
    pyplot.close(figure)
    return figure, list(panels.flat)


def _draw_rates(panel: Axes, frame: DataFrame, report: Report, axis: Axis) -> None:
    offered, served, failed = (
        _client(frame, f"Requests{word}", report, axis) for word in ("Offered", "Served", "Failed")
    )
    panel.plot(offered.index, offered, color=GREY, linestyle=(0, (4, 2)), linewidth=1.3)
    panel.plot(served.index, served, color=BLUE)
    panel.set_ylim(0, max(offered.max(), served.max(), 1) * 1.25)
    at = _beside_the_step(offered, report, axis)
    _name(panel, at, _at(offered, at), "offered", GREY, above=True)
    strained = _at(served, at) < 0.92 * _at(offered, at)
    _name(panel, at, _at(served, at), "served", BLUE, above=False, gap=4 if strained else 6)
    if failed.max() > 0:
        panel.fill_between(failed.index, failed, color=RED, alpha=0.5, linewidth=0)
        worst = failed.idxmax()
        _name(panel, worst, failed.max(), f"failed: {report.failed:,}", RED, above=True)
    panel.set_ylabel("requests per\nreal second")
    panel.set_title("What visitors saw: requests (Locust's record)")


def _draw_outcomes(panel: Axes, report: Report, axis: Axis) -> None:
    length = report.bucket / 60
    middle = timedelta(seconds=report.bucket / 2)
    served, failed = (
        _by_minute(series(report.frame, f"Requests{word}"), axis, middle)[: _whole_buckets(report, axis)]
        for word in ("Served", "Failed")
    )
    panel.bar(served.index, served, length, color=PALE)
    panel.bar(failed.index, failed, length, bottom=served, color=RED)
    panel.set_ylim(0, max((served + failed).max(), 1) * 1.3)
    if report.failed and len(failed):
        worst = failed.idxmax()
        top = served[worst] + failed[worst]
        style = {"color": DARK[RED], "fontweight": "bold", "ha": "center", "va": "bottom", "bbox": BOX}
        word(panel, (worst, top), f"failed: {report.failed}", (0, 4), above_bars=True, **style)


def _colors(answers: Iterable[tuple[str, DataFrame]]) -> dict[str, dict[str, str]]:
    """By "task" and "version": who answered, in the order of the first answers, with a colour each."""
    found: dict[str, dict[str, None]] = {key: {} for key in ANSWERS}
    for key, lines in answers:
        found[key] |= dict.fromkeys(lines[key].dropna())
    return {key: dict(zip(found[key], cycle(ANSWERS[key]))) for key in ANSWERS}


def _draw_answers(
    panel: Axes, lines: DataFrame, key: str, colors: dict[str, str], report: Report, axis: Axis
) -> dict[Text, Sequence[Rectangle]]:
    """The names of who answered, each with its bars."""
    length, whole = report.bucket / 60, _whole_buckets(report, axis)
    lines = lines.assign(bucket=(lines["time"] - report.start) / MINUTE // length)
    lines = lines[lines["bucket"] < whole]
    counts = lines.groupby(["bucket", key]).size().unstack(fill_value=0) * report.speed / report.bucket
    below = counts.sum(axis=1) * 0
    names: dict[Text, Sequence[Rectangle]] = {}
    for who in (each for each in colors if each in counts):
        bars = panel.bar((counts.index + 0.5) * length, counts[who], length, bottom=below, color=colors[who])
        box = BOX | {"edgecolor": colors[who], "linewidth": 1.5}  # a word may be larger than its bars
        text = panel.text(0, 0, who, ha="center", va="center", fontsize=7.5, fontweight="bold", bbox=box)
        names[text] = bars.patches
        below = below + counts[who]
    return names


def _whole_buckets(report: Report, axis: Axis) -> int:
    """A bucket that the load's end cuts short would look like a drop."""
    return max(int(axis.length * 60 / report.bucket + 0.1), 1)


def _draw_latency(panel: Axes, frame: DataFrame, report: Report, axis: Axis) -> None:
    p50, p95 = (_client(frame, f"Latency{word}", report, axis) for word in ("P50", "P95"))
    if not len(p50):
        return
    panel.set_yscale("log")
    panel.fill_between(p50.index, p50, p95, color=PURPLE, alpha=0.15, linewidth=0)
    panel.plot(p95.index, p95, color=PURPLE)
    panel.plot(p50.index, p50, color=DARK[PURPLE], linewidth=1.2)
    panel.set_ylim(*_log_limits([p50, p95]))
    panel.yaxis.set_major_formatter("{x:,.0f}")
    panel.yaxis.set_minor_formatter("")
    at = _beside_the_step(p50, report, axis)
    _name(panel, at, _at(p95, at), "p95", PURPLE, above=True)
    _name(panel, at, _at(p50, at), "p50", DARK[PURPLE], above=False)
    panel.set_ylabel("ms, log scale")
    panel.set_title("What visitors saw: latency (Locust's record)")


def _draw_cpu(panel: Axes, frame: DataFrame, axis: Axis, target: float, low: float) -> None:
    coldest, average, hottest = (
        _minutely(series(frame, f"CPUUtilization{word}"), axis) for word in ("Minimum", "Average", "Maximum")
    )
    for alarm, color in (("AlarmHigh", RED), ("AlarmLow", SKY)):
        for begin, end in _spans(series(frame, alarm)):
            left, right = axis.minutes(max(begin, axis.start)), axis.minutes(min(end, axis.end))
            hot = hottest[(hottest.index >= left - 1) & (hottest.index <= right + 1)].max() > 60
            _shade(panel, axis, left, right, alarm, color, hot)
    panel.fill_between(average.index, coldest, hottest, color=ORANGE, alpha=0.35, linewidth=0)
    panel.plot(average.index, average, color="#B87A00")
    for level, text, side in ((target, f"target {target:g} %", "bottom"), (low, f"low {low:g} %", "top")):
        panel.axhline(level, color=GREY, linewidth=0.9, linestyle=(0, (1, 1.5)))
        panel.text(1.004, level, text, transform=panel.get_yaxis_transform(), va=side, color=GREY, fontsize=8)
    panel.set_ylim(0, 122)
    panel.set_yticks([0, 25, 50, 75, 100])
    panel.set_ylabel("CPU, % of what the\ntasks may use")
    panel.set_title(
        "CPU of the service: average, band from coldest to hottest task; shaded: an alarm is in ALARM (CloudWatch)"
    )


def _shade(panel: Axes, axis: Axis, left: float, right: float, text: str, color: str, hot: bool) -> None:
    if right <= left:
        return
    panel.axvspan(left, right, color=color, alpha=0.14, linewidth=0)
    narrow = right - left < 0.09 * axis.length
    low = narrow and hot  # where CPU is high, the room is below
    word(
        panel,
        ((left + right) / 2, 5 if low else 119),
        text,
        color=DARK[color],
        ha="center",
        va="bottom" if low else "top",
        rotation=90 if narrow else 0,
        fontsize=8,
    )


def _draw_tasks(panel: Axes, frame: DataFrame, report: Report, axis: Axis, steps: list) -> None:
    sources = {"desired": "DesiredTaskCount", "running": "RunningTaskCount", "healthy": "HealthyHostCount"}
    counts = {name: series(frame, metric) for name, metric in sources.items()}
    for name, style in TASKS.items():
        minutes = [axis.minutes(time) for time in counts[name].index]
        values = list(counts[name])
        if name != "desired" and minutes:
            # Counted at their minutes' ends, as key_times dates them: no effect is drawn before its cause.
            minutes, values = [0, *(min(minute + 1, axis.length) for minute in minutes)], [values[0], *values]
        panel.step(minutes, values, where="post", **style)
    highest = max((values.max() for values in counts.values() if len(values)), default=1)
    _whole(panel, highest)
    for time, old, new in steps:
        out = new > old
        word(
            panel,
            (axis.minutes(time), new if out else old),
            f"{old} → {new}",
            (-4 if out else 5, 3),
            ha="right" if out else "left",
            va="bottom",
            fontweight="bold",
        )
    key = (("╍ desired", "black"), ("━ running", GREEN), ("━ healthy", DARK[SKY]))
    for place, (name, color) in enumerate(key):
        panel.text(1.004, 0.9 - 0.15 * place, name, transform=panel.transAxes, color=color, fontsize=8)
    panel.set_ylabel("tasks")
    panel.set_title(
        "Tasks: desired (scaling activities), running and healthy (CloudWatch, at each minute's end)"
    )


def _draw_guess(panel: Axes, minute: float, count: float, axis: Axis) -> None:
    shown = min(max(minute, 0.0), axis.length)
    panel.plot([shown], [count], marker="*", markersize=13, color=PURPLE, markeredgecolor="white", zorder=5)
    style = {"ha": "center", "va": "bottom", "color": DARK[PURPLE], "fontweight": "bold", "bbox": BOX}
    word(panel, (shown, count), "your guess", (0, 9), zorder=6, **style)
    _whole(panel, max(count, panel.get_ylim()[1] / 1.25))


def _finish(figure: Figure, report: Report, axis: Axis) -> None:
    panels = figure.axes
    _phases(panels[0], panels, report, axis)
    panels[0].set_title(panels[0].get_title("left"), loc="left", pad=18)
    panels[-1].set_xlabel("AWS minutes since the load began")
    _corner(figure, report)


def _phases(top: Axes, panels: list[Axes], report: Report, axis: Axis) -> None:
    """A thin line where a phase begins, and its name above the first panel."""
    for _, phase in report.phases.iterrows():
        begin, end = axis.minutes(phase["start"]), axis.minutes(phase["end"])
        for panel in panels:
            panel.axvline(begin, color="#BBBBBB", linewidth=0.8, zorder=0)
        top.annotate(
            phase["phase"],
            ((begin + end) / 2, 1),
            xycoords=top.get_xaxis_transform(),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            color=GREY,
            fontsize=8.5,
            style="italic",
        )
    for panel in panels:
        panel.set_xlim(0, max(axis.length, 1))


def _corner(figure: Figure, report: Report) -> None:
    where = f"{report.target} · {report.runtime} runtime · {report.speed:g} AWS seconds a real second"
    figure.supxlabel(where, x=0.995, ha="right", fontsize=7.5, color=GREY)


def _client(frame: DataFrame, metric: str, report: Report, axis: Axis) -> Series:
    """A series of Locust's by AWS minutes, each value in the middle of its bucket; NaN where nothing was served."""
    middle = timedelta(seconds=report.bucket / 2)
    values = _by_minute(series(frame, metric), axis, middle)
    return _with_gaps(values, 1.5 * report.bucket / 60)


def _minutely(values: Series, axis: Axis) -> Series:
    """A series of CloudWatch's by AWS minutes, each value in the middle of its minute."""
    return _with_gaps(_by_minute(values, axis, MINUTE / 2), 1.5)


def _by_minute(values: Series, axis: Axis, shift: timedelta) -> Series:
    return values.set_axis([axis.minutes(time + shift) for time in values.index])


def _with_gaps(values: Series, longest: float) -> Series:
    """With a NaN where more than `longest` minutes lie between two values, so that no line is drawn there."""
    from pandas import Series, concat

    times = list(values.index)
    holes = [a + longest / 2 for a, b in pairwise(times) if b - a > longest]
    return concat([values, Series(float("nan"), index=holes)]).sort_index() if holes else values


def _spans(state: Series) -> list[tuple[datetime, datetime]]:
    """The times during which a state was 1."""
    times = [time.to_pydatetime() for time in state.index]
    return [(a, b) for a, b, on in zip(times, times[1:], state, strict=False) if on == 1]


def _steps_of(activities: DataFrame) -> list[tuple[datetime, int, int]]:
    done = activities[activities["status"] != "Failed"]
    return list(zip(done["time"], done["from"], done["to"], strict=True))


def _beside_the_step(values: Series, report: Report, axis: Axis) -> float:
    """Where a curve's name stands clear of its slope: a little after the load's step, at its second value at least."""
    step = axis.minutes(step_and_drop(report)[0])
    after = [minute for minute in values.index if minute > step][:2]
    return max(step + 0.03 * axis.length, *after) if after else step


def _at(values: Series, minute: float) -> float:
    """The value nearest to a time."""
    known = values.dropna()
    return float(known.iloc[abs(known.index - minute).argmin()])


def _name(
    panel: Axes, minute: float, value: float, text: str, color: str, *, above: bool, gap: float = 4
) -> None:
    word(
        panel,
        (minute, value),
        text,
        (0, gap if above else -gap),
        ha="left",
        va="bottom" if above else "top",
        color=color,
        fontweight="bold",
    )


def _whole(panel: Axes, highest: float) -> None:
    """Room for so many tasks and a word above them, ticks at whole tasks."""
    from matplotlib.ticker import MaxNLocator

    panel.set_ylim(0, max(2, highest) * 1.25)
    panel.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def _limits(reports: list[Report]) -> list[tuple[float, float]]:
    """The scales on which all of them fit: requests, latency."""
    frames = [report.frame for report in reports]
    rates = [series(frame, f"Requests{word}").max() for frame in frames for word in ("Offered", "Served")]
    latencies = [series(frame, f"Latency{word}") for frame in frames for word in ("P50", "P95")]
    return [(0, max([*rates, 1]) * 1.25), _log_limits(latencies)]


def _log_limits(latencies: list[Series]) -> tuple[float, float]:
    known = [values for values in latencies if len(values)]
    if not known:
        return 1.0, 1000.0
    return min(values.min() for values in known) / 2, max(values.max() for values in known) * 3
