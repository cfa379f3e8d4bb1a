"""Fargate's container runtime, on the engine that is here."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import pytest

from helpers.sandbox.clock import AwsClock
from helpers.sandbox.fargate import containers
from helpers.sandbox.fargate import runtime as runtimes
from helpers.sandbox.fargate.containers import ContainerRuntime, ContainerTask, whole_lines
from helpers.sandbox.fargate.engine import gateway_of, new_labels
from helpers.sandbox.fargate.metadata import MetadataServer
from helpers.sandbox.fargate.runtime import CannotPullContainerError, CannotStartContainerError, TaskSpec
from helpers.sandbox.records import Records
from helpers.sandbox.registry import CannotPullContainer
from tests.sandbox.task_record import task_record
from tests.sandbox.test_tasks import REFERENCE, until
from tests.sandbox.test_tasks import spec as process_spec

NODE = "public.ecr.aws/docker/library/node:24-slim"
ECHO = """
const http = require('http');
const server = http.createServer((request, response) => response.end(JSON.stringify(
  {env: process.env, cwd: process.cwd(), user: process.getuid(), host: require('os').hostname(), argv: process.argv})));
server.listen(3000, () => console.log('ready'));
process.on('SIGTERM', () => server.close(() => process.exit(0)));
"""
WAIT = "setInterval(() => 0, 1000); console.log('ready');"


def spec(script: str | None = None, **changes: Any) -> TaskSpec:
    """As a process's, but with an id that no other task of this machine's engine has."""
    made = process_spec(script, **changes)
    return replace(made, task_arn=f"arn:aws:ecs:eu-west-1:123456789012:task/shop/{uuid4().hex}")


def shell(script: str, **changes: Any) -> TaskSpec:
    return spec(**{"entry_point": ["sh", "-c"], "command": [script], **changes})


def ask(task: ContainerTask, path: str = "/") -> dict[str, Any]:
    host, port = task.address
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as response:
        return json.load(response)


def said(task: ContainerTask, text: str) -> bool:
    return text in task.output.read_text()


def ended(task: ContainerTask, seconds: float = 30.0) -> int:
    return until(lambda: task.poll() is not None, seconds) and task.poll()


def made_with(client: Any, label: str, value: str) -> list[str]:
    wanted = {"label": f"{label}={value}"}
    containers = client.api.containers(all=True, filters=wanted)
    return [*(c["Names"][0] for c in containers), *(n["Name"] for n in client.api.networks(filters=wanted))]


def images(reference: str, region: str) -> str:
    if reference != REFERENCE:
        raise CannotPullContainer(f"{reference}: not found")
    return NODE


@pytest.fixture(scope="module")
def runtime(engine, engine_labels, tmp_path_factory) -> Iterator[ContainerRuntime]:
    """One for all tests that leave it as it was."""
    state = tmp_path_factory.mktemp("containers")
    labels = {**engine_labels, **new_labels(state)}
    runtime = ContainerRuntime(state, engine, AwsClock(), images, labels=labels)
    yield runtime
    runtime.close()


@pytest.fixture
def make(engine, engine_labels, tmp_path: Path) -> Iterator[Any]:
    """Makes runtimes on a state directory of this test's."""
    state, made = tmp_path / "state", []

    def make(**options: Any) -> ContainerRuntime:
        labels = {**engine_labels, **new_labels(state)}
        made.append(
            ContainerRuntime(state, engine, AwsClock(), **{"images": images, "labels": labels, **options})
        )
        return made[-1]

    yield make
    for runtime in made:
        runtime.close()


@pytest.fixture(scope="module")
def sample_app(engine, engine_labels, checkout: Path) -> str:
    """The sample app's image, as `docker build` makes it."""
    name = f"sample-app-{uuid4().hex[:8]}:test"
    path = str(checkout / "sample-app")
    engine.images.build(path=path, tag=name, labels=engine_labels, rm=True, forcerm=True)
    return name


# Running


