"""Stands in for ECR's own hand in its storage: what the API's calls, and not Docker's, put there and take away.

Differs: as `distribution.py`.
"""

from __future__ import annotations

import errno
import http.client
import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from helpers.sandbox.ecr.distribution import Distribution
from helpers.sandbox.ecr.distribution_runner import DistributionError
from helpers.sandbox.endpoint import NO_ROOM, AwsError

log = logging.getLogger("sandbox.registry")


class Storage:
    """Layers and manifests of `name`, that is "<region>/<repository>", by digest. ServerException when Distribution
    fails, OSError when it has no room."""

    def __init__(self, distribution: Distribution):
        self._distribution = distribution

    def layer_size(self, name: str, digest: str) -> int | None:
        """Bytes; None when the repository has no such layer."""
        status, headers, body = self._ask("HEAD", f"{name}/blobs/{digest}")
        if status == 404:
            return None
        self._expect(200, status, body)
        return int(headers["Content-Length"])

    def put_layer(self, name: str, digest: str, file: Path) -> None:
        status, headers, body = self._ask("POST", f"{name}/blobs/uploads/", headers={"Content-Length": "0"})
        self._expect(202, status, body)
        upload = headers["Location"].partition("/v2/")[2]
        mark = "&" if "?" in upload else "?"
        with file.open("rb") as content:
            given = {
                "Content-Length": str(file.stat().st_size),
                "Content-Type": "application/octet-stream",
            }
            status, _, body = self._ask("PUT", f"{upload}{mark}digest={digest}", content, given)
        self._expect(201, status, body)

    def put_manifest(self, name: str, digest: str, content: bytes, media_type: str) -> None:
        headers = {"Content-Type": media_type}
        status, _, body = self._ask("PUT", f"{name}/manifests/{digest}", content, headers)
        self._expect(201, status, body)

    def delete_manifest(self, name: str, digest: str) -> None:
        self._delete(f"{name}/manifests/{digest}")

    def delete_layer(self, name: str, digest: str) -> None:
        self._delete(f"{name}/blobs/{digest}")

    def _delete(self, path: str) -> None:
        """What is gone from the records shall not come back because the storage does not answer."""
        try:
            status, _, body = self._ask("DELETE", path)
        except AwsError as error:
            log.error("%s is not deleted: %s", path, error)
            return
        if status not in (202, 404):
            log.error("%s is not deleted: %s", path, _words(body))

    def _ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        try:
            connection = self._distribution.connect()
        except DistributionError as error:
            raise AwsError("ServerException", str(error), 500) from error
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # it may refuse before it has read all
                connection.request(method, self._distribution.prefix + path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        except (OSError, http.client.HTTPException) as error:
            why = f"The sandbox's registry broke off: {error or type(error).__name__}"
            raise AwsError("ServerException", why, 500) from error
        finally:
            connection.close()

    def _expect(self, wanted: int, status: int, body: bytes) -> None:
        if status == wanted:
            return
        if is_full(body):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise AwsError("ServerException", f"The sandbox's registry answered {status}: {_words(body)}", 500)


def is_full(body: bytes) -> bool:
    """Whether an answer of Distribution's says that there is no room: in words, or by the system's number for it."""
    said = body.decode(errors="replace").lower()
    if any(os.strerror(number).lower() in said for number in NO_ROOM):
        return True
    try:
        (error,) = json.loads(body)["errors"]
        return error["detail"]["Enclosed"]["Err"] in NO_ROOM
    except (ValueError, TypeError, KeyError):
        return False


def _words(body: bytes) -> str:
    return body.decode(errors="replace").strip()[:500]
