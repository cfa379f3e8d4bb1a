"""CNCF Distribution as the sandbox's child: found, started, ended, never left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers.sandbox.ecr import distribution as module
from helpers.sandbox.ecr.distribution import Distribution, NoDistribution, find_distribution
from helpers.sandbox.ecr.distribution_runner import DistributionError
from helpers.sandbox.fargate.host import Host


def ask(distribution: Distribution, path: str = "") -> int:
    connection = distribution.connect()
    try:
        connection.request("GET", distribution.prefix + path)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture
def spawned(program):
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def spawn(spawned):
    def spawn(argv, **options):
        spawned.append(subprocess.Popen(argv, **options))
        return spawned[-1]

    return spawn


@pytest.fixture
def distribution(tmp_path, spawn):
    distribution = find_distribution(tmp_path, spawn)
    yield distribution
    distribution.stop()


def test_it_answers_once_started_and_leaves_no_process_when_stopped(distribution, spawned):
    distribution.start()
    assert ask(distribution) == 200
    distribution.stop()
    assert spawned[0].poll() is not None
    with pytest.raises(DistributionError, match="not running"):
        distribution.connect()
    assert len(spawned) == 1


def test_it_keeps_nothing_of_an_earlier_sandbox_whose_records_are_gone(distribution, tmp_path):
    old = tmp_path / "registry" / "storage" / "old"
    old.mkdir(parents=True)
    distribution.start()
    assert not old.exists()


def test_what_it_holds_survives_its_own_end(distribution, spawned, tmp_path):
    distribution.start()
    kept = tmp_path / "registry" / "storage" / "kept"
    kept.mkdir(parents=True)
    spawned[0].kill()
    spawned[0].wait()
    assert ask(distribution) == 200
    assert kept.exists()
    assert len(spawned) == 2


def test_settings_in_the_environment_do_not_override_ours(distribution, monkeypatch):
    monkeypatch.setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", "/nowhere")
    monkeypatch.setenv("REGISTRY_HTTP_ADDR", "nonsense")
    distribution.start()
    assert ask(distribution) == 200


def test_a_state_directory_with_a_long_path_works_too(tmp_path, spawn):
    """A socket's path may have about a hundred characters."""
    state = tmp_path / ("long" * 30)
    state.mkdir()
    distribution = find_distribution(state, spawn)
    distribution.start()
    socket_file = distribution._runner._socket
    assert ask(distribution) == 200
    assert socket_file.parent.stat().st_mode & 0o777 == 0o700
    distribution.stop()
    assert not socket_file.parent.exists()


def test_it_ends_with_the_process_that_watches_the_sandbox(program, tmp_path):
    """The host process ends all that it was told of when the sandbox is gone, killed or not."""
    host = Host()
    host.start()
    distribution = find_distribution(tmp_path, host.spawn)
    distribution.start()
    process = distribution._runner._process
    host.stop()
    assert process.wait(10) != 0
    distribution.stop()


def test_where_it_is_missing_the_reader_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoDistribution, match=r"apt-get install docker-registry.*docker pull registry:2"):
        find_distribution(tmp_path, subprocess.Popen)


def program_that(says: str, directory: Path) -> None:
    file = directory / module.PROGRAM
    file.write_text(f"#!/bin/sh\n{says}\n")
    file.chmod(0o755)


def test_one_that_will_not_run_is_told_with_its_last_words(tmp_path, monkeypatch, spawn):
    program_that("echo configuration error: no such thing >&2; exit 1", tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(DistributionError, match="configuration error: no such thing"):
        find_distribution(tmp_path, spawn).start()


def test_one_that_never_answers_is_given_up(tmp_path, monkeypatch, spawn, spawned):
    program_that("exec sleep 60", tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(module, "READY_TIMEOUT", 0.2)
    with pytest.raises(DistributionError, match="does not run here"):
        find_distribution(tmp_path, spawn).start()
    assert spawned[0].poll() is not None


# --- as a container ---------------------------------------------------------------------------------------------------


@pytest.fixture
def image(engine, engine_labels, program):
    """A stand-in for the image `registry:2`: this machine's program, and what it needs of the system."""
    import io
    import tarfile

    from helpers.sandbox.ecr import distribution_container

    name = f"registry-stand-in:{os.getpid()}"
    linked = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    files = {"/bin/registry": program, "/etc/passwd": "/etc/passwd"}
    files |= {word: word for word in linked.split() if word.startswith("/")}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", dereference=True) as tar:
        for inside, file in files.items():
            tar.add(file, inside)
    changes = [
        "ENV PATH=/bin",
        "VOLUME /var/lib/registry",
        *(f'LABEL "{key}"="{value}"' for key, value in engine_labels.items()),
    ]
    repository, _, tag = name.partition(":")
    engine.api.import_image_from_data(archive.getvalue(), repository=repository, tag=tag, changes=changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distribution_container, "IMAGES", (name,))
        yield name


@pytest.fixture
def without_program(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "PROGRAM", "no-such-program")


@pytest.mark.usefixtures("without_program")
def test_without_the_program_an_image_of_the_engines_serves(engine, engine_labels, image, tmp_path):
    distribution = find_distribution(tmp_path, subprocess.Popen, lambda: engine, engine_labels)
    distribution.start()
    (container,) = engine.containers.list(filters={"ancestor": image})
    try:
        assert ask(distribution) == 200
        assert ask(distribution, "shop/tags/list") == 404
        (published,) = container.ports["5000/tcp"]
        assert published["HostIp"] == "127.0.0.1"
        assert engine_labels.items() <= container.labels.items()

        container.kill()
        container.wait()
        assert ask(distribution) == 200, "it is started again"
    finally:
        distribution.stop()
    assert engine.containers.list(all=True, filters={"ancestor": image}) == []


@pytest.mark.usefixtures("without_program")
def test_an_engine_without_an_image_is_told_what_to_do(engine, monkeypatch, tmp_path):
    from helpers.sandbox.ecr import distribution_container

    monkeypatch.setattr(distribution_container, "IMAGES", ("registry-that-nobody-has:1",))
    with pytest.raises(NoDistribution, match="docker pull registry:2"):
        find_distribution(tmp_path, subprocess.Popen, lambda: engine)


@pytest.mark.usefixtures("without_program")
def test_an_image_that_is_no_registry_is_told(engine, engine_labels, tmp_path, monkeypatch):
    from helpers.sandbox.ecr import distribution_container
    from tests.engine.fixtures import tiny_image

    name = f"no-registry:{os.getpid()}"
    tiny_image(engine, name, engine_labels)
    monkeypatch.setattr(distribution_container, "IMAGES", (name,))
    with pytest.raises(DistributionError, match=r"registry.*not found|no such file"):
        find_distribution(tmp_path, subprocess.Popen, lambda: engine, engine_labels).start()
    assert engine.containers.list(all=True, filters={"ancestor": name}) == []


def test_the_program_is_what_the_name_says(program):
    assert shutil.which(program) == program
    told = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    assert "distribution" in told
