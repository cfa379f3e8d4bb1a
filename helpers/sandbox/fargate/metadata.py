"""Stands in for the task metadata endpoint, version 4, where an app asks which task it is.

Differs: it is one server for all tasks, on 127.0.0.1 and, for containers, on this machine's address in their network,
so that any task can ask about any other; a task's network interface is as ECS records it, though the app listens
elsewhere. Statistics have CPU and memory only.
"""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from zlib import crc32

from helpers.sandbox.fargate.runtime import MIB, UNITS
from helpers.sandbox.records import Records, Task


class MetadataServer:
    """Serves `<url>/v4/<task id>`, the value of ECS_CONTAINER_METADATA_URI_V4, from the records as they are."""

    def __init__(self, records: Records, port: int = 0):
        self._handler = _handler(records)
        self._servers: list[ThreadingHTTPServer] = []
        self.url = self.listen("127.0.0.1", port)

    def listen(self, address: str, port: int = 0) -> str:
        """Take an address, before `start`; the URL that leads there. OSError when it is not this machine's."""
        server = ThreadingHTTPServer((address, port), self._handler)
        server.daemon_threads = True
        self._servers.append(server)
        return f"http://{address}:{server.server_port}"

    def start(self) -> None:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), name="metadata", daemon=True).start()

    def stop(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


def answer(records: Records, path: str) -> dict[str, Any] | None:
    """What the endpoint says at a path, None where it has nothing."""
    version, task_id, *rest = [*path.strip("/").split("/"), ""][:5]
    what = "/".join(rest).rstrip("/")
    with records.lock:
        task = next((task for task in records.tasks.values() if task.id == task_id), None)
        if version != "v4" or task is None:
            return None
        if what == "":
            return container_metadata(task)
        if what == "task":
            return task_metadata(task)
        if what == "stats":
            return statistics(task)
        return {_docker_id(task): statistics(task)} if what == "task/stats" else None


def task_metadata(task: Task) -> dict[str, Any]:
    family, revision = _family_and_revision(task)
    return _known(
        Cluster=task.cluster_arn,
        TaskARN=task.arn,
        Family=family,
        Revision=revision,
        DesiredStatus=task.desired_status,
        # Its process starts while the records still model a slower start; an app on AWS never sees PROVISIONING.
        KnownStatus=task.last_status if task.started_at else "PENDING",
        Limits={"CPU": task.cpu / UNITS, "Memory": task.memory},
        PullStartedAt=_time(task.pull_started_at),
        PullStoppedAt=_time(task.pull_stopped_at),
        AvailabilityZone=task.availability_zone,
        LaunchType="FARGATE",
        Containers=[container_metadata(task)],
        ServiceName=task.group.removeprefix("service:") if task.group.startswith("service:") else None,
    )


def container_metadata(task: Task) -> dict[str, Any]:
    family, revision = _family_and_revision(task)
    return _known(
        DockerId=_docker_id(task),
        Name=task.container_name,
        DockerName=task.container_name,
        Image=task.image,
        ImageID=task.image.partition("@")[2],
        Labels={
            "com.amazonaws.ecs.cluster": task.cluster_arn,
            "com.amazonaws.ecs.container-name": task.container_name,
            "com.amazonaws.ecs.task-arn": task.arn,
            "com.amazonaws.ecs.task-definition-family": family,
            "com.amazonaws.ecs.task-definition-version": revision,
        },
        DesiredStatus=task.desired_status,
        KnownStatus="RUNNING",  # it asks
        Limits={"CPU": task.cpu, "Memory": task.memory},
        CreatedAt=_time(task.created_at),
        StartedAt=_time(task.started_at),
        Type="NORMAL",
        Networks=[{"NetworkMode": "awsvpc", "IPv4Addresses": [task.private_ip]}],
    )


def statistics(task: Task) -> dict[str, Any]:
    """The part of Docker's statistics that can be measured here: nanoseconds of CPU, bytes of memory."""
    process = task.process
    return {
        "id": _docker_id(task),
        "name": task.container_name,
        "read": datetime.now(UTC).isoformat(),
        "cpu_stats": {"cpu_usage": {"total_usage": round(process.cpu_seconds() * 1e9) if process else 0}},
        "memory_stats": {"usage": process.memory_bytes() if process else 0, "limit": task.memory * MIB},
    }


def _handler(records: Records) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def do_GET(self) -> None:
            found = answer(records, self.path.partition("?")[0])
            status = 404 if found is None else 200
            body = json.dumps("not found" if found is None else found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent: apps ask often."""

    return Handler


def _known(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _family_and_revision(task: Task) -> tuple[str, str]:
    family, _, revision = task.task_definition_arn.rpartition("/")[2].rpartition(":")
    return family, revision


def _docker_id(task: Task) -> str:
    return f"{task.id}-{crc32(task.container_name.encode()):010d}"


def _time(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
