"""Stands in for `<account>.dkr.ecr.<region>.amazonaws.com`: what Docker logs in to, pushes to and pulls from.

Differs: plain HTTP on 127.0.0.1, where Docker asks for no certificate; layers come from here and not from S3; no
permission is asked beside the token. Docker's registry protocol passes through to Distribution as it streams; who may,
which tag is which image, and what a push puts on record is asked of ECR's API like anybody asks it.
"""

from __future__ import annotations

import http.client
import json
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode

from helpers.sandbox.ecr.distribution import Distribution
from helpers.sandbox.ecr.distribution_runner import DistributionError
from helpers.sandbox.ecr.manifests import digest_of
from helpers.sandbox.ecr.own_calls import on_behalf
from helpers.sandbox.ecr.storage import is_full
from helpers.sandbox.ecr.tags import immutable_tag, is_immutable
from helpers.sandbox.ecr.tokens import Token, Tokens
from helpers.sandbox.endpoint import Aws, AwsError

log = logging.getLogger("sandbox.registry")

PIECE = 256 * 1024  # bytes of a layer that are in memory at a time
LARGEST_MANIFEST = 4 * 2**20  # bytes; what Distribution takes, too
PATIENCE = 300.0  # real seconds for a client that says nothing
NAME = r"(?P<repository>[a-z0-9][a-z0-9._/-]*)"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
BASE, CATALOG = re.compile(r"/v2/?"), re.compile(r"/v2/_catalog")
TAGS = re.compile(rf"/v2/{NAME}/tags/list")
MANIFEST = re.compile(rf"/v2/{NAME}/manifests/(?P<reference>[^/]+)")
BLOB = re.compile(rf"/v2/{NAME}/(?P<rest>blobs/(?P<digest>sha256:[0-9a-f]{{64}}))")
UPLOAD = re.compile(rf"/v2/{NAME}/(?P<rest>blobs/uploads/[^/]*)")
NOT_PASSED_ON = frozenset(
    (
        "authorization",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "transfer-encoding",
        "date",
    )
)
# Source: an answer of ECR's to a request without credentials, NVIDIA/enroot#59.
CHALLENGE = 'Basic realm="http://{}/",service="ecr.amazonaws.com"'
EXPIRED = "Your authorization token has expired. Reauthenticate and try again."  # ECR's, with 403 and DENIED
FULL = "The disk of this machine, where the sandbox keeps its images, is full: no space left on device"
BROKE_OFF = "The sandbox's registry broke off. It is started again: push or pull again."


class Refused(Exception):
    """An error answer of the registry: HTTP status, code of the registry's protocol, message."""

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class HungUp(Exception):
    """The client went away in the middle of a request."""


# Source: what Docker prints of ECR, "<code in words>: <message>". 400 and 404 as Distribution gives them for the codes.
CODES = {
    "RepositoryNotFoundException": (404, "NAME_UNKNOWN"),
    "ImageTagAlreadyExistsException": (400, "TAG_INVALID"),
    "ImageNotFoundException": (404, "MANIFEST_UNKNOWN"),
    "LayersNotFoundException": (404, "BLOB_UNKNOWN"),
    "ReferencedImagesNotFoundException": (404, "MANIFEST_BLOB_UNKNOWN"),
    "ImageDigestDoesNotMatchException": (400, "DIGEST_INVALID"),
    "InvalidParameterException": (400, "MANIFEST_INVALID"),
    "InsufficientStorage": (403, "DENIED"),
    "ServerException": (
        403,
        "DENIED",
    ),  # Distribution does not run; of 500 Docker would not print the message
}


