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
from helpers.isolation import Views, isolated

SEEN = {"process id": 4711, "files": "8:2", "limits": "0::/x"}


def node() -> Path:
    return Path("/x/node")


def test_elsewhere_than_on_linux_it_says_why_not():
    views = isolated(run=None, system="darwin")
    assert repr(views).startswith("skipped: namespaces are Linux's")


def test_where_no_namespace_may_be_made_the_reason_is_told_beside_the_plain_view():
    def run(command, patience):
        if command[0] == "unshare":
            return Answer(1, "", "unshare: unshare failed: Operation not permitted")
        return Answer(0, json.dumps(SEEN))

    text = repr(isolated(run, "linux", node))
    assert "4711" in text
    assert text.endswith(
        "skipped: this system does not let you make namespaces (unshare: unshare failed: Operation not permitted)"
    )


def test_a_missing_unshare_is_a_reason_too():
    views = isolated(
        lambda command, _: (
            Answer(0, json.dumps(SEEN)) if command[0] == "/x/node" else Answer(err="No such file")
        ),
        "linux",
        node,
    )
    assert "No such file" in views.skipped


def test_a_program_that_does_not_run_at_all_is_told():
    with pytest.raises(TutorialError, match="Seen: boom"):
        isolated(lambda *_: Answer(1, "", "boom"), "linux", node)


def test_root_directory_and_cgroup_are_compared_and_not_shown():
    text = repr(Views(SEEN, {**SEEN, "process id": 1, "limits": "0::/other"}))
    assert "8:2" not in text
    assert "0::" not in text
    assert [line.split()[-1] for line in text.splitlines()[1:]] == ["1", "same", "own"]


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
