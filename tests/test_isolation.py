"""One program, run plainly and in namespaces of its own."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from helpers.commands import Answer
from helpers.errors import TutorialError
from helpers.isolation import Views, in_a_container, isolated

SEEN = {"process id": 4711, "files": "8:2", "limits": "0::/x", "memory": 2**63}
CONTAINED = {"process id": 1, "files": "9:1", "limits": "0::/y", "memory": 512 * 2**20}


def nowhere() -> tuple[dict, str]:
    return {}, "no engine answers"


def node() -> Path:
    return Path("/x/node")


def test_elsewhere_than_on_linux_it_says_why_not():
    views = isolated(run=None, system="darwin", contain=nowhere)
    assert repr(views).startswith("skipped: namespaces are Linux's")


def test_where_no_namespace_may_be_made_the_reason_is_told_beside_the_plain_view():
    def run(command, patience):
        if command[0] == "unshare":
            return Answer(1, "", "unshare: unshare failed: Operation not permitted")
        return Answer(0, json.dumps(SEEN))

    text = repr(isolated(run, "linux", node, nowhere))
    assert "4711" in text
    assert text.splitlines()[-2:] == [
        "skipped: this system does not let you make namespaces (unshare: unshare failed: Operation not permitted)",
        "no container: no engine answers",
    ]


def test_a_missing_unshare_is_a_reason_too():
    views = isolated(
        lambda command, _: (
            Answer(0, json.dumps(SEEN)) if command[0] == "/x/node" else Answer(err="No such file")
        ),
        "linux",
        node,
        nowhere,
    )
    assert "No such file" in views.skipped


def test_a_program_that_does_not_run_at_all_is_told():
    with pytest.raises(TutorialError, match="Seen: boom"):
        isolated(lambda *_: Answer(1, "", "boom"), "linux", node, nowhere)


def test_root_directory_cgroup_and_memory_are_told_and_not_shown():
    views = Views(SEEN, {**SEEN, "process id": 1}, "", CONTAINED)
    assert views.table == [
        ("", "ordinary process", "in namespaces of its own", "in a container"),
        ("process id", "4711", "1", "1"),
        ("root directory", "this machine's", "this machine's", "its own"),
        ("cgroup", "this machine's", "this machine's", "its own"),
        ("memory limit", "none", "none", "512 MiB"),
    ]
    for text in (repr(views), views._repr_html_()):
        assert "its own" in text
        assert "8:2" not in text
        assert "0::" not in text


def test_a_column_that_cannot_be_had_is_not_there():
    assert Views({}, {}, "no namespaces", CONTAINED).table[0] == ("", "in a container")
    assert Views({}, {}, "no namespaces", {}, "no engine").table == []
    assert (
        Views(SEEN, {}, "none", {}, "<no> engine")
        ._repr_html_()
        .endswith("<p>skipped: none</p><p>no container: &lt;no&gt; engine</p>")
    )


def test_in_a_container_the_program_is_alone_with_files_a_user_and_limits_of_its_own(engine):
    seen, why = in_a_container()
    assert why == ""
    assert (seen["process id"], seen["processes it sees"], seen["user id"]) == (1, 1, 1000)
    assert seen["memory"] == 512 * 2**20
    root = os.stat("/")
    assert seen["files"] != f"{root.st_dev}:{root.st_ino}"


def test_without_the_base_image_or_an_engine_the_reason_is_told(engine, monkeypatch):
    monkeypatch.setattr("helpers.machine_facts.base_image", lambda: "no-such-image:v0")
    assert in_a_container() == (
        {},
        "the engine does not have no-such-image:v0 yet; the next notebook's build fetches it",
    )
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    assert "no Docker Engine answers" in in_a_container()[1]


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_the_plain_view_is_the_machines_and_the_other_one_is_alone():
    views = isolated()
    assert views.plain["host name"] == socket.gethostname()
    assert views.plain["user id"] == os.getuid()
    assert views.plain["processes it sees"] > 1
    if views.skipped:
        pytest.skip(views.skipped)
    assert (views.inside["process id"], views.inside["processes it sees"]) == (1, 1)
    assert views.inside["networks that are up"] == 0
    assert views.inside["files"] == views.plain["files"]
    assert views.inside["limits"] == views.plain["limits"]
