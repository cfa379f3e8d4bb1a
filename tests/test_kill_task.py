"""A task killed in a real sandbox: everything after it is the normal course of things."""

from __future__ import annotations

import json

import pytest
from botocore.exceptions import ClientError

from helpers import sandbox, session
from helpers.errors import TutorialError
from helpers.faults import kill_task
from tests.sandbox.live import PAGE, Live, processes_of, write_app

LINES = "console.log(JSON.stringify({path: '/visits', ms: 7.5})); console.log(JSON.stringify({path: '/'}));\n"


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    state = tmp_path_factory.mktemp("faults")
    yield Live(state, speed=60)
    sandbox.stop(state)


@pytest.fixture
def task(live, tmp_path, monkeypatch) -> dict:
    """A running task that has written two lines of JSON."""
    environ: dict[str, str] = {}
    session.isolate(environ, live.here.endpoint, "us-east-1", live.state)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    ecs, logs = live.aws("ecs"), live.aws("logs")
    logs.create_log_group(logGroupName="/ecs/f")
    ecs.create_cluster(clusterName="f")
    image = live.push(write_app(tmp_path / "app", LINES + PAGE % "hello"), "faults")
    options = {"awslogs-group": "/ecs/f", "awslogs-region": "us-east-1", "awslogs-stream-prefix": "ecs"}
    live.define("f", image, logConfiguration={"logDriver": "awslogs", "options": options})
    network = {"awsvpcConfiguration": {"subnets": live.subnets(), "assignPublicIp": "ENABLED"}}
    started = ecs.run_task(
        cluster="f", taskDefinition="f", launchType="FARGATE", networkConfiguration=network
    )["tasks"][0]
    live.until(lambda: described(live, started)["lastStatus"] == "RUNNING")
    live.until(lambda: len(logs.filter_log_events(logGroupName="/ecs/f")["events"]) >= 2)
    return started


def described(live: Live, task: dict) -> dict:
    return live.aws("ecs").describe_tasks(cluster="f", tasks=[task["taskArn"]])["tasks"][0]


def test_a_killed_task_ends_as_one_whose_machine_broke_and_its_lines_are_found(live, task):
    running = processes_of(live.here.pid, "server.js")
    kill_task("sandbox", live.here.endpoint, task["taskArn"])
    live.until(lambda: described(live, task)["lastStatus"] == "STOPPED")
    ended = described(live, task)
    assert ended["stopCode"] == "EssentialContainerExited"
    assert ended["stoppedReason"] == "Essential container in task exited"
    assert ended["containers"][0]["exitCode"] == 137
    assert running
    assert not any(process.is_running() for process in running)
    with pytest.raises(TutorialError, match="no running process"):
        kill_task("sandbox", live.here.endpoint, task["taskArn"])

    logs = live.aws("logs")

    def find(pattern: str) -> list[dict]:
        return logs.filter_log_events(logGroupName="/ecs/f", filterPattern=pattern)["events"]

    (found,) = live.until(lambda: find('{ $.path = "/visits" && $.ms > 7 }'))
    assert json.loads(found["message"]) == {"path": "/visits", "ms": 7.5}
    assert found["logStreamName"] == f"ecs/app/{task['taskArn'].rsplit('/', 1)[-1]}"
    with pytest.raises(ClientError, match="InvalidParameterException"):
        find("{ $.path = /visits }")
