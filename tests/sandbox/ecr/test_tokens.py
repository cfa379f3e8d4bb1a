from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.sandbox.ecr.tokens import Token, Tokens, authorization_token
from tests.sandbox.manual_clock import ManualClock


def basic(user_and_password: str) -> str:
    return f"Basic {base64.b64encode(user_and_password.encode()).decode()}"


def test_a_token_is_good_for_twelve_hours_of_aws_time():
    clock = ManualClock()
    tokens = Tokens(clock)
    password, ends = tokens.issue()
    given = f"Basic {authorization_token(password)}"
    assert tokens.judge(given) is Token.GOOD
    clock.advance(12 * 3600 - 1)
    assert tokens.judge(given) is Token.GOOD
    clock.advance(1)
    assert clock.now() == ends
    assert tokens.judge(given) is Token.EXPIRED


def test_several_tokens_are_good_at_the_same_time():
    tokens = Tokens(ManualClock())
    (one, _), (two, _) = tokens.issue(), tokens.issue()
    assert one != two
    assert {tokens.judge(basic(f"AWS:{password}")) for password in (one, two)} == {Token.GOOD}


def test_a_token_is_for_the_user_aws_and_for_the_sandbox_that_gave_it():
    tokens = Tokens(ManualClock())
    password, _ = tokens.issue()
    assert tokens.judge(basic(f"root:{password}")) is Token.WRONG
    assert Tokens(ManualClock()).judge(basic(f"AWS:{password}")) is Token.WRONG


def test_nobody_makes_a_token_last_longer():
    tokens = Tokens(ManualClock())
    password, _ = tokens.issue()
    says = base64.b64decode(password).decode()
    longer = base64.b64encode(f"9{says}".encode()).decode()
    assert tokens.judge(basic(f"AWS:{longer}")) is Token.WRONG


@pytest.mark.parametrize("header", ["", "Basic", "Basic !", "Bearer abc", basic("AWS"), basic("AWS:")])
def test_what_is_no_token_is_wrong(header):
    assert Tokens(ManualClock()).judge(header) is Token.WRONG


@given(st.text())
def test_nothing_that_is_made_up_opens_anything(text):
    tokens = Tokens(ManualClock())
    for header in (text, f"Basic {text}", basic(f"AWS:{text}")):
        assert tokens.judge(header) is Token.WRONG
