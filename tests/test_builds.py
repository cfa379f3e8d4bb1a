"""Docker builds: the engine's events as recorded, and real builds where there is an engine."""

from __future__ import annotations

import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import docker
import pytest

from helpers import builds, this_machine
from helpers import engine as engine_module
from helpers.build_stream import Progress, Step, explain, positions, with_arguments
from helpers.builds import DockerImage, made_by
from helpers.dockerfile import read
from helpers.errors import TutorialError
from tests.engine.base_images import SLIM

GOOD = """\
# A comment
ARG NODE_IMAGE=public.ecr.aws/docker/library/node:24-slim

FROM ${NODE_IMAGE} AS dependencies
COPY package.json \\
     # in between
     package-lock.json ./
RUN npm ci --omit=dev
"""
NO_SUCH_HOST = 'Get "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io: no such host'


def stream(*texts: str) -> list[dict]:
    return [{"stream": text} for text in texts]


def step(number: int, total: int, text: str) -> list[dict]:
    return stream(f"Step {number}/{total} : {text}", "\n")


def error(message: str, code: int | None = None) -> dict:
    detail = {"message": message} if code is None else {"message": message, "code": code}
    return {"errorDetail": detail, "error": message}


BEGINS = [
    *step(1, 5, "ARG NODE_IMAGE=public.ecr.aws/docker/library/node:24-slim"),
    *step(2, 5, "FROM ${NODE_IMAGE} AS dependencies"),
    *stream(" ---> 0123456789ab\n"),
    *step(3, 5, "COPY package.json      package-lock.json ./"),
    *stream(" ---> Using cache\n", " ---> 111111111111\n"),
    *step(4, 5, "RUN npm ci --omit=dev"),
    *stream(" ---> Running in 5e5e5e5e5e5e\n", "\x1b[91mnpm warn old\n\x1b[0m", "added 1 pack", "age\n"),
]
ENDS = [
    *stream("Removing intermediate container 5e5e5e5e5e5e\n", " ---> 222222222222\n"),
    *step(5, 5, "LABEL tutorial=shop"),
    *stream(" ---> 333333333333\n"),
    {"aux": {"ID": "sha256:3333333333333333"}},
    *stream("Successfully built 333333333333\n"),
]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def progress(said) -> Progress:
    times = iter(range(100))
    return Progress(GOOD, said.append, clock=lambda: next(times) * 1.25)


# --- the stream -------------------------------------------------------------------------------------------------------


def test_a_line_is_said_for_each_step_as_it_happens_and_none_for_the_courses_labels(progress, said):
    assert progress.follow([*BEGINS, *ENDS]) == "sha256:3333333333333333"
    assert "".join(said).splitlines() == [
        " 1/4 ARG NODE_IMAGE=public.ecr.aws/docker/library/node:24-slim  1.2 s",
        " 2/4 FROM ${NODE_IMAGE} AS dependencies  1.2 s",
        " 3/4 COPY package.json package-lock.json ./  from the cache",
        " 4/4 RUN npm ci --omit=dev  1.2 s",
    ]
    assert said[0].startswith(" 1/4 ARG")  # before it is known how long it takes
    assert not said[0].endswith("\n")


def test_steps_that_come_from_the_cache_one_after_the_other_are_one_line(said):
    kept = stream(" ---> Using cache\n", " ---> 111111111111\n")
    events = [
        *step(1, 4, "FROM node:24"),
        *stream(" ---> 0123456789ab\n"),
        *(each for number in (2, 3, 4) for each in (*step(number, 4, f"RUN {number}"), *kept)),
        {"aux": {"ID": "sha256:1"}},
    ]
    Progress("FROM node:24\nRUN 2\nRUN 3\nRUN 4\n", said.append, clock=lambda: 0.0).follow(events)
    assert "".join(said).splitlines() == [" 1/4 FROM node:24", " 2–4 from the cache"]


def test_a_failed_step_is_told_with_its_line_and_its_last_output(progress, said):
    many = stream(*(f"line {number}\n" for number in range(30)), "ENOENT: no such")
    message = "The command '/bin/sh -c npm ci --omit=dev' returned a non-zero code: 7"
    with pytest.raises(TutorialError) as told:
        progress.follow([*BEGINS, *many, error(message, 7)])
    assert told.value.what == "The image was not built: line 8 of the Dockerfile failed."
    lines = told.value.seen.splitlines()
    assert lines[0] == "RUN npm ci --omit=dev: exit code 7; its last lines:"
    assert lines[1:] == [*(f"  line {number}" for number in range(18, 30)), "  ENOENT: no such"]
    assert "Mend that line" in told.value.next
    assert "".join(said).endswith(" 4/4 RUN npm ci --omit=dev  failed\n")


