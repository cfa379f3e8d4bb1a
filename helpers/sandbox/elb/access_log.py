"""Stands in for the access log of a load balancer: what became of each request, from Envoy's lines.

Differs: it is read at once and kept nowhere; AWS puts it into a bucket every five minutes, if asked to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Request:
    """One line of the access log. `time`: AWS seconds since 1970 at its end; `seconds`: the target's real ones.

    `target` is (IP address, port) as registered, None if none was chosen; `target_status` is None when the load
    balancer answered by itself.
    """

    time: float
    load_balancer_arn: str
    target_group_arn: str | None
    target: tuple[str, int] | None
    elb_status: int
    target_status: int | None
    seconds: float
    counted: bool = True  # False: it ended while AWS time stood still


def request(entry: dict[str, Any], at: Callable[[float], tuple[float, bool]]) -> Request:
    """`at`: the AWS time of a real one, and whether it passed then."""
    ended, counted = at(float(entry["start"]) + entry["milliseconds"] / 1000)
    ip, _, port = (entry["target"] or "").rpartition(":")
    return Request(
        time=ended,
        load_balancer_arn=entry["load_balancer"],
        target_group_arn=entry["target_group"],
        target=(ip, int(port)) if ip else None,
        elb_status=entry["status"],
        target_status=entry["status"] if entry["details"] == "via_upstream" else None,
        seconds=(entry["microseconds"] or 0) / 1e6,
        counted=counted,
    )
