"""Every notebook, executed as `make run` executes them, and the story that the load test must tell."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from pathlib import Path

import pandas
import pytest

from helpers import run
from helpers.cloudwatch import SCALING

MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="session")
def journey(tmp_path_factory) -> Path:
    """The folder that a full run leaves."""
    runs = Path(os.environ.get("JOURNEY_RUNS") or tmp_path_factory.mktemp("journey"))
    if not (runs / "latest").exists():
        said: list[str] = []
        status = run.run([], runs=runs, say=said.append)
        print("".join(said))
        assert status == 0, "".join(said)
    return runs / "latest"


@pytest.fixture(scope="session")
def scaling(journey: Path) -> pandas.DataFrame:
    return pandas.read_csv(journey / "scaling.csv", parse_dates=["time"])


def series(scaling: pandas.DataFrame, metric: str) -> pandas.Series:
    return scaling[scaling["metric"] == metric].set_index("time")["value"].sort_index()


@pytest.fixture(scope="session")
def step(scaling: pandas.DataFrame) -> datetime:
    """The start of the bucket in which the load first was above its first value by half."""
    offered = series(scaling, "RequestsOffered")
    return offered.index[offered > 1.5 * offered.iloc[0]][0]


@pytest.fixture(scope="session")
def drop(scaling: pandas.DataFrame, step: datetime) -> datetime:
    offered = series(scaling, "RequestsOffered")
    busy = offered[offered > 0.5 * offered.max()]
    return busy.index[-1]


@pytest.fixture(scope="session")
def scale_outs(scaling: pandas.DataFrame, step: datetime, drop: datetime) -> list[tuple[datetime, float]]:
    desired = series(scaling, "DesiredTaskCount")
    changes = desired[desired.diff() > 0]
    return [(time, count) for time, count in changes.items() if step <= time <= drop]


pytestmark = pytest.mark.timeout(900)


def test_every_notebook_is_green_and_its_checks_are_counted(journey):
    summary = json.loads((journey / "summary.json").read_text())
    assert [entry["name"][:2] for entry in summary["notebooks"]] == ["00", "06", "07", "08", "10"]
    assert all(entry["checks_passed"] >= 3 for entry in summary["notebooks"])
    assert all(entry["checks_failed"] == 0 and entry["skipped"] == [] for entry in summary["notebooks"])
    assert (summary["target"], summary["runtime"], summary["speed"]) == ("sandbox", "process", 30)
    assert sum(entry["seconds"] for entry in summary["notebooks"]) <= summary["total_seconds"]


def test_the_scaling_file_holds_everything_that_the_plot_shows(journey, scaling):
    assert list(scaling.columns) == ["time", "metric", "value"]
    assert set(scaling["metric"]) == set(SCALING)
    assert scaling["time"].dt.tz is not None
    assert (journey / "scaling.png").stat().st_size > 50_000


def test_two_tasks_cannot_carry_the_step(scaling, step):
    cpu = series(scaling, "CPUUtilizationAverage")
    assert cpu[(cpu.index > step) & (cpu.index < step + 8 * MINUTE)].max() > 90


def test_the_first_scale_out_comes_when_aws_says(step, scale_outs):
    """AWS's benchmark of June 2026: 363 s from the load step to the decision."""
    assert 240 <= (scale_outs[0][0] - step).total_seconds() <= 480


def test_it_takes_at_least_two_calm_steps_out(scale_outs):
    assert len(scale_outs) >= 2
    between = scale_outs[1][0] - scale_outs[0][0]
    assert between >= timedelta(seconds=300), "the article's cooldown"


def test_it_settles_between_the_low_threshold_and_the_target(scaling, drop):
    cpu = series(scaling, "CPUUtilizationAverage")
    settled = cpu[
        (cpu.index >= drop - 5 * MINUTE) & (cpu.index <= drop - MINUTE)
    ]  # whole minutes before the drop
    assert len(settled) >= 4
    assert 40 <= settled.mean() <= 55


def test_latency_falls_to_a_fifth_at_most(scaling, step, drop):
    p95, healthy = series(scaling, "LatencyP95"), series(scaling, "HealthyHostCount")
    relief = healthy.index[(healthy.index > step) & (healthy > 2)][0]
    before = p95[(p95.index >= relief - 3 * MINUTE) & (p95.index < relief)].median()
    after = p95[(p95.index >= drop - 5 * MINUTE) & (p95.index < drop)].median()
    assert 5 * after <= before


def test_no_request_failed(scaling):
    assert series(scaling, "RequestsFailed").sum() == 0


def test_it_scales_in_late_and_back_to_two(scaling, drop):
    desired, running = series(scaling, "DesiredTaskCount"), series(scaling, "RunningTaskCount")
    scale_ins = desired[(desired.diff() < 0) & (desired.index > drop)]
    assert scale_ins.index[0] - drop >= 15 * MINUTE
    assert desired.iloc[-1] == running.iloc[-1] == 2


def test_the_alarms_moved(scaling, step, drop):
    high, low = series(scaling, "AlarmHigh"), series(scaling, "AlarmLow")
    assert high[(high.index > step) & (high.index < drop)].max() == 1
    assert low[low.index > drop].max() == 1
    assert set(high) | set(low) <= {0, 1}
