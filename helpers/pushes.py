"""A Docker push: log in to a registry with ECR's token, send what it does not have, and tell why it refused."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from helpers.builds import DockerImage
from helpers.engine import MAKE_ROOM, NO_ROOM, NO_WAY_OUT, SILENT, engine_gone, reach
from helpers.errors import TutorialError

if TYPE_CHECKING:
    from docker import DockerClient

HOST = re.compile(r"[a-z0-9.-]+:\d+|[a-z0-9-]+(\.[a-z0-9-]+)+")
NAME = re.compile(r"[a-z0-9]+([._/-]+[a-z0-9]+)*")


class TagTaken(TutorialError):
    """The registry holds another image under this tag, and does not let tags move."""


def push(image: DockerImage, repository_uri: str, token: str | None = None) -> str:
    """Log in to the registry and push, a printed line for each layer; returns the URI with digest, as a task definition
    wants it. The same image under the same tag may be pushed again.

    `token`: what GetAuthorizationToken gave, or the password in it; asked for unless told.
    """
    from docker.errors import APIError

    host, _, repository = repository_uri.partition("/")
    if not (HOST.fullmatch(host) and NAME.fullmatch(repository)):
        raise TutorialError(
            "That is not an ECR repository's URI.",
            seen=repository_uri,
            next="Use the `repositoryUri` that create_repository or describe_repositories answers.",
        )
    account = {"username": "AWS", "password": _password(token, host)}
    with reach(SILENT) as engine:
        try:
            engine.api.login(**account, registry=host, reauth=True)
            with _tagged(engine, image, repository_uri):
                events = engine.api.push(
                    repository_uri, tag=image.tag, stream=True, decode=True, auth_config=account
                )
                try:
                    digest = follow_push(events, repository, image.tag)
                except TagTaken:
                    # ECR refuses it for the same image, too (aws/containers-roadmap, issue 2380).
                    digest = _digest_there(engine, image, repository_uri, account)
                    if digest is None:
                        raise
                    print(f"{image.tag}: already there, and this very image")
        except APIError as problem:
            raise not_pushed(str(problem.explanation or problem), repository, image.tag) from None
    return f"{repository_uri}@{digest}"


@contextmanager
def _tagged(engine: DockerClient, image: DockerImage, repository_uri: str) -> Iterator[None]:
    """The image has the registry's name in the engine, too. When it is not pushed, that name is again what it was."""
    from docker.errors import ImageNotFound

    name = f"{repository_uri}:{image.tag}"
    try:
        before = engine.api.inspect_image(name)["Id"]
    except ImageNotFound:
        before = None
    engine.api.tag(image.id, repository_uri, image.tag)
    try:
        yield
    except BaseException:
        if before is None:
            engine.api.remove_image(name, noprune=True)
        else:
            engine.api.tag(before, repository_uri, image.tag)
        raise


def _digest_there(
    engine: DockerClient, image: DockerImage, repository_uri: str, account: dict[str, str]
) -> str | None:
    """The digest that the registry has under the image's tag, if it is this image's, as an earlier push told."""
    there = engine.api.inspect_distribution(f"{repository_uri}:{image.tag}", auth_config=account)
    digest = there["Descriptor"]["digest"]
    known = engine.api.inspect_image(image.id).get("RepoDigests") or []
    return digest if f"{repository_uri}@{digest}" in known else None


def _password(token: str | None, host: str) -> str:
    if token is None:
        import boto3

        region = re.search(r"\.ecr\.([a-z0-9-]+)\.amazonaws\.com", host)
        ecr = boto3.client("ecr", region_name=region[1] if region else None)
        token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    with suppress(ValueError):  # not in base64: the password itself
        user, _, password = b64decode(token, validate=True).decode().partition(":")
        if user == "AWS" and password:
            return password
    return token


def follow_push(events: Iterable[dict[str, Any]], repository: str, tag: str) -> str:
    """The digest that a push ends in, a printed line for each layer. TutorialError when it ends in anything else.

    The lines come in the order in which the engine begins with the layers, whichever of them is done first.
    """
    digest, sizes, told = None, {}, {}
    for event in events:
        if "error" in event or "errorDetail" in event:
            raise not_pushed(
                (event.get("errorDetail") or {}).get("message") or event.get("error") or "", repository, tag
            )
        layer, status = event.get("id", ""), event.get("status", "")
        detail = event.get("progressDetail") or {}
        sizes[layer] = max(sizes.get(layer, 0), detail.get("total", 0), detail.get("current", 0))
        if layer and status in ("Preparing", "Waiting"):
            told.setdefault(layer, "")
        elif status == "Pushed":
            told[layer] = f"{layer}: pushed" + (f" ({sizes[layer]:,} bytes)" if sizes[layer] else "")
        elif status == "Layer already exists" or status.startswith("Mounted from"):
            told[layer] = f"{layer}: already there"
        while told and (line := next(iter(told.values()))):
            print(line)
            del told[next(iter(told))]
        digest = (event.get("aux") or {}).get("Digest") or digest
    if digest is None:
        raise engine_gone("the push broke off without a digest")
    return digest


def not_pushed(reason: str, repository: str, tag: str) -> TutorialError:
    """A push that was refused, with the registry's reason."""
    if re.search(r"tag invalid|immutable|ImageTagAlreadyExists", reason):
        return TagTaken(
            f"The tag {tag} belongs to another image, and {repository} does not let tags move.",
            seen=reason,
            next="Build again with a tag that is not in use.",
        )
    if re.search(r"name unknown|does not exist|NAME_UNKNOWN|not found", reason):
        what = f"There is no ECR repository {repository} behind that URI."
        mend = f"Create it: ecr.create_repository(repositoryName={repository!r})."
    elif re.search(r"unauthorized|denied|no basic auth|authorization token|401|403", reason, re.IGNORECASE):
        what = "The registry does not accept this token."
        mend = "Get a new one, ecr.get_authorization_token(), and push again. It is good for twelve hours."
    elif NO_ROOM.search(reason) or "507" in reason:
        what, mend = (
            "There is no room for the image.",
            f"Make room on the registry's disk, and push again. {MAKE_ROOM}",
        )
    elif "server gave HTTP response to HTTPS client" in reason:
        what = "The engine wants to speak to that registry by TLS only."
        mend = (
            "Registries on 127.0.0.1 need none; use the `repositoryUri` that describe_repositories answers."
        )
    elif NO_WAY_OUT.search(reason) or "EOF" in reason:
        what = "The registry does not answer."
        mend = "Run the cell with `connect(...)` again: it starts what is missing. Then push again."
    else:
        what, mend = "The image was not pushed.", "Mend that, and push again: what arrived is not sent twice."
    return TutorialError(what, seen=reason, next=mend)
