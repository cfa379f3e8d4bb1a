"""Filter patterns, with the examples of "Filter pattern syntax" in the Amazon CloudWatch Logs User Guide."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.sandbox.cloudwatch.filter_pattern import InvalidPattern, compile_pattern

ERRORS = {
    400: "[ERROR 400] BAD REQUEST",
    401: "[ERROR 401] UNAUTHORIZED REQUEST",
    419: "[ERROR 419] MISSING ARGUMENTS",
    420: "[ERROR 420] INVALID ARGUMENTS",
    500: "[ERROR 500] INTERNAL SERVER ERROR",
    0: "[INFO] all is well",
}
EVENT = {
    "eventType": "UpdateTrail",
    "sourceIPAddress": "111.111.111.111",
    "arrayKey": ["value", "another value"],
    "objectList": [{"name": "a", "id": 1}, {"name": "b", "id": 2}],
    "SomeObject": None,
    "ThisFlag": True,
}
USERS = {
    "user": {"id": 1, "email": "John.Stiles@example.com"},
    "users": [{"id": 2, "email": "John.Doe@example.com"}, {"id": 3, "email": "Jane.Doe@example.com"}],
    "actions": ["GET", "PUT", "DELETE"],
    "coordinates": [[0, 1, 2], [4, 5, 6], [7, 8, 9]],
}
NUMBERS = {
    "bandwidth": 76,
    "latency": 49.5,
    "refreshRate": 60,
    "responseTime": 5,
    "errorCode": 400,
    "number": [0.001],
}


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("ERROR", {400, 401, 419, 420, 500}),
        ("ERROR ARGUMENTS", {419, 420}),
        ("?ERROR ?ARGUMENTS", {400, 401, 419, 420, 500}),
        ("?INFO ?BAD", {0, 400}),
        ('"INTERNAL SERVER ERROR"', {500}),
        ("ERROR -ARGUMENTS", {400, 401, 500}),
        ('-"BAD REQUEST" REQUEST', {401}),
        ("error", set()),
        ('" "', set(ERRORS)),
        ("", set(ERRORS)),
    ],
)
def test_terms(pattern, found):
    matches = compile_pattern(pattern)
    assert {code for code, message in ERRORS.items() if matches(message)} == found


@pytest.mark.parametrize(
    ("pattern", "event", "found"),
    [
        ('{ $.eventType = "UpdateTrail" }', EVENT, True),
        ("{ $.eventType = UpdateTrail }", EVENT, True),
        ("{$.eventType=UpdateTrail}", EVENT, True),
        ('{ $.eventType != "UpdateTrail" }', EVENT, False),
        ('{ $.eventType = "updatetrail" }', EVENT, False),
        ("{ $.sourceIPAddress != 123.123.* }", EVENT, True),
        ("{ $.sourceIPAddress = 111.111.* }", EVENT, True),
        ('{ $.arrayKey[0] = "value" }', EVENT, True),
        ('{ $.arrayKey[1] = "value" }', EVENT, False),
        ("{ $.arrayKey[2] = * }", EVENT, False),
        ('{ $.eventType[0] = "U" }', EVENT, False),
        ("{ $.objectList[1].id = 2 }", EVENT, True),
        ("{ $.objectList[0].id = 2 }", EVENT, False),
        ("{ $.SomeObject IS NULL }", EVENT, True),
        ("{ $.SomeOtherObject IS NULL }", EVENT, False),
        ("{ $.SomeOtherObject NOT EXISTS }", EVENT, True),
        ("{ $.SomeObject NOT EXISTS }", EVENT, False),
        ("{ $.ThisFlag IS TRUE }", EVENT, True),
        ("{ $.ThisFlag IS FALSE }", EVENT, False),
        ("{ $.bandwidth > 75 }", NUMBERS, True),
        ("{ $.bandwidth > 76 }", NUMBERS, False),
        ("{ $.latency < 50 }", NUMBERS, True),
        ("{ $.refreshRate >= 60 }", NUMBERS, True),
        ("{ $.responseTime <= 5 }", NUMBERS, True),
        ("{ $.responseTime <= 4.9 }", NUMBERS, False),
        ("{ $.errorCode = 400}", NUMBERS, True),
        ("{ $.errorCode = 4* }", NUMBERS, True),
        ("{ $.errorCode = +400.0 }", NUMBERS, True),
        ("{ $.errorCode != 500 }", NUMBERS, True),
        ("{ $.number[0] = 1e-3 }", NUMBERS, True),
        ("{ $.number[0] != 1e+3 }", NUMBERS, True),
        ("{ $.latency = * }", NUMBERS, True),
        ("{ $.bandwidth > -75 }", NUMBERS, True),
        ('{ ($.user.id = 1) && ($.users[0].email = "John.Doe@example.com") }', USERS, True),
        ('{ ($.user.id = 2 && $.users[0].email = "nonmatch") || $.actions[2] = "GET" }', USERS, False),
        (
            '{ $.user.email = "John.Stiles@example.com" || $.coordinates[0][1] = nonmatch && $.actions[2] = nomatch }',
            USERS,
            True,
        ),
        (
            '{ ($.user.email = "John.Stiles@example.com" || $.coordinates[0][1] = nonmatch) && $.actions[2] = nomatch }',
            USERS,
            False,
        ),
        ("{ $.coordinates[2][1] = 8 }", USERS, True),
        ("{ $.users = 1 }", {"users": [1, 2, 3]}, False),
        ("{ $.users != 1 }", {"users": [1, 2, 3]}, False),
        ("{ $.nobody != 1 }", USERS, False),
        ("{ $.e = *Event }", {"e": "PutEvent"}, True),
        ("{ $.e = Event* }", {"e": "EventId"}, True),
        ("{ $.e = *Event* }", {"e": "PutEventId"}, True),
        ("{ $.e = *Event }", {"e": "EventId"}, False),
        ("{ $.e = Ev*ent }", {"e": "Ev*ent"}, True),
        ("{ $.e = Ev*ent }", {"e": "Evident"}, False),
        ('{ $.errorCode = "*UnauthorizedOperation" }', {"errorCode": "Client.UnauthorizedOperation"}, True),
        ('{ $.said = "a \\"b\\"" }', {"said": 'a "b"'}, True),
        ('{ $.path = "/visits" && $.ms > 4 }', {"path": "/visits", "ms": 5.6}, True),
        ('{ $.a-b_c = "x" }', {"a-b_c": "x"}, True),
    ],
)
def test_json(pattern, event, found):
    assert compile_pattern(pattern)(json.dumps(event)) is found


def test_a_line_that_is_no_json_object_matches_no_json_pattern():
    matches = compile_pattern("{ $.a NOT EXISTS }")
    assert [matches(line) for line in ("not json", "[1]", "3", '{"b": 1}')] == [False, False, False, True]


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("{ $.a = 1", "must end with '}'"),
        ("{}", "Invalid filter pattern"),
        ("{ $.a }", "Invalid filter pattern"),
        ("{ $.a = }", "Invalid filter pattern"),
        ("{ $.a = 1 2 }", "Invalid filter pattern"),
        ("{ $.a == 1 }", "Invalid filter pattern"),
        ("{ a = 1 }", "Invalid filter pattern"),
        ("{ $.a > big }", "Invalid filter pattern"),
        ('{ $.a > "1" }', "Invalid filter pattern"),
        ("{ ($.a = 1 }", "Invalid filter pattern"),
        ("{ $.a = 1 && }", "Invalid filter pattern"),
        ("{ $.a IS NOT NULL }", "Invalid filter pattern"),
        ("{ $.a EXISTS }", "Invalid filter pattern"),
        ("{ $.path = /visits }", "Invalid character.* '/visits'"),
        ("user@example", "Invalid character.* 'user@example'"),
        ('"open', "Invalid character"),
        ('""', "Invalid character"),
        ("%[hc]at%", "sandbox does not know"),
        ("[ip, user, ...]", "sandbox does not know"),
        ("REQUEST ?ERROR", "sandbox does not know"),
        ("{ $.a = %x% }", "Invalid character"),
    ],
)
def test_what_is_no_pattern_is_refused(pattern, says):
    with pytest.raises(InvalidPattern, match=says):
        compile_pattern(pattern)


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_is_a_pattern_or_is_refused(pattern, message):
    for text in (pattern, f"{{ $.a = {pattern} }}"):
        try:
            matches = compile_pattern(text)
        except InvalidPattern:
            continue
        assert matches(message) in (True, False)


@given(
    st.dictionaries(
        st.text("abc-_", min_size=1, max_size=5),
        st.integers(-(2**53), 2**53) | st.text(max_size=5),
        min_size=1,
    )
)
def test_every_property_is_found_by_its_own_value(event):
    for name, value in event.items():
        said = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else value
        if isinstance(value, int) or (value.isprintable() and "*" not in value and value):
            assert compile_pattern(f"{{ $.{name} = {said} }}")(json.dumps(event))
