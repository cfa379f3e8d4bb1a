from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_notebook

from helpers import bench, bench_sandbox, builds, naming
from helpers.errors import TutorialError


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("from helpers import connect\nlab = connect()", "imports"),
        ("lab.catch_up(through='06')\nlab", "imports"),
        ("outputs = wait_for(name)", "waits"),
        ("app.until_steady()", "waits"),
        ("ecs.get_waiter('services_stable').wait(cluster=name)", "waits"),
        ("from helpers import wait_for\nwait_for(name)", "waits"),
        ("report = load(url, [Phase(5, rate=20)], watch=app)\napp.until_steady()", "load"),
        ("most = traffic.saturate(url)", "load"),
        ("stack = cloudformation.describe_stacks()", "rest"),
        ("%matplotlib inline", "rest"),
        ("'load(url) is only spoken of'", "rest"),
    ],
)
def test_a_cells_time_belongs_to_what_it_calls(source, kind):
    assert bench.kind_of(source) == kind


def cell(source: str, start: str, duration: float, kind: str = "code") -> dict:
    times = {"start_time": f"2026-01-02T03:04:{start}+00:00", "duration": duration}
    return {"cell_type": kind, "source": source, "metadata": {"papermill": times}}


def test_a_notebooks_time_is_split_and_nothing_of_it_is_lost():
    notebook = {
        "metadata": {"papermill": {"start_time": "2026-01-02T03:04:05+00:00", "duration": 20.0}},
        "cells": [
            {"cell_type": "markdown", "source": "not timed", "metadata": {}},
            cell("# Title", "05.75", 0.01, "markdown"),
            cell("lab = connect()", "06", 1.5),
            cell("wait_for(name)", "08", 4.0),
            cell("load(url, phases)", "12", 10.0),
            cell("1 + 1", "22", 0.25),
            {"cell_type": "code", "source": "not run", "metadata": {"papermill": {"duration": None}}},
        ],
    }
    parts = bench.split(notebook)
    assert parts == {"kernel": 0.75, "imports": 1.5, "waits": 4.0, "load": 10.0, "rest": 3.75}
    assert sum(parts.values()) == 20


def test_the_table_adds_up():
    one = {"kernel": 1.0, "imports": 1.0, "waits": 2.0, "load": 0.0, "rest": 1.0}
    lines = bench.journey_table({"00-a": one, "01-b": one}, total=12.5)
    assert [line.split()[-1] for line in lines] == ["all", "5.0", "5.0", "2.5", "12.5"]
    assert lines[-1].split() == ["in", "all", "2.0", "2.0", "4.0", "0.0", "4.5", "12.5"]


LOG = """\
03:04:05 sandbox              ready at http://127.0.0.1:1, 30 AWS seconds a second
03:14:05 sandbox              took: ecs DescribeServices: 120 calls, median 4.2 ms, longest 90.0 ms
03:14:05 sandbox              took: unsigned (another): 1 calls, median 1.0 ms, longest 1.0 ms
03:14:05 sandbox              took: cloudwatch GetMetricData: 3 calls, median 70.5 ms, longest 700.1 ms
03:14:05 sandbox              ended
"""


def test_calls_are_read_from_the_log_the_slowest_first_and_those_beyond_the_goal_marked():
    calls = bench.timings(LOG)
    assert [one["operation"] for one in calls] == ["GetMetricData", "DescribeServices", "(another)"]
    assert calls[1] == {
        "service": "ecs",
        "operation": "DescribeServices",
        "calls": 120,
        "median_ms": 4.2,
        "longest_ms": 90.0,
    }
    assert [line.endswith("slow") for line in bench.calls_table(calls)[1:]] == [True, False, False]


JOURNEY = {"journey": {"runtime": "container", "seconds": 231.4}, "calls": [], "slowest_call_ms": 12.5}
SANDBOX = {
    "runtime": "process",
    "first_answer_seconds": 1.2,
    "catch_up_seconds": 12.0,
    "idle": {"region": 4.0, "total": 6.5, "tasks": 2},
    "balancer": {"share": 0.55},
}
CONTAINERS = {
    "containers": {
        "images": {"size_share": 0.248, "added_share": 0.25, "rebuild_share": 0.07},
        "ten": {"healthy_seconds": 3.9, "cpu_reading": {"median_ms": 0.016}},
    }
}


@pytest.fixture
def measured(monkeypatch) -> Callable[..., tuple[int, list[str], dict]]:
    """bench() of these measurements, or of their failures: its status, what it says, what it keeps."""

    def bench_of(folder: Path, **given: dict | Exception) -> tuple[int, list[str], dict]:
        def part(name: str, usual: dict) -> Callable[..., dict]:
            def measure(*_: object) -> dict:
                found = given.get(name, usual)
                if isinstance(found, Exception):
                    raise found
                return found

            return measure

        for name, usual in {"journey": JOURNEY, "alone": SANDBOX, "containers": CONTAINERS}.items():
            monkeypatch.setattr(bench, name, part(name, usual))
        said: list[str] = []
        status = bench.bench(said.append, folder / "runs" / "bench.json")
        return status, said, json.loads((folder / "runs" / "bench.json").read_text())

    return bench_of