def test_npms_own_help_and_a_log_that_is_gone_do_not_hide_what_is_wrong(progress):
    said = stream(
        "npm error code EUSAGE\n",
        "npm error\n",
        "npm error The `npm ci` command can only install with an existing package-lock.json or\n",
        "npm error Clean install a project\n",
        *(f"npm error   --option-{number}\n" for number in range(20)),
        "npm error A complete log of this run can be found in: /home/node/.npm/_logs/x.log\n",
    )
    with pytest.raises(TutorialError) as told:
        progress.follow([*BEGINS, *said, error("The command returned a non-zero code: 1", 1)])
    assert [line.strip() for line in told.value.seen.splitlines()[-2:]] == [
        "npm error code EUSAGE",
        "npm error The `npm ci` command can only install with an existing package-lock.json or",
    ]
    assert "wants a lock file" in told.value.next


def test_the_output_of_one_step_is_not_told_of_another(progress):
    with pytest.raises(TutorialError) as told:
        progress.follow([*BEGINS, *step(5, 5, "COPY . ."), error("COPY failed: no such file")])
    assert "npm warn" not in str(told.value)


def test_colours_and_lines_that_overwrite_themselves_are_taken_out(progress):
    with pytest.raises(TutorialError) as told:
        progress.follow([*BEGINS, *stream("10%\r50%\r100%\n"), error("returned a non-zero code: 1", 1)])
    assert told.value.seen.splitlines()[1:] == ["  npm warn old", "  added 1 package", "  100%"]


@pytest.mark.parametrize("events", [[], BEGINS], ids=["at once", "in the middle"])
def test_a_stream_that_breaks_off_is_an_engine_that_is_gone(progress, events):
    with pytest.raises(TutorialError, match=r"(?s)Docker Engine went away.*checkup"):
        progress.follow(events)


def test_what_the_other_stages_end_in_is_known(progress):
    progress.follow([*BEGINS, *step(5, 5, "FROM scratch"), *ENDS])
    assert progress.others() == ["111111111111"]


def test_each_instruction_has_the_line_that_it_begins_on():
    assert positions(GOOD) == [("ARG", 2), ("FROM", 4), ("COPY", 5), ("RUN", 8)]


def test_build_arguments_change_no_line():
    changed = with_arguments("ARG A=1\nARG B\nFROM ${A}\nARG A\n", {"A": "node:24", "B": "x"})
    assert changed == "ARG A=node:24\nARG B=x\nFROM ${A}\nARG A=node:24\n"


@pytest.mark.parametrize(
    ("history", "instruction"),
    [
        ('/bin/sh -c #(nop)  CMD ["node" "server.js"]', 'CMD ["node" "server.js"]'),
        ("/bin/sh -c npm ci", "RUN npm ci"),
        ("|1 NODE_IMAGE=x /bin/sh -c npm ci", "RUN npm ci"),
        ("RUN /bin/sh -c npm ci # buildkit", "RUN npm ci"),
        ("COPY . . # buildkit", "COPY . ."),
        (f"/bin/sh -c #(nop) COPY dir:{'a' * 64} in . ", "COPY … to ."),
        ("", "the base image, imported"),
    ],
)
def test_a_layers_history_reads_as_its_instruction(history, instruction):
    assert made_by(history) == instruction


# --- what went wrong --------------------------------------------------------------------------------------------------


RUN, COPY = Step(2, "RUN npm ci", 2), Step(2, "COPY a b", 2)


