"""All faults, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from helpers.faults import app_ends, health, network, revisions, roles, scaling
from helpers.faults.fault import LAYERS, Fault

if TYPE_CHECKING:
    from pandas import DataFrame

_ALL = [fault for module in (revisions, roles, network, health, app_ends, scaling) for fault in module.FAULTS]
FAULTS: dict[str, Fault] = {fault.name: fault for layer in LAYERS for fault in _ALL if fault.layer == layer}


def table() -> DataFrame:
    """The faults by layer."""
    from pandas import DataFrame

    rows = [
        {"layer": layer, "faults": ", ".join(name for name, fault in FAULTS.items() if fault.layer == layer)}
        for layer in LAYERS
    ]
    return DataFrame(rows)
