"""Stands in for IAM and STS where ECS asks them: who may assume a role, and what its policies let it do.

Differs: the role's trust policy, its own and its attached policies and its permissions boundary decide. Policies of the
organization, of a session and of the resource (a repository's, say) are not asked. Roles of other accounts cannot be
assumed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from helpers.sandbox.endpoint import ACCOUNT, Aws
from helpers.sandbox.iam.policies import ALLOWED, DENIED, Request, judge
from helpers.sandbox.partitions import iam_region, partition_of

log = logging.getLogger("sandbox.iam")


@dataclass(frozen=True)
class _Role:
    trust: dict[str, Any]
    policies: list[dict[str, Any]]
    boundary: dict[str, Any] | None


class Roles:
    """Reads roles with `aws` and remembers them until `changes("iam")` moves."""

    def __init__(self, aws: Aws, changes: Callable[[str], int]):
        self._aws, self._changes = aws, changes
        self._known: dict[tuple[str, str], _Role | None] = {}  # (role, IAM's region)
        self._as_of = -1

    def trusts(self, role: str, service: str, context: Mapping[str, str] | None = None) -> bool:
        """Whether the role, by its ARN or name, exists and lets this AWS service assume it."""
        record = self._read(role, context)
        request = Request("sts:AssumeRole", service=service, context={**_CONTEXT, **(context or {})})
        return record is not None and judge(record.trust, request) is ALLOWED

    def allows(self, role: str, action: str, resource: str) -> bool:
        return self.why_not(role, action, resource) is None

    def why_not(
        self, role: str, action: str, resource: str, context: Mapping[str, str] | None = None
    ) -> str | None:
        """None if the role may; else why not, in the words that end an AccessDenied message.

        Source: "Troubleshoot access denied error messages", IAM User Guide (A).
        """
        record = self._read(role, context)
        if record is None:
            return f"because no identity-based policy allows the {action} action"
        asked = Request(action, resource, context={**_CONTEXT, **(context or {})})
        verdicts = {judge(policy, asked) for policy in record.policies}
        if DENIED in verdicts:
            return "with an explicit deny in an identity-based policy"
        if ALLOWED not in verdicts:
            return f"because no identity-based policy allows the {action} action"
        if record.boundary is not None:
            verdict = judge(record.boundary, asked)
            if verdict is DENIED:
                return "with an explicit deny in a permissions boundary"
            if verdict is not ALLOWED:
                return f"because no permissions boundary allows the {action} action"
        return None

    def _read(self, role: str, context: Mapping[str, str] | None) -> _Role | None:
        """None: there is no such role. A bare name is of the partition in which `context` says that it is asked for."""
        as_of = self._changes("iam")  # before reading: what changes meanwhile is read again
        if as_of != self._as_of:
            self._known, self._as_of = {}, as_of
        region = _iam_region(role, (context or {}).get("aws:requestedregion", ""))
        known = self._known
        if (role, region) not in known:
            known[role, region] = self._describe(role, region)
        return known[role, region]

    def _describe(self, role: str, region: str) -> _Role | None:
        name, iam = role_name(role), self._aws("iam", region)
        if name is None:
            return None
        try:
            found = iam.get_role(RoleName=name)["Role"]
        except iam.exceptions.NoSuchEntityException:
            return None
        if role.startswith("arn:") and found["Arn"] != role:
            return None
        policies = [
            iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
            for policy in _paged(iam.list_role_policies, "PolicyNames", RoleName=name)
        ]
        attached = _paged(iam.list_attached_role_policies, "AttachedPolicies", RoleName=name)
        policies += [document for each in attached if (document := _managed(iam, each["PolicyArn"]))]
        boundary = found.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn")
        return _Role(
            found["AssumeRolePolicyDocument"], policies, (_managed(iam, boundary) or {}) if boundary else None
        )


# Global condition keys that are the same for all that ECS does here ("AWS global condition context keys", IAM; A).
_CONTEXT = {"aws:sourceaccount": ACCOUNT, "aws:resourceaccount": ACCOUNT, "aws:securetransport": "true"}


def role_name(role: str) -> str | None:
    """Of a role's ARN, which may have a path, or its bare name; None where it is no role of this account."""
    if not role.startswith("arn:"):
        return role or None
    parts = role.split(":", 5)
    if len(parts) < 6 or parts[2] != "iam" or parts[4] != ACCOUNT or not parts[5].startswith("role/"):
        return None
    return parts[5].rsplit("/", 1)[-1] or None


def _iam_region(role: str, requested: str) -> str:
    partition = role.split(":")[1] if role.startswith("arn:") else partition_of(requested)
    return iam_region(partition)


def _managed(iam: Any, arn: str) -> dict[str, Any] | None:
    """The default version of a managed policy, AWS's or the account's own."""
    try:
        version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
        answer = iam.get_policy_version(PolicyArn=arn, VersionId=version)
    except ClientError as error:
        log.warning("the policy %s cannot be read: %s", arn, error)
        return None
    return answer["PolicyVersion"]["Document"]


def _paged(call: Callable[..., dict[str, Any]], of: str, **params: Any) -> list[Any]:
    found, marker = [], {}
    while True:
        answer = call(**params, **marker)
        found += answer[of]
        if not answer.get("IsTruncated"):
            return found
        marker = {"Marker": answer["Marker"]}
