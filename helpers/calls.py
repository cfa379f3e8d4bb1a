"""What several modules ask of AWS's API, and take from its answers: clients, whole lists, looks until something holds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

AT_LEAST = 120.0  # real seconds: an app's start and its grace period are real time, however fast AWS's passes


def client(name: str) -> Any:
    import boto3

    return boto3.client(name)


def pages(name: str, operation: str, key: str, **parameters: object) -> list[dict]:
    """All items of a paginated answer."""
    answers = client(name).get_paginator(operation).paginate(**parameters)
    return [item for answer in answers for item in answer[key]]


def patience(minutes: float) -> float:
    """So many AWS minutes, or as many as AT_LEAST real seconds are where AWS time passes fast."""
    from helpers import session

    return max(minutes, AT_LEAST * session.current().speed / 60)


def polls(minutes: float) -> Iterator[None]:
    """Goes round until so many AWS minutes are over, and then once more, for who was held up has not looked since: every
    0.3 real seconds in the sandbox, every 5 on AWS. TutorialError when it would go round while AWS time is paused."""
    from helpers import pauses, session

    lab = session.current()
    pause = 0.3 if lab.target == "sandbox" else 5.0
    deadline = time.monotonic() + minutes * 60 / lab.speed
    over = False
    while True:
        yield
        pauses.refuse_to_wait(lab)
        if over:
            return
        over = time.monotonic() >= deadline
        time.sleep(pause)


def target_groups(record: dict) -> list[str]:
    """ARNs of the target groups of what describe_services says."""
    return [b["targetGroupArn"] for b in record.get("loadBalancers", []) if "targetGroupArn" in b]
