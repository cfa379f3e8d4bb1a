"""What may be said to `connect`: names that the templates take, and regions that AWS has."""

from __future__ import annotations

import re
import unicodedata
from difflib import get_close_matches
from functools import cache

from helpers.errors import TutorialError

NAME = "cool-nodejs-app"  # the article's
# What the templates' parameter Name allows; said here, before anything is made under the name.
NAME_PATTERN = re.compile(r"(?!internal-)[a-z][a-z0-9]*(-[a-z0-9]+)*")
NAME_LENGTH = (2, 24)
NAME_RULE = "2 to 24 characters, lower-case words joined by single hyphens, not starting with internal-"
REGION = "us-east-1"


def check_name(name: object) -> None:
    """TutorialError when the templates would not take it as what everything is named after."""
    if not (isinstance(name, str) and _is_name(name)):
        raise TutorialError(
            "Nothing in AWS can be named after that.",
            seen=f"name={name!r}; the rule is: {NAME_RULE}",
            next=f'Say name="{_mended(str(name))}", for instance.',
        )


def _is_name(name: str) -> bool:
    return bool(NAME_PATTERN.fullmatch(name)) and NAME_LENGTH[0] <= len(name) <= NAME_LENGTH[1]


def _mended(name: str) -> str:
    """The nearest that follows the rule; NAME where nothing of it is left."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = "-".join(re.findall(r"[a-z0-9]+", plain))
    words = re.sub(r"^(internal(-|$)|[^a-z]+)+", "", words)
    short = words[: NAME_LENGTH[1]].rstrip("-")
    return short if _is_name(short) else NAME


def check_region(region: object) -> None:
    """TutorialError when botocore, which asks nobody for it, knows of no such region with ECS."""
    known = _regions()
    if region not in known:
        near = get_close_matches(str(region).lower(), known, cutoff=0.7) or [REGION, "eu-west-1"]
        raise TutorialError(
            "AWS has no region of that name, or no ECS in it.",
            seen=f"region={region!r}",
            next=f"Say region={' or '.join(repr(each) for each in near)}, for instance.".replace("'", '"'),
        )


@cache
def _regions() -> tuple[str, ...]:
    """The regions of ECS in all of AWS's partitions; no profile of the user's is read for that."""
    from botocore.loaders import Loader
    from botocore.regions import EndpointResolver

    resolver = EndpointResolver(Loader().load_data("endpoints"))
    partitions = resolver.get_available_partitions()
    return tuple(region for each in partitions for region in resolver.get_available_endpoints("ecs", each))
