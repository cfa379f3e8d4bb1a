"""The scheduler's arithmetic against AWS's documented examples, and properties that hold for any service."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.sandbox.ecs.deployments import Phase, Plan, TaskView, failure_threshold, limits, plan

P, W, H, U, S = Phase.PENDING, Phase.WAITING, Phase.HEALTHY, Phase.UNHEALTHY, Phase.STOPPING


def views(deployment: str, *phases: Phase, zones: str = "abc", first: int = 0) -> list[TaskView]:
    return [
        TaskView(
            f"{deployment}{first + i}", deployment, zones[(first + i) % len(zones)], phase, float(first + i)
        )
        for i, phase in enumerate(phases)
    ]


@pytest.mark.parametrize(
    ("desired", "minimum", "maximum", "expected"),
    [
        (4, 50, 200, (2, 8)),  # ECS developer guide: four tasks, 50 %: two may stop first
        (2, 75, 200, (2, 4)),  # ECS developer guide: 75 % of two rounds up to two
        (4, 100, 125, (4, 5)),
        (3, 50, 150, (2, 4)),  # up to 2, down to 4
        (1, 100, 150, (1, 1)),
        (0, 100, 200, (0, 0)),
    ],
)
def test_limits_round_up_and_down(desired, minimum, maximum, expected):
    assert limits(desired, minimum, maximum) == expected


@pytest.mark.parametrize(
    ("desired", "breaker", "expected"),
    [
        (1, {}, 3),
        (2, {}, 3),
        (6, {}, 3),
        (25, {}, 13),
        (400, {}, 200),
        (800, {}, 200),
        (10, {"thresholdConfiguration": {"type": "COUNT", "value": 2}}, 2),
        (10, {"thresholdConfiguration": {"type": "BOUNDED_PERCENT", "value": 10}}, 3),
        (10, {"thresholdConfiguration": {"type": "UNBOUNDED_PERCENT", "value": 10}}, 1),
    ],
)
def test_circuit_breaker_threshold(desired, breaker, expected):
    assert failure_threshold(desired, breaker) == expected


@pytest.mark.parametrize(
    ("case", "arguments", "tasks", "options", "expected"),
    [
        ("first start", (3, 100, 200, ["n"]), [], {}, Plan({"n": 3})),
        ("nothing to do", (2, 100, 200, ["n"]), views("n", H, H), {}, Plan()),
        ("scale out", (5, 100, 200, ["n"]), views("n", H, H), {}, Plan({"n": 3})),
        ("on its way", (2, 100, 200, ["n"]), views("n", P, W), {}, Plan()),
        ("a stopping task is no task", (2, 100, 200, ["n"]), views("n", H, S), {}, Plan({"n": 1})),
        ("scale in takes the pending one", (2, 100, 200, ["n"]), views("n", H, H, P), {}, Plan(stop=("n2",))),
        (
            "scale in from the fullest zone",
            (3, 100, 200, ["n"]),
            views("n", H, H, H, H, zones="aba"),
            {},
            Plan(stop=("n3",)),
        ),
        ("to zero", (0, 100, 200, ["n"]), views("n", H, P), {}, Plan(stop=("n0", "n1"))),
        (
            "100/200 doubles first",
            (2, 100, 200, ["n", "o"]),
            views("o", H, H),
            {"source": "o"},
            Plan({"n": 2}),
        ),
        (
            "100/200 waits for health",
            (2, 100, 200, ["n", "o"]),
            views("o", H, H) + views("n", W, P),
            {"source": "o"},
            Plan(),
        ),
        (
            "one new healthy, one old goes",
            (2, 100, 200, ["n", "o"]),
            views("o", H, H) + views("n", H, W),
            {"source": "o"},
            Plan(stop=("o1",)),
        ),
        (
            "all new healthy, all old go",
            (2, 100, 200, ["n", "o"]),
            views("o", H, H) + views("n", H, H),
            {"source": "o"},
            Plan(stop=("o0", "o1")),
        ),
        (
            "50/100 stops two first and starts two",  # the developer guide's example of four
            (4, 50, 100, ["n", "o"]),
            views("o", H, H, H, H),
            {"source": "o"},
            Plan({"n": 2}, ("o2", "o3")),
        ),
        (
            "100/125 goes one by one",
            (4, 100, 125, ["n", "o"]),
            views("o", H, H, H, H),
            {"source": "o"},
            Plan({"n": 1}),
        ),
        (
            "no room either way",  # AWS tells so in an event
            (1, 100, 150, ["n", "o"]),
            views("o", H),
            {"source": "o"},
            Plan(blocked=True),
        ),
        (
            "replacement first, stop after",
            (2, 100, 200, ["n"]),
            views("n", H, U),
            {},
            Plan({"n": 1}),
        ),
        (
            "replacement serves, the unhealthy one goes",
            (2, 100, 200, ["n"]),
            views("n", H, U, H),
            {},
            Plan(stop=("n1",)),
        ),
        (
            "no room for a replacement: one unhealthy goes",
            (2, 50, 100, ["n"]),
            views("n", U, U),
            {},
            Plan(stop=("n1",)),
        ),
        (
            "a task lost during a deployment comes back as what it was",  # AWS, November 2025
            (2, 100, 200, ["n", "o"]),
            views("o", H) + views("n", W, P),
            {"source": "o"},
            Plan({"o": 1}),
        ),
        (
            "a scale-out during a deployment reaches both revisions",  # AWS, November 2025
            (4, 100, 200, ["n", "o"]),
            views("o", H, H) + views("n", W, P),
            {"source": "o"},
            Plan({"o": 2, "n": 2}),
        ),
        (
            "a failed deployment launches nothing",
            (2, 100, 200, ["n"]),
            [],
            {"launching": False},
            Plan(),
        ),
        (
            "a failed deployment leaves the old tasks",
            (2, 100, 200, ["n", "o"]),
            views("o", H, H),
            {"source": "o", "launching": False},
            Plan(),
        ),
        (
            "rollback: the failed deployment's tasks go first",
            (2, 100, 200, ["r", "o", "f"]),
            views("o", H, H) + views("f", W),
            {"source": "o"},
            Plan({"r": 2}, ("f0",)),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_plan(case, arguments, tasks, options, expected):
    assert plan(*arguments, tasks, **options) == expected


phases = st.sampled_from(list(Phase))
worlds = st.lists(st.tuples(st.sampled_from("no"), st.sampled_from("abc"), phases), max_size=12)
settings_ = st.tuples(
    st.integers(0, 6), st.sampled_from([0, 25, 50, 75, 100]), st.sampled_from([100, 125, 150, 200, 300])
)


def world(drawn: list[tuple[str, str, Phase]]) -> list[TaskView]:
    return [TaskView(f"t{i}", dep, zone, phase, float(i)) for i, (dep, zone, phase) in enumerate(drawn)]


@given(settings_, worlds, st.booleans())
def test_no_plan_breaks_the_limits(setting, drawn, launching):
    desired, minimum, maximum = setting
    tasks = world(drawn)
    lowest, highest = limits(desired, minimum, maximum)
    made = plan(desired, minimum, maximum, ["n", "o"], tasks, source="o", launching=launching)
    by_id = {task.id: task for task in tasks}
    alive = [task for task in tasks if task.phase is not S]
    after = len(alive) - len(made.stop) + sum(made.start.values())
    assert not made.start or after <= highest
    healthy = sum(task.phase is H for task in tasks)
    stopped_healthy = sum(by_id[i].phase is H for i in made.stop)
    assert stopped_healthy == 0 or healthy - stopped_healthy >= lowest
    assert all(by_id[i].phase is not S for i in made.stop)
    assert launching or "n" not in made.start


@given(settings_, worlds)
def test_doing_what_was_planned_leaves_nothing_contradictory(setting, drawn):
    """A task just started is never stopped by the next plan: no flapping."""
    desired, minimum, maximum = setting
    tasks = world(drawn)
    made = plan(desired, minimum, maximum, ["n", "o"], tasks, source="o")
    tasks = apply(tasks, made, 100)
    started = {task.id for task in tasks if task.created_at >= 100}
    again = plan(desired, minimum, maximum, ["n", "o"], tasks, source="o")
    assert not started & set(again.stop)


@settings(deadline=None)
@given(settings_, worlds)
def test_any_world_converges(setting, drawn):
    """When started tasks become healthy, the service ends with the desired count of the PRIMARY's tasks."""
    desired, minimum, maximum = setting
    tasks = world(drawn)
    for step in range(12 + 4 * (desired + len(tasks))):
        made = plan(desired, minimum, maximum, ["n", "o"], tasks, source="o")
        tasks = advance(apply(tasks, made, 100 * (step + 1)))
    alive = [task for task in tasks if task.phase is not S]
    if blocked_for_ever(desired, minimum, maximum, alive):
        assert made.blocked
        return
    assert Counter((task.deployment, task.phase) for task in alive) == (
        {("n", H): desired} if desired else {}
    )