def test_an_app_answers_at_its_address(runtime):
    task = runtime.start(spec(ECHO))
    until(task.listening)
    assert task.address[0] == "127.0.0.1"
    assert ask(task)["host"] == "ip-172-31-0-10.eu-west-1.compute.internal"
    assert task.poll() is None
    assert task.cpu_seconds() > 0.01
    assert 5e6 < task.memory_bytes() < 300e6


def test_the_sample_app_runs_as_its_image_says_and_drains(make, sample_app):
    runtime = make(images=lambda reference, region: sample_app)
    task = runtime.start(spec(environment={"PORT": "3000", "WORK_MS": "300"}))
    until(task.listening)
    with ThreadPoolExecutor(1) as visitor:
        request = urllib.request.Request(
            f"http://127.0.0.1:{task.address[1]}/", headers={"Accept": "application/json"}
        )
        used = task.cpu_seconds()
        answer = visitor.submit(lambda: urllib.request.urlopen(request, timeout=20).read())
        until(lambda: task.cpu_seconds() > used + 0.05)  # the request is being answered
        task.stop()
        assert json.loads(answer.result())["version"] == "1.0.0"
    assert ended(task) == 0
    events = [json.loads(line) for line in task.output.read_text().splitlines()]
    assert events[0]["event"] == "listening"
    assert events[-1]["status"] == 200


def test_an_app_that_does_not_listen_yet_is_not_taken_for_one_that_does(runtime):
    task = runtime.start(
        spec(f"{WAIT} process.on('SIGHUP', () => require('http').createServer().listen(3000))")
    )
    until(lambda: said(task, "ready"))
    assert not task.listening()
    runtime.signal(task.container_id, "SIGHUP")
    until(task.listening)


