"""The registry that Docker speaks to, asked in plain HTTP, with the true Distribution behind it."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import resource
import socket
import sys
import threading
import time

import pytest

from helpers.sandbox.ecr.manifests import digest_of
from tests.sandbox.ecr.conftest import INDEX, OCI, REGION, SCHEMA2, Client


def described(ecr) -> dict:
    (image,) = ecr.describe_images(repositoryName="shop")["imageDetails"]
    return image


# --- pushing and pulling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("media_type", [OCI, SCHEMA2])
def test_what_is_pushed_is_pulled_and_on_record(world, media_type):
    docker = world.docker()
    layers = [os.urandom(300_000), b"small"]
    pushed = docker.push("shop", "v1", *layers, media_type=media_type)
    digest = pushed.headers["Docker-Content-Digest"]
    assert pushed.status == 201
    assert docker.pull("shop", "v1") == docker.pull("shop", digest) == layers
    image = described(world.ecr)
    assert (image["imageDigest"], image["imageTags"]) == (digest, ["v1"])
    assert image["imageManifestMediaType"] == media_type
    assert image["artifactMediaType"] == "x/y"
    assert image["imagePushedAt"].timestamp() == world.clock.time()
    config = len(b'{"architecture":"amd64","os":"linux","config":{}}')
    assert image["imageSizeInBytes"] == config + sum(map(len, layers))
    manifest = docker.ask("GET", f"/v2/shop/manifests/{digest}", Accept=f"{OCI}, {SCHEMA2}")
    assert digest_of(manifest.body) == digest
    assert manifest.headers["Content-Type"] == media_type
    (got,) = world.ecr.batch_get_image(repositoryName="shop", imageIds=[{"imageTag": "v1"}])["images"]
    assert got["imageManifest"].encode() == manifest.body
    assert world.ecr.list_images(repositoryName="shop")["imageIds"] == [
        {"imageDigest": digest, "imageTag": "v1"}
    ]


def test_a_moved_tag_leaves_the_old_image_untagged_and_pullable_by_digest(world):
    docker = world.docker()
    old = docker.push("shop", "v1", b"old").headers["Docker-Content-Digest"]
    new = docker.push("shop", "v1", b"new").headers["Docker-Content-Digest"]
    assert {digest: image.get("imageTags") for digest, image in world.images().items()} == {
        old: None,
        new: ["v1"],
    }
    assert (docker.pull("shop", "v1"), docker.pull("shop", old)) == ([b"new"], [b"old"])


def test_the_same_image_may_be_pushed_again(world):
    docker = world.docker()
    answers = [docker.push("shop", "v1", b"same") for _ in range(2)]
    assert [answer.status for answer in answers] == [201, 201]
    assert len(world.images()) == 1


def test_a_layer_may_come_in_one_piece_and_with_its_length(world):
    docker, blob = world.docker(), os.urandom(100_000)
    begun = docker.ask("POST", "/v2/shop/blobs/uploads/")
    done = docker.ask("PUT", f"{begun.headers['Location']}&digest={digest_of(blob)}", blob)
    assert done.status == 201
    assert done.headers["Location"] == f"/v2/shop/blobs/{digest_of(blob)}"
    head = docker.ask("HEAD", f"/v2/shop/blobs/{digest_of(blob)}")
    assert (head.status, head.headers["Content-Length"], head.body) == (200, "100000", b"")


def test_a_part_of_a_layer_can_be_asked_for(world):
    docker = world.docker()
    digest = docker.push_layer("shop", bytes(range(256)))
    part = docker.ask("GET", f"/v2/shop/blobs/{digest}", Range="bytes=16-31")
    assert (part.status, part.body) == (206, bytes(range(16, 32)))
    assert part.headers["Content-Range"] == "bytes 16-31/256"


def test_a_layer_that_is_not_what_its_digest_says_is_refused(world):
    docker = world.docker()
    begun = docker.ask("POST", "/v2/shop/blobs/uploads/")
    done = docker.ask("PUT", f"{begun.headers['Location']}&digest={digest_of(b'this')}", b"that")
    assert (done.status, done.error[0]) == (400, "DIGEST_INVALID")


def test_a_layer_of_another_repository_is_not_mounted(world):
    """By ECR's default; Docker then uploads it."""
    world.ecr.create_repository(repositoryName="other")
    docker = world.docker()
    digest = docker.push_layer("shop", b"layer")
    answer = docker.ask("POST", f"/v2/other/blobs/uploads/?mount={digest}&from=shop")
    assert answer.status == 202
    assert docker.ask("HEAD", f"/v2/other/blobs/{digest}").status == 404


