"""Which way an image is built and pushed: by the engine where tasks are containers, as a snapshot elsewhere."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from helpers import builds, images, pushes, session, snapshots
from helpers.builds import DockerImage
from helpers.errors import TutorialError
from tests.sandbox.live import PAGE, write_app

BUILT = DockerImage("shop:v1", "sha256:0", "amd64", 0, "", ["node"])


@pytest.fixture
def calls(monkeypatch) -> list:
    seen: list = []
    monkeypatch.setattr(builds, "build", lambda *a, **k: seen.append(("build", a, k)) or BUILT)
    monkeypatch.setattr(builds, "trial", lambda *a, **k: seen.append(("trial", a, k)) or BUILT)
    monkeypatch.setattr(pushes, "push", lambda *a: seen.append(("push", a)) or "uri@sha256:0")
    monkeypatch.setattr(snapshots, "push", lambda *a: seen.append(("snapshot's push", a)) or "uri@sha256:1")
    return seen


def connected(monkeypatch, runtime: str | None) -> None:
    lab = (
        SimpleNamespace(runtime=runtime, name="shop", running=SimpleNamespace(why="no engine"))
        if runtime
        else None
    )
    monkeypatch.setattr(session, "_current", lab)


def test_where_tasks_are_containers_docker_builds(monkeypatch, calls, tmp_path):
    connected(monkeypatch, "container")
    assert images.build_image(tmp_path, "v1", dockerfile="FROM x\n", no_cache=True) is BUILT
    assert images.trial_image("v2") is BUILT
    build, trial = calls
    assert build[2] == {"dockerfile": "FROM x\n", "build_args": None, "no_cache": True, "platform": None}
    assert trial[1] == ("v2",)


@pytest.mark.parametrize("runtime", ["process", None])
def test_elsewhere_an_image_is_a_snapshot(monkeypatch, calls, tmp_path, runtime):
    connected(monkeypatch, runtime)
    app = write_app(tmp_path / "app", PAGE % "x")
    image = images.build_image(app, "v1", platform="linux/amd64", no_cache=True)
    assert isinstance(image, snapshots.Snapshot)
    assert isinstance(images.trial_image("v1"), snapshots.Snapshot)
    started = images.build_image(app, dockerfile='FROM x\nCMD ["node", "other.js"]\n')
    assert started.command == ["node", "other.js"]
    assert calls == []


def test_why_nothing_is_built_is_known(monkeypatch):
    connected(monkeypatch, "container")
    assert images.why_no_docker() == ""
    connected(monkeypatch, "process")
    assert images.why_no_docker() == "no engine"
    connected(monkeypatch, None)
    assert "not connected" in images.why_no_docker()


def test_each_kind_of_image_is_pushed_in_its_own_way(monkeypatch, calls):
    connected(monkeypatch, "process")
    snapshot = images.trial_image("v1")
    assert images.push_image(BUILT, "127.0.0.1:1/shop", "token") == "uri@sha256:0"
    assert images.push_image(snapshot, "127.0.0.1:1/shop") == "uri@sha256:1"
    assert calls == [
        ("push", (BUILT, "127.0.0.1:1/shop", "token")),
        ("snapshot's push", (snapshot, "127.0.0.1:1/shop")),
    ]


@pytest.mark.parametrize("image", ["release-1", "sample-app", None])
def test_what_is_no_image_is_told(image):
    with pytest.raises(TutorialError, match=f"(?s)no image to push.*{image!r}.*what build_image returns"):
        images.push_image(image, "127.0.0.1:1/shop")


@pytest.mark.parametrize("uri", [{"repositoryUri": "127.0.0.1:1/shop"}, None])
def test_what_is_no_uri_is_told(uri):
    with pytest.raises(TutorialError, match="not an ECR repository"):
        images.push_image(BUILT, uri)
