"""Stands in for CloudWatch Logs' filter patterns: which log events a pattern means.

From "Filter pattern syntax", Amazon CloudWatch Logs User Guide: terms and quoted phrases, `-` to exclude, `?` for any
of several; JSON with `=` `!=` `<` `>` `<=` `>=`, `IS`, `NOT EXISTS`, `*` at a string's ends, `&&` before `||`, and
parentheses. Differs: regular expressions (`%…%`), patterns of space-delimited fields (`[…]`) and `?` beside other
terms are refused. Of a property that is not there no comparison holds, not even `!=`; AWS does not say.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn

Matches = Callable[[str], bool]
Holds = Callable[[Any], bool]

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
TOKEN = re.compile(
    r"""\s*(?:
        (?P<selector>\$(?:\.[A-Za-z0-9_-]+|\[\d+\])+)
      | (?P<sign>\(|\)|&&|\|\||!=|>=|<=|=|>|<)
      | "(?P<quoted>(?:[^"\\]|\\.)*)"
      | (?P<bare>[A-Za-z0-9_.*+-]+)
    )""",
    re.VERBOSE,
)
TERM = re.compile(r'(?P<mark>[-?]?)(?:"(?P<phrase>(?:[^"\\]|\\.)+)"|(?P<word>[A-Za-z0-9_]+))(?=\s|$)')
MISSING = object()


class InvalidPattern(ValueError):
    """What InvalidParameterException says of a pattern."""


@lru_cache(maxsize=64)
def compile_pattern(pattern: str) -> Matches:
    """Whether a log event's message matches. InvalidPattern."""
    pattern = pattern.strip()
    if pattern.startswith("{"):
        if not pattern.endswith("}"):
            raise InvalidPattern("If a filter pattern starts with '{' it must end with '}'")
        return _of_json(_Expression(pattern[1:-1]).parse())
    if pattern.startswith("["):
        raise InvalidPattern("The sandbox does not know patterns of space-delimited fields ([…])")
    if pattern.startswith("%"):
        raise InvalidPattern("The sandbox does not know regular expressions in patterns (%…%)")
    return _terms(pattern)


def _terms(pattern: str) -> Matches:
    by_mark: dict[str, list[str]] = {"": [], "-": [], "?": []}
    at = 0
    while at < len(pattern):
        found = TERM.match(pattern, at)
        if found is None:
            raise InvalidPattern(f"Invalid character(s) in term '{pattern[at:].split()[0]}'")
        phrase = found["phrase"]
        by_mark[found["mark"]].append(found["word"] if phrase is None else _unescaped(phrase))
        at = found.end() + len(pattern[found.end() :]) - len(pattern[found.end() :].lstrip())
    required = [term for term in by_mark[""] if term.strip()]  # " " means everything
    excluded, optional = by_mark["-"], by_mark["?"]
    if optional and (by_mark[""] or excluded):
        raise InvalidPattern("The sandbox does not know optional terms (?) beside others")

    def matches(message: str) -> bool:
        return (
            all(term in message for term in required)
            and not any(term in message for term in excluded)
            and (not optional or any(term in message for term in optional))
        )

    return matches


def _of_json(holds: Holds) -> Matches:
    def matches(message: str) -> bool:
        try:
            event = json.loads(message)
        except (ValueError, RecursionError):
            return False
        return isinstance(event, dict) and holds(event)

    return matches


class _Expression:
    """What is between a JSON pattern's braces, read from left to right."""

    def __init__(self, text: str):
        self.tokens: list[tuple[str, str]] = []  # (kind, text)
        text = text.strip()
        at = 0
        while at < len(text):
            found = TOKEN.match(text, at)
            if found is None:
                raise InvalidPattern(f"Invalid character(s) in term '{text[at:].split()[0]}'")
            kind = found.lastgroup or ""
            self.tokens.append((kind, found[kind]))
            at = found.end()
        self.tokens.append(("end", ""))

    def parse(self) -> Holds:
        holds = self._any()
        if self._kind != "end":
            self._refuse()
        return holds

    def _any(self) -> Holds:
        parts = [self._all()]
        while self._skip("||"):
            parts.append(self._all())
        return lambda event: any(part(event) for part in parts)

    def _all(self) -> Holds:
        parts = [self._one()]
        while self._skip("&&"):
            parts.append(self._one())
        return lambda event: all(part(event) for part in parts)

    def _one(self) -> Holds:
        if self._skip("("):
            inner = self._any()
            if not self._skip(")"):
                self._refuse()
            return inner
        if self._kind != "selector":
            self._refuse()
        value_of = _selector(self._take())
        if self._skip("IS"):
            wanted = {"NULL": None, "TRUE": True, "FALSE": False}.get(self._take(), MISSING)
            if wanted is MISSING:
                self._refuse()
            return lambda event: value_of(event) is wanted
        if self._skip("NOT"):
            if not self._skip("EXISTS"):
                self._refuse()
            return lambda event: value_of(event) is MISSING
        return self._comparison(value_of)

    def _comparison(self, value_of: Callable[[Any], Any]) -> Holds:
        sign = self._take()
        if sign not in ("=", "!=", *COMPARISONS) or self._kind not in ("quoted", "bare"):
            self._refuse()
        bare = self._kind == "bare"
        text = self._take() if bare else _unescaped(self._take())
        number = float(text) if bare and NUMBER.fullmatch(text) else None
        if sign in COMPARISONS:
            if number is None:
                self._refuse()
            compare = COMPARISONS[sign]
            return lambda event: _is_number(value := value_of(event)) and compare(value, number)
        equals, wanted = _equality(text, number), sign == "="
        return lambda event: _is_value(value := value_of(event)) and equals(value) is wanted

    @property
    def _kind(self) -> str:
        return self.tokens[0][0]

    def _take(self) -> str:
        return self.tokens.pop(0)[1] if self._kind != "end" else self._refuse()

    def _skip(self, text: str) -> bool:
        """Go on if this sign or word is next; whether it was."""
        kind, found = self.tokens[0]
        if kind in ("sign", "bare") and found == text:
            self.tokens.pop(0)
            return True
        return False

    def _refuse(self) -> NoReturn:
        raise InvalidPattern("Invalid filter pattern")


def _selector(text: str) -> Callable[[Any], Any]:
    """What `$.a[0].b` points to in an event, MISSING if nothing."""
    steps = [name or int(place) for name, place in re.findall(r"\.([A-Za-z0-9_-]+)|\[(\d+)\]", text)]

    def value_of(event: Any) -> Any:
        for step in steps:
            fits = isinstance(event, dict if isinstance(step, str) else list)
            if not fits or not (step in event if isinstance(step, str) else step < len(event)):
                return MISSING
            event = event[step]
        return event

    return value_of


def _equality(text: str, number: float | None) -> Holds:
    """Two numbers are compared as numbers, all else as text; `*` is any text, at the ends only."""
    begins, ends = text.startswith("*"), text.endswith("*")
    core = re.escape(text.strip("*") if begins or ends else text)
    wildcard = re.compile(f"{'.*' if begins else ''}{core}{'.*' if ends else ''}", re.DOTALL)

    def equals(value: Any) -> bool:
        if number is not None and _is_number(value):
            return value == number
        return wildcard.fullmatch(value if isinstance(value, str) else json.dumps(value)) is not None

    return equals


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_value(value: Any) -> bool:
    """A node that can be compared: neither an array nor an object, and there."""
    return isinstance(value, str) or _is_number(value)


def _unescaped(quoted: str) -> str:
    return re.sub(r"\\(.)", r"\1", quoted)
