"""Stands in for ECR's lifecycle policies and their previews: what would expire, told of the images that are there.

Differs: a preview is all that is evaluated. A policy that is put is kept and nothing expires by it; on AWS that
happens within 24 hours. A preview never fails.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from helpers.sandbox.clock import Clock
from helpers.sandbox.ecr.lifecycle_policy import StoredImage, expiring, read_policy
from helpers.sandbox.ecr.own_calls import on_behalf
from helpers.sandbox.endpoint import ACCOUNT, Aws, AwsError, Call, Handler

TAKES = 5.0  # AWS seconds; an assumption: AWS names no time, its SDKs ask every 5 s
KEPT = 24 * 3600.0  # AWS seconds, then EXPIRED; an assumption
NEVER = datetime.fromtimestamp(0, UTC)  # lastEvaluatedAt of a policy that has not been evaluated
PAGE = 100  # results, unless maxResults says fewer


@dataclass(frozen=True)
class Preview:
    policy: str
    started: float  # AWS time
    results: list[dict[str, Any]]  # oldest image first

    def status(self, now: float) -> str:
        age = now - self.started
        return "IN_PROGRESS" if age < TAKES else "COMPLETE" if age < KEPT else "EXPIRED"


class LifecyclePolicies:
    """`listed`: of images as DescribeImages has them, the digests that a manifest list among them lists."""

    def __init__(self, clock: Clock, aws: Aws, listed: Callable[[list[dict[str, Any]]], Container[str]]):
        self._clock, self._aws, self._listed = clock, aws, listed
        self._previews: dict[tuple[str, str], Preview] = {}  # (region, repository)

    def operations(self) -> dict[tuple[str, str], Handler]:
        return {
            ("ecr", "PutLifecyclePolicy"): self.put_lifecycle_policy,
            ("ecr", "GetLifecyclePolicy"): self.never_evaluated,
            ("ecr", "DeleteLifecyclePolicy"): self.never_evaluated,
            ("ecr", "StartLifecyclePolicyPreview"): self.start_preview,
            ("ecr", "GetLifecyclePolicyPreview"): self.get_preview,
        }

    def forget(self, region: str, repository: str) -> None:
        self._previews.pop((region, repository), None)

    def put_lifecycle_policy(self, call: Call) -> dict[str, Any]:
        read_policy(call.params["lifecyclePolicyText"])
        return call.forward()

    def never_evaluated(self, call: Call) -> dict[str, Any]:
        return call.forward() | {"lastEvaluatedAt": NEVER}

    def start_preview(self, call: Call) -> dict[str, Any]:
        repository, ecr = call.params["repositoryName"], self._aws("ecr", call.region)
        images = self._images(ecr, repository)
        text = call.params.get("lifecyclePolicyText")
        if text is None:
            text = on_behalf(ecr.get_lifecycle_policy, repositoryName=repository)["lifecyclePolicyText"]
        rules, now = read_policy(text), self._clock.now()
        before = self._previews.get((call.region, repository))
        if before is not None and before.status(now.timestamp()) == "IN_PROGRESS":
            raise AwsError(
                "LifecyclePolicyPreviewInProgressException",
                "The previous lifecycle policy preview request has not completed. Wait and try again.",
            )
        by_digest = {image["imageDigest"]: image for image in images}
        listed = self._listed(images)
        stored = [_stored(image, image["imageDigest"] in listed) for image in images]
        results = [
            _result(by_digest[digest], priority) for digest, priority in expiring(rules, stored, now).items()
        ]
        self._previews[call.region, repository] = Preview(text, now.timestamp(), results)
        return _about(repository, text) | {"status": "IN_PROGRESS"}

    def get_preview(self, call: Call) -> dict[str, Any]:
        repository, params = call.params["repositoryName"], call.params
        on_behalf(self._aws("ecr", call.region).describe_repositories, repositoryNames=[repository])
        preview = self._previews.get((call.region, repository))
        if preview is None:
            raise AwsError(
                "LifecyclePolicyPreviewNotFoundException",
                f"Lifecycle policy preview does not exist for the repository with name '{repository}' "
                f"in the registry with id '{ACCOUNT}'",
            )
        answer = _about(repository, preview.policy) | {"status": preview.status(self._clock.time())}
        if answer["status"] != "COMPLETE":
            return answer | {"previewResults": []}
        asked = [result for result in preview.results if _is_asked_for(result, params)]
        first = _offset(params.get("nextToken", "0"))
        last = first + params.get("maxResults", PAGE)
        more = {"nextToken": str(last)} if last < len(asked) else {}
        summary = {"expiringImageTotalCount": len(preview.results)}
        return answer | {"previewResults": asked[first:last], "summary": summary} | more

    def _images(self, ecr: Any, repository: str) -> list[dict[str, Any]]:
        return on_behalf(ecr.describe_images, repositoryName=repository)["imageDetails"]


def _about(repository: str, policy: str) -> dict[str, Any]:
    return {"registryId": ACCOUNT, "repositoryName": repository, "lifecyclePolicyText": policy}


def _offset(token: str) -> int:
    if not token.isdecimal():
        raise AwsError(
            "InvalidParameterException", "Invalid parameter at 'nextToken' failed to satisfy constraint"
        )
    return int(token)


def _stored(image: dict[str, Any], listed: bool) -> StoredImage:
    tags = tuple(image.get("imageTags", ()))
    return StoredImage(image["imageDigest"], tags, image["imagePushedAt"], listed)


def _result(image: dict[str, Any], priority: int) -> dict[str, Any]:
    kept = {name: image[name] for name in ("imageTags", "imageDigest", "imagePushedAt") if name in image}
    return kept | {
        "action": {"type": "EXPIRE"},
        "appliedRulePriority": priority,
        "storageClass": "STANDARD",
    }


def _is_asked_for(result: dict[str, Any], params: dict[str, Any]) -> bool:
    tags = result.get("imageTags", [])
    ids = params.get("imageIds") or [{}]
    named = any(
        wanted.get("imageDigest", result["imageDigest"]) == result["imageDigest"]
        and ("imageTag" not in wanted or wanted["imageTag"] in tags)
        for wanted in ids
    )
    return named and has_tag_status(tags, params.get("filter", {}))


def has_tag_status(tags: list[str], wanted: dict[str, str]) -> bool:
    """Whether an image with these tags passes ECR's filter {"tagStatus": "TAGGED" | "UNTAGGED" | "ANY"}."""
    return wanted.get("tagStatus", "ANY") in ("ANY", "TAGGED" if tags else "UNTAGGED")
