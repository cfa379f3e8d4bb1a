"""helpers/blocks.py: parts of a template put from one text into another."""

from __future__ import annotations

import pytest

from helpers import blocks
from helpers.errors import TutorialError
from helpers.templates import template

WHOLE = """Parameters:
  Name:
    Type: String
  Image:
    Type: String

Resources:
  # why one
  # in two lines
  One:
    Type: A
    Properties:
      # inside
      Key: 1

  # why two
  Two:
    Type: B

  # why three
  Three:
    Type: C

Outputs:
  Url:
    Value: x
"""


def without(*texts: str) -> str:
    body = WHOLE
    for text in texts:
        assert text in body
        body = body.replace(text, "")
    return body


@pytest.mark.parametrize("step", ["06", "07", "08"])
def test_what_is_there_already_changes_nothing(step):
    whole = template(step)
    for name in [*whole.asks_for, *whole.resources]:
        assert blocks.put(whole.body, whole.body, name) == whole.body


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Two", "  # why two\n  Two:\n    Type: B\n\n"),
        ("Three", "  # why three\n  Three:\n    Type: C\n\n"),
        ("Image", "  Image:\n    Type: String\n"),
    ],
)
def test_what_is_missing_comes_where_it_is_in_the_other(name, text):
    assert blocks.put(without(text), WHOLE, name) == WHOLE


def test_the_first_comes_first():
    first = "  # why one\n  # in two lines\n  One:\n    Type: A\n    Properties:\n      # inside\n      Key: 1\n\n"
    assert blocks.put(without(first), WHOLE, "One") == WHOLE


def test_a_part_takes_its_comment_along_and_replaces_the_old_one():
    changed = WHOLE.replace("  # why two\n", "").replace("Type: B", "Type: Z")
    assert blocks.put(changed, WHOLE, "Two") == WHOLE


def test_what_nobody_has_is_told():
    with pytest.raises(TutorialError, match=r"no Four.*\n?.*Name, Image, One, Two, Three"):
        blocks.put(WHOLE, WHOLE, "Four")
