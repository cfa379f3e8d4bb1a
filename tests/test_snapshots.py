"""Snapshots, images without an engine: what is in them, that they are reproducible, and that they arrive in ECR and run."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.app_directory import CHECKOUT, copy_app, files_of, ignored_by
from helpers.errors import TutorialError
from helpers.sandbox.clock import AwsClock
from helpers.sandbox.endpoint import Endpoint
from helpers.sandbox.fargate.node import find_node
from helpers.sandbox.registry import Registry
from helpers.snapshots import Snapshot, _upload, build, push, trial

REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com"


@pytest.fixture
def app(tmp_path) -> Path:
    """A small app with a dependency, a development dependency, and things that do not belong into an image."""
    files = {
        "package.json": json.dumps(
            {"name": "shop", "scripts": {"start": "node server.js --fast"}, "dependencies": {"a": "1"}}
        ),
        "package-lock.json": json.dumps(
            {"packages": {"": {}, "node_modules/a": {}, "node_modules/tester": {"dev": True}}}
        ),
        "server.js": "console.log('hello')\n",
        "lib/shop.js": "module.exports = 1\n",
        "README.md": "about",
        "tests/shop.test.js": "no",
        ".env": "SECRET=1",
        ".git/config": "no",
        "node_modules/a/index.js": "1",
        "node_modules/a/README.md": "kept: npm ci would bring it",
        "node_modules/.cache/x": "no",
        "node_modules/tester/index.js": "no",
        ".dockerignore": "# comment\nnode_modules\ntests/\n.env*\n*.md\n",
    }
    directory = tmp_path / "app"
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    (directory / "node_modules" / ".bin").mkdir()
    (directory / "node_modules" / ".bin" / "a").symlink_to("../a/index.js")
    return directory


def test_of_a_dockerfile_a_snapshot_takes_what_it_starts_and_says_that_nothing_was_built(app):
    text = 'FROM node\nENV SHOP=open\nRUN exit 1\nCMD ["npm", "start"]\n'
    image = build(app, "v1", text)
    assert (image.command, image.environment, image.app) == (["npm", "start"], {"SHOP": "open"}, app)
    assert config_of(image)["config"]["Env"] == ["SHOP=open"]
    assert "nothing was built" in repr(image)
    assert "not a Docker build" in repr(build(app, "v1"))


def manifest_of(image: Snapshot) -> dict:
    return json.loads(image.manifest)


def config_of(image: Snapshot) -> dict:
    return json.loads(image.blobs[manifest_of(image)["config"]["digest"]])


def entries(image: Snapshot) -> dict[str, tarfile.TarInfo]:
    (layer,) = manifest_of(image)["layers"]
    with tarfile.open(fileobj=io.BytesIO(image.blobs[layer["digest"]]), mode="r:gz") as archive:
        return {entry.name: entry for entry in archive}


def test_the_image_holds_the_app_and_its_dependencies_and_no_more(app):
    assert list(entries(build(app, "v1"))) == [
        "app/.dockerignore",
        "app/lib/shop.js",
        "app/node_modules/.bin/a",
        "app/node_modules/a/README.md",
        "app/node_modules/a/index.js",
        "app/package-lock.json",
        "app/package.json",
        "app/server.js",
    ]


def test_an_image_is_what_oci_says(app):
    image = build(app, "shop:v1")
    manifest = manifest_of(image)
    for part in [manifest["config"], *manifest["layers"]]:
        blob = image.blobs[part["digest"]]
        assert part["digest"] == f"sha256:{hashlib.sha256(blob).hexdigest()}"
        assert part["size"] == len(blob)
    assert image.digest == f"sha256:{hashlib.sha256(image.manifest).hexdigest()}"
    config = config_of(image)
    (layer,) = manifest["layers"]
    unpacked = gzip.decompress(image.blobs[layer["digest"]])
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(unpacked).hexdigest()}"]
    assert config["config"]["Cmd"] == ["node", "server.js", "--fast"]
    assert config["config"]["WorkingDir"] == "/app"
    assert image.tag == "v1"


def test_the_same_files_give_the_same_digest_whoever_packs_them_and_when(app):
    before = build(app, "v1").digest
    for path in app.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (1, 1))
    (app / "server.js").chmod(0o600)
    (app / "tests" / "more.test.js").write_text("not in the image")
    assert build(app, "another-tag").digest == before
    assert {
        (entry.mtime, entry.uid, entry.gid, entry.uname) for entry in entries(build(app, "v1")).values()
    } == {(0, 0, 0, "")}


def test_without_a_tag_the_digest_gives_one(app):
    image = build(app)
    assert image.tag == image.digest.removeprefix("sha256:")[:12]
    assert build(app, image.tag).digest == image.digest
    (app / "server.js").write_text("changed")
    assert build(app).tag != image.tag


def test_a_copy_of_the_app_gives_the_same_image(app, tmp_path):
    copy = copy_app(app, tmp_path / "copy")
    assert copy == tmp_path / "copy"
    assert build(copy).digest == build(app).digest


def test_an_app_is_copied_with_or_without_its_packages(tmp_path):
    app = tmp_path / "app"
    app.mkdir()
    (app / "server.js").write_text("")
    (app / "package.json").write_text('{"dependencies": {"a": "1"}, "scripts": {"start": "node server.js"}}')
    assert sorted(files_of(copy_app(app, tmp_path / "copy"))) == ["package.json", "server.js"]
    with pytest.raises(TutorialError, match="npm ci"):
        build(app)


def test_trial_images_are_small_and_each_another():
    first, second = trial("release-1"), trial("release-2")
    assert first.digest != second.digest
    assert (first.tag, first.files) == ("release-1", 2)
    assert first.size < 1000


@pytest.mark.parametrize("changed", ["server.js", "lib/shop.js", "node_modules/a/index.js"])
def test_one_changed_line_gives_another_digest(app, changed):
    before = build(app, "v1").digest
    path = app / changed
    path.write_text(path.read_text() + "// changed\n")
    after = build(app, "v1").digest
    assert before != after
    path.write_text(path.read_text().removesuffix("// changed\n"))
    assert build(app, "v1").digest == before


def test_a_file_that_moves_gives_another_digest(app):
    before = build(app, "v1").digest
    (app / "lib" / "shop.js").rename(app / "lib" / "store.js")
    assert build(app, "v1").digest != before


@pytest.mark.parametrize(
    ("pattern", "path", "ignored"),
    [  # cases from Docker's documentation of .dockerignore
        ("*/temp*", "somedir/temporary.txt", True),
        ("*/temp*", "somedir/subdir/temporary.txt", False),
        ("*/*/temp*", "somedir/subdir/temporary.txt", True),
        ("temp?", "tempa", True),
        ("temp?", "temp", False),
        ("**/*.go", "a/b/c.go", True),
        ("**/*.go", "c.go", True),
        ("*.md", "docs/a.md", False),
        ("*.md\n!README.md", "README.md", False),
        ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", True),
        ("*.md\nREADME-secret.md\n!README*.md", "README-secret.md", False),
        ("/foo/bar/", "foo/bar/x", True),
        ("foo", "foobar", False),
        ("a.b", "axb", False),
        ("[ab].js", "b.js", True),
        ("# a comment", "# a comment", False),
    ],
)
def test_dockerignore_is_read_as_docker_reads_it(tmp_path, pattern, path, ignored):
    file = tmp_path / ".dockerignore"
    file.write_text(pattern + "\n")
    assert ignored_by(file)(path) is ignored


def test_the_image_says_what_it_is(app):
    image = build(app, "v1")
    assert " ".join(repr(image).split()).startswith(
        "image v1, a snapshot and not a Docker build: 8 files, 0.0 MB in 1 layer of 0.0 MB;"
    )
    assert f"runs `node server.js --fast`; {image.digest}" in " ".join(repr(image).split())


def test_a_relative_directory_starts_at_the_checkout(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert build("sample-app", "v1").digest == build(CHECKOUT / "sample-app", "v1").digest


# --- what can be foreseen ---------------------------------------------------------------------------------------------


def test_a_directory_without_an_app_is_told(tmp_path):
    with pytest.raises(TutorialError, match=r"no package\.json"):
        build(tmp_path, "v1")


def test_missing_dependencies_are_told_with_the_command_that_installs_them(app):
    (app / "node_modules").rename(app.parent / "elsewhere")
    with pytest.raises(TutorialError, match=f"Run `npm ci` in {app}"):
        build(app, "v1")


def test_an_app_without_dependencies_needs_no_node_modules(app):
    (app / "node_modules").rename(app.parent / "elsewhere")
    (app / "package.json").write_text('{"scripts": {"start": "node lib/shop.js"}}')
    assert build(app, "v1").command == ["node", "lib/shop.js"]


def test_without_a_start_script_npm_would_start_server_js_and_so_does_this(app):
    (app / "package.json").write_text("{}")
    assert build(app, "v1").command == ["node", "server.js"]
    (app / "server.js").unlink()
    with pytest.raises(TutorialError, match="no script `start`"):
        build(app, "v1")


@pytest.mark.parametrize("start", ["node a.js && node b.js", "PORT=1 node server.js", "node $FILE"])
def test_a_start_script_for_a_shell_is_told(app, start):
    (app / "package.json").write_text(json.dumps({"scripts": {"start": start}}))
    with pytest.raises(TutorialError, match="needs a shell"):
        build(app, "v1")


def test_a_package_json_that_is_no_json_is_told(app):
    (app / "package.json").write_text("{")
    with pytest.raises(TutorialError, match="is not JSON"):
        build(app, "v1")


def test_a_link_that_leads_out_of_the_app_is_told(app):
    (app / "outside").symlink_to("../../secrets")
    with pytest.raises(TutorialError, match="outside"):
        build(app, "v1")


@pytest.mark.parametrize("tag", ["", "shop:", "a b", "-v1", "v" * 129, 1.0])
def test_a_tag_that_docker_would_refuse_is_told(app, tag):
    with pytest.raises(TutorialError, match="cannot be an image's tag"):
        build(app, tag)


# --- into ECR and out again -------------------------------------------------------------------------------------------


@given(size=st.integers(1, 5000), part=st.integers(1, 1500))
def test_a_layer_of_any_size_goes_up_in_parts_that_ecr_takes(size, part):
    blob = os.urandom(size)
    received = bytearray()
    sizes = []

    def upload_layer_part(*, partFirstByte, partLastByte, layerPartBlob, **rest):
        assert partFirstByte == len(received)
        assert partLastByte == partFirstByte + len(layerPartBlob) - 1
        received.extend(layerPartBlob)
        sizes.append(len(layerPartBlob))

    class LayerAlreadyExistsException(Exception):
        pass

    ecr = SimpleNamespace(
        initiate_layer_upload=lambda repositoryName: {"uploadId": "u", "partSize": part},
        upload_layer_part=upload_layer_part,
        complete_layer_upload=lambda **rest: None,
        exceptions=SimpleNamespace(LayerAlreadyExistsException=LayerAlreadyExistsException),
    )
    _upload(ecr, "shop", "sha256:…", blob)
    assert bytes(received) == blob
    assert set(sizes[:-1]) <= {part}
    assert sizes[-1] <= part


@pytest.fixture(scope="module")
def endpoint():
    endpoint = Endpoint()
    endpoint.start()
    yield endpoint
    endpoint.stop()


@pytest.fixture
def registry(endpoint, tmp_path, monkeypatch):
    registry = Registry(tmp_path / "state", AwsClock(), endpoint.client)
    endpoint.handlers.clear()
    endpoint.add(registry.operations())
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint.url,
        "AWS_ACCESS_KEY_ID": "sandbox",
        "AWS_SECRET_ACCESS_KEY": "sandbox",
        "AWS_DEFAULT_REGION": "eu-west-1",  # not the repository's: its URI is what counts
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    ecr = boto3.client("ecr", region_name="us-east-1")
    ecr.create_repository(repositoryName="shop", imageTagMutability="IMMUTABLE")
    registry.ecr = ecr
    yield registry
    ecr.delete_repository(repositoryName="shop", force=True)


def test_a_push_answers_the_uri_that_a_task_definition_wants(registry, app):
    image = build(app, "v1")
    uri = push(image, f"{REGISTRY}/shop")
    assert uri == f"{REGISTRY}/shop@{image.digest}"
    (stored,) = registry.ecr.describe_images(repositoryName="shop")["imageDetails"]
    assert (stored["imageDigest"], stored["imageTags"]) == (image.digest, ["v1"])
    pulled = registry.image(uri, "us-east-1")
    assert (pulled.rootfs / "server.js").read_text() == (app / "server.js").read_text()
    assert (
        pulled.rootfs / "node_modules" / ".bin" / "a"
    ).resolve() == pulled.rootfs / "node_modules" / "a" / "index.js"
    assert pulled.command == image.command
    assert pulled.environment == {"NODE_ENV": "production"}


def test_a_push_may_be_repeated_and_then_sends_nothing(registry, app, monkeypatch, capsys):
    image = build(app, "v1")
    first = push(image, f"{REGISTRY}/shop")
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in said] == [f"{digest[7:19]}: pushed" for digest in image.blobs]
    monkeypatch.setattr(
        "helpers.snapshots._upload", lambda *_: pytest.fail("what is there is not sent again")
    )
    assert push(image, f"{REGISTRY}/shop") == first
    assert capsys.readouterr().out.count(": already there (") == len(image.blobs) == 2


def test_a_tag_that_is_taken_is_told(registry, app):
    push(build(app, "v1"), f"{REGISTRY}/shop")
    (app / "server.js").write_text("changed")
    with pytest.raises(TutorialError, match="Build again with a tag that is not in use"):
        push(build(app, "v1"), f"{REGISTRY}/shop")
    push(build(app, "v2"), f"{REGISTRY}/shop")


def test_a_repository_that_is_not_there_is_told(registry, app):
    with pytest.raises(TutorialError, match=r"create_repository\(repositoryName='nowhere'\)"):
        push(build(app, "v1"), f"{REGISTRY}/nowhere")


class FullDisk(type(Path())):
    def open(self, mode: str = "r", *args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_and_the_next_push_works(registry, app):
    image, room = build(app, "v1"), registry._layers._uploads
    registry._layers._uploads = FullDisk(room)
    with pytest.raises(TutorialError, match=r"no room for the image(?s:.)*No space left(?s:.)*Make room"):
        push(image, f"{REGISTRY}/shop")
    registry._layers._uploads = room
    assert push(image, f"{REGISTRY}/shop") == f"{REGISTRY}/shop@{image.digest}"


@pytest.mark.parametrize(
    "uri", ["shop", "docker.io/library/shop", f"{REGISTRY}/shop:v1", f"https://{REGISTRY}/shop"]
)
def test_what_is_no_repository_is_told(app, uri):
    with pytest.raises(TutorialError, match="repositoryUri"):
        push(build(app, "v1"), uri)


def test_the_sample_app_runs_from_its_image(registry, tmp_path):
    pulled = registry.image(push(build("sample-app", "v1"), f"{REGISTRY}/shop"), "us-east-1")
    environment = {"PATH": os.environ["PATH"], "HOST": "127.0.0.1", "PORT": "0", **pulled.environment}
    command = [str(find_node().path), *pulled.command[1:]]
    with subprocess.Popen(command, cwd=pulled.rootfs, env=environment, stdout=subprocess.PIPE) as process:
        try:
            started = json.loads(process.stdout.readline())
            url = f"http://127.0.0.1:{started['port']}/healthcheck"
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert answer.status == 200
        finally:
            process.terminate()
        deadline = time.monotonic() + 10
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.returncode == 0
