"""`bench`: how fast the course is on this machine, into runs/bench.json.

What can be a ratio is one, both sides measured in turns within the same run: the machine is shared with others. No
figure fails anything; the status is 0 unless something could not be run. All in private sandboxes, which are ended, and
nothing that is built for them stays in the engine.
"""

from __future__ import annotations

import ast
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from helpers import run, session
from helpers.bench_containers import containers
from helpers.bench_sandbox import NAME, Attempt, Say, alone, remove_images, what_tasks_are
from helpers.errors import TutorialError
from helpers.machine_facts import cores

RESULT = run.RUNS / "bench.json"
GOALS = {
    "journey_seconds": 240,  # less is better, but for balancer_share
    "call_median_ms": 50,
    "balancer_share": 0.4,
    "idle_percent_of_a_core": 10,
    "catch_up_seconds": 30,
    "image_share": 0.333,
    "rebuild_share": 0.1,
    "ten_healthy_seconds": 10,
    "cpu_reading_ms": 1,
}
PARTS = ("kernel", "imports", "waits", "load", "rest")
TOOK = re.compile(r"took: (\S+) (\S+): (\d+) calls, median ([\d.]+) ms, longest ([\d.]+) ms")


@dataclass(frozen=True)
class Figure:
    """A line of the last table. `place`: where it is in what was measured; `goal`: its aim's name, "" for none; `rule`:
    "under", "at most" or "at least" that."""

    words: str
    place: tuple[str, ...]
    unit: str = ""
    goal: str = ""
    rule: str = "under"

    def value(self, measured: Any) -> float | None:
        for key in self.place:
            measured = measured.get(key) if isinstance(measured, dict) else None
        return measured

    def meets(self, value: float) -> bool:
        aim = GOALS.get(self.goal)
        if aim is None:
            return True
        return {"under": value < aim, "at most": value <= aim, "at least": value >= aim}[self.rule]


IMAGES, TEN = ("containers", "images"), ("containers", "ten")
FIGURES = (
    Figure("the whole journey", ("journey", "seconds"), "s", "journey_seconds"),
    Figure("the slowest AWS call's median", ("slowest_call_ms",), "ms", "call_median_ms", "at most"),
    Figure("first answer after a start", ("first_answer_seconds",), "s"),
    Figure("catch_up(through='07') from nothing", ("catch_up_seconds",), "s", "catch_up_seconds"),
    Figure("idle with the service's tasks", ("idle", "total"), "% of a core", "idle_percent_of_a_core"),
    Figure(
        "requests through the balancer, of direct", ("balancer", "share"), "", "balancer_share", "at least"
    ),
    Figure("the good image, of the obvious one", (*IMAGES, "size_share"), "", "image_share", "at most"),
    Figure("what each adds, on the same base", (*IMAGES, "added_share"), "", "image_share", "at most"),
    Figure(
        "build after a changed line, of one from nothing", (*IMAGES, "rebuild_share"), "", "rebuild_share"
    ),
    Figure("ten containers at once, until healthy", (*TEN, "healthy_seconds"), "s", "ten_healthy_seconds"),
    Figure("reading a container's CPU", (*TEN, "cpu_reading", "median_ms"), "ms", "cpu_reading_ms"),
)


def bench(say: Say, result: Path = RESULT) -> int:
    """Measure everything, a table for each part, and one of all figures with their aims; the exit status."""
    failed: dict[str, str] = {}
    attempt = attempts(say, failed)
    measured: dict[str, Any] = {"cores": cores(), "goals": GOALS}
    measured |= attempt("journey", lambda: journey(say))
    measured |= attempt("sandbox", lambda: alone(say, attempt))
    measured |= attempt("containers", lambda: containers(say, attempt))
    measured["failed"] = failed
    result.parent.mkdir(exist_ok=True)
    result.write_text(json.dumps(measured, indent=2) + "\n")
    for line in summary(measured):
        say(line)
    say(f"All figures: {os.path.relpath(result)}")
    return 1 if failed else 0


