"""Stands in for the machine under Fargate: it holds each task to its vCPU, and tasks end when it does.

Differs: there are no cgroups. A process of its own reads each task's CPU time and stops the task's process group
(SIGSTOP) when a token bucket is spent, so the limit holds over tens of milliseconds and not within one: a task with
many threads can overrun and then pays it back. A process that leaves its task's group (setsid, `detached: true`) is
neither limited nor ended with it. The same process is the watchdog: its standard input is a pipe from the sandbox,
and at the pipe's end, even after a SIGKILL of the sandbox, it kills every group it knows, stopped ones too.

Run as `python -I host.py` it is that process, and needs only the standard library (and psutil where there is no
/proc). It reads lines: `cap <group> <start> <vcpu>`, `watch <group> <start>`, `forget <group>`; `start` is the
leader's start time, without which a reused process id could be taken for a task; and `last <argv in JSON>`, a command to
run at the pipe's end, for what is not a process. Imported, it is `Host`, the sandbox's side. All times here are real
seconds.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

log = logging.getLogger("sandbox.host")

PERIOD = (
    0.1  # seconds of refill that a bucket holds; the period of the kernel's CFS quota, which Fargate uses
)
RESUME = (
    0.025  # seconds of refill before a stopped task goes on: short, so that a short measurement is a true one
)
DEBT = 1.0  # seconds of refill that a task can owe, so that no burst unseen leaves it standing for longer
SHORTEST_LOOK, LONGEST_LOOK = 0.002, 0.1  # seconds between two looks at a task's CPU time
TOGETHER = 0.002  # looks due within so many seconds are taken at once, to wake up less often
IDLE = 0.01  # CPUs used, below which a task with a full bucket is looked at as seldom as that
CHILDREN = 0.1  # seconds between two looks for new children of a busy task's processes
SCAN = 1.0  # seconds between two looks at all processes of the machine, for orphans in the groups
FRESH = 0.2  # seconds that the sandbox's own readings may reuse a list of a group's processes
LINUX = sys.platform == "linux"


def cpu_ns(pid: int) -> int | None:
    """CPU time of a process with all its threads, ended ones too, in nanoseconds; None when it is gone."""
    if LINUX:
        # The kernel's number for another process's CPU clock (MAKE_PROCESS_CPUCLOCK in posix-timers.h), as the C
        # library's clock_getcpuclockid() makes it: one system call instead of a file read per thread.
        try:
            return time.clock_gettime_ns((~pid << 3) | 2)
        except OSError:
            return None
    import psutil

    try:
        used = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return round((used.user + used.system) * 1e9)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the third, the state, on; empty when the process is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def started(pid: int) -> int | None:
    """When a process started, in a unit of the system's own; with its id it names one process for good."""
    if LINUX:
        fields = _stat(pid)
        return int(fields[19]) if fields else None
    import psutil

    try:
        return round(psutil.Process(pid).create_time() * 1e6)
    except psutil.Error:
        return None


def _reaped_ns(pid: int) -> int:
    """CPU time of a process's children that ended and were waited for, in nanoseconds (to 10 ms)."""
    fields = _stat(pid) if LINUX else []
    return (int(fields[13]) + int(fields[14])) * 10**9 // os.sysconf("SC_CLK_TCK") if fields else 0