@pytest.mark.parametrize(
    ("message", "at", "output", "advice"),
    [
        # What two builds on one engine met, of which one cleaned up behind itself.
        (
            "failed to set parent sha256:c8: unknown parent image ID sha256:c8",
            COPY,
            [],
            r"prune.*Build again",
        ),
        ("the --mount option requires BuildKit", RUN, [], r"classic builder.*helpers\.builds\.image"),
        ("COPY failed: file not found in build context", COPY, [], r"\.dockerignore"),
        ("returned a non-zero code: 127", RUN, ["sh: python: not found"], "no such program"),
        ("returned a non-zero code: 137", RUN, ["Killed"], "want of memory"),
        ("returned a non-zero code: 1", RUN, ["npm error code ENOTFOUND"], "registry of packages"),
        ("returned a non-zero code: 1", RUN, ["SELF_SIGNED_CERT_IN_CHAIN"], "NODE_EXTRA_CA_CERTS"),
        ("returned a non-zero code: 1", RUN, ["npm error code EUSAGE"], "npm install"),
        ("returned a non-zero code: 1", RUN, ["exec /bin/sh: exec format error"], "binfmt"),
        ("returned a non-zero code: 1", RUN, ["oops"], "from the cache"),
    ],
)
def test_the_advice_fits_what_failed(message, at, output, advice):
    told = explain(message, at, output, "FROM x\n")
    assert "line 2 of the Dockerfile failed" in told.what
    assert re.search(advice, told.next)


@pytest.mark.parametrize(
    ("message", "output"),
    [
        ("write /var/lib/docker/overlay2/x/diff: no space left on device", []),
        ("returned a non-zero code: 228", ["npm error code ENOSPC"]),
    ],
)
def test_a_full_disk_is_told_as_such(message, output):
    told = explain(message, RUN, output, "FROM x\n")
    assert "disk is full" in told.what
    assert "docker system df" in told.next
    refused = engine_module.refused("No.", SimpleNamespace(explanation=message))
    assert ("disk is full" in refused.what) is not output


@pytest.mark.parametrize(
    ("dockerfile", "message", "mirror"),
    [
        ("FROM node:24-slim\n", NO_SUCH_HOST, "{'NODE_IMAGE': 'public.ecr.aws/docker/library/node:24-slim'}"),
        (GOOD, NO_SUCH_HOST, "{'NODE_IMAGE': 'node:24-slim'}"),
        ("FROM node:24-slim\n", "toomanyrequests: You have reached your pull rate limit", "public.ecr.aws"),
        ("FROM node:99\n", "manifest for node:99 not found: manifest unknown", "Is the name right?"),
        ("FROM node:24\n", "x509: certificate signed by unknown authority", "opens TLS"),
        ("FROM node:24\n", "image does not match the specified platform: wanted linux/arm64", "`platform`"),
    ],
)
def test_a_base_image_that_cannot_be_had_is_told_with_a_mirror(dockerfile, message, mirror):
    first = next(line for line in dockerfile.splitlines() if line.startswith("FROM"))
    told = explain(message, Step(1, first, 4), [], dockerfile)
    assert told.what.startswith(f"The base image {'public.ecr.aws' if '$' in first else 'node:'}")
    assert mirror in told.next


def test_a_base_image_without_a_name_is_told():
    told = explain("base name (${BASE}) should not be blank", Step(2, "FROM ${BASE}", 2), [], "ARG BASE\n")
    assert "has no name" in told.what
    assert "build_args={'BASE'" in told.next


def an_image(architecture: str) -> DockerImage:
    return DockerImage("shop:v1", "sha256:0", architecture, 0, "", ["node", "server.js"])


def test_an_image_of_the_wrong_architecture_is_told_before_it_is_deployed_with_both_cures():
    builds.ensure_fits(an_image("amd64"))
    builds.ensure_fits(an_image("arm64"), "ARM64")
    with pytest.raises(TutorialError, match=r"(?s)for arm64.*X86_64.*platform=\"linux/amd64\".*ARM64"):
        builds.ensure_fits(an_image("arm64"))
    with pytest.raises(TutorialError, match=r"(?s)for amd64.*asks for ARM64.*linux/arm64.*X86_64"):
        builds.ensure_fits(an_image("amd64"), "ARM64")
    with pytest.raises(TutorialError, match='"X86_64" or "ARM64"'):
        builds.ensure_fits(an_image("amd64"), "RISC")


def test_an_image_says_what_it_is():
    assert " ".join(repr(an_image("amd64")).split()) == (
        "image shop:v1, built by Docker for linux/amd64: 0.0 MB in 0 layers; runs `node server.js` as root; sha256:0"
    )