def test_an_image_for_two_platforms_is_three_on_record_and_as_big_as_the_bigger(world):
    docker = world.docker()
    children = [
        docker.push("shop", None, os.urandom(size)).headers["Docker-Content-Digest"] for size in (10, 5000)
    ]
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [
            {
                "mediaType": OCI,
                "digest": child,
                "size": 1,
                "platform": {"os": "linux", "architecture": platform},
            }
            for child, platform in zip(children, ("amd64", "arm64"), strict=True)
        ],
    }
    pushed = docker.put_manifest("shop", "v1", index)
    digest, images = pushed.headers["Docker-Content-Digest"], world.images()
    assert pushed.status == 201
    assert images.keys() == {digest, *children}
    assert images[digest]["imageManifestMediaType"] == INDEX
    assert images[digest]["imageTags"] == ["v1"]
    assert "artifactMediaType" not in images[digest]
    assert images[digest]["imageSizeInBytes"] == images[children[1]]["imageSizeInBytes"]
    assert "imageTags" not in images[children[0]]
    got = docker.ask("GET", "/v2/shop/manifests/v1", Accept=INDEX)
    assert json.loads(got.body) == index

    (failure,) = world.ecr.batch_delete_image(repositoryName="shop", imageIds=[{"imageDigest": children[0]}])[
        "failures"
    ]
    assert failure["failureCode"] == "ImageReferencedByManifestList"
    assert failure["failureReason"] == f"Requested image referenced by manifest list: [{digest}]"
    assert world.images().keys() == {digest, *children}


def test_an_index_needs_its_images(world):
    missing = digest_of(b"nobody pushed this")
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [{"mediaType": OCI, "digest": missing, "size": 1}],
    }
    refused = world.docker().put_manifest("shop", "v1", index)
    assert refused.error[0] == "MANIFEST_BLOB_UNKNOWN"
    assert missing in refused.error[1]


def test_a_manifest_needs_its_layers(world):
    missing = digest_of(b"nobody pushed this")
    manifest = {"schemaVersion": 2, "mediaType": OCI, "config": {"digest": missing, "size": 1}, "layers": []}
    refused = world.docker().put_manifest("shop", "v1", manifest)
    assert refused.error[0] == "BLOB_UNKNOWN"
    assert missing in refused.error[1]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"x" * (4 * 2**20 + 1)])
def test_what_is_no_manifest_is_refused(world, content):
    refused = world.docker().ask("PUT", "/v2/shop/manifests/v1", content, Content_Type=OCI)
    assert (refused.status, refused.error[0]) == (400, "MANIFEST_INVALID")


def test_a_manifest_under_another_digest_is_refused(world):
    refused = world.docker().ask("PUT", f"/v2/shop/manifests/{digest_of(b'x')}", b"{}", Content_Type=OCI)
    assert (refused.status, refused.error[0]) == (400, "DIGEST_INVALID")


def test_tags_and_repositories_are_listed(world):
    docker = world.docker()
    for tag in ("v2", "v1", None):
        docker.push("shop", tag, (tag or "none").encode())
    assert json.loads(docker.ask("GET", "/v2/shop/tags/list").body) == {"name": "shop", "tags": ["v1", "v2"]}
    assert json.loads(docker.ask("GET", "/v2/_catalog").body) == {"repositories": ["shop"]}


# --- who gets in ------------------------------------------------------------------------------------------------------


def test_without_a_token_nothing_opens_and_the_challenge_is_ecrs(world):
    for path in ("/v2/", "/v2/shop/manifests/v1", "/v2/nowhere/blobs/uploads/"):
        answer = Client(world.port).ask("GET", path)
        assert (answer.status, answer.body) == (401, b"Not Authorized\n")
        challenge = f'Basic realm="http://127.0.0.1:{world.port}/",service="ecr.amazonaws.com"'
        assert answer.headers["Www-Authenticate"] == challenge


