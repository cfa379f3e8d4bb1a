"""Stands in for IAM's evaluation of one policy: whether it allows an action, denies it, or says nothing of it.

Differs: `moto.iam.access_control` reads a statement's actions and resources. What it leaves out or gets wrong is done
here, and `tests/sandbox/iam/test_policies.py` fails when moto fills a gap: services as principals, a Deny without
Resource, conditions of which it knows one operator, IAM's wildcards, and that a statement whose condition or principal
does not fit says nothing instead of denying. Policy variables are not filled in. A condition with an operator that is
not known (dates, IP addresses) is taken as not met, and logged; so is a key that is not known, which counts as one
that the request does not have.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from moto.iam.access_control import IAMPolicyStatement, PermissionResult

log = logging.getLogger("sandbox.iam")

ALLOWED, DENIED, SILENT = PermissionResult.PERMITTED, PermissionResult.DENIED, PermissionResult.NEUTRAL


@dataclass(frozen=True)
class Request:
    """What is asked. `service`: the AWS service that asks, of a trust policy. `context`: condition keys, lower case."""

    action: str
    resource: str = "*"
    service: str | None = None
    context: Mapping[str, str] = field(default_factory=dict)


def judge(policy: Mapping[str, Any], request: Request) -> PermissionResult:
    """What one policy document says: an explicit Deny in it wins over any Allow."""
    verdicts = {Statement(each).judge(request) for each in _listed(policy.get("Statement", []))}
    return next((verdict for verdict in (DENIED, ALLOWED) if verdict in verdicts), SILENT)


class Statement(IAMPolicyStatement):
    def __init__(self, statement: Mapping[str, Any]):
        # The names of actions are not case-sensitive; ARNs are.
        actions = {
            name: [action.lower() for action in _listed(statement[name])]
            for name in ("Action", "NotAction")
            if name in statement
        }
        super().__init__({**statement, **actions})

    def judge(self, request: Request) -> PermissionResult:
        if not (self._names(request) and self._speaks_of(request) and self._is_met(request.context)):
            return SILENT
        return ALLOWED if self._statement.get("Effect") == "Allow" else DENIED

    def _names(self, request: Request) -> bool:
        """Whether the action and the resource are meant. A trust policy has no Resource: it is the role's own."""
        action = request.action.lower()
        if "NotAction" in self._statement:
            if self._check_element_matches("NotAction", action):
                return False
        elif not self._check_element_matches("Action", action):
            return False
        if "NotResource" in self._statement:
            return not self._check_element_matches("NotResource", request.resource)
        return "Resource" not in self._statement or self._check_element_matches("Resource", request.resource)

    def _speaks_of(self, request: Request) -> bool:
        """Whether the principal is meant. A policy of a role's own has none."""
        if request.service is None:
            return True
        principal = self._statement.get("Principal")
        if principal == "*":
            return True
        if not isinstance(principal, Mapping):
            return False
        return request.service in _listed(principal.get("Service", [])) or "*" in _listed(
            principal.get("AWS", [])
        )

    def _is_met(self, context: Mapping[str, str]) -> bool:
        conditions = self._statement.get("Condition") or {}
        return all(
            _holds(operator, _value(key, context), [_text(value) for value in _listed(values)])
            for operator, pairs in conditions.items()
            for key, values in pairs.items()
        )

    @staticmethod
    def _match(pattern: str, string: str) -> re.Match[str] | None:
        return _expression(pattern).fullmatch(string)


@lru_cache(maxsize=1000)
def _expression(pattern: str) -> re.Pattern[str]:
    """IAM's wildcards: `*` for any characters, `?` for one. All else stands for itself."""
    parts = ({"*": ".*", "?": "."}.get(part, re.escape(part)) for part in re.split(r"([*?])", pattern))
    return re.compile("".join(parts), re.DOTALL)


def _like(actual: str, wanted: str) -> bool:
    return _expression(wanted).fullmatch(actual) is not None


def _number(compare: Callable[[float, float], bool]) -> Callable[[str, str], bool]:
    def holds(actual: str, wanted: str) -> bool:
        try:
            return compare(float(actual), float(wanted))
        except ValueError:
            return False

    return holds


# "IAM JSON policy elements: Condition operators", IAM User Guide (A).
_OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda actual, wanted: actual == wanted,
    "StringEqualsIgnoreCase": lambda actual, wanted: actual.lower() == wanted.lower(),
    "StringLike": _like,
    "ArnEquals": _like,
    "ArnLike": _like,
    "Bool": lambda actual, wanted: actual.lower() == wanted.lower(),
    "NumericEquals": _number(lambda actual, wanted: actual == wanted),
    "NumericLessThan": _number(lambda actual, wanted: actual < wanted),
    "NumericLessThanEquals": _number(lambda actual, wanted: actual <= wanted),
    "NumericGreaterThan": _number(lambda actual, wanted: actual > wanted),
    "NumericGreaterThanEquals": _number(lambda actual, wanted: actual >= wanted),
}
_NEGATED = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
    "NumericNotEquals": "NumericEquals",
}


def _value(key: str, context: Mapping[str, str]) -> str | None:
    if key.lower() not in context:
        log.warning("the condition key %s is not known here: taken as not in the request", key)
    return context.get(key.lower())


def _holds(operator: str, actual: str | None, wanted: list[str]) -> bool:
    """Whether one condition is met; `actual` is None where the request has no such key."""
    quantifier, _, name = operator.rpartition(":")
    if name == "Null":
        return (actual is None) == ("true" in [each.lower() for each in wanted])
    if actual is None and (name.endswith("IfExists") or quantifier == "ForAllValues"):
        return True
    name = name.removesuffix("IfExists")
    if name in _NEGATED:
        return actual is None or not any(_OPERATORS[_NEGATED[name]](actual, each) for each in wanted)
    if name not in _OPERATORS:
        log.warning("the condition operator %s is not known here: taken as not met", operator)
        return False
    return actual is not None and any(_OPERATORS[name](actual, each) for each in wanted)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Iterable) and not isinstance(value, (str, Mapping)) else [value]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
