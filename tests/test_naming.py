"""What `connect` takes as a name and as a region, and what it proposes instead."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import connection, naming
from helpers.errors import TutorialError
from helpers.templates import template


@pytest.mark.parametrize(
    ("name", "mended"),
    [
        ("Shop_1", "shop-1"),
        ("Cool_App", "cool-app"),
        ("internal-shop", "shop"),
        ("2nd -- Café!", "nd-cafe"),
        ("a-name-of-more-than-two-dozen-letters", "a-name-of-more-than-two"),
        ("shop\n", "shop"),
        ("x", naming.NAME),
        ("", naming.NAME),
        (7, naming.NAME),
    ],
)
def test_a_name_that_the_templates_would_refuse_is_refused_at_once(monkeypatch, name, mended):
    monkeypatch.setattr(connection, "_sandbox", lambda *_: pytest.fail("a sandbox was asked for"))
    with pytest.raises(TutorialError) as told:
        connection.connect(name=name)
    assert naming.NAME_RULE in told.value.seen
    assert told.value.next == f'Say name="{mended}", for instance.'


@given(st.text(max_size=40))
def test_what_is_proposed_as_a_name_is_one(name):
    naming.check_name(naming._mended(name))


def test_the_rule_for_names_is_the_templates():
    for step in ("06", "07", "08"):
        rule = template(step).content["Parameters"]["Name"]
        assert rule["AllowedPattern"] == f"^{naming.NAME_PATTERN.pattern}$"
        assert (rule["MinLength"], rule["MaxLength"]) == naming.NAME_LENGTH
        assert rule["ConstraintDescription"] == naming.NAME_RULE
        assert rule["Default"] == naming.NAME


@pytest.mark.parametrize(
    ("region", "near"),
    [
        ("us-east-9", {"us-east-1", "us-east-2"}),
        ("EU-West-1", {"eu-west-1"}),
        ("Virginia", {naming.REGION}),
        (None, {naming.REGION}),
    ],
)
def test_a_region_that_there_is_not_is_refused_at_once_and_near_ones_are_named(monkeypatch, region, near):
    monkeypatch.setenv("AWS_PROFILE", "one that is not there")
    monkeypatch.setattr(connection, "_sandbox", lambda *_: pytest.fail("a sandbox was asked for"))
    with pytest.raises(TutorialError) as told:
        connection.connect(region=region)
    assert repr(region) in told.value.seen
    assert near <= set(re.findall(r'"([^"]+)"', told.value.next))


@pytest.mark.parametrize("region", ["us-east-1", "ap-southeast-5", "cn-north-1", "us-gov-west-1"])
def test_a_region_of_any_partition_is_one(region):
    naming.check_region(region)