def line(said: list[str], words: str) -> list[str]:
    """What stands beside these words in the last table: the figure, its unit, its aim."""
    (found,) = [each for each in said if each.startswith(words)]
    return re.split(r"  +", found.removeprefix(words).strip())


def test_every_figure_stands_beside_its_aim(tmp_path, measured):
    status, said, kept = measured(tmp_path)
    assert status == 0
    assert line(said, "the whole journey") == ["231.4", "s", "under 240"]
    assert line(said, "the slowest AWS call's median") == ["12.5", "ms", "at most 50"]
    assert line(said, "requests through the balancer, of direct") == ["0.55", "at least 0.4"]
    assert line(said, "the good image, of the obvious one") == ["0.248", "at most 0.333"]
    assert line(said, "build after a changed line, of one from nothing") == ["0.07", "under 0.1"]
    assert line(said, "ten containers at once, until healthy") == ["3.9", "s", "under 10"]
    assert line(said, "reading a container's CPU") == ["0.016", "ms", "under 1"]
    assert line(said, "first answer after a start") == ["1.2", "s"]
    assert "Tasks as: the journey: containers, one sandbox: processes." in said
    assert kept["journey"]["runtime"] == "container"
    assert kept["containers"]["ten"]["healthy_seconds"] == 3.9
    assert {figure.goal for figure in bench.FIGURES} - {""} == set(kept["goals"])


def test_a_slow_machine_is_no_failure(tmp_path, measured):
    slow = {"first_answer_seconds": 60.0, "catch_up_seconds": 600.0, "balancer": {"share": 0.01}}
    calls = bench.timings(LOG)
    journey = {"journey": {"runtime": "process", "seconds": 9999}, "calls": calls, "slowest_call_ms": 70.5}
    status, said, kept = measured(tmp_path, alone=slow, journey=journey)
    assert (status, kept["failed"]) == (0, {})
    assert line(said, "catch_up(through='07') from nothing") == ["600", "s", "under 30", "<- missed"]
    assert line(said, "requests through the balancer, of direct") == ["0.01", "at least 0.4", "<- missed"]
    assert line(said, "the good image, of the obvious one")[-1] == "at most 0.333"
    assert line(said, "idle with the service's tasks") == ["not measured", "under 10"]
    assert "AWS calls with a median over 50 ms: cloudwatch GetMetricData" in said


def test_where_there_are_no_containers_it_says_why(tmp_path, measured):
    why = {"containers": {"not_measured": "no Docker Engine answers at unix:///nowhere."}}
    status, said, kept = measured(tmp_path, containers=why)
    assert (status, kept["failed"]) == (0, {})
    assert line(said, "ten containers at once, until healthy") == ["not measured", "under 10"]
    assert "Containers were not measured: no Docker Engine answers at unix:///nowhere." in said
    assert line(said, "catch_up(through='07') from nothing") == ["12", "s", "under 30"]


@pytest.mark.parametrize("part", ["journey", "alone", "containers"])
@pytest.mark.parametrize(
    "problem",
    [
        TutorialError("No notebooks here."),
        subprocess.TimeoutExpired(["node"], 32),
        psutil.NoSuchProcess(4711),
        OSError(28, "No space left on device"),
    ],
    ids=lambda problem: type(problem).__name__,
)
def test_what_could_be_measured_is_written_though_the_rest_could_not(tmp_path, measured, part, problem):
    status, said, kept = measured(tmp_path, **{part: problem})
    name = "sandbox" if part == "alone" else part
    assert status == 1
    assert list(kept["failed"]) == [name]
    assert any(each.startswith(f"{name} could not be measured") and str(problem) in each for each in said)
    whole = {"journey": "journey", "alone": "catch_up_seconds", "containers": "containers"}
    assert {key for key in whole.values() if key in kept} == set(whole.values()) - {whole[part]}


def notebook(folder: Path) -> None:
    made = new_notebook(metadata={"papermill": {"start_time": "2026-01-02T03:04:05+00:00", "duration": 4.25}})
    nbformat.write(made, folder / "07-create.ipynb")


def test_the_journeys_runtime_and_the_time_of_each_notebook_are_kept_and_its_images_go(tmp_path, monkeypatch):
    """With a run that is made up; it is told a name of bench's own, which no learner's images have."""
    told: list[dict] = []
    removed: list[str] = []
    folder = tmp_path / "latest"

    def journey(*, parameters: dict, say: Callable[[str], None]) -> int:
        told.append(parameters)
        folder.mkdir()
        notebook(folder)
        (folder / "summary.json").write_text('{"runtime": "container"}')
        (folder / "sandbox.log").write_text(LOG)
        return 0

    monkeypatch.setattr(bench.run, "run", journey)
    monkeypatch.setattr(bench.run, "RUNS", tmp_path)
    monkeypatch.setattr(builds, "remove_all", removed.append)
    said: list[str] = []
    found = bench.journey(said.append)
    assert found["journey"]["runtime"] == "container"
    assert found["journey"]["notebooks"]["07-create"] == dict.fromkeys(bench.PARTS, 0) | {
        "rest": 4.25,
        "seconds": 4.2,
    }
    assert found["slowest_call_ms"] == 70.5
    assert "\nIts tasks were containers." in said
    assert told == [{"name": bench_sandbox.NAME}]
    assert removed == [bench_sandbox.NAME]
    naming.check_name(bench_sandbox.NAME)
