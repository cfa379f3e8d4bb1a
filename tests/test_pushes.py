"""Docker pushes: the engine's events as recorded, and a real registry where there is an engine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from docker.api.image import ImageApiMixin

from helpers import builds, pushes
from helpers.builds import DockerImage
from helpers.errors import TutorialError
from helpers.pushes import follow_push, not_pushed, push
from tests.engine.fixtures import tiny_image
from tests.waiting import until

IMAGE = DockerImage("shop:v1", "sha256:0", "amd64", 0, "", ["node"])
EVENTS = [
    {"status": "The push refers to repository [127.0.0.1:5000/shop]"},
    {"status": "Preparing", "progressDetail": {}, "id": "aaaaaaaaaaaa"},
    {"status": "Waiting", "progressDetail": {}, "id": "bbbbbbbbbbbb"},
    {"status": "Layer already exists", "progressDetail": {}, "id": "bbbbbbbbbbbb"},
    {
        "status": "Pushing",
        "progressDetail": {"current": 512, "total": 4000},
        "progress": "[>  ]",
        "id": "aaaaaaaaaaaa",
    },
    {
        "status": "Pushing",
        "progressDetail": {"current": 4608},
        "progress": "[==>]",
        "id": "aaaaaaaaaaaa",
    },
    {"status": "Pushed", "progressDetail": {}, "id": "aaaaaaaaaaaa"},
    {"status": "v1: digest: sha256:feed size: 528"},
    {"progressDetail": {}, "aux": {"Tag": "v1", "Digest": "sha256:feed", "Size": 528}},
]


def test_a_push_says_a_line_for_each_layer_and_ends_in_its_digest(capsys):
    assert follow_push(EVENTS, "shop", "v1") == "sha256:feed"
    assert capsys.readouterr().out.splitlines() == [
        "aaaaaaaaaaaa: pushed (4,608 bytes)",
        "bbbbbbbbbbbb: already there",
    ]


def test_a_push_that_breaks_off_is_told():
    with pytest.raises(TutorialError, match="went away"):
        follow_push(EVENTS[:-2], "shop", "v1")


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (
            "tag invalid: The image tag 'v1' already exists in the 'shop' repository and cannot be overwritten because "
            "the tag is immutable.",
            r"belongs to another image(?s:.*)immutable(?s:.*)a tag that is not in use",
        ),
        (
            "name unknown: The repository with name 'shop' does not exist in the registry with id '123456789012'",
            r"no ECR repository shop(?s:.*)create_repository\(repositoryName='shop'\)",
        ),
        ("no basic auth credentials", r"not accept this token(?s:.*)get_authorization_token"),
        (
            "denied: Your authorization token has expired. Reauthenticate and try again.",
            "not accept this token",
        ),
        (
            "login attempt to http://127.0.0.1:5000/v2/ failed with status: 401 Unauthorized",
            "not accept this token",
        ),
        (
            'Get "http://127.0.0.1:5000/v2/": dial tcp: connect: connection refused',
            r"does not answer(?s:.*)connect",
        ),
        ("received unexpected HTTP status: 507 Insufficient Storage", "no room"),
        ("write /state/x: no space left on device", "no room"),
        ("http: server gave HTTP response to HTTPS client", "TLS"),
        ("something else", r"was not pushed(?s:.*)something else"),
    ],
)
def test_a_push_that_is_refused_is_one_error_with_the_registrys_reason(reason, told):
    events = [*EVENTS[:3], {"errorDetail": {"message": reason}, "error": reason}]
    with pytest.raises(TutorialError, match=told):
        follow_push(events, "shop", "v1")
    assert not_pushed(reason, "shop", "v1").seen == reason


@pytest.mark.parametrize(
    "uri",
    [
        "shop",
        "library/shop",
        "127.0.0.1:5000/shop:v1",
        "http://127.0.0.1:5000/shop",
        "127.0.0.1:5000/",
        "a.b/X",
    ],
)
def test_what_is_no_repository_is_told(uri):
    with pytest.raises(TutorialError, match="repositoryUri"):
        push(IMAGE, uri, "token")


def test_the_password_is_asked_for_or_taken_out_of_the_token(monkeypatch):
    token = b64encode(b"AWS:open sesame").decode()
    asked = []
    answer = {"authorizationData": [{"authorizationToken": token}]}
    ecr = SimpleNamespace(get_authorization_token=lambda: answer)
    monkeypatch.setattr(boto3, "client", lambda *names, **options: asked.append(options) or ecr)
    assert pushes._password(None, "123456789012.dkr.ecr.eu-west-1.amazonaws.com") == "open sesame"
    assert pushes._password(None, "127.0.0.1:5000") == "open sesame"
    assert [options["region_name"] for options in asked] == ["eu-west-1", None]
    assert pushes._password(token, "127.0.0.1:5000") == "open sesame"
    assert pushes._password("open sesame", "127.0.0.1:5000") == "open sesame"
    assert pushes._password("YWJj", "127.0.0.1:5000") == "YWJj"


# --- with an engine ---------------------------------------------------------------------------------------------------


@pytest.fixture
def registry(engine, tmp_path):
    """A registry of the test's own, which lets anybody in: "127.0.0.1:<port>"."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry, the registry's program, is not here")
    for _ in range(5):
        with started_registry(program, tmp_path) as address:
            if address:
                yield address
                return
    pytest.fail("the registry ends at once, at five ports")


