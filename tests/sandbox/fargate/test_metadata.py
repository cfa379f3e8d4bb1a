from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError

import pytest

from helpers.sandbox.fargate.metadata import MetadataServer
from helpers.sandbox.records import Records, Task

ARN = "arn:aws:ecs:us-west-2:123456789012:task/default/cd189a933e5849daa93386466019ab50"
IMAGE = "123456789012.dkr.ecr.us-west-2.amazonaws.com/curltest@sha256:25f3695b"
Get = Callable[[str], Any]


@pytest.fixture
def records() -> Records:
    records = Records()
    records.tasks[ARN] = Task(
        arn=ARN,
        region="us-west-2",
        cluster_arn="arn:aws:ecs:us-west-2:123456789012:cluster/default",
        task_definition_arn="arn:aws:ecs:us-west-2:123456789012:task-definition/curltest:3",
        group="service:shop",
        cpu=256,
        memory=512,
        availability_zone="us-west-2d",
        subnet_id="subnet-1",
        private_ip="192.0.2.3",
        eni_id="eni-1",
        container_name="curl",
        image=IMAGE,
        created_at=1602187751.5,
    )
    return records


@pytest.fixture
def get(records: Records) -> Iterator[Get]:
    server = MetadataServer(records)
    server.start()

    def get(path: str) -> Any:
        with urllib.request.urlopen(
            f"{server.url}/v4/{ARN.rsplit('/', 1)[-1]}{path}", timeout=10
        ) as response:
            return json.load(response)

    yield get
    server.stop()


def test_the_task_as_the_ecs_guide_shows_it(get: Get, records: Records) -> None:
    task = records.tasks[ARN]
    task.last_status, task.started_at = "RUNNING", 1602187752.0
    seen = get("/task")
    (container,) = seen.pop("Containers")
    assert seen == {
        "Cluster": "arn:aws:ecs:us-west-2:123456789012:cluster/default",
        "TaskARN": ARN,
        "Family": "curltest",
        "Revision": "3",
        "DesiredStatus": "RUNNING",
        "KnownStatus": "RUNNING",
        "Limits": {"CPU": 0.25, "Memory": 512},
        "AvailabilityZone": "us-west-2d",
        "LaunchType": "FARGATE",
        "ServiceName": "shop",
    }
    assert container == get("")
    assert container["DockerId"].startswith("cd189a933e5849daa93386466019ab50-")
    assert (container["Name"], container["Image"], container["ImageID"]) == ("curl", IMAGE, "sha256:25f3695b")
    assert container["Labels"] == {
        "com.amazonaws.ecs.cluster": "arn:aws:ecs:us-west-2:123456789012:cluster/default",
        "com.amazonaws.ecs.container-name": "curl",
        "com.amazonaws.ecs.task-arn": ARN,
        "com.amazonaws.ecs.task-definition-family": "curltest",
        "com.amazonaws.ecs.task-definition-version": "3",
    }
    assert container["Networks"] == [{"NetworkMode": "awsvpc", "IPv4Addresses": ["192.0.2.3"]}]
    assert container["CreatedAt"] == "2020-10-08T20:09:11.500000Z"


def test_it_follows_the_records(get: Get, records: Records) -> None:
    assert get("/task")["KnownStatus"] == "PENDING"
    task = records.tasks[ARN]
    task.started_at, task.last_status, task.desired_status = 1602187752.0, "DEACTIVATING", "STOPPED"
    seen = get("/task/")
    assert (seen["KnownStatus"], seen["DesiredStatus"]) == ("DEACTIVATING", "STOPPED")


def test_statistics_are_nanoseconds_and_bytes(get: Get, records: Records) -> None:
    assert get("/stats")["cpu_stats"]["cpu_usage"]["total_usage"] == 0
    process: Any = SimpleNamespace(cpu_seconds=lambda: 1.5, memory_bytes=lambda: 50_000_000)
    records.tasks[ARN].process = process
    seen = get("/stats")
    assert seen["cpu_stats"]["cpu_usage"]["total_usage"] == 1_500_000_000
    assert seen["memory_stats"] == {"usage": 50_000_000, "limit": 512 * 2**20}
    assert get("/task/stats")[seen["id"]]["cpu_stats"] == seen["cpu_stats"]


@pytest.mark.parametrize("path", ["/nothing", "x", "/task/nothing"])
def test_what_is_not_there_is_404(get: Get, path: str) -> None:
    with pytest.raises(HTTPError) as error:
        get(path)
    assert error.value.code == 404
    error.value.close()


def test_it_listens_where_containers_can_reach_it_too(records: Records) -> None:
    server = MetadataServer(records)
    other = server.listen("127.0.0.2")
    server.start()
    path = f"/v4/{ARN.rsplit('/', 1)[-1]}"
    answers = [json.load(urllib.request.urlopen(url + path, timeout=10)) for url in (server.url, other)]
    server.stop()
    assert answers[0] == answers[1]
    assert other.startswith("http://127.0.0.2:")