def test_without_a_dockerfile_the_way_to_one_is_told(tmp_path):
    (tmp_path / "package.json").write_text("{}")
    with pytest.raises(TutorialError, match=r"(?s)no Dockerfile.*propose_dockerfile"):
        builds.build(tmp_path)
    with pytest.raises(TutorialError, match="app_dir"):
        builds.build(tmp_path / "nowhere")


def test_a_tag_that_docker_would_refuse_is_told(tmp_path):
    with pytest.raises(TutorialError, match="cannot be an image's tag"):
        builds.build(tmp_path, "shop:")


class DyingEngine(BaseHTTPRequestHandler):
    """Begins to answer a build, and is gone."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        event = json.dumps(BEGINS[0]).encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


def test_an_engine_that_goes_away_in_the_middle_is_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "Dockerfile").write_text(GOOD)
    with HTTPServer(("127.0.0.1", 0), DyingEngine) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            client = docker.DockerClient(f"http://127.0.0.1:{server.server_port}", version="1.41")
            monkeypatch.setattr(this_machine, "find_engine", lambda: client)
            with pytest.raises(TutorialError, match=r"(?s)Docker Engine went away.*Start it"):
                builds.build(tmp_path)
        finally:
            server.shutdown()
            thread.join()
            client.close()
    assert "1/4 ARG" in capsys.readouterr().out


# --- with an engine ---------------------------------------------------------------------------------------------------


@pytest.fixture
def build(engine, engine_labels, tmp_path):
    """Builds in a directory with a file, under a name of its own; what was made goes again."""
    made: list[DockerImage] = []
    (tmp_path / "hello.txt").write_text("hello\n")
    name = f"builds-{os.getpid()}"

    def run(tag: str | None = "v1", app=tmp_path, **options) -> DockerImage:
        made.append(builds.build(app, tag, name=name, labels=engine_labels, **options))
        return made[-1]

    yield run
    for image in made:
        builds.remove(image)


SMALL = 'FROM scratch\nCOPY hello.txt /\nUSER 1000\nEXPOSE 8080\nWORKDIR /app\nCMD ["/hello", "you"]\n'


def test_an_image_is_built_and_told_as_it_is(engine, build, tmp_path, capsys):
    image = build(dockerfile=SMALL)
    there = engine.images.get(image.name)
    assert (there.id, there.labels["tutorial"]) == (image.id, f"builds-{os.getpid()}")
    assert image.tag == "v1"
    assert (image.user, image.command, image.port) == ("1000", ["/hello", "you"], 8080)
    assert (image.working_directory, image.size) == ("/app", there.attrs["Size"])
    assert image.layers[0].made_by == "COPY … to /"
    assert image.layers[0].size == len("hello\n")
    assert image.digest is None
    assert capsys.readouterr().out.splitlines()[1].startswith(" 2/6 COPY hello.txt /")


def test_without_a_tag_another_content_has_another_one(build, tmp_path):
    first = build(None, dockerfile=SMALL)
    assert first.tag == first.id.removeprefix("sha256:")[:12]
    assert build(None, dockerfile=SMALL).id == first.id
    (tmp_path / "hello.txt").write_text("another\n")
    assert build(None, dockerfile=SMALL).tag != first.tag
    assert build("other:v2", dockerfile=SMALL).name == "other:v2"


def test_an_image_of_the_engine_is_found_by_its_name(build):
    image = build(dockerfile=SMALL)
    assert builds.image(image.name) == image
    with pytest.raises(TutorialError, match="docker image ls"):
        builds.image("nobody-made-this:v1")


def test_dockerignore_is_kept_to_and_can_be_set_aside(build, tmp_path):
    (tmp_path / ".dockerignore").write_text("# a comment\n*.txt\n")
    with pytest.raises(
        TutorialError, match=r"(?s)line 2 of the Dockerfile failed.*not named in \.dockerignore"
    ):
        build(dockerfile=SMALL)
    assert build(dockerfile=SMALL, dockerignore="").id


@pytest.mark.parametrize(
    ("dockerfile", "told"),
    [
        (
            f"FROM {SLIM[0]}\nRUN echo out; echo err >&2; exit 3\n",
            r"line 2 of the Dockerfile(?s:.*)exit code 3; its last lines:(?s:.*)err",
        ),
        (f"FROM {SLIM[0]}\n\nFORM x\n", r"could not read this Dockerfile: line 3\.(?s:.*)'FORM x'"),
        ("RUN ls\n", "it has no FROM"),
        ("FROM 127.0.0.1:1/node:24\n", r"base image 127\.0\.0\.1:1/node:24 cannot be had(?s:.*)NODE_IMAGE"),
        (f"FROM {SLIM[0]}\nRUN --mount=type=cache,target=/x ls\n", "classic builder"),
        (f"FROM {SLIM[0]}\nCOPY nothing /x\n", r"line 2(?s:.*)COPY failed"),
        (f"FROM {SLIM[0]}\nRUN nosuchprogram\n", "no such program"),
    ],
)
def test_a_build_that_fails_is_one_error(build, capsys, dockerfile, told):
    with pytest.raises(TutorialError, match=told):
        build(dockerfile=dockerfile)
    assert capsys.readouterr().out.count("failed") <= 1


def test_another_base_image_is_a_build_argument(build, tmp_path):
    text = "ARG NODE_IMAGE=127.0.0.1:1/node:24\nFROM ${NODE_IMAGE}\nCOPY hello.txt /\n"
    with pytest.raises(TutorialError, match="cannot be had"):
        build(dockerfile=text)
    assert build(dockerfile=text, build_args={"NODE_IMAGE": SLIM[0]}).size > 50e6


def test_an_image_can_be_for_another_processor_and_is_found_out(engine, build):
    other = "arm64" if engine.version()["Arch"] == "amd64" else "amd64"
    image = build(dockerfile="FROM scratch\nCOPY hello.txt /\n", platform=f"linux/{other}")
    assert image.architecture == other
    with pytest.raises(TutorialError, match="exec format error"):
        builds.ensure_fits(image, {"amd64": "ARM64", "arm64": "X86_64"}[other])


def test_a_base_image_that_is_here_for_one_processor_only_does_not_pass_for_the_other(engine, build):
    other = "arm64" if engine.version()["Arch"] == "amd64" else "amd64"
    with pytest.raises(TutorialError, match=rf"linux/{other}") as told:
        build(dockerfile=f"FROM {SLIM[0]}\nCOPY hello.txt /\n", platform=f"linux/{other}")
    assert "platform" in told.value.next


def test_trial_images_are_small_and_each_another(engine):
    name = f"trial-{os.getpid()}"
    first, second = (builds.trial(tag, name=name) for tag in ("release-1", "release-2"))
    assert first.id != second.id
    assert (first.name, first.size < 1000) == (f"{name}:release-1", True)
    for image in (first, second):
        builds.remove(image)
        with pytest.raises(docker.errors.ImageNotFound):
            engine.images.get(image.id)


def test_all_that_was_built_for_a_lab_goes_at_once_and_nothing_else(engine, build):
    name = f"gone-{os.getpid()}"
    first, second = (builds.trial(tag, name=name) for tag in ("v1", "v2"))
    engine.api.tag(first.id, f"127.0.0.1:1/{name}", "v1")
    other = build(dockerfile=SMALL)
    assert builds.remove_all(name) == [f"127.0.0.1:1/{name}:v1", first.name, second.name]
    assert builds.remove_all(name) == []
    assert builds.image(other.name) == other


STAGES = 'FROM scratch AS first\nCOPY hello.txt /\nFROM scratch\nCOPY --from=first /hello.txt /\nCMD ["/x"]\n'


def test_what_the_other_stages_leave_has_a_name_and_goes_with_the_image(engine, build):
    image, name = build(dockerfile=STAGES), f"builds-{os.getpid()}"
    (stage,) = image.stages
    assert stage.startswith(f"tutorial-cache/{name}:")
    left = engine.images.get(stage).id
    changed = build("v2", dockerfile=STAGES.replace("/x", "/y"))
    assert changed.stages == image.stages
    builds.remove(changed, keep=image.stages)
    assert engine.images.get(stage).id == left
    assert stage in builds.remove_all(name)
    for reference in (left, image.id):
        with pytest.raises(docker.errors.ImageNotFound):
            engine.images.get(reference)


def test_the_sample_apps_own_dockerfile_builds(build):
    image = build("sample", app="sample-app")
    assert (image.user, image.command, image.port) == ("1000", ["node", "server.js"], 3000)
    assert [step for step, _ in positions(read("sample-app"))].count("FROM") == len(image.stages) + 1
    again = build("sample", app="sample-app")
    assert again.id == image.id
