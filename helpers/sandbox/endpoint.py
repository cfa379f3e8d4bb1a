"""Stands in for AWS's API endpoints: every service and region of one account, at one address on 127.0.0.1.

Differs: credentials are not checked. An operation that a module of the sandbox has a handler for goes there;
everything else is moto's. Requests are read and answers are written by moto's own parsers and serializers, which
work from botocore's service models, so handlers see and return what boto3 sends and receives.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from io import BytesIO
from statistics import median
from typing import Any

import boto3
import botocore.parsers
from botocore.config import Config
from moto.core.parse import PROTOCOL_PARSERS
from moto.core.request import Request, determine_request_protocol
from moto.core.serialize import get_serializer_class
from moto.core.utils import get_service_model
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

log = logging.getLogger("sandbox.endpoint")

ACCOUNT = "123456789012"  # moto's; AWS's documentation uses the same one for its examples
CREDENTIALS = {
    "aws_access_key_id": "sandbox",
    "aws_secret_access_key": "sandbox",
}  # dummies: nothing checks them
SIGNING_NAMES = {
    "elasticloadbalancing": "elbv2",
    "monitoring": "cloudwatch",
}  # where they differ from boto3's names
GLOBAL = ("sts", "iam")  # have no region whose network must be there first
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last by a limit on the size of files
TIMED = 1000  # calls of each operation, the last ones, of which the log tells at its end how long they took
OWN_APP_ID = "sandbox"  # marks the modules' own calls
READS = ("Describe", "Get", "List", "BatchGet", "Validate", "Filter", "BatchCheck", "Lookup")


class AwsError(Exception):
    """An error answer of an AWS service: its code, its message, its HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400):
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status


@dataclass(frozen=True)
class Call:
    """One API call. `params` as boto3 was given them (times aware, UTC); `forward()` lets moto answer it."""

    service: str
    operation: str
    region: str
    params: dict[str, Any]
    forward: Callable[[], dict[str, Any]] = field(repr=False)


Handler = Callable[[Call], dict[str, Any]]
Aws = Callable[[str, str], Any]