def _resident(pid: int) -> int:
    """Resident memory of a process in bytes, 0 when it is gone."""
    if LINUX:
        try:
            with open(f"/proc/{pid}/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
        except OSError:
            return 0
    import psutil

    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def _children(pid: int) -> list[int]:
    """The processes that this one's main thread started; empty where the kernel keeps no list of them."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def processes(groups: Iterable[int]) -> dict[int, list[int]]:
    """The processes of each of these groups, by group."""
    found: dict[int, list[int]] = {group: [] for group in groups}
    if LINUX:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    else:
        import psutil

        pids = psutil.pids()
    for pid in pids:
        if (group := _group_of(pid)) in found:
            found[group].append(pid)
    return found


class GroupCpu:
    """CPU time of a process group since it began, its ended members included: it never goes down."""

    def __init__(self, group: int):
        self.group = group
        self._live = {group: 0}  # nanoseconds by process
        self._ended = self._reaped = self._total = 0

    def meet(self, pids: Iterable[int]) -> None:
        """Learn who is in the group now."""
        for pid in pids:
            self._live.setdefault(pid, 0)
        # What lived and died between two looks is known only from its parent's account.
        self._reaped = sum(_reaped_ns(pid) for pid in self._live)

    def meet_children(self) -> None:
        """Learn of new children: far cheaper than to ask for the group of every process there is."""
        for pid in list(self._live):
            for child in _children(pid):
                if child not in self._live and _group_of(child) == self.group:
                    self._live[child] = 0

    def read(self) -> int:
        """Nanoseconds."""
        for pid, before in list(self._live.items()):
            now = cpu_ns(pid)
            if now is None or now < before:  # ended, or another process by now
                self._ended += self._live.pop(pid)
            else:
                self._live[pid] = now
        self._total = max(self._total, sum(self._live.values()) + max(self._ended, self._reaped))
        return self._total

    def present(self) -> bool:
        """Whether anyone but the leader is still in the group."""
        return any(_group_of(pid) == self.group for pid in self._live if pid != self.group)


class Bucket:
    """A task's allowance: `vcpu` CPU seconds a second, saved up for at most one period; it may go into debt."""

    def __init__(self, vcpu: float):
        self.vcpu = vcpu
        self.tokens = self.size = vcpu * PERIOD  # CPU seconds
        self.stopped = self._idle = False
        self._rate = 1.0  # CPUs it may well use at once: one, or what it used lately

    def account(self, elapsed: float, used: float) -> bool:
        """Note CPU seconds used in so many seconds; whether the task must stand still now."""
        tokens = self.tokens + elapsed * self.vcpu - used
        self.tokens = max(-DEBT * self.vcpu, min(self.size, tokens))
        self._idle = tokens >= self.size and used <= IDLE * elapsed
        if self.stopped:
            self.stopped = self.tokens < RESUME * self.vcpu
        else:
            self.stopped = self.tokens <= 0
            self._rate = max(1.0, used / elapsed) if elapsed > 0 else 1.0
        return self.stopped

    def look_again(self, now: float) -> float:
        """When the task can have spent its tokens, or may go on."""
        if self._idle:
            return (now // LONGEST_LOOK + 1) * LONGEST_LOOK  # all idle tasks at the same moment: one wake-up
        if self.stopped:
            wait = RESUME - self.tokens / self.vcpu
        else:
            wait = self.tokens / max(self._rate - self.vcpu, 1e-9)
        return now + min(max(wait, SHORTEST_LOOK), LONGEST_LOOK)


class Group:
    """A process group under the host's care; `vcpu` None means watched without a limit."""

    def __init__(self, group: int, start: int, vcpu: float | None, now: float):
        self.group, self.start = group, start
        self.bucket = None if vcpu is None else Bucket(vcpu)
        self.cpu = GroupCpu(group)
        self._read_at, self._read_ns = now, self.cpu.read()
        self.due = now if self.bucket else float("inf")
        self._children_at = now

    def signal(self, number: int) -> bool:
        """Signal the whole group; False, and no signal, when nobody of it is left."""
        if started(self.group) != self.start and not self.cpu.present():
            return False
        try:
            os.killpg(self.group, number)
        except (ProcessLookupError, PermissionError):  # macOS refuses with the latter when all are zombies
            return False
        return True

    def look(self, now: float) -> bool:
        """Read, account, stop or continue; False when the group is gone."""
        if self.bucket is None:
            return True
        if now >= self._children_at and not self.bucket.stopped:
            self._children_at = now + CHILDREN
            self.cpu.meet_children()
        was, ns = self.bucket.stopped, self.cpu.read()
        used = ns - self._read_ns
        stopped = self.bucket.account(now - self._read_at, used / 1e9)
        self._read_at, self._read_ns = now, ns
        self.due = self.bucket.look_again(now)
        # Who stands still uses nothing: a stopped group that did was continued by somebody else, as a task's stop does.
        as_it_was = stopped == was and not (stopped and used)
        return as_it_was or self.signal(signal.SIGSTOP if stopped else signal.SIGCONT)


class Keeper:
    """The host process's loop: commands come from `source`, a file descriptor, until its end."""

    def __init__(self, source: int):
        self.source = source
        self.groups: dict[int, Group] = {}
        self.last: list[str] = []
        self._rest = b""
        self._scan_at = 0.0

    def run(self) -> None:
        try:
            while self._commands():
                self._look(time.monotonic())
        except BaseException:
            # The sandbox starts another host; until then nothing may stand still for good.
            for group in self.groups.values():
                group.signal(signal.SIGCONT)
            raise
        members = processes(self.groups)
        for group in self.groups.values():
            group.cpu.meet(members[group.group])
            group.signal(signal.SIGKILL)
        if self.last:
            subprocess.Popen(self.last, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def _commands(self) -> bool:
        """Wait for commands or the next look, and obey; False at the end of the pipe."""
        due = min((group.due for group in self.groups.values()), default=float("inf"))
        timeout = None if due == float("inf") else max(0.0, due - time.monotonic())
        if not select.select([self.source], [], [], timeout)[0]:
            return True
        data = os.read(self.source, 65536)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._obey(line.decode())
        return bool(data)

    def _obey(self, line: str) -> None:
        words = line.split()
        if words[0] == "last":
            self.last = json.loads(line.removeprefix("last "))
            return
        verb, number = words[0], int(words[1])
        old = self.groups.pop(number, None)
        if old and verb == "forget":
            old.signal(signal.SIGCONT)
        if verb in ("cap", "watch"):
            vcpu = float(words[3]) if verb == "cap" else None
            group = self.groups[number] = Group(number, int(words[2]), vcpu, time.monotonic())
            group.signal(signal.SIGCONT)  # an earlier host may have ended while this group stood still

    def _look(self, now: float) -> None:
        if now >= self._scan_at:
            self._scan_at = now + SCAN
            capped = [number for number, group in self.groups.items() if group.bucket]
            for number, pids in processes(capped).items() if capped else ():
                self.groups[number].cpu.meet(pids)
                if not pids:
                    del self.groups[number]
        gone = [n for n, group in self.groups.items() if group.due <= now + TOGETHER and not group.look(now)]
        for number in gone:
            del self.groups[number]


class Host:
    """The sandbox's side: starts processes under the host's care, keeps the host alive, reads what they use."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._children: dict[
            int, tuple[subprocess.Popen[bytes], str]
        ] = {}  # with the line that registers each
        self._cpu: dict[int, GroupCpu] = {}
        self._members: dict[int, list[int]] = {}
        self._members_at = float("-inf")
        self._last: list[str] = []
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """The host process's id, None when it is not running."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start the host process and return once it listens; RuntimeError when it does not."""
        with self._lock:
            self._process = subprocess.Popen(
                [sys.executable, "-I", os.path.abspath(__file__)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # outlives a Ctrl-C and the sandbox's own end
            )
            assert self._process.stdout
            with self._process.stdout as answer:
                if answer.readline() != b"ready\n":
                    raise RuntimeError("the sandbox's host process did not start: see the lines above")
            for _, line in self._children.values():
                self._tell(line)
            self._tell(f"last {json.dumps(self._last)}")
            threading.Thread(target=self._guard, args=(self._process,), name="host", daemon=True).start()

    def spawn(
        self, argv: Sequence[str], *, vcpu: float | None = None, **popen: Any
    ) -> subprocess.Popen[bytes]:
        """Start a process in a group of its own, held to `vcpu` if given; `popen` as for subprocess.Popen."""
        with self._lock:
            if self._process is None or self._stopping:
                raise RuntimeError("the host is not running: call start() first")
            child = subprocess.Popen(argv, start_new_session=True, **popen)
            cap = "watch {} {}" if vcpu is None else "cap {} {} {}"
            line = cap.format(child.pid, started(child.pid) or 0, vcpu)
            self._children[child.pid] = child, line
            self._tell(line)
            return child

    def forget(self, child: subprocess.Popen[bytes]) -> None:
        """Let go of a process: no limit any more, and it will not be killed at the end."""
        with self._lock:
            self._cpu.pop(child.pid, None)
            if self._children.pop(child.pid, None) and not self._stopping:
                self._tell(f"forget {child.pid}")

    def run_at_end(self, command: Sequence[str]) -> None:
        """What the host process runs when the sandbox has ended; nothing if empty."""
        with self._lock:
            self._last = list(command)
            if self._process and not self._stopping:
                self._tell(f"last {json.dumps(self._last)}")

    def stop(self) -> None:
        """Kill all that is left, and the host process. Real seconds: at most ten, usually none."""
        with self._lock:
            self._stopping = True
            process = self._process
            if process is None:
                return
            assert process.stdin
            with suppress(BrokenPipeError):
                process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            log.error("the host process did not end: killing it")
            process.kill()
            process.wait()
        for child, _ in list(self._children.values()):
            with suppress(subprocess.TimeoutExpired):
                child.wait(5)
        self._process = None

    def cpu_seconds(self, group: int) -> float:
        """CPU seconds that a group used since its start, ended children included; never goes down."""
        with self._lock:
            cpu = self._cpu.setdefault(group, GroupCpu(group))
            cpu.meet(self._processes_of(group))
            return cpu.read() / 1e9

    def memory_bytes(self, group: int) -> int:
        """Resident memory of a group's processes in bytes; pages they share count in each."""
        with self._lock:
            return sum(map(_resident, self._processes_of(group)))

    def _processes_of(self, group: int) -> list[int]:
        now = time.monotonic()
        if now - self._members_at > FRESH or group not in self._members:
            self._members, self._members_at = processes({*self._children, group}), now
        return self._members[group]

    def _tell(self, line: str) -> None:
        assert self._process
        assert self._process.stdin
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            log.debug("the host process ended before it heard %r; its successor will hear it", line)

    def _guard(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the host process's end; start another unless that was wanted."""
        code = process.wait()
        with self._lock:
            if self._stopping:
                return
            log.error(
                "the host process ended with %s: starting another for %d groups", code, len(self._children)
            )
            with suppress(BrokenPipeError):
                process.stdin.close()
            self.start()


def end(child: subprocess.Popen[bytes], within: float = 2.0) -> None:
    """SIGTERM to a process, and SIGKILL after so many seconds. Returns when it has ended."""
    child.terminate()
    try:
        child.wait(within)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    sys.stdout.write("ready\n")
    sys.stdout.close()
    Keeper(sys.stdin.fileno()).run()