def test_nobody_but_this_machine_can_connect(runtime, engine):
    task = runtime.start(spec(ECHO))
    until(task.listening)
    ports = engine.api.inspect_container(task.container_id)["NetworkSettings"]["Ports"]
    assert ports == {"3000/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(task.address[1])}]}
    with socket.socket() as elsewhere:
        elsewhere.settimeout(2)
        assert elsewhere.connect_ex((gateway_of(engine, runtime.network), task.address[1])) != 0


def test_a_task_sees_its_image_and_its_definition_and_nothing_of_the_sandbox(make, monkeypatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "NODE_OPTIONS", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "--hostile")
    runtime = make(environment={"AWS_ENDPOINT_URL": "http://127.0.0.1:2", "BOTH": "sandbox"})
    task = runtime.start(spec(ECHO, environment={"BOTH": "definition", "PORT": "3000"}))
    until(task.listening)
    seen = ask(task)["env"]
    assert "--hostile" not in seen.values()
    assert set(seen) - {"HOME", "HOSTNAME", "PATH", "PWD", "SHLVL", "_"} == {
        "NODE_VERSION", "PORT", "BOTH", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_EXECUTION_ENV",
        "AWS_EC2_METADATA_DISABLED", "AWS_ENDPOINT_URL",
    } | ({"YARN_VERSION"} & set(seen))  # fmt: skip
    assert (seen["PORT"], seen["BOTH"]) == ("3000", "definition")
    assert seen["AWS_REGION"] == "eu-west-1"
    assert seen["AWS_EXECUTION_ENV"] == "AWS_ECS_FARGATE"


def test_user_root_directory_and_limits_are_the_task_definitions(runtime):
    look = "id -u; pwd; ulimit -Sn; touch /anything 2>&1; exit 0"
    task = runtime.start(
        shell(
            look,
            user="1000",
            read_only_root=True,
            working_directory="/opt",
            ulimits=(("nofile", 1000, 2000),),
        )
    )
    assert ended(task) == 0
    user, directory, files, refused = task.output.read_text().splitlines()
    assert (user, directory, files) == ("1000", "/opt", "1000")
    assert "Read-only file system" in refused


def test_a_command_without_an_entry_point_goes_to_the_images(runtime):
    task = runtime.start(spec(command=["-p", "1 + 1"]))  # node's own entry point puts `node` before an option
    assert ended(task) == 0
    assert task.output.read_text() == "2\n"


def test_the_metadata_endpoint_answers_a_task(make, engine):
    if not containers.engine.is_near(engine):
        pytest.skip("the engine is on another machine, and its name for this one is not known in a test")
    records = Records()
    server = MetadataServer(records)
    runtime = make(metadata=lambda gateway: server.listen(gateway) if gateway else server.url)
    server.start()
    try:
        ask = (
            "fetch(process.env.ECS_CONTAINER_METADATA_URI_V4 + '/task').then(r => r.text()).then(console.log)"
        )
        asked = spec(ask)
        family = "arn:aws:ecs:eu-west-1:123456789012:task-definition/shop"
        records.tasks[asked.task_arn] = task_record(asked.task_arn, task_definition_arn=f"{family}:7")
        task = runtime.start(asked)
        assert ended(task) == 0
        told = json.loads(task.output.read_text())
        assert (told["TaskARN"], told["Revision"]) == (asked.task_arn, "7")
    finally:
        server.stop()


# Limits


def test_a_busy_task_gets_its_share_of_a_vcpu_and_no_more(runtime):
    task = runtime.start(spec(f"{WAIT} setImmediate(function burn() {{ setImmediate(burn) }})", cpu=256))
    until(lambda: said(task, "ready"))
    until(lambda: task.cpu_seconds() > 0.3)
    shares = []
    for _ in range(3):
        began, used = time.monotonic(), task.cpu_seconds()
        time.sleep(1)
        shares.append((task.cpu_seconds() - used) / (time.monotonic() - began))
    assert median(shares) < 0.28, shares
    assert median(shares) > 0.1, shares  # less than its share only where others are busy


def test_a_task_may_ask_for_more_vcpus_than_there_are(runtime):
    task = runtime.start(spec("console.log('runs')", cpu=16384))
    assert ended(task) == 0


def test_a_task_that_uses_more_than_its_memory_is_killed(runtime):
    task = runtime.start(
        spec("const all = []; setInterval(() => all.push(Buffer.alloc(20e6, 1)), 5)", memory=150)
    )
    assert ended(task) == 137
    assert task.out_of_memory


def test_an_engine_that_tells_a_moment_later_why_a_task_was_killed_is_asked_again(
    runtime, engine, monkeypatch
):
    inspect, after_the_end = engine.api.inspect_container, []

    def late(container: str) -> dict[str, Any]:
        told = inspect(container)
        if not told["State"]["Running"]:
            after_the_end.append(container)
            told["State"]["OOMKilled"] = len(after_the_end) > 2
        return told

    monkeypatch.setattr(engine.api, "inspect_container", late)
    task = runtime.start(spec(WAIT))
    engine.api.kill(task.container_id, "SIGKILL")
    assert ended(task) == 137
    assert task.out_of_memory
    assert len(after_the_end) == 3


def test_use_is_told_by_the_engine_where_the_kernels_files_cannot_be_read(make, monkeypatch):
    monkeypatch.setattr(containers.engine, "is_near", lambda client: False)
    monkeypatch.setattr(containers.engine, "find_cgroup", lambda pid, container_id: None)
    told = []
    runtime = make(metadata=lambda gateway: told.append(gateway) or "http://host.docker.internal:1")
    assert told == [None]
    task = runtime.start(
        spec(f"{WAIT} setTimeout(() => require('http').createServer().listen(3000), 500)", cpu=256)
    )
    until(task.listening)
    assert said(task, "ready")
    until(lambda: task.cpu_seconds() > 0.01)
    assert 1e6 < task.memory_bytes() < 300e6


# Exit codes and stopping


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("process.exit(0)", 0),
        ("process.exit(3)", 3),
        ("throw new Error('no')", 1),
    ],
)
def test_exit_codes_are_the_containers(runtime, script, code):
    task = runtime.start(spec(script))
    assert ended(task) == code
    assert not task.out_of_memory
    assert task.memory_bytes() == 0
    assert not task.listening()
    task.stop()  # too late, and no harm
    task.kill()
    assert task.poll() == code


def test_stop_lets_a_task_drain(runtime):
    drain = "process.on('SIGTERM', () => setTimeout(() => { console.log('drained'); process.exit(0) }, 300));"
    task = runtime.start(spec(drain + WAIT))
    until(lambda: said(task, "ready"))
    task.stop()
    task.stop()
    assert task.poll() is None
    assert ended(task) == 0
    assert said(task, "drained")


