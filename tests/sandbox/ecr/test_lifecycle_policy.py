"""ECR's lifecycle policy evaluator against the examples of AWS's user guide, and against what must always hold."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.sandbox.ecr.lifecycle_policy import StoredImage, expiring, read_policy
from helpers.sandbox.endpoint import AwsError

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def rule(priority: int, status: str, *, keep: int | None = None, days: int | None = None, **tags) -> dict:
    count = (
        {"countType": "imageCountMoreThan", "countNumber": keep}
        if days is None
        else {"countType": "sinceImagePushed", "countUnit": "days", "countNumber": days}
    )
    selection = {"tagStatus": status, **count, **tags}
    return {"rulePriority": priority, "selection": selection, "action": {"type": "expire"}}


def policy(*rules: dict) -> str:
    return json.dumps({"rules": list(rules)})


def pushed(days_ago: float, *tags: str, name: str = "") -> StoredImage:
    return StoredImage(name or f"{days_ago}", tags, NOW - timedelta(days=days_ago))


def images(**contents: tuple[float, list[str]]) -> list[StoredImage]:
    return [pushed(days, *tags, name=name) for name, (days, tags) in contents.items()]


TWO = images(A=(10, ["beta-1", "prod-1"]), B=(9, ["beta-2", "prod-2"]), C=(8, ["beta-3"]))
SIX = images(
    A=(12, ["alpha-1"]),
    B=(11, ["beta-1"]),
    C=(10, ["alpha-2", "beta-2"]),
    D=(4, ["alpha-3"]),
    E=(3, ["beta-3"]),
    F=(2, ["alpha-4", "beta-4"]),
)
THREE = images(
    A=(10, ["alpha-1", "beta-1", "gamma-1"]), B=(9, ["alpha-2", "beta-2"]), C=(8, ["alpha-3", "beta-3"])
)
ALL = images(A=(4, ["alpha-1"]), B=(3, ["beta-1"]), C=(2, []), D=(1, ["alpha-2"]))
MIXED = images(A=(4, ["alpha-1", "beta-1"]), B=(3, []), C=(2, ["alpha-2"]), D=(1, ["4f9a"]), E=(1, []))


def tagged(priority: int, *prefixes: str, **how: int) -> dict:
    return rule(priority, "tagged", tagPrefixList=list(prefixes), **how)


@pytest.mark.parametrize(
    ("rules", "stored", "expired"),
    [  # "Examples of lifecycle policies in Amazon ECR", Amazon ECR User Guide, with their outcomes
        ([tagged(1, "prod", keep=1), tagged(2, "beta", keep=1)], TWO, {"A": 1}),
        ([tagged(1, "beta", keep=1), tagged(2, "prod", keep=1)], TWO, {"A": 1, "B": 1}),
        ([tagged(1, "alpha", "beta", days=5)], SIX, {"C": 1}),
        ([tagged(1, "alpha", "beta", keep=1)], THREE, {"A": 1, "B": 1}),
        ([rule(1, "any", keep=1)], ALL, {"A": 1, "B": 1, "C": 1}),
        (
            [tagged(1, "alpha", keep=1), rule(2, "untagged", days=1), rule(3, "any", keep=1)],
            MIXED,
            {"A": 1, "B": 2, "D": 3},
        ),
    ],
)
def test_the_examples_of_the_user_guide_come_out_as_it_says(rules, stored, expired):
    assert expiring(read_policy(policy(*rules)), stored, NOW) == expired


@pytest.mark.parametrize(
    ("pattern", "tag", "selected"),
    [
        ("prod*", "prod-1", True),
        ("prod*", "prod", True),
        ("prod", "prod-1", False),
        ("*prod", "my-prod", True),
        ("*prod", "my-prod-1", False),
        ("*test*1*", "a-test-0.1.2", True),
        ("v1.0", "v1x0", False),
        ("PROD*", "prod-1", False),
        ("*", "anything", True),
    ],
)
def test_a_pattern_matches_a_whole_tag_and_a_star_any_part_of_it(pattern, tag, selected):
    (of,) = read_policy(policy(rule(1, "tagged", keep=1, tagPatternList=[pattern])))
    assert of.selects(pushed(1, tag)) is selected


def test_each_pattern_needs_a_tag_but_not_the_same_one():
    (of,) = read_policy(policy(rule(1, "tagged", keep=1, tagPatternList=["v*", "*-slim"])))
    assert of.selects(pushed(1, "v1", "24-slim"))
    assert of.selects(pushed(1, "v1-slim"))
    assert not of.selects(pushed(1, "v1"))


def test_a_prefix_is_no_pattern():
    (of,) = read_policy(policy(tagged(1, "v.", keep=1)))
    assert of.selects(pushed(1, "v.1"))
    assert not of.selects(pushed(1, "v1"))


def test_an_image_expires_only_when_it_is_older_than_the_days():
    rules = read_policy(policy(rule(1, "any", days=7)))
    assert expiring(rules, [pushed(7)], NOW) == {}
    assert expiring(rules, [pushed(7)], NOW + timedelta(seconds=1)) == {"7": 1}


def test_of_images_pushed_at_once_the_later_one_is_newer():
    rules = read_policy(policy(rule(1, "any", keep=1)))
    assert expiring(rules, [pushed(1, name="first"), pushed(1, name="second")], NOW) == {"first": 1}


def test_what_a_manifest_list_lists_counts_and_does_not_expire():
    """As "Lifecycle policy evaluation rules", Amazon ECR User Guide, has it."""
    stored = [
        replace(pushed(4, name="amd64"), listed=True),
        pushed(3, "v1", name="list"),
        pushed(2, "v2", name="old"),
        replace(pushed(1, name="newest"), listed=True),
    ]
    assert expiring(read_policy(policy(rule(1, "any", keep=1))), stored, NOW) == {"list": 1, "old": 1}
    assert expiring(read_policy(policy(rule(1, "untagged", days=1))), stored, NOW) == {}


def test_no_image_no_expiry():
    assert expiring(read_policy(policy(rule(1, "any", keep=1))), [], NOW) == {}


# --- what must always hold --------------------------------------------------------------------------------------------

stored_images = st.lists(
    st.tuples(
        st.integers(0, 30), st.lists(st.sampled_from(["a1", "a2", "b1", "b2", "c"]), unique=True, max_size=3)
    ),
    max_size=12,
).map(lambda found: [pushed(days, *tags, name=str(n)) for n, (days, tags) in enumerate(found)])
counts = st.one_of(
    st.integers(1, 6).map(lambda n: {"keep": n}), st.integers(1, 20).map(lambda n: {"days": n})
)


@st.composite
def policies(draw) -> str:
    chosen = draw(
        st.lists(st.sampled_from(["a*", "b*", "*1", "untagged"]), unique=True, min_size=1, max_size=4)
    )
    rules = [
        rule(number, "untagged", **draw(counts))
        if what == "untagged"
        else rule(number, "tagged", tagPatternList=[what], **draw(counts))
        for number, what in enumerate(chosen, 1)
    ]
    if draw(st.booleans()):
        rules.append(rule(9, "any", **draw(counts)))
    return policy(*draw(st.permutations(rules)))


@given(text=policies(), stored=stored_images)
def test_an_image_is_expired_by_the_first_rule_that_selects_it_or_by_none(text, stored):
    rules = sorted(read_policy(text), key=lambda each: each.priority)
    by_digest = {image.digest: image for image in stored}
    for digest, priority in expiring(rules, stored, NOW).items():
        first = next(each for each in rules if each.selects(by_digest[digest]))
        assert first.priority == priority


@given(text=policies(), stored=stored_images)
def test_older_images_expire_before_newer_ones(text, stored):
    rules = read_policy(text)
    marked = expiring(rules, stored, NOW)
    order = [next(image.pushed_at for image in stored if image.digest == digest) for digest in marked]
    assert order == sorted(order)
    (last,) = [each for each in rules if each.priority == min(other.priority for other in rules)]
    seen = [image for image in stored if last.selects(image)]
    kept = [image.pushed_at for image in seen if image.digest not in marked]
    gone = [image.pushed_at for image in seen if image.digest in marked]
    assert not (kept and gone) or max(gone) <= min(kept)


@given(keep=st.integers(1, 6), stored=stored_images)
def test_a_rule_for_any_image_keeps_just_so_many(keep, stored):
    rules = read_policy(policy(rule(1, "any", keep=keep)))
    assert len(stored) - len(expiring(rules, stored, NOW)) == min(keep, len(stored))


# --- what ECR would not take ------------------------------------------------------------------------------------------

GOOD = rule(1, "any", keep=1)


def changed(**selection: object) -> str:
    kept = {**GOOD["selection"], **selection}
    return policy({**GOOD, "selection": {name: value for name, value in kept.items() if value != "left out"}})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Could not map policyString into LifecyclePolicy."),
        ("[]", "Could not map policyString into LifecyclePolicy."),
        ("{}", 'object has missing required properties (["rules"])'),
        (policy(), "array is too short: must have at least 1 elements but instance has 0 elements"),
        (
            '{"rules": {}}',
            'instance type (object) does not match any allowed primitive type (allowed: ["array"])',
        ),
        (
            policy("rule"),
            'instance type (string) does not match any allowed primitive type (allowed: ["object"])',
        ),
        (policy({"rulePriority": 1}), 'object has missing required properties (["action", "selection"])'),
        (policy({**GOOD, "color": 1}), 'properties which are not allowed by the schema: ["color"]'),
        (policy({**GOOD, "rulePriority": True}), "instance type (boolean) does not match"),
        (policy({**GOOD, "rulePriority": 0}), "lower than the required minimum (minimum: 1, found: 0)"),
        (policy({**GOOD, "description": 1}), "instance type (integer) does not match"),
        (policy({**GOOD, "action": {"type": "keep"}}), 'instance value ("keep") not found in enum'),
        (changed(tagStatus="some"), 'instance value ("some") not found in enum'),
        (changed(tagStatus="left out"), 'object has missing required properties (["tagStatus"])'),
        (changed(countType="imageCount"), 'instance value ("imageCount") not found in enum'),
        (changed(countNumber=0), "lower than the required minimum (minimum: 1, found: 0)"),
        (changed(countNumber="5"), "instance type (string) does not match"),
        (changed(countUnit="days"), "instance failed to match exactly one schema (matched 0 out of 2)"),
        (changed(countType="sinceImagePushed"), "failed to match exactly one schema (matched 0 out of 2)"),
        (
            changed(countType="sinceImagePushed", countUnit="weeks"),
            'instance value ("weeks") not found in enum',
        ),
        (changed(tagStatus="tagged"), "Must specify tagPrefixList or tagPatternList when tagStatus=TAGGED."),
        (
            changed(tagStatus="tagged", tagPatternList=[]),
            "Must specify tagPrefixList or tagPatternList when tagStatus=TAGGED.",
        ),
        (changed(tagPrefixList=["v"]), "tagPrefixList can only be specified when tagStatus=TAGGED."),
        (
            changed(tagStatus="tagged", tagPrefixList=["v"], tagPatternList=["v*"]),
            "Only one of tagPrefixList",
        ),
        (changed(tagStatus="tagged", tagPatternList=["test*1*2*3*4*5*6"]), "more than 4 wildcards"),
        (changed(tagStatus="tagged", tagPatternList=[1]), "instance type (integer) does not match"),
        (policy(GOOD, rule(1, "untagged", keep=1)), "rulePriority must be unique"),
        (policy(GOOD, rule(2, "untagged", keep=1)), "tagStatus=ANY must have the lowest priority"),
        (policy(*(rule(n, "untagged", keep=1) for n in (1, 2))), "Only one rule can select Untagged images"),
        (policy(*(rule(n, "tagged", keep=n, tagPatternList=["v*"]) for n in (1, 2))), "a unique set of tag"),
        (
            policy(*(tagged(n, str(n), keep=1) for n in range(1, 52))),
            "array is too long: must have at most 50",
        ),
    ],
)
def test_a_policy_that_ecr_refuses_is_refused_with_the_reason(text, why):
    with pytest.raises(AwsError) as caught:
        read_policy(text)
    assert caught.value.code == "InvalidParameterException"
    assert caught.value.message.startswith(
        "Invalid parameter at 'LifecyclePolicyText' failed to satisfy constraint: 'Lifecycle policy validation failure: "
    )
    assert why in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        changed(countType="sinceImagePulled", countUnit="days"),
        changed(storageClass="archive"),
        policy({**GOOD, "action": {"type": "transition", "targetStorageClass": "archive"}}),
    ],
)
def test_what_only_aws_can_evaluate_is_told(text):
    with pytest.raises(AwsError, match="The sandbox cannot evaluate") as caught:
        read_policy(text)
    assert (caught.value.code, caught.value.status) == ("NotImplemented", 501)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["rules", "rulePriority", "selection", "action", "type", "tagStatus", "x"]),
                inner,
            )
        ),
    )
)
def test_whatever_is_no_policy_gets_ecrs_error_and_no_other(value):
    with pytest.raises(AwsError, match="InvalidParameterException"):
        read_policy(json.dumps(value))
