"""Stands in for ECR's lifecycle policy evaluator: which images a policy would expire, as a pure function.

Differs: there is one storage class, so a rule that moves images to the archive, or looks at when they were pulled, is
answered with NotImplemented. Source of the rules: "Lifecycle policy evaluation rules" and "Lifecycle policy
properties", Amazon ECR User Guide. A refusal is in ECR's words where these are known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from helpers.sandbox.endpoint import AwsError

MAX_RULES = 50  # "Amazon ECR service quotas": rules per lifecycle policy
MAX_WILDCARDS = 4  # in one pattern
TAG_STATUS = ("any", "tagged", "untagged")
COUNT_TYPE = ("imageCountMoreThan", "sinceImagePushed")
NOT_HERE = {
    "countType": ("sinceImagePulled", "sinceImageTransitioned"),
    "type": ("transition",),
    "storageClass": ("archive",),
}


@dataclass(frozen=True)
class StoredImage:
    """`listed`: whether a manifest list (an index) of the repository lists it."""

    digest: str
    tags: tuple[str, ...]
    pushed_at: datetime
    listed: bool = False


@dataclass(frozen=True)
class Rule:
    """`tags`: an image is selected when each of these matches one of its tags; None selects images without tags."""

    priority: int
    tags: tuple[re.Pattern[str], ...] | None
    keep: int | None = None  # this many of the newest
    days: int | None = None  # expire what is older

    def selects(self, image: StoredImage) -> bool:
        if self.tags is None:
            return not image.tags
        return all(any(wanted.fullmatch(tag) for tag in image.tags) for wanted in self.tags)

    def exceeding(self, selected: Sequence[StoredImage], now: datetime) -> list[StoredImage]:
        """Those of the selected images that are too many or too old."""
        if self.days is not None:
            return [image for image in selected if image.pushed_at < now - timedelta(days=self.days)]
        newest_first = sorted(selected, key=lambda image: image.pushed_at)[::-1]
        return newest_first[self.keep :]


def expiring(rules: Iterable[Rule], images: Sequence[StoredImage], now: datetime) -> dict[str, int]:
    """Digest → priority of the rule that expires it, oldest image first.

    `images`: of those pushed at the same time the later one counts as newer. A rule counts every image that it
    selects, but what a rule before it selects, kept or not, is out of its reach. What a manifest list lists counts and
    does not expire until that list is gone, not even together with it.
    """
    marked: dict[str, int] = {}
    out_of_reach: set[str] = set()
    for rule in sorted(rules, key=lambda rule: rule.priority):
        selected = [image for image in images if rule.selects(image)]
        for image in rule.exceeding(selected, now):
            if image.digest not in out_of_reach and not image.listed:
                marked[image.digest] = rule.priority
        out_of_reach |= {image.digest for image in selected}
    oldest_first = sorted(images, key=lambda image: image.pushed_at)
    return {image.digest: marked[image.digest] for image in oldest_first if image.digest in marked}


def read_policy(text: str) -> tuple[Rule, ...]:
    """The rules of a policy in JSON; AwsError InvalidParameterException when ECR would not take it."""
    try:
        policy = json.loads(text)
    except ValueError:
        policy = None
    if not isinstance(policy, dict):
        raise _refused("Could not map policyString into LifecyclePolicy.")
    _members(policy, required=("rules",))
    if not 1 <= len(_typed(policy["rules"], list)) <= MAX_RULES:
        length, bound = (
            len(policy["rules"]),
            "long: must have at most 50" if policy["rules"] else "short: must have at least 1",
        )
        raise _refused(f"array is too {bound} elements but instance has {length} elements")
    rules = tuple(_rule(rule) for rule in policy["rules"])
    _check_together(rules, [rule["selection"] for rule in policy["rules"]])
    return rules


def _rule(rule: Any) -> Rule:
    _members(rule, required=("action", "rulePriority", "selection"), optional=("description",))
    _typed(rule.get("description", ""), str)
    action, selection = rule["action"], rule["selection"]
    _members(action, required=("type",), optional=("targetStorageClass",))
    _one_of(action, "type", ("expire",))
    _members(
        selection,
        required=("countNumber", "countType", "tagStatus"),
        optional=("countUnit", "storageClass", "tagPatternList", "tagPrefixList"),
    )
    _one_of(selection, "tagStatus", TAG_STATUS)
    _one_of(selection, "countType", COUNT_TYPE)
    _one_of(selection, "storageClass", ("standard",))
    by_age = selection["countType"] == "sinceImagePushed"
    if ("countUnit" in selection) != by_age:
        raise _refused("instance failed to match exactly one schema (matched 0 out of 2)")
    _one_of(selection, "countUnit", ("days",))
    number = _positive(selection["countNumber"])
    return Rule(
        priority=_positive(rule["rulePriority"]),
        tags=_wanted_tags(selection),
        keep=None if by_age else number,
        days=number if by_age else None,
    )


def _wanted_tags(selection: dict[str, Any]) -> tuple[re.Pattern[str], ...] | None:
    lists = [name for name in ("tagPatternList", "tagPrefixList") if name in selection]
    status = selection["tagStatus"]
    if status != "tagged":
        if lists:
            raise _refused(f"{lists[0]} can only be specified when tagStatus=TAGGED.")
        return () if status == "any" else None
    if not any(selection.get(name) for name in lists):
        raise _refused("Must specify tagPrefixList or tagPatternList when tagStatus=TAGGED.")
    if len(lists) == 2:
        raise _refused("Only one of tagPrefixList and tagPatternList can be specified.")
    wanted = [_typed(tag, str) for tag in _typed(selection[lists[0]], list)]
    if lists == ["tagPrefixList"]:
        return tuple(re.compile(re.escape(prefix) + ".*") for prefix in wanted)
    if too_many := [pattern for pattern in wanted if pattern.count("*") > MAX_WILDCARDS]:
        raise _refused(f"the pattern '{too_many[0]}' has more than {MAX_WILDCARDS} wildcards")
    return tuple(re.compile(".*".join(map(re.escape, pattern.split("*")))) for pattern in wanted)


def _check_together(rules: Sequence[Rule], selections: Sequence[dict[str, Any]]) -> None:
    priorities = [rule.priority for rule in rules]
    if len(set(priorities)) < len(priorities):
        raise _refused("rulePriority must be unique for each rule.")
    status = [selection["tagStatus"] for selection in selections]
    if status.count("untagged") > 1:
        raise _refused("Only one rule can select Untagged images per storage class")
    for rule, of in zip(rules, status, strict=True):
        if of == "any" and rule.priority < max(priorities):
            raise _refused("Rule for tagStatus=ANY must have the lowest priority per storage class")
    wanted = [
        (name, frozenset(selection[name]))
        for selection in selections
        for name in ("tagPatternList", "tagPrefixList")
        if name in selection
    ]
    if len(set(wanted)) < len(wanted):
        raise _refused("The set of rules must contain a unique set of tag prefixes and patterns.")


# --- the schema -------------------------------------------------------------------------------------------------------


def _members(value: Any, *, required: Sequence[str], optional: Sequence[str] = ()) -> None:
    _typed(value, dict)
    if missing := [name for name in required if name not in value]:
        raise _refused(f"object has missing required properties ({json.dumps(missing)})")
    if unknown := sorted(value.keys() - {*required, *optional}):
        raise _refused(
            f"object instance has properties which are not allowed by the schema: {json.dumps(unknown)}"
        )


def _one_of(holder: dict[str, Any], name: str, values: Sequence[str]) -> None:
    value = holder.get(name, values[0])
    if value in NOT_HERE.get(name, ()):
        raise AwsError("NotImplemented", f"The sandbox cannot evaluate {name} {value}", 501)
    if value not in values:
        raise _refused(
            f"instance value ({json.dumps(value)}) not found in enum (possible values: {json.dumps(values)})"
        )


def _positive(number: Any) -> int:
    if _typed(number, int) < 1:
        raise _refused(f"numeric instance is lower than the required minimum (minimum: 1, found: {number})")
    return number


def _typed(value: Any, wanted: type) -> Any:
    names = {bool: "boolean", dict: "object", float: "number", int: "integer", list: "array", str: "string"}
    if type(value) is not wanted:
        raise _refused(
            f"instance type ({names.get(type(value), 'null')}) does not match any allowed primitive type "
            f"(allowed: {json.dumps([names[wanted]])})"
        )
    return value


def _refused(why: str) -> AwsError:
    return AwsError(
        "InvalidParameterException",
        "Invalid parameter at 'LifecyclePolicyText' failed to satisfy constraint: "
        f"'Lifecycle policy validation failure: {why}'",
    )
