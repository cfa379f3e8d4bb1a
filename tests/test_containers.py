"""`run_container`: real containers of small apps, where there is an engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from types import SimpleNamespace

import pytest

from helpers import apps, builds, containers, session, started_app, this_machine
from helpers.apps import stop_during_a_request
from helpers.errors import TutorialError
from helpers.started_app import AppNotStarted
from tests.engine.base_images import SLIM
from tests.sandbox.live import PAGE, write_app

APP = """
const http = require('node:http');
const ms = Number(process.env.WORK_MS || 0);
const cpu = () => { const used = process.cpuUsage(); return (used.user + used.system) / 1000; };
const all = [];
const server = http.createServer((request, response) => {
  console.log(request.url);
  if (request.url === '/grow') return setInterval(() => all.push(Buffer.alloc(20e6, 1)), 10);
  if (request.url === '/settings') return response.end(JSON.stringify([process.env.PORT, process.env.SHOP, process.pid]));
  if (request.url === '/no') response.statusCode = 404;
  const end = cpu() + (request.url === '/work' ? ms : 0);
  while (cpu() < end);
  response.end('done');
});
if (process.env.CRASH) { console.error('no such shop'); process.exit(4); }
if (process.env.DRAINS) {
  process.on('SIGTERM', () => { server.close(() => process.exit(0)); server.closeIdleConnections(); });
}
server.listen(process.env.PORT, process.env.HOST);
"""


@pytest.fixture(scope="module")
def image(engine, engine_labels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    (folder / "server.js").write_text(APP)
    (folder / "package.json").write_text('{"scripts": {"start": "node server.js"}}')
    text = f'FROM {SLIM[0]}\nWORKDIR /app\nCOPY . .\nUSER 1000\nEXPOSE 8080\nCMD ["node", "server.js"]\n'
    made = builds.build(
        folder,
        "v1",
        dockerfile=text,
        name=f"containers-{os.getpid()}",
        labels=engine_labels,
        say=lambda _: None,
    )
    yield made
    builds.remove(made)


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch, tmp_path):
    monkeypatch.setenv("SANDBOX_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(started_app, "_running", None)
    yield
    started_app.end_the_last()


def text(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def there(engine, app) -> bool:
    return any(each.id == app._id for each in engine.containers.list(all=True, ignore_removed=True))


def test_it_answers_with_a_tasks_limits_and_nothing_is_left_when_it_has_ended(engine, image):
    app = containers.run_container(image, vcpu=0.5, memory=256, environment={"SHOP": "open"})
    assert json.loads(text(app.url + "/settings")) == ["8080", "open", 1]
    assert (app.running, app.exit_code, app.status(), app.status("/no")) == (True, None, 200, 404)
    settings = engine.api.inspect_container(app._id)["HostConfig"]
    assert (settings["NanoCpus"], settings["Memory"], settings["MemorySwap"]) == (
        5e8,
        256 * 2**20,
        256 * 2**20,
    )
    assert settings["PortBindings"]["8080/tcp"][0]["HostIp"] == "127.0.0.1"
    assert app.log.splitlines()[-3:] == ["/settings", "/", "/no"]
    assert [process["CMD"] for process in app.processes()] == ["node server.js"]
    assert app.cpu_seconds > 0
    assert f"one container of {image.name}, with 0.5 vCPU, running at http://127.0.0.1:" in repr(app)
    app.kill()
    assert (app.running, app.exit_code, app.out_of_memory) == (False, 137, False)
    assert app.log.endswith("/no")
    assert not there(engine, app)
    with pytest.raises(TutorialError, match=r"(?s)takes no requests.*exit code 137"):
        app.status()


def test_running_another_ends_the_one_before(engine, image):
    first = containers.run_container(image)
    second = containers.run_container(image.name, environment={"PORT": "9000"})
    assert not first.running
    assert not there(engine, first)
    assert json.loads(text(second.url + "/settings"))[0] == "9000"


def test_an_image_is_run_by_run_app_too_and_ends_a_process_that_ran_before(image, tmp_path, monkeypatch):
    lab = SimpleNamespace(state=tmp_path / "lab", region="us-east-1", ensure_there=lambda: None)
    monkeypatch.setattr(session, "_current", lab)
    place = write_app(tmp_path / "app", PAGE % "x")
    try:
        process = apps.run_app(place)
        app = apps.run_app(image, environment={"SHOP": 3})
        assert isinstance(app, containers.ContainerApp)
        assert not process.running
        assert json.loads(text(app.url + "/settings"))[1] == "3"
        assert apps.has_the_shell(image)
        assert apps.try_app(image, environment={"CRASH": "1"}).exit_code == 4
        apps.run_app(place)
        assert not app.running
    finally:
        started_app.end_the_last()
        this_machine._runtime_of(lab.state).host.stop()
        this_machine._runtime_of.cache_clear()


def test_stop_lets_it_drain_and_kills_what_does_not_leave_in_time(image):
    app = containers.run_container(image, environment={"DRAINS": "yes"})
    app.stop()
    app.stop()
    assert app.exit_code == 0
    deaf = containers.run_container(image)  # process 1 without a handler: the kernel ignores SIGTERM for it
    deaf.stop(timeout=0.2)
    assert (deaf.exit_code, deaf.out_of_memory) == (137, False)


def test_a_request_in_flight_is_answered_by_an_app_that_drains(image):
    app = containers.run_container(image, environment={"DRAINS": "yes", "WORK_MS": "300"})
    outcome = stop_during_a_request(app, "/work")
    assert (outcome.answered, outcome.outcome, outcome.exit_code) == (True, "HTTP 200", 0)


def test_npm_start_loses_the_request_in_flight(image):
    settings = {"DRAINS": "yes", "WORK_MS": "1500"}
    app = containers.run_container(image, vcpu=1, command=["npm", "start"], environment=settings)
    assert len(app.processes()) == 3  # npm, a shell, node
    outcome = stop_during_a_request(app, "/work")
    assert not outcome.answered
    assert outcome.exit_code != 0


def test_an_app_that_ends_at_once_is_told_with_its_last_lines(engine, image):
    with pytest.raises(AppNotStarted, match=r"(?s)did not start.*exit code 4.*no such shop") as told:
        containers.run_container(image, environment={"CRASH": "1"})
    assert not there(engine, told.value.app)
    tried = containers.try_container(image, environment={"CRASH": "1"})
    assert (tried.exit_code, tried.log, tried.out_of_memory) == (4, "no such shop", False)


def test_an_app_that_listens_for_itself_only_is_told_where_it_should(image, monkeypatch):
    monkeypatch.setattr("helpers.started_app.ANSWERS_WITHIN", 2.0)
    with pytest.raises(AppNotStarted, match=r"(?s)no answer in 2 s.*0\.0\.0\.0"):
        containers.run_container(image, environment={"HOST": "127.0.0.1"})


def test_an_app_that_grows_is_killed_and_that_is_known(image):
    app = containers.run_container(image, memory=96)
    with pytest.raises(TutorialError):
        app.status("/grow")
    deadline = time.monotonic() + 20
    while app.running:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (app.exit_code, app.out_of_memory) == (137, True)
    assert "killed for using more than its 96 MiB, exit code 137" in repr(app)


def test_a_program_that_is_not_there_is_named(engine, engine_labels, tmp_path):
    (tmp_path / "text").write_text("text")
    text = 'FROM scratch\nCOPY text /\nCMD ["/nothing"]\n'
    made = builds.build(
        tmp_path, "v1", dockerfile=text, name=f"empty-{os.getpid()}", labels=engine_labels, say=lambda _: None
    )
    with pytest.raises(TutorialError, match=r"(?s)cannot be started.*/nothing.*no such file"):
        containers.run_container(made)
    assert not engine.containers.list(all=True, filters={"ancestor": made.id})
    builds.remove(made)
    with pytest.raises(TutorialError, match=r"(?s)no more.*build_image"):
        containers.run_container(made)


def test_what_makes_no_sense_is_told(image):
    with pytest.raises(TutorialError, match=r"command=\['npm', 'start'\]"):
        containers.run_container(image, command="npm start")
    with pytest.raises(TutorialError, match=r"memory='96'"):
        containers.run_container(image, memory="96")
    with pytest.raises(TutorialError, match="a name and a value"):
        containers.run_container(image, environment="WORK_MS=1")
    with pytest.raises(TutorialError, match="PORT has to be a number"):
        containers.run_container(image, environment={"PORT": "http"})


def test_a_container_that_somebody_else_removed_has_ended(engine, image):
    app = containers.run_container(image)
    engine.api.remove_container(app._id, force=True)
    assert (app.running, app.exit_code) == (False, 137)
    app.stop()


def test_a_container_goes_with_its_process_and_after_a_sigkill_with_the_next_one(engine, image):
    code = (
        "import os, sys; from helpers import containers\n"
        "print(containers.run_container(sys.argv[1])._id, flush=True)\n"
        "if len(sys.argv) > 2: os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", code, image.name]
    options = {"capture_output": True, "text": True, "timeout": 60, "cwd": session.CHECKOUT}
    calm = subprocess.run(command, **options)
    killed = subprocess.run([*command, "killed"], **options)
    assert (calm.returncode, calm.stderr) == (0, "")
    left = {each.id for each in engine.containers.list(all=True, ignore_removed=True)}
    assert calm.stdout.strip() not in left
    assert killed.stdout.strip() in left
    app = containers.run_container(image)
    left = {each.id for each in engine.containers.list(all=True, ignore_removed=True)}
    assert killed.stdout.strip() not in left
    assert app.running


def test_with_an_engine_elsewhere_the_engine_tells_the_cpu(image, monkeypatch):
    monkeypatch.setattr(this_machine, "cpu_clock", lambda pid, container: None)
    app = containers.run_container(image, environment={"DRAINS": "yes", "WORK_MS": "800"})
    outcome = stop_during_a_request(app, "/work")
    assert (outcome.answered, outcome.exit_code) == (True, 0)
