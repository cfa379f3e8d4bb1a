"""A learner's kernel: a notebook's cells run one by one, as JupyterLab does, and what it can do to them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
from jupyter_client import KernelManager

from helpers import run


class _Manager(KernelManager):
    kernel_spec = run.OwnKernel.kernel_spec


class Kernel:
    """`with Kernel(cwd) as kernel: kernel.cell("1 + 1")`."""

    def __init__(self, cwd: Path):
        self.manager = _Manager()
        self.manager.start_kernel(env=run.kernel_environment(), cwd=str(cwd))
        self.process = psutil.Process(self.manager.provisioner.pid)
        self._connect()

    def _connect(self) -> None:
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()

    def begin(self, code: str) -> str:
        return self.client.execute(code)

    def cell(self, code: str, seconds: float = 240) -> Outcome:
        return self.end(self.begin(code), seconds)

    def end(self, message: str, seconds: float = 240) -> Outcome:
        """What a cell that has begun ends with."""
        outcome = Outcome()
        deadline = time.monotonic() + seconds
        while True:
            heard = self.client.get_iopub_msg(timeout=max(0.1, deadline - time.monotonic()))
            if heard["parent_header"].get("msg_id") != message:
                continue
            content = heard["content"]
            match heard["msg_type"]:
                case "stream":
                    outcome.said += content["text"]
                case "execute_result":
                    outcome.said += content["data"].get("text/plain", "")
                case "error":
                    outcome.error, outcome.value = content["ename"], content["evalue"]
                    outcome.shown = "\n".join(content["traceback"])
                case "status" if content["execution_state"] == "idle":
                    return outcome

    def restart(self) -> None:
        self.client.stop_channels()
        self.manager.restart_kernel(now=False)
        self.process = psutil.Process(self.manager.provisioner.pid)
        self._connect()

    def kill(self) -> None:
        os.kill(self.process.pid, 9)

    def children(self, word: str) -> list[psutil.Process]:
        """Its descendants that have this word in their command."""
        try:
            found = self.process.children(recursive=True)
            return [child for child in found if word in " ".join(child.cmdline())]
        except psutil.NoSuchProcess:
            return []


class Outcome:
    """How a cell ended: what it printed, the error's name, value, and what of it was shown."""

    def __init__(self) -> None:
        self.said, self.error, self.value, self.shown = "", "", "", ""