def test_a_wrong_token_is_refused_before_anything_is_stored(world):
    stranger = Client(world.port, "QVdTOndyb25n")  # AWS:wrong
    assert stranger.ask("GET", "/v2/").status == 401
    assert stranger.ask("POST", "/v2/shop/blobs/uploads/").status == 401
    assert stranger.ask("PUT", "/v2/shop/manifests/v1", b"{}").status == 401
    assert world.images() == {}


def test_a_token_ends_after_twelve_hours_of_aws_time_and_a_new_one_opens_again(world):
    docker = world.docker()
    assert docker.ask("GET", "/v2/").status == 200
    world.clock.advance(12 * 3600)
    refused = docker.ask("GET", "/v2/")
    assert refused.status == 403
    assert refused.error == ("DENIED", "Your authorization token has expired. Reauthenticate and try again.")
    assert world.docker().ask("GET", "/v2/").status == 200


def test_the_token_says_where_it_opens(world):
    (data,) = world.ecr.get_authorization_token()["authorizationData"]
    assert data["proxyEndpoint"] == f"http://127.0.0.1:{world.port}"
    assert data["expiresAt"].timestamp() == world.clock.time() + 12 * 3600


def test_nobody_gets_around_the_front(world):
    socket_file = world.state / "registry" / "socket"
    assert (world.state / "registry").stat().st_mode & 0o777 == 0o700
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.path.relpath(socket_file))
        connection.sendall(b"GET /v2/ HTTP/1.0\r\n\r\n")
        assert b" 404 " in connection.makefile("rb").readline()


def test_a_client_that_tries_tls_first_is_told_at_once(world):
    with socket.create_connection(("127.0.0.1", world.port), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01\x00\x05\x00\x00\n\x00\x00")
        assert connection.recv(100).startswith(b"HTTP/1.0 400")


# --- what ECR refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "blobs/uploads/"), ("GET", "manifests/v1"), ("PUT", "manifests/v1")]
)
def test_a_repository_that_does_not_exist_is_told_in_ecrs_words(world, method, path):
    refused = world.docker().ask(method, f"/v2/nowhere/{path}", b"{}" if method == "PUT" else None)
    assert refused.status == 404
    message = "The repository with name 'nowhere' does not exist in the registry with id '123456789012'"
    assert refused.error == ("NAME_UNKNOWN", message)


def test_an_image_that_is_not_there_is_told_in_ecrs_words(world):
    refused = world.docker().ask("GET", "/v2/shop/manifests/v1")
    assert (refused.status, refused.error) == (404, ("MANIFEST_UNKNOWN", "Requested image not found"))


@pytest.mark.parametrize("layer", [b"another", b"first"])
def test_an_immutable_tag_is_refused_a_second_time_whatever_comes(world, layer):
    """The same digest again, too: aws/containers-roadmap#2179."""
    world.ecr.put_image_tag_mutability(repositoryName="shop", imageTagMutability="IMMUTABLE")
    docker = world.docker()
    first = docker.push("shop", "v1", b"first").headers["Docker-Content-Digest"]
    refused = docker.push("shop", "v1", layer)
    assert refused.status == 400
    assert refused.error == (
        "TAG_INVALID",
        "The image tag 'v1' already exists in the 'shop' repository and cannot be overwritten because the tag is "
        "immutable.",
    )
    assert list(world.images()) == [first]
    assert docker.pull("shop", "v1") == [b"first"]
    assert docker.push("shop", "v2", layer).status == 201


@pytest.mark.parametrize(
    ("method", "path"), [("DELETE", "manifests/v1"), ("GET", "blobs/x"), ("PATCH", "tags/list")]
)
def test_what_ecr_does_not_do_is_refused(world, method, path):
    assert world.docker().ask(method, f"/v2/shop/{path}").error[0] == "UNSUPPORTED"


def test_a_name_that_leads_elsewhere_leads_nowhere(world):
    digest = world.docker().push_layer("shop", b"layer")
    for path in (f"/v2/x/../{REGION}/shop/blobs/{digest}", f"/v2/{REGION}/shop/blobs/{digest}"):
        assert world.docker().ask("GET", path).status == 404


def test_a_refusal_reaches_a_client_that_is_still_sending(world):
    """And the connection goes on."""
    token = world.token()
    connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=30)
    for _ in range(2):
        connection.request(
            "PATCH",
            "/v2/nowhere/blobs/uploads/x",
            iter([b"x" * 2**20] * 8),
            {"Authorization": f"Basic {token}", "Transfer-Encoding": "chunked"},
            encode_chunked=True,
        )
        answer = connection.getresponse()
        assert answer.status == 404
        answer.read()
    connection.close()


