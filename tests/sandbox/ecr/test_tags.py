from __future__ import annotations

import pytest

from helpers.sandbox.ecr.tags import immutable_tag, is_immutable

LATEST = [{"filterType": "WILDCARD", "filter": "latest*"}]


@pytest.mark.parametrize(
    ("mutability", "filters", "tag", "stays"),
    [
        ("MUTABLE", [], "v1", False),
        ("IMMUTABLE", [], "v1", True),
        ("IMMUTABLE_WITH_EXCLUSION", LATEST, "v1", True),
        ("IMMUTABLE_WITH_EXCLUSION", LATEST, "latest-arm64", False),
        ("MUTABLE_WITH_EXCLUSION", LATEST, "latest", True),
        ("MUTABLE_WITH_EXCLUSION", LATEST, "v1", False),
    ],
)
def test_a_tag_stays_with_its_image_as_the_repository_says(mutability, filters, tag, stays):
    """Filters name the exceptions: ImageTagMutabilityExclusionFilter, ECR's API reference."""
    repository = {"imageTagMutability": mutability, "imageTagMutabilityExclusionFilters": filters}
    assert is_immutable(repository, tag) is stays


def test_the_refusal_is_in_ecrs_words():
    assert immutable_tag("shop", "v1") == (
        "The image tag 'v1' already exists in the 'shop' repository and cannot be overwritten because the tag is "
        "immutable."
    )