class Endpoint:
    """The WSGI application and its server. `clients` and `changes` are what the sandbox's modules work with."""

    def __init__(self, port: int = 0, moto: Callable[..., Iterable[bytes]] | None = None):
        self.handlers: dict[tuple[str, str], Handler] = {}
        self.last_request = time.monotonic()  # by anybody but the sandbox's own modules
        self.on_region: Callable[[str], None] = lambda region: (
            None
        )  # before the first call to a region is answered
        self._mounted: dict[str, Callable[..., Iterable[bytes]]] = {}
        self._regions: dict[str, threading.Event] = {}
        self._moto = moto or DomainDispatcherApplication(create_backend_app)
        self._changes: Counter[str] = Counter()
        self._took: dict[tuple[str, str], deque[float]] = defaultdict(lambda: deque(maxlen=TIMED))
        self._clients: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()
        self._server = make_server("127.0.0.1", port, self, threaded=True, request_handler=_QuietHandler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, name="endpoint", daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, handlers: dict[tuple[str, str], Handler]) -> None:
        """Take over operations from moto. Two modules that want the same one are a mistake."""
        twice = self.handlers.keys() & handlers.keys()
        if twice:
            raise ValueError(f"two handlers for {sorted(twice)}")
        for service, operation in handlers:
            get_service_model(service).operation_model(operation)  # a misspelt name fails here, at the start
        self.handlers.update(handlers)

    def mount(self, prefix: str, application: Callable[..., Iterable[bytes]]) -> None:
        """Let a WSGI application answer what begins with this path: it is not AWS's, and no credential is wanted."""
        self._mounted[prefix] = application

    def changes(self, service: str) -> int:
        """How many calls have written to this service so far: read its records again only when this has moved."""
        return self._changes[service]

    def client(self, service: str, region: str) -> Any:
        """A boto3 client of this endpoint, for the sandbox's own modules."""
        with self._lock:
            key = (service, region)
            if key not in self._clients:
                # A session of its own: boto3's default session would read the learner's profile.
                session = boto3.session.Session(region_name=region, **CREDENTIALS)
                config = Config(
                    retries={"total_max_attempts": 1},
                    user_agent_appid=OWN_APP_ID,
                    proxies={},
                    max_pool_connections=20,
                )
                self._clients[key] = session.client(service, endpoint_url=self.url, config=config)
            return self._clients[key]

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        for prefix, application in self._mounted.items():
            if environ.get("PATH_INFO", "").startswith(prefix):
                return application(environ, start_response)
        began = time.perf_counter()
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
        environ["wsgi.input"] = BytesIO(body)
        service, region = credential_scope(environ.get("HTTP_AUTHORIZATION", ""))
        operation = operation_name(environ, body)
        own = f"app/{OWN_APP_ID}" in environ.get("HTTP_USER_AGENT", "")
        if not own:
            self.last_request = time.monotonic()
            if service not in GLOBAL:
                self._open(region)
        handler = self.handlers.get((service, operation))
        if handler is None:
            answer, status = self._to_moto(service, operation, environ, body, start_response)
        else:
            answer, status = self._handle(handler, service, operation, region, environ, body, start_response)
        if status < 300 and operation and not operation.startswith(READS):
            self._changes[service] += 1
        if not own:
            self._took[service, operation].append(time.perf_counter() - began)
        return answer

    def timings(self) -> list[str]:
        """A line for each operation that others than the sandbox's modules have called, in milliseconds."""
        return [
            f"{service or 'unsigned'} {operation or '(another)'}: {len(took)} calls, median "
            f"{median(took) * 1000:.1f} ms, longest {max(took) * 1000:.1f} ms"
            for (service, operation), took in sorted(self._took.copy().items())
        ]

    def _open(self, region: str) -> None:
        with self._lock:
            first = region not in self._regions
            opened = self._regions.setdefault(region, threading.Event())
        if first:
            try:
                self.on_region(region)
            finally:
                opened.set()
        opened.wait(timeout=10)

    def _to_moto(
        self, service: str, operation: str, environ: dict[str, Any], body: bytes, start_response: Any
    ) -> tuple[Iterable[bytes], int]:
        seen: list[int] = []

        def started(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            seen.append(int(status.split()[0]))
            return start_response(status, headers)

        environ["wsgi.input"] = BytesIO(body)
        try:
            return list(self._moto(environ, started)), seen[-1] if seen else 500
        except Exception as error:
            if not operation or seen:  # not a call that can be answered in its protocol, or half answered
                raise
            log.exception("moto failed to answer %s %s", service, operation)
            why = f"The sandbox cannot answer {operation} as asked: {type(error).__name__}: {error}"
            return _answer(
                service, operation, environ, AwsError("NotImplemented", why, 501), 501, start_response
            )

    def _handle(
        self,
        handler: Handler,
        service: str,
        operation: str,
        region: str,
        environ: dict[str, Any],
        body: bytes,
        start_response: Any,
    ) -> tuple[Iterable[bytes], int]:
        model = get_service_model(service)
        operation_model = model.operation_model(operation)
        protocol = determine_request_protocol(model, environ.get("CONTENT_TYPE"))
        request = Request(dict(environ, **{"wsgi.input": BytesIO(body)}))
        parser = PROTOCOL_PARSERS[protocol](operation_model, timestamp_parser=_aware)
        params = parser.parse(
            {
                "method": request.method,
                "values": request.values,
                "headers": request.headers,
                "body": request.data or body,
                "url_path": request.path,
                "url_params": {},
            }
        )

        def forward() -> dict[str, Any]:
            return self._forward(operation_model, protocol, environ, body)

        call = Call(service, operation, region, params or {}, forward)
        try:
            result: Any = handler(call)
            status = 200
        except AwsError as error:
            log.info("%s %s refused: %s", service, operation, error)
            result, status = error, error.status
        except Exception as error:  # the caller must get an answer that says what went wrong, not a hang-up
            log.exception("%s %s failed inside the sandbox", service, operation)
            result = _failure(error)
            status = result.status
        return _answer(service, operation, environ, result, status, start_response)

    def _forward(
        self, operation_model: Any, protocol: str, environ: dict[str, Any], body: bytes
    ) -> dict[str, Any]:
        caught: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            caught[:] = [int(status.split()[0]), dict(headers)]
            return lambda data: None

        content = b"".join(self._moto(dict(environ, **{"wsgi.input": BytesIO(body)}), start))
        parsed = _response_parser(protocol).parse(
            {"status_code": caught[0], "headers": _lower(caught[1]), "body": content},
            operation_model.output_shape,
        )
        if caught[0] >= 300:
            error = parsed.get("Error", {})
            raise AwsError(error.get("Code", "InternalFailure"), error.get("Message", ""), caught[0])
        parsed.pop("ResponseMetadata", None)
        return parsed


class _QuietHandler(MotoRequestHandler):
    def log_request(self, *args: Any) -> None:
        pass  # the sandbox's log tells decisions, not requests

    def log_error(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


def _failure(error: Exception) -> AwsError:
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        why = f"The disk of this machine, where the sandbox keeps its files, is full ({error}). Make room, ask again."
        return AwsError("InsufficientStorage", why, 507)
    return AwsError("InternalFailure", f"{type(error).__name__}: {error} (see sandbox.log)", 500)


def _answer(
    service: str, operation: str, environ: dict[str, Any], result: Any, status: int, start_response: Any
) -> tuple[list[bytes], int]:
    """Write a result or an AwsError as the service's protocol has it; (content, HTTP status)."""
    model = get_service_model(service)
    protocol = determine_request_protocol(model, environ.get("CONTENT_TYPE"))
    serializer = get_serializer_class(service, protocol)(operation_model=model.operation_model(operation))
    serialized = serializer.serialize(result)
    status = int(serialized["status_code"]) if status == 200 else status
    content = serialized["body"]
    content = content.encode() if isinstance(content, str) else content
    headers = {name: str(value) for name, value in serialized["headers"].items()}
    headers["Content-Length"] = str(len(content))
    start_response(f"{status} {'OK' if status < 300 else 'Error'}", list(headers.items()))
    return [content], status


def credential_scope(authorization: str) -> tuple[str, str]:
    """(boto3's service name, region) of a signed request's Authorization header; ("", "us-east-1") of an unsigned one."""
    for part in authorization.replace(",", " ").split():
        if part.startswith("Credential="):
            scope = part.split("/")
            if len(scope) == 5:
                return SIGNING_NAMES.get(scope[3], scope[3]), scope[2]
    return "", "us-east-1"


def operation_name(environ: dict[str, Any], body: bytes) -> str:
    """The operation that a request of the json or the query protocol asks for; "" for another's."""
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    if target:
        return target.rsplit(".", 1)[-1]
    if environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
        for pair in body.split(b"&"):
            if pair.startswith(b"Action="):
                return pair[7:].decode("ascii", "replace")
    return ""


def _aware(value: Any) -> datetime:
    parsed = botocore.parsers.DEFAULT_TIMESTAMP_PARSER(value)
    return parsed.astimezone(UTC)


@cache
def _response_parser(protocol: str) -> Any:
    return botocore.parsers.ResponseParserFactory().create_parser(protocol)


def _lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
