"""What a container is made of, without a container engine: one program, run twice, once in namespaces of its own.

A namespace gives a process its own list of processes, host name, network and users. It is the kernel's, Linux's, and
`unshare` of util-linux makes one. An image (its own files) and a cgroup (limits) are what a container has beside that.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from helpers.commands import Run, run_bounded
from helpers.errors import TutorialError

PATIENCE = 10.0  # real seconds for a program that only looks around
LOOK_AROUND = """
const fs = require('node:fs'), os = require('node:os');
const of = (name) => fs.readFileSync(`/proc/self/${name}`, 'utf8');
const root = fs.statSync('/');
console.log(JSON.stringify({
  'process id': process.pid,
  'processes it sees': fs.readdirSync('/proc').filter((name) => /^\\d+$/.test(name)).length,
  'host name': os.hostname(),
  'networks that are up': Object.keys(os.networkInterfaces()).length,
  'user id': process.getuid(),
  files: `${root.dev}:${root.ino}`,
  limits: of('cgroup'),
}));
"""
OWN = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--uts", "--net", "--ipc"]
NAMED = ["sh", "-c", 'hostname its-own 2>/dev/null; exec "$@"', "sh"]
COMPARED = {
    "files": "root directory",
    "limits": "cgroup",
}  # told as the same or its own, since the values say nothing


@dataclass(frozen=True)
class Views:
    """What one program saw: `plain`, as an ordinary process; `inside`, in namespaces of its own. Where that cannot be
    had, `inside` is empty and `skipped` says why."""

    plain: dict[str, object]
    inside: dict[str, object]
    skipped: str = ""

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        rows = []
        for what, seen in self.plain.items():
            other = self.inside.get(what, "")
            if what in COMPARED:
                same = "the same" if other == seen else "its own"
                rows.append((COMPARED[what], "this machine's", same if self.inside else ""))
            else:
                rows.append((what, str(seen), str(other)))
        return rows

    def __repr__(self) -> str:
        lines = [("", "ordinary process", "in namespaces of its own"), *self.rows] if self.plain else []
        text = [f"{what:<21} {plain:<17} {inside}".rstrip() for what, plain, inside in lines]
        return "\n".join([*text, *([f"skipped: {self.skipped}"] if self.skipped else [])])


def isolated(
    run: Run = run_bounded, system: str = sys.platform, find_node: Callable[[], Path] | None = None
) -> Views:
    """Run a small Node.js program that looks around, as it is and in namespaces of its own."""
    if system != "linux":
        return Views(
            {}, {}, "namespaces are Linux's; Docker on this system runs a Linux in a virtual machine for them"
        )
    node = str((find_node or _node)())
    program = [node, "-e", LOOK_AROUND]
    plain = run(program, PATIENCE)
    if plain.code != 0:
        raise TutorialError("The program that looks around did not run.", seen=plain.err or plain.out)
    inside = run([*OWN, *NAMED, *program], PATIENCE)
    if inside.code != 0:
        why = inside.first_line or "no reason given"
        return Views(json.loads(plain.out), {}, f"this system does not let you make namespaces ({why})")
    return Views(json.loads(plain.out), json.loads(inside.out))


def _node() -> Path:
    from helpers.session import find_node

    return find_node().path
