"""Stands in for Fargate pulling a task's image: the engine pulls it from the sandbox's registry, for every task anew.

Differs: the engine keeps the layers, so only an image's first pull moves bytes. What was pulled goes when the sandbox ends;
a killed one leaves it.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from helpers.sandbox.ecs import stopped_reasons
from helpers.sandbox.registry import CannotPullContainer

if TYPE_CHECKING:
    from docker import DockerClient

log = logging.getLogger("sandbox.tasks")

# (reference, region) → the reference that the engine is to pull, and with which credentials; CannotPullContainer.
PullSpec = Callable[[str, str], tuple[str, dict[str, str]]]


class Pulls:
    """Called with an image's reference and a region, it has the image in the engine and gives its name there."""

    def __init__(self, client: DockerClient, pull_spec: PullSpec):
        self._client, self._pull_spec = client, pull_spec
        self._lock = threading.Lock()
        self._had: set[str] = set()

    def __call__(self, image: str, region: str) -> str:
        from docker.errors import APIError, DockerException
        from requests.exceptions import BaseHTTPError as HTTPError

        reference, credentials = self._pull_spec(image, region)
        try:
            for told in self._client.api.pull(reference, stream=True, decode=True, auth_config=credentials):
                if error := _error_in(told):
                    raise CannotPullContainer(in_ecs_words(image, error))
        except APIError as error:
            raise CannotPullContainer(in_ecs_words(image, str(error.explanation or error))) from error
        except (DockerException, HTTPError, OSError) as error:
            raise CannotPullContainer(f"the Docker Engine does not answer: {error}") from error
        with self._lock:
            self._had.add(reference)
        return reference

    def forget(self) -> None:
        """Take the names away under which images were pulled; the image itself, when it has no other."""
        from docker.errors import DockerException
        from requests.exceptions import BaseHTTPError as HTTPError

        for reference in self._had:
            with contextlib.suppress(DockerException, HTTPError, OSError):  # in use, or gone already
                self._client.api.remove_image(reference)
        self._had.clear()


def in_ecs_words(image: str, error: str) -> str:
    """What follows "CannotPullContainerError: " on AWS, by what the engine says."""
    retried, said = "pull image manifest has been retried 1 time(s): ", error.lower()
    if "no matching manifest" in said or "does not match the specified platform" in said:
        platform = re.search(r"linux/\w+", said)
        return stopped_reasons.no_such_platform(platform[0] if platform else "")
    if any(words in said for words in ("manifest unknown", "name unknown", "not found", "does not exist")):
        return stopped_reasons.manifest_not_found(image)
    if any(words in said for words in ("unauthorized", "no basic auth", "denied", "forbidden")):
        return f"{retried}failed to resolve ref {image}: unexpected status from HEAD request: 403 Forbidden"
    if "no space left on device" in said:
        return f"failed to register layer: {error}"
    return f"{retried}failed to resolve ref {image}: {error}"


def _error_in(told: dict[str, Any]) -> str | None:
    return (told.get("errorDetail") or {}).get("message") or told.get("error")
