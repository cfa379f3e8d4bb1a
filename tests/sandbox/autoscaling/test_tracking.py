"""The rule of target tracking: a table from AWS's documentation, and what must hold for any input."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.sandbox.autoscaling.tracking import Decision, ScaleOut, choose, decide, gradual, one_at_a_time

NOW = 10_000.0
CALM = {"current": 2, "minimum": 2, "maximum": 10, "target": 50.0, "metric": 50.0, "now": NOW}
OUT = {**CALM, "high": True, "low": False}
IN = {**CALM, "high": False, "low": True}


def ran(ago: float, before: int, reached: int) -> ScaleOut:
    """A scale-out that was fulfilled so many AWS seconds ago."""
    return ScaleOut(NOW - ago - 25, NOW - ago, before, reached)


@pytest.mark.parametrize(
    ("given_", "capacity", "code"),
    [
        # Proportional, rounded up; one step multiplies by at most 100 / target, since CPU ends at 100 %.
        ({**OUT, "metric": 100.0}, 4, None),
        ({**OUT, "metric": 71.5, "current": 4}, 6, None),
        ({**OUT, "metric": 100.0, "target": 70.0}, 3, None),
        ({**OUT, "metric": 50.1}, 3, None),
        ({**OUT, "metric": 100.0, "current": 3}, 6, None),
        # "Target tracking doesn't scale beyond MaxCapacity."
        ({**OUT, "metric": 100.0, "current": 8}, 10, None),
        ({**OUT, "metric": 100.0, "current": 10}, None, "AlreadyAtMaxCapacity"),
        ({**OUT, "metric": 100.0, "current": 12}, None, "AlreadyAtMaxCapacity"),
        ({**OUT, "metric": 40.0, "current": 4}, None, "AlreadyAtDesiredCapacity"),  # the alarm lags behind
        # Scale-out cooldown: the capacity added counts, only a larger scale-out acts. The documentation's example: 2 were
        # added; a scale-out of 3 during the cooldown adds 1.
        (
            {**OUT, "metric": 100.0, "current": 4, "last_scale_out": ran(10, 2, 4)},
            None,
            "AlreadyAtDesiredCapacity",
        ),
        (
            {**OUT, "metric": 71.5, "current": 4, "last_scale_out": ran(299, 2, 4)},
            None,
            "AlreadyAtDesiredCapacity",
        ),
        ({**OUT, "metric": 71.5, "current": 4, "last_scale_out": ran(300, 2, 4)}, 6, None),
        ({**OUT, "metric": 125.0, "current": 4, "last_scale_out": ran(10, 2, 4)}, 5, None),
        (
            {**OUT, "metric": 71.5, "current": 4, "last_scale_out": ran(60, 2, 4), "scale_out_cooldown": 60},
            6,
            None,
        ),
        # The cooldown starts when the scale-out has succeeded; until then it holds back as well.
        (
            {**OUT, "metric": 90.0, "current": 4, "last_scale_out": ScaleOut(NOW - 900, None, 2, 4)},
            None,
            "AlreadyAtDesiredCapacity",
        ),
        # "However, if another alarm triggers a scale-out during the scale-in cooldown, it scales out immediately."
        ({**OUT, "metric": 100.0, "last_scale_in": NOW - 10}, 4, None),
        (
            {**OUT, "metric": 100.0, "deployment_running": True},
            4,
            None,
        ),  # scale-out goes on during a deployment
        ({**OUT, "metric": None}, None, None),
        # In: rounded up too, never below MinCapacity.
        ({**IN, "metric": 20.0, "current": 6}, 3, None),
        ({**IN, "metric": 6.0, "current": 6}, 2, None),
        ({**IN, "metric": 0.0, "current": 6}, 2, None),
        ({**IN, "metric": 20.0, "current": 6, "scale_in": one_at_a_time}, 5, None),
        ({**IN, "metric": 20.0, "current": 2}, None, "AlreadyAtMinCapacity"),
        ({**IN, "metric": 44.0, "current": 4}, None, "AutoScalingAnticipatedFlapping"),  # 3 would be at 58.7
        ({**IN, "metric": 20.0, "current": 6, "last_scale_in": NOW - 299}, None, None),
        ({**IN, "metric": 20.0, "current": 6, "last_scale_in": NOW - 300}, 3, None),
        ({**IN, "metric": 20.0, "current": 6, "last_scale_in": math.inf}, None, None),
        ({**IN, "metric": 20.0, "current": 6, "disable_scale_in": True}, None, None),
        ({**IN, "metric": 20.0, "current": 6, "deployment_running": True}, None, None),
        ({**IN, "metric": None, "current": 6}, None, None),
        ({**CALM, "high": False, "low": False, "metric": 99.0}, None, None),
    ],
)
def test_a_policy_decides_as_documented(given_, capacity, code):
    decision = decide(**given_)
    assert decision.capacity == capacity
    assert (decision.not_scaled or {}).get("Code") == code


def test_a_not_scaled_reason_tells_the_limit_that_it_is_about():
    assert decide(**{**OUT, "metric": 100.0, "current": 10}).not_scaled["MaxCapacity"] == 10
    assert decide(**IN).not_scaled["MinCapacity"] == 2


@st.composite
def situations(draw):
    minimum = draw(st.integers(0, 10))
    maximum = draw(st.integers(minimum, 40))
    current = draw(st.integers(0, 50))
    before = draw(st.integers(0, 50))
    times = st.floats(NOW - 2000, NOW)
    started = draw(times)
    fulfilled = draw(st.none() | st.floats(started, NOW))
    high = draw(st.booleans())
    return {
        "current": current,
        "minimum": minimum,
        "maximum": maximum,
        "target": draw(st.floats(1, 99)),
        "metric": draw(st.none() | st.floats(0, 100)),
        "high": high,
        "low": not high and draw(st.booleans()),
        "now": NOW,
        "last_scale_out": draw(
            st.none() | st.just(ScaleOut(started, fulfilled, before, draw(st.integers(before, 50))))
        ),
        "last_scale_in": draw(st.none() | times),
        "scale_out_cooldown": draw(st.floats(0, 600)),
        "scale_in_cooldown": draw(st.floats(0, 600)),
        "disable_scale_in": draw(st.booleans()),
        "deployment_running": draw(st.booleans()),
        "scale_in": draw(st.sampled_from([gradual, one_at_a_time])),
    }


@given(situations())
def test_never_outside_of_the_range_and_always_with_a_reason(situation):
    decision = decide(**situation)
    assert decision.capacity is None or situation["minimum"] <= decision.capacity <= situation["maximum"]
    assert decision.reason


@given(situations())
def test_an_alarm_only_moves_capacity_its_own_way(situation):
    capacity = decide(**situation).capacity
    if capacity is not None:
        assert capacity > situation["current"] if situation["high"] else capacity < situation["current"]


@given(situations())
def test_never_in_during_a_deployment_nor_when_disabled(situation):
    if situation["deployment_running"] or situation["disable_scale_in"]:
        capacity = decide(**situation).capacity
        assert capacity is None or capacity > situation["current"]


@given(situations())
def test_missing_data_does_nothing(situation):
    assert decide(**{**situation, "metric": None}).capacity is None


@given(situations(), st.floats(0, 100), st.floats(0, 100))
def test_more_load_never_asks_for_less(situation, one, other):
    low, high = sorted((one, other))
    less, more = (decide(**{**situation, "metric": metric}).capacity for metric in (low, high))
    current = situation["current"]
    assert (current if less is None else less) <= (current if more is None else more)


@given(situations())
def test_in_a_cooldown_only_a_larger_scale_out_acts(situation):
    last = ScaleOut(NOW - 30, NOW - 5, 3, 6)
    situation |= {"high": True, "low": False, "last_scale_out": last, "scale_out_cooldown": 300, "current": 6}
    decision = decide(**situation)
    wanted = (
        0 if situation["metric"] is None else math.ceil(3 * situation["metric"] / situation["target"] - 1e-9)
    )
    assert decision.capacity is None or decision.capacity > 6
    if wanted > 6 and situation["maximum"] > 6:
        assert decision.capacity == max(min(wanted, situation["maximum"]), situation["minimum"])


@given(situations())
def test_a_scale_out_ends_a_scale_in_cooldown(situation):
    situation |= {"high": False, "low": True, "scale_in_cooldown": 10_000, "last_scale_in": NOW - 100}
    after = decide(**{**situation, "last_scale_out": ScaleOut(NOW - 50, NOW - 25, 1, 2)})
    never = decide(**{**situation, "last_scale_out": None, "last_scale_in": None})
    assert after == never
    assert decide(**{**situation, "last_scale_out": ScaleOut(NOW - 150, NOW - 125, 1, 2)}).capacity is None


def test_several_policies_out_if_any_is_ready_and_the_largest_wins():
    none = Decision(None, "neither alarm is in ALARM")
    assert choose([none, Decision(4, "", "out"), Decision(6, "", "out")]).capacity == 6
    assert choose([Decision(3, "", "in"), Decision(4, "", "out")]).capacity == 4


def test_several_policies_in_only_if_all_that_may_are_ready():
    ready, waiting = Decision(3, "", "in"), Decision(None, "cooldown", "in")
    assert choose([ready, Decision(4, "", "in")]).capacity == 4
    assert choose([ready, waiting]).capacity is None
    assert choose([ready, Decision(None, "neither alarm is in ALARM")]).capacity is None
    assert choose([ready, Decision(None, "its scale-in is disabled", "in", abstains=True)]).capacity == 3


@given(st.lists(situations(), min_size=1, max_size=4))
def test_a_choice_is_always_one_of_the_decisions(all_situations):
    decisions = [decide(**situation) for situation in all_situations]
    assert any(choose(decisions) is decision for decision in decisions)