def test_a_task_deaf_to_sigterm_is_killed_after_its_stop_timeout(runtime):
    task = runtime.start(spec(f"process.on('SIGTERM', () => console.log('no')); {WAIT}", stop_timeout=2))
    until(lambda: said(task, "ready"))
    task.stop()
    assert ended(task) == 137
    assert not task.out_of_memory
    assert said(task, "no")


def test_as_first_process_an_app_without_a_handler_ignores_sigterm(runtime):
    task = runtime.start(spec(WAIT, stop_timeout=0.2))
    until(lambda: said(task, "ready"))
    task.stop()
    assert ended(task) == 137


def test_a_container_that_somebody_removed_counts_as_killed(runtime, engine):
    task = runtime.start(spec(WAIT))
    engine.api.remove_container(task.container_id, force=True)
    assert ended(task) == 137


def test_a_task_that_closes_its_output_goes_on(runtime):
    task = runtime.start(shell("echo begun; exec >&- 2>&-; sleep 0.5; exit 4"))
    until(lambda: said(task, "begun"))
    assert ended(task) == 4


# What it says


def test_every_line_of_a_short_life_arrives(runtime):
    with ThreadPoolExecutor(4) as starts:
        started = list(starts.map(lambda n: runtime.start(shell(f"echo line {n}; exit {n}")), range(4)))
    assert [ended(task) for task in started] == [0, 1, 2, 3]
    assert [task.output.read_text() for task in started] == [f"line {n}\n" for n in range(4)]


def test_many_lines_arrive_whole_and_in_order(runtime):
    script = """
      const pad = 'ü'.repeat(2000);
      for (let n = 0; n < 3000; n++) (n % 3 ? process.stdout : process.stderr).write(`${n} ${pad}\\n`);
    """
    task = runtime.start(spec(script))
    assert ended(task) == 0
    lines = task.output.read_text().splitlines()
    assert {line.split()[1] for line in lines} == {"ü" * 2000}
    numbers = [int(line.split()[0]) for line in lines]
    assert sorted(numbers) == list(range(3000))
    for stream in ([n for n in numbers if n % 3], [n for n in numbers if not n % 3]):
        assert stream == sorted(stream)


def test_lines_of_the_two_streams_are_not_mixed():
    parts = [
        (b"one ", None),
        (None, b"two\nthr"),
        (b"1\n", None),
        (None, b"ee\n"),
        (b"last", None),
        (None, b"of all"),
    ]
    assert list(whole_lines(parts)) == [b"two\n", b"one 1\n", b"three\n", b"last\nof all"]


def test_a_line_without_end_is_not_held_back_for_ever(monkeypatch):
    monkeypatch.setattr(containers, "LONGEST_LINE", 10)
    assert list(whole_lines([(b"x" * 8, None), (b"y" * 8, None), (b"z", None)])) == [
        b"x" * 8 + b"y" * 8,
        b"z",
    ]


def test_a_chatty_task_does_not_fill_the_disk(runtime, monkeypatch):
    monkeypatch.setattr(containers, "OUTPUT_MOST", 100_000)
    task = runtime.start(spec("setInterval(() => process.stdout.write('x'.repeat(9999) + '\\n'), 1)"))
    until(lambda: task.dropped > 300_000)
    content = task.output.read_bytes()
    assert len(content) < 400_000
    assert set(content.split(b"\n")[:-1]) <= {b"x" * 9999}


# Tasks that cannot start


def test_an_unknown_image_cannot_be_pulled(runtime):
    with pytest.raises(CannotPullContainerError, match=r"^shop:latest: not found$"):
        runtime.pull("shop:latest", "eu-west-1")


def test_an_unknown_program_cannot_be_started(make, engine):
    runtime = make()
    with pytest.raises(
        CannotStartContainerError,
        match=r'^ResourceInitializationError: .*: OCI runtime create failed: .*exec: "nodde": executable file not found',
    ):
        runtime.start(spec(entry_point=["nodde"], command=["server.js"]))
    assert made_with(engine, "tutorial.run", runtime.run) == [runtime.network]
    assert not any((runtime.state / "tasks").iterdir())