@contextmanager
def started_registry(program: str, place: Path) -> Iterator[str]:
    """The registry's address; "" when it ended at once, since somebody else has taken the port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    settings = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(place / "registry")}},
        "http": {"addr": address},
    }
    (place / "registry.yml").write_text(json.dumps(settings))
    with subprocess.Popen(
        [program, "serve", place / "registry.yml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            until(lambda: process.poll() is not None or answers(address))
            yield address if process.poll() is None else ""
        finally:
            process.kill()


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"http://{address}/v2/", timeout=5).close()
    except urllib.error.URLError:
        return False
    return True


@pytest.fixture
def image(engine, engine_labels):
    name = f"pushed-{os.getpid()}:v1"
    tiny_image(engine, name, engine_labels, text=name)
    return builds.image(name)


def test_the_digest_is_the_hash_of_what_the_registry_has(registry, image, engine):
    assert image.digest is None
    uri = push(image, f"{registry}/shop", "token")
    address, _, digest = uri.partition("@")
    assert address == f"{registry}/shop"
    manifest = urllib.request.Request(
        f"http://{registry}/v2/shop/manifests/v1",
        headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json"},
    )
    with urllib.request.urlopen(manifest, timeout=5) as answer:
        text = answer.read()
    assert digest == f"sha256:{hashlib.sha256(text).hexdigest()}" == image.digest
    assert json.loads(text)["config"]["digest"] == image.id


def test_a_push_may_be_repeated_and_then_sends_nothing(registry, image, capsys):
    first = push(image, f"{registry}/shop", "token")
    assert ": pushed (" in capsys.readouterr().out
    assert push(image, f"{registry}/shop", "token") == first
    assert capsys.readouterr().out.endswith(": already there\n")


@pytest.fixture
def immutable(monkeypatch):
    """From when it is called, pushes end as ECR ends them where the tag is taken."""
    taken = "tag invalid: The image tag 'v1' already exists and cannot be overwritten because the tag is immutable."

    def begin() -> None:
        events = [{"errorDetail": {"message": taken}, "error": taken}]
        monkeypatch.setattr(ImageApiMixin, "push", lambda *arguments, **options: iter(events))

    return begin


def test_a_second_push_of_the_same_image_under_an_immutable_tag_is_no_error(
    registry, image, immutable, capsys
):
    uri = push(image, f"{registry}/shop", "token")
    immutable()
    assert push(image, f"{registry}/shop", "token") == uri
    assert "this very image" in capsys.readouterr().out


def test_another_image_under_an_immutable_tag_is_refused_and_the_tag_stays_here_too(
    registry, image, immutable, engine, engine_labels
):
    push(image, f"{registry}/shop", "token")
    other_name = f"pushed-other-{os.getpid()}:v1"
    tiny_image(engine, other_name, engine_labels, text=other_name)
    other = builds.image(other_name)
    immutable()
    with pytest.raises(pushes.TagTaken):
        push(other, f"{registry}/shop", "token")
    assert engine.images.get(f"{registry}/shop:v1").id == image.id


def test_a_registry_that_is_down_is_told_and_nothing_is_left(image, engine):
    with pytest.raises(TutorialError, match=r"registry does not answer(?s:.*)connection refused"):
        push(image, "127.0.0.1:1/shop", "token")
    assert not [tag for tag in engine.images.get(image.id).tags if tag.startswith("127.0.0.1:1/")]
