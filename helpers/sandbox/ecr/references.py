"""How an image is named in a task definition, and which repository and image of ECR that means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_IMAGE = r"(?P<repository>[a-z0-9][a-z0-9._/-]*?)(@(?P<digest>sha256:[0-9a-f]{64})|:(?P<tag>[\w.-]+))?"
OF_ECR = re.compile(
    rf"(?P<account>\d{{12}})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?/{_IMAGE}"
)
OF_FRONT = re.compile(rf"127\.0\.0\.1:(?P<port>\d+)/{_IMAGE}")


# A registry's host, a path in lower case, a tag and a digest: as Docker's library `distribution/reference` reads them.
_ANY = re.compile(
    r"([\w.-]+(:\d+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?", re.ASCII
)


@dataclass(frozen=True)
class Reference:
    """`account` is None where the reference does not say it. `image`: as ECR's calls want an image named."""

    account: str | None
    region: str
    repository: str
    image: dict[str, str]


def read_reference(text: str, ports: Mapping[str, int]) -> Reference | None:
    """What a reference to an image of ECR names; None for any other. `ports`: of the sandbox's registries, by region."""
    if match := OF_ECR.fullmatch(text):
        return Reference(match["account"], match["region"], match["repository"], _image(match))
    if match := OF_FRONT.fullmatch(text):
        regions = {port: region for region, port in ports.items()}
        if region := regions.get(int(match["port"])):
            return Reference(None, region, match["repository"], _image(match))
    return None


def is_reference(text: str) -> bool:
    """Whether it has the form of an image's reference at all; an ARN has not."""
    return _ANY.fullmatch(text) is not None


def is_of_ecr(text: str) -> bool:
    """Whether an image comes from ECR, whichever registry of it, and so cannot be pulled without a role."""
    return ".dkr.ecr." in text or OF_FRONT.match(text) is not None


def _image(match: re.Match[str]) -> dict[str, str]:
    return {"imageDigest": match["digest"]} if match["digest"] else {"imageTag": match["tag"] or "latest"}
