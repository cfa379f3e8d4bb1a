"""What a container is made of: one program, run as it is, in namespaces of its own, and in a container.

A namespace gives a process its own list of processes, host name, network and users. It is the kernel's, Linux's, and
`unshare` of util-linux makes one, without a container engine. An image (its own files) and a cgroup (limits) are what a
container has beside that.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from itertools import zip_longest
from pathlib import Path

from helpers.commands import Run, run_bounded
from helpers.display import table
from helpers.errors import TutorialError

PATIENCE = 10.0  # real seconds for a program that only looks around
LIMIT = 512  # MiB of the container, as a task's
USER = "1000"  # of the container, as the sample app's image has it
MIB = 2**20
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
  limits: of('cgroup') + (fs.existsSync('/proc/self/ns/cgroup') ? fs.readlinkSync('/proc/self/ns/cgroup') : ''),
  memory: process.constrainedMemory?.() || 0,
}));
"""
OWN = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--uts", "--net", "--ipc"]
NAMED = ["sh", "-c", 'hostname its-own 2>/dev/null; exec "$@"', "sh"]
TOLD = {  # the first two are told as the machine's or its own: the values say nothing
    "files": "root directory",
    "limits": "cgroup",
    "memory": "memory limit",
}
UNLIMITED = 2**50  # bytes; what the kernel says in the place of "none" is more


Seen = dict[str, object]


@dataclass(frozen=True)
class Views:
    """What one program saw: `plain`, as an ordinary process; `inside`, in namespaces of its own; `contained`, in a
    container. Where one cannot be had it is empty, and `skipped` or `no_container` says why."""

    plain: Seen
    inside: Seen
    skipped: str = ""
    contained: Seen = field(default_factory=dict)
    no_container: str = ""

    @property
    def table(self) -> list[tuple[str, ...]]:
        """Rows, the heads first; a column for each way in which the program ran."""
        heads = {"ordinary process": self.plain, "in namespaces of its own": self.inside}
        heads["in a container"] = self.contained
        columns = [(head, *self._column(seen)) for head, seen in heads.items() if seen]
        names = next((seen for seen in heads.values() if seen), {})
        return (
            []
            if not names
            else list(zip_longest(("", *(TOLD.get(name, name) for name in names)), *columns, fillvalue=""))
        )

    def _column(self, seen: Seen) -> list[str]:
        return [self._told(name, value) for name, value in seen.items()]

    def _told(self, name: str, value: object) -> str:
        if name == "memory":
            limited = isinstance(value, int) and 0 < value < UNLIMITED
            return f"{value / MIB:.0f} MiB" if limited else "none"
        if name not in TOLD:
            return str(value)
        if value == self.plain.get(name):
            return "this machine's"
        return "its own"

    def __repr__(self) -> str:
        text = ["".join(f"{cell:<26}" for cell in row).rstrip() for row in self.table]
        missing = {"skipped": self.skipped, "no container": self.no_container}
        return "\n".join([*text, *(f"{what}: {why}" for what, why in missing.items() if why)])

    def _repr_html_(self) -> str:
        missing = {"skipped": self.skipped, "no container": self.no_container}
        notes = "".join(f"<p>{escape(f'{what}: {why}')}</p>" for what, why in missing.items() if why)
        return (table(self.table[0], self.table[1:]) if self.table else "") + notes


def isolated(
    run: Run = run_bounded,
    system: str = sys.platform,
    find_node: Callable[[], Path] | None = None,
    contain: Callable[[], tuple[Seen, str]] | None = None,
) -> Views:
    """Run a small Node.js program that looks around, as it is, in namespaces of its own, and in a container of the sample
    app's base image where an engine has that."""
    contained, why = (contain or in_a_container)()
    if system != "linux":
        skipped = "namespaces are Linux's; Docker on this system runs a Linux in a virtual machine for them"
        return Views({}, {}, skipped, contained, why)
    node = str((find_node or _node)())
    program = [node, "-e", LOOK_AROUND]
    plain = run(program, PATIENCE)
    if plain.code != 0:
        raise TutorialError("The program that looks around did not run.", seen=plain.err or plain.out)
    inside = run([*OWN, *NAMED, *program], PATIENCE)
    if inside.code != 0:
        skipped = f"this system does not let you make namespaces ({inside.first_line or 'no reason given'})"
        return Views(json.loads(plain.out), {}, skipped, contained, why)
    return Views(json.loads(plain.out), json.loads(inside.out), "", contained, why)


def in_a_container() -> tuple[Seen, str]:
    """What the program sees in a container, and why there is none, if so. Nothing is pulled for it."""
    from docker.errors import APIError, ImageNotFound

    from helpers.engine import reach
    from helpers.machine_facts import base_image
    from helpers.this_machine import engine_labels

    base = base_image()
    try:
        with reach(PATIENCE) as engine:
            limits = engine.api.create_host_config(
                mem_limit=LIMIT * MIB, memswap_limit=LIMIT * MIB, nano_cpus=10**9 // 4
            )
            made = engine.api.create_container(
                base, ["node", "-e", LOOK_AROUND], user=USER, labels=engine_labels(), host_config=limits
            )
            try:
                engine.api.start(made["Id"])
                ended = engine.api.wait(made["Id"], timeout=PATIENCE)
                said = engine.api.logs(made["Id"]).decode(errors="replace")
            finally:
                engine.api.remove_container(made["Id"], force=True, v=True)
        return (
            (json.loads(said), "") if ended["StatusCode"] == 0 else ({}, f"the program ended there: {said}")
        )
    except ImageNotFound:
        return {}, f"the engine does not have {base} yet; the next notebook's build fetches it"
    except APIError as problem:
        return {}, str(problem.explanation or problem)
    except TutorialError as problem:
        return {}, problem.seen or problem.what


def _node() -> Path:
    from helpers.this_machine import find_node

    return find_node().path
