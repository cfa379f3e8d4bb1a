"""What several modules ask of AWS's API, and take from its answers: clients, whole lists, looks until something holds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any


def client(name: str) -> Any:
    import boto3

    return boto3.client(name)


def pages(name: str, operation: str, key: str, **parameters: object) -> list[dict]:
    """All items of a paginated answer."""
    answers = client(name).get_paginator(operation).paginate(**parameters)
    return [item for answer in answers for item in answer[key]]


def polls(minutes: float) -> Iterator[None]:
    """Goes round until so many AWS minutes are over: every 0.3 real seconds in the sandbox, every 5 on AWS. TutorialError
    when it would go round while AWS time is paused."""
    from helpers import pauses, session

    lab = session.current()
    pause = 0.3 if lab.target == "sandbox" else 5.0
    deadline = time.monotonic() + minutes * 60 / lab.speed
    while True:
        yield
        pauses.refuse_to_wait(lab)
        if time.monotonic() >= deadline:
            return
        time.sleep(pause)


def target_groups(record: dict) -> list[str]:
    """ARNs of the target groups of what describe_services says."""
    return [b["targetGroupArn"] for b in record.get("loadBalancers", []) if "targetGroupArn" in b]
