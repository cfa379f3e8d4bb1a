"""A lab that is no sandbox: AWS time that passes as fast as asked, for tests of what talks to AWS."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass
class StubLab:
    speed: float = 30.0
    target: str = "sandbox"
    runtime: str = "process"
    began: float = field(default_factory=time.time)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.began + (time.time() - self.began) * self.speed, UTC)
