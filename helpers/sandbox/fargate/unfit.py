"""Stands in for a container whose program is for another processor: it starts, says so, and has ended with 1.

Differs: nothing is started. This machine might well run the program, by emulation or because the task definition names
another processor than this machine's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from helpers.sandbox.fargate.runtime import TaskSpec

# Source: "exec /usr/local/bin/streamlit: exec format error", "followed by an exit 1" on Fargate
# (aws-samples/amazon-bedrock-serverless-prompt-chaining#213; C).
EXIT_CODE = 1
BINARIES = "/usr/local/bin/"  # where an image's program most likely is that is not named by its path (U)


class UnfitTask:
    """A RunningTask that ended as it started. `program`: the first word of its entry point and command."""

    def __init__(self, spec: TaskSpec, program: str, directory: Path):
        self.spec, self.directory, self.pid = spec, directory, 0
        self.address = ("127.0.0.1", 0)
        self.output, self.dropped, self.out_of_memory = directory / "output.log", 0, False
        self.ended = True
        directory.mkdir(parents=True, exist_ok=True)
        path = program if program.startswith("/") else BINARIES + program
        self.output.write_text(f"exec {path}: exec format error\n")

    def poll(self) -> int | None:
        return EXIT_CODE

    def listening(self) -> bool:
        return False

    def stop(self, timeout: float | None = None) -> None:
        pass

    def kill(self) -> None:
        pass

    def wait(self, timeout: float) -> int | None:
        return EXIT_CODE

    def cpu_seconds(self) -> float:
        return 0.0

    def memory_bytes(self) -> int:
        return 0
