"""The machine under Fargate: real processes, real CPU time, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.sandbox.fargate.host import DEBT, PERIOD, Bucket, Group, GroupCpu, Host, end, processes, started
from tests.waiting import until

BURN = "while True: pass"
SLEEP = "import time; time.sleep(600)"
ROOT = Path(__file__).parents[2]


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-c", code]


def shares(host: Host, pids: list[int], windows: int = 5) -> list[float]:
    """CPU seconds a real second that each of these groups used, in the median one of some windows of a second: a stall
    of this machine, or what was saved before, is in one of them."""
    seen = []
    for _ in range(windows):
        begin, before = time.monotonic(), [host.cpu_seconds(pid) for pid in pids]
        time.sleep(1.0)
        used = [host.cpu_seconds(pid) - was for pid, was in zip(pids, before, strict=True)]
        seen.append([cpu / (time.monotonic() - begin) for cpu in used])
    return [median(each) for each in zip(*seen, strict=True)]


def waited(pid: int) -> float:
    """Seconds that a process was ready to run and had no CPU: how much the machine starved it."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    host.start()
    yield host
    host.stop()


# The rule


@given(st.floats(0.05, 1.0), st.floats(0.0, 0.02))
def test_a_saturated_task_gets_its_limit_and_no_more(vcpu: float, late: float) -> None:
    bucket, now, used = Bucket(vcpu), 0.0, 0.0
    while now < 20.0:
        elapsed = bucket.look_again(now) + late - now  # the host may wake up late
        burnt = 0.0 if bucket.stopped else elapsed
        bucket.account(elapsed, burnt)
        now, used = now + elapsed, used + burnt
    # Beyond its limit it can have what it saved, and what it used before a look that came late.
    assert 0.97 * vcpu * now - 0.05 <= used <= vcpu * (now + PERIOD) + 0.02 + late


@given(st.floats(0.1, 1.0), st.floats(0.1, 0.9), st.floats(0.001, 0.05))
def test_a_task_below_its_limit_is_never_stopped(vcpu: float, share: float, period: float) -> None:
    bucket = Bucket(vcpu)
    for _ in range(200):
        busy = min(period * vcpu * share, period)
        assert not bucket.account(busy, busy)
        assert not bucket.account(period - busy, 0.0)


def test_a_debt_is_bounded() -> None:
    bucket = Bucket(0.25)
    bucket.account(1.0, 40.0)
    assert bucket.tokens == -DEBT * 0.25


# CPU time


def test_cpu_of_a_group_counts_children_and_does_not_fall_when_they_end(host: Host) -> None:
    burn = "import time\nwhile time.process_time() < 0.4: pass"
    parent = host.spawn(
        python(
            f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {burn!r}]); time.sleep(600)"
        )
    )
    seen = [0.0]

    def enough() -> bool:
        seen.append(host.cpu_seconds(parent.pid))
        return len(processes([parent.pid])[parent.pid]) == 1 and seen[-1] > 0.4

    until(enough)
    assert seen == sorted(seen)
    assert seen[-1] < 0.8