def test_an_image_of_another_architecture_ends_as_it_starts(make, engine):
    there = engine.api.inspect_image(NODE)["Architecture"]
    other, told = {"amd64": "ARM64", "arm64": "X86_64"}[there], []
    runtime = make(on_start=told.append)
    task = runtime.start(spec(WAIT, architecture=other, entry_point=["/usr/bin/tini"]))
    assert told == [task]
    assert (task.poll(), task.listening(), task.cpu_seconds()) == (1, False, 0.0)
    assert task.output.read_text() == "exec /usr/bin/tini: exec format error\n"
    assert made_with(engine, "tutorial.run", runtime.run) == [runtime.network]


def test_the_reason_names_an_engine_that_does_not_answer(runtime, engine, monkeypatch):
    def refused(*args: Any, **options: Any) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(engine.api, "inspect_image", refused)
    with pytest.raises(CannotStartContainerError, match="the Docker Engine does not answer"):
        runtime.start(spec(WAIT))


# Nothing is left


def test_close_kills_what_runs_and_leaves_nothing_in_the_engine(make, engine):
    ends = []
    runtime = make(at_end=ends.append)
    running, over = runtime.start(spec(WAIT)), runtime.start(spec("0"))
    assert ended(over) == 0
    runtime.close()
    assert running.poll() == 137
    assert made_with(engine, "tutorial.sandbox", runtime.labels["tutorial.sandbox"]) == []
    assert [bool(command) for command in ends] == [True, False]


def test_what_an_earlier_sandbox_left_goes_at_the_next_start(make, engine):
    first = make()
    left = first.start(spec(WAIT))
    second = make()
    assert made_with(engine, "tutorial.run", first.run) == []
    assert ended(left) == 137
    assert second.start(spec(WAIT)).poll() is None


def test_after_a_sigkill_the_watchdog_removes_what_is_left(engine, engine_labels, checkout, tmp_path):
    code = """
import json, sys, time
from pathlib import Path
from helpers.sandbox.clock import AwsClock
from helpers.sandbox.fargate import engine
from helpers.sandbox.fargate.containers import ContainerRuntime
from helpers.sandbox.fargate.host import Host
from tests.sandbox.fargate.test_containers import NODE, WAIT, spec
state, labels = Path(sys.argv[1]), json.loads(sys.argv[2])
host = Host()
host.start()
runtime = ContainerRuntime(state, engine.find_engine(), AwsClock(), lambda reference, region: NODE,
                           labels={**labels, **engine.new_labels(state)}, at_end=host.run_at_end)
for _ in range(2):
    runtime.start(spec(WAIT))
print(runtime.run, flush=True)
time.sleep(600)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "state"), json.dumps(engine_labels)]
    with subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        run = owner.stdout.readline().strip()
        assert len(made_with(engine, "tutorial.run", run)) == 3
        owner.kill()
    until(lambda: made_with(engine, "tutorial.run", run) == [], 30)


def test_tasks_start_even_when_the_network_was_pruned(make, engine):
    gateways = []
    runtime = make(metadata=lambda gateway: gateways.append(gateway) or "http://nowhere")
    engine.networks.get(runtime.network).remove()
    task = runtime.start(spec(ECHO))
    until(task.listening)
    assert gateways in ([gateway_of(engine, runtime.network)], [None])


def test_ten_tasks_start_in_parallel(runtime):
    with ThreadPoolExecutor(10) as starts:
        started = list(starts.map(lambda _: runtime.start(spec(ECHO, cpu=256)), range(10)))
    for task in started:
        until(task.listening)
    assert len({task.address for task in started}) == 10


def test_the_output_of_an_ended_task_goes_after_a_while(runtime, monkeypatch):
    first = runtime.start(spec("console.log('bye')"))
    assert ended(first) == 0
    first.wait(20)
    runtime.start(spec("0"))
    assert said(first, "bye")
    monkeypatch.setattr(runtimes, "KEEP", 0.0)
    runtime.start(spec("0"))
    assert not first.output.exists()
