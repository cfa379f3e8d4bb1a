"""Stands in for target tracking itself: the rule by which a policy changes a service's desired count.

Differs: AWS publishes neither its formula nor the size of a scale-in. What its documentation does say (the cooldowns,
several policies, nothing in during a deployment, rounding) is followed; the rest is proportional, and named so.
Everything here is a pure function; `autoscaler.py` is the loop around it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

COOLDOWN = 300.0  # AWS seconds; ECS's default for both cooldowns

ScaleIn = Callable[[int, float, float], int]  # (capacity, metric, target) -> capacity


@dataclass(frozen=True)
class ScaleOut:
    """The last scale-out: when it began, when the tasks ran (None: not yet), and the capacity before and after."""

    started: float
    fulfilled: float | None
    before: int
    reached: int


@dataclass(frozen=True)
class Decision:
    """What one policy wants. `capacity` None: no change. `direction`: the alarm that called, "out", "in" or None.
    `abstains`: it has no say in scale-in. `not_scaled`: AWS's NotScaledReason, where it has a code for the reason."""

    capacity: int | None
    reason: str
    direction: str | None = None
    abstains: bool = False
    not_scaled: dict[str, Any] | None = None


def proportional(capacity: int, metric: float, target: float) -> int:
    """The capacity at which the same load would meet the target, rounded up (the careful way in both directions)."""
    return math.ceil(capacity * metric / target - 1e-9)


def gradual(capacity: int, metric: float, target: float) -> int:
    """The size of a scale-in: all the way to where the metric would meet the target. AWS does not publish its rule."""
    return proportional(capacity, metric, target)


def one_at_a_time(capacity: int, metric: float, target: float) -> int:
    """The same, at most one task per action."""
    return max(capacity - 1, proportional(capacity, metric, target))


def decide(
    *,
    current: int,
    minimum: int,
    maximum: int,
    target: float,
    metric: float | None,
    high: bool,
    low: bool,
    now: float,
    last_scale_out: ScaleOut | None = None,
    last_scale_in: float | None = None,
    scale_out_cooldown: float = COOLDOWN,
    scale_in_cooldown: float = COOLDOWN,
    disable_scale_in: bool = False,
    deployment_running: bool = False,
    scale_in: ScaleIn = gradual,
) -> Decision:
    """What one target tracking policy does when it is invoked. Times in AWS seconds; `high`, `low`: is the alarm in ALARM;
    `last_scale_in`: when it was fulfilled (infinity: not yet)."""
    if not (high or low):
        return Decision(None, "neither alarm is in ALARM", abstains=disable_scale_in)
    if metric is None:
        return Decision(None, "there is no recent datapoint", abstains=disable_scale_in)
    bounds = (minimum, maximum)
    if high:
        during = last_scale_out if cooling(last_scale_out, scale_out_cooldown, now) else None
        return replace(_out(current, bounds, target, metric, during), abstains=disable_scale_in)
    if disable_scale_in:
        return Decision(None, "its scale-in is disabled", "in", abstains=True)
    if deployment_running:
        return Decision(None, "a deployment is running, during which nothing is scaled in", "in")
    if last_scale_out is not None and last_scale_in is not None and last_scale_out.started >= last_scale_in:
        last_scale_in = None  # a scale-out ends the scale-in cooldown
    if last_scale_in is not None and now < last_scale_in + scale_in_cooldown:
        return Decision(None, "the scale-in cooldown has not ended", "in")
    return _in(current, bounds, target, metric, scale_in)


def cooling(last: ScaleOut | None, cooldown: float, now: float) -> bool:
    """The cooldown starts when a scale-out has succeeded; one on its way holds back in the same manner."""
    return last is not None and (last.fulfilled is None or now < last.fulfilled + cooldown)


def _out(
    current: int, bounds: tuple[int, int], target: float, metric: float, during: ScaleOut | None
) -> Decision:
    """`during`: the scale-out whose cooldown lasts. The capacity that it added counts towards the next one, which is
    therefore computed from the capacity before it: datapoints from before the new tasks ran would otherwise multiply
    what they have multiplied already."""
    minimum, maximum = bounds
    base, least = (during.before, max(current, during.reached)) if during else (current, current)
    wanted = max(min(proportional(base, metric, target), maximum), minimum)
    said = f"{metric:.1f} on {base} with a target of {target:g} asks for {wanted}"
    if wanted > least:
        return Decision(wanted, said + (", more than the last scale-out" if during else ""), "out")
    if current >= maximum:
        at_maximum = {"Code": "AlreadyAtMaxCapacity", "MaxCapacity": maximum}
        return Decision(None, f"already at the maximum of {maximum}", "out", not_scaled=at_maximum)
    at_desired = {"Code": "AlreadyAtDesiredCapacity", "CurrentCapacity": current}
    why = f"{said}, and the cooldown counts the {least} there are" if during else said
    return Decision(None, why, "out", not_scaled=at_desired)


def _in(current: int, bounds: tuple[int, int], target: float, metric: float, scale_in: ScaleIn) -> Decision:
    minimum, maximum = bounds
    wanted = max(min(scale_in(current, metric, target), maximum), minimum)
    said = f"{metric:.1f} on {current} with a target of {target:g} asks for {wanted}"
    if wanted < current:
        return Decision(wanted, said, "in")
    if current <= minimum:
        at_minimum = {"Code": "AlreadyAtMinCapacity", "MinCapacity": minimum}
        return Decision(None, f"already at the minimum of {minimum}", "in", not_scaled=at_minimum)
    flapping = {"Code": "AutoScalingAnticipatedFlapping", "CurrentCapacity": current}
    return Decision(None, f"{said}; fewer would be above the target", "in", not_scaled=flapping)


def choose(decisions: Iterable[Decision]) -> Decision:
    """Of several policies' decisions: out if any is ready, in only if all with scale-in enabled are; the largest wins."""
    decisions = list(decisions)
    out = [one for one in decisions if one.direction == "out" and one.capacity is not None]
    if out:
        return max(out, key=lambda decision: decision.capacity)
    voters = [one for one in decisions if not one.abstains]
    if voters and all(one.direction == "in" and one.capacity is not None for one in voters):
        return max(voters, key=lambda decision: decision.capacity)
    refused = [one for one in decisions if one.capacity is None]
    return next((one for one in refused if one.direction), refused[0])
