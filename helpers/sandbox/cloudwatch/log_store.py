"""Stands in for how long CloudWatch Logs keeps events, and how it finds them: moto keeps all, and reads through all of
a group's; of patterns it knows terms and phrases, and takes every event for a match of any other.

Differs: a log group's retention is recorded only; what goes is decided by number, not by age, from the streams that
hold most. Patterns are those of `filter_pattern.py`. Every internal of moto that is touched for it is in this module, and `tests/sandbox/cloudwatch/
test_log_store.py` fails when moto changes one or bounds its events itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from helpers.sandbox.cloudwatch.filter_pattern import InvalidPattern, compile_pattern
from helpers.sandbox.endpoint import ACCOUNT, AwsError, Call, Handler

# Events in all, about 500 bytes each. Ten tasks that answer 24 requests a second each have the last 200 real seconds in
# it, and DescribeLogStreams, which looks at every event, still answers at once.
KEPT = 50_000


def prune(kept: int = KEPT) -> int:
    """Forget the oldest events of the longest streams, so that at most `kept` are left; how many there were."""
    from moto.logs.models import logs_backends

    streams = [
        stream
        for backend in list(logs_backends[ACCOUNT].values())
        for group in list(backend.groups.values())
        for stream in list(group.streams.values())
    ]
    limit = share((len(stream.events) for stream in streams), kept)
    removed = 0
    for stream in streams:
        stale = max(0, len(stream.events) - limit)
        del stream.events[:stale]  # in place, while other threads append
        removed += stale
    return removed


def share(sizes: Iterable[int], total: int) -> int:
    """The largest length at which all may be cut so that no more than `total` is left; `total` if nothing need be."""
    ordered = sorted(sizes)
    left = total
    for place, size in enumerate(ordered):
        limit = left // (len(ordered) - place)
        if size > limit:
            return limit
        left -= size
    return total


class _Filter:
    """In place of moto's class of the same use."""

    def __init__(self, pattern: str | None):
        self.matches = compile_pattern(pattern or "")


def mend_filter() -> None:
    """Make moto's FilterLogEvents find what CloudWatch's does; doing it twice changes nothing.

    Mended: patterns; and events of several streams come in the order of their time, always (since 2019, says the API
    reference), not only if asked.
    """
    from moto.logs import models

    if models.EventMessageFilter is _Filter:
        return
    models.EventMessageFilter = _Filter
    moto_filter = models.LogGroup.filter_log_events

    def filter_log_events(self: Any, *args: Any, **kwargs: Any) -> Any:
        *others, _interleaved = args
        return moto_filter(self, *others, True, **kwargs)

    models.LogGroup.filter_log_events = filter_log_events


def operations() -> dict[tuple[str, str], Handler]:
    return {("logs", "FilterLogEvents"): _filter_log_events}


def _filter_log_events(call: Call) -> dict[str, Any]:
    try:
        compile_pattern(call.params.get("filterPattern") or "")
    except InvalidPattern as error:
        raise AwsError("InvalidParameterException", str(error)) from error
    return call.forward()