@given(st.integers(1, 9), st.integers(0, 9))
def test_scale_in_leaves_zones_even(before, after):
    tasks = views("n", *[H] * before)
    made = plan(min(after, before), 100, 200, ["n"], tasks)
    zones = Counter(task.zone for task in tasks if task.id not in made.stop)
    assert max(zones.values(), default=0) - min((zones[z] for z in "abc"), default=0) <= 1


def blocked_for_ever(desired: int, minimum: int, maximum: int, alive: list[TaskView]) -> bool:
    lowest, highest = limits(desired, minimum, maximum)
    return lowest == highest == desired and any(task.deployment == "o" for task in alive)


def apply(tasks: list[TaskView], made: Plan, now: float) -> list[TaskView]:
    kept = [
        TaskView(t.id, t.deployment, t.zone, S if t.id in made.stop else t.phase, t.created_at) for t in tasks
    ]
    for deployment, count in made.start.items():
        kept += [
            TaskView(f"{deployment}-{now}-{i}", deployment, "abc"[i % 3], P, now + i) for i in range(count)
        ]
    return kept


def advance(tasks: list[TaskView]) -> list[TaskView]:
    onward = {P: W, W: H, H: H, U: U}
    return [
        TaskView(t.id, t.deployment, t.zone, onward[t.phase], t.created_at) for t in tasks if t.phase is not S
    ]


def test_limits_agree_with_the_definition():
    for desired in range(20):
        for percent in (0, 33, 50, 66, 100):
            assert limits(desired, percent, 200)[0] == math.ceil(desired * percent / 100)
