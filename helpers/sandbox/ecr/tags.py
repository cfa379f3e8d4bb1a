"""Which tags of a repository may move from one image to another."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any


def is_immutable(repository: dict[str, Any], tag: str) -> bool:
    """Whether a tag, once used in this repository, stays with its image."""
    mutability = repository.get("imageTagMutability", "MUTABLE")
    excluded = any(
        fnmatchcase(tag, each["filter"]) for each in repository.get("imageTagMutabilityExclusionFilters", [])
    )
    return mutability.startswith("IMMUTABLE") != excluded


def immutable_tag(repository: str, tag: str) -> str:
    return (
        f"The image tag '{tag}' already exists in the '{repository}' repository and cannot be overwritten because "
        "the tag is immutable."
    )
