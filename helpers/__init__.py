"""What a notebook says to AWS. Each name is loaded when it is first used."""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {
    "connect": "connection",
    "check": "checks",
    "run_app": "apps",
    "build_image": "images",
    "push_image": "images",
    "template": "templates",
    "preview": "stacks",
    "wait_for": "stacks",
    "service": "services",
    "load": "traffic",
    "metrics": "cloudwatch",
    "plot_scaling": "plots",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'helpers' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"helpers.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
