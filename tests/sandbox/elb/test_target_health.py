"""A target's states against aws-facts, section 4, with a clock that stands still."""

from __future__ import annotations

import pytest

from helpers.sandbox.elb.envoy import Host
from helpers.sandbox.elb.envoy_config import HealthCheck
from helpers.sandbox.elb.target_health import (
    CHECKING,
    FAILED,
    HEALTHY,
    REGISTERING,
    TIMED_OUT,
    Group,
    Target,
    checked,
    wrong_code,
)
from tests.sandbox.manual_clock import ManualClock

ADDRESS = ("127.0.0.1", 40001)
GROUP = Group("arn", 3000, HealthCheck(unhealthy=3), None, 30, 300, "round_robin", used=True)


def host(pending: bool = False, failing: bool = False, timed_out: bool = False) -> Host:
    return Host(ADDRESS, pending, failing, timed_out, 0)


class Found:
    """A probe that has its answer."""

    def __init__(self, found, at):
        self.found, self.at = found, at


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def target(clock) -> Target:
    return Target("172.31.0.1", 3000, None, ADDRESS)


def see(target: Target, clock: ManualClock, host: Host | None):
    target.health = checked(GROUP, target, host, clock.time())
    return target.health


@pytest.mark.parametrize(
    ("seen", "health"),
    [(None, CHECKING), (host(pending=True, failing=True), CHECKING), (host(), HEALTHY)],
)
def test_a_new_target_is_initial_until_its_first_check(target, clock, seen, health):
    assert target.health is REGISTERING
    assert see(target, clock, seen) == health


def test_a_new_target_that_fails_is_initial_until_the_threshold(target, clock):
    target.probe = Found(wrong_code(404), clock.time())
    assert see(target, clock, host(failing=True)) == CHECKING
    clock.advance(59)
    assert see(target, clock, host(failing=True)) == CHECKING
    clock.advance(1)
    target.probe = Found(wrong_code(404), clock.time())
    assert see(target, clock, host(failing=True)) == wrong_code(404)


def test_a_healthy_target_that_fails_is_unhealthy_at_once_since_envoy_counted(target, clock):
    see(target, clock, host())
    assert see(target, clock, host(failing=True, timed_out=True)) == TIMED_OUT


def test_a_state_changes_when_its_reason_is_known(target, clock):
    see(target, clock, host())
    target.probe = Found(None, clock.time())
    assert see(target, clock, host(failing=True)) == HEALTHY
    target.probe.found = FAILED
    assert see(target, clock, host(failing=True)) == FAILED


def test_a_passed_check_forgets_the_failures(target, clock):
    see(target, clock, host())
    see(target, clock, host(failing=True, timed_out=True))
    assert see(target, clock, host()) == HEALTHY
    assert (target.failing_since, target.probe) == (None, None)


def test_a_target_out_of_reach_times_out_after_the_threshold(target, clock):
    see(target, clock, host())
    target.address = None
    assert see(target, clock, None) == HEALTHY
    clock.advance(89)
    assert see(target, clock, None) == HEALTHY
    clock.advance(1)
    assert see(target, clock, None) == TIMED_OUT


def test_what_envoy_knows_of_another_address_does_not_count(target, clock):
    target.address = ("127.0.0.1", 40002)
    assert see(target, clock, host()) == CHECKING


CLOSED = "no ingress rule of sg-tasks lets TCP 3000 in from sg-lb"


def test_an_unanswered_target_fails_check_after_check_in_aws_time(target, clock):
    """Three checks, 30 s apart, of 5 s each: the first within 30 s, the last unanswered after 95."""
    see(target, clock, host())
    target.checks_closed = CLOSED
    assert see(target, clock, host()) == HEALTHY  # whatever Envoy was told
    clock.advance(94)
    assert see(target, clock, host()) == HEALTHY
    clock.advance(1)
    assert see(target, clock, host()) == TIMED_OUT
    clock.advance(3600)
    assert see(target, clock, host()) == TIMED_OUT


def test_a_new_unanswered_target_is_checked_at_once(target, clock):
    target.checks_closed = CLOSED
    assert see(target, clock, None) == CHECKING
    clock.advance(64)
    assert see(target, clock, None) == CHECKING
    clock.advance(1)
    assert see(target, clock, None) == TIMED_OUT


def test_a_target_that_answers_again_has_to_pass_its_healthy_threshold(target, clock):
    target.health, target.passed, target.reopened_at = TIMED_OUT, True, clock.time()
    clock.advance(4 * 30 - 1)
    assert see(target, clock, host()) == TIMED_OUT
    clock.advance(1)
    assert see(target, clock, host()) == HEALTHY


def test_a_reopened_path_to_an_app_that_fails_is_told_as_its_failure(target, clock):
    target.health, target.passed, target.reopened_at = TIMED_OUT, True, clock.time()
    target.probe = Found(wrong_code(500), clock.time())
    assert see(target, clock, host(failing=True)) == wrong_code(500)