def test_cpu_time_agrees_with_the_process_own_account(host: Host, tmp_path: Path) -> None:
    code = (
        "import threading, time\n"
        "def burn():\n"
        "    while time.thread_time() < 0.2: pass\n"
        "threads = [threading.Thread(target=burn) for _ in range(3)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "print(time.process_time(), flush=True); time.sleep(600)"
    )
    child = host.spawn(python(code), stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout as answer:
        own = float(answer.readline())
    assert host.cpu_seconds(child.pid) == pytest.approx(own, abs=0.05)


# The cap


@pytest.mark.parametrize("tasks", [1, 6])
def test_saturated_tasks_use_what_they_may(host: Host, tasks: int) -> None:
    burners = [host.spawn(python(BURN), vcpu=0.25) for _ in range(tasks)]
    time.sleep(0.5)
    begin = time.monotonic()
    starved = [waited(burner.pid) for burner in burners] if sys.platform == "linux" else []
    percent = [100 * share / 0.25 for share in shares(host, [burner.pid for burner in burners])]
    elapsed = time.monotonic() - begin
    assert max(percent) <= 104, percent
    # A machine that had no CPU for them, or none for the host, is no fault of the cap.
    if starved and max(waited(b.pid) - was for b, was in zip(burners, starved, strict=True)) < 0.02 * elapsed:
        assert min(percent) >= 97, percent


def test_children_share_their_tasks_limit(host: Host) -> None:
    forks = "import os\nfor _ in range(2): os.fork()\nwhile True: pass"
    task = host.spawn(python(forks), vcpu=0.25)
    time.sleep(1.5)  # the first burst, before its children are known, is paid back
    assert shares(host, [task.pid])[0] <= 0.25 * 1.10


@pytest.mark.skipif(sys.platform != "linux", reason="reads a process's state in /proc")
def test_a_task_that_somebody_continued_is_held_all_the_same(host: Host) -> None:
    """As `stop` does, so that SIGTERM arrives: what follows must not run free."""
    task = host.spawn(python(BURN), vcpu=0.25)

    def stands() -> bool:
        return Path(f"/proc/{task.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    for _ in range(3):
        until(stands)
        os.killpg(task.pid, signal.SIGCONT)
    assert shares(host, [task.pid], 3)[0] <= 0.25 + PERIOD


def test_a_task_at_half_its_limit_is_not_disturbed(host: Host, tmp_path: Path) -> None:
    counted = tmp_path / "stops"
    code = (
        "import signal, sys, time\n"
        "stops = []\n"
        "signal.signal(signal.SIGCONT, lambda *_: stops.append(1))\n"
        "end = time.monotonic() + 2.5\n"
        "while time.monotonic() < end:\n"
        "    until = time.thread_time() + 0.004\n"
        "    while time.thread_time() < until: pass\n"
        "    time.sleep(0.028)\n"
        "open(sys.argv[1], 'w').write(str(len(stops)))\n"
    )
    task = host.spawn([*python(code), str(counted)], vcpu=0.25)
    task.wait(20)
    assert (
        int(counted.read_text()) <= 2
    )  # Python's own start may spend the bucket, and it is told to go on at first


def test_a_watched_process_has_no_limit(host: Host) -> None:
    code = "import signal, time\nstops = []\nsignal.signal(signal.SIGCONT, lambda *_: stops.append(1))\n" + (
        "while time.process_time() < 0.5: pass\nraise SystemExit(len(stops))"
    )
    assert host.spawn(python(code)).wait(30) <= 1


# Nothing stays behind


def gone(pid: int) -> bool:
    """No such process, or a zombie that nobody waited for."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return sys.platform == "linux"
    except ProcessLookupError:
        return True


SANDBOX = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from helpers.sandbox.fargate.host import Host
host = Host()
host.start()
kinds = {{
    "asleep": "import time; print(0, flush=True); time.sleep(600)",
    "burning": "print(0, flush=True)\\nwhile True: pass",
    "stopped": "import os, signal, time; print(0, flush=True); os.kill(os.getpid(), signal.SIGSTOP); time.sleep(600)",
    "deaf": "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(0, flush=True); time.sleep(600)",
    "with a child": "import os, time; pid = os.fork(); pid and print(pid, flush=True); time.sleep(600)",
}}
pids = [host.pid]
for kind, code in kinds.items():
    child = host.spawn([sys.executable, "-c", code], vcpu=None if kind == "deaf" else 0.25, stdout=-1)
    pids += [child.pid, int(child.stdout.readline()) or child.pid]
print(*pids, flush=True)
time.sleep(600)
"""


def test_nothing_outlives_a_sandbox_that_is_killed() -> None:
    sandbox = subprocess.Popen([sys.executable, "-c", SANDBOX], stdout=subprocess.PIPE)
    assert sandbox.stdout is not None
    try:
        with sandbox.stdout as answer:
            pids = [int(word) for word in answer.readline().split()]
        assert len(pids) == 11
        assert not any(gone(pid) for pid in pids)
    finally:
        sandbox.kill()
        sandbox.wait()
    until(lambda: all(gone(pid) for pid in pids))


def test_stop_kills_what_is_left_and_forget_lets_go() -> None:
    host = Host()
    host.start()
    kept, killed = host.spawn(python(SLEEP)), host.spawn(python(SLEEP), vcpu=0.25)
    pid = host.pid
    host.forget(kept)
    host.stop()
    try:
        assert killed.returncode == -signal.SIGKILL
        assert kept.poll() is None
        assert host.pid is None
        assert gone(pid or 0)
        with pytest.raises(RuntimeError, match="not running"):
            host.spawn(python(SLEEP))
    finally:
        kept.kill()
        kept.wait()


def test_a_host_that_dies_is_replaced_and_no_task_stays_stopped(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    burner = host.spawn(python(BURN), vcpu=0.1)
    first = host.pid
    assert first is not None
    os.kill(burner.pid, signal.SIGSTOP)
    os.kill(first, signal.SIGKILL)
    until(lambda: host.pid not in (None, first))
    assert "starting another for 1 groups" in caplog.text
    before = host.cpu_seconds(burner.pid)
    until(lambda: host.cpu_seconds(burner.pid) > before + 0.05)
    assert shares(host, [burner.pid], 3)[0] <= 0.1 * 1.1 + 0.01


def test_another_process_with_a_reused_id_is_left_alone() -> None:
    stranger = subprocess.Popen(python(SLEEP), start_new_session=True)
    try:
        start = started(stranger.pid)
        assert start is not None
        assert not Group(stranger.pid, start - 1, 0.25, 0.0).signal(signal.SIGKILL)
        assert stranger.poll() is None
        assert Group(stranger.pid, start, 0.25, 0.0).signal(signal.SIGKILL)
        assert stranger.wait(10) == -signal.SIGKILL
    finally:
        with suppress(ProcessLookupError):
            stranger.kill()
        stranger.wait()


def test_a_group_without_its_leader_is_still_ended() -> None:
    code = "import os, time\nif os.fork(): os._exit(0)\nprint(os.getpid(), flush=True); time.sleep(600)"
    leader = subprocess.Popen(python(code), start_new_session=True, stdout=subprocess.PIPE)
    start = started(leader.pid)
    assert start is not None
    assert leader.stdout is not None
    with leader.stdout as answer:
        orphan = int(answer.readline())
    leader.wait()
    group = Group(leader.pid, start, None, 0.0)
    group.cpu.meet(processes([leader.pid])[leader.pid])
    assert group.signal(signal.SIGKILL)
    until(lambda: gone(orphan))


def test_cpu_of_what_does_not_exist_is_nothing() -> None:
    child = subprocess.Popen(python("pass"))
    child.wait()
    assert GroupCpu(child.pid).read() == 0


def test_forgetting_after_the_end_is_quiet() -> None:
    host = Host()
    host.start()
    child = host.spawn(["sleep", "60"], vcpu=0.5)
    host.stop()
    host.forget(child)
    assert child.returncode == -signal.SIGKILL


def touch(file: Path) -> list[str]:
    return python(f"open({str(file)!r}, 'w')")


def test_after_the_sandboxs_end_the_last_command_is_run(tmp_path: Path) -> None:
    host = Host()
    host.run_at_end(touch(tmp_path / "never"))
    host.start()
    host.run_at_end(touch(tmp_path / "with spaces"))
    host.stop()
    until((tmp_path / "with spaces").exists)
    assert not (tmp_path / "never").exists()


def test_a_host_that_was_killed_leaves_the_last_command_to_its_successor(host: Host, tmp_path: Path) -> None:
    host.run_at_end(touch(tmp_path / "ran"))
    first = host.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    until(lambda: host.pid not in (None, first))
    host.stop()
    until((tmp_path / "ran").exists)


def test_a_last_command_that_was_taken_back_is_not_run(host: Host, tmp_path: Path) -> None:
    host.run_at_end(touch(tmp_path / "never"))
    host.run_at_end([])
    host.stop()
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(("at_sigterm", "code"), [("", -signal.SIGTERM), ("trap '' TERM; ", -signal.SIGKILL)])
def test_end_waits_for_a_process_and_kills_one_that_is_deaf(at_sigterm, code):
    with subprocess.Popen(
        ["sh", "-c", f"{at_sigterm}echo ready; while :; do sleep 0.05; done"], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout.readline() == b"ready\n"
        end(child, within=0.3)
        assert child.returncode == code
