"""`run_app`: real processes on this machine, without ECS."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from types import SimpleNamespace

import psutil
import pytest

from helpers import apps, isolation, session, snapshots, started_app, this_machine
from helpers.commands import run_bounded
from helpers.errors import TutorialError
from tests.sandbox.live import PAGE, write_app
from tests.waiting import until

# Works for so many milliseconds of CPU time on /work, none on /; /wait answers after as many of waiting.
WORKER = """
const http = require('node:http');
const ms = Number(process.env.WORK_MS || 0);
const cpu = () => { const used = process.cpuUsage(); return (used.user + used.system) / 1000; };
const server = http.createServer((request, response) => {
  if (request.url === '/wait') return setTimeout(() => response.end('waited'), ms);
  if (request.url === '/crash') process.exit(7);
  const end = cpu() + (request.url === '/work' ? ms : 0);
  while (cpu() < end);
  response.end('done');
});
%s
server.listen(process.env.PORT, process.env.HOST);
"""
DRAINS = (
    "process.on('SIGTERM', () => { server.close(() => process.exit(0)); server.closeIdleConnections(); });"
)
DEAF = "process.on('SIGTERM', () => console.log('no'));"


@pytest.fixture
def lab(tmp_path, monkeypatch):
    lab = SimpleNamespace(state=tmp_path / "state", region="us-east-1", ensure_there=lambda: None)
    monkeypatch.setattr(session, "_current", lab)
    monkeypatch.setattr(started_app, "_running", None)
    yield lab
    if this_machine._runtime_of.cache_info().currsize:
        this_machine._runtime_of(lab.state).host.stop()
        this_machine._runtime_of.cache_clear()


def test_it_answers_and_dies_as_a_crash_does(lab, tmp_path):
    app = apps.run_app(write_app(tmp_path / "app", PAGE % "hello"))
    with urllib.request.urlopen(app.url, timeout=5) as answer:
        assert answer.read() == b"hello"
    assert app.running
    assert app.status() == 200
    assert app.exit_code is None
    assert "0.25 vCPU, running at http://127.0.0.1:" in repr(app)
    app.kill()
    assert not app.running
    assert app.exit_code == 137
    assert "exit code 137" in repr(app)
    with pytest.raises(TutorialError, match=r"(?s)takes no requests.*exit code 137"):
        app.status()


def test_an_error_of_its_own_is_a_status(lab, tmp_path):
    code = PAGE.replace("response.end('%s')", "response.writeHead(request.url === '/no' ? 404 : 503).end()")
    app = apps.run_app(write_app(tmp_path / "app", code))
    assert (app.status("/no"), app.status()) == (404, 503)


def test_running_it_again_ends_the_one_before(lab, tmp_path):
    place = write_app(tmp_path / "app", PAGE % "hello")
    first = apps.run_app(place)
    second = apps.run_app(place, vcpu=0.5)
    assert not first.running
    assert second.running
    assert second.url != first.url


def test_an_app_that_ends_at_once_is_told_with_its_last_lines(lab, tmp_path):
    place = write_app(tmp_path / "app", "console.error('no database'); process.exit(4)")
    with pytest.raises(TutorialError, match=r"(?s)did not start.*exit code 4.*no database.*PORT"):
        apps.run_app(place)


def test_an_app_that_never_answers_is_ended(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(started_app, "ANSWERS_WITHIN", 1.0)
    place = write_app(tmp_path / "app", "setInterval(() => {}, 1000)")
    with pytest.raises(started_app.AppNotStarted, match="no answer in 1 s") as caught:
        apps.run_app(place)
    assert gone(caught.value.app._process.pid)
    assert caught.value.app.exit_code == 137
    assert not caught.value.app.out_of_memory


def test_an_app_that_takes_long_to_answer_is_not_asked_twice(lab, tmp_path):
    code = PAGE.replace(
        "response.end('%s')", "{ console.log('asked'); setTimeout(() => response.end('x'), 2500); }"
    )
    app = apps.run_app(write_app(tmp_path / "app", code))
    assert app.log == "asked"


def test_what_is_no_app_is_told(lab, tmp_path):
    with pytest.raises(TutorialError, match=r"package\.json"):
        apps.run_app(tmp_path)
    (tmp_path / "package.json").write_text(json.dumps({"dependencies": {"express": "5"}, "name": "x"}))
    with pytest.raises(TutorialError, match="npm ci"):
        apps.run_app(tmp_path)


def test_the_log_is_what_it_wrote_last(lab, tmp_path):
    code = "for (let i = 0; i < 30; i++) console.log('line ' + i);" + PAGE % "x"
    app = apps.run_app(write_app(tmp_path / "app", code))
    assert app.log.splitlines()[-1] == "line 29"
    assert len(app.log.splitlines()) == 10


def test_it_gets_the_environment_and_the_command_that_it_is_given(lab, tmp_path):
    place = write_app(tmp_path / "app", "process.exit(9)")
    (place / "other.js").write_text(PAGE.replace("'%s'", "process.env.WORK_MS + process.env.PORT"))
    app = apps.run_app(place, command=["node", "other.js"], environment={"WORK_MS": 12, "PORT": "80"})
    with urllib.request.urlopen(app.url, timeout=5) as answer:
        assert answer.read().decode() == "12" + app.url.rsplit(":", 1)[1]


def test_a_command_in_one_string_is_taken_apart_by_nobody(lab, tmp_path):
    place = write_app(tmp_path / "app", PAGE % "x")
    with pytest.raises(TutorialError, match=r"command=\['npm', 'start'\]"):
        apps.run_app(place, command="npm start")


def test_a_program_that_is_not_there_is_named(lab, tmp_path):
    place = write_app(tmp_path / "app", PAGE % "x")
    with pytest.raises(TutorialError, match=r'(?s)cannot be run.*"yarn": executable file not found'):
        apps.run_app(place, command=["yarn", "start"])


def test_a_snapshot_runs_what_it_says_in_the_apps_directory_with_its_own_settings(lab, tmp_path):
    place = write_app(tmp_path / "app", "process.exit(9)")
    (place / "other.js").write_text(
        PAGE.replace("'%s'", "process.env.A + process.env.B + require('node:fs').readdirSync('.')")
    )
    image = snapshots.build(place, "v1", 'FROM x\nENV A=1 B=2\nCMD ["node", "other.js"]\n')
    app = apps.run_app(image, environment={"B": 3})
    with urllib.request.urlopen(app.url, timeout=5) as answer:
        assert answer.read().decode() == "13other.js,package.json,server.js"
    assert apps.try_app(image, command=["node", "server.js"]).exit_code == 9


def test_a_snapshots_npm_takes_the_shell_of_debian_where_there_is_one(lab, tmp_path):
    place = write_app(tmp_path / "app", PAGE.replace("'%s'", "String(process.env.npm_config_script_shell)"))
    app = apps.run_app(snapshots.build(place, "v1"))
    with urllib.request.urlopen(app.url, timeout=5) as answer:
        assert answer.read().decode() == (shutil.which("dash") or "undefined")
    assert apps.has_the_shell(snapshots.build(place, "v1")) == bool(shutil.which("dash"))


def test_a_snapshot_whose_app_is_gone_is_told(lab):
    with pytest.raises(TutorialError, match=r"no Node\.js app"):
        apps.run_app(snapshots.trial("v1"))


# Its limits, and its end


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_an_app_that_needs_more_memory_than_it_has_does_not_start(lab, tmp_path):
    place = write_app(tmp_path / "app", PAGE % "x")
    with pytest.raises(
        started_app.AppNotStarted, match=r"more than its 16 MiB of memory.*exit code 137"
    ) as told:
        apps.run_app(place, memory=16)
    assert told.value.app.out_of_memory
    assert "16 MiB" in repr(told.value.app)


def test_an_app_that_ends_is_a_result_when_it_is_only_tried(lab, tmp_path):
    place = write_app(tmp_path / "app", "if (process.env.BAD) process.exit(4);" + PAGE % "x")
    assert apps.try_app(place, environment={"BAD": "1"}).exit_code == 4
    assert apps.try_app(place).running
    with pytest.raises(TutorialError, match=r"package\.json"):
        apps.try_app(tmp_path)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"memory": "512"}, r"memory cannot be that.*memory='512'.*1 to 122,880, in MiB"),
        ({"memory": 0}, "memory=0"),
        ({"memory": 0.5}, r"memory=0\.5"),
        ({"memory": True}, "memory=True"),
        ({"vcpu": "2"}, r"vcpu cannot be that.*vcpu='2'.*0\.01 to 16, in vCPU"),
        ({"vcpu": 0}, "vcpu=0"),
        ({"vcpu": float("nan")}, "vcpu=nan"),
        ({"environment": "WORK_MS=1"}, r"a name and a value.*WORK_MS=1"),
        ({"environment": {"A=B": 1}}, "a name and a value"),
        ({"environment": {"A": "\0"}}, "a name and a value"),
        ({"command": ["node", 3]}, r"list of words.*\['node', 3\]"),
        ({"command": 3}, "list of words"),
    ],
)
@pytest.mark.parametrize("start", [apps.run_app, apps.try_app])
def test_a_setting_that_cannot_be_is_told_before_anything_runs(lab, tmp_path, start, settings, says):
    place = write_app(tmp_path / "app", PAGE % "x")
    with pytest.raises(TutorialError, match=f"(?s){says}"):
        start(place, **settings)
    assert started_app._running is None
    assert not (lab.state / "alone").exists()


@pytest.mark.parametrize("nothing", [None, 3])
def test_what_is_no_path_is_no_app(lab, nothing):
    with pytest.raises(TutorialError, match=f"is a path(?s:.)*app_dir={nothing}"):
        apps.run_app(nothing)


def test_an_app_that_cannot_even_be_ended_does_not_stop_the_next_one(lab, tmp_path, monkeypatch):
    def kill():
        raise TypeError("not supported between instances of 'int' and 'str'")

    monkeypatch.setattr(started_app, "_running", SimpleNamespace(kill=kill))
    assert apps.run_app(write_app(tmp_path / "app", PAGE % "x")).running


def test_an_app_that_grows_is_killed_without_anybody_asking(lab, tmp_path):
    hoard = "if (request.url === '/hoard') setInterval(() => all.push(Buffer.alloc(20e6, 1)), 50);"
    code = "const all = [];" + PAGE.replace("response.end('%s')", f"{{ {hoard} response.end('x'); }}")
    app = apps.run_app(write_app(tmp_path / "app", code), memory=256)
    app.status("/hoard")
    until(lambda: app._process.ended)  # what the watch has seen; app.running would look by itself
    assert (app.exit_code, app.out_of_memory) == (137, True)


def test_stop_lets_it_drain(lab, tmp_path):
    app = apps.run_app(write_app(tmp_path / "app", PAGE % "hello"))
    app.stop()
    app.stop()
    assert (app.running, app.exit_code, app.out_of_memory) == (False, 0, False)


def test_stop_kills_what_does_not_leave_in_time(lab, tmp_path):
    app = apps.run_app(write_app(tmp_path / "app", WORKER % DEAF))
    app.stop(timeout=2)
    assert app.exit_code == 137
    assert app.log.splitlines() == ["no"]


PARENT = """
const child = require('node:child_process').spawn('node', ['server.js'], {stdio: 'inherit'});
console.log(child.pid);
setInterval(() => {}, 1000);
"""


@pytest.mark.parametrize("ending", ["process.on('SIGTERM', () => process.exit(3));", ""])
def test_with_the_first_process_the_rest_ends(lab, tmp_path, ending):
    place = write_app(tmp_path / "app", PAGE % "child")
    (place / "parent.js").write_text(PARENT + ending)
    app = apps.run_app(place, command=["node", "parent.js"])
    child = int(app.log.splitlines()[0])
    os.kill(app._process.pid, 15)
    until(lambda: gone(child))
    assert app.exit_code == (3 if ending else 143)
    app.stop()  # it has ended: this waits for the last of its threads
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(app.url, timeout=5)


def test_two_processes_of_python_do_not_take_each_others_apps_away(lab, tmp_path):
    app = apps.run_app(write_app(tmp_path / "app", "console.log('mine');" + PAGE % "x"))
    code = (
        "import pathlib, sys, types; from helpers import apps, session\n"
        "state, place = map(pathlib.Path, sys.argv[1:])\n"
        "session._current = types.SimpleNamespace(state=state, region='x', ensure_there=lambda: None)\n"
        "print(apps.run_app(place)._process.pid)"
    )
    command = [
        sys.executable,
        "-W",
        "error::ResourceWarning",
        "-c",
        code,
        str(lab.state),
        str(tmp_path / "app"),
    ]
    other = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=session.CHECKOUT)
    assert (other.returncode, other.stderr) == (0, ""), "it ends without a warning"
    assert gone(int(other.stdout)), "its app ended with it"
    assert app.log == "mine"
    assert [place.name for place in (lab.state / "alone").iterdir()] == [str(os.getpid())]


# A stop in the middle of a request


def stopped(place, **run):
    return apps.stop_during_a_request(apps.run_app(place, **run), "/work")


def test_a_request_in_flight_is_answered_by_an_app_that_drains(lab, tmp_path):
    place = write_app(tmp_path / "app", WORKER % DRAINS)
    outcome = stopped(place, environment={"WORK_MS": "300"})
    assert (outcome.answered, outcome.outcome, outcome.exit_code) == (True, "HTTP 200", 0)
    assert outcome.seconds > 0
    assert not outcome.held
    assert repr(outcome) == "The request was answered (HTTP 200), and the app ended with exit code 0."


def test_a_request_in_flight_is_lost_with_an_app_that_does_not(lab, tmp_path):
    outcome = stopped(write_app(tmp_path / "app", WORKER % ""), environment={"WORK_MS": "3000"})
    assert (outcome.answered, outcome.outcome, outcome.exit_code) == (False, "the connection was closed", 143)
    assert repr(outcome) == (
        "The request got no answer (the connection was closed), and the app ended with exit code 143."
    )


def test_a_drain_that_takes_longer_than_the_stop_timeout_is_cut_short(lab, tmp_path):
    place = write_app(tmp_path / "app", WORKER % DRAINS)
    app = apps.run_app(place, environment={"WORK_MS": "5000"})
    outcome = apps.stop_during_a_request(app, "/work", timeout=0.2)
    assert (outcome.answered, outcome.exit_code, app.out_of_memory) == (False, 137, False)


def test_npm_start_by_way_of_a_shell_loses_the_request(lab, tmp_path):
    """143 is what an ordinary process ends with, as the tasks here are; as process 1 npm has another one, see below."""
    if not (dash := shutil.which("dash")):
        pytest.skip("the shell of node:24-slim, dash, is not here")
    place = write_app(tmp_path / "app", WORKER % DRAINS)
    settings = {"WORK_MS": "1000", "npm_config_script_shell": dash}
    outcome = stopped(place, vcpu=1, command=["npm", "start"], environment=settings)
    assert (outcome.answered, outcome.exit_code) == (False, 143)


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_npm_as_process_1_of_a_container_exits_with_1(tmp_path):
    """It wants to end by the signal that ended the shell; for process 1 the kernel ignores that."""
    if not (dash := shutil.which("dash")):
        pytest.skip("the shell of node:24-slim, dash, is not here")
    if run_bounded([*isolation.OWN, "true"], isolation.PATIENCE).code != 0:
        pytest.skip("this system does not let anybody make namespaces")
    place = write_app(tmp_path / "app", "console.log('ready'); setInterval(() => {}, 1000);")
    settings = {**os.environ, "npm_config_script_shell": dash, "npm_config_cache": str(tmp_path / "cache")}
    command = [*isolation.OWN, "--kill-child", *this_machine.find_node().npm, "start"]
    with (tmp_path / "log").open("w") as log:
        outside = subprocess.Popen(command, cwd=place, env=settings, stdout=log, stderr=log)
    try:
        until(lambda: "ready" in (tmp_path / "log").read_text())
        (first,) = psutil.Process(outside.pid).children()
        first.terminate()
        assert outside.wait(timeout=20) == 1
    finally:
        outside.kill()
        outside.wait()


def test_an_app_that_waits_is_at_work_too(lab, tmp_path):
    place = write_app(tmp_path / "app", WORKER % DRAINS)
    app = apps.run_app(place, environment={"WORK_MS": "3000"})
    outcome = apps.stop_during_a_request(app, "/wait")
    assert (outcome.answered, outcome.exit_code) == (True, 0)


def test_only_what_run_app_returns_can_be_stopped(lab, tmp_path):
    with pytest.raises(TutorialError, match=r"(?s)no app to stop.*'sample-app'.*what run_app returns"):
        apps.stop_during_a_request("sample-app", timeout=1)
    app = apps.run_app(write_app(tmp_path / "app", PAGE % "x"))
    with pytest.raises(TutorialError, match=r"timeout='1'"):
        apps.stop_during_a_request(app, timeout="1")
    with pytest.raises(TutorialError, match=r"timeout=-1"):
        app.stop(-1)
    assert app.running


@pytest.mark.parametrize(
    ("at_sigterm", "timeout", "seen"),
    [
        (DRAINS, 30, (True, "HTTP 200", 0)),
        (DRAINS, 0.2, (False, "the connection was closed", 137)),
        ("", 30, (False, "the connection was closed", 143)),
    ],
)
def test_of_a_request_that_is_over_too_soon_the_last_line_is_held_back(
    lab, tmp_path, at_sigterm, timeout, seen
):
    app = apps.run_app(write_app(tmp_path / "app", WORKER % at_sigterm))
    outcome = apps.stop_during_a_request(app, timeout=timeout, takes=0.6)
    assert (outcome.answered, outcome.outcome, outcome.exit_code) == seen
    assert outcome.held
    assert "of which the last line came after SIGTERM" in repr(outcome)


def test_an_app_that_ends_with_the_request_is_told(lab, tmp_path):
    app = apps.run_app(write_app(tmp_path / "app", WORKER % DRAINS))
    with pytest.raises(TutorialError, match=r"(?s)was over before.*connection was closed.*exit code 7"):
        apps.stop_during_a_request(app, "/crash")
    with pytest.raises(TutorialError, match=r"(?s)takes no requests.*exit code 7"):
        apps.stop_during_a_request(app)
