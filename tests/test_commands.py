"""Commands held to their time, with real ones."""

from __future__ import annotations

import sys

import psutil
import pytest

from helpers.commands import Answer, run_bounded
from tests.waiting import until


def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    hanging = tmp_path / "docker"
    hanging.write_text(f"#!/bin/sh\nsleep 300 & echo $! > {tmp_path}/child\nwait\n")
    hanging.chmod(0o755)
    assert run_bounded([str(hanging)], 1.5) == Answer(err="no answer within 1.5 s")
    child = int((tmp_path / "child").read_text())
    until(lambda: not _is_alive(child))


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_command_that_asks_gets_no_answer():
    assert run_bounded([sys.executable, "-c", "input()"], 20).code == 1


def test_a_command_that_is_not_there_is_an_answer():
    assert run_bounded(["/nowhere/docker"], 1).code is None


def test_a_command_reads_what_it_is_given_where_it_is_told_to(tmp_path):
    code = "import os, sys; print(sys.stdin.read().upper(), os.getcwd(), os.environ['MINE'])"
    command = [sys.executable, "-X", "utf8", "-c", code]
    answer = run_bounded(command, 20, given="größer", cwd=tmp_path, env={"MINE": "yes"})
    assert answer == Answer(0, f"GRÖSSER {tmp_path} yes")


def test_more_than_a_command_reads_is_no_problem():
    assert run_bounded([sys.executable, "-c", "print(1)"], 20, given="x" * 10**6) == Answer(0, "1")


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (Answer(1, "said", "\n  complained \nmore"), "complained"),
        (Answer(0, "said\nmore"), "said"),
        (Answer(1, " \n"), ""),
    ],
)
def test_the_first_line_is_of_what_it_complained(answer, line):
    assert answer.first_line == line
