"""What needs an engine, measured: shares of made-up images, and ten tasks (here three) in a real one."""

from __future__ import annotations

import os
from typing import Any

import pandas as pd
import pytest

from helpers import bench, bench_containers, bench_sandbox, session, this_machine
from helpers.dockerfile import stages
from helpers.errors import SetupError, TutorialError
from helpers.sandbox.fargate.engine import SANDBOX, sandbox_label


def test_images_are_compared_whole_and_on_the_same_base():
    table = pd.DataFrame(
        {
            "obvious": {"build from nothing, s": 4.0, "of that, in %": 99},
            "good": {"build from nothing, s": 5.5, "of that, in %": 7},
        },
        dtype=object,
    )
    sizes, bases = (
        {"obvious": 810_000_000, "good": 202_500_000},
        {"obvious": 800_000_000, "good": 200_000_000},
    )
    assert bench_containers.image_shares(table, sizes, bases) == {
        "size_mb": {"obvious": 810.0, "good": 202.5},
        "size_share": 0.25,
        "added_mb": {"obvious": 10.0, "good": 2.5},
        "added_share": 0.25,
        "cold_seconds": {"obvious": 4.0, "good": 5.5},
        "rebuild_share": 0.07,
        "obvious_rebuild_share": 0.99,
    }


def test_the_obvious_file_is_that_of_notebook_02(checkout):
    notebook = (checkout / "notebooks" / "02-write-the-dockerfile.ipynb").read_text()
    assert all(step in notebook.replace('\\"', '"') for step in bench_containers.OBVIOUS.splitlines())
    assert [stage.base for stage in stages(bench_containers.OBVIOUS)] == ["node:latest"]


def test_the_time_of_a_reading_is_for_one_task():
    """A clock that every look at it moves by 3 ms, and every reading by 1 ms; but one of them takes 100."""
    now = [0.0]
    takes = iter([0.1] + [0.001] * 1000)

    def look() -> float:
        now[0] += 0.003
        return now[0]

    def read() -> float:
        now[0] += next(takes)
        return 1.0

    found = bench_containers.cpu_reading([read, read, None], look)
    assert found["tasks"] == 2
    assert found["median_ms"] == pytest.approx((2 + 3) / 2)
    assert found["longest_ms"] == pytest.approx((100 + 1 + 3) / 2)


def test_where_the_kernel_tells_nothing_no_reading_is_timed():
    found = bench_containers.cpu_reading([None, None])
    assert found == {"not_measured": bench_containers.ONCE_A_SECOND}
    assert "once a second" in bench_containers.reading_in_words(found)


def test_without_an_engine_it_says_why_and_fails_nothing(monkeypatch):
    def no_engine() -> None:
        raise SetupError("There is no Docker Engine to work with.", seen="no Docker Engine answers.")

    monkeypatch.setattr(this_machine, "find_engine", no_engine)
    failed: dict[str, str] = {}
    said: list[str] = []
    found = bench_containers.containers(said.append, bench.attempts(said.append, failed))
    assert found == {"containers": {"not_measured": "no Docker Engine answers."}}
    assert failed == {}
    assert said[-1] == "not measured: no Docker Engine answers."


class Stuck:
    """A service of which one task is healthy, whatever is asked of it."""

    cluster = name = "shop"

    def counts(self) -> dict[str, int]:
        return {"healthy": 1}

    def until_steady(self, timeout: float, desired: int) -> None:
        raise TutorialError(f"not {desired}")


def test_tasks_that_never_get_healthy_are_told(monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(bench_containers, "scale", lambda service, tasks: asked.append(tasks))
    monkeypatch.setattr(bench_containers, "PATIENCE", 0.0)
    assert bench_containers.healthy_after(Stuck(), 1) >= 0
    with pytest.raises(TutorialError, match="not 2"):
        bench_containers.healthy_after(Stuck(), 2)
    assert asked == [1, 2]


def test_tasks_are_measured_though_images_could_not_be_and_nothing_stays(engine, monkeypatch):
    name = f"bench-{os.getpid()}"
    states: list[str] = []
    here = this_machine.engine_labels

    def noted() -> dict[str, str]:
        states.append(here()[SANDBOX])
        return here()

    def failing(say: Any) -> dict[str, Any]:
        raise TutorialError("The obvious image cannot be built.")

    for module in (bench_sandbox, bench_containers):
        monkeypatch.setattr(module, "NAME", name)
    monkeypatch.setattr(this_machine, "engine_labels", noted)
    monkeypatch.setattr(bench_containers, "images", failing)
    monkeypatch.setattr(bench_containers, "TASKS", 3)
    failed: dict[str, str] = {}
    said: list[str] = []
    found = bench_containers.containers(said.append, bench.attempts(said.append, failed))["containers"]
    if "not_measured" in found:
        pytest.skip(found["not_measured"])
    assert failed == {"images": "The obvious image cannot be built."}, said
    ten = found["ten"]
    assert (ten["tasks"], ten["cpu_reading"].get("tasks", 3)) == (3, 3)
    assert ten["one_healthy_seconds"] > 0
    assert ten["healthy_seconds"] > 0
    assert states
    assert states[0] != sandbox_label(session.state_directory())
    for state in states:
        wanted = {"label": f"{SANDBOX}={state}"}
        assert engine.api.containers(all=True, filters=wanted) + engine.api.networks(filters=wanted) == []
    assert [tag for image in engine.images.list() for tag in image.tags if name in tag] == []
    assert engine.api.images(filters={"label": f"tutorial={name}"}) == []