def test_a_client_that_goes_away_in_the_middle_leaves_the_rest_working(world):
    docker = world.docker()
    begun = docker.ask("POST", "/v2/shop/blobs/uploads/")
    with socket.create_connection(("127.0.0.1", world.port)) as connection:
        head = f"PATCH {begun.headers['Location']} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {docker.authorization}\r\n"
        connection.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n8000\r\nabc")
    assert docker.push("shop", "v1", b"layer").status == 201


# --- Distribution in trouble ------------------------------------------------------------------------------------------


def test_when_the_registry_program_is_killed_the_next_call_starts_it_again(world, caplog):
    docker = world.docker()
    digest = docker.push("shop", "v1", b"before").headers["Docker-Content-Digest"]
    world.kill_distribution()
    assert docker.pull("shop", digest) == [b"before"]
    assert "Distribution ended and is started again" in caplog.text
    assert len(world.spawned) == 2


def test_when_it_is_killed_during_a_push_the_push_fails_with_the_reason_and_another_one_works(world):
    docker = world.docker()
    begun = docker.ask("POST", "/v2/shop/blobs/uploads/")

    def layer():  # more than what the sockets between us and Distribution hold
        for number in range(60):
            if number == 30:
                world.kill_distribution()
            yield b"x" * 2**20

    refused = docker.ask("PATCH", begun.headers["Location"], layer(), chunked=True)
    assert refused.status == 503
    assert "broke off" in refused.error[1]
    assert docker.push("shop", "v1", b"again").status == 201


def test_when_it_cannot_be_started_again_every_call_says_so(world, monkeypatch):
    docker = world.docker()
    monkeypatch.setattr(world.registry._distribution._runner, "_program", "/nowhere/docker-registry")
    world.kill_distribution()
    for _ in range(2):
        refused = docker.ask("POST", "/v2/shop/blobs/uploads/")
        assert (refused.status, refused.error[0]) == (403, "DENIED")
        assert "cannot be run" in refused.error[1]
        assert "/nowhere/docker-registry" in refused.error[1]


FULL_DISK = """#!{python}
# Answers as Distribution 2.8.2 did on a full file system.
import json, os, socketserver, sys
from http.server import BaseHTTPRequestHandler

class Handler(BaseHTTPRequestHandler):
    def address_string(self): return "x"
    def log_message(self, *args): pass
    def do_GET(self): self.answer(200, b"{{}}")
    def do_POST(self):
        upload = "11111111-2222-3333-4444-555555555555"
        self.answer(202, b"", Location=f"/v2/us-east-1/shop/blobs/uploads/{{upload}}?_state=s")
    def do_PATCH(self): self.full("write /var/lib/registry/_uploads/u/data: no space left on device")
    def do_PUT(self):
        enclosed = {{"Op": "write", "Path": "/var/lib/registry/_uploads/u/startedat", "Err": 28}}
        self.full({{"DriverName": "filesystem", "Enclosed": enclosed}})
    def full(self, detail):
        error = {{"code": "UNKNOWN", "message": "unknown error", "detail": detail}}
        self.answer(500, json.dumps({{"errors": [error]}}).encode())
    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in (headers | {{"Content-Length": str(len(body))}}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    def handle_error(self, *args): pass

Server(json.load(open(sys.argv[2]))["http"]["addr"], Handler).serve_forever()
"""


@pytest.fixture
def full(make_world, tmp_path):
    program = tmp_path / "full"
    program.write_text(FULL_DISK.format(python=sys.executable))
    program.chmod(0o755)
    world = make_world(program=str(program))
    world.ecr.create_repository(repositoryName="shop")
    return world


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_a_full_disk_is_told_to_docker_once_and_in_words(full, method):
    """Docker tries an error of a server five times more, 50 s in all; not one with this code and these words."""
    docker = full.docker()
    begun = docker.ask("POST", "/v2/shop/blobs/uploads/")
    refused = docker.ask(method, begun.headers["Location"], iter([b"x" * 2**16] * 300), chunked=True)
    assert (refused.status, refused.error[0]) == (403, "DENIED")
    assert "no space left on device" in refused.error[1]