class Front:
    """The registry of one region. `port`: its address on 127.0.0.1, the wanted one if that is free."""

    def __init__(self, region: str, port: int, aws: Aws, tokens: Tokens, distribution: Distribution):
        handler = partial(_Handler, region, aws, tokens, distribution)
        try:
            self._server = _Server(("127.0.0.1", port), handler)
        except OSError:
            self._server = _Server(("127.0.0.1", 0), handler)
        self.port: int = self._server.server_address[1]
        self.address = f"127.0.0.1:{self.port}"
        serve = partial(self._server.serve_forever, poll_interval=0.1)
        threading.Thread(target=serve, name=f"registry {region}", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64  # Docker sends five layers at a time

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a client went away", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    rbufsize = PIECE
    timeout = PATIENCE

    def __init__(self, region: str, aws: Aws, tokens: Tokens, distribution: Distribution, *args: Any):
        self._region, self._aws, self._tokens, self._distribution = region, aws, tokens, distribution
        self._began = False  # to answer
        super().__init__(*args)

    def parse_request(self) -> bool:
        if self.raw_requestline[:1] == b"\x16":  # TLS: Docker tries that first and then takes plain HTTP
            self.close_connection = True
            self.wfile.write(b"HTTP/1.0 400 Bad Request\r\nConnection: close\r\n\r\n")
            return False
        return super().parse_request()

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)

    def _answer(self) -> None:
        self._body, self._began = _Body(self.rfile, self.headers), False
        try:
            try:
                self._check_token()
                self._route()
            except Refused as refused:
                self._refuse(refused)
            except AwsError as error:
                self._refuse(_refused(error))
            except DistributionError as error:
                log.error("%s %s: %s", self.command, self.path, error)
                self._refuse(Refused(403, "DENIED", str(error)))
            except (HungUp, ConnectionError, TimeoutError):
                raise
            except Exception as error:
                log.exception("%s %s failed inside the sandbox", self.command, self.path)
                self._refuse(Refused(500, "UNKNOWN", f"{type(error).__name__}: {error} (see sandbox.log)"))
        except (HungUp, ConnectionError, TimeoutError):  # nobody is there to be told
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def _check_token(self) -> None:
        worth = self._tokens.judge(self.headers.get("Authorization", ""))
        if worth is Token.EXPIRED:
            raise Refused(403, "DENIED", EXPIRED)
        if worth is Token.WRONG:
            raise Refused(401, "", "Not Authorized\n")

    def _route(self) -> None:
        path, _, query = self.path.partition("?")
        if BASE.fullmatch(path) and self.command in ("GET", "HEAD"):
            return self._send(200, b"{}")
        if CATALOG.fullmatch(path) and self.command == "GET":
            return self._send(200, json.dumps({"repositories": self._repositories()}).encode())
        if (match := TAGS.fullmatch(path)) and self.command == "GET":
            return self._list_tags(match["repository"])
        if match := MANIFEST.fullmatch(path):
            if self.command == "PUT":
                return self._put_manifest(match["repository"], match["reference"])
            if self.command in ("GET", "HEAD"):
                digest = self._digest(match["repository"], match["reference"])
                return self._pass_on(match["repository"], f"manifests/{digest}", query)
        if (match := BLOB.fullmatch(path)) and self.command in ("GET", "HEAD"):
            self._repository(match["repository"])
            return self._pass_on(match["repository"], match["rest"], query)
        if match := UPLOAD.fullmatch(path):
            self._repository(match["repository"])
            # ECR mounts no layer of another repository unless its account asks for that.
            kept = [pair for pair in parse_qsl(query) if pair[0] not in ("mount", "from")]
            return self._pass_on(match["repository"], match["rest"], urlencode(kept))
        raise Refused(405, "UNSUPPORTED", "The operation is unsupported.")

    # --- what ECR's API knows -----------------------------------------------------------------------------------------

    def _ecr(self, operation: str, **params: Any) -> dict[str, Any]:
        return on_behalf(getattr(self._aws("ecr", self._region), operation), **params)

    def _repository(self, name: str) -> dict[str, Any]:
        (found,) = self._ecr("describe_repositories", repositoryNames=[name])["repositories"]
        return found

    def _repositories(self) -> list[str]:
        found = self._ecr("describe_repositories")["repositories"]
        return sorted(repository["repositoryName"] for repository in found)

    def _list_tags(self, repository: str) -> None:
        ids = self._ecr("list_images", repositoryName=repository)["imageIds"]
        tags = sorted(each["imageTag"] for each in ids if each.get("imageTag"))
        self._send(200, json.dumps({"name": repository, "tags": tags}).encode())

    def _digest(self, repository: str, reference: str) -> str:
        """Of the image that a tag or a digest stands for, by ECR's records."""
        wanted = {"imageDigest" if DIGEST.fullmatch(reference) else "imageTag": reference}
        found = self._ecr("batch_get_image", repositoryName=repository, imageIds=[wanted])["images"]
        if not found:
            raise Refused(404, "MANIFEST_UNKNOWN", "Requested image not found")
        return found[0]["imageId"]["imageDigest"]

    def _put_manifest(self, name: str, reference: str) -> None:
        repository, content = self._repository(name), self._body.all(LARGEST_MANIFEST)
        digest = digest_of(content)
        tag = {} if DIGEST.fullmatch(reference) else {"imageTag": reference}
        typed = (
            {"imageManifestMediaType": self.headers.get_content_type()}
            if "Content-Type" in self.headers
            else {}
        )
        if not tag and reference != digest:
            message = f"The digest {reference} does not match the digest {digest} of the manifest"
            raise Refused(400, "DIGEST_INVALID", message)
        try:
            self._ecr(
                "put_image",
                repositoryName=name,
                imageManifest=content.decode(),
                imageDigest=digest,
                **typed,
                **tag,
            )
        except UnicodeDecodeError as error:
            raise Refused(400, "MANIFEST_INVALID", str(error)) from error
        except AwsError as error:
            # By Docker's protocol the same image may come again under its tag, but not under one that is immutable
            # (aws/containers-roadmap#2179).
            if error.code != "ImageAlreadyExistsException":
                raise
            if tag and is_immutable(repository, reference):
                raise Refused(400, "TAG_INVALID", immutable_tag(name, reference)) from error
        where = {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest}
        self._send(201, b"", where)

    # --- what Distribution holds --------------------------------------------------------------------------------------

    def _pass_on(self, repository: str, rest: str, query: str) -> None:
        path, upstream = f"{self._region}/{repository}/{rest}", self._distribution.connect()
        try:
            try:
                answer = self._forward(upstream, path, query)
            except (OSError, http.client.HTTPException) as error:
                log.error("Distribution broke off %s %s: %r", self.command, path, error)
                raise Refused(503, "UNAVAILABLE", BROKE_OFF) from error
            if answer.status >= 500:
                said = answer.read()
                log.error(
                    "Distribution answered %d to %s %s: %s", answer.status, self.command, self.path, said
                )
                if is_full(said):
                    self._distribution.discard_upload(f"{self._region}/{repository}", rest.rpartition("/")[2])
                    raise Refused(403, "DENIED", FULL)
                raise Refused(answer.status, "UNKNOWN", said.decode(errors="replace"))
            self._send_on(answer)
        finally:
            upstream.close()

    def _forward(
        self, upstream: http.client.HTTPConnection, path: str, query: str
    ) -> http.client.HTTPResponse:
        target = self._distribution.prefix + path + (f"?{query}" if query else "")
        upstream.putrequest(self.command, target, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in NOT_PASSED_ON:
                upstream.putheader(name, value)
        if self._body.length is None:
            upstream.putheader("Transfer-Encoding", "chunked")
        elif self._body.length or self.command in ("POST", "PUT", "PATCH"):
            upstream.putheader("Content-Length", str(self._body.length))
        upstream.endheaders()
        try:
            for piece in self._body:
                upstream.send(b"%x\r\n%s\r\n" % (len(piece), piece) if self._body.length is None else piece)
            if self._body.length is None:
                upstream.send(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has answered before the end, or is gone: what follows tells
        return upstream.getresponse()

    def _send_on(self, answer: http.client.HTTPResponse) -> None:
        self._body.drain()
        self._began = True
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers.items():
            if name.lower() not in NOT_PASSED_ON:
                self.send_header(name, self._outside(value) if name.lower() == "location" else value)
        length = answer.headers.get("Content-Length")
        if length is None and self.command != "HEAD" and answer.status not in (204, 304):
            self.close_connection = True
            self.send_header("Connection", "close")
        elif length is not None:
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = 0
        try:
            while piece := answer.read1(PIECE):
                self.wfile.write(piece)
                sent += len(piece)
        except http.client.HTTPException as error:
            log.error("Distribution broke off %s: %r", self.path, error)
        if length is not None and sent < int(length):
            self.close_connection = True  # that is how the client learns of it

    def _outside(self, location: str) -> str:
        """An address of Distribution's as the client knows it: without the region in its path."""
        return location.replace(f"/v2/{self._region}/", "/v2/", 1)

    # --- answers of our own -------------------------------------------------------------------------------------------

    def _refuse(self, refused: Refused) -> None:
        if self._began:
            self.close_connection = True
            return
        if refused.status == 401:
            challenge = {"Www-Authenticate": CHALLENGE.format(self.headers.get("Host", "127.0.0.1"))}
            self._send(401, refused.message.encode(), challenge, "text/plain; charset=utf-8")
            return
        body = {"errors": [{"code": refused.code, "message": refused.message}]}
        self._send(refused.status, json.dumps(body).encode())

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        content_type: str = "application/json; charset=utf-8",
    ) -> None:
        self._body.drain()  # else the client, still sending, might never read the answer
        self._began = True
        self.send_response_only(status)
        given = {
            "Docker-Distribution-Api-Version": "registry/2.0",
            "Content-Type": content_type,
            **(headers or {}),
        }
        for name, value in given.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Body:
    """A request's body, piece by piece, once. `length`: in bytes, None when it comes in chunks."""

    def __init__(self, file: Any, headers: Any):
        self._file = file
        chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
        self.length = None if chunked else int(headers.get("Content-Length") or 0)
        self._pieces = self._chunks() if chunked else self._exactly(self.length or 0)

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def all(self, most: int) -> bytes:
        whole = bytearray()
        for piece in self:
            whole += piece
            if len(whole) > most:
                raise Refused(400, "MANIFEST_INVALID", f"The manifest is longer than {most} bytes")
        return bytes(whole)

    def drain(self) -> None:
        for _ in self:
            pass

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            with _hanging_up():
                piece = self._file.read1(min(size, PIECE))
            if not piece:
                raise HungUp
            size -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        while size := self._size():
            yield from self._exactly(size)
            self._line()
        while self._line():
            pass  # trailers

    def _size(self) -> int:
        try:
            return int(self._line().split(b";")[0], 16)
        except ValueError as error:
            raise HungUp from error

    def _line(self) -> bytes:
        with _hanging_up():
            line = self._file.readline(1000)
        if not line.endswith(b"\n"):
            raise HungUp
        return line.strip()


@contextmanager
def _hanging_up() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HungUp from error


def _refused(error: AwsError) -> Refused:
    status, code = CODES.get(error.code, (500, "UNKNOWN"))
    message = FULL if error.code == "InsufficientStorage" else error.message
    return Refused(status, code, message)