def attempts(say: Say, failed: dict[str, str]) -> Attempt:
    """What does a part so that its failure loses no other: the reason goes to `failed`, under the part's name."""

    def attempt(name: str, part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return part()
        except session.mishaps() as problem:
            kind = "" if isinstance(problem, TutorialError) else f"{type(problem).__name__}: "
            failed[name] = f"{kind}{problem}"
            say(f"{name} could not be measured. {failed[name]}")
            return {}

    return attempt


# --- the journey ------------------------------------------------------------------------------------------------------


def journey(say: Say) -> dict[str, Any]:
    """All notebooks, as `run` executes them: where the time goes, and what each AWS call took."""
    say(f"The whole journey, on {cores()} cores:")
    began = time.monotonic()
    try:
        # Under a name of its own: what it builds can go, and a learner's images stay.
        status = run.run(
            parameters={"name": NAME}, say=lambda text: say(text.rstrip("\n")) if text.strip() else None
        )
    finally:
        remove_images()
    total = time.monotonic() - began
    if status:
        raise TutorialError("The journey did not come to its end.", next="Read what it says above.")
    folder = (run.RUNS / "latest").resolve()
    runtime = json.loads((folder / "summary.json").read_text())["runtime"]
    notebooks = {path.stem: split(run.read(path)) for path in sorted(folder.glob("[0-9][0-9]-*.ipynb"))}
    calls = timings((folder / "sandbox.log").read_text(errors="replace"))
    say(f"\nIts tasks were {what_tasks_are(runtime)}.")
    for line in [*journey_table(notebooks, total), "", *calls_table(calls), ""]:
        say(line)
    each = {name: {"seconds": round(sum(parts.values()), 1)} | parts for name, parts in notebooks.items()}
    return {
        "journey": {"runtime": runtime, "seconds": round(total, 1), "notebooks": each},
        "calls": calls,
        "slowest_call_ms": max((one["median_ms"] for one in calls), default=None),
    }


def split(notebook: NotebookNode | dict) -> dict[str, float]:
    """Real seconds of an executed notebook by PARTS, from the times that papermill keeps."""
    parts = dict.fromkeys(PARTS, 0.0)
    whole = notebook["metadata"]["papermill"]
    ran = [
        cell for cell in notebook["cells"] if cell.get("metadata", {}).get("papermill", {}).get("duration")
    ]
    if ran:
        parts["kernel"] = _seconds(whole["start_time"], ran[0]["metadata"]["papermill"]["start_time"])
    for cell in ran:
        if cell["cell_type"] == "code":
            parts[kind_of(cell["source"])] += cell["metadata"]["papermill"]["duration"]
    parts["rest"] += max(0.0, whole["duration"] - sum(parts.values()))
    return {name: round(seconds, 2) for name, seconds in parts.items()}


def kind_of(source: str) -> str:
    """Which of PARTS a cell's time belongs to, by what it calls."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a magic or a shell line
        return "rest"
    calls = {_name(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    if calls & {"load", "saturate"}:
        return "load"
    if calls & {"wait_for", "wait"} or any(name.startswith("until") for name in calls):
        return "waits"
    imports = any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree))
    return "imports" if imports or calls & {"connect", "catch_up"} else "rest"


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _seconds(first: str, last: str) -> float:
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def timings(log: str) -> list[dict[str, Any]]:
    """What the sandbox's log says at its end of each operation, the slowest median first."""
    found = [
        {
            "service": service,
            "operation": operation,
            "calls": int(calls),
            "median_ms": float(middle),
            "longest_ms": float(longest),
        }
        for service, operation, calls, middle, longest in TOOK.findall(log)
    ]
    return sorted(found, key=lambda one: -one["median_ms"])


# --- what is printed --------------------------------------------------------------------------------------------------


def journey_table(notebooks: dict[str, dict[str, float]], total: float) -> list[str]:
    """A line per notebook, real seconds."""
    sums = {part: sum(parts[part] for parts in notebooks.values()) for part in PARTS}
    between = dict.fromkeys(PARTS, 0.0) | {"rest": max(0.0, total - sum(sums.values()))}
    rows = [*notebooks.items(), ("between notebooks", between), ("in all", _added(sums, between))]
    head = f"{'real seconds':<40}" + "".join(f"{part:>9}" for part in PARTS) + f"{'all':>9}"
    return [head] + [
        f"{name:<40}" + "".join(f"{parts[part]:>9.1f}" for part in PARTS) + f"{sum(parts.values()):>9.1f}"
        for name, parts in rows
    ]


def _added(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {part: one[part] + other[part] for part in PARTS}


def calls_table(calls: list[dict[str, Any]], most: int = 12) -> list[str]:
    """The slowest operations; an arrow at those beyond the goal."""
    lines = [f"{'AWS call, the slowest':<52}{'calls':>7}{'median ms':>11}{'longest':>9}"]
    for one in calls[:most]:
        slow = "  <- slow" if one["median_ms"] > GOALS["call_median_ms"] else ""
        name = f"{one['service']} {one['operation']}"
        lines.append(f"{name:<52}{one['calls']:>7}{one['median_ms']:>11.1f}{one['longest_ms']:>9.0f}{slow}")
    return lines


def summary(measured: dict[str, Any]) -> list[str]:
    """A line per figure with its aim, and below what goes with them. An arrow at those that miss it."""
    wide = max(len(figure.words) for figure in FIGURES)
    lines = [f"{'':<{wide}}{'here':>9}  {'':<11}  aim"]
    lines += [_line(figure, figure.value(measured), wide) for figure in FIGURES]
    runtimes = {
        "the journey": measured.get("journey", {}).get("runtime"),
        "one sandbox": measured.get("runtime"),
    }
    told = [f"{what}: {what_tasks_are(runtime)}" for what, runtime in runtimes.items() if runtime]
    if told:
        lines.append(f"Tasks as: {', '.join(told)}.")
    slow = [one for one in measured.get("calls", []) if one["median_ms"] > GOALS["call_median_ms"]]
    if slow:
        named = ", ".join(f"{one['service']} {one['operation']}" for one in slow)
        lines.append(f"AWS calls with a median over {GOALS['call_median_ms']} ms: {named}")
    if why := measured.get("containers", {}).get("not_measured"):
        lines.append(f"Containers were not measured: {why}")
    return lines


def _line(figure: Figure, value: float | None, wide: int) -> str:
    here = "not measured" if value is None else f"{value:g}"
    aim = f"{figure.rule} {GOALS[figure.goal]:g}" if figure.goal else ""
    if value is None:
        return f"{figure.words:<{wide}}  {here:<20}  {aim}".rstrip()
    missed = "" if figure.meets(value) else "  <- missed"
    return f"{figure.words:<{wide}}{here:>9}  {figure.unit:<11}  {aim}{missed}".rstrip()
