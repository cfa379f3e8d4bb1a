"""Trouble on purpose: faults that a person looks for and mends, and a task killed without a warning. In the sandbox only.

`FAULTS` is the table of what can be broken, a module for each layer beside it; `break_it` breaks a service and hands
out a `Broken`, which knows hints and time; `verdict` says whether a service is well; `scores` keeps who took how long.
"""

from __future__ import annotations

from helpers.faults.broken import Broken, break_it, take_up
from helpers.faults.fault import Fault
from helpers.faults.killing import kill_task
from helpers.faults.scores import scoreboard
from helpers.faults.table import FAULTS, table

__all__ = ["FAULTS", "Broken", "Fault", "break_it", "kill_task", "scoreboard", "table", "take_up"]
