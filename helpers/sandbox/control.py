"""Stands in for what no AWS call does: bad luck, and time to read.

    POST /_sandbox/tasks/<task id>/kill     ends a task's process as a crash of its machine would
    POST /_sandbox/pause                    AWS time stands still (see `standstill`)
    POST /_sandbox/resume                   AWS time goes on

Differs from everything else at the endpoint: it is no API of AWS's. Only programs on this machine are heard, and no
web page, whose browser always says where it comes from. What follows a kill (exit code 137, a replacement) is the
normal course of things.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from helpers.sandbox.records import Records

log = logging.getLogger("sandbox.control")

PREFIX = "/_sandbox/"
KILL = re.compile(r"/_sandbox/tasks/(?P<task>[0-9a-f]{32})/kill")


class Control:
    """A WSGI application. Its answers are JSON: {"message": …}, {"pid": …} of what was killed, {"paused": …}."""

    def __init__(
        self,
        records: Records,
        *,
        pause: Callable[[], None] = lambda: None,
        resume: Callable[[], None] = lambda: None,
    ):
        self.records = records
        self.of_time = {PREFIX + "pause": (pause, True), PREFIX + "resume": (resume, False)}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        status, answer = self._answer(environ)
        body = json.dumps(answer).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response(f"{status.value} {status.phrase}", headers)
        return [body]

    def _answer(self, environ: dict[str, Any]) -> tuple[HTTPStatus, dict[str, Any]]:
        if not _from_this_machine(environ):
            return HTTPStatus.FORBIDDEN, {"message": "Only programs on this machine may ask."}
        path = environ.get("PATH_INFO", "")
        asked, of_time = KILL.fullmatch(path), self.of_time.get(path)
        if asked is None and of_time is None:
            return HTTPStatus.NOT_FOUND, {"message": "There is no such control."}
        if environ.get("REQUEST_METHOD") != "POST":
            return HTTPStatus.METHOD_NOT_ALLOWED, {"message": "Ask with POST."}
        if asked is not None:
            return self._kill(asked["task"])
        change, paused = of_time
        change()
        return HTTPStatus.OK, {"paused": paused}

    def _kill(self, task_id: str) -> tuple[HTTPStatus, dict[str, Any]]:
        with self.records.lock:
            found = next((task for task in self.records.tasks.values() if task.id == task_id), None)
        if found is None:
            return HTTPStatus.NOT_FOUND, {"message": f"There is no task {task_id}."}
        process = found.process
        if process is None or process.poll() is not None:
            message = f"Task {task_id} has no running process; it is {found.last_status}."
            return HTTPStatus.CONFLICT, {"message": message}
        log.info("task %s: killed as asked, without a warning", task_id)
        process.kill()
        return HTTPStatus.OK, {"pid": process.pid}


def _from_this_machine(environ: dict[str, Any]) -> bool:
    if "HTTP_ORIGIN" in environ or "HTTP_REFERER" in environ:
        return False
    try:
        return ipaddress.ip_address(environ.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False