def test_half_a_layer_does_not_keep_a_full_disk_full(full, tmp_path):
    docker = full.docker()
    begun = docker.ask("POST", "/v2/shop/blobs/uploads/").headers["Location"]
    upload = begun.partition("?")[0].rpartition("/")[2]
    uploads = tmp_path / "registry/storage/docker/registry/v2/repositories/us-east-1/shop/_uploads"
    (uploads / upload).mkdir(parents=True)
    (uploads / upload / "data").write_bytes(b"half")
    docker.ask("PATCH", begun, b"the rest")
    assert list(uploads.iterdir()) == []


def test_an_upload_is_where_distribution_keeps_it(world, tmp_path):
    location = world.docker().ask("POST", "/v2/shop/blobs/uploads/").headers["Location"]
    upload = location.partition("?")[0].rpartition("/")[2]
    (kept,) = tmp_path.rglob("_uploads/*")
    assert kept.name == upload
    world.registry._distribution.discard_upload("us-east-1/shop", upload)
    assert not kept.exists()


# --- big layers -------------------------------------------------------------------------------------------------------


def test_a_hundred_megabytes_stream_through_a_few(world):
    docker, piece = world.docker(), os.urandom(2**20)
    whole = hashlib.sha256()
    for _ in range(100):
        whole.update(piece)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = docker.ask("POST", "/v2/shop/blobs/uploads/")
    sent = docker.ask("PATCH", begun.headers["Location"], iter([piece] * 100), chunked=True)
    assert sent.status == 202
    done = docker.ask("PUT", f"{sent.headers['Location']}&digest=sha256:{whole.hexdigest()}")
    assert done.status == 201
    connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=30)
    headers = {"Authorization": f"Basic {docker.authorization}"}
    connection.request("GET", f"/v2/shop/blobs/sha256:{whole.hexdigest()}", headers=headers)
    answer, pulled = connection.getresponse(), hashlib.sha256()
    while got := answer.read(2**20):
        pulled.update(got)
    connection.close()
    assert pulled.digest() == whole.digest()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 40_000 * (1024 if sys.platform == "darwin" else 1), f"{grown / 1024:.0f} MB"


def test_five_layers_come_at_the_same_time(world):
    docker, layers = world.docker(), [os.urandom(2**20) for _ in range(5)]
    digests: list[str] = []
    threads = [
        threading.Thread(target=lambda blob=blob: digests.append(docker.push_layer("shop", blob)))
        for blob in layers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(digests) == sorted(map(digest_of, layers))


# --- addresses --------------------------------------------------------------------------------------------------------


def test_each_region_has_a_registry_and_images_of_its_own(world, endpoint):
    import boto3

    session = boto3.session.Session(region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x")
    ireland = session.client("ecr", endpoint_url=endpoint.url)
    uri = ireland.create_repository(repositoryName="shop")["repository"]["repositoryUri"]
    try:
        assert world.ecr.describe_repositories()["repositories"][0]["repositoryUri"] == world.uri != uri
        world.docker().push("shop", "v1", b"here")
        there = Client(world.registry.ports()["eu-west-1"], world.token())
        assert there.ask("GET", "/v2/shop/manifests/v1").status == 404
        assert there.ask("HEAD", f"/v2/shop/blobs/{digest_of(b'here')}").status == 404
        there.push("shop", "v1", b"there")
        assert (world.docker().pull("shop", "v1"), there.pull("shop", "v1")) == ([b"here"], [b"there"])
    finally:
        ireland.delete_repository(repositoryName="shop", force=True)


def test_a_new_sandbox_takes_the_ports_of_the_one_before(make_world):
    world = make_world()
    world.ecr.create_repository(repositoryName="shop")
    ports = world.registry.ports()
    world.registry.close()
    later = make_world(ports=ports)
    assert later.registry.ports() == ports
    assert Client(ports[REGION]).ask("GET", "/v2/").status == 401


def test_a_port_that_somebody_else_has_is_replaced(make_world):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert make_world(ports={REGION: port}).registry.ports()[REGION] != port


def test_a_closed_registry_answers_nobody(make_world):
    world = make_world()
    world.ecr.create_repository(repositoryName="shop")
    port = world.port
    world.registry.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return
    pytest.fail("somebody still listens")
