"""Finding an engine, reading what its containers use, and clearing up in it."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from helpers.sandbox.fargate import engine as module
from helpers.sandbox.fargate.engine import (
    RUN,
    SANDBOX,
    EngineMissing,
    find_cgroup,
    find_engine,
    gateway_of,
    is_near,
    new_labels,
    sweep,
)
from tests.engine.fixtures import tiny_image

ID = "4f66ad9a0b2e7c9b3dcd4ff4a8f3c6a1e7f5bcd0a9b8c7d6e5f4a3b2c1d0e9f8"


@pytest.fixture(autouse=True)
def settings(monkeypatch, tmp_path) -> None:
    """Of whoever runs this, except where a test takes the engine itself."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


# Which engine


def test_the_one_that_docker_host_names_is_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(
        EngineMissing, match=rf"no Docker Engine answers at unix://{tmp_path}/no\.sock\. Start"
    ):
        find_engine()


def context(directory: Path, name: str, host: str) -> None:
    """As `docker context create` leaves it."""
    from hashlib import sha256

    home = directory / "contexts" / "meta" / sha256(name.encode()).hexdigest()
    home.mkdir(parents=True)
    endpoints = {"docker": {"Host": host, "SkipTLSVerify": False}}
    (home / "meta.json").write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": endpoints}))


@pytest.mark.parametrize("how", ["used", "by variable"])
def test_the_one_of_the_current_context_is_asked(monkeypatch, tmp_path, how):
    context(tmp_path / "docker", "lab", f"unix://{tmp_path}/lab.sock")
    if how == "used":
        (tmp_path / "docker" / "config.json").write_text(json.dumps({"currentContext": "lab"}))
    else:
        (tmp_path / "docker" / "config.json").write_text("{}")
        monkeypatch.setenv("DOCKER_CONTEXT", "lab")
    with pytest.raises(EngineMissing, match=r"lab\.sock"):
        find_engine()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/first.sock")
    with pytest.raises(EngineMissing, match=r"first\.sock"):
        find_engine()


def test_a_context_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setenv("DOCKER_CONTEXT", "nowhere")
    with pytest.raises(EngineMissing, match="there is no context nowhere"):
        find_engine()


def test_an_address_that_is_none_is_told(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "somewhere")
    with pytest.raises(EngineMissing, match=r"no Docker Engine answers at somewhere: .*port is required"):
        find_engine()


def test_an_engine_that_does_not_answer_is_not_waited_for(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "ANSWERS_WITHIN", 0.2)
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind("deaf.sock")
        deaf.listen()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/deaf.sock")
        with pytest.raises(EngineMissing, match=r"did not answer within"):
            find_engine()


def client_that(monkeypatch, **methods: Any) -> None:
    import docker

    monkeypatch.setattr(docker, "DockerClient", lambda **options: SimpleNamespace(**methods))


def test_without_rights_the_reason_says_how_to_get_them(monkeypatch):
    from docker.errors import DockerException

    def refused() -> None:
        raise DockerException("Error", ConnectionError("aborted", PermissionError(13, "Permission denied")))

    client_that(monkeypatch, version=refused)
    with pytest.raises(EngineMissing, match=r"may not talk to .*docker\.sock.*usermod -aG docker"):
        find_engine()


def test_an_engine_for_windows_containers_is_none(monkeypatch):
    client_that(monkeypatch, version=lambda: {"Os": "windows"}, close=lambda: None)
    with pytest.raises(EngineMissing, match="Switch to Linux containers"):
        find_engine()


def test_one_with_another_kernel_is_not_near():
    client: Any = SimpleNamespace(version=lambda: {"KernelVersion": "6.10.14-linuxkit"})
    assert not is_near(client)


def test_the_one_that_the_tests_start_is_near(engine):
    """Also when it has never been started before: what is installed and started a minute ago is a new machine's."""
    assert is_near(engine)


