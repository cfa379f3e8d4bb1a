"""Whether an IAM policy allows an action: the doctor's own, small reading of policy documents.

Allow, Deny, wildcards, NotAction and NotResource of identity policies. Not read: resource policies, permissions
boundaries, organizations' policies; a statement with a Condition makes the answer uncertain (None). On AWS,
iam simulate_principal_policy decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

Document = dict[str, Any]


def allows(documents: Iterable[Document], action: str, resource: str) -> bool | None:
    """True, False, or None where a condition decides. `resource` may be "*" for an action that takes none."""
    allowed: bool | None = False
    denied = False  # perhaps: by a Deny with a condition
    for statement in _statements(documents):
        if not _applies(statement, action, resource):
            continue
        conditional = bool(statement.get("Condition"))
        if statement.get("Effect") == "Deny":
            if not conditional:
                return False
            denied = True
        elif allowed is not True:
            allowed = None if conditional else True
    return None if denied and allowed else allowed


def anywhere(document: Document) -> Document:
    """A resource's own policy, whose statements name no resource: it is theirs."""
    return {"Statement": [{"Resource": "*", **statement} for statement in _statements([document])]}


def trusts(document: Document | None, service: str) -> bool | None:
    """Whether a role's trust policy lets this service assume it; a Condition (aws:SourceAccount, say) counts as met."""
    if not document:
        return None
    for statement in _statements([document]):
        principals = statement.get("Principal") or {}
        services = ["*"] if principals == "*" else _list(principals.get("Service"))
        if statement.get("Effect") == "Deny" and service in services:
            return False
    for statement in _statements([document]):
        principals = statement.get("Principal") or {}
        services = ["*"] if principals == "*" else _list(principals.get("Service"))
        actions = _list(statement.get("Action"))
        if (
            statement.get("Effect") == "Allow"
            and (service in services or "*" in services)
            and any(_like(pattern, "sts:AssumeRole") for pattern in actions)
        ):
            return True
    return False


def services_trusted(document: Document | None) -> list[str]:
    found = []
    for statement in _statements([document or {}]):
        principals = statement.get("Principal")
        if isinstance(principals, dict):
            found += _list(principals.get("Service")) or [str(next(iter(principals.values()), ""))]
        elif principals:
            found.append(str(principals))
    return found


def _statements(documents: Iterable[Document]) -> list[dict]:
    return [
        statement
        for document in documents
        for statement in _list((document or {}).get("Statement"))
        if isinstance(statement, dict)
    ]


def _applies(statement: dict, action: str, resource: str) -> bool:
    if "NotAction" in statement:
        if any(_like(pattern, action) for pattern in _list(statement["NotAction"])):
            return False
    elif not any(_like(pattern, action) for pattern in _list(statement.get("Action"))):
        return False
    if "NotResource" in statement:
        return not any(_like(pattern, resource) for pattern in _list(statement["NotResource"]))
    return any(_like(pattern, resource) for pattern in _list(statement.get("Resource")))


def _like(pattern: str, value: str) -> bool:
    """IAM's wildcards; actions are compared without case, and for resources that does no harm here."""
    regex = re.escape(str(pattern)).replace(r"\*", ".*").replace(r"\?", ".")
    return bool(re.fullmatch(regex, value, re.I))


def _list(value: Any) -> list:
    return [] if value is None else value if isinstance(value, list) else [value]