@pytest.mark.parametrize(
    ("ranges", "gateway"),
    [
        (
            [{"Subnet": "172.17.0.0/16"}],
            "172.17.0.1",
        ),  # as an engine tells it from its first start to its second
        ([{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.254"}], "172.17.0.254"),
        ([{"Subnet": "fd00::/64", "Gateway": "fd00::1"}, {"Subnet": "10.1.0.0/24"}], "10.1.0.1"),
        ([], None),
        (None, None),
    ],
)
def test_the_gateway_of_a_network_is_told_or_the_ranges_first_address(ranges, gateway):
    network = SimpleNamespace(attrs={"IPAM": {"Config": ranges}})
    client: Any = SimpleNamespace(networks=SimpleNamespace(get=lambda name: network))
    assert gateway_of(client, "bridge") == gateway


def test_one_whose_network_is_not_this_machines_is_not_near(engine, monkeypatch):
    monkeypatch.setattr(module, "gateway_of", lambda client, network: "192.0.2.1")
    assert not is_near(engine)


# What a container uses


def files(proc: Path, cgroup: str, mountinfo: str) -> None:
    (proc / "77").mkdir(parents=True)
    (proc / "self").mkdir()
    (proc / "77" / "cgroup").write_text(cgroup)
    (proc / "self" / "mountinfo").write_text(mountinfo)


def version_1(root: Path, path: str) -> None:
    for controller in ("cpu,cpuacct", "memory"):
        (root / controller / path).mkdir(parents=True)
    (root / "cpu,cpuacct" / path / "cpuacct.usage").write_text("1500000000\n")
    (root / "memory" / path / "memory.usage_in_bytes").write_text("90000000\n")
    (root / "memory" / path / "memory.stat").write_text("cache 1\ntotal_cache 40000000\ntotal_rss 7\n")


def version_2(root: Path, path: str) -> None:
    (root / path).mkdir(parents=True)
    (root / path / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    (root / path / "memory.current").write_text("90000000\n")
    (root / path / "memory.stat").write_text("anon 50000000\nfile 40000000\nfile_mapped 1\n")


V1_MOUNTS = """\
31 23 0:27 / {root} ro - tmpfs tmpfs ro,mode=755
34 31 0:30 {inside} {root}/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:31 {inside} {root}/memory rw,nosuid shared:10 - cgroup cgroup rw,memory
36 31 0:32 / {root}/unified rw - cgroup2 cgroup2 rw
"""


@pytest.mark.parametrize(
    ("path", "inside", "below"),
    [
        (f"/docker/{ID}", "/", f"docker/{ID}"),
        (f"/system.slice/docker-{ID}.scope", "/", f"system.slice/docker-{ID}.scope"),
        (f"/docker/aaa/docker/{ID}", "/docker/aaa", f"docker/{ID}"),  # Docker in Docker
    ],
)
def test_version_1_is_read_where_it_is_mounted(tmp_path, path, inside, below):
    root = tmp_path / "fs"
    version_1(root, below)
    groups = f"9:memory:{path}\n8:cpu,cpuacct:{path}\n1:name=systemd:{path}\n0::{path}\n"
    files(tmp_path / "proc", groups, V1_MOUNTS.format(root=root, inside=inside))
    found = find_cgroup(77, ID, tmp_path / "proc")
    assert found is not None
    assert (found.cpu_seconds(), found.memory_bytes()) == (1.5, 50_000_000)


@pytest.mark.parametrize("path", [f"/docker/{ID}", f"/system.slice/docker-{ID}.scope"])
def test_version_2_is_read_where_it_is_mounted(tmp_path, path):
    root = tmp_path / "fs"
    version_2(root, path.lstrip("/"))
    mounts = f"31 23 0:27 / {root} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
    files(tmp_path / "proc", f"0::{path}\n", mounts)
    found = find_cgroup(77, ID, tmp_path / "proc")
    assert found is not None
    assert (found.cpu_seconds(), found.memory_bytes()) == (1.5, 50_000_000)


def test_a_process_that_is_not_the_containers_is_not_taken_for_it(tmp_path):
    root = tmp_path / "fs"
    version_2(root, "user.slice")
    mounts = f"31 23 0:27 / {root} rw - cgroup2 cgroup2 rw\n"
    files(tmp_path / "proc", "0::/user.slice\n", mounts)
    assert find_cgroup(77, ID, tmp_path / "proc") is None
    assert find_cgroup(78, ID, tmp_path / "proc") is None


# Clearing up


def test_a_sweep_takes_one_runs_things_and_no_others(engine, engine_labels, tmp_path):
    name = f"swept-{uuid4().hex[:8]}"
    image = tiny_image(engine, f"{name}:1", engine_labels)
    mine, other = ({**engine_labels, **new_labels(tmp_path)} for _ in range(2))
    assert mine[SANDBOX] == other[SANDBOX]
    for number, labels in enumerate((mine, other)):
        engine.networks.create(f"{name}-{number}", labels=labels)
        engine.containers.create(image, labels=labels, network=f"{name}-{number}")
    assert len(sweep(engine, RUN, mine[RUN])) == 2
    assert gateway_of(engine, f"{name}-0") is None
    assert gateway_of(engine, f"{name}-1") is not None
    assert len(sweep(engine, SANDBOX, mine[SANDBOX])) == 2
    assert sweep(engine, SANDBOX, mine[SANDBOX]) == []


def test_two_who_sweep_at_once_are_not_in_each_others_way(engine, engine_labels, tmp_path):
    name = f"swept-{uuid4().hex[:8]}"
    image, labels = tiny_image(engine, f"{name}:1", engine_labels), {**engine_labels, **new_labels(tmp_path)}
    for _ in range(4):
        engine.containers.create(image, labels=labels)
    with ThreadPoolExecutor(2) as both:
        list(both.map(lambda _: sweep(engine, RUN, labels[RUN]), range(2)))
    assert engine.containers.list(all=True, filters={"label": f"{RUN}={labels[RUN]}"}) == []
